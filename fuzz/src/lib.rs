//! A module for each fuzzer, whose `test_one_input` takes an input and panics where something doesn't hold; and what they share: the service as
//! production has it, beside a Salesforce whose answers they choose, and what holds of every answer, whatever was asked.
//!
//! - Requests go through the whole router. Only clock and chance are ours, so that a run repeats.
//! - `fuzz_targets` hands them to libFuzzer, whose panic hook ends the process, so that a panic counts also where the service
//!   would catch it. `tests/fuzz` is the short form without libFuzzer: it takes this file as a module of its own.

#![forbid(unsafe_code)]

mod answers;
pub mod bodies;
pub mod claims;
pub mod configuration;
pub mod http_heads;
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
use tokenmint::app::{Ambient, App, Loaded, Served};
use tokenmint::clock::{ManualClock, NoRandomness, Randomness, UnixTime};
use tokenmint::config::{Config, Environment};
use tokenmint::http::{ListenerKind, Service, router};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use answers::SECRETS;
use salesforce::Salesforce;

/// Of the caller whose requests are made up.
pub const API_KEY: &str = "tm_canary-of-the-api-key";
const HOST: &str = "tokens.example";
pub const INTERCOM_SECRET: &str = "canary-of-the-messenger-api-secret-0123456789";

const KINDS: [ListenerKind; 3] = [ListenerKind::Minting, ListenerKind::Public, ListenerKind::Ops];

/// No chance at all, so that a run repeats.
struct FixedRandomness;

impl Randomness for FixedRandomness {
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness> {
        into.fill(7);
        Ok(())
    }
}

/// An RSA key of this run, PKCS#8 PEM.
pub static KEY: LazyLock<String> = LazyLock::new(new_key);

/// aws-lc's, which is as quick here as everywhere, where the crate `rsa` is slow when it is watched.
fn new_key() -> String {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("random bytes");
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).expect("a key can be written");
    pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()))
}

/// The service, ready to be asked.
pub struct FuzzService {
    runtime: Runtime,
    router: Router,
    service: Arc<Service>,
    clock: Arc<ManualClock>,
    salesforce: Arc<Salesforce>,
    /// What it publishes.
    pub keys: Value,
    _folder: tempfile::TempDir,
}

/// An answer, read whole.
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
        let text = configuration(&salesforce.url);
        let parsed = Config::parse("tokenmint.toml", &text, folder.path().into(), &Environment::new());
        let config = parsed.unwrap_or_else(|invalid| panic!("{:?}", invalid.problems));
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_800_000_000)));
        let loaded = Loaded::new(config, &*clock).unwrap_or_else(|problems| panic!("{problems:?}"));
        let ambient = Ambient { clock: clock.clone(), randomness: Arc::new(FixedRandomness) };
        let app = runtime.block_on(App::bind(loaded, ambient, || 0)).expect("a port");
        let service = app.service().clone();
        let router = router(&service, &KINDS);
        let mut fuzz_service =
            Self { runtime, router, service, clock, salesforce, keys: Value::Null, _folder: folder };
        let published = Request::get("/.well-known/jwks.json").header("Host", HOST).body(Body::empty());
        fuzz_service.keys = fuzz_service.answer(published.expect("a request")).json();
        fuzz_service.check_one_of_each();
        fuzz_service
    }
}

impl FuzzService {
    /// Posts `body` as the caller does who may use a profile of each kind, and looks at the answer: never 5xx, and true to
    /// what was asked.
    pub fn ask(&self, route: &str, body: &[u8]) {
        // Far enough that no limit of requests a minute or logins an hour is met.
        self.clock.advance(Duration::from_secs(61));
        let answer = self.post(route, body);
        assert!(!answer.status.is_server_error(), "{route} answered {}", answer.status);
        self.check_answer(route, body, &answer);
    }

    /// Lets Salesforce say `answer`, the bytes of an HTTP answer, to a first exchange of each kind.
    pub fn exchange(&self, answer: &[u8], body: &[u8]) {
        const ROUTES: [(&str, &[u8]); 2] =
            [("/oauth-access-token", b"{}"), ("/messaging-access-token", b"{\"sub\":\"user-1\"}")];
        for (route, asked) in ROUTES {
            self.salesforce.say(Some(answer.to_vec()));
            // What it remembers of the last answer is over; a token is not kept, since all keys count as withdrawn.
            self.clock.advance(Duration::from_hours(1));
            let kids = self.service.rooms.load().ring.keys().map(|(_, key)| key.kid.clone()).collect();
            self.service.exchanger.withdraw(&kids);
            let got = self.post(route, asked);
            self.check_answer(route, asked, &got);
            answers::check_exchange(route, answer, body, &got);
        }
        self.salesforce.say(None);
    }

    /// What a listener answers with that has the routes of all.
    pub fn served(&self) -> Served {
        Served {
            kinds: &KINDS,
            router: self.router.clone(),
            metrics: self.service.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Where every request is refused, whatever is held holds.
    fn check_one_of_each(&self) {
        for (route, body) in [
            ("/identity-token", r#"{"sub":"user-1","claims":{"plan":1.5}}"#),
            ("/oauth-assertion", "{}"),
            ("/intercom-user-jwt", r#"{"user_id":"user-1","ttl":60}"#),
            ("/bundle", r#"{"sub":"user-1"}"#),
            ("/oauth-access-token", "{}"),
            ("/messaging-access-token", r#"{"sub":"user-1"}"#),
        ] {
            let answer = self.post(route, body.as_bytes());
            assert_eq!(answer.status, 200, "{route}: {}", String::from_utf8_lossy(&answer.body));
            self.check_answer(route, body.as_bytes(), &answer);
        }
    }

    fn post(&self, route: &str, body: &[u8]) -> Answer {
        let request = Request::post(route)
            .header("Host", HOST)
            .header("Authorization", format!("Bearer {API_KEY}"))
            .header("Content-Type", "application/json")
            .body(Body::from(body.to_vec()));
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

/// `closed` and `secret` are nobody's: no request may get a token of theirs.
fn configuration(salesforce: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, API_KEY.as_bytes());
    let digest = digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
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
[bundles.fin]
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"
[bundles.closed]
closed = "identity.closed"
[callers.web]
api_key_sha256 = ["{digest}"]
allow = ["identity.web", "oauth.crm", "intercom.fin", "bundles.fin"]
"#
    )
}
