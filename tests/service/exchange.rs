//! Access tokens: cache, negative cache, circuit breaker and login budget, with a clock that the test sets and a
//! fake Salesforce that counts requests.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, ManualClock, UnixTime};
use tokio::sync::Semaphore;

use crate::in_process::InProcess;
use crate::support::{
    API_KEY, Answer, CRM_KEY, KEYS, Workspace, eventually, free_port, sha256_hex, timed, unverified,
};

/// How the fake answers the next requests.
#[derive(Clone)]
pub enum Mood {
    Well,
    Error(u16, Value, Option<&'static str>),
    Text(u16, &'static str),
    Json(Value),
    Hang,
    /// Answers once the test has given a permit.
    Held(Arc<Semaphore>),
    Slow(Duration),
    SlowError(Duration, u16, Value),
    /// A token behind headers of that many bytes.
    Headers(usize),
    /// A rejection behind that many headers.
    RefusedBehind(usize),
    Endless,
    Redirect(String),
    Anonymous,
    OtherUser,
    /// A rejection that repeats parts of the signed JWT, and its subject.
    Echo,
}

/// A fake Salesforce. It counts requests and answers them as its `Mood` says.
#[derive(Clone)]
pub struct Fake(Arc<FakeState>);

pub struct FakeState {
    mood: Mutex<Mood>,
    asked: AtomicUsize,
    probed: AtomicUsize,
    assertions: Mutex<Vec<String>>,
    headers: Mutex<Vec<HeaderMap>>,
    clock: Arc<ManualClock>,
    token_life: AtomicUsize,
    /// The answer to a check of a session, and the number of checks.
    session: Mutex<(u16, &'static str)>,
    checked: AtomicUsize,
}

impl Fake {
    pub async fn start(clock: Arc<ManualClock>) -> (Self, String) {
        let fake = Self(Arc::new(FakeState {
            mood: Mutex::new(Mood::Well),
            asked: AtomicUsize::new(0),
            probed: AtomicUsize::new(0),
            assertions: Mutex::default(),
            headers: Mutex::default(),
            clock,
            token_life: AtomicUsize::new(0),
            session: Mutex::new((200, "{}")),
            checked: AtomicUsize::new(0),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answering = fake.clone();
        let base = url.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (fake, base) = (answering.clone(), base.clone());
            async move { fake.answer(request, &base).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        (fake, url)
    }

    pub fn is(&self, mood: Mood) {
        *self.0.mood.lock().expect("not poisoned") = mood;
    }

    pub fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Sets the answer to checks of sessions. They hang if the status is 0.
    pub fn answer_checks(&self, status: u16, body: &'static str) {
        *self.0.session.lock().expect("not poisoned") = (status, body);
    }

    /// The number of checks of sessions.
    pub fn checked(&self) -> usize {
        self.0.checked.load(Ordering::SeqCst)
    }

    /// The number of GET requests that probe whether the host is back.
    fn probed(&self) -> usize {
        self.0.probed.load(Ordering::SeqCst)
    }

    /// The headers of each exchange, in their order.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.0.headers.lock().expect("not poisoned").clone()
    }

    async fn answer(&self, request: Request, base: &str) -> Response {
        let mood = self.0.mood.lock().expect("not poisoned").clone();
        if request.uri().path() == "/services/oauth2/userinfo" {
            self.0.checked.fetch_add(1, Ordering::SeqCst);
            let (status, body) = *self.0.session.lock().expect("not poisoned");
            if status == 0 {
                std::future::pending::<()>().await;
            }
            return (StatusCode::from_u16(status).expect("a status"), body).into_response();
        }
        let exchange = request.method() == "POST";
        let messaging = request.uri().path().starts_with("/iamessage/");
        let headers = request.headers().clone();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
        let body = String::from_utf8_lossy(&body).into_owned();
        let n = if exchange {
            self.0.asked.fetch_add(1, Ordering::SeqCst) + 1
        } else {
            self.0.probed.fetch_add(1, Ordering::SeqCst)
        };
        if exchange {
            self.0.assertions.lock().expect("not poisoned").push(body.clone());
            self.0.headers.lock().expect("not poisoned").push(headers);
        }
        match mood {
            Mood::Error(status, body, retry_after) => {
                let status = StatusCode::from_u16(status).expect("a status");
                let retry = retry_after.map(|value| [("retry-after", value)]);
                match retry {
                    Some(retry) => (status, retry, Json(body)).into_response(),
                    None => (status, Json(body)).into_response(),
                }
            }
            Mood::Text(status, text) => {
                (StatusCode::from_u16(status).expect("a status"), text).into_response()
            }
            Mood::Json(body) => Json(body).into_response(),
            Mood::Hang => std::future::pending().await,
            Mood::Endless => {
                let chunk = || Ok::<_, std::io::Error>(vec![b' '; 8 << 10]);
                Body::from_stream(futures_util::stream::repeat_with(chunk)).into_response()
            }
            Mood::Redirect(to) => (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response(),
            Mood::Held(permits) => {
                permits.acquire().await.expect("never closed").forget();
                self.token(messaging, &body, n, base, "AUTH", None)
            }
            // The delay of a slow host, here and below.
            Mood::Slow(wait) => {
                tokio::time::sleep(wait).await;
                self.token(messaging, &body, n, base, "AUTH", None)
            }
            Mood::SlowError(wait, status, body) => {
                tokio::time::sleep(wait).await;
                (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
            }
            Mood::Headers(bytes) => {
                let mut answer = self.token(messaging, &body, n, base, "AUTH", None);
                let padding = "x".repeat(bytes).parse().expect("a value");
                answer.headers_mut().insert("x-padding", padding);
                answer
            }
            Mood::RefusedBehind(count) => {
                let no = json!({"error": "invalid_grant", "error_description": "invalid assertion"});
                let mut answer = (StatusCode::BAD_REQUEST, Json(no)).into_response();
                for n in 0..count {
                    let name = http::HeaderName::try_from(format!("x-{n}")).expect("a name");
                    answer.headers_mut().insert(name, http::HeaderValue::from_static("x"));
                }
                answer
            }
            Mood::Well => self.token(messaging, &body, n, base, "AUTH", None),
            Mood::Anonymous => self.token(messaging, &body, n, base, "ANON", None),
            Mood::Echo => {
                let jwt = body.split(['"', '=', '&']).find(|part| part.starts_with("eyJ")).expect("a JWT");
                let sub = &unverified(jwt).1["sub"];
                let description = format!("no user {} in {}", sub.as_str().expect("a sub"), &jwt[100..]);
                let key = if messaging { "message" } else { "error_description" };
                let body = json!({"error": jwt[..200], key: description});
                (StatusCode::BAD_REQUEST, Json(body)).into_response()
            }
            Mood::OtherUser => self.token(messaging, &body, n, base, "AUTH", Some("somebody-else")),
        }
    }

    fn token(
        &self,
        messaging: bool,
        body: &str,
        n: usize,
        base: &str,
        verdict: &str,
        user: Option<&str>,
    ) -> Response {
        if !messaging {
            let mut answer = json!({
                "access_token": format!("00D000000000001!token.{n}"), "token_type": "Bearer", "scope": "api",
                "instance_url": base, "id": "https://login.salesforce.com/id/00D/005",
            });
            match self.0.token_life.load(Ordering::SeqCst) {
                0 => {}
                life => answer["expires_in"] = json!(life),
            }
            return Json(answer).into_response();
        }
        let request: Value = serde_json::from_str(body).expect("JSON");
        let identity = request["customerIdentityToken"].as_str().expect("a token");
        let sub = unverified(identity).1["sub"].as_str().expect("a sub").to_owned();
        let subject = format!("v2/iamessage/{verdict}/Web_Config/uid:{}", user.unwrap_or(&sub));
        let exp = self.0.clock.now().seconds() + 3600;
        let claims = json!({"sub": subject, "exp": exp, "n": n, "clientId": request["esDeveloperName"]});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!("{}.{}.c2ln", part(&json!({"alg": "RS256"})), part(&claims));
        Json(json!({"accessToken": token, "lastEventId": "0", "context": {"endUser": {"subject": subject}}}))
            .into_response()
    }
}

/// The service in this process, with a clock that the test sets, over a real socket, with a fake Salesforce.
struct Fixture {
    fake: Fake,
    service: InProcess,
}

impl std::ops::Deref for Fixture {
    type Target = InProcess;

    fn deref(&self) -> &InProcess {
        &self.service
    }
}

impl Fixture {
    async fn start() -> Self {
        Self::with("").await
    }

    async fn with(more: &str) -> Self {
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
        let (fake, salesforce) = Fake::start(clock.clone()).await;
        Self { fake, service: InProcess::start(clock, &salesforce, more).await }
    }
}

impl Fixture {
    /// Changes a setting and reloads.
    fn reconfigure(&self, from: &str, to: &str) {
        let path = self.workspace.path("tokenmint.toml");
        let text = std::fs::read_to_string(&path).expect("a configuration");
        assert!(text.contains(from), "{from}");
        self.workspace.configure(&text.replace(from, to));
        self.reload();
    }

    /// Sets `logins_per_hour`.
    fn budget(&self, logins: usize) {
        let ttl = "access_token_ttl = \"100s\"\n";
        self.reconfigure(ttl, &format!("{ttl}logins_per_hour = {logins}\n"));
    }

    fn reject(&self, token: &Value) -> impl Future<Output = Answer> + Send + use<> {
        self.post("/oauth-access-token", API_KEY, &json!({"rejected_token": token}))
    }
}

/// The value of a metric, if there is one with that name.
async fn value(service: &InProcess, name: &str) -> Option<f64> {
    service.metric(name).await.rsplit(' ').next().and_then(|value| value.parse().ok())
}

/// Asserts a rejection with Salesforce's own error. Returns the description.
#[track_caller]
fn rejected(answer: &Answer, status: u16) -> String {
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["error"]), (502, &json!("upstream_rejected")), "{body}");
    assert_eq!(body["upstream"]["status"], status, "{body}");
    body["error_description"].as_str().expect("text").to_owned()
}

/// The number of exchanges with that outcome, by the service's metrics.
async fn exchanges(service: &InProcess, outcome: &str) -> f64 {
    let name = format!("tokenmint_exchanges_total{{outcome=\"{outcome}\"");
    value(service, &name).await.unwrap_or_default()
}

/// Sends a few requests one after the other. Service, fake and test share one thread, so background tasks of
/// earlier requests have run when these are answered.
async fn round_trips(service: &InProcess) {
    for _ in 0..5 {
        service.get("/livez").await.ok();
    }
}

#[tokio::test]
async fn an_oauth_access_token_is_exchanged_once_and_then_cached() {
    let service = Fixture::start().await;
    let first = service.oauth().await;
    let body = first.ok();
    assert_eq!(body["access_token"], "00D000000000001!token.1");
    assert_eq!([&body["token_type"], &body["scope"]], ["Bearer", "api"]);
    assert_eq!(body["instance_url"].as_str().map(|url| url.starts_with("http://127.0.0.1")), Some(true));
    // The answer has no lifetime, so `access_token_ttl` applies.
    assert_eq!([&body["expires_in"], &body["cached"]], [&json!(100), &json!(false)]);
    assert_eq!(first.header("cache-control"), "no-store");
    assert!(!first.headers.contains_key("etag"));
    service.pass(10);
    let again = service.oauth().await.ok();
    assert_eq!([&again["access_token"], &again["cached"]], [&body["access_token"], &json!(true)]);
    assert_eq!(again["expires_in"], 90);
    assert_eq!(service.fake.asked(), 1);
    let sent = service.fake.0.assertions.lock().expect("not poisoned")[0].clone();
    assert!(
        sent.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion="),
        "{sent}"
    );
}

#[tokio::test]
async fn a_messaging_access_token_is_the_user_s_own_and_verified() {
    let service = Fixture::start().await;
    let body = service.messaging("user-1").await.ok();
    assert_eq!(body["verified"], true);
    assert_eq!(body["subject"], "v2/iamessage/AUTH/Web_Config/uid:user-1");
    assert_eq!(body["last_event_id"], "0");
    // The token's own `exp` counts.
    assert_eq!(body["expires_in"], 3600);
    assert_ne!(service.messaging("user-2").await.ok()["access_token"], body["access_token"]);
    let again = service.messaging("user-1").await.ok();
    assert_eq!([&again["access_token"], &again["cached"]], [&body["access_token"], &json!(true)]);
    // Other claims are another token.
    let other = json!({"sub": "user-1", "claims": {"plan": "pro"}});
    let other = service.post("/messaging-access-token", API_KEY, &other).await.ok();
    assert_ne!(other["access_token"], body["access_token"]);
    assert_eq!(service.fake.asked(), 3);
    let sent = service.fake.0.assertions.lock().expect("not poisoned")[0].clone();
    let sent: Value = serde_json::from_str(&sent).expect("JSON");
    assert_eq!(sent["orgId"], "00D000000000001");
    assert_eq!(sent["esDeveloperName"], "Web_Channel");
    assert_eq!(
        [&sent["authorizationType"], &sent["platform"], &sent["capabilitiesVersion"]],
        ["JWT", "Web", "1"]
    );
    assert_eq!(sent["context"]["appName"], "tokenmint");
}

#[tokio::test]
async fn an_anonymous_session_or_another_user_s_is_unverified_and_not_cached() {
    let service = Fixture::start().await;
    for (mood, says) in [(Mood::Anonymous, "JWKS"), (Mood::OtherUser, "another user's")] {
        service.fake.is(mood);
        let answer = service.messaging("user-1").await;
        let description = answer.refused(502, "unverified", None);
        assert!(description.contains(says), "{description}");
        assert!(!answer.text.contains("accessToken") && !answer.text.contains("somebody-else"));
        assert_eq!(service.metric("tokenmint_token_cache_entries").await, "tokenmint_token_cache_entries 0");
        service.pass(61);
    }
    assert_eq!(service.fake.asked(), 2);
    service.fake.is(Mood::Well);
    service.messaging("user-1").await.ok();
    let counted = service.metric(r#"tokenmint_exchanges_total{outcome="unverified""#).await;
    assert!(counted.ends_with(" 2"), "{counted}");
}

/// Only this test tells a cache behind the authorization from one in front of it.
#[tokio::test]
async fn a_cache_hit_never_skips_authorization() {
    let service = Fixture::start().await;
    service.oauth().await.ok();
    service.messaging("user-1").await.ok();
    let oauth = service.post("/oauth-access-token", CRM_KEY, &json!({})).await;
    oauth.refused(403, "access_denied", Some("profile"));
    let messaging = json!({"sub": "user-1", "profile": "web"});
    service.post("/messaging-access-token", CRM_KEY, &messaging).await.refused(
        403,
        "access_denied",
        Some("profile"),
    );
    let no_channel = service.post("/messaging-access-token", CRM_KEY, &json!({"sub": "user-1"})).await;
    no_channel.refused(400, "invalid_request", Some("profile"));
    service.post("/oauth-access-token", "wrong", &json!({})).await.refused(401, "invalid_client", None);
}

#[tokio::test]
async fn a_thousand_concurrent_callers_cause_one_exchange_cold_and_at_expiry() {
    let service = Fixture::start().await;
    service.fake.is(Mood::Slow(Duration::from_millis(300)));
    for round in 1..=2 {
        let asks: Vec<_> = (0..1000).map(|_| tokio::spawn(service.oauth_one_of_many())).collect();
        for ask in asks {
            let token = ask.await.expect("no panic").ok()["access_token"].clone();
            assert_eq!(token, format!("00D000000000001!token.{round}"));
        }
        assert_eq!(service.fake.asked(), round);
        service.pass(101);
    }
}

/// moka's own coalescing cancels the exchange with the first caller: twenty disconnects would be twenty logins.
#[tokio::test]
async fn a_caller_that_disconnects_neither_cancels_nor_repeats_the_exchange() {
    let service = Fixture::start().await;
    let permits = Arc::new(Semaphore::new(0));
    service.fake.is(Mood::Held(permits.clone()));
    let asks: Vec<_> = (0..200).map(|_| tokio::spawn(service.oauth_one_of_many())).collect();
    eventually("Salesforce is asked", async || service.fake.asked() > 0).await;
    eventually("some wait for its answer", async || {
        value(&service, "tokenmint_connections{listener=\"minting\"}").await.is_some_and(|open| open > 50.0)
    })
    .await;
    asks.iter().for_each(tokio::task::JoinHandle::abort);
    for ask in asks {
        assert!(ask.await.is_err_and(|error| error.is_cancelled()), "it was answered before");
    }
    eventually("all have hung up", async || {
        value(&service, "tokenmint_connections{listener=\"minting\"}").await.is_some_and(|open| open < 2.0)
    })
    .await;
    permits.add_permits(1);
    eventually("the exchange is done", async || exchanges(&service, "success").await >= 1.0).await;
    assert_eq!(service.oauth().await.ok()["cached"], true);
    assert_eq!(service.fake.asked(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_in_the_background_and_the_old_one_serves_if_that_fails() {
    let service = Fixture::start().await;
    service.oauth().await.ok();
    service.pass(64);
    service.oauth().await.ok();
    // An exchange for another user takes longer than the start of a renewal would.
    service.messaging("user-1").await.ok();
    assert_eq!(service.fake.asked(), 2, "not before 65 % of its life");
    service.fake.is(Mood::Hang);
    service.pass(12);
    for _ in 0..20 {
        assert_eq!(service.oauth().await.ok()["access_token"], "00D000000000001!token.1");
    }
    assert!(exchanges(&service, "timeout").await <= 0.0, "nobody waits for the renewal, which hangs");
    eventually("the token is renewed", async || service.fake.asked() > 2).await;
    assert_eq!(service.fake.asked(), 3, "one renewal, however many hits");
    eventually("the renewal has failed", async || exchanges(&service, "timeout").await >= 1.0).await;
    service.fake.is(Mood::Well);
    assert_eq!(
        service.oauth().await.ok()["access_token"],
        "00D000000000001!token.1",
        "it has failed, and is waited for"
    );
    assert_eq!(service.fake.asked(), 3);
    service.pass(5);
    eventually("the token is renewed", async || {
        service.oauth().await.ok()["access_token"] == "00D000000000001!token.4"
    })
    .await;
}

#[tokio::test]
async fn a_token_expires_by_whichever_clock_says_so_first() {
    let service = Fixture::start().await;
    service.oauth().await.ok();
    // The wall clock is set back an hour. The monotonic clock goes on.
    service.clock.set(UnixTime::from_seconds(service.clock.now().seconds() - 3600));
    service.pass(101);
    assert_eq!(service.oauth().await.ok()["cached"], false);
    // Then it is set forward a day.
    service.clock.set(UnixTime::from_seconds(service.clock.now().seconds() + 86_400));
    assert_eq!(service.oauth().await.ok()["cached"], false);
    assert_eq!(service.fake.asked(), 3);
}

#[tokio::test]
async fn the_lifetime_is_the_one_that_salesforce_returns_if_any() {
    let service = Fixture::start().await;
    service.fake.0.token_life.store(7200, Ordering::SeqCst);
    assert_eq!(service.oauth().await.ok()["expires_in"], 7200);
    service.pass(7201);
    let exp = service.clock.now().seconds() + 500;
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
    let jwt = format!("e30.{claims}.c2ln");
    service.fake.is(Mood::Json(
        json!({"access_token": jwt, "instance_url": "https://acme.my.salesforce.com", "expires_in": "7200"}),
    ));
    assert_eq!(service.oauth().await.ok()["expires_at"], exp);
    service.pass(501);
    let past = service.oauth().await;
    assert!(rejected(&past, 200).contains("expired already"), "{}", past.text);
    service.pass(3700);
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": service.clock.now().seconds() + 100}).to_string());
    let sooner = json!({
        "access_token": format!("e30.{claims}.c2ln"), "instance_url": "https://acme.my.salesforce.com", "expires_in": 50,
    });
    service.fake.is(Mood::Json(sooner));
    assert_eq!(service.oauth().await.ok()["expires_in"], 50, "of two ends the sooner");
    for (expires_in, life) in [(json!(2.9), 2), (json!("90.0"), 90), (json!(9e1), 90)] {
        service.pass(3700);
        service.fake.is(Mood::Json(json!({
            "access_token": "opaque", "instance_url": "https://acme.my.salesforce.com", "expires_in": expires_in,
        })));
        assert_eq!(service.oauth().await.ok()["expires_in"], life, "{expires_in}");
    }
    for (exp, expires_in) in
        [(json!("soon"), json!(90)), (Value::Null, json!("soon")), (Value::Null, json!(true))]
    {
        service.pass(3700);
        let claims = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
        service.fake.is(Mood::Json(json!({
            "access_token": format!("e30.{claims}.c2ln"), "instance_url": "https://acme.my.salesforce.com",
            "expires_in": expires_in,
        })));
        let unclear = service.oauth().await;
        assert!(rejected(&unclear, 200).contains("is no number"), "{exp} {expires_in}: {}", unclear.text);
    }
}

/// The server accepts the connection and never answers the TLS handshake, so no login was made.
#[tokio::test]
async fn a_connection_that_is_never_made_costs_no_login() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("https://{}", silent.local_addr().expect("an address"));
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &address, "").await;
    let answer = service.oauth().await;
    let said = answer.refused(503, "upstream_unavailable", None);
    assert!(said.contains("the connection or its TLS handshake failed"), "{said}");
    let used = "tokenmint_login_budget_used_ratio{profile=\"oauth.crm\"}";
    assert_eq!(value(&service, used).await, Some(0.0));
    assert_eq!(service.metric("tokenmint_exchanges_total").await, "", "nothing was sent");
}

/// The failures of one user don't delay others, and don't open the circuit of the host.
#[tokio::test]
async fn failures_of_one_user_do_not_block_others() {
    let service = Fixture::start().await;
    service.fake.is(Mood::Text(500, "trouble"));
    for _ in 0..4 {
        service.messaging("user-1").await.refused(503, "upstream_unavailable", None);
        service.pass(10);
    }
    assert_eq!(service.fake.asked(), 3, "that one waits");
    service.fake.is(Mood::Well);
    service.messaging("user-2").await.ok();
    service.messaging("user-3").await.ok();
    assert_eq!(service.fake.asked(), 5);
}

/// One host closes the connection after each request, the other's answers are no HTTP.
#[tokio::test]
async fn a_host_that_closes_connections_without_an_answer_opens_the_circuit() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for (answer, says, requests) in
        [("", "was reached, but", 6), ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "not HTTP/1.1", 3)]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let salesforce = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = vec![0; 8 << 10];
                let length = connection.read(&mut request).await.unwrap_or(0);
                counted.fetch_add(usize::from(request[..length].starts_with(b"POST")), Ordering::SeqCst);
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
        let service = InProcess::start(clock, &salesforce, "").await;
        for _ in 0..3 {
            let refused = service.oauth().await;
            assert!(refused.refused(503, "upstream_unavailable", None).contains(says), "{}", refused.text);
            service.pass(10);
        }
        for _ in 0..3 {
            let refused = service.oauth().await;
            assert!(refused.text.contains("sends it no requests for a moment"), "{}", refused.text);
            service.pass(10);
        }
        assert_eq!(seen.load(Ordering::SeqCst), requests, "{says}");
    }
}

/// The budget is one login and the connection breaks. The message names the connection, and not the budget.
#[tokio::test]
async fn an_exchange_that_cannot_be_sent_again_says_why_it_failed() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let salesforce = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 8 << 10]).await;
        }
    });
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &salesforce, "").await;
    let path = service.workspace.path("tokenmint.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let ttl = "access_token_ttl = \"100s\"\n";
    service.workspace.configure(&text.replace(ttl, &format!("{ttl}logins_per_hour = 1\n")));
    service.reload();
    let said = service.oauth().await.refused(503, "upstream_unavailable", None);
    assert!(said.contains("the connection broke"), "{said}");
}

/// The host closes the connection of the first request and refuses the connection of the retry. The login of the
/// first request may have been made, so the message doesn't say that Salesforce can't be reached.
#[tokio::test]
async fn an_exchange_whose_retry_cannot_connect_counts_as_sent() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let salesforce = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        drop(listener);
        let _ = connection.read(&mut [0; 8 << 10]).await;
    });
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &salesforce, "").await;
    let said = service.oauth().await.refused(503, "upstream_unavailable", None);
    assert!(said.contains("Salesforce was reached, but the connection broke"), "{said}");
    let used = value(&service, "tokenmint_login_budget_used_ratio{profile=\"oauth.crm\"}").await;
    assert!(used > Some(0.0), "the first request is counted: {used:?}");
    let sent = value(&service, "tokenmint_exchanges_total{outcome=\"unavailable\"").await;
    assert_eq!(sent, Some(1.0));
    assert_eq!(service.metric("tokenmint_exchanges_not_sent_total").await, "", "one request was sent");
}

#[tokio::test]
async fn a_rejected_token_is_dropped_once_however_many_callers_report_it() {
    let service = Fixture::start().await;
    let token = service.oauth().await.ok()["access_token"].clone();
    let rejected = json!({"rejected_token": token});
    let asks: Vec<_> =
        (0..50).map(|_| tokio::spawn(service.post("/oauth-access-token", API_KEY, &rejected))).collect();
    for ask in asks {
        assert_eq!(ask.await.expect("no panic").ok()["access_token"], "00D000000000001!token.2");
    }
    assert_eq!(service.fake.asked(), 2);
    // Reporting a token that isn't cached drops nothing.
    for other in ["00D000000000001!token.1", "x", ""] {
        let body = service.post("/oauth-access-token", API_KEY, &json!({"rejected_token": other})).await.ok();
        assert_eq!(body["cached"], true);
    }
    service.post("/oauth-access-token", API_KEY, &json!({"rejected_token": 1})).await.refused(
        400,
        "invalid_request",
        Some("rejected_token"),
    );
    assert_eq!(service.fake.asked(), 2);
}

#[tokio::test]
async fn a_rejection_by_salesforce_is_explained_and_cached_for_a_minute() {
    let service = Fixture::start().await;
    let no = json!({"error": "invalid_grant", "error_description": "user hasn't approved this consumer"});
    service.fake.is(Mood::Error(400, no, None));
    for _ in 0..20 {
        let answer = service.oauth().await;
        let body = answer.json();
        assert_eq!((answer.status.as_u16(), &body["error"]), (502, &json!("upstream_rejected")));
        assert_eq!(
            body["upstream"],
            json!({"status": 400, "error": "invalid_grant", "error_description": "user hasn't approved this consumer"})
        );
        let description = body["error_description"].as_str().expect("text");
        assert!(
            description.contains("pre-authorized")
                && description.contains("aud https://login.salesforce.com"),
            "{description}"
        );
        service.pass(2);
    }
    assert_eq!(service.fake.asked(), 1);
    service.fake.is(Mood::Well);
    service.pass(61);
    service.oauth().await.ok();
    // Each attempt has an assertion and a jti of its own.
    let sent = service.fake.0.assertions.lock().expect("not poisoned").clone();
    assert_ne!(sent[0], sent[1]);
}

#[tokio::test]
async fn retry_after_is_honoured_between_one_second_and_fifteen_minutes() {
    const FAR_DATE: &str = "Fri, 31 Dec 2100 23:59:59 GMT";
    for (status, value, wait) in [
        (429, "7", 7),
        (503, "7", 7),
        (429, "0", 1),
        (503, "0", 1),
        (429, "86400", 900),
        (503, "315360000", 900),
        (429, FAR_DATE, 900),
        (503, FAR_DATE, 900),
        (429, "Sun, 06 Nov 1994 08:49:37 GMT", 1),
    ] {
        let service = Fixture::start().await;
        service.fake.is(Mood::Error(status, json!({"error": "x"}), Some(value)));
        let answer = service.oauth().await;
        answer.json();
        assert_eq!(
            (answer.status.as_u16(), answer.header("retry-after")),
            (503, wait.to_string().as_str()),
            "{value}"
        );
        service.fake.is(Mood::Well);
        service.pass(wait - 1);
        assert_eq!(service.oauth().await.status.as_u16(), 503, "{value}: too early");
        service.pass(1);
        service.oauth().await.ok();
        assert_eq!(service.fake.asked(), 2, "{value}");
    }
    for garbage in ["soon", "-1", ""] {
        let service = Fixture::start().await;
        service.fake.is(Mood::Error(503, json!({"error": "x"}), Some(garbage)));
        let wait = service.oauth().await.header("retry-after").parse::<u64>().expect("seconds");
        assert!((1..=2).contains(&wait), "{garbage}: {wait}");
    }
}

/// An outage of half an hour in steps of a second. Cached tokens are served, Salesforce gets at most forty
/// requests, and a new token comes within thirty seconds of the end.
#[tokio::test]
async fn an_outage_costs_few_requests_and_ends_within_thirty_seconds() {
    let service = Fixture::start().await;
    service.messaging("long-lived").await.ok();
    service.oauth().await.ok();
    let before = service.fake.asked();
    service.fake.is(Mood::Error(503, json!({"error": "service_unavailable"}), None));
    service.pass(101);
    for second in 0..1800 {
        if second % 10 == 0 {
            assert_eq!(service.messaging("long-lived").await.ok()["cached"], true, "{second}");
            let probed = service.fake.probed();
            let answer = service.oauth().await;
            answer.header("retry-after");
            assert_eq!(answer.status.as_u16(), 503, "{second}: {}", answer.text);
            if answer.text.contains("sends it no requests for a moment") {
                eventually("a bare GET asks whether it is back", async || service.fake.probed() > probed)
                    .await;
            }
        }
        service.pass(1);
    }
    let attempts = service.fake.asked() - before;
    assert!(attempts <= 40, "{attempts}");
    assert!(service.fake.probed() > 20, "{}", service.fake.probed());
    service.fake.is(Mood::Well);
    let mut fresh = None;
    for second in 0..30 {
        if service.oauth().await.status.is_success() {
            fresh = Some(second);
            break;
        }
        round_trips(&service).await;
        service.pass(1);
    }
    assert!(fresh.is_some(), "no fresh token within 30 s of the end");
}

/// Invalid answers: none is cached, no redirect is followed, and the caller sees nothing of them.
#[tokio::test]
async fn an_invalid_response_is_neither_cached_nor_returned() {
    let trap = Fake::start(Arc::new(ManualClock::at(UnixTime::from_seconds(0)))).await;
    let good = |change: &dyn Fn(&mut Value)| {
        let mut body = json!({"access_token": "canary-token", "token_type": "Bearer", "instance_url": "https://acme.my.salesforce.com"});
        change(&mut body);
        Mood::Json(body)
    };
    let cases: Vec<(&str, Mood)> = vec![
        ("html", Mood::Text(200, "<html>canary-token</html>")),
        ("nothing", Mood::Text(200, "")),
        ("no object", Mood::Json(json!(["canary-token"]))),
        ("no token", good(&|body| body["access_token"] = json!(null))),
        ("a number", good(&|body| body["access_token"] = json!(12_345))),
        ("line feeds", good(&|body| body["access_token"] = json!("canary-token\r\nX: y"))),
        ("an endless token", good(&|body| body["access_token"] = json!("canary-token".repeat(2000)))),
        ("another type", good(&|body| body["token_type"] = json!("mac"))),
        ("no instance", good(&|body| body["instance_url"] = json!(null))),
        (
            "a foreign instance",
            good(&|body| body["instance_url"] = json!("https://salesforce.com.evil.example")),
        ),
        (
            "a member twice",
            Mood::Text(
                200,
                r#"{"access_token":"canary-token","access_token":"b","token_type":"Bearer","instance_url":"https://a.my.salesforce.com"}"#,
            ),
        ),
        ("an endless body", Mood::Endless),
        ("a redirect", Mood::Redirect(trap.1.clone())),
        ("html and 404", Mood::Text(404, "<html>canary-token</html>")),
    ];
    for (name, mood) in cases {
        let service = Fixture::start().await;
        service.fake.is(mood);
        let answer = service.oauth().await;
        let status = if name.ends_with("404") {
            404
        } else if name == "a redirect" {
            307
        } else {
            200
        };
        rejected(&answer, status);
        assert!(!answer.text.contains("canary-token"), "{name}: {}", answer.text);
        service.fake.is(Mood::Well);
        service.pass(60);
        assert_eq!(service.oauth().await.ok()["cached"], false, "{name}");
    }
    assert_eq!(trap.0.asked() + trap.0.probed(), 0, "a redirect was followed");
}

#[tokio::test]
async fn a_salesforce_that_hangs_is_a_504_and_slows_down_nothing_else() {
    let _timed = timed();
    let service = Fixture::start().await;
    service.fake.is(Mood::Hang);
    let start = std::time::Instant::now();
    let asks: Vec<_> = (0..50).map(|_| tokio::spawn(service.oauth())).collect();
    eventually("Salesforce is asked", async || service.fake.asked() > 0).await;
    for _ in 0..20 {
        service.post("/identity-token", API_KEY, &json!({"sub": "user-1"})).await.ok();
    }
    let ready = Answer::of(service.client.get(format!("{}/readyz", service.url))).await;
    assert_eq!(ready.status.as_u16(), 200, "ready means that it can mint");
    assert!(!asks.iter().any(tokio::task::JoinHandle::is_finished), "minting waited for Salesforce");
    for ask in asks {
        let answer = ask.await.expect("no panic");
        answer.refused(504, "upstream_timeout", None);
    }
    // All callers waited for one exchange, and not for several in a row.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(service.fake.asked(), 1);
}

/// Whether a request has its head and, by `Content-Length`, its body.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        length.is_some_and(|length| length.parse() == Ok(body.len()))
    })
}

/// The other side may close a kept connection at any time.
#[tokio::test]
async fn a_connection_that_salesforce_has_closed_costs_no_exchange() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let salesforce = format!("http://{}", listener.local_addr().expect("bound"));
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &salesforce, "").await;
    let answers = tokio::spawn(async move {
        for n in 0..20 {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !is_whole(&request) {
                let mut piece = [0; 4096];
                let length = connection.read(&mut piece).await.expect("a request");
                request.extend(&piece[..length]);
            }
            let body = json!({
                "access_token": format!("00D000000000001!token.{n}"), "token_type": "Bearer", "scope": "api",
                "instance_url": salesforce, "id": "https://login.salesforce.com/id/00D/005",
            });
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            // The answer promises to keep the connection, which is closed nevertheless.
            connection.write_all((head + &body).as_bytes()).await.expect("written");
        }
    });
    for n in 0..20 {
        let token = service.oauth().await.ok()["access_token"].clone();
        assert_eq!(token, format!("00D000000000001!token.{n}"));
        service.pass(101);
    }
    answers.await.expect("no panic");
}

#[tokio::test]
async fn logins_are_budgeted_far_below_salesforce_s_limit() {
    let service = Fixture::start().await;
    service.budget(30);
    let mut asked = 0;
    // A token with a lifetime of 100 s is exchanged 36 times an hour.
    for n in 1..=36 {
        let answer = service.oauth().await;
        if answer.status.is_success() {
            asked = n;
        } else {
            answer.refused(503, "upstream_unavailable", None);
            assert!(answer.text.contains("budget"), "{}", answer.text);
            break;
        }
        service.pass(100);
    }
    assert_eq!((asked, service.fake.asked()), (30, 30));
    let used = "tokenmint_login_budget_used_ratio{profile=\"oauth.crm\"}";
    assert_eq!(value(&service, used).await, Some(1.0));
    // The metric falls with time, without another request.
    service.pass(1800);
    assert!(value(&service, used).await.is_some_and(|used| used < 0.6));
    service.oauth().await.ok();
}

#[tokio::test]
async fn a_caller_that_reports_rejections_cannot_exhaust_the_login_budget() {
    let service = Fixture::start().await;
    service.budget(20);
    let mut token = service.oauth().await.ok()["access_token"].clone();
    for n in 0..20 {
        let body = service.reject(&token).await.ok();
        // The first three reports cause an exchange. After that the token is kept, and the answer says so.
        assert_eq!(body.get("rejected_token_kept"), (n >= 3).then_some(&json!(true)), "{n}: {body}");
        assert_eq!(body["access_token"] == token, n >= 3, "{n}");
        token = body["access_token"].clone();
        assert_eq!(service.oauth().await.ok()["access_token"], token, "the others have it too");
    }
    assert_eq!(service.fake.asked(), 4);
    service.pass(30);
    let next = service.reject(&token).await.ok();
    assert!(
        next["access_token"] != token && next.get("rejected_token_kept").is_none(),
        "one in 30 s: {next}"
    );
    let kept = "tokenmint_rejected_tokens_kept_total{profile=\"oauth.crm\",reason=\"pace\"}";
    assert_eq!(value(&service, kept).await, Some(17.0));
}

/// A Salesforce that repeats the request in its error can't put a token or a subject into answers, and so into logs of callers.
#[tokio::test]
async fn an_answer_has_no_token_or_subject_that_salesforce_repeats() {
    let service = Fixture::start().await;
    service.fake.is(Mood::Echo);
    let answer = service.messaging("customer-4711").await;
    let upstream = &answer.json()["upstream"];
    assert_eq!(
        *upstream,
        json!({"status": 400, "error": "[token]", "error_description": "no user [subject] in [token]"})
    );
    assert!(!answer.text.contains("4711") && !answer.text.contains("eyJ"), "{}", answer.text);
    let answer = service.oauth().await;
    let description = "no user integration@acme.com in [token]";
    assert_eq!(
        answer.json()["upstream"],
        json!({"status": 400, "error": "[token]", "error_description": description})
    );
}

/// Reports use at most half of the budget, however small it is and however long they go on. The rest is for renewals.
#[tokio::test]
async fn reports_of_rejected_tokens_use_at_most_half_of_the_budget() {
    for budget in [1, 2, 4, 5, 9_u32] {
        let service = Fixture::start().await;
        let settings = format!("access_token_ttl = \"55m\"\nlogins_per_hour = {budget}\n");
        service.reconfigure("access_token_ttl = \"100s\"\n", &settings);
        let mut token = service.oauth().await.ok()["access_token"].clone();
        for _ in 0..20 {
            token = service.reject(&token).await.ok()["access_token"].clone();
            service.pass(31);
        }
        let half = budget.div_ceil(2);
        assert_eq!(u32::try_from(service.fake.asked()), Ok(half), "of {budget}");
        let kept = "tokenmint_rejected_tokens_kept_total{profile=\"oauth.crm\",reason=\"budget\"}";
        assert_eq!(value(&service, kept).await, Some(f64::from(21 - half)), "of {budget}");
        // A report that isn't honoured neither counts as a failure nor holds up a renewal.
        let not_sent = "tokenmint_exchanges_not_sent_total{profile=\"oauth.crm\",reason=\"budget\"}";
        assert_eq!(value(&service, not_sent).await, None, "of {budget}");
        service.pass(3500 - 20 * 31);
        let renewed = service.oauth().await;
        assert_eq!(renewed.status.as_u16(), if budget == 1 { 503 } else { 200 }, "of {budget}");
    }
    // The messaging API has a budget of its own, for all users of an org.
    let service = Fixture::start().await;
    service.reconfigure("requests_per_minute = 200", "requests_per_minute = 4");
    let mut token = service.messaging("user-1").await.ok()["access_token"].clone();
    for _ in 0..3 {
        let report = json!({"sub": "user-1", "rejected_token": token});
        let answer = service.post("/messaging-access-token", API_KEY, &report).await.ok();
        token = answer["access_token"].clone();
    }
    assert_eq!(service.fake.asked(), 2);
    service.messaging("user-2").await.ok();
    service.messaging("user-3").await.ok();
    assert_eq!(service.messaging("user-4").await.status.as_u16(), 503);
}

#[tokio::test]
async fn a_rejected_token_is_dropped_only_where_another_replaces_it() {
    let service = Fixture::start().await;
    service.budget(4);
    let first = service.oauth().await.ok()["access_token"].clone();
    // Salesforce is unavailable: the reporting caller gets an error, and the others keep the token.
    service.fake.is(Mood::Error(503, json!({"error": "service_unavailable"}), None));
    assert_eq!(service.reject(&first).await.status.as_u16(), 503);
    assert_eq!(service.oauth().await.ok()["access_token"], first);
    service.fake.is(Mood::Well);
    service.pass(31);
    // Half of the budget is used now. The token may still be valid and is kept.
    let body = service.reject(&first).await.ok();
    assert_eq!([&body["access_token"], &body["rejected_token_kept"]], [&first, &json!(true)]);
    assert_eq!(service.oauth().await.ok()["access_token"], first);
    assert_eq!(service.fake.asked(), 2);
}

/// A key that doesn't sign yet and an unreachable host cost no login.
#[tokio::test]
async fn what_is_never_sent_costs_no_login() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &nobody, "").await;
    let used = "tokenmint_login_budget_used_ratio{profile=\"oauth.crm\"}";
    for _ in 0..2 {
        let answer = service.oauth().await;
        assert!(
            answer.refused(503, "upstream_unavailable", None).contains("can't be reached"),
            "{}",
            answer.text
        );
        service.pass(10);
    }
    assert_eq!(value(&service, used).await, Some(0.0));
    let unsigned = Fixture::start().await;
    let from = UnixTime::from_seconds(unsigned.clock.now().seconds() + 1000);
    // In an emergency, a reload may leave no signing key.
    let schedule = format!("[[key]]\nkid = \"CrmKey1\"\nsign_from = {from}\nemergency = true\n");
    unsigned.workspace.write("keys/crm/keyset.toml", &schedule);
    unsigned.reload();
    for _ in 0..5 {
        unsigned.oauth().await.refused(503, "temporarily_unavailable", None);
        unsigned.pass(2);
    }
    assert!(value(&unsigned, used).await.is_none_or(|used| used <= 0.0));
    assert_eq!(unsigned.fake.asked(), 0);
    let not_sent = "tokenmint_exchanges_not_sent_total{profile=\"oauth.crm\",reason=\"not_minted\"}";
    assert_eq!(value(&unsigned, not_sent).await, Some(5.0));
    assert_eq!(unsigned.metric("tokenmint_exchanges_total").await, "", "nothing was sent");
}

/// A file size limit of 0 acts like a full disk, and needs no root.
#[tokio::test]
async fn with_a_full_disk_the_login_limit_counts_in_memory() {
    let now = tokenmint::clock::SystemClock::default().now();
    let (fake, salesforce) = Fake::start(Arc::new(ManualClock::at(now))).await;
    let workspace = Workspace::new();
    let channel = format!(
        "[identity.web.messaging]\nscrt_url = \"{salesforce}\"\norg_id = \"00D000000000001\"\n\
         es_developer_name = \"Web_Channel\"\nrequests_per_minute = 3\n"
    );
    let text = crate::support::configuration()
        .replacen("[identity.web512]", &format!("{channel}[identity.web512]"), 1)
        .replacen("[server]\n", "[server]\nstate_directory = \"state\"\n", 1);
    workspace.configure(&text);
    let service = workspace.serve_after("trap '' XFSZ; ulimit -f 0").await;
    let mut served = 0;
    for n in 0..12 {
        let answer = service.post("/messaging-access-token", &json!({"sub": format!("user-{n}")})).await;
        served += usize::from(answer.status.is_success());
    }
    assert_eq!((served, fake.asked()), (3, 3));
    let metrics = service.metrics().await;
    assert!(metrics.contains("tokenmint_login_budget_write_failures_total 3"), "{metrics}");
}

/// Errors that concern one profile and not the host: a missing page, a foreign host, an expired token.
#[tokio::test]
async fn a_failing_profile_does_not_open_the_circuit_of_its_host() {
    let foreign = json!({"access_token": "x", "instance_url": "https://evil.example"});
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": 1}).to_string());
    let over = json!({"access_token": format!("e30.{claims}.c2ln"), "instance_url": "https://acme.my.salesforce.com"});
    // The cause stands behind the part of the text that is shown, and the status is 500.
    let long = format!("{} audience is invalid", "so sorry ".repeat(40));
    let wordy = json!({"error": "invalid_grant", "error_description": long});
    for (mood, says) in [
        (Mood::Error(500, wordy, None), "does not take this `audience`"),
        (Mood::Text(404, "<html>no such page</html>"), "404"),
        (Mood::Json(foreign), "evil.example"),
        (Mood::Json(over), "expired already"),
        (Mood::Redirect("https://evil.example/x".to_owned()), "evil.example"),
        (Mood::Error(400, json!({"error": "server_error"}), None), "Salesforce failed"),
    ] {
        let service = Fixture::start().await;
        service.fake.is(mood);
        for n in 1..=4 {
            let answer = service.oauth().await;
            assert!(answer.text.contains(says), "{says}: {}", answer.text);
            if answer.status.as_u16() == 502 {
                service.pass(20);
                service.oauth().await;
                assert_eq!(
                    service.fake.asked(),
                    n,
                    "{says}: what is permanent isn't tried again every few seconds"
                );
            }
            service.pass(60);
        }
        service.fake.is(Mood::Well);
        service.messaging("user-1").await.ok();
    }
}

/// Some parsers end the host at `\@`, and others begin it there.
#[tokio::test]
async fn urls_are_returned_as_they_were_validated() {
    let good = json!({
        "access_token": "x", "token_format": "jwt", "instance_url": "https://acme.my.salesforce.com",
        "api_instance_url": "https://api.salesforce.com", "id": "https://login.salesforce.com/id/00D/005",
    });
    let service = Fixture::start().await;
    service.fake.is(Mood::Json(good.clone()));
    let body = service.oauth().await.ok();
    for name in ["token_format", "instance_url", "api_instance_url", "id"] {
        assert_eq!(body[name], good[name], "{name}");
    }
    for written in ["https://ACME.my.salesforce.com:443", "https://acme.my.salesforce.com/"] {
        let service = Fixture::start().await;
        let mut body = good.clone();
        body["instance_url"] = json!(written);
        service.fake.is(Mood::Json(body));
        assert_eq!(service.oauth().await.ok()["instance_url"], good["instance_url"], "{written}");
    }
    for name in ["instance_url", "api_instance_url", "id"] {
        for bad in [
            "https://acme.my.salesforce.com\\@evil.example",
            "https://user@acme.my.salesforce.com",
            "https://acme.my.salesforce.com\t",
            "https://evil.example",
            "https:\\\\acme.my.salesforce.com",
        ] {
            let service = Fixture::start().await;
            let mut body = good.clone();
            body[name] = json!(bad);
            service.fake.is(Mood::Json(body));
            let answer = service.oauth().await;
            assert!(rejected(&answer, 200).contains(name), "{name} {bad}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_request_that_salesforce_keeps_waiting_is_a_timeout_and_no_overload() {
    let service = Fixture::with("[server.limits]\nrequest_timeout = \"1s\"\n").await;
    service.fake.is(Mood::Slow(Duration::from_millis(1500)));
    let answer = service.oauth().await;
    answer.refused(504, "upstream_timeout", None);
    assert_eq!(answer.header("retry-after"), "1");
    // The exchange goes on, and its token serves the next request.
    eventually("the token is exchanged", async || service.oauth().await.status.is_success()).await;
    assert_eq!(service.fake.asked(), 1);
}

/// In real time: the cache drops a token at its end, even without a request.
#[tokio::test]
async fn expired_tokens_leave_the_cache() {
    let service = Fixture::start().await;
    service.fake.0.token_life.store(1, Ordering::SeqCst);
    service.oauth().await.ok();
    let entries = "tokenmint_token_cache_entries";
    assert_eq!(value(&service, entries).await, Some(1.0));
    eventually("the token has left the cache", async || value(&service, entries).await == Some(0.0)).await;
}

#[tokio::test]
async fn a_full_cache_stores_a_new_token() {
    let service = Fixture::with("[server.limits]\ntoken_cache = \"64 KiB\"\n").await;
    for n in 0..200 {
        // The first tokens are requested repeatedly.
        service.messaging(&format!("user-{}", n % 20)).await.ok();
    }
    service.pass(61);
    for n in 0..150 {
        let sub = format!("newcomer-{n}");
        service.messaging(&sub).await.ok();
        assert_eq!(service.messaging(&sub).await.ok()["cached"], true, "{sub}");
    }
}

#[tokio::test]
async fn a_returned_lifetime_is_bounded_and_counted_by_the_clock_with_less_left() {
    let service = Fixture::start().await;
    // The value is in milliseconds, like Salesforce's own command line writes it.
    let exp = (service.clock.now().seconds() + 7200) * 1000;
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
    service.fake.is(Mood::Json(
        json!({"access_token": format!("e30.{claims}.c2ln"), "instance_url": "https://acme.my.salesforce.com"}),
    ));
    assert_eq!(service.oauth().await.ok()["expires_in"], 86_400);
    service.pass(100);
    // The wall clock is set back an hour.
    service.clock.set(UnixTime::from_seconds(service.clock.now().seconds() - 3600));
    assert_eq!(service.oauth().await.ok()["expires_in"], 86_300);
}

/// Metrics count exchanges that were sent. Series of a removed profile are removed.
#[tokio::test]
async fn metrics_count_sent_exchanges_of_configured_profiles() {
    let service = Fixture::start().await;
    service.budget(1);
    service.oauth().await.ok();
    service.pass(101);
    for _ in 0..3 {
        service.oauth().await.refused(503, "upstream_unavailable", None);
        service.pass(11);
    }
    let text = Answer::of(service.client.get(format!("{}/metrics", service.url))).await.text;
    let exchanges: Vec<&str> =
        text.lines().filter(|line| line.starts_with("tokenmint_exchanges_total")).collect();
    assert_eq!(exchanges, ["tokenmint_exchanges_total{outcome=\"success\",profile=\"oauth.crm\"} 1"]);
    assert_eq!(value(&service, "tokenmint_exchange_duration_seconds_count{").await, Some(1.0));
    let refused = "tokenmint_exchanges_not_sent_total{profile=\"oauth.crm\",reason=\"budget\"}";
    assert_eq!(value(&service, refused).await, Some(3.0));
    service.reconfigure(
        "allow = [\"identity.web\", \"oauth.crm\"]",
        "allow = [\"identity.web\", \"oauth.erp\"]",
    );
    service.reconfigure("[oauth.crm]", "[oauth.erp]");
    let text = Answer::of(service.client.get(format!("{}/metrics", service.url))).await.text;
    let left: Vec<&str> = text.lines().filter(|line| line.contains("profile=\"oauth.crm\"")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The error is recognized by its text with any status. Only that user waits.
#[tokio::test]
async fn a_user_over_the_login_rate_is_not_retried_for_fifteen_minutes() {
    for (status, error, description) in [
        (400, "LOGIN_RATE_EXCEEDED", "login rate exceeded"),
        (400, "invalid_grant", "LOGIN_RATE_EXCEEDED"),
        (503, "login_rate_exceeded", ""),
    ] {
        let service = Fixture::start().await;
        service.fake.is(Mood::Error(status, json!({"error": error, "error_description": description}), None));
        let answer = service.oauth().await;
        assert!(answer.text.contains("logged in too often"), "{}", answer.text);
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "900"));
        service.fake.is(Mood::Well);
        service.messaging("user-1").await.ok();
        for _ in 0..14 {
            service.pass(60);
            assert_eq!(service.oauth().await.status.as_u16(), 503);
        }
        assert_eq!(service.fake.asked(), 2);
        service.pass(60);
        service.oauth().await.ok();
    }
}

#[tokio::test]
async fn an_answer_with_too_large_headers_is_refused() {
    let service = Fixture::start().await;
    service.fake.is(Mood::Headers(300 << 10));
    let answer = service.oauth().await;
    assert!(!answer.status.is_success() && !answer.text.contains("token.1"), "{}", answer.text);
    service.fake.is(Mood::Headers(8 << 10));
    service.pass(61);
    service.oauth().await.ok();
    service.pass(3600);
    service.fake.is(Mood::RefusedBehind(100));
    // Proxies add headers of their own.
    let refused = service.oauth().await;
    rejected(&refused, 400);
    assert_eq!(refused.json()["upstream"]["error_description"], "invalid assertion");
}

/// A thousand users, one request each: the cache and the number of exchanges stay bounded.
#[tokio::test]
async fn a_thousand_users_stay_within_cache_and_login_limit() {
    let service = Fixture::with("[server.limits]\ntoken_cache = \"64 KiB\"\n").await;
    let mut served = 0;
    for n in 0..1000 {
        let answer = service.messaging(&format!("user-{n}")).await;
        if answer.status.is_success() {
            served += 1;
        } else {
            answer.refused(503, "upstream_unavailable", None);
        }
        if n % 100 == 99 {
            service.pass(20);
        }
    }
    // The limit is 200 a minute, and the requests take three minutes and twenty seconds of the test's clock.
    assert_eq!(served, service.fake.asked());
    assert!((600..=800).contains(&served), "{served}");
    let entries = value(&service, "tokenmint_token_cache_entries").await.expect("a number");
    assert!(entries * 400.0 < f64::from(64 << 10), "{entries}");
}

/// A step of a day expires every token. Each is exchanged once, within the budget, whatever the number of callers.
#[tokio::test]
async fn a_forward_jump_of_the_clock_costs_one_exchange_per_token() {
    let service = Fixture::start().await;
    for n in 0..20 {
        service.messaging(&format!("user-{n}")).await.ok();
    }
    assert_eq!(service.fake.asked(), 20);
    service.clock.set(UnixTime::from_seconds(service.clock.now().seconds() + 86_400));
    let ask = |n: usize| service.messaging(&format!("user-{}", n % 20));
    let mut unanswered: Vec<usize> = (0..200).collect();
    while !unanswered.is_empty() {
        let asks: Vec<_> = unanswered.into_iter().map(|n| (n, tokio::spawn(ask(n)))).collect();
        unanswered = Vec::new();
        let mut pause = 0;
        for (n, asked) in asks {
            let answer = asked.await.expect("no panic");
            // A busy machine may not sign in time. The service caches that failure for a second of the test's clock.
            if answer.status == 503 && answer.json()["error"] == "overloaded" {
                pause = answer.header("retry-after").parse().expect("seconds");
                unanswered.push(n);
            } else {
                answer.ok();
            }
        }
        // Once for all of them: after a minute, the limit below would allow more.
        service.pass(pause);
    }
    assert_eq!(service.fake.asked(), 40);
    // The limit per minute uses the monotonic clock, so the jump doesn't reset it.
    for n in 20..200 {
        service.messaging(&format!("user-{n}")).await;
    }
    assert_eq!(service.fake.asked(), 200);
}

/// A fake Salesforce on the level of bytes. `answer` gets the number of the connection, of the request on it, and
/// the request. It returns the bytes to write and whether the connection stays open.
async fn raw_salesforce<F: Future<Output = (String, bool)> + Send>(
    answer: impl Fn(usize, usize, String) -> F + Clone + Send + Sync + 'static,
) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let salesforce = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        for number in 1.. {
            let Ok((mut connection, _)) = listener.accept().await else { return };
            let answer = answer.clone();
            tokio::spawn(async move {
                for n in 1.. {
                    let mut request = Vec::new();
                    let whole = |request: &[u8]| {
                        let text = String::from_utf8_lossy(request).to_lowercase();
                        let length = text.split("content-length: ").nth(1)?.split('\r').next()?;
                        Some(request.len() >= text.find("\r\n\r\n")? + 4 + length.parse::<usize>().ok()?)
                    };
                    while whole(&request) != Some(true) {
                        if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let request = String::from_utf8_lossy(&request).into_owned();
                    let (answer, goes_on) = answer(number, n, request).await;
                    connection.write_all(answer.as_bytes()).await.expect("written");
                    if !goes_on {
                        return;
                    }
                }
            });
        }
    });
    salesforce
}

fn raw_json(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Salesforce closes a kept connection while the next request is sent on it. Without a whole response head the
/// request is repeated once, with a new token, over a new connection. With a head it isn't repeated.
#[tokio::test]
async fn an_exchange_is_retried_once_if_the_connection_closes_before_the_head() {
    for (ending, requests) in [
        ("", 4),
        ("HTTP/1.1 200 OK\r\nContent-", 4),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"accessToken\"", 3),
    ] {
        kept_connections_end(ending, requests).await;
    }
}

/// The second request on each of two connections gets `ending`, and the connection is closed. Three tokens take
/// `expected` requests.
async fn kept_connections_end(ending: &'static str, expected: usize) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, both_open) = (requests.clone(), Arc::new(tokio::sync::Barrier::new(2)));
    let salesforce = raw_salesforce(move |connection, n, request| {
        let body = request.split_once("\r\n\r\n").expect("a whole request").1;
        let body: Value = serde_json::from_str(body).expect("a request for a messaging token");
        let identity_token = body["customerIdentityToken"].as_str().expect("a token").to_owned();
        let sub = unverified(&identity_token).1["sub"].as_str().expect("a subject").to_owned();
        seen.lock().expect("not poisoned").push(identity_token);
        let both_open = both_open.clone();
        async move {
            if n > 1 {
                return (ending.to_owned(), false);
            }
            if connection <= 2 {
                both_open.wait().await;
            }
            let session = format!("v2/iamessage/AUTH/Web_Config/uid:{sub}");
            let context = json!({"endUser": {"subject": session}});
            let body = json!({"accessToken": format!("token.{sub}"), "lastEventId": "0", "context": context});
            (raw_json(&body), true)
        }
    })
    .await;
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &salesforce, "").await;
    let (one, two) = tokio::join!(service.messaging("user-1"), service.messaging("user-2"));
    one.ok();
    two.ok();
    service.pass(1);
    let third = service.messaging("user-3").await;
    let tokens = requests.lock().expect("not poisoned").clone();
    assert_eq!(tokens.len(), expected, "{ending:?}");
    if expected == 3 {
        third.refused(503, "upstream_unavailable", None);
        third.header("retry-after");
        return;
    }
    third.ok();
    assert_eq!(value(&service, "tokenmint_exchanges_total{outcome=\"success\"").await, Some(3.0));
}

/// An answer doesn't name its login. A duplicate that a proxy sends must not be used.
#[tokio::test]
async fn a_duplicated_response_is_not_used_for_another_login() {
    let logins = Arc::new(Mutex::new(Vec::new()));
    let seen = logins.clone();
    let salesforce = raw_salesforce(move |connection, n, request| {
        let base = request
            .to_lowercase()
            .split("host: ")
            .nth(1)
            .and_then(|rest| rest.split('\r').next().map(str::to_owned));
        let base = format!("http://{}", base.expect("a host"));
        seen.lock().expect("not poisoned").push((connection, n));
        let body = json!({"access_token": format!("token.{connection}.{n}"), "instance_url": base});
        std::future::ready((raw_json(&body).repeat(2), true))
    })
    .await;
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, &salesforce, "").await;
    for login in 1..=5 {
        let token = service.oauth().await.ok()["access_token"].clone();
        assert_eq!(token, format!("token.{login}.1"));
        service.pass(101);
    }
    assert_eq!(*logins.lock().expect("not poisoned"), (1..=5).map(|n| (n, 1)).collect::<Vec<_>>());
}

/// A thousand users of two profiles, while tokens are renewed and evicted. Each caller gets only its user's token.
#[tokio::test]
async fn no_token_ever_reaches_another_user() {
    // The cache is too small for all, so tokens are evicted.
    let service = Arc::new(Fixture::with("[server.limits]\ntoken_cache = \"256 KiB\"\n").await);
    let mut readers = Vec::new();
    for reader in 0..8_u64 {
        let service = service.clone();
        readers.push(tokio::spawn(async move {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for n in 0..250_u64 {
                let sub = format!("user-{}", (n * 7 + reader * 131) % 1000);
                let (profile, channel) =
                    if n % 2 == 0 { ("web", "Web_Channel") } else { ("shop", "Shop_Channel") };
                let body = json!({"sub": sub, "profile": profile});
                let answer = service.post("/messaging-access-token", "both", &body).await;
                if answer.status.is_success() {
                    let body = answer.json();
                    let claims = unverified(body["access_token"].as_str().expect("a token")).1;
                    assert_eq!(claims["sub"], format!("v2/iamessage/AUTH/Web_Config/uid:{sub}"));
                    assert_eq!(body["subject"], claims["sub"]);
                    assert_eq!(claims["clientId"], channel);
                    *seen.entry(sub).or_default() += 1;
                } else {
                    answer.refused(503, "upstream_unavailable", None);
                }
                if n % 10 == 0 {
                    service.pass(7);
                }
            }
            seen.values().sum::<usize>()
        }));
    }
    let mut served = 0;
    for reader in readers {
        served += reader.await.expect("no token of another");
    }
    assert!(served > 1000, "{served}");
    // A token takes more than 300 bytes, and there are 2,000 of them.
    let entries = service.metric("tokenmint_token_cache_entries ").await;
    let entries: usize = entries.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
    assert!((1..(256 << 10) / 300).contains(&entries), "the cache is bounded: {entries}");
}

/// Each setting that affects an access token is part of its cache key, and not just the profile's name.
#[tokio::test]
async fn a_profile_that_changes_under_its_name_gets_a_token_of_its_own() {
    let service = Fixture::start().await;
    let file = service.workspace.path("tokenmint.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    let cached = async || {
        let (oauth, messaging) = (service.oauth().await.ok(), service.messaging("user-1").await.ok());
        [oauth["cached"] == true, messaging["cached"] == true]
    };
    assert_eq!(cached().await, [false, false]);
    for (before, after, is_kept) in [
        ("3MVG9.consumer", "3MVG9.other", [false, true]),
        ("integration@acme.com", "other@acme.com", [false, true]),
        ("https://login.salesforce.com", "https://test.salesforce.com", [false, true]),
        ("issuer = \"intercom.com\"", "issuer = \"other.com\"", [true, false]),
        ("keyset = \"web\"\n", "keyset = \"web\"\naudience = \"other\"\n", [true, false]),
        ("00D000000000001", "00D000000000003", [true, false]),
        ("Web_Channel", "Other_Channel", [true, false]),
    ] {
        service.workspace.configure(&text.replacen(before, after, 1));
        service.reload();
        assert_eq!(cached().await, is_kept, "{after}");
        service.workspace.configure(&text);
        service.reload();
        assert_eq!(cached().await, [true, true], "as before {after}");
    }
}

#[tokio::test]
async fn exchanges_and_returned_tokens_leave_audit_lines_without_the_token() {
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let (_fake, salesforce) = Fake::start(clock).await;
    let workspace = Workspace::new();
    let endpoint = format!("audience = \"https://login.salesforce.com\"\ntoken_url = \"{salesforce}/t\"\n");
    let text = crate::support::configuration()
        .replacen("audience = \"https://login.salesforce.com\"\n", &endpoint, 1)
        .replacen("[server]\n", "[server]\nstate_directory = \"state\"\n", 1);
    workspace.configure(&text);
    let service = workspace.serve().await;
    let token = service.post("/oauth-access-token", &json!({})).await.ok()["access_token"].clone();
    let token = token.as_str().expect("a token");
    let read = |line: String| serde_json::from_str::<Value>(&line).expect("JSON");
    let exchanged = read(service.logged("\"exchanged\"").await);
    assert_eq!([&exchanged["profile"], &exchanged["outcome"]], ["oauth.crm", "success"]);
    let handed_out = read(service.logged("handed out").await);
    assert_eq!([&handed_out["caller"], &handed_out["profile"]], ["web", "oauth.crm"]);
    assert_eq!(handed_out["token_sha256"], sha256_hex(token));
    assert!(!service.whole_log().await.contains(token));
}

/// Gives `oauth.crm` a key directory with two keys. The second signs from `from` on, and the entry of the first has
/// the line `first`.
pub fn two_keys(service: &InProcess, from: i64, first: &str) {
    service.workspace.write_key("keys/crm/CrmKey2.key", &KEYS.spare[0]);
    let schedule = format!(
        "[[key]]\nkid = \"CrmKey1\"\nsign_from = 2026-01-01T00:00:00Z\n{first}\n[[key]]\nkid = \"CrmKey2\"\nsign_from = {}\nemergency = true\n",
        UnixTime::from_seconds(from)
    );
    service.workspace.write("keys/crm/keyset.toml", &schedule);
    service.reload();
}

/// A rejection that depends on the key is forgotten as soon as another key signs, and not by a reload alone.
#[tokio::test]
async fn a_cached_rejection_ends_when_another_key_signs() {
    let service = Fixture::start().await;
    let now = service.clock.now().seconds();
    two_keys(&service, now + 10, "");
    service.fake.is(Mood::Error(
        400,
        json!({"error": "invalid_grant", "error_description": "invalid assertion"}),
        None,
    ));
    assert_eq!(service.oauth().await.json()["error"], "upstream_rejected");
    service.fake.is(Mood::Well);
    let path = service.workspace.path("tokenmint.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    service.workspace.configure(&text.replace("requests_per_minute = 200", "requests_per_minute = 199"));
    service.reload();
    assert_eq!(service.oauth().await.json()["error"], "upstream_rejected");
    assert_eq!(service.fake.asked(), 1, "a reload is no reason to ask again");
    service.pass(11);
    service.oauth().await.ok();
    assert_eq!(service.fake.asked(), 2);
}

/// Failures of another user, and a probe that finds the host back, don't end the wait of a rate-limited login.
#[tokio::test]
async fn the_recovery_of_a_host_does_not_end_a_rate_limit() {
    let service = Fixture::start().await;
    service.fake.is(Mood::Error(403, json!({"error": "login_rate_exceeded"}), Some("900")));
    assert_eq!(service.oauth().await.json()["upstream"]["error"], "login_rate_exceeded");
    service.fake.is(Mood::Text(500, "trouble"));
    for _ in 0..3 {
        assert_eq!(service.messaging("user-1").await.status, 503);
        service.pass(10);
    }
    eventually("the host is asked whether it is back", async || {
        service.messaging("user-1").await;
        service.pass(1);
        service.fake.probed() > 0
    })
    .await;
    service.fake.is(Mood::Well);
    eventually("the host is back", async || {
        service.pass(1);
        service.messaging("user-1").await.status.is_success()
    })
    .await;
    let asked = service.fake.asked();
    assert_eq!(service.oauth().await.json()["upstream"]["error"], "login_rate_exceeded");
    assert_eq!(service.fake.asked(), asked);
}

/// Access tokens stay valid after the rotation of the key that they were obtained with.
#[tokio::test]
async fn a_rotation_causes_no_exchange() {
    let service = Fixture::start().await;
    let now = service.clock.now().seconds();
    two_keys(&service, now + 10, "");
    let first = service.oauth().await.ok()["access_token"].clone();
    service.pass(20);
    let again = service.oauth().await.ok();
    assert_eq!((&again["access_token"], &again["cached"]), (&first, &json!(true)));
    let asked = json!({"rejected_token": first});
    service.post("/oauth-access-token", API_KEY, &asked).await.ok();
    let sent = service.fake.0.assertions.lock().expect("not poisoned").clone();
    let assertion = |form: &String| form.split_once("assertion=").expect("a form").1.to_owned();
    let kids: Vec<Value> = sent.iter().map(|form| unverified(&assertion(form)).0["kid"].clone()).collect();
    assert_eq!(kids, ["CrmKey1", "CrmKey2"]);
}

/// A token that was obtained with a leaked key isn't returned any more.
#[tokio::test]
async fn access_tokens_obtained_with_a_retired_key_are_dropped() {
    let service = Fixture::start().await;
    let now = service.clock.now().seconds();
    two_keys(&service, now + 1_000_000, "");
    let first = service.oauth().await.ok()["access_token"].clone();
    assert_eq!(service.oauth().await.ok()["cached"], true);
    two_keys(&service, now, "retired = true");
    let next = service.oauth().await.ok();
    assert_eq!(next["cached"], false);
    assert_ne!(next["access_token"], first);
    assert_eq!(service.metric("tokenmint_token_cache_entries").await, "tokenmint_token_cache_entries 1");
}

/// A retirement can leave a profile without a key until the next reload. Failures in between aren't cached beyond
/// it.
#[tokio::test]
async fn a_failure_to_mint_is_forgotten_once_other_keys_sign() {
    let service = Fixture::start().await;
    let now = service.clock.now().seconds();
    two_keys(&service, now + 1_000_000, "retired = true");
    let none = service.oauth().await;
    assert_eq!(none.status, 503, "{}", none.text);
    two_keys(&service, now, "retired = true");
    service.oauth().await.ok();
}

/// The exchange began before the reload that removed the key, and another reload came before its end.
#[tokio::test]
async fn a_token_whose_key_is_retired_during_the_exchange_is_not_cached() {
    let service = Fixture::start().await;
    let now = service.clock.now().seconds();
    two_keys(&service, now + 1_000_000, "");
    service.fake.is(Mood::Slow(Duration::from_millis(500)));
    let first = tokio::spawn(service.oauth());
    eventually("Salesforce is asked", async || service.fake.asked() == 1).await;
    two_keys(&service, now, "retired = true");
    let waiting = tokio::spawn(service.oauth());
    service.reload();
    assert_eq!(
        first.await.expect("no panic").ok()["access_token"],
        "00D000000000001!token.1",
        "it ends on the old state"
    );
    assert_eq!(waiting.await.expect("no panic").ok()["access_token"], "00D000000000001!token.2");
    assert_eq!(service.oauth().await.ok()["access_token"], "00D000000000001!token.2");
}
