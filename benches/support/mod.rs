//! The service in this process: its router is called without a socket, with a stopped clock and a fake Salesforce that accepts
//! every identity token.
//!
//! The audit log is formatted like in `serve` and discarded. So every figure includes the formatting, and none includes the writing,
//! which `serve` does in another thread.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{Request, Response, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokenmint::api::{AppState, RouteGroup, router};
use tokenmint::app::json_lines::JsonLines;
use tokenmint::app::{App, ClockAndRng, LoadedConfig};
use tokenmint::clock::{Clock as _, ManualClock, NoRandomness, Randomness, UnixTime};
use tokenmint::config::{Config, Environment};
use tower::ServiceExt as _;

/// 21 June 2026.
const NOW: UnixTime = UnixTime::from_seconds(1_782_000_000);
/// The size of an access token. Salesforce's are JWTs of about this size.
const ACCESS_TOKEN_BYTES: usize = 1000;

pub struct InProcessService {
    pub service: Arc<AppState>,
    pub clock: Arc<ManualClock>,
    router: Router,
}

/// The API key of caller number `n`.
pub fn api_key(n: usize) -> String {
    format!("tm_bench-{n:05}")
}

/// The subject of user number `n`.
pub fn subject(n: usize) -> String {
    format!("user-{n:08}")
}

impl InProcessService {
    /// A service with `callers` callers and the PKCS#8 PEM `key` for everything.
    pub async fn build(key: &str, callers: usize) -> Self {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        // The format of app::logging, without a destination.
        let _ = tracing_subscriber::fmt().with_writer(io::sink).event_format(JsonLines).try_init();

        let clock = Arc::new(ManualClock::at(NOW));
        let salesforce = salesforce(clock.clone()).await;
        let text = configuration(key, callers, &salesforce);
        let config = Config::parse("bench", &text, PathBuf::new(), &Environment::new());
        let mut config = config.unwrap_or_else(|invalid| panic!("{:?}", invalid.problems));
        // The configuration doesn't allow this, because Salesforce would lock the org out.
        config.identity.values_mut().filter_map(|profile| profile.messaging.as_mut()).for_each(|messaging| {
            messaging.requests_per_minute = usize::MAX;
        });
        let loaded = LoadedConfig::new(config, &*clock).unwrap_or_else(|problems| panic!("{problems:?}"));
        let clock_and_rng =
            ClockAndRng { clock: clock.clone(), randomness: Arc::new(CountingRandomness::default()) };
        let app = App::bind(loaded, clock_and_rng, || 0).await.expect("a port is free");
        let service = app.state().clone();
        let router = router(&service, &[RouteGroup::Minting, RouteGroup::Public, RouteGroup::Ops]);
        Self { service, clock, router }
    }

    /// Sends a request to the router, like the HTTP/1.1 parser of the service does.
    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap_or_else(|never: Infallible| match never {})
    }

    /// Requests the messaging access token of user number `n`. Returns whether it was cached. Repeats the request after a 503.
    pub async fn access_token(&self, n: usize) -> bool {
        let answer = loop {
            let answer = self.send(messaging(n)).await;
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
                break answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert_eq!(answer.status(), StatusCode::OK);
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body in memory");
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        answer["cached"].as_bool().expect("a boolean")
    }
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).header(HOST, "localhost").body(Body::empty()).expect("a well-formed request")
}

pub fn post_json(path: &str, body: &Value) -> Request<Body> {
    let bearer = format!("Bearer {}", api_key(0));
    let request = Request::post(path).header(HOST, "localhost").header(AUTHORIZATION, bearer);
    request
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .expect("a well-formed request")
}

pub fn identity(n: usize) -> Request<Body> {
    post_json("/identity-token", &json!({"sub": subject(n)}))
}

pub fn messaging(n: usize) -> Request<Body> {
    post_json("/messaging-access-token", &json!({"sub": subject(n)}))
}

fn configuration(key: &str, callers: usize, salesforce: &str) -> String {
    let mut text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
state_directory = "/dev/null" # the budget in memory
[server.limits]
token_cache = "8192 MiB"
remints_per_minute = 1000000
remint_burst = 1000000
[keysets.web]
kid = "WebAppKey1"
key = """{key}"""
[identity.web]
keyset = "web"
issuer = "intercom.com"
audience = "https://acme.my.salesforce-scrt.com"
[identity.web.messaging]
scrt_url = "{salesforce}"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
[intercom.fin]
secret = "intercom-messenger-api-secret-0123456789"
"#
    );
    for n in 0..callers {
        let digest = digest(&SHA256, api_key(n).as_bytes());
        let hex = digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let allow = r#"["identity.web", "intercom.fin"]"#;
        let _ = writeln!(text, "[callers.caller-{n:05}]\napi_key_sha256 = [\"{hex}\"]\nallow = {allow}");
    }
    text
}

/// Starts a fake Salesforce, whose messaging access tokens live ten years, and returns its URL.
async fn salesforce(clock: Arc<ManualClock>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let path = "/iamessage/api/v2/authorization/authenticated/access-token";
    let router = Router::new().route(path, post(session)).with_state(clock);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn session(State(clock): State<Arc<ManualClock>>, body: Bytes) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let request: Value = serde_json::from_slice(&body).expect("JSON");
    let identity = request["customerIdentityToken"].as_str().and_then(|token| token.split('.').nth(1));
    let claims = URL_SAFE_NO_PAD.decode(identity.expect("a JWT")).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    let subject = format!("v2/iamessage/AUTH/Web_Config/uid:{}", claims["sub"].as_str().expect("a sub"));
    let expires_at = clock.now().seconds() + 10 * 365 * 86_400;
    let claims = part(&json!({"sub": subject, "exp": expires_at, "clientId": "v1/Web_Channel/WEB"}));
    let mut token = format!("{}.{claims}.", part(&json!({"alg": "RS256", "typ": "JWT"})));
    token.extend(std::iter::repeat_n('s', ACCESS_TOKEN_BYTES - token.len()));
    json!({"accessToken": token, "lastEventId": "0", "context": {"endUser": {"subject": subject}}})
        .to_string()
}

/// A counter instead of random bytes: values don't repeat, and are the same in each run, so that instruction counts are too.
#[derive(Default)]
struct CountingRandomness(AtomicU64);

impl Randomness for CountingRandomness {
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness> {
        for chunk in into.chunks_mut(8) {
            let next = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
        Ok(())
    }
}
