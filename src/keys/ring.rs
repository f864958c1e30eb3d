//! The key ring: an immutable set of keysets with their opened keys. Derived certificates are cached per key and year.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::certificate::{KeyCertificate, derived_not_after, next_derivation, year_of};
use super::live_tokens::LiveTokenCounter;
use super::private_key::PrivateKey;
use super::public_key::PublicKey;
use super::publication_history::PublicationHistory;
use super::signing_key::SigningKey;
use super::timeline::{KeyState, KeyValidity, RotationRules};
use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name, Problem, ProfileName};

/// All keysets of the configuration, opened and checked.
pub struct KeyRing {
    pub(crate) keysets: BTreeMap<Name, Arc<Keyset>>,
    pub warnings: Vec<Problem>,
    /// The keys that this process has published, this ring's included.
    pub(super) history: PublicationHistory,
}

/// The keys of one `[keysets.NAME]`, and when each signs.
pub struct Keyset {
    pub(crate) name: Name,
    pub(crate) algorithm: Algorithm,
    /// In order of `sign_from`. Empty if all keys are gone.
    pub(crate) keys: Vec<KeysetKey>,
    /// The listed keys that neither sign nor are published: expired or retired. They are not opened.
    pub(crate) gone: Vec<KeyValidity>,
    pub(crate) rules: RotationRules,
    pub(crate) used_by: Vec<ProfileName>,
    /// The key that its store couldn't open or use, if there is one. Then `keys` has the keys of the previous load, or none.
    pub(crate) unopened: Option<UnopenedKey>,
}

/// A sealed key that its store couldn't open, or a store's key that couldn't be used.
#[derive(Clone)]
pub(crate) struct UnopenedKey {
    pub(crate) problem: Problem,
    /// Whether the store may open it later, without a change here.
    pub(crate) is_transient: bool,
    /// The other keys of the keyset that were opened, for the next attempt.
    pub(crate) opened: Vec<KeysetKey>,
}

/// A key of a keyset, opened.
#[derive(Clone)]
pub struct KeysetKey {
    pub kid: KeyId,
    pub(crate) validity: KeyValidity,
    pub signing: SigningKey,
    pub(crate) live_tokens: Arc<LiveTokenCounter>,
    /// SHA-256 of the text and the passphrase that it was read from.
    pub(super) source: [u8; 32],
    /// The certificate of `KID.crt`.
    pub(super) configured_certificate: Option<KeyCertificate>,
    pub(super) derived: Arc<DerivedCertificateCache>,
}

/// The self-signed certificates of one key under one id, by year. Each takes a signature, so it is derived once.
#[derive(Default)]
pub(super) struct DerivedCertificateCache(Mutex<BTreeMap<i32, KeyCertificate>>);

/// The longest wait for stores at the end of the process.
const LOG_OUT_TIMEOUT: Duration = Duration::from_secs(1);
/// A certificate is derived this long before it is published, so that no request has to derive it.
const CERTIFICATE_LEAD: Duration = Duration::from_hours(24);

impl Keyset {
    /// Whether it has no keys because a store hasn't opened one since the start. It isn't published then: a JWKS without its keys would
    /// make verifiers reject the tokens of other replicas.
    pub(crate) const fn is_closed(&self) -> bool {
        self.unopened.is_some() && self.keys.is_empty()
    }

    /// The position of the key that signs at `now`; `None` if none does.
    ///
    /// If the clock was set back into the signing period of a key that is no longer open, the first open key signs. Verifiers
    /// know it, as it has signed already. The next reload opens the other key.
    pub(crate) fn signing_position(&self, now: UnixTime) -> Option<usize> {
        let signs = |validity: &KeyValidity| validity.state(now) == KeyState::Signing;
        let open = self.keys.iter().position(|key| signs(&key.validity));
        open.or_else(|| {
            let gone_signs = self.gone.iter().any(signs);
            (gone_signs && !self.keys.is_empty()).then_some(0)
        })
    }

    /// The keys that are published at `now`.
    pub(crate) fn published(&self, now: UnixTime) -> impl Iterator<Item = &KeysetKey> {
        self.keys.iter().filter(move |key| key.validity.state(now) != KeyState::Gone)
    }

    /// The next time after `now` at which the signing key, the published keys or their certificates may change.
    pub(crate) fn next_change(&self, now: UnixTime) -> UnixTime {
        let keys = self.keys.iter().filter_map(|key| key.validity.next_change(now));
        let configured =
            self.keys.iter().filter_map(|key| key.configured_certificate.as_ref()?.next_change(now));
        keys.chain(configured).chain([next_derivation(now)]).min().unwrap_or(now)
    }
}

impl KeysetKey {
    pub fn public(&self) -> &PublicKey {
        self.signing.public()
    }

    /// The certificate to publish: the configured one while Salesforce accepts it, otherwise one derived from the key.
    pub fn certificate(&self, now: UnixTime) -> KeyCertificate {
        match self.accepted_configured_certificate(now) {
            Some(configured) => configured.clone(),
            None => match &self.signing {
                SigningKey::Private(key) => self.derived.for_year(year_of(now), &self.kid, key),
                SigningKey::Remote(key) => key.certificate.clone(),
            },
        }
    }

    /// Derives the certificates that it will publish until [`CERTIFICATE_LEAD`] after `now`.
    fn prepare(&self, now: UnixTime) {
        for moment in [now, now.plus(CERTIFICATE_LEAD)] {
            let _ = self.certificate(moment);
        }
    }

    /// The expiry of the published certificate.
    pub(crate) fn certificate_not_after(&self, now: UnixTime) -> UnixTime {
        match (self.accepted_configured_certificate(now), &self.signing) {
            (Some(configured), _) => configured.not_after,
            (None, SigningKey::Private(_)) => derived_not_after(now),
            (None, SigningKey::Remote(key)) => key.certificate.not_after,
        }
    }

    /// The certificate of `KID.crt`, whether Salesforce accepts it or not.
    pub(crate) const fn configured_certificate(&self) -> Option<&KeyCertificate> {
        self.configured_certificate.as_ref()
    }

    fn accepted_configured_certificate(&self, now: UnixTime) -> Option<&KeyCertificate> {
        self.configured_certificate.as_ref().filter(|certificate| certificate.is_accepted_by_salesforce(now))
    }
}

impl DerivedCertificateCache {
    fn for_year(&self, year: i32, kid: &KeyId, key: &PrivateKey) -> KeyCertificate {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(year).or_insert_with(|| KeyCertificate::derive_from(kid, key, year)).clone()
    }
}

impl KeyRing {
    /// Finds the key of that id, and its keyset.
    pub fn find(&self, kid: &str) -> Option<(&Keyset, &KeysetKey)> {
        self.keys().find(|(_, key)| key.kid.as_str() == kid)
    }

    pub fn keys(&self) -> impl Iterator<Item = (&Keyset, &KeysetKey)> {
        self.keysets.values().flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset.as_ref(), key)))
    }

    /// Derives the certificates that it will publish until `CERTIFICATE_LEAD` after `now`, unless they exist.
    pub(crate) fn prepare(&self, now: UnixTime) {
        self.keys().for_each(|(_, key)| key.prepare(now));
    }

    /// The keys that a store couldn't open or use.
    pub(crate) fn unopened_keys(&self) -> impl Iterator<Item = &UnopenedKey> {
        self.keysets.values().filter_map(|keyset| keyset.unopened.as_ref())
    }

    /// Why the first closed keyset is closed; `None` if none is.
    pub(crate) fn closed_reason(&self) -> Option<String> {
        let closed = self.keysets.values().find(|keyset| keyset.is_closed())?;
        let reason = &closed.unopened.as_ref()?.problem.message;
        Some(format!("a key of keysets.{} {reason}", closed.name))
    }

    /// Ends the sessions with the stores that sign. Waits for a second at most.
    pub(crate) async fn log_out_of_stores(&self) {
        let connections = self.keys().filter_map(|(_, key)| key.signing.connection());
        let log_outs = connections.map(|connection| connection.log_out());
        let _ = tokio::time::timeout(LOG_OUT_TIMEOUT, futures_util::future::join_all(log_outs)).await;
    }

    /// Whether a key that was gone at load is valid at `now`, because the clock was set back.
    pub(crate) fn lacks_valid_key(&self, now: UnixTime) -> bool {
        let mut gone = self.keysets.values().flat_map(|keyset| &keyset.gone);
        gone.any(|validity| validity.state(now) != KeyState::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandomness;
    use crate::config::{self, DEFAULT_PUBLISH_LEAD, DEFAULT_RETIRE_MARGIN, KeysetSource};
    use crate::keys::generate_private_key;
    use crate::metrics::Metrics;

    /// No JWKS request has to derive a certificate, even at the turn of the year.
    #[test]
    fn certificates_are_derived_a_day_before_they_are_published_and_once_for_all_reloads() {
        let kid = KeyId::parse("K1").expect("an id");
        let name = Name::parse("web").expect("a name");
        let pem = generate_private_key(2048, &SystemRandomness::default()).expect("random bytes");
        let keyset = config::KeysetConfig {
            name: name.clone(),
            keys: KeysetSource::Text { kid, pem, origin: "a test".to_owned() },
            passphrase: None,
            seal: None,
            signed_by: None,
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
            KeyRing::load(&keysets, now, previous, &Arc::new(Metrics::new()))
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
