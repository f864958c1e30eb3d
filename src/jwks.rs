//! A key ring's public face: the JWK Set of RFC 7517, section 5, as bytes with their `ETag`, made once and
//! not per request. A JWK's type here has no field that a private member could go into.
//!
//! The bytes follow from the files and the clock alone. They are made anew when a key comes or goes or a
//! certificate changes, by whoever asks first after that moment.

mod client;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ::http::HeaderValue;
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, RSAKeyParameters,
    RSAKeyType,
};
use prometheus::{IntCounter, IntGauge, IntGaugeVec};

use crate::clock::UnixTime;
use crate::config::{Algorithm, KeyId, Name};
use crate::keys::{Certificate, Key, KeyRing, Keyset, PublicKey};
use crate::metrics::Metrics;
pub use client::Client;

/// Long enough that a storm of verifiers is served by caches, in seconds.
const LONGEST_MAX_AGE: u64 = 300;

/// A public key as Salesforce reads it: `kty, use, alg, kid, n, e, x5c, x5t#S256` (RFC 7517, section 4; RFC
/// 7518, section 6.3.1). `x5c` is plain base64 of the DER (section 4.7), the leaf alone.
pub fn jwk(keyset: &Keyset, key: &Key, now: UnixTime) -> Jwk {
    jwk_of(&key.kid, &key.private.public, &key.certificate(now), keyset.algorithm)
}

/// As [`jwk`], of a key that is in no keyset yet.
pub fn jwk_of(kid: &KeyId, key: &PublicKey, certificate: &Certificate, algorithm: Algorithm) -> Jwk {
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
        algorithm: AlgorithmParameters::RSA(numbers(key)),
    }
}

/// What `keyset` publishes at `now`.
pub fn set<'a>(keysets: impl IntoIterator<Item = &'a Arc<Keyset>>, now: UnixTime) -> JwkSet {
    let keys = keysets
        .into_iter()
        .flat_map(|keyset| keyset.published(now).map(move |key| jwk(keyset, key, now)))
        .collect();
    JwkSet { keys }
}

/// The thumbprint of RFC 7638 (SHA-256, base64url): the same for the same key, whatever its name.
pub fn thumbprint(key: &PublicKey) -> String {
    // Base64url needs no escaping. The members stand in the order of their names (section 3.2).
    let members = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, key.e, key.n);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
}

fn numbers(key: &PublicKey) -> RSAKeyParameters {
    RSAKeyParameters { key_type: RSAKeyType::RSA, n: key.n.clone(), e: key.e.clone() }
}

/// A JWK Set ready to send.
pub struct Document {
    pub body: Bytes,
    /// Strong (RFC 9110, section 8.8.3).
    pub etag: HeaderValue,
    from: UnixTime,
    until: UnixTime,
    /// Of each key in it.
    fetched: Vec<FetchTimes>,
}

/// When each class of clients last fetched a key, in the metrics. Looked up at the first fetch, so that `/metrics` is
/// silent of what never happened.
struct FetchTimes {
    keyset: Name,
    kid: KeyId,
    by_client: [OnceLock<IntGauge>; Client::ALL.len()],
}

/// What the union of all keysets is called among their names.
pub const UNION: &str = "*";

/// The documents of a ring: one for each keyset, and their union.
pub struct Published {
    pub by_keyset: BTreeMap<Name, Face>,
    pub union: Face,
}

/// What some keysets show, as it is now.
pub struct Face {
    keysets: Vec<Arc<Keyset>>,
    document: ArcSwap<Document>,
    /// `Cache-Control`: at most a quarter of the shortest lead, so that caches let go of a set well before a key that
    /// it lacks signs.
    pub cache_control: HeaderValue,
    fetches: [IntCounter; Client::ALL.len()],
    fetched_at: IntGaugeVec,
}

impl Published {
    pub fn new(ring: &KeyRing, metrics: &Metrics, now: UnixTime) -> Self {
        let face = |name: &str, keysets: Vec<Arc<Keyset>>| {
            let fetches = std::array::from_fn(|at| {
                metrics.jwks_fetches.with_label_values(&[name, Client::ALL[at].as_str()])
            });
            Face::new(keysets, fetches, metrics.key_fetched_at.clone(), now)
        };
        let by_keyset = ring.keysets.iter();
        let by_keyset =
            by_keyset.map(|(name, keyset)| (name.clone(), face(name.as_str(), vec![keyset.clone()])));
        Self { by_keyset: by_keyset.collect(), union: face(UNION, ring.keysets.values().cloned().collect()) }
    }
}

impl Face {
    fn new(
        keysets: Vec<Arc<Keyset>>,
        fetches: [IntCounter; Client::ALL.len()],
        fetched_at: IntGaugeVec,
        now: UnixTime,
    ) -> Self {
        let document = ArcSwap::from_pointee(Document::new(&keysets, now));
        let lead = keysets.iter().map(|keyset| keyset.rules.publish_lead.as_secs()).min().unwrap_or_default();
        let max_age = (lead / 4).min(LONGEST_MAX_AGE);
        let cache_control = HeaderValue::from_str(&format!("public, max-age={max_age}"));
        let cache_control = cache_control.expect("a number is visible ASCII");
        Self { keysets, document, cache_control, fetches, fetched_at }
    }

    /// Counts that `client` has fetched `document` at `now`.
    pub fn fetched(&self, document: &Document, client: Client, now: UnixTime) {
        self.fetches[client as usize].inc();
        for FetchTimes { keyset, kid, by_client } in &document.fetched {
            let labels = [keyset.as_str(), kid.as_str(), client.as_str()];
            let gauge = || self.fetched_at.with_label_values(&labels);
            by_client[client as usize].get_or_init(gauge).set(now.seconds());
        }
    }

    /// The set as it is at `now`.
    pub fn document(&self, now: UnixTime) -> Arc<Document> {
        let document = self.document.load_full();
        if document.from <= now && now < document.until {
            return document;
        }
        let fresh = Arc::new(Document::new(&self.keysets, now));
        self.document.store(fresh.clone());
        fresh
    }
}

impl Document {
    fn new(keysets: &[Arc<Keyset>], now: UnixTime) -> Self {
        let body = serde_json::to_vec(&set(keysets, now)).expect("strings can be written to memory");
        let fetched = keysets.iter().flat_map(|keyset| {
            keyset.published(now).map(|key| FetchTimes {
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
            fetched: fetched.collect(),
        }
    }
}
