//! Healthy keys, certificates, JWKs, tokens and a configuration, and the sets that they form.

use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::{fs, io};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize,
};
use rsa::pkcs8::DecodePrivateKey as _;
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, SystemClock, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

pub const ISSUER: &str = "https://acme.example";
pub const CONSUMER_KEY: &str = "3MVG9.sandbox";
pub const SECRET: &str = "intercom-messenger-api-secret-0123456789";

pub const CONFIGURATION: &str = r#"
[server]
listen = "127.0.0.1:0"
state_directory = "state"
[keysets.web]
directory = "keys/identity"
[keysets.crm]
directory = "keys/oauth"
[identity.web]
keyset = "web"
issuer = "https://acme.example"
algorithm = "RS256"
ttl = "1h"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.sandbox"
username = "integration@acme.com"
audience = "https://acme.my.salesforce.com"
[intercom.fin]
secret = "intercom-messenger-api-secret-0123456789"
[callers.web]
api_key_sha256 = ["0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
allow = ["identity.web", "oauth.crm", "intercom.fin"]
"#;

/// The private keys that the configuration names.
pub const KEY_FILES: [&str; 2] = ["keys/identity/Key1.key", "keys/oauth/CrmKey1.key"];

pub struct Pair {
    pub pem: String,
    pub certificate: Vec<u8>,
}

/// The key of identity tokens, and that of assertions, with certificates like those that people make.
pub static PAIRS: LazyLock<[Pair; 2]> = LazyLock::new(|| {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    [0, 1].map(|_| {
        let key = new_key();
        Pair { pem: key.serialize_pem(), certificate: certified(&key, "rcgen self signed cert", -1, 700) }
    })
});

/// A key that is too short.
pub static SHORT: LazyLock<Pair> = LazyLock::new(|| openssl_pair("-newkey rsa:1024"));
/// A key whose public exponent is 3.
pub static EXPONENT_3: LazyLock<Pair> =
    LazyLock::new(|| openssl_pair("-newkey rsa:2048 -pkeyopt rsa_keygen_pubexp:3"));

/// Other certificates of the first key.
pub struct Certificates {
    /// Signed by RSASSA-PSS.
    pub pss: Vec<u8>,
    /// Signed by the authority.
    pub leaf: Vec<u8>,
    pub authority: Vec<u8>,
    /// Another authority of the same name.
    pub namesake: Vec<u8>,
}

pub static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let (authority, key) = (authority_params(), new_key());
    let leaf = params("key of an authority's", -1, 700);
    let leaf =
        leaf.signed_by(&PAIRS[0].key(), &Issuer::from_params(&authority, &key)).expect("a certificate");
    let own = |key: &KeyPair| authority.self_signed(key).expect("a certificate").der().to_vec();
    let pss = openssl("-key /dev/stdin -sigopt rsa_padding_mode:pss -sha256", &PAIRS[0].pem);
    Certificates {
        pss: pem::parse(pss).expect("PEM").into_contents(),
        leaf: leaf.der().to_vec(),
        authority: own(&key),
        namesake: own(&new_key()),
    }
});

fn new_key() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key")
}

fn authority_params() -> CertificateParams {
    let mut authority = params("Acme CA", -1, 1_000);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
}

fn params(name: &str, from: i64, until: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = time::OffsetDateTime::from_unix_timestamp(now().seconds()).expect("a date");
    (params.not_before, params.not_after) =
        (now + time::Duration::days(from), now + time::Duration::days(until));
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A self-signed certificate that is valid between two days, counted from today.
pub fn certified(key: &KeyPair, name: &str, from: i64, until: i64) -> Vec<u8> {
    params(name, from, until).self_signed(key).expect("a certificate").der().to_vec()
}

fn openssl(arguments: &str, input: &str) -> Vec<u8> {
    let mut file = tempfile::tempfile().expect("a file");
    io::Write::write_all(&mut file, input.as_bytes()).expect("written");
    io::Seek::rewind(&mut file).expect("a file");
    let arguments = format!("req -x509 {arguments} -nodes -days 400 -subj /CN=acme");
    let made = Command::new("openssl").args(arguments.split(' ')).stdin(Stdio::from(file)).output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

fn openssl_pair(key: &str) -> Pair {
    let blocks = pem::parse_many(openssl(&format!("{key} -keyout -"), "")).expect("PEM");
    let [key, certificate] = blocks.as_slice() else { panic!("a key and a certificate") };
    Pair { pem: pem::encode(key), certificate: certificate.contents().to_vec() }
}

pub fn now() -> UnixTime {
    SystemClock::default().now()
}

pub fn pem_of(der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), lines)
}

/// A file with a chain.
pub fn chain_of(ders: &[&[u8]]) -> String {
    ders.iter().map(|der| pem_of(der)).collect()
}

impl Pair {
    pub fn key(&self) -> KeyPair {
        KeyPair::from_pem(&self.pem).expect("a key")
    }

    pub fn pkcs1(&self) -> String {
        use rsa::pkcs1::EncodeRsaPrivateKey as _;
        let key = rsa::RsaPrivateKey::from_pkcs8_pem(&self.pem).expect("a key");
        key.to_pkcs1_pem(rsa::pkcs8::LineEnding::LF).expect("PEM").to_string()
    }

    pub fn public_pem(&self) -> String {
        self.key().public_key_pem()
    }

    pub fn jwk(&self, kid: &str) -> Value {
        self.jwk_with(kid, &[&self.certificate])
    }

    /// The JWK whose `x5c` is that chain.
    pub fn jwk_with(&self, kid: &str, chain: &[&[u8]]) -> Value {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).expect("a certificate");
        let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() else { panic!("an RSA key") };
        let [n, e] = [key.modulus, key.exponent].map(|number| {
            let octets: Vec<u8> = number.iter().copied().skip_while(|octet| *octet == 0).collect();
            URL_SAFE_NO_PAD.encode(octets)
        });
        let digest =
            |algorithm| URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(algorithm, chain[0]).as_ref());
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e,
            "x5c": chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>(),
            "x5t": digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY),
            "x5t#S256": digest(&aws_lc_rs::digest::SHA256),
        })
    }

    /// RS256, or RS512 where the header names it.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let named: Value = serde_json::from_str(header).expect("JSON");
        let algorithm = if named["alg"] == "RS512" { Algorithm::RS512 } else { Algorithm::RS256 };
        let key = EncodingKey::from_rsa_pem(self.pem.as_bytes()).expect("a key");
        let signed = encoded(header, claims);
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm).expect("a signature");
        format!("{signed}.{signature}")
    }

    /// RS256 by a key that aws-lc refuses to sign with.
    pub fn sign_weakly(&self, header: &str, claims: &str) -> String {
        use rsa::sha2::Digest as _;
        let key = rsa::RsaPrivateKey::from_pkcs8_pem(&self.pem).expect("a key");
        let signed = encoded(header, claims);
        let digest = rsa::sha2::Sha256::digest(signed.as_bytes());
        let padding = rsa::Pkcs1v15Sign::new::<rsa::sha2::Sha256>();
        let signature = key.sign(padding, &digest).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn encoded(header: &str, claims: &str) -> String {
    [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

/// HS256.
pub fn sign_by_secret(header: &str, claims: &str, secret: &str) -> String {
    let signed = encoded(header, claims);
    // Also by an empty secret, which jsonwebtoken refuses.
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Identity,
    Assertion,
    Intercom,
}

/// A set: a token, and the files that verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub purpose: Purpose,
    pub token: String,
    pub jwk: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub configuration: Option<String>,
}

impl Set {
    fn of(purpose: Purpose, header: &Value, claims: &Value) -> Self {
        let nothing = Self {
            purpose,
            token: String::new(),
            jwk: None,
            certificate: None,
            key: None,
            configuration: None,
        };
        let token = nothing.signed(&header.to_string(), &claims.to_string());
        Self { token, ..nothing }
    }

    pub fn identity(now: i64) -> Self {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "Key1"});
        let claims = json!({"iss": ISSUER, "sub": "user-1", "exp": now + 3_000, "iat": now});
        Self::of(Purpose::Identity, &header, &claims)
    }

    /// Its lifetime is longer than recommended, of which the doctor warns, so that it outlives a long run.
    pub fn assertion(now: i64) -> Self {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "CrmKey1"});
        let claims = json!({
            "iss": CONSUMER_KEY, "sub": "integration@acme.com", "aud": "https://acme.my.salesforce.com",
            "exp": now + 3_000, "iat": now,
        });
        Self::of(Purpose::Assertion, &header, &claims)
    }

    pub fn intercom(now: i64) -> Self {
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let claims = json!({"user_id": "42", "exp": now + 3_000, "iat": now});
        Self::of(Purpose::Intercom, &header, &claims).configured()
    }

    pub fn configured(self) -> Self {
        Self { configuration: Some(CONFIGURATION.to_owned()), ..self }
    }

    pub fn with_key(self) -> Self {
        Self { key: Some(self.own().pem.clone()), ..self }
    }

    pub fn with_certificate(self) -> Self {
        Self { certificate: Some(pem_of(&self.own().certificate)), ..self }
    }

    pub fn with_jwk(self) -> Self {
        Self { jwk: Some(self.own().jwk(self.kid()).to_string()), ..self }
    }

    /// The pair whose key signs its token.
    pub fn own(&self) -> &'static Pair {
        &PAIRS[usize::from(self.purpose == Purpose::Assertion)]
    }

    pub fn others(&self) -> &'static Pair {
        &PAIRS[usize::from(self.purpose != Purpose::Assertion)]
    }

    pub const fn kid(&self) -> &'static str {
        if matches!(self.purpose, Purpose::Assertion) { "CrmKey1" } else { "Key1" }
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        match self.purpose {
            Purpose::Intercom => sign_by_secret(header, claims, SECRET),
            Purpose::Identity | Purpose::Assertion => self.own().sign(header, claims),
        }
    }

    /// The JSON of its header and of its claims.
    pub fn parts(&self) -> [Value; 2] {
        let parts: Vec<&str> = self.token.split('.').collect();
        [parts[0], parts[1]].map(|part| {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
        })
    }

    pub fn resign_text(&mut self, header: &str, claims: &str) {
        self.token = self.signed(header, claims);
    }

    pub fn resign(&mut self, change: impl FnOnce(&mut Value, &mut Value)) {
        let [mut header, mut claims] = self.parts();
        change(&mut header, &mut claims);
        self.resign_text(&header.to_string(), &claims.to_string());
    }

    pub fn change_jwk(&mut self, change: impl FnOnce(&mut Value)) {
        let mut jwk = self.jwk_value();
        change(&mut jwk);
        self.jwk = Some(jwk.to_string());
    }

    pub fn jwk_value(&self) -> Value {
        serde_json::from_str(self.jwk.as_deref().expect("a set with a JWK")).expect("JSON")
    }

    /// The same claims in a token of another key, which is too weak for aws-lc.
    pub fn sign_weakly_by(&mut self, pair: &Pair) {
        let [header, claims] = self.parts();
        self.token = pair.sign_weakly(&header.to_string(), &claims.to_string());
    }

    /// The input of judge.py.
    pub fn for_judges(&self) -> Value {
        let issuer = if self.purpose == Purpose::Assertion { CONSUMER_KEY } else { ISSUER };
        let mut given = json!({
            "purpose": format!("{:?}", self.purpose).to_lowercase(),
            "kid": self.kid(), "issuer": issuer, "secret": SECRET,
            // A pasted token has no line break at its end.
            "token": self.token.trim(),
            "public": {},
        });
        let files = [
            ("jwk", &self.jwk),
            ("certificate", &self.certificate),
            ("key", &self.key),
            ("configuration", &self.configuration),
        ];
        for (name, text) in files {
            if let Some(text) = text {
                given[name] = json!(text);
            }
        }
        if self.configuration.is_some() {
            for (file, pem) in KEY_FILES.iter().zip(&*PUBLIC_PEMS) {
                given["public"][file] = json!(pem);
            }
        }
        given
    }
}

static PUBLIC_PEMS: LazyLock<[String; 2]> = LazyLock::new(|| [PAIRS[0].public_pem(), PAIRS[1].public_pem()]);

/// Every kind of healthy set, by name. Their tokens are issued now.
pub fn healthy() -> Vec<(&'static str, Set)> {
    let now = now().seconds();
    let identity = || Set::identity(now);
    let assertion = || {
        let mut set = Set::assertion(now);
        set.resign(|_, claims| claims["exp"] = json!(now + 150));
        set
    };
    let mut sets = vec![
        ("identity, JWK", identity().with_jwk()),
        ("identity, JWK and certificate", identity().with_jwk().with_certificate()),
        ("identity, JWK, certificate and key", identity().with_jwk().with_certificate().with_key()),
        ("identity, certificate", identity().with_certificate()),
        ("identity, certificate and key", identity().with_certificate().with_key()),
        ("identity, key", identity().with_key()),
        ("identity, configuration", identity().configured()),
        ("assertion, JWK", assertion().with_jwk()),
        ("assertion, certificate", assertion().with_certificate()),
        ("assertion, certificate and key", assertion().with_certificate().with_key()),
        ("assertion, key", assertion().with_key()),
        ("assertion, configuration", assertion().configured()),
        ("Intercom, configuration", Set::intercom(now)),
    ];
    let mut longer = identity().with_jwk().with_certificate();
    longer.change_jwk(|jwk| jwk["alg"] = json!("RS512"));
    longer.resign(|header, _| header["alg"] = json!("RS512"));
    sets.push(("identity by RS512", longer));
    let Certificates { leaf, authority, .. } = &*CERTIFICATES;
    let chains: [(&str, &str, &[&[u8]]); 2] = [
        ("chain", "x5c with a chain", &[leaf, authority]),
        ("certificate of an authority", "x5c of an authority", &[leaf]),
    ];
    for (file, published, chain) in chains {
        sets.push((file, Set { certificate: Some(chain_of(chain)), ..identity().with_key() }));
        let jwk = PAIRS[0].jwk_with("Key1", chain).to_string();
        sets.push((published, Set { jwk: Some(jwk), certificate: Some(chain_of(chain)), ..identity() }));
    }
    sets
}

/// Writes a file that only its owner can read, and makes its directory.
pub fn write_private(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
}
