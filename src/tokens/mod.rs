//! What each kind of token says, and signing it: request + key ring + clock -> token. The one hot path; knows
//! nothing of HTTP or of Salesforce's servers.
//!
//! - All that can be made ready at load is: header, fixed claims and keys of a profile. A mint writes the
//!   rest, signs, and is done.
//! - A [`Subject`], [`Lifetime`] or [`Claims`] is valid once it exists; a profile trusts it.
//! - A minted token is a secret until it is on the wire.

mod assertion;
mod claims;
mod identity;
mod intercom;
mod jws;
mod line;
mod owner;
mod pool;
mod signer;
mod subject;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use thiserror::Error;

pub use assertion::{Assertion, GRANT_TYPE, OauthProfile};
pub use claims::Claims;
pub use identity::IdentityProfile;
pub use intercom::IntercomProfile;
pub use owner::Owner;
pub use signer::Signer;
pub use subject::Subject;

use crate::clock::{NoRandomness, UnixTime};
use crate::config::{Config, KeyId, Name, SHORTEST_TTL};
use crate::keys::{KeyRing, SigningFailed};

/// What may be minted, ready to mint.
pub struct Profiles {
    pub identity: BTreeMap<Name, Arc<IdentityProfile>>,
    pub oauth: BTreeMap<Name, Arc<OauthProfile>>,
    pub intercom: BTreeMap<Name, Arc<IntercomProfile>>,
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
            intercom: config
                .intercom
                .iter()
                .map(|(n, p)| (n.clone(), Arc::new(IntercomProfile::new(p))))
                .collect(),
        }
    }

    /// Whether every profile could mint now.
    pub fn ready(&self, now: UnixTime) -> bool {
        self.identity.values().all(|profile| profile.signing_kid(now).is_ok())
            && self.oauth.values().all(|profile| profile.signing_kid(now).is_ok())
    }
}

/// A token as it leaves.
pub struct Minted {
    pub token: SecretString,
    /// The key that signed; Intercom's secrets have no id.
    pub kid: Option<KeyId>,
    pub issued_at: UnixTime,
    pub expires_at: UnixTime,
}

impl Minted {
    /// Seconds that it lives.
    pub const fn expires_in(&self) -> i64 {
        self.issued_at.seconds_until(self.expires_at)
    }

    /// When to fetch the next one: at four fifths of its life, and at least 30 seconds before its end, the
    /// time in which a page must answer `onEmbeddedMessagingIdentityTokenExpired`.
    pub fn renew_at(&self) -> UnixTime {
        let before = (self.expires_in() / 5).max(30);
        UnixTime::from_seconds(self.expires_at.seconds() - before)
    }
}

/// Characters of a field's name that a refusal shows.
const LONGEST_FIELD: usize = 64;

/// Something in a request that no token is minted for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct Objection {
    pub field: String,
    /// Says what the field should be; doesn't repeat it.
    pub message: String,
}

impl Objection {
    /// `field` may be a name that the request made up: of an endless one only the beginning is kept.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut field = field.into();
        if let Some((end, _)) = field.char_indices().nth(LONGEST_FIELD) {
            field.truncate(end);
            field.push('…');
        }
        Self { field, message: message.into() }
    }
}

/// Why a valid request got no token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MintError {
    #[error("no key of the keyset signs yet")]
    NoSigningKey { seconds: Option<i64> },
    #[error("more signatures are waiting than the service can make in time")]
    Overloaded,
    #[error(transparent)]
    Signing(#[from] SigningFailed),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// How long a token lives: at least a minute, at most what its profile allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(Duration);

impl Lifetime {
    /// `asked` is in seconds; without it the profile's `ttl`.
    ///
    /// # Errors
    /// The bounds, under the field's name.
    pub fn choose(asked: Option<u64>, ttl: Duration, max_ttl: Duration) -> Result<Self, Objection> {
        match asked.map(Duration::from_secs) {
            None => Ok(Self(ttl)),
            Some(asked) if (SHORTEST_TTL..=max_ttl).contains(&asked) => Ok(Self(asked)),
            Some(_) => {
                let (from, to) = (SHORTEST_TTL.as_secs(), max_ttl.as_secs());
                Err(Objection::new(
                    "ttl",
                    format!("must be between {from} and {to} seconds, the profile's max_ttl"),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_life_is_what_was_asked_within_the_bounds_or_none(
            asked in prop::option::of(prop_oneof![0..100_000_u64, any::<u64>()]),
            ttl in 60..86_400_u64,
            longer in 0..86_400_u64,
        ) {
            let max_ttl = ttl + longer;
            let life = Lifetime::choose(asked, Duration::from_secs(ttl), Duration::from_secs(max_ttl));
            let wanted = asked.unwrap_or(ttl);
            let expected = (60..=max_ttl).contains(&wanted).then_some(Lifetime(Duration::from_secs(wanted)));
            prop_assert_eq!(life.ok(), expected);
        }
    }

    fn minted(life: i64) -> Minted {
        let issued_at = UnixTime::from_seconds(1_000);
        let expires_at = UnixTime::from_seconds(1_000 + life);
        Minted { token: SecretString::from("t"), kid: None, issued_at, expires_at }
    }

    #[test]
    fn a_token_is_renewed_thirty_seconds_before_its_end_or_earlier() {
        assert_eq!(minted(60).renew_at().seconds(), 1_030);
        assert_eq!(minted(3_600).renew_at().seconds(), 1_000 + 2_880);
    }

    #[test]
    fn a_life_keeps_within_a_minute_and_the_profile_s_bound() {
        let choose = |asked| Lifetime::choose(asked, Duration::from_mins(10), Duration::from_mins(15));
        assert_eq!(choose(None), Ok(Lifetime(Duration::from_mins(10))));
        assert!(choose(Some(60)).is_ok() && choose(Some(900)).is_ok());
        for wrong in [0, 59, 901, u64::MAX] {
            assert_eq!(choose(Some(wrong)).expect_err("out of bounds").field, "ttl");
        }
    }
}
