//! Invariants of every response, for any request.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{API_KEY, Answer, FuzzService, HS256_SECRET, INTERCOM_SECRET, ISSUER_SECRET};

/// Secrets that no response and no message may contain.
pub const SECRETS: [&str; 5] = [API_KEY, HS256_SECRET, INTERCOM_SECRET, ISSUER_SECRET, "PRIVATE KEY-----"];

/// A token of a response, and the subject that the request asked for.
pub struct IssuedToken<'a> {
    pub token: &'a str,
    pub subject: &'a str,
}

impl FuzzService {
    pub(crate) fn check_answer(&self, route: &str, body: &[u8], answer: &Answer) {
        let text = String::from_utf8(answer.body.clone()).expect("answers are UTF-8");
        for secret in SECRETS {
            assert!(!text.contains(secret), "an answer holds a secret");
        }
        assert!(answer.headers.contains_key("x-request-id"));
        assert_eq!(answer.headers["cache-control"], "no-store");
        let said = answer.json();
        if answer.status != 200 {
            check_error(answer, &said);
            return;
        }
        // An accepted body is an object without duplicate members, so that every parser reads the same.
        let asked: Value = serde_json::from_slice(body).expect("only JSON gets a token");
        match route {
            "/identity-token" => {
                let bearer = IssuedToken { token: text_of(&said, "token"), subject: text_of(&asked, "sub") };
                self.check_identity_token(&bearer, &asked["claims"], asked["ttl"].as_i64());
            }
            "/intercom-user-jwt" => {
                let bearer =
                    IssuedToken { token: text_of(&said, "token"), subject: text_of(&asked, "user_id") };
                check_intercom_token(&bearer, &asked["claims"], asked["ttl"].as_i64());
            }
            "/hs256-token" => {
                assert_eq!(said["kid"], "app_1", "a profile that the caller may not use");
                let mut payload = verified_hs256_payload(text_of(&said, "token"), HS256_SECRET);
                assert_eq!(
                    payload.remove("external_id"),
                    Some(text_of(&asked, "sub").into()),
                    "another user"
                );
                assert_eq!(payload.remove("scope"), Some("user".into()), "a fixed claim changed");
                check_times_and_claims(payload, &asked["claims"], asked["ttl"].as_i64());
            }
            "/bundle" => {
                let (tokens, subject) = (&said["tokens"], text_of(&asked, "sub"));
                let (one, two) = ("salesforce_identity_token", "intercom_user_jwt");
                let bearer = IssuedToken { token: text_of(tokens, one), subject };
                self.check_identity_token(&bearer, &asked["claims"][one], None);
                check_intercom_token(
                    &IssuedToken { token: text_of(tokens, two), subject },
                    &asked["claims"][two],
                    None,
                );
                assert_eq!(tokens.as_object().map(Map::len), Some(2));
            }
            "/oauth-assertion" => {
                let payload = self.verified_payload(text_of(&said, "assertion"));
                assert_eq!(payload["iss"], "open");
                assert_eq!(payload["sub"], "integration@acme.com");
            }
            "/messaging-access-token" => {
                assert_eq!(said["verified"], true);
                let session = text_of(&said, "subject").strip_suffix(text_of(&asked, "sub"));
                assert!(session.is_some_and(|session| session.ends_with("/uid:")), "somebody else's session");
            }
            _ => {}
        }
    }

    fn check_identity_token(
        &self,
        IssuedToken { token, subject }: &IssuedToken<'_>,
        claims: &Value,
        ttl: Option<i64>,
    ) {
        let mut payload = self.verified_payload(token);
        assert_eq!(payload["sub"], *subject, "another subject than was asked for");
        assert_eq!(payload.remove("iss"), Some("open".into()), "a profile that the caller may not use");
        assert_eq!(payload.remove("aud"), Some("https://acme.my.salesforce-scrt.com".into()));
        payload.remove("sub");
        check_times_and_claims(payload, claims, ttl);
    }

    /// Verifies a token with a published key, and returns its payload.
    fn verified_payload(&self, token: &str) -> Map<String, Value> {
        let (signed, signature) = token.rsplit_once('.').expect("a JWS");
        let (header, payload) = signed.split_once('.').expect("a JWS");
        let header = object(header);
        let keys = self.keys["keys"].as_array().expect("a set").iter();
        let key = keys.clone().find(|key| key["kid"] == header["kid"]).expect("a published key");
        let number = |name| URL_SAFE_NO_PAD.decode(text_of(key, name)).expect("base64url");
        let key = RsaPublicKeyComponents { n: number("n"), e: number("e") };
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let verified = key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature);
        verified.expect("a signature that verifies");
        object(payload)
    }
}

fn check_intercom_token(IssuedToken { token, subject }: &IssuedToken<'_>, claims: &Value, ttl: Option<i64>) {
    let mut payload = verified_hs256_payload(token, INTERCOM_SECRET);
    assert_eq!(payload.remove("user_id"), Some((*subject).into()), "another user than was asked for");
    check_times_and_claims(payload, claims, ttl);
}

/// Verifies a token with a shared secret, and returns its payload.
fn verified_hs256_payload(token: &str, secret: &str) -> Map<String, Value> {
    let (signed, signature) = token.rsplit_once('.').expect("a JWS");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    hmac::verify(&key, signed.as_bytes(), &signature).expect("a signature that verifies");
    object(signed.split_once('.').expect("a JWS").1)
}

/// Checks that the lifetime is the requested one, and that the remaining claims are exactly the requested ones.
fn check_times_and_claims(mut payload: Map<String, Value>, claims: &Value, ttl: Option<i64>) {
    let mut time = |name| payload.remove(name).and_then(|time| time.as_i64()).expect("a time");
    let life = time("exp") - time("iat");
    assert_eq!(life, ttl.unwrap_or(600));
    assert!((60..=3600).contains(&life), "a life of {life} s");
    let claims = claims.as_object().cloned().unwrap_or_default();
    assert!(
        claims.keys().all(|name| ["plan", "locale"].contains(&name.as_str())),
        "a claim that nobody allowed"
    );
    assert_eq!(payload, claims);
}

fn check_error(answer: &Answer, said: &Value) {
    let known = ["error", "error_description", "request_id", "field", "upstream"];
    let members = said.as_object().expect("an object");
    assert!(members.keys().all(|name| known.contains(&name.as_str())), "{said}");
    assert_eq!(said["request_id"], answer.headers["x-request-id"].to_str().expect("text"));
    assert!(!text_of(said, "error_description").is_empty());
    if let Some(seconds) = answer.headers.get("retry-after") {
        let seconds: u64 = seconds.to_str().expect("text").parse().expect("seconds");
        assert!((1..=3600).contains(&seconds), "Retry-After: {seconds}");
    }
}

/// Checks the response to an exchange for which Salesforce sent the bytes `sent` with the body `body`.
pub(crate) fn check_exchange(route: &str, sent: &[u8], body: &[u8], got: &Answer) {
    assert!([200, 502, 503, 504].contains(&got.status.as_u16()), "{route} answered {}", got.status);
    let said = got.json();
    if got.status == 200 {
        let theirs: Value = serde_json::from_slice(body).expect("only JSON gives a token");
        let (name, token) = (
            if route == "/oauth-access-token" { "access_token" } else { "accessToken" },
            &said["access_token"],
        );
        assert_eq!(&theirs[name], token, "a token that Salesforce did not send");
        assert!(text_of(&said, "access_token").bytes().all(|b| b.is_ascii_graphic()), "not fit for a header");
        assert!(sent.starts_with(b"HTTP/1.1 2"), "a token out of an error");
        assert!(said["expires_in"].as_i64().is_some_and(|seconds| seconds > 0));
        assert_eq!(said["cached"], false);
        if let Some(url) = said["instance_url"].as_str() {
            let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', ':']).next());
            let host = host.unwrap_or_default().to_ascii_lowercase();
            let ours = [".salesforce.com", ".force.com", ".salesforce.mil", ".cloudforce.com"];
            assert!(host == "127.0.0.1" || ours.iter().any(|domain| host.ends_with(domain)), "{url}");
        }
        return;
    }
    for word in ["error", "error_description"] {
        if let Some(quoted) = said["upstream"][word].as_str() {
            assert!(quoted.chars().count() <= 200 && !quoted.chars().any(char::is_control), "{quoted:?}");
        }
    }
    if got.status == 503 {
        assert!(got.headers.contains_key("retry-after"));
    }
}

fn object(part: &str) -> Map<String, Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("an object")
}

fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}
