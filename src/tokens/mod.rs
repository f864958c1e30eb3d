//! What each kind of token says, and signing it: request + key ring + clock -> token. The one hot path; knows
//! nothing of HTTP or of Salesforce's servers.
//!
//! - All that can be made ready at load is: header, fixed claims and keys of a profile. A mint writes the
//!   rest, signs, and is done.
//! - A [`Subject`], [`Lifetime`] or [`Claims`] is valid once it exists; a profile trusts it.
//! - A minted token is a secret until it is on the wire.

mod assertion;
mod claims;
mod hs256;
mod identity;
mod jws;
mod lifetime;
mod line;
mod minted;
mod objection;
mod owner;
mod pool;
mod signer;
mod subject;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use assertion::{Assertion, GRANT_TYPE, OauthProfile};
pub use claims::Claims;
pub use hs256::Hs256Profile;
pub use identity::IdentityProfile;
pub use lifetime::Lifetime;
pub use minted::{MintError, Minted};
pub use objection::Objection;
pub use owner::Owner;
pub use signer::Signer;
pub use subject::Subject;

use crate::clock::UnixTime;
use crate::config::{Config, Hs256Kind, Name};
use crate::keys::KeyRing;

/// What may be minted, ready to mint.
pub struct Profiles {
    pub identity: BTreeMap<Name, Arc<IdentityProfile>>,
    pub oauth: BTreeMap<Name, Arc<OauthProfile>>,
    pub hs256: BTreeMap<Hs256Kind, BTreeMap<Name, Arc<Hs256Profile>>>,
}

impl Profiles {
    /// # Panics
    /// Where `ring` was not loaded from `config`.
    pub fn new(config: &Config, ring: &KeyRing) -> Self {
        let keyset = |name: &Name| {
            ring.keysets.get(name).expect("a validated configuration names only keysets that it has").clone()
        };
        let identity = |profile| IdentityProfile::new(profile, keyset(&profile.keyset));
        let oauth = |profile| OauthProfile::new(profile, keyset(&profile.keyset));
        Self {
            identity: config.identity.iter().map(|(n, p)| (n.clone(), Arc::new(identity(p)))).collect(),
            oauth: config.oauth.iter().map(|(n, p)| (n.clone(), Arc::new(oauth(p)))).collect(),
            hs256: config
                .hs256
                .iter()
                .map(|(kind, profiles)| {
                    let profile = |n: &Name, p| Arc::new(Hs256Profile::new(*kind, n, p));
                    (*kind, profiles.iter().map(|(n, p)| (n.clone(), profile(n, p))).collect())
                })
                .collect(),
        }
    }

    /// Whether every profile could mint now.
    pub fn ready(&self, now: UnixTime) -> bool {
        self.identity.values().all(|profile| profile.signing_kid(now).is_ok())
            && self.oauth.values().all(|profile| profile.signing_kid(now).is_ok())
    }
}
