//! Mints each kind of token: builds its claims from a request and the time, and signs them.
//!
//! A key of the key ring signs, or a shared secret for HS256. This is the hot path. It sends nothing over the network.
//!
//! - Each profile prepares at load everything that doesn't change: header, fixed claims and keys. A mint appends the
//!   rest and signs.
//! - A [`Subject`], [`Lifetime`] or [`Claims`] is validated when it is constructed, so profiles don't check it again.
//! - A minted token is kept as a `SecretString` until it is sent.

mod assertion;
mod cache_scope;
mod claims;
mod hs256;
mod identity;
mod invalid_field;
mod jws;
mod lifetime;
mod minted;
mod signer;
mod subject;
mod thread_pool;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use assertion::OauthProfile;
pub(crate) use assertion::{Assertion, GRANT_TYPE};
pub use claims::Claims;
pub(crate) use hs256::Hs256Profile;
pub use identity::IdentityProfile;
pub(crate) use invalid_field::InvalidField;
pub(crate) use lifetime::Lifetime;
pub use minted::MintError;
pub(crate) use minted::MintedToken;
pub use signer::Signer;
pub use subject::Subject;

use crate::clock::UnixTime;
use crate::config::{Config, Hs256Kind, Name, ProfileName};
use crate::keys::KeyRing;

/// All profiles of the configuration, ready to mint.
pub struct Profiles {
    pub identity: BTreeMap<Name, Arc<IdentityProfile>>,
    pub oauth: BTreeMap<Name, Arc<OauthProfile>>,
    pub(crate) hs256: BTreeMap<Hs256Kind, BTreeMap<Name, Arc<Hs256Profile>>>,
}

impl Profiles {
    /// # Panics
    /// Panics if `ring` was not loaded from `config`.
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

    /// The names of all profiles, for example `identity.web`.
    pub(crate) fn names(&self) -> impl Iterator<Item = &ProfileName> {
        let identity = self.identity.values().map(|profile| &profile.name);
        let oauth = self.oauth.values().map(|profile| &profile.name);
        let hs256 = self.hs256.values().flat_map(BTreeMap::values).map(|profile| &profile.name);
        identity.chain(oauth).chain(hs256)
    }

    /// Whether every profile has a key that signs at `now`. HS256 profiles always do: they sign with a secret.
    pub(crate) fn is_ready(&self, now: UnixTime) -> bool {
        self.identity.values().all(|profile| profile.signing_kid(now).is_ok())
            && self.oauth.values().all(|profile| profile.signing_kid(now).is_ok())
    }
}
