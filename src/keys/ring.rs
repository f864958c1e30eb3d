//! A key ring: keysets, and their keys, each with its certificates.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::certificate::{KeyCertificate, derived_not_after, next_derivation, year_of};
use super::live_tokens::LiveTokenCounter;
use super::private_key::PrivateKey;
use super::publication_history::PublicationHistory;
use super::timeline::{KeyState, KeyValidity, RotationRules};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name, Problem, ProfileName};

pub struct KeyRing {
    pub keysets: BTreeMap<Name, Arc<Keyset>>,
    pub warnings: Vec<Problem>,
    /// What this process has published, this ring included.
    pub(super) history: PublicationHistory,
}

pub struct Keyset {
    pub name: Name,
    pub algorithm: Algorithm,
    /// In order of `sign_from`. Empty where all are retired.
    pub keys: Vec<KeysetKey>,
    /// Keys that are retired or whose life is over. They are not opened.
    pub expired: Vec<KeyValidity>,
    pub rules: RotationRules,
    pub used_by: Vec<ProfileName>,
}

#[derive(Clone)]
pub struct KeysetKey {
    pub kid: KeyId,
    pub validity: KeyValidity,
    pub private: Arc<PrivateKey>,
    pub live_tokens: Arc<LiveTokenCounter>,
    /// SHA-256 of what it was read from.
    pub(super) source: [u8; 32],
    /// That of `KID.crt`.
    pub(super) configured_certificate: Option<KeyCertificate>,
    pub(super) derived: Arc<DerivedCertificateCache>,
}

/// The self-signed certificates of one key under one id, by year. Each costs a signature and is made once.
#[derive(Default)]
pub(super) struct DerivedCertificateCache(Mutex<BTreeMap<i32, KeyCertificate>>);

/// How long before it is published a certificate is made, so that no request has to.
const CERTIFICATE_LEAD: Duration = Duration::from_hours(24);

impl Keyset {
    /// The position of the key that signs at `now`; `None` where none does.
    ///
    /// Where the clock was set back to the turn of a key that is not open any more, the first of those that are: it has
    /// signed already, so verifiers know it. A reload opens the other in a moment.
    pub fn signing_position(&self, now: UnixTime) -> Option<usize> {
        let signs = |validity: &KeyValidity| validity.state(now) == KeyState::Signing;
        let open = self.keys.iter().position(|key| signs(&key.validity));
        open.or_else(|| {
            let closed = self.expired.iter().any(signs);
            (closed && !self.keys.is_empty()).then_some(0)
        })
    }

    /// The keys that verifiers must know now.
    pub fn published(&self, now: UnixTime) -> impl Iterator<Item = &KeysetKey> {
        self.keys.iter().filter(move |key| key.validity.state(now) != KeyState::Gone)
    }

    /// When what is published, or its certificates, next become different.
    pub fn next_change(&self, now: UnixTime) -> UnixTime {
        let keys = self.keys.iter().filter_map(|key| key.validity.next_change(now));
        let given = self.keys.iter().filter_map(|key| key.configured_certificate.as_ref()?.next_change(now));
        keys.chain(given).chain([next_derivation(now)]).min().unwrap_or(now)
    }
}

impl KeysetKey {
    /// The certificate to publish: the given one while Salesforce would take it, else one derived from the key.
    pub fn certificate(&self, now: UnixTime) -> KeyCertificate {
        match self.accepted_configured_certificate(now) {
            Some(given) => given.clone(),
            None => self.derived.for_year(year_of(now), &self.kid, &self.private),
        }
    }

    /// Makes the certificates that it will publish until a day after `now`.
    fn prepare(&self, now: UnixTime) {
        for moment in [now, now.plus(CERTIFICATE_LEAD)] {
            let _ = self.certificate(moment);
        }
    }

    /// When that certificate expires.
    pub fn certificate_not_after(&self, now: UnixTime) -> UnixTime {
        self.accepted_configured_certificate(now)
            .map_or_else(|| derived_not_after(now), |given| given.not_after)
    }

    /// That of `KID.crt`, whether Salesforce would take it or not.
    pub const fn configured_certificate(&self) -> Option<&KeyCertificate> {
        self.configured_certificate.as_ref()
    }

    fn accepted_configured_certificate(&self, now: UnixTime) -> Option<&KeyCertificate> {
        self.configured_certificate.as_ref().filter(|given| given.is_accepted_by_salesforce(now))
    }
}

impl DerivedCertificateCache {
    fn for_year(&self, year: i32, kid: &KeyId, key: &PrivateKey) -> KeyCertificate {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(year).or_insert_with(|| KeyCertificate::derive(kid, key, year)).clone()
    }
}

impl KeyRing {
    /// The key of that id, and its keyset.
    pub fn find(&self, kid: &str) -> Option<(&Keyset, &KeysetKey)> {
        self.keys().find(|(_, key)| key.kid.as_str() == kid)
    }

    pub fn keys(&self) -> impl Iterator<Item = (&Keyset, &KeysetKey)> {
        self.keysets.values().flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset.as_ref(), key)))
    }

    /// Makes the certificates that it will publish until a day after `now`, where they aren't made yet.
    pub fn prepare(&self, now: UnixTime) {
        self.keys().for_each(|(_, key)| key.prepare(now));
    }

    /// Whether it leaves out a key whose life isn't over, because the clock was set back.
    pub fn lacks_valid_key(&self, now: UnixTime) -> bool {
        let mut past = self.keysets.values().flat_map(|keyset| &keyset.expired);
        past.any(|validity| validity.state(now) != KeyState::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandomness;
    use crate::config::{self, KeySource, PUBLISH_LEAD, RETIRE_MARGIN};
    use crate::keys::generate_private_key;

    /// No request for the JWKS has to sign a certificate, at the turn of the year neither.
    #[test]
    fn certificates_are_made_a_day_before_they_are_published_and_once_for_all_reloads() {
        let kid = KeyId::parse("K1").expect("an id");
        let name = Name::parse("web").expect("a name");
        let pem = generate_private_key(2048, &SystemRandomness::default()).expect("random bytes");
        let keyset = config::Keyset {
            name: name.clone(),
            keys: KeySource::Text { kid, pem, origin: "a test".to_owned() },
            passphrase: None,
            algorithm: Algorithm::Rs256,
            longest_life: Duration::from_hours(1),
            publish_lead: PUBLISH_LEAD,
            retire_margin: RETIRE_MARGIN,
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
