//! `tokenmint doctor`: each fault has a fixture that is sound otherwise, and must give exactly one finding.
//! Fixtures are generated: keys and certificates by rcgen and openssl, tokens by jsonwebtoken. Where possible, the
//! sandbox must refuse the same fixture.

/// Makes a test of each fault: its name, the check that must find it, the level, a part of the text, and the input.
/// `CASES` lists the checks, so that none can be forgotten.
macro_rules! faults {
    ($($name:ident: $case:literal, $outcome:ident, $seen:literal, $given:expr;)*) => {
        pub const CASES: &[&str] = &[$($case),*];
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $given.yields($case, stringify!($outcome), $seen).await;
            }
        )*
    };
}

mod catalogue;
mod configuration;
mod forms;
mod healthy;
mod issuers;
mod keys;
mod online;
mod published;
mod tokens;
mod verify;

use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use time::Duration;
use tokenmint::clock::{Clock as _, SystemClock, UnixTime};
use tokenmint::doctor::CHECKS;
use tokenmint::sandbox::{self, KeySource};

use crate::sandbox::{
    CONSUMER_KEY, ISSUER, MESSAGING, PAIRS, Pair, Played, USER, chat_org, chat_request, identity, play, sign,
    subject,
};
use crate::support::{Ran, Workspace, sha256_hex};

pub fn now() -> UnixTime {
    SystemClock::default().now()
}

pub fn seconds() -> i64 {
    now().seconds()
}

/// A sound configuration with a section of every kind. Its keys are the two of `PAIRS`.
pub const CONFIGURATION: &str = r#"
[server]
listen = "127.0.0.1:0"
state_directory = "state"
[server.public]
listen = "127.0.0.1:0"
url = "https://tokens.acme.example"
[keysets.web]
directory = "keys/identity"
[keysets.crm]
directory = "keys/oauth"
[identity.web]
keyset = "web"
issuer = "https://acme.example"
ttl = "1h"
[identity.web.messaging]
scrt_url = "https://acme.my.salesforce-scrt.com"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.sandbox"
username = "integration@acme.com"
audience = "https://acme.my.salesforce.com"
[intercom.fin]
secret = "intercom-messenger-api-secret-0123456789"
[callers.web]
api_key_sha256 = ["HASH"]
allow = ["identity.web", "oauth.crm", "intercom.fin"]
"#;

/// The input of a run of the doctor.
pub struct Given {
    pub workspace: Workspace,
    arguments: Vec<String>,
    /// Parts of keys and tokens that the output must not contain.
    secrets: Vec<String>,
    /// The error of the sandbox for the JWK or the token.
    jwk: Option<String>,
    token: Option<String>,
    refusal: Option<&'static str>,
    /// Findings that are unavoidable on loopback.
    beside: Option<&'static str>,
    /// Kept until the end of the test.
    played: Option<Played>,
}

impl Given {
    /// No input and no configuration.
    pub fn nothing() -> Self {
        Self {
            workspace: Workspace::bare(),
            arguments: Vec::new(),
            secrets: Vec::new(),
            jwk: None,
            token: None,
            refusal: None,
            beside: None,
            played: None,
        }
    }

    /// The sound configuration with these replacements.
    pub fn configured(changes: &[(&str, &str)]) -> Self {
        let given = Self::nothing();
        given.workspace.write_key("keys/identity/Key1.key", &PAIRS[0].pem);
        given.workspace.write_key("keys/oauth/CrmKey1.key", &PAIRS[1].pem);
        let mut text = CONFIGURATION.replace("HASH", &sha256_hex("an API key"));
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        given.workspace.configure(&text);
        given
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// A file that only its owner can read.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.workspace.write_key(name, content);
        let secret = |line: &&str| line.len() > 40 && !line.starts_with(['{', '[', '-']);
        self.secrets.extend(content.lines().filter(secret).map(|line| line[line.len() - 30..].to_owned()));
        self.with(&[name])
    }

    /// A JWK in the form for upload.
    pub fn jwk(self, jwk: &Value) -> Self {
        self.jwk_text(&jwk.to_string())
    }

    pub fn jwk_text(mut self, text: &str) -> Self {
        self.jwk = Some(text.to_owned());
        self.file("Key1.jwk", text)
    }

    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self.file("token.txt", token)
    }

    /// Expects that the sandbox refuses the same with this text.
    pub const fn refused(mut self, why: &'static str) -> Self {
        self.refusal = Some(why);
        self
    }

    /// Expects a finding that every URL on loopback causes.
    pub const fn beside(mut self, case: &'static str) -> Self {
        self.beside = Some(case);
        self
    }

    /// Keeps the sandbox until the end.
    pub fn holding(mut self, played: Played) -> Self {
        self.played = Some(played);
        self
    }

    pub fn run(&self, more: &[&str]) -> Ran {
        let arguments = self.arguments.iter().map(String::as_str);
        let all: Vec<&str> = std::iter::once("doctor").chain(arguments).chain(more.iter().copied()).collect();
        self.workspace.run(&all)
    }

    /// The exit code, and all findings that are not passed checks.
    #[track_caller]
    pub fn examined(&self) -> (i32, Vec<Value>) {
        let ran = self.run(&["--json"]);
        let report: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
        for secret in &self.secrets {
            assert!(!ran.stdout.contains(secret), "{secret} in {}", ran.stdout);
        }
        assert_eq!(report["ok"], ran.code() == 0);
        let findings = report["findings"].as_array().expect("findings").clone();
        let notable =
            |finding: &Value| finding["outcome"] != "pass" && finding["check"] != json!(self.beside);
        (ran.code(), findings.into_iter().filter(notable).collect())
    }

    /// The skipped checks, each with its input, if there is one, and the reason.
    pub fn not_looked_at(&self) -> Vec<Value> {
        let report: Value = serde_json::from_str(&self.run(&["--json"]).stdout).expect("JSON");
        report["not_looked_at"].as_array().expect("a list").clone()
    }

    /// Asserts that there is no finding.
    #[track_caller]
    pub fn is_well(&self) {
        let (code, findings) = self.examined();
        assert_eq!((code, findings), (0, Vec::new()));
    }

    /// Asserts the single finding, and that the sandbox refuses the same.
    pub async fn yields(self, case: &str, outcome: &str, seen: &str) {
        let (code, findings) = self.examined();
        let [finding] = findings.as_slice() else { panic!("not one finding: {findings:#?}") };
        assert_eq!((&finding["check"], &finding["outcome"]), (&json!(case), &json!(outcome)), "{finding:#}");
        assert_eq!(code, i32::from(outcome == "fail"));
        let said = finding["seen"].as_str().expect("text");
        assert!(said.contains(seen), "{seen} in {said}");
        let known = CHECKS.iter().find(|known| known.id == case).expect("a case");
        assert_eq!(finding["answers"], known.question);
        assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{finding:#}");
        if let Some(refusal) = self.refusal {
            self.is_refused(refusal).await;
        }
    }

    /// Uploads the JWK to the sandbox, then sends the token to a deployment with that key.
    async fn is_refused(&self, why: &str) {
        let right = PAIRS[0].jwk("Key1").to_string();
        let uploaded = match sandbox::upload_key(self.jwk.as_ref().unwrap_or(&right), now()) {
            Ok(jwk) => jwk,
            Err(refusal) => return assert!(refusal.contains(why), "{why} in {refusal}"),
        };
        let played = play(chat_org(KeySource::Uploaded(json!({"keys": [uploaded]})))).await;
        played.clock.set(now());
        let token = self.token.clone().unwrap_or_else(|| identity(&json!({}), seconds()));
        let assertion = jsonwebtoken::dangerous::insecure_decode::<Value>(&token)
            .is_ok_and(|token| token.claims["iss"] == CONSUMER_KEY);
        if assertion {
            let answer = played.login(&token).await;
            assert_eq!(answer.status, 400, "{}", answer.text);
        } else {
            let answer = played.post(MESSAGING, &chat_request(&token)).await.ok();
            assert!(subject(&answer).contains("/ANON/"), "{answer}");
        }
        let reason = played.last_reason();
        assert!(reason.contains(why), "{why} in {reason}");
    }
}

/// The right key's JWK, changed.
pub fn jwk(change: impl FnOnce(&mut Value)) -> Value {
    let mut jwk = PAIRS[0].jwk("Key1");
    change(&mut jwk);
    jwk
}

/// Like Salesforce's own utility writes it: with placeholders for members of other key types.
pub fn utility_jwk() -> Value {
    jwk(|jwk| {
        for name in ["y", "crv", "d", "k"] {
            jwk[name] = json!(name);
        }
    })
}

/// An identity token with these claims, and without those that are `null`.
pub fn token(changes: &Value) -> String {
    identity(changes, seconds())
}

/// Any header and any payload, signed with the right key.
pub fn raw_token(header: &Value, claims: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_rsa_pem(PAIRS[0].pem.as_bytes()).expect("a key");
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::RS256).expect("a signature");
    format!("{signed}.{signature}")
}

pub fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "user-1", "exp": seconds() + 600, "iat": seconds()})
}

/// An assertion of the JWT bearer flow with these claims changed.
pub fn assertion(changes: &Value) -> String {
    let mut claims = json!({
        "iss": CONSUMER_KEY, "sub": USER, "aud": "https://acme.my.salesforce.com", "exp": seconds() + 150,
    });
    let members = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, value| !value.is_null());
    sign(&PAIRS[0], Algorithm::RS256, None, &claims)
}

/// A certificate of the right key. `from` and `until` are days from now.
pub fn certificate(from: i64, until: i64, change: impl FnOnce(&mut CertificateParams)) -> Pair {
    certificate_of(&PAIRS[0], from, until, change)
}

pub fn certificate_of(
    pair: &Pair,
    from: i64,
    until: i64,
    change: impl FnOnce(&mut CertificateParams),
) -> Pair {
    let key = KeyPair::from_pem(&pair.pem).expect("a key");
    let mut params = CertificateParams::default();
    let now = time::OffsetDateTime::from_unix_timestamp(seconds()).expect("a date");
    (params.not_before, params.not_after) = (now + Duration::days(from), now + Duration::days(until));
    change(&mut params);
    let made = params.self_signed(&key).expect("a certificate");
    Pair { pem: pair.pem.clone(), certificate: made.der().to_vec() }
}

/// PEM text with one certificate after the other.
pub fn chain(pairs: &[&Pair]) -> String {
    pairs.iter().map(|pair| pem_of(pair)).collect()
}

/// A sound certificate.
pub fn good_certificate() -> String {
    pem_of(&certificate(-1, 730, |_| ()))
}

pub fn pem_of(pair: &Pair) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", pair.certificate.clone()))
}
