//! The fuzz targets: a module each, whose `test_one_input` panics if an invariant is broken. They share the service with its
//! production code, a fake Salesforce with chosen responses, and the invariants of every response.
//!
//! - Requests go through the whole router. The clock and the random bytes are fixed, so that a run is reproducible.
//! - `fuzz_targets` connects the modules to libFuzzer. Its panic hook ends the process, so that a panic counts even if the service
//!   would catch it.
//! - `tests/fuzz` runs the modules briefly without libFuzzer, and includes this file as a module.

#![forbid(unsafe_code)]

mod answers;
pub mod bodies;
pub mod claims;
pub mod configuration;
pub mod forms;
pub mod http_heads;
pub mod jwts;
pub mod key_files;
pub mod keyset_toml;
mod salesforce;
pub mod salesforce_answers;

use std::future::Future;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokenmint::api::{AppState, RouteGroup, router};
use tokenmint::app::{App, ClockAndRng, ListenerDeps, LoadedConfig};
use tokenmint::clock::{ManualClock, NoRandomness, Randomness, UnixTime};
use tokenmint::config::{Config, Environment};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use answers::SECRETS;
use salesforce::Salesforce;

/// The API key of the caller that sends the fuzzed requests.
pub const API_KEY: &str = "tm_canary-of-the-api-key";
const HOST: &str = "tokens.example";
/// The API key of a caller that must send a subject token.
pub const PROVEN_KEY: &str = "tm_canary-of-the-proven-key";
/// The secret with which the issuer of JWTs signs.
pub const ISSUER_SECRET: &str = "canary-of-the-issuers-secret-0123456789";
pub const HS256_SECRET: &str = "canary-of-another-shared-secret-0123456789";
pub const INTERCOM_SECRET: &str = "canary-of-the-messenger-api-secret-0123456789";

const GROUPS: [RouteGroup; 3] = [RouteGroup::Minting, RouteGroup::Public, RouteGroup::Ops];

/// Constant bytes instead of random bytes, so that a run is reproducible.
struct FixedRandomness;

impl Randomness for FixedRandomness {
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness> {
        into.fill(7);
        Ok(())
    }
}

/// An RSA key of this run, in PKCS#8 PEM.
pub static KEY: LazyLock<String> = LazyLock::new(new_key);

/// Generates a key with aws-lc, because the crate `rsa` is slow when it is instrumented.
fn new_key() -> String {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("random bytes");
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).expect("a key can be written");
    pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()))
}

/// The service, its router, and a fake Salesforce.
pub struct FuzzService {
    runtime: Runtime,
    router: Router,
    service: Arc<AppState>,
    clock: Arc<ManualClock>,
    salesforce: Arc<Salesforce>,
    /// The published JWK Set.
    pub keys: Value,
    _folder: tempfile::TempDir,
}

/// A complete response.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("an answer in JSON")
    }
}

impl Default for FuzzService {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let salesforce = runtime.block_on(Salesforce::start());
        write(&folder.path().join("keys/web/WebAppKey1.key"), &KEY);
        write(&folder.path().join("keys/crm/CrmKey1.key"), &new_key());
        write(&folder.path().join("issuer.secret"), ISSUER_SECRET);
        let text = configuration(&salesforce.url);
        let parsed = Config::parse("tokenmint.toml", &text, folder.path().into(), &Environment::new());
        let config = parsed.unwrap_or_else(|invalid| panic!("{:?}", invalid.problems));
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_800_000_000)));
        let loaded = LoadedConfig::new(config, &*clock).unwrap_or_else(|problems| panic!("{problems:?}"));
        let clock_and_rng = ClockAndRng { clock: clock.clone(), randomness: Arc::new(FixedRandomness) };
        let app = runtime.block_on(App::bind(loaded, clock_and_rng, || 0)).expect("a port");
        let service = app.state().clone();
        let router = router(&service, &GROUPS);
        let mut fuzz_service =
            Self { runtime, router, service, clock, salesforce, keys: Value::Null, _folder: folder };
        let published = Request::get("/.well-known/jwks.json").header("Host", HOST).body(Body::empty());
        fuzz_service.keys = fuzz_service.answer(published.expect("a request")).json();
        fuzz_service.check_one_of_each();
        fuzz_service
    }
}

impl FuzzService {
    /// Posts `body` as a caller that may use a profile of each kind. Checks that the response isn't 5xx and matches the request.
    pub fn ask(&self, route: &str, body: &[u8]) {
        // Keeps the rate below every limit per minute.
        self.clock.advance(Duration::from_secs(61));
        let answer = self.post(route, body);
        assert!(!answer.status.is_server_error(), "{route} answered {}", answer.status);
        self.check_answer(route, body, &answer);
    }

    /// Makes an exchange of each kind, to which Salesforce sends `answer`, the bytes of an HTTP response with the body `body`.
    pub fn exchange(&self, answer: &[u8], body: &[u8]) {
        const ROUTES: [(&str, &[u8]); 2] =
            [("/oauth-access-token", b"{}"), ("/messaging-access-token", b"{\"sub\":\"user-1\"}")];
        for (route, asked) in ROUTES {
            self.salesforce.say(Some(answer.to_vec()));
            // Remembered failures have expired after an hour. Cached tokens are dropped, because all keys count as revoked.
            self.clock.advance(Duration::from_hours(1));
            let kids = self.service.snapshot.load().ring.keys().map(|(_, key)| key.kid.clone()).collect();
            self.service.exchanger.revoke_keys(&kids);
            let got = self.post(route, asked);
            self.check_answer(route, asked, &got);
            answers::check_exchange(route, answer, body, &got);
        }
        self.salesforce.say(None);
    }

    /// The parts that serve a connection, for a listener with all routes, a minute after the last one.
    pub fn listener_deps(&self) -> ListenerDeps {
        // Keeps the rate below every limit per minute.
        self.clock.advance(Duration::from_secs(61));
        ListenerDeps {
            groups: &GROUPS,
            router: self.router.clone(),
            metrics: self.service.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Checks that each endpoint accepts a valid request. If all requests failed, the other checks would pass for nothing.
    fn check_one_of_each(&self) {
        for (route, body) in [
            ("/identity-token", r#"{"sub":"user-1","claims":{"plan":1.5}}"#),
            ("/oauth-assertion", "{}"),
            ("/intercom-user-jwt", r#"{"user_id":"user-1","ttl":60}"#),
            ("/hs256-token", r#"{"sub":"user-1","claims":{"plan":1.5}}"#),
            ("/bundle", r#"{"sub":"user-1"}"#),
            ("/oauth-access-token", "{}"),
            ("/messaging-access-token", r#"{"sub":"user-1"}"#),
        ] {
            let answer = self.post(route, body.as_bytes());
            assert_eq!(answer.status, 200, "{route}: {}", String::from_utf8_lossy(&answer.body));
            self.check_answer(route, body.as_bytes(), &answer);
        }
        let form = format!("grant_type=client_credentials&client_id=web&client_secret={API_KEY}");
        assert_eq!(self.post_form("/oauth2/token", form.as_bytes()).status, 200);
    }

    fn post(&self, route: &str, body: &[u8]) -> Answer {
        self.post_as(API_KEY, route, body)
    }

    /// Posts `body` with any Bearer credential.
    pub fn post_as(&self, credential: &str, route: &str, body: &[u8]) -> Answer {
        let request = Request::post(route)
            .header("Host", HOST)
            .header("Authorization", format!("Bearer {credential}"))
            .header("Content-Type", "application/json")
            .body(Body::from(body.to_vec()));
        self.answer(request.expect("a request"))
    }

    /// Posts a form without a credential in the head.
    pub fn post_form(&self, route: &str, form: &[u8]) -> Answer {
        let request = Request::post(route)
            .header("Host", HOST)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(Body::from(form.to_vec()));
        self.answer(request.expect("a request"))
    }

    fn answer(&self, request: Request<Body>) -> Answer {
        self.run(async {
            let Ok(answer) = self.router.clone().oneshot(request).await;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.expect("a body from memory").to_bytes().to_vec();
            Answer { status: parts.status, headers: parts.headers, body }
        })
    }
}

fn write(path: &Path, pem: &str) {
    std::fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder");
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.expect("a new file"), pem.as_bytes()).expect("written");
}

/// The caller may not use any profile named `closed`, so that no request may get a token of it.
fn configuration(salesforce: &str) -> String {
    let digest = |api_key: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, api_key.as_bytes());
        digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    };
    let (digest, proven) = (digest(API_KEY), digest(PROVEN_KEY));
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
state_directory = "/dev/null/the login budget is kept in memory"
[keysets.web]
directory = "keys/web"
[keysets.crm]
directory = "keys/crm"
[identity.web]
keyset = "web"
issuer = "open"
audience = "https://acme.my.salesforce-scrt.com"
ttl = "10m"
max_ttl = "1h"
claims = ["plan", "locale"]
[identity.web.messaging]
scrt_url = "{salesforce}"
org_id = "00D000000000001"
es_developer_name = "Web"
[identity.closed]
keyset = "web"
issuer = "closed"
[oauth.crm]
keyset = "crm"
consumer_key = "open"
username = "integration@acme.com"
audience = "https://login.salesforce.com"
token_url = "{salesforce}/services/oauth2/token"
[intercom.fin]
secret = "{INTERCOM_SECRET}"
ttl = "10m"
max_ttl = "1h"
claims = ["plan", "locale"]
[intercom.closed]
secret = "{INTERCOM_SECRET}-of-nobody"
[hs256.zendesk]
secret = "{HS256_SECRET}"
kid = "app_1"
subject_claim = "external_id"
fixed_claims = {{ scope = "user" }}
ttl = "10m"
max_ttl = "1h"
claims = ["plan", "locale"]
[hs256.closed]
secret = "{HS256_SECRET}-of-nobody"
subject_claim = "closed"
[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"
[bundles.closed]
closed = "identity.closed"
[callers.web]
api_key_sha256 = ["{digest}"]
allow = ["identity.web", "oauth.crm", "intercom.fin", "hs256.zendesk", "bundles.fin"]
[issuers.corp]
issuer = "corp"
audience = ["app"]
secret_file = "issuer.secret"
[callers.proven]
api_key_sha256 = ["{proven}"]
allow = ["identity.web"]
subject_token = "required"
subject_issuer = "corp"
[callers.workload]
jwt_issuer = "corp"
jwt_claims = {{ sub = ["job"] }}
allow = ["identity.web"]
"#
    )
}
