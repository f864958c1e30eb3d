//! A strict fake of AWS KMS, STS, the agent for container credentials and the instance metadata service, with the statuses and bodies of
//! AWS. It verifies each signature (`SigV4`) with an implementation of its own, authenticates encryption contexts, and signs with real RSA
//! keys. It runs in a thread of its own, because tests wait for commands.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::support::KEYS;

pub const REGION: &str = "eu-central-1";
/// The credentials of a user, which don't expire.
pub const ACCESS_KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET_ACCESS_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// The role that the JWT assumes, and the JWT.
pub const ROLE_ARN: &str = "arn:aws:iam::111122223333:role/tokenmint";
pub const JWT: &str = "eyJ.the-jwt-of-the-pod.x";
/// The token of the agent for container credentials.
pub const AGENT_TOKEN: &str = "the-token-of-the-agent";
/// Parts of the secrets of all credentials that the fake issues.
pub const ISSUED_SECRETS: [&str; 2] = ["secret-of-issued", "session-of-issued"];

/// Its keys: two that encrypt, and keys of other kinds.
pub const SEAL_KEY: &str = "11111111-1111-1111-1111-111111111111";
pub const OTHER_SEAL_KEY: &str = "22222222-2222-2222-2222-222222222222";
pub const RSA_KEY: &str = "33333333-3333-3333-3333-333333333333";
pub const EC_KEY: &str = "44444444-4444-4444-4444-444444444444";
const CREATED_KEY: &str = "55555555-5555-5555-5555-555555555555";

/// A fault of the fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    Denied,
    /// The policy allows to encrypt, and not to decrypt.
    ForbidsDecrypt,
    Throttled,
    /// The key is disabled.
    Disabled,
    /// The key waits for its deletion.
    PendingDeletion,
    Internal,
    /// A proxy answers.
    BadGateway,
    Garbage,
    TooLarge,
    /// Its clock is an hour ahead.
    OtherClock,
    /// It forgets all credentials that it issued.
    Expired,
    /// It signs with another key.
    WrongSignature,
}

struct Fake {
    host: String,
    trouble: Trouble,
    /// Sealed texts: the key, the encryption context and the plaintext.
    sealed: HashMap<String, (String, Value, String)>,
    aliases: BTreeMap<String, String>,
    /// The number of requests, by operation.
    requests: BTreeMap<String, usize>,
    /// How long issued credentials are valid, in seconds.
    lifetime: i64,
    /// The session tokens and the ends of issued credentials, by access key.
    issued: HashMap<String, (String, i64)>,
}

/// The handle of a test.
pub struct FakeKms {
    pub address: String,
    fake: Arc<Mutex<Fake>>,
}

impl FakeKms {
    /// Starts it on any port.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let host = listener.local_addr().expect("an address").to_string();
        let address = format!("http://{host}");
        let fake = Arc::new(Mutex::new(Fake {
            host,
            trouble: Trouble::None,
            sealed: HashMap::new(),
            aliases: BTreeMap::from([("alias/crm".to_owned(), RSA_KEY.to_owned())]),
            requests: BTreeMap::new(),
            lifetime: 3600,
            issued: HashMap::new(),
        }));
        let router = Router::new().fallback(answer).with_state(fake.clone());
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
        let mut fake = lock(&self.fake);
        fake.trouble = trouble;
        if trouble == Trouble::Expired {
            fake.issued.values_mut().for_each(|(_, end)| *end = 0);
        }
    }

    /// Sets how long the credentials are valid that it issues from then on.
    pub fn issues_for(&self, lifetime: Duration) {
        lock(&self.fake).lifetime = i64::try_from(lifetime.as_secs()).expect("seconds");
    }

    /// The number of requests for an operation.
    pub fn asked(&self, operation: &str) -> usize {
        lock(&self.fake).requests.get(operation).copied().unwrap_or_default()
    }
}

pub fn arn(key: &str) -> String {
    format!("arn:aws:kms:{REGION}:111122223333:key/{key}")
}

fn lock(fake: &Mutex<Fake>) -> MutexGuard<'_, Fake> {
    fake.lock().expect("no panic")
}

#[expect(clippy::disallowed_methods, reason = "the fake's own clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the year 292,277,026,596")
}

/// An error of AWS: the status, the code and the message.
struct Refused(u16, &'static str, Value);

fn refused(status: u16, code: &'static str, message: impl Into<Value>) -> Refused {
    Refused(status, code, message.into())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let status = StatusCode::from_u16(status).expect("a status");
        let body = json!({"__type": code, "message": message});
        (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body.to_string()).into_response()
    }
}

async fn answer(State(fake): State<Arc<Mutex<Fake>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut fake = lock(&fake);
    match (&head.method, head.uri.path()) {
        (&Method::POST, "/") if text("content-type") == "application/x-www-form-urlencoded" => {
            count(&mut fake, "AssumeRoleWithWebIdentity");
            assume_role(&mut fake, &body)
        }
        (&Method::POST, "/") => {
            assert_eq!(
                (text("content-type"), text("user-agent").is_empty()),
                ("application/x-amz-json-1.1", false)
            );
            let target = text("x-amz-target").strip_prefix("TrentService.").expect("KMS").to_owned();
            count(&mut fake, &target);
            let refused = trouble(&fake, &target)
                .or_else(|| verify_signature(&fake, &head.headers, &body).err().map(Refused::into_response));
            refused.unwrap_or_else(|| serve(&mut fake, &target, &body))
        }
        (&Method::GET, "/container") => {
            count(&mut fake, "container");
            if text("authorization") != AGENT_TOKEN {
                return (StatusCode::UNAUTHORIZED, Json(json!({"code": "AccessDeniedException", "message": "Unauthorized Exception! EKS does not have permissions to assume the associated role."}))).into_response();
            }
            issue_json(&mut fake)
        }
        (&Method::PUT, "/latest/api/token") => {
            assert_eq!(text("x-aws-ec2-metadata-token-ttl-seconds"), "60");
            "the-token-of-the-metadata".into_response()
        }
        (&Method::GET, path) if path.starts_with("/latest/meta-data/iam/security-credentials/") => {
            if text("x-aws-ec2-metadata-token") != "the-token-of-the-metadata" {
                return StatusCode::UNAUTHORIZED.into_response();
            }
            match path.rsplit('/').next().expect("a segment") {
                _ if fake.trouble == Trouble::Denied => StatusCode::NOT_FOUND.into_response(),
                "" => "instance-role".into_response(),
                "instance-role" => {
                    count(&mut fake, "instance");
                    issue_json(&mut fake)
                }
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }
        (method, path) => unreachable!("{method} {path}"),
    }
}

fn count(fake: &mut Fake, operation: &str) {
    *fake.requests.entry(operation.to_owned()).or_default() += 1;
}

/// Issues credentials: access key, secret, session token and end.
fn issue(fake: &mut Fake) -> [String; 4] {
    let number = fake.issued.len();
    let (id, token) = (format!("ASIAISSUED{number:010}"), format!("{}-{number}/+=", ISSUED_SECRETS[1]));
    let end = now() + fake.lifetime;
    fake.issued.insert(id.clone(), (token.clone(), end));
    let end = OffsetDateTime::from_unix_timestamp(end).expect("a time").format(&Rfc3339).expect("a year");
    let secret = secret_of(&id);
    [id, secret, token, end]
}

fn secret_of(access_key_id: &str) -> String {
    if access_key_id == ACCESS_KEY_ID {
        return SECRET_ACCESS_KEY.to_owned();
    }
    format!("{}-{access_key_id}", ISSUED_SECRETS[0])
}

fn issue_json(fake: &mut Fake) -> Response {
    let [id, secret, token, end] = issue(fake);
    Json(json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": id, "SecretAccessKey": secret, "Token": token, "Expiration": end}))
        .into_response()
}

fn assume_role(fake: &mut Fake, body: &[u8]) -> Response {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
    let get = |name: &str| form.get(name).map(String::as_str).expect("a field");
    assert_eq!((get("Action"), get("Version")), ("AssumeRoleWithWebIdentity", "2011-06-15"));
    assert_eq!(form.len(), 5);
    let xml = |status: u16, text: String| {
        let status = StatusCode::from_u16(status).expect("a status");
        (status, [(header::CONTENT_TYPE, "text/xml")], text).into_response()
    };
    let error = |status: u16, code: &str, message: &str| {
        let namespace = "https://sts.amazonaws.com/doc/2011-06-15/";
        xml(
            status,
            format!(
                "<ErrorResponse xmlns=\"{namespace}\">\n  <Error>\n    <Type>Sender</Type>\n    <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  <RequestId>1</RequestId>\n</ErrorResponse>\n"
            ),
        )
    };
    if get("WebIdentityToken") != JWT {
        return error(
            400,
            "InvalidIdentityToken",
            "No OpenIDConnect provider found in your account for https://issuer",
        );
    }
    if get("RoleArn") != ROLE_ARN {
        return error(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
    }
    let session = get("RoleSessionName").to_owned();
    let [id, secret, token, end] = issue(fake);
    xml(
        200,
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <AssumeRoleWithWebIdentityResult>\n    \
         <Audience>sts.amazonaws.com</Audience>\n    <AssumedRoleUser>\n      <AssumedRoleId>AROA:{session}</AssumedRoleId>\n      \
         <Arn>arn:aws:sts::111122223333:assumed-role/tokenmint/{session}</Arn>\n    </AssumedRoleUser>\n    <Provider>p</Provider>\n    \
         <Credentials>\n      <AccessKeyId>{id}</AccessKeyId>\n      <SecretAccessKey>{secret}</SecretAccessKey>\n      \
         <SessionToken>{token}</SessionToken>\n      <Expiration>{end}</Expiration>\n    </Credentials>\n  \
         </AssumeRoleWithWebIdentityResult>\n  <ResponseMetadata>\n    <RequestId>1</RequestId>\n  </ResponseMetadata>\n\
         </AssumeRoleWithWebIdentityResponse>\n"
        ),
    )
}

/// Answers if something is wrong with KMS.
fn trouble(fake: &Fake, operation: &str) -> Option<Response> {
    let denied = |operation: &str| {
        refused(
            400,
            "AccessDeniedException",
            format!(
                "User: arn:aws:iam::111122223333:user/tokenmint is not authorized to perform: kms:{operation} on resource: {} because no \
             identity-based policy allows the kms:{operation} action",
                arn(SEAL_KEY)
            ),
        )
    };
    let refused = match fake.trouble {
        Trouble::Denied => denied(operation),
        Trouble::ForbidsDecrypt if operation == "Decrypt" => denied(operation),
        Trouble::Throttled => refused(
            400,
            "ThrottlingException",
            "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
        ),
        Trouble::Disabled => refused(400, "DisabledException", format!("{} is disabled.", arn(SEAL_KEY))),
        Trouble::PendingDeletion => {
            refused(400, "KMSInvalidStateException", format!("{} is pending deletion.", arn(SEAL_KEY)))
        }
        Trouble::Internal => refused(500, "KMSInternalException", Value::Null),
        Trouble::BadGateway => return Some((StatusCode::BAD_GATEWAY, "<html>502</html>").into_response()),
        Trouble::Garbage => return Some("<html>a proxy's page</html>".into_response()),
        Trouble::TooLarge => return Some("a".repeat(1 << 20).into_response()),
        _ => return None,
    };
    Some(refused.into_response())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Verifies `SigV4` as AWS documents it, from the headers that the request lists.
fn verify_signature(fake: &Fake, headers: &HeaderMap, body: &[u8]) -> Result<(), Refused> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().expect("ASCII"));
    let authorization = text("authorization")
        .ok_or_else(|| refused(400, "MissingAuthenticationTokenException", "Missing Authentication Token"))?;
    let form = regex::Regex::new(
        "^AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/([0-9]{8})/([a-z0-9-]+)/([a-z]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$",
    );
    let parts = form.expect("a pattern").captures(authorization).expect("the form of `SigV4`");
    let (id, date, region, service, names, signature) =
        (&parts[1], &parts[2], &parts[3], &parts[4], &parts[5], &parts[6]);
    assert_eq!((region, service), (REGION, "kms"));
    assert_eq!(text("host"), Some(fake.host.as_str()));

    let token = text("x-amz-security-token");
    let invalid = || {
        refused(400, "UnrecognizedClientException", "The security token included in the request is invalid.")
    };
    match fake.issued.get(id) {
        None if id == ACCESS_KEY_ID && token.is_none() => {}
        Some((issued, end)) if token == Some(issued) => {
            if *end <= now() {
                return Err(refused(
                    400,
                    "ExpiredTokenException",
                    "The security token included in the request is expired",
                ));
            }
        }
        _ => return Err(invalid()),
    }

    let names_of_all = ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"];
    let expected: Vec<&str> = names_of_all.into_iter().filter(|name| headers.contains_key(*name)).collect();
    assert_eq!(names.split(';').collect::<Vec<_>>(), expected, "all that KMS reads is signed");
    let date_time = text("x-amz-date").expect("a date");
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time =
        time::PrimitiveDateTime::parse(date_time, &format).expect("a date").assume_utc().unix_timestamp();
    let clock = now() + if fake.trouble == Trouble::OtherClock { 3600 } else { 0 };
    if (time - clock).abs() > 300 {
        let message = format!(
            "Signature expired: {date_time} is now earlier than 20261130T121500Z (20261130T122000Z - 5 min.)"
        );
        return Err(refused(400, "InvalidSignatureException", message));
    }
    assert_eq!(&date_time[..8], date);

    let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    let mut canonical = "POST\n/\n\n".to_owned();
    for name in names.split(';') {
        let _ = writeln!(canonical, "{name}:{}", text(name).expect("a signed header").trim());
    }
    let _ = write!(canonical, "\n{names}\n{}", sha256(body));
    let scope = [date, region, service, "aws4_request"];
    let to_sign = ["AWS4-HMAC-SHA256", date_time, &scope.join("/"), &sha256(canonical.as_bytes())].join("\n");
    let mut key = format!("AWS4{}", secret_of(id)).into_bytes();
    for part in scope {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let right = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), to_sign.as_bytes());
    if hex(right.as_ref()) == signature {
        return Ok(());
    }
    // AWS quotes the canonical request, with the session token in it.
    let message = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing \
         method. Consult the service documentation for details.\n\nThe Canonical String for this request should have been\n'{canonical}'"
    );
    Err(refused(400, "InvalidSignatureException", message))
}

/// The members of a request; no other may be there.
fn members<const N: usize>(body: &[u8], names: [&str; N]) -> [Value; N] {
    let Value::Object(mut all) = serde_json::from_slice(body).expect("JSON") else {
        unreachable!("an object")
    };
    let members = names.map(|name| all.remove(name).expect(name));
    assert!(all.is_empty(), "unknown members: {all:?}");
    members
}

/// The id of a key, from what a request may call it.
fn resolve(fake: &Fake, key: &Value) -> Result<String, Refused> {
    let key = key.as_str().expect("text");
    let name = key.strip_prefix(&format!("arn:aws:kms:{REGION}:111122223333:")).unwrap_or(key);
    let name = name.strip_prefix("key/").unwrap_or(name);
    if name.starts_with("alias/") {
        let alias = format!("Alias arn:aws:kms:{REGION}:111122223333:{name} is not found.");
        return fake.aliases.get(name).cloned().ok_or_else(|| refused(400, "NotFoundException", alias));
    }
    let known = [SEAL_KEY, OTHER_SEAL_KEY, RSA_KEY, EC_KEY];
    let is_created = name == CREATED_KEY && fake.requests.contains_key("CreateKey");
    if known.contains(&name) || is_created {
        return Ok(name.to_owned());
    }
    Err(refused(400, "NotFoundException", format!("Key '{}' does not exist", arn(name))))
}

fn private_key(key: &str) -> rsa::RsaPrivateKey {
    let pem = if key == RSA_KEY { &KEYS.spare[0] } else { &KEYS.spare[1] };
    rsa::RsaPrivateKey::from_pkcs8_pem(pem).expect("a key")
}

fn serve(fake: &mut Fake, operation: &str, body: &Bytes) -> Response {
    let answered = match operation {
        "Encrypt" => encrypt(fake, body),
        "Decrypt" => decrypt(fake, body),
        "GetPublicKey" => get_public_key(fake, body),
        "Sign" => sign(fake, body),
        "CreateKey" => {
            let [spec, usage, _] = members(body, ["KeySpec", "KeyUsage", "Description"]);
            assert!(spec.as_str().is_some_and(|spec| spec.starts_with("RSA_")) && usage == "SIGN_VERIFY");
            Ok(
                json!({"KeyMetadata": {"KeyId": CREATED_KEY, "Arn": arn(CREATED_KEY), "KeySpec": spec, "KeyUsage": usage}}),
            )
        }
        "CreateAlias" => {
            let [alias, target] = members(body, ["AliasName", "TargetKeyId"]);
            resolve(fake, &target).map(|key| {
                fake.aliases.insert(alias.as_str().expect("text").to_owned(), key);
                json!({})
            })
        }
        other => Err(refused(400, "UnknownOperationException", other)),
    };
    answered.map_or_else(Refused::into_response, |value| Json(value).into_response())
}

fn encrypt(fake: &mut Fake, body: &[u8]) -> Result<Value, Refused> {
    let [key, plaintext, context] = members(body, ["KeyId", "Plaintext", "EncryptionContext"]);
    let id = resolve(fake, &key)?;
    if ![SEAL_KEY, OTHER_SEAL_KEY].contains(&id.as_str()) {
        let message = format!("{} key usage is SIGN_VERIFY which is not valid for Encrypt.", arn(&id));
        return Err(refused(400, "InvalidKeyUsageException", message));
    }
    let plaintext = plaintext.as_str().expect("text").to_owned();
    // A data key, and never a private key.
    assert_eq!(STANDARD.decode(&plaintext).map(|plaintext| plaintext.len()), Ok(32));
    let sealed = STANDARD.encode(format!("sealed text {:032} of KMS", fake.sealed.len()));
    fake.sealed.insert(sealed.clone(), (id.clone(), context, plaintext));
    Ok(json!({"KeyId": arn(&id), "CiphertextBlob": sealed, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}))
}

fn decrypt(fake: &Fake, body: &[u8]) -> Result<Value, Refused> {
    let [key, sealed, context] = members(body, ["KeyId", "CiphertextBlob", "EncryptionContext"]);
    let id = resolve(fake, &key)?;
    let sealed = fake.sealed.get(sealed.as_str().expect("text"));
    let invalid = || refused(400, "InvalidCiphertextException", Value::Null);
    let (of, bound, plaintext) = sealed.ok_or_else(invalid)?;
    if *of != id {
        let message = "The key ID in the request does not identify a CMK that can perform this operation.";
        return Err(refused(400, "IncorrectKeyException", message));
    }
    if *bound != context {
        return Err(invalid());
    }
    Ok(json!({"KeyId": arn(&id), "Plaintext": plaintext, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}))
}

fn get_public_key(fake: &Fake, body: &[u8]) -> Result<Value, Refused> {
    let [key] = members(body, ["KeyId"]);
    let id = resolve(fake, &key)?;
    match id.as_str() {
        RSA_KEY | CREATED_KEY => {
            let der = private_key(&id).to_public_key().to_public_key_der().expect("a key");
            let public = STANDARD.encode(der.as_bytes());
            Ok(json!({
                "KeyId": arn(&id), "PublicKey": public, "KeySpec": "RSA_2048", "CustomerMasterKeySpec": "RSA_2048",
                "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": ["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_512"],
            }))
        }
        EC_KEY => Ok(
            json!({"KeyId": arn(&id), "PublicKey": "AA==", "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}),
        ),
        _ => Err(refused(400, "UnsupportedOperationException", Value::Null)),
    }
}

fn sign(fake: &Fake, body: &[u8]) -> Result<Value, Refused> {
    let [key, message, kind, algorithm] =
        members(body, ["KeyId", "Message", "MessageType", "SigningAlgorithm"]);
    let id = resolve(fake, &key)?;
    assert_eq!(kind, "DIGEST");
    let digest = STANDARD.decode(message.as_str().expect("text")).expect("base64");
    let signing = if fake.trouble == Trouble::WrongSignature { CREATED_KEY } else { &id };
    let (scheme, length) = match algorithm.as_str() {
        Some("RSASSA_PKCS1_V1_5_SHA_256") => (rsa::Pkcs1v15Sign::new::<rsa::sha2::Sha256>(), 32),
        Some("RSASSA_PKCS1_V1_5_SHA_512") => (rsa::Pkcs1v15Sign::new::<rsa::sha2::Sha512>(), 64),
        _ => unreachable!("an algorithm of JWTs"),
    };
    assert_eq!(digest.len(), length);
    let signature = private_key(signing).sign(scheme, &digest).expect("a signature");
    Ok(json!({"KeyId": arn(&id), "Signature": STANDARD.encode(signature), "SigningAlgorithm": algorithm}))
}
