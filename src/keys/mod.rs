//! PEM files -> [`KeyRing`]: keysets, private keys, certificates, and the schedule that says which key signs
//! when. Knows nothing of tokens or HTTP.
//!
//! - Every key in a ring has passed the policy and a test signature.
//! - Key ids are unique across the ring.
//! - A ring never changes; a reload builds another.
//! - A key that may neither sign nor be published is not opened, so that it leaves memory with the ring that had it.

mod batch;
mod certificate;
#[allow(unsafe_code, reason = "the one place where foreign code is called")]
mod crypto_mb;
mod edit;
pub mod file;
mod load;
mod pem;
mod policy;
mod private;
pub mod rotation;
mod schedule;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use batch::{Batch, BatchLibrary, Fit, Standing, Wanted};
pub use certificate::{Certificate, SHORTEST_LIFE_LEFT, WARN_LIFE_LEFT, derived_not_after, next_derivation};
pub use crypto_mb::Unavailable;
pub use edit::ScheduleFile;
pub use pem::{Unreadable, first_private};
pub use policy::Weakness;
pub use private::{MessageHash, PrivateKey, PublicKey, Refused, SigningFailed, generate, hash};
pub use schedule::{Entry, FILE as SCHEDULE_FILE, Life, Schedule, State, lives, parse as parse_schedule};
pub use usage::Usage;

use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name, Problem, ProfileName};

pub struct KeyRing {
    pub keysets: BTreeMap<Name, Arc<Keyset>>,
    pub warnings: Vec<Problem>,
}

pub struct Keyset {
    pub name: Name,
    pub algorithm: Algorithm,
    /// In order of `sign_from`. Empty where all are retired.
    pub keys: Vec<Key>,
    /// Those whose life is over, which are not opened.
    pub past: Vec<Past>,
    /// A key is published for at least this long before it signs.
    pub publish_lead: Duration,
    pub used_by: Vec<ProfileName>,
}

pub struct Key {
    pub kid: KeyId,
    pub life: Life,
    /// Since when it has been published, as the schedule says.
    pub added: Option<UnixTime>,
    /// It signs sooner than `publish_lead` allows, knowingly.
    pub emergency: bool,
    pub private: Arc<PrivateKey>,
    pub usage: Arc<Usage>,
    /// SHA-256 of what it was read from.
    source: [u8; 32],
    /// That of `KID.crt`.
    given: Option<Certificate>,
}

/// A key that was.
pub struct Past {
    pub kid: KeyId,
    /// `None` where `keyset.toml` says that it is retired.
    pub life: Option<Life>,
}

impl Keyset {
    /// The position of the key that signs now: the one with the latest `sign_from` that has passed. `None`
    /// while all are pending.
    ///
    /// Where the clock was set back to the time of a key that is not open any more, the first of those that are: it has
    /// signed already, so verifiers know it. A reload opens the other in a moment.
    pub fn signing(&self, now: UnixTime) -> Option<usize> {
        let begun = self.keys.partition_point(|key| key.life.signs_from.is_none_or(|from| from <= now));
        match begun.checked_sub(1) {
            Some(latest) => Some(latest),
            None if self.keys.is_empty() => None,
            None => self.past.iter().any(|past| past.life.is_some()).then_some(0),
        }
    }

    /// The keys that verifiers must know now.
    pub fn published(&self, now: UnixTime) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.life.state(now) != State::Gone)
    }

    /// When what is published, or its certificates, next become different.
    pub fn next_change(&self, now: UnixTime) -> UnixTime {
        let keys = self.keys.iter().filter_map(|key| key.life.next_change(now));
        let given = self.keys.iter().filter_map(|key| key.given.as_ref()?.next_change(now));
        keys.chain(given).chain([next_derivation(now)]).min().unwrap_or(now)
    }
}

impl Key {
    /// The certificate to publish: the given one while Salesforce would take it, else one derived from the key.
    pub fn certificate(&self, now: UnixTime) -> Certificate {
        match self.given_serving(now) {
            Some(given) => given.clone(),
            None => Certificate::derive(&self.kid, &self.private, now),
        }
    }

    /// When that certificate expires.
    pub fn certificate_not_after(&self, now: UnixTime) -> UnixTime {
        self.given_serving(now).map_or_else(|| derived_not_after(now), |given| given.not_after)
    }

    /// That of `KID.crt`, whether Salesforce would take it or not.
    pub const fn given(&self) -> Option<&Certificate> {
        self.given.as_ref()
    }

    fn given_serving(&self, now: UnixTime) -> Option<&Certificate> {
        self.given.as_ref().filter(|given| given.serves(now))
    }
}

impl KeyRing {
    /// The key of that id, and its keyset.
    pub fn find(&self, kid: &str) -> Option<(&Keyset, &Key)> {
        self.keys().find(|(_, key)| key.kid.as_str() == kid)
    }

    pub fn keys(&self) -> impl Iterator<Item = (&Keyset, &Key)> {
        self.keysets.values().flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset.as_ref(), key)))
    }

    /// Whether it holds a key whose life is over, or leaves out one whose life isn't: the clock has moved.
    pub fn is_outdated(&self, now: UnixTime) -> bool {
        let over = |life: &Life| life.state(now) == State::Gone;
        let past = self.keysets.values().flat_map(|keyset| &keyset.past);
        self.keys().any(|(_, key)| over(&key.life))
            || past.filter_map(|past| past.life.as_ref()).any(|life| !over(life))
    }
}
