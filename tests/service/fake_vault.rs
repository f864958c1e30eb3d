//! A strict fake of OpenBao's transit engine and its JWT login, with the statuses and bodies that OpenBao 2.7 has. It runs in a thread of
//! its own, because tests wait for commands.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256, SHA512};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair, RsaSignatureEncoding,
};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The token that the fake accepts.
pub const TOKEN: &str = "s.token-of-tokenmint";
/// The JWT and the role that its login accepts.
pub const JWT: &str = "eyJ.the.jwt";
pub const ROLE: &str = "tokenmint";
/// Its only key that seals.
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
    /// It doesn't answer requests for signatures.
    SilentSign,
    /// It signs with another key than it is asked for.
    OtherKey,
    /// It signs with another version of the key than it is asked for.
    OtherVersion,
    /// Its signatures are cut.
    CutSignature,
    /// Its signatures aren't base64.
    NoSignature,
    /// It refuses the token that it gave until somebody logs in again.
    Revoked,
    /// It refuses logins alone.
    RefusesLogin,
}

struct Fake {
    trouble: Trouble,
    /// Sealed texts: the associated data and the plaintext.
    sealed: HashMap<String, (String, String)>,
    /// The keys that sign, by name: the private key of each version in PKCS#8.
    signing: BTreeMap<String, Vec<RsaKeyPair>>,
    /// The most requests for signatures at once, and those that are open.
    signing_at_once: (usize, usize),
    /// How long a signature takes.
    signing_time: Duration,
    /// The lifetime of a token in seconds.
    lease: u64,
    logins: usize,
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
        let fake = Fake {
            trouble: Trouble::None,
            sealed: HashMap::new(),
            signing: BTreeMap::new(),
            signing_at_once: (0, 0),
            signing_time: Duration::ZERO,
            lease: 3600,
            logins: 0,
            requests: BTreeMap::new(),
            revoked: 0,
        };
        let fake = Arc::new(Mutex::new(fake));
        let router = Router::new()
            .route("/v1/{mount}/{operation}/{key}", post(transit).get(read_key))
            .route("/v1/{mount}/sign/{key}/{hash}", post(sign))
            .route("/v1/auth/{mount}/login", post(login))
            .route("/v1/auth/token/revoke-self", post(revoke))
            .route("/v1/auth/token/lookup-self", get(lookup))
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

    /// Adds a version of a key that signs, with a private key in PEM (PKCS#8).
    pub fn add_version(&self, name: &str, pem: &str) {
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(der).expect("base64");
        let key = RsaKeyPair::from_pkcs8(&der).expect("a key");
        lock(&self.fake).signing.entry(name.to_owned()).or_default().push(key);
    }

    /// Removes a key that signs.
    pub fn remove_key(&self, name: &str) {
        lock(&self.fake).signing.remove(name);
    }

    /// The most requests for signatures that were open at once.
    pub fn most_signatures_at_once(&self) -> usize {
        lock(&self.fake).signing_at_once.0
    }

    /// Lets each signature take that long.
    pub fn takes(&self, time: Duration) {
        lock(&self.fake).signing_time = time;
    }

    /// Gives tokens of that lifetime, in seconds.
    pub fn leases(&self, seconds: u64) {
        lock(&self.fake).lease = seconds;
    }

    pub fn logins(&self) -> usize {
        lock(&self.fake).logins
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

    /// Starts another one on that port, which has its keys.
    pub fn restart_at(&self, port: u16) -> Self {
        let other = Self::start_at(port);
        lock(&other.fake).sealed.clone_from(&lock(&self.fake).sealed);
        lock(&other.fake).signing = std::mem::take(&mut lock(&self.fake).signing);
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
        | Trouble::ShortText
        | Trouble::SilentSign
        | Trouble::OtherKey
        | Trouble::OtherVersion
        | Trouble::CutSignature
        | Trouble::NoSignature
        | Trouble::Revoked
        | Trouble::RefusesLogin => {
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

/// The answer to a request without the token.
fn refusal(fake: &Mutex<Fake>, headers: &HeaderMap) -> Option<Response> {
    assert_eq!(headers["X-Vault-Request"], "true");
    let is_revoked = lock(fake).trouble == Trouble::Revoked;
    let is_refused = is_revoked || headers.get("X-Vault-Token").is_none_or(|token| token != TOKEN);
    is_refused.then(|| refused(403, "permission denied"))
}

/// The answer about a key that signs, as OpenBao gives it.
async fn read_key(
    State(fake): State<Arc<Mutex<Fake>>>,
    Path((mount, operation, key)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    *lock(&fake).requests.entry("read".to_owned()).or_default() += 1;
    if let Some(answer) = trouble(&fake).await {
        return answer;
    }
    if let Some(refusal) = refusal(&fake, &headers) {
        return refusal;
    }
    assert_eq!(operation, "keys");
    if mount != "transit" {
        return refused(404, &format!("no handler for route \"{mount}/keys/{key}\". route entry not found."));
    }
    if key == SEAL_KEY {
        return data(&json!({"type": "aes256-gcm96", "keys": {"1": 1_796_055_322}, "latest_version": 1}));
    }
    let fake = lock(&fake);
    let Some(versions) = fake.signing.get(&key) else {
        return (StatusCode::NOT_FOUND, Json(json!({"errors": []}))).into_response();
    };
    let public_key = |pair: &RsaKeyPair| {
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a key");
        let lines: Vec<String> = STANDARD
            .encode(der.as_ref())
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into())
            .collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    };
    let keys: serde_json::Map<String, Value> = versions
        .iter()
        .enumerate()
        .map(|(at, pair)| ((at + 1).to_string(), json!({"name": "rsa-2048", "public_key": public_key(pair)})))
        .collect();
    let bits = versions[0].public_modulus_len() * 8;
    data(
        &json!({"type": format!("rsa-{bits}"), "keys": keys, "latest_version": versions.len(), "exportable": false}),
    )
}

async fn sign(
    State(fake): State<Arc<Mutex<Fake>>>,
    Path((mount, key, hash)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let time = {
        let mut fake = lock(&fake);
        *fake.requests.entry("sign".to_owned()).or_default() += 1;
        fake.signing_at_once.1 += 1;
        fake.signing_at_once.0 = fake.signing_at_once.0.max(fake.signing_at_once.1);
        fake.signing_time
    };
    let _open = OpenSignature(fake.clone());
    if let Some(answer) = trouble(&fake).await {
        return answer;
    }
    if lock(&fake).trouble == Trouble::SilentSign {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(time).await;
    if let Some(refusal) = refusal(&fake, &headers) {
        return refusal;
    }
    assert_eq!(mount, "transit");
    let Ok(Value::Object(mut request)) = serde_json::from_slice::<Value>(&body) else { unreachable!("JSON") };
    let mut member = |name: &str| request.remove(name).expect(name);
    let input = STANDARD.decode(member("input").as_str().expect("text")).expect("base64");
    assert_eq!(member("prehashed"), true);
    assert_eq!(member("signature_algorithm"), "pkcs1v15");
    assert_eq!(member("marshaling_algorithm"), "jws");
    let version = usize::try_from(member("key_version").as_u64().expect("a number")).expect("small");
    assert!(request.is_empty(), "unknown members: {request:?}");
    let fake = lock(&fake);
    let Some(versions) = fake.signing.get(&key) else { return refused(400, "signing key not found") };
    let used = if fake.trouble == Trouble::OtherVersion { versions.len() } else { version };
    let Some(pair) = used.checked_sub(1).and_then(|at| versions.get(at)) else {
        return refused(500, "1 error occurred:\n\t* internal error\n\n");
    };
    let other = fake.signing.values().flatten().find(|other| !std::ptr::eq(*other, pair));
    let pair = if fake.trouble == Trouble::OtherKey { other.expect("another key") } else { pair };
    let (padding, algorithm): (&RsaSignatureEncoding, _) = match hash.as_str() {
        "sha2-256" => (&RSA_PKCS1_SHA256, &SHA256),
        "sha2-512" => (&RSA_PKCS1_SHA512, &SHA512),
        other => return refused(400, &format!("unsupported hash algorithm {other}")),
    };
    let digest = Digest::import_less_safe(&input, algorithm).expect("a digest of that length");
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign_digest(padding, &digest, &mut signature).expect("a signature");
    if fake.trouble == Trouble::CutSignature {
        signature.pop();
    }
    let encoded =
        if fake.trouble == Trouble::NoSignature { "~".to_owned() } else { URL_SAFE_NO_PAD.encode(signature) };
    data(&json!({"signature": format!("vault:v{used}:{encoded}"), "key_version": used}))
}

/// Ends with the request.
struct OpenSignature(Arc<Mutex<Fake>>);

impl Drop for OpenSignature {
    fn drop(&mut self) {
        lock(&self.0).signing_at_once.1 -= 1;
    }
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
    if let Some(refusal) = refusal(&fake, &headers) {
        return refusal;
    }
    if operation == "keys" {
        let Ok(Value::Object(mut request)) = serde_json::from_slice::<Value>(&body) else {
            unreachable!("JSON")
        };
        assert_eq!(request.remove("type"), Some(json!("rsa-2048")));
        assert!(request.is_empty(), "unknown members: {request:?}");
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        lock(&fake).signing.entry(key).or_insert_with(|| vec![pair]);
        return data(&json!({}));
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
    let is_refused = lock(&fake).trouble == Trouble::RefusesLogin;
    if is_refused || mount != "kubernetes" || role != ROLE || jwt != JWT {
        return refused(400, "error validating token: invalid role or JWT");
    }
    let mut fake = lock(&fake);
    fake.logins += 1;
    if fake.trouble == Trouble::Revoked {
        fake.trouble = Trouble::None;
    }
    let auth = json!({"client_token": TOKEN, "renewable": true, "lease_duration": fake.lease});
    Json(json!({"request_id": "1", "data": null, "auth": auth})).into_response()
}

async fn lookup(State(fake): State<Arc<Mutex<Fake>>>, headers: HeaderMap) -> Response {
    if let Some(answer) = trouble(&fake).await {
        return answer;
    }
    if let Some(refusal) = refusal(&fake, &headers) {
        return refusal;
    }
    data(&json!({"ttl": lock(&fake).lease, "renewable": true}))
}

async fn revoke(State(fake): State<Arc<Mutex<Fake>>>, headers: HeaderMap) -> StatusCode {
    assert_eq!(headers["X-Vault-Token"], TOKEN);
    lock(&fake).revoked += 1;
    StatusCode::NO_CONTENT
}
