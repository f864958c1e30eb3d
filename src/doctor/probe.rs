//! Online probes: fetch JWKS endpoints and the keys of issuers, and make one token exchange with Salesforce for each profile that can exchange.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::jwk::JwkDocument;
use crate::clock::{Clock, UnixTime};
use crate::config::{Config, Name};
use crate::exchange::{
    ExchangeError, Exchanger, ExchangerBuildError, ExchangerDeps, FetchOptions, TokenMetadata, probe,
};
use crate::issuers::{self, FetchError, FetchedKeys, LoadedIssuerKeys};
use crate::jwks;
use crate::keys::{KeyRing, Keyset};
use crate::metrics::Metrics;
use crate::tokens::{Profiles, Signer, Subject};
use crate::traces::Trace;

/// The result of one probe.
pub enum ProbeResult {
    Jwks(FetchedJwks),
    Exchange {
        profile: String,
        /// On success, a sentence that names the session or the instance.
        result: Result<String, ExchangeError>,
        /// Our clock minus Salesforce's, in seconds. `None` without a response that has a `Date`.
        skew: Option<f64>,
    },
    IssuerKeys(FetchedIssuerKeys),
}

/// The keys of an issuer, or why they can't be fetched.
pub struct FetchedIssuerKeys {
    pub(crate) issuer: Name,
    pub(crate) fetched: Result<FetchedKeys, FetchError>,
}

/// The response of a JWKS endpoint.
pub struct FetchedJwks {
    pub(crate) url: String,
    /// `Err` says why there is no response.
    pub(crate) reply: Result<JwksResponse, String>,
    /// The parsed body of a response with status 200.
    pub(crate) document: Option<JwkDocument>,
    pub(crate) expected: Option<ExpectedJwks>,
}

pub(crate) struct JwksResponse {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) size: usize,
    pub(crate) took: Duration,
    pub(crate) skew: Option<f64>,
}

/// The JWKs that an endpoint should serve, and the JWKs that it serves.
pub(crate) struct ExpectedJwks {
    expected: Vec<Value>,
    shown: Vec<Value>,
}

/// How the served JWKs differ from the expected JWKs.
pub(crate) enum JwksMismatch<'a> {
    /// The key ids differ.
    Kids { shown: Vec<&'a str>, expected: Vec<&'a str> },
    /// The key ids of expected JWKs that are served with other members, for example another key or certificate.
    Content(Vec<&'a str>),
}

impl ExpectedJwks {
    fn from_keyset(keyset: &Arc<Keyset>, now: UnixTime) -> Self {
        let set = serde_json::to_value(jwks::jwk_set([keyset], now)).unwrap_or_default();
        Self { expected: keys_of_set(&set), shown: Vec::new() }
    }

    /// Compares the key ids, then key by key. The order of the keys has no meaning. Unexpected members of a set or of a key are
    /// ignored (RFC 7517, sections 4 and 5).
    pub(crate) fn mismatch(&self) -> Option<JwksMismatch<'_>> {
        let (shown, expected) = (sorted_kids(&self.shown), sorted_kids(&self.expected));
        if shown != expected {
            return Some(JwksMismatch::Kids { shown, expected });
        }
        let has = |shown: &Value, expected: &Value| {
            expected
                .as_object()
                .is_some_and(|members| members.iter().all(|(name, value)| shown.get(name) == Some(value)))
        };
        let is_shown = |key: &&Value| self.shown.iter().any(|shown| has(shown, key));
        let other: Vec<&str> =
            self.expected.iter().filter(|key| !is_shown(key)).filter_map(|key| key["kid"].as_str()).collect();
        (!other.is_empty()).then_some(JwksMismatch::Content(other))
    }
}

fn keys_of_set(set: &Value) -> Vec<Value> {
    set["keys"].as_array().cloned().unwrap_or_default()
}

fn sorted_kids(keys: &[Value]) -> Vec<&str> {
    let mut kids: Vec<&str> = keys.iter().map(|key| key["kid"].as_str().unwrap_or_default()).collect();
    kids.sort_unstable();
    kids
}

/// Fetches a JWKS once, without following redirects and without credentials.
pub(crate) async fn fetch_jwks(url: &str, clock: &dyn Clock) -> FetchedJwks {
    fetch_and_compare(url, clock, None).await
}

async fn fetch_and_compare(url: &str, clock: &dyn Clock, mut expected: Option<ExpectedJwks>) -> FetchedJwks {
    let (reply, document) = match probe(url, clock).await {
        Err(why) => (Err(why), None),
        Ok(answer) => {
            let document = (answer.status == 200).then(|| {
                let text = String::from_utf8_lossy(&answer.body);
                JwkDocument { served: true, ..JwkDocument::parse(url, &text) }
            });
            if let Some(expected) = &mut expected {
                expected.shown =
                    serde_json::from_slice(&answer.body).as_ref().map(keys_of_set).unwrap_or_default();
            }
            #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
            let skew = answer.date.map(|date| (clock.now().seconds() - date) as f64);
            let reply = JwksResponse {
                status: answer.status,
                location: answer.location,
                content_type: answer.content_type,
                size: answer.body.len(),
                took: answer.took,
                skew,
            };
            (Ok(reply), document)
        }
    };
    FetchedJwks { url: url.to_owned(), reply, document, expected }
}

/// The deadline of one exchange, longer than an exchange with its retry takes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The default subject of the probing messaging exchange. No user should have it.
const PROBE_SUBJECT: &str = "tokenmint-doctor";

/// Fetches the keys of each issuer, each once and with the bounds of the service.
pub(crate) async fn fetch_issuer_keys(keys: &BTreeMap<Name, LoadedIssuerKeys>) -> Vec<ProbeResult> {
    issuers::install_crypto_provider();
    let mut results = Vec::new();
    for (name, keys) in keys {
        if let Some(fetched) = keys.fetch().await {
            results.push(ProbeResult::IssuerKeys(FetchedIssuerKeys { issuer: name.clone(), fetched }));
        }
    }
    results
}

/// Fetches the JWKS of each keyset with identity profiles, if `url` of `[server.public]` is set. Makes one exchange for each
/// `[oauth]` profile, and for each identity profile with `[messaging]`.
///
/// The exchanges count against the login rate limits, whose counts are in `state`. Services of the same user with the same
/// directory share these counts. `subject` replaces [`PROBE_SUBJECT`].
///
/// # Errors
/// The HTTP client can't be created.
pub(crate) async fn run_probes(
    config: &Config,
    ring: &KeyRing,
    ambient: (Arc<dyn Clock>, Arc<dyn crate::clock::Randomness>),
    state: Option<PathBuf>,
    subject: Option<Subject>,
) -> Result<Vec<ProbeResult>, ExchangerBuildError> {
    let (clock, randomness) = ambient;
    let now = clock.now();
    let mut results = Vec::new();
    if let Some(url) = config.server.public.as_ref().and_then(|public| public.url.as_ref()) {
        for (name, keyset) in &ring.keysets {
            if keyset.used_by.iter().any(|user| user.kind == crate::config::ProfileKind::Identity) {
                let url = format!("{}/keysets/{name}/jwks.json", url.as_str().trim_end_matches('/'));
                let expected = Some(ExpectedJwks::from_keyset(keyset, now));
                results.push(ProbeResult::Jwks(fetch_and_compare(&url, &*clock, expected).await));
            }
        }
    }
    let metrics = Arc::new(Metrics::new());
    let signer = Arc::new(Signer::new(1, 1, None, &metrics));
    let deps = ExchangerDeps { signer, clock: clock.clone(), randomness, metrics: metrics.clone() };
    let exchanger = Exchanger::new(deps, 1 << 20, state.as_deref(), None)?;
    let profiles = Profiles::new(config, ring);
    let nobody = || Subject::parse("sub", PROBE_SUBJECT.to_owned()).expect("the constant names a subject");
    let subject = subject.unwrap_or_else(nobody);
    let trace = Trace::default();
    let ask = || {
        // The gauge keeps the skew of the last response. NaN marks that no response has set it yet.
        metrics.clock_skew.set(f64::NAN);
        FetchOptions { rejected: None, deadline: Instant::now() + PROBE_TIMEOUT, trace: &trace }
    };
    for (name, profile) in &profiles.identity {
        if profile.messaging.is_some() {
            let claims = profile.claims(Vec::new()).expect("no claim is always allowed");
            let served = exchanger.messaging_token(profile, subject.clone(), claims, ask()).await;
            results.push(exchange_result("identity", name, served, &metrics));
        }
    }
    for (name, profile) in &profiles.oauth {
        let served = exchanger.oauth_token(profile, ask()).await;
        results.push(exchange_result("oauth", name, served, &metrics));
    }
    Ok(results)
}

fn exchange_result(
    kind: &str,
    name: &Name,
    served: Result<crate::exchange::ServedToken, ExchangeError>,
    metrics: &Metrics,
) -> ProbeResult {
    let result = served.map(|served| match &served.token.metadata {
        TokenMetadata::Oauth { instance_url, .. } => {
            format!("Salesforce gave an access token for {instance_url}")
        }
        TokenMetadata::Messaging { subject, .. } => {
            format!("Salesforce verified the user: the session is {subject}")
        }
    });
    let skew = Some(metrics.clock_skew.get()).filter(|skew| !skew.is_nan());
    ProbeResult::Exchange { profile: format!("{kind}.{name}"), result, skew }
}
