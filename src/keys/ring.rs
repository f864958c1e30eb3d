//! A key ring: keysets, and their keys, each with its certificates.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::certificate::{Certificate, derived_not_after, next_derivation, year_of};
use super::private::PrivateKey;
use super::timeline::{Life, Rules, State};
use super::transition::History;
use super::usage::Usage;
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name, Problem, ProfileName};

pub struct KeyRing {
    pub keysets: BTreeMap<Name, Arc<Keyset>>,
    pub warnings: Vec<Problem>,
    /// What this process has published, this ring included.
    pub(super) history: History,
}

pub struct Keyset {
    pub name: Name,
    pub algorithm: Algorithm,
    /// In order of `sign_from`. Empty where all are retired.
    pub keys: Vec<Key>,
    /// Keys that are retired or whose life is over. They are not opened.
    pub past: Vec<Life>,
    pub rules: Rules,
    pub used_by: Vec<ProfileName>,
}

#[derive(Clone)]
pub struct Key {
    pub kid: KeyId,
    pub life: Life,
    pub private: Arc<PrivateKey>,
    pub usage: Arc<Usage>,
    /// SHA-256 of what it was read from.
    pub(super) source: [u8; 32],
    /// That of `KID.crt`.
    pub(super) given: Option<Certificate>,
    pub(super) derived: Arc<DerivedCertificates>,
}

/// The self-signed certificates of one key under one id, by year. Each costs a signature and is made once.
#[derive(Default)]
pub(super) struct DerivedCertificates(Mutex<BTreeMap<i32, Certificate>>);

/// How long before it is published a certificate is made, so that no request has to.
const PREPARATION: Duration = Duration::from_hours(24);

impl Keyset {
    /// The position of the key that signs at `now`; `None` where none does.
    ///
    /// Where the clock was set back to the turn of a key that is not open any more, the first of those that are: it has
    /// signed already, so verifiers know it. A reload opens the other in a moment.
    pub fn signing(&self, now: UnixTime) -> Option<usize> {
        let signs = |life: &Life| life.state(now) == State::Signing;
        let open = self.keys.iter().position(|key| signs(&key.life));
        open.or_else(|| {
            let closed = self.past.iter().any(signs);
            (closed && !self.keys.is_empty()).then_some(0)
        })
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
            None => self.derived.of_year(year_of(now), &self.kid, &self.private),
        }
    }

    /// Makes the certificates that it will publish until a day after `now`.
    fn prepare(&self, now: UnixTime) {
        for moment in [now, now.plus(PREPARATION)] {
            let _ = self.certificate(moment);
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

impl DerivedCertificates {
    fn of_year(&self, year: i32, kid: &KeyId, key: &PrivateKey) -> Certificate {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(year).or_insert_with(|| Certificate::derive(kid, key, year)).clone()
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

    /// Makes the certificates that it will publish until a day after `now`, where they aren't made yet.
    pub fn prepare(&self, now: UnixTime) {
        self.keys().for_each(|(_, key)| key.prepare(now));
    }

    /// Whether it leaves out a key whose life isn't over, because the clock was set back.
    pub fn lacks_a_key(&self, now: UnixTime) -> bool {
        let mut past = self.keysets.values().flat_map(|keyset| &keyset.past);
        past.any(|life| life.state(now) != State::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandomness;
    use crate::config::{self, DEFAULT_PUBLISH_LEAD, DEFAULT_RETIRE_MARGIN, KeysetSource};
    use crate::keys::generate;

    /// No request for the JWKS has to sign a certificate, at the turn of the year neither.
    #[test]
    fn certificates_are_made_a_day_before_they_are_published_and_once_for_all_reloads() {
        let kid = KeyId::parse("K1").expect("an id");
        let name = Name::parse("web").expect("a name");
        let pem = generate(2048, &SystemRandomness::default()).expect("random bytes");
        let keyset = config::KeysetConfig {
            name: name.clone(),
            keys: KeysetSource::Text { kid, pem, origin: "a test".to_owned() },
            passphrase: None,
            algorithm: Algorithm::Rs256,
            longest_life: Duration::from_hours(1),
            publish_lead: DEFAULT_PUBLISH_LEAD,
            retire_margin: DEFAULT_RETIRE_MARGIN,
            used_by: Vec::new(),
        };
        let keysets = BTreeMap::from([(name, keyset)]);
        // 2026-12-30T12:00:00Z and a day later.
        let (noon, eve) = (UnixTime::from_seconds(1_798_632_000), UnixTime::from_seconds(1_798_718_400));
        let load = |now, previous: Option<&KeyRing>| {
            KeyRing::load(&keysets, now, previous)
                .map_err(|problems| format!("{problems:?}"))
                .expect("a ring")
        };
        let years = |ring: &KeyRing| {
            let (_, key) = ring.keys().next().expect("a key");
            let made = key.derived.0.lock().expect("not poisoned");
            made.keys().copied().collect::<Vec<_>>()
        };
        let ring = load(noon, None);
        assert_eq!(years(&ring), [2026]);
        ring.prepare(eve);
        assert_eq!(years(&ring), [2026, 2027]);
        let reloaded = load(eve, Some(&ring));
        let derived = |ring: &KeyRing| ring.keys().next().map(|(_, key)| key.derived.clone()).expect("a key");
        assert!(Arc::ptr_eq(&derived(&ring), &derived(&reloaded)), "the same ones");
    }
}
