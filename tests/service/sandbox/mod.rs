//! The sandbox over HTTP. The inputs are signed by jsonwebtoken with keys of rcgen, and not by tokenmint.

mod chat;
mod command;
mod faults;
mod login;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, ManualClock, UnixTime};
use tokenmint::sandbox::{self, ConnectedApp, Deployment, Fault, KeySource, Org, Sandbox, Settings};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::support::{self, Answer};

pub const START: i64 = 1_790_000_000;
pub const CONSUMER_KEY: &str = "3MVG9.sandbox";
pub const USER: &str = "integration@acme.com";
pub const ISSUER: &str = "https://acme.example";
pub const TOKEN: &str = "/services/oauth2/token";
pub const MESSAGING: &str = "/iamessage/api/v2/authorization/authenticated/access-token";

/// A key and its certificate, made by rcgen.
pub struct Pair {
    pub pem: String,
    pub certificate: Vec<u8>,
}

/// The right pair, and another one.
pub static PAIRS: LazyLock<[Pair; 2]> = LazyLock::new(|| {
    LazyLock::force(&support::KEYS);
    [2048, 2048].map(|_| {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        Pair { pem: key.serialize_pem(), certificate: certificate.der().to_vec() }
    })
});

impl Pair {
    pub fn jwk(&self, kid: &str) -> Value {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).expect("a certificate");
        let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() else { panic!("an RSA key") };
        let number = |bytes: &[u8]| {
            let bytes: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            URL_SAFE_NO_PAD.encode(bytes)
        };
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": number(key.modulus),
            "e": number(key.exponent), "x5c": [STANDARD.encode(&self.certificate)],
        })
    }
}

/// Signs with jsonwebtoken.
pub fn sign(pair: &Pair, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    let key = EncodingKey::from_rsa_pem(pair.pem.as_bytes()).expect("a key");
    jsonwebtoken::encode(&header, claims, &key).expect("a token")
}

/// A sandbox on its own port, stopped on drop.
pub struct Played {
    pub sandbox: Sandbox,
    pub clock: Arc<ManualClock>,
    pub url: String,
    pub client: reqwest::Client,
    _stop: DropGuard,
}

pub async fn play(org: Org) -> Played {
    play_with(org, Settings::default()).await
}

pub async fn play_with(org: Org, settings: Settings) -> Played {
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(START)));
    let sandbox = Sandbox::new(org, clock.clone(), settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    tokio::spawn(sandbox::serve(listener, sandbox.clone(), stop.clone()));
    let policy = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder().no_proxy().redirect(policy).build().expect("a client");
    Played { sandbox, clock, url, client, _stop: stop.drop_guard() }
}

impl Played {
    pub fn now(&self) -> i64 {
        self.clock.now().seconds()
    }

    /// Posts an assertion in a JWT bearer grant.
    pub async fn login(&self, assertion: &str) -> Answer {
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)];
        Answer::of(self.client.post(self.at(TOKEN)).form(&form)).await
    }

    /// Logs in as an authorized user.
    pub async fn session(&self) -> String {
        let granted = self.login(&assertion(&json!({}), self.now())).await.ok();
        granted["access_token"].as_str().expect("a token").to_owned()
    }

    pub async fn chat(&self, identity_token: &str) -> Answer {
        self.post(MESSAGING, &chat_request(identity_token)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.client.post(self.at(path)).json(body)).await
    }

    pub async fn get(&self, path: &str, bearer: &str) -> Answer {
        Answer::of(self.client.get(self.at(path)).bearer_auth(bearer)).await
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn fault(&self, fault: Fault) {
        self.sandbox.set_faults(vec![fault]);
    }

    pub fn last_reason(&self) -> String {
        self.sandbox.refusal_reasons().pop().expect("a reason")
    }
}

/// Merges `changes` into `claims`. `null` removes a claim.
fn changed(mut claims: Value, changes: &Value) -> Value {
    let members = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => _ = members.remove(name),
            value => _ = members.insert(name.clone(), value.clone()),
        }
    }
    claims
}

/// A valid assertion with these `changes`.
pub fn assertion(changes: &Value, now: i64) -> String {
    let claims = json!({
        "iss": CONSUMER_KEY, "sub": USER, "aud": "https://login.salesforce.com", "exp": now + 150,
    });
    sign(&PAIRS[0], Algorithm::RS256, None, &changed(claims, changes))
}

/// A valid identity token with these `changes`.
pub fn identity(changes: &Value, now: i64) -> String {
    let claims = json!({"iss": ISSUER, "sub": "user-1", "exp": now + 600, "iat": now});
    sign(&PAIRS[0], Algorithm::RS256, Some("Key1"), &changed(claims, changes))
}

pub fn chat_request(identity_token: &str) -> Value {
    json!({
        "orgId": "00D000000000001", "esDeveloperName": "Web_Channel", "capabilitiesVersion": "1",
        "platform": "Web", "authorizationType": "JWT", "customerIdentityToken": identity_token,
        "context": {"appName": "test", "clientVersion": "1"},
    })
}

pub fn subject(answer: &Value) -> &str {
    answer["context"]["endUser"]["subject"].as_str().expect("a subject")
}

pub fn org() -> Org {
    Org {
        org_id: "00D000000000001".to_owned(),
        my_domain: Some("https://acme.my.salesforce.com".to_owned()),
        apps: vec![ConnectedApp {
            consumer_key: CONSUMER_KEY.to_owned(),
            certificates: vec![PAIRS[0].certificate.clone()],
            users: vec![USER.to_owned(), "second@acme.com".to_owned()],
            unassigned: vec!["intern@acme.com".to_owned()],
            ..ConnectedApp::default()
        }],
        deployments: Vec::new(),
    }
}

/// An org with one deployment that has these keys.
pub fn chat_org(keys: KeySource) -> Org {
    let deployment = Deployment::new("Web_Channel", ISSUER, keys);
    Org { deployments: vec![deployment], ..org() }
}

/// A small server that publishes a JWK Set.
#[derive(Clone)]
pub struct Publisher {
    pub url: String,
    says: Arc<Mutex<(StatusCode, HeaderMap, String)>>,
    hits: Arc<AtomicUsize>,
}

impl Publisher {
    pub async fn of(set: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
        let says = Arc::new(Mutex::new((StatusCode::OK, as_json(HeaderMap::new()), set.to_string())));
        let publisher = Self { url, says, hits: Arc::default() };
        let kept = publisher.clone();
        let answers = axum::Router::new().fallback(move || {
            let kept = kept.clone();
            async move {
                kept.hits.fetch_add(1, Ordering::SeqCst);
                let said = kept.says.lock().expect("not poisoned").clone();
                said.into_response()
            }
        });
        tokio::spawn(async move { axum::serve(listener, answers).await });
        publisher
    }

    pub fn keys(&self) -> KeySource {
        KeySource::Url(self.url.clone())
    }

    pub fn say(&self, status: StatusCode, headers: HeaderMap, body: &str) {
        *self.says.lock().expect("not poisoned") = (status, as_json(headers), body.to_owned());
    }

    pub fn publish(&self, set: &Value) {
        self.say(StatusCode::OK, HeaderMap::new(), &set.to_string());
    }

    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// Adds the Content-Type of JSON, if none is given.
fn as_json(mut headers: HeaderMap) -> HeaderMap {
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    headers
}

pub fn set_of(jwk: &Value) -> Value {
    json!({"keys": [jwk]})
}
