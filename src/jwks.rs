//! The published JWK Sets (RFC 7517, section 5) and their JWKS cache: one set for each keyset and one for all, in serialized form
//! with its `ETag`. [`RSAKeyParameters`] has no fields for private members.
//!
//! The bytes depend only on the keysets and the clock. A reload builds new sets. When the published
//! keys or certificates change by the clock, the next request serializes the set again.

mod client_class;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::HeaderValue;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, RSAKeyParameters,
    RSAKeyType,
};
use prometheus::{IntCounter, IntGauge, IntGaugeVec};

use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name};
use crate::keys::{KeyCertificate, KeyRing, Keyset, KeysetKey, PublicKey, jwks_max_age};
use crate::metrics::Metrics;
pub(crate) use client_class::ClientClass;

/// Builds the JWK of a key: `kty, use, alg, kid, n, e, x5c, x5t#S256` (RFC 7517, section 4; RFC 7518, section 6.3.1).
///
/// `x5c` contains the leaf certificate alone, as plain base64 of its DER (RFC 7517, section 4.7).
pub(crate) fn jwk(keyset: &Keyset, key: &KeysetKey, now: UnixTime) -> Jwk {
    jwk_from_parts(&key.kid, key.public(), &key.certificate(now), keyset.algorithm)
}

/// Like [`jwk`], for a key that isn't in a keyset yet.
pub(crate) fn jwk_from_parts(
    kid: &KeyId,
    key: &PublicKey,
    certificate: &KeyCertificate,
    algorithm: Algorithm,
) -> Jwk {
    Jwk {
        common: CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(match algorithm {
                Algorithm::Rs256 => KeyAlgorithm::RS256,
                Algorithm::Rs512 => KeyAlgorithm::RS512,
            }),
            key_id: Some(kid.to_string()),
            x509_chain: Some(vec![STANDARD.encode(&certificate.der)]),
            x509_sha256_fingerprint: Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate.der))),
            ..CommonParameters::default()
        },
        algorithm: AlgorithmParameters::RSA(rsa_parameters(key)),
    }
}

/// Builds the JWK Set of the keys that `keysets` publish at `now`.
pub(crate) fn jwk_set<'a>(keysets: impl IntoIterator<Item = &'a Arc<Keyset>>, now: UnixTime) -> JwkSet {
    let keys = keysets
        .into_iter()
        .flat_map(|keyset| keyset.published(now).map(move |key| jwk(keyset, key, now)))
        .collect();
    JwkSet { keys }
}

/// Computes the JWK thumbprint (RFC 7638, with SHA-256, in base64url). It depends on the key alone, not on its key id.
pub(crate) fn thumbprint(key: &PublicKey) -> String {
    // Base64url needs no escaping. Members are in lexicographic order (section 3.2).
    let members = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, key.e, key.n);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
}

fn rsa_parameters(key: &PublicKey) -> RSAKeyParameters {
    RSAKeyParameters { key_type: RSAKeyType::RSA, n: key.n.clone(), e: key.e.clone() }
}

/// A serialized JWK Set, valid from `from` until just before `until`.
pub(crate) struct SerializedJwkSet {
    pub(crate) body: Bytes,
    /// A strong validator (RFC 9110, section 8.8.3).
    pub(crate) etag: HeaderValue,
    from: UnixTime,
    until: UnixTime,
    /// The gauges of each key in the set.
    fetch_gauges: Vec<FetchGauges>,
}

/// Gauges of when each class of clients last fetched a key. Each is created at the first fetch, so that `/metrics` has no
/// series for classes that never fetched the key.
struct FetchGauges {
    keyset: Name,
    kid: KeyId,
    by_client: [OnceLock<IntGauge>; ClientClass::ALL.len()],
}

/// The value of the label `keyset` for the union of all keysets.
pub(crate) const ALL_KEYSETS: &str = "*";

/// The JWK Sets of a key ring: one for each keyset, and their union.
pub(crate) struct PublishedJwks {
    pub(crate) by_keyset: BTreeMap<Name, CachedJwks>,
    pub(crate) union: CachedJwks,
}

/// The cached JWK Set of one or more keysets.
pub(crate) struct CachedJwks {
    keysets: Vec<Arc<Keyset>>,
    serialized: ArcSwap<SerializedJwkSet>,
    /// `Cache-Control`, with the shortest [`jwks_max_age`] of the keysets.
    pub(crate) cache_control: HeaderValue,
    fetches: [IntCounter; ClientClass::ALL.len()],
    fetched_at: IntGaugeVec,
}

impl PublishedJwks {
    pub(crate) fn new(ring: &KeyRing, metrics: &Metrics, now: UnixTime) -> Self {
        let cached = |name: &str, keysets: Vec<Arc<Keyset>>| {
            let fetches = std::array::from_fn(|at| {
                metrics.jwks_fetches.with_label_values(&[name, ClientClass::ALL[at].as_str()])
            });
            CachedJwks::new(keysets, fetches, metrics.key_fetched_at.clone(), now)
        };
        let by_keyset = ring.keysets.iter();
        let by_keyset =
            by_keyset.map(|(name, keyset)| (name.clone(), cached(name.as_str(), vec![keyset.clone()])));
        Self {
            by_keyset: by_keyset.collect(),
            union: cached(ALL_KEYSETS, ring.keysets.values().cloned().collect()),
        }
    }
}

impl CachedJwks {
    fn new(
        keysets: Vec<Arc<Keyset>>,
        fetches: [IntCounter; ClientClass::ALL.len()],
        fetched_at: IntGaugeVec,
        now: UnixTime,
    ) -> Self {
        let serialized = ArcSwap::from_pointee(SerializedJwkSet::new(&keysets, now));
        let max_ages = keysets.iter().map(|keyset| jwks_max_age(keyset.rules.publish_lead).as_secs());
        let max_age = max_ages.min().unwrap_or_default();
        let cache_control = HeaderValue::from_str(&format!("public, max-age={max_age}"));
        let cache_control = cache_control.expect("a number is visible ASCII");
        Self { keysets, serialized, cache_control, fetches, fetched_at }
    }

    /// Whether one of the keysets is closed, so that the set would lack its keys.
    pub(crate) fn is_closed(&self) -> bool {
        self.keysets.iter().any(|keyset| keyset.is_closed())
    }

    /// Records in the metrics that `client` fetched `serialized` at `now`.
    pub(crate) fn record_fetch(&self, serialized: &SerializedJwkSet, client: ClientClass, now: UnixTime) {
        self.fetches[client as usize].inc();
        for FetchGauges { keyset, kid, by_client } in &serialized.fetch_gauges {
            let labels = [keyset.as_str(), kid.as_str(), client.as_str()];
            let gauge = || self.fetched_at.with_label_values(&labels);
            by_client[client as usize].get_or_init(gauge).set(now.seconds());
        }
    }

    /// Returns the JWK Set at `now`. Serializes it again if the cached one isn't valid at `now`.
    pub(crate) fn serialized(&self, now: UnixTime) -> Arc<SerializedJwkSet> {
        let serialized = self.serialized.load_full();
        if serialized.from <= now && now < serialized.until {
            return serialized;
        }
        let fresh = Arc::new(SerializedJwkSet::new(&self.keysets, now));
        self.serialized.store(fresh.clone());
        fresh
    }
}

impl SerializedJwkSet {
    fn new(keysets: &[Arc<Keyset>], now: UnixTime) -> Self {
        let body = serde_json::to_vec(&jwk_set(keysets, now)).expect("strings can be written to memory");
        let gauges = keysets.iter().flat_map(|keyset| {
            keyset.published(now).map(|key| FetchGauges {
                keyset: keyset.name.clone(),
                kid: key.kid.clone(),
                by_client: Default::default(),
            })
        });
        let hash = URL_SAFE_NO_PAD.encode(&digest(&SHA256, &body).as_ref()[..16]);
        Self {
            etag: HeaderValue::from_str(&format!("\"{hash}\"")).expect("base64url is visible ASCII"),
            body: body.into(),
            from: now,
            until: keysets.iter().map(|keyset| keyset.next_change(now)).min().unwrap_or(now),
            fetch_gauges: gauges.collect(),
        }
    }
}
