//! A strict fake of OpenBao's transit engine and its JWT login, with the statuses and bodies that OpenBao 2.7 has. It runs in a thread of
//! its own, because tests wait for commands.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The token that the fake accepts.
pub const TOKEN: &str = "s.token-of-tokenmint";
/// The JWT and the role that its login accepts.
pub const JWT: &str = "eyJ.the.jwt";
pub const ROLE: &str = "tokenmint";
/// Its only key.
pub const SEAL_KEY: &str = "seal";

/// A fault of the fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    Sealed,
    /// The token is revoked.
    Denied,
    /// Its policy forbids to open keys.
    ForbidsDecrypt,
    Throttled,
    Broken,
    /// It doesn't answer.
    Silent,
    /// It answers with what isn't Vault's.
    Garbage,
    TooLarge,
    /// It redirects to another server.
    Standby,
    /// Its key doesn't authenticate `associated_data`.
    IgnoresContext,
    /// It opens each sealed text as another one of 32 bytes.
    OtherText,
    /// It opens each sealed text as a shorter one.
    ShortText,
}

struct Fake {
    trouble: Trouble,
    /// Sealed texts: the associated data and the plaintext.
    sealed: HashMap<String, (String, String)>,
    /// The number of requests, by path.
    requests: BTreeMap<String, usize>,
    revoked: usize,
}

/// The handle of a test.
pub struct FakeVault {
    pub address: String,
    fake: Arc<Mutex<Fake>>,
}

impl FakeVault {
    /// Starts it on any port.
    pub fn start() -> Self {
        Self::start_at(0)
    }

    pub fn start_at(port: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let fake =
            Fake { trouble: Trouble::None, sealed: HashMap::new(), requests: BTreeMap::new(), revoked: 0 };
        let fake = Arc::new(Mutex::new(fake));
        let router = Router::new()
            .route("/v1/{mount}/{operation}/{key}", post(transit))
            .route("/v1/auth/{mount}/login", post(login))
            .route("/v1/auth/token/revoke-self", post(revoke))
            .with_state(fake.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                axum::serve(listener, router).await
            })
        });
        Self { address, fake }
    }

    pub fn has(&self, trouble: Trouble) {
        lock(&self.fake).trouble = trouble;
    }

    /// The number of requests for `operation` of the only key.
    pub fn asked(&self, operation: &str) -> usize {
        lock(&self.fake).requests.get(operation).copied().unwrap_or_default()
    }

    /// The number of tokens that were given up.
    pub fn revoked(&self) -> usize {
        lock(&self.fake).revoked
    }

    /// Seals any text for any context, as another client of the store would.
    pub fn seal(&self, text: &str, context: &str) -> String {
        let mut fake = lock(&self.fake);
        add(&mut fake, STANDARD.encode(text), STANDARD.encode(context))
    }

    /// Starts another one on that port, which has the same key.
    pub fn restart_at(&self, port: u16) -> Self {
        let other = Self::start_at(port);
        lock(&other.fake).sealed.clone_from(&lock(&self.fake).sealed);
        other
    }
}

fn lock(fake: &Mutex<Fake>) -> MutexGuard<'_, Fake> {
    fake.lock().expect("no panic")
}

fn add(fake: &mut Fake, plaintext: String, context: String) -> String {
    let sealed = format!("vault:v1:{}", STANDARD.encode(format!("{:032}", fake.sealed.len())));
    fake.sealed.insert(sealed.clone(), (context, plaintext));
    sealed
}

fn refused(status: u16, error: &str) -> Response {
    (StatusCode::from_u16(status).expect("a status"), Json(json!({"errors": [error]}))).into_response()
}

fn data(data: &Value) -> Response {
    Json(json!({"request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "warnings": null, "auth": null}))
        .into_response()
}

/// The members of a request; each must be text, and no other may be there.
fn members<const N: usize>(body: &[u8], names: [&str; N]) -> [String; N] {
    let Value::Object(mut all) = serde_json::from_slice(body).expect("JSON") else {
        unreachable!("an object")
    };
    let members =
        names.map(|name| all.remove(name).and_then(|value| value.as_str().map(str::to_owned)).expect(name));
    assert!(all.is_empty(), "unknown members: {all:?}");
    members
}

/// Answers if something is wrong with the fake.
async fn trouble(fake: &Mutex<Fake>) -> Option<Response> {
    let trouble = lock(fake).trouble;
    Some(match trouble {
        Trouble::None
        | Trouble::ForbidsDecrypt
        | Trouble::IgnoresContext
        | Trouble::OtherText
        | Trouble::ShortText => {
            return None;
        }
        Trouble::Sealed => refused(503, "Vault is sealed"),
        Trouble::Denied => refused(403, "1 error occurred:\n\t* permission denied\n\n"),
        Trouble::Throttled => refused(429, "request path \"transit\": rate limit quota exceeded"),
        Trouble::Broken => refused(500, "1 error occurred:\n\t* internal error\n\n"),
        Trouble::Silent => {
            std::future::pending::<()>().await;
            refused(500, "too late")
        }
        Trouble::Garbage => "<html>a proxy's page</html>".into_response(),
        Trouble::TooLarge => "a".repeat(1 << 20).into_response(),
        Trouble::Standby => {
            (StatusCode::TEMPORARY_REDIRECT, [("Location", "http://127.0.0.1:1/v1/elsewhere")])
                .into_response()
        }
    })
}

async fn transit(
    State(fake): State<Arc<Mutex<Fake>>>,
    Path((mount, operation, key)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    *lock(&fake).requests.entry(operation.clone()).or_default() += 1;
    if let Some(answer) = trouble(&fake).await {
        return answer;
    }
    assert_eq!(headers["X-Vault-Request"], "true");
    if headers.get("X-Vault-Token").is_none_or(|token| token != TOKEN) {
        return refused(403, "permission denied");
    }
    if lock(&fake).trouble == Trouble::ForbidsDecrypt && operation == "decrypt" {
        return refused(403, "1 error occurred:\n\t* permission denied\n\n");
    }
    if mount != "transit" {
        return refused(
            404,
            &format!("no handler for route \"{mount}/{operation}/{key}\". route entry not found."),
        );
    }
    if key != SEAL_KEY {
        return refused(400, "encryption key not found");
    }
    let mut fake = lock(&fake);
    match operation.as_str() {
        "encrypt" => {
            let [plaintext, context] = members(&body, ["plaintext", "associated_data"]);
            // A data key, and never a private key.
            assert_eq!(STANDARD.decode(&plaintext).map(|plaintext| plaintext.len()), Ok(32));
            let sealed = add(&mut fake, plaintext, context);
            data(&json!({"ciphertext": sealed, "key_version": 1}))
        }
        "decrypt" => {
            let [sealed, context] = members(&body, ["ciphertext", "associated_data"]);
            let any_context = fake.trouble == Trouble::IgnoresContext;
            let found = fake.sealed.get(&sealed).filter(|(of, _)| any_context || *of == context);
            match found {
                Some(_) if fake.trouble == Trouble::OtherText => {
                    data(&json!({"plaintext": STANDARD.encode([7; 32])}))
                }
                Some(_) if fake.trouble == Trouble::ShortText => {
                    data(&json!({"plaintext": STANDARD.encode([7; 31])}))
                }
                Some((_, plaintext)) => data(&json!({"plaintext": plaintext})),
                None => refused(400, "cipher: message authentication failed"),
            }
        }
        other => refused(404, other),
    }
}

async fn login(
    State(fake): State<Arc<Mutex<Fake>>>,
    Path(mount): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(answer) = trouble(&fake).await {
        return answer;
    }
    assert!(!headers.contains_key("X-Vault-Token"));
    let [role, jwt] = members(&body, ["role", "jwt"]);
    if mount != "kubernetes" || role != ROLE || jwt != JWT {
        return refused(400, "error validating token: invalid role or JWT");
    }
    let auth = json!({"client_token": TOKEN, "renewable": true, "lease_duration": 3600});
    Json(json!({"request_id": "1", "data": null, "auth": auth})).into_response()
}

async fn revoke(State(fake): State<Arc<Mutex<Fake>>>, headers: HeaderMap) -> StatusCode {
    assert_eq!(headers["X-Vault-Token"], TOKEN);
    lock(&fake).revoked += 1;
    StatusCode::NO_CONTENT
}
