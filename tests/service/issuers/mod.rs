//! JWTs of other issuers: as the credentials of callers, and as the proof of a subject. The tokens are signed by jsonwebtoken
//! with keys of rcgen.

mod bad_tokens;
mod callers;
mod configuration;
mod keys;
mod subjects;

use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData as _, RsaKeySize,
};
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use crate::support::sha256_hex;

/// `iss` of the fake issuer.
pub const ISSUER: &str = "https://login.acme.example";
/// `aud` of its tokens.
pub const AUDIENCE: &str = "mint-for-shop";

/// A key pair of an issuer.
pub struct IssuerKey {
    pub pair: KeyPair,
    pub algorithm: Algorithm,
}

impl IssuerKey {
    pub fn new(algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::ES256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Algorithm::ES384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Algorithm::EdDSA => KeyPair::generate_for(&PKCS_ED25519),
            _ => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        Self { pair: pair.expect("a key"), algorithm }
    }

    /// The public key as a JWK.
    pub fn jwk(&self, kid: &str) -> Value {
        let der = self.pair.subject_public_key_info();
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).expect("a public key");
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match info.parsed().expect("a known kind of key") {
            PublicKey::RSA(key) => {
                let n = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": encode(n), "e": encode(key.exponent)})
            }
            PublicKey::EC(point) => {
                let coordinates = &point.data()[1..];
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "kid": kid, "use": "sig", "x": encode(x), "y": encode(y)})
            }
            _ => {
                let x = encode(&info.subject_public_key.data);
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": x})
            }
        }
    }

    fn encoding_key(&self) -> EncodingKey {
        let pem = self.pair.serialize_pem();
        let key = match self.algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        key.expect("a private key")
    }

    /// Signs any header and payload.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.encoding_key(), self.algorithm);
        format!("{signed}.{}", signature.expect("a signature"))
    }

    /// Signs claims with a usual header.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT", "kid": kid});
        self.sign(&header.to_string(), &claims.to_string())
    }
}

pub static RSA: LazyLock<IssuerKey> = LazyLock::new(|| IssuerKey::new(Algorithm::RS256));
/// Another RSA key, that of a stranger or of the next rotation.
pub static OTHER_RSA: LazyLock<IssuerKey> = LazyLock::new(|| IssuerKey::new(Algorithm::RS256));
pub static EC: LazyLock<IssuerKey> = LazyLock::new(|| IssuerKey::new(Algorithm::ES256));

/// Valid claims at `now`, for `sub`.
pub fn claims_at(now: i64, sub: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": now, "exp": now + 600})
}

/// Valid claims of now, for `sub`.
pub fn claims(sub: &str) -> Value {
    claims_at(SystemClock::default().now().seconds(), sub)
}

/// `[issuers.corp]`, with the setting that says where its keys are.
pub fn issuer(keys: &str) -> String {
    format!("[issuers.corp]\nissuer = \"{ISSUER}\"\naudience = [\"{AUDIENCE}\"]\n{keys}\n")
}

/// A caller that authenticates with a JWT of `corp` for `sub`.
pub fn jwt_caller(name: &str, sub: &str) -> String {
    format!(
        "[callers.{name}]\njwt_issuer = \"corp\"\njwt_claims = {{ sub = [\"{sub}\"] }}\nallow = [\"identity.web\"]\n"
    )
}

/// A caller with the API key `shop`, whose subjects `corp` proves.
pub fn subject_caller(mode: &str) -> String {
    format!(
        "[callers.shop]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\", \"intercom.fin\", \"bundles.page\"]\n\
         subject_token = \"{mode}\"\nsubject_issuer = \"corp\"\n[bundles.page]\nchat = \"identity.web\"\nfin = \"intercom.fin\"\n",
        sha256_hex("shop")
    )
}

/// An issuer's HTTP server.
pub struct FakeIssuer {
    pub url: String,
    state: Arc<Mutex<IssuerState>>,
}

struct IssuerState {
    /// The answers by path: status, headers and body.
    answers: Vec<(String, String)>,
    /// The heads of the requests.
    requests: Vec<String>,
    /// Whether answers wait. Each is chosen when its request arrives.
    is_held: bool,
}

impl FakeIssuer {
    /// An issuer that serves `jwks` at `/jwks`.
    pub async fn serving(jwks: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = IssuerState { answers: Vec::new(), requests: Vec::new(), is_held: false };
        let state = Arc::new(Mutex::new(state));
        let served = state.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let state = served.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).expect("text");
                    let path = head.split(' ').nth(1).expect("a path").to_owned();
                    let answer = {
                        let mut state = state.lock().expect("not poisoned");
                        state.requests.push(head);
                        state
                            .answers
                            .iter()
                            .rev()
                            .find(|(at, _)| *at == path)
                            .map(|(_, answer)| answer.clone())
                    };
                    while state.lock().expect("not poisoned").is_held {
                        // A test releases it.
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                    let answer = answer.unwrap_or_else(|| response("404 Not Found", "", ""));
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        let issuer = Self { url, state };
        issuer.serve_keys(jwks);
        issuer
    }

    pub fn jwks_url(&self) -> String {
        format!("jwks_url = \"{}/jwks\"", self.url)
    }

    pub fn serve_keys(&self, jwks: &[Value]) {
        self.answer("/jwks", "200 OK", "", &json!({"keys": jwks}).to_string());
    }

    /// Answers requests for `path` with this from now on. `headers` are whole lines.
    pub fn answer(&self, path: &str, status: &str, headers: &str, body: &str) {
        self.state
            .lock()
            .expect("not poisoned")
            .answers
            .push((path.to_owned(), response(status, headers, body)));
    }

    /// Lets requests wait, or answers them again.
    pub fn hold(&self, is_held: bool) {
        self.state.lock().expect("not poisoned").is_held = is_held;
    }

    /// The heads of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().expect("not poisoned").requests.clone()
    }
}

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}
