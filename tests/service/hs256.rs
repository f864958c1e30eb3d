//! `[hs256.NAME]` and `POST /hs256-token`: tokens for any relying party that shares a secret.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use crate::in_process::InProcess;
use crate::issuers::{FakeIssuer, RSA, claims_at, issuer};
use crate::support::{Answer, Workspace, configuration, sha256_hex, unverified};

const NOW: i64 = 1_796_083_200;
const ZENDESK_SECRET: &str = "zendesk-messaging-secret-0123456789";

const PROFILES: &str = r#"
[hs256.zendesk]
secret = "zendesk-messaging-secret-0123456789"
kid = "app_65f0c0ffee"
subject_claim = "external_id"
fixed_claims = { scope = "user", email_verified = true }
claims = ["name", "email"]
ttl = "10m"
max_ttl = "1h"
[hs256.odd]
secret = "another-relying-partys-secret-012345"
cty = "odd;v=1"
subject_claim = "a \"claim\" \\ of Ünïts"
[hs256.odd.fixed_claims]
iss = "SK123"
aud = ["one", "two"]
sub = "AC123"
decimal = 1_000.50
exponent = 1e+06
negative = -0.0
plus = +7
hexadecimal = 0xff
large = 123456789012345678901234567890
largest_hexadecimal = 0xffffffffffffffff
text = "\"\\ \u00fc\n"
nested = { deep = [1, "2", [true], { three = 3.0 }], empty = {} }
"#;

fn caller(name: &str, more: &str) -> String {
    format!("[callers.{name}]\napi_key_sha256 = [\"{}\"]\n{more}\n", sha256_hex(name))
}

fn workspace(more: &str) -> Workspace {
    let site = caller("site", "allow = [\"hs256.zendesk\", \"hs256.odd\"]");
    Workspace::with(&format!("{PROFILES}{site}{more}"))
}

async fn in_process(more: &str) -> InProcess {
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)));
    InProcess::of(Arc::new(workspace(more)), clock).await
}

async fn post(service: &InProcess, api_key: &str, body: Value) -> Answer {
    service.post("/hs256-token", api_key, &body).await
}

/// The decoded text of the header and of the payload.
fn texts(answer: &Value) -> [String; 2] {
    let token = answer["token"].as_str().expect("a token");
    let mut parts = token
        .split('.')
        .map(|part| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).unwrap_or_default());
    [parts.next().expect("a header"), parts.next().expect("a payload")]
}

#[tokio::test]
async fn a_token_has_the_header_and_the_claims_of_its_profile_and_request_byte_for_byte() {
    let service = in_process("").await;
    let claims = json!({"email": "u@example.com", "name": {"given": "U"}});
    let body = json!({"sub": "user-1", "profile": "zendesk", "ttl": 60, "claims": claims});
    let answer = post(&service, "site", body).await.ok();
    let [header, payload] = texts(&answer);
    assert_eq!(header, r#"{"typ":"JWT","alg":"HS256","kid":"app_65f0c0ffee"}"#);
    assert_eq!(
        payload,
        concat!(
            r#"{"external_id":"user-1","email_verified":true,"scope":"user","iat":1796083200,"exp":1796083260,"#,
            r#""email":"u@example.com","name":{"given":"U"}}"#
        )
    );
    let key = jsonwebtoken::DecodingKey::from_secret(ZENDESK_SECRET.as_bytes()).expect("a secret");
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.validate_exp = false;
    let token = answer["token"].as_str().expect("a token");
    jsonwebtoken::decode::<Value>(token, &key, &rules).expect("a valid signature");
    let mut members = answer.as_object().expect("an object").clone();
    members.remove("token");
    let expected = json!({
        "token_type": "JWT", "kid": "app_65f0c0ffee", "issued_at": NOW, "expires_at": NOW + 60, "expires_in": 60,
        "renew_at": NOW + 30,
    });
    assert_eq!(Value::Object(members), expected);
}

#[tokio::test]
async fn fixed_claims_keep_each_digit_and_each_kind_of_value() {
    let service = in_process("").await;
    let answer = post(&service, "site", json!({"sub": "Jürgen \"J\"", "profile": "hs256.odd"})).await.ok();
    let [header, payload] = texts(&answer);
    assert_eq!(header, r#"{"typ":"JWT","alg":"HS256","cty":"odd;v=1"}"#);
    assert_eq!(
        payload,
        concat!(
            r#"{"a \"claim\" \\ of Ünïts":"Jürgen \"J\"","aud":["one","two"],"decimal":1000.50,"exponent":1e+06,"#,
            r#""hexadecimal":255,"iss":"SK123","large":123456789012345678901234567890,"#,
            r#""largest_hexadecimal":18446744073709551615,"negative":-0.0,"#,
            r#""nested":{"deep":[1,"2",[true],{"three":3.0}],"empty":{}},"plus":7,"sub":"AC123","#,
            r#""text":"\"\\ ü\n","iat":1796083200,"exp":1796086800}"#
        )
    );
    assert_eq!(answer["kid"], Value::Null);
}

#[tokio::test]
async fn a_request_sets_the_user_and_the_listed_claims_and_nothing_else() {
    let service = in_process("").await;
    for (body, field) in [
        (json!({"profile": "zendesk"}), "sub"),
        (json!({"sub": "undefined", "profile": "zendesk"}), "sub"),
        (json!({"sub": 7, "profile": "zendesk"}), "sub"),
        (json!({"sub": "1", "user_id": "1", "profile": "zendesk"}), "user_id"),
        (json!({"sub": "1", "external_id": "1", "profile": "zendesk"}), "external_id"),
        (json!({"sub": "1", "profile": "zendesk", "ttl": 59}), "ttl"),
        (json!({"sub": "1", "profile": "zendesk", "ttl": 3601}), "ttl"),
        (json!({"sub": "1", "profile": "zendesk", "claims": {"scope": "admin"}}), "claims.scope"),
        (json!({"sub": "1", "profile": "zendesk", "claims": {"external_id": "2"}}), "claims.external_id"),
        (json!({"sub": "1", "profile": "zendesk", "claims": {"exp": 1}}), "claims.exp"),
        (json!({"sub": "1", "profile": "zendesk", "claims": {"iss": "x"}}), "claims.iss"),
        (json!({"sub": "1", "profile": "odd", "claims": {"iss": "x"}}), "claims.iss"),
    ] {
        post(&service, "site", body).await.refused(400, "invalid_request", Some(field));
    }
    for (profile, status, error) in [
        ("intercom.fin", 400, "invalid_request"),
        ("identity.web", 400, "invalid_request"),
        ("hs256.web", 403, "access_denied"),
    ] {
        let body = json!({"sub": "1", "profile": profile});
        post(&service, "site", body).await.refused(status, error, Some("profile"));
    }
    // The caller has two such profiles, and must name one.
    post(&service, "site", json!({"sub": "1"})).await.refused(400, "invalid_request", Some("profile"));
}

#[tokio::test]
async fn the_policy_and_the_limits_of_callers_hold_for_these_profiles() {
    let more = [
        caller("narrow", "allow = [\"hs256.zendesk\"]\nsubjects = \"user-[0-9]+\"\nsubjects_per_minute = 2"),
        caller("other", "allow = [\"intercom.fin\"]"),
    ];
    let service = in_process(&more.concat()).await;
    let narrow = async |sub: &str| post(&service, "narrow", json!({"sub": sub})).await;
    narrow("user-1").await.ok();
    narrow("admin").await.refused(403, "access_denied", Some("sub"));
    narrow("user-2").await.ok();
    narrow("user-3").await.refused(429, "rate_limited", None);
    post(&service, "other", json!({"sub": "user-1"})).await.refused(403, "access_denied", Some("profile"));
    post(&service, "nobody", json!({"sub": "user-1"})).await.refused(401, "invalid_client", None);
    // `remint_burst` is 120 tokens for one subject.
    let again = async || post(&service, "site", json!({"sub": "user-9", "profile": "zendesk"})).await;
    for _ in 0..120 {
        again().await.ok();
    }
    again().await.refused(429, "rate_limited", None);
}

#[tokio::test]
async fn a_bundle_holds_these_tokens_beside_those_of_other_kinds() {
    let more = "[bundles.page]\nsalesforce = \"identity.web\"\nfin = \"intercom.fin\"\nzendesk = \"hs256.zendesk\"\n";
    let callers = [
        caller("page", r#"allow = ["identity.web", "intercom.fin", "hs256.zendesk", "bundles.page"]"#),
        caller("half", r#"allow = ["identity.web", "intercom.fin", "bundles.page"]"#),
    ];
    let service = in_process(&format!("{more}{}", callers.concat())).await;
    let body =
        json!({"sub": "user-1", "claims": {"zendesk": {"name": "U"}, "fin": {"email": "u@example.com"}}});
    let answer = service.post("/bundle", "page", &body).await.ok();
    let claims = |entry: &str| unverified(answer["tokens"][entry].as_str().expect("a token")).1;
    assert_eq!(claims("salesforce")["sub"], "user-1");
    assert_eq!([&claims("fin")["user_id"], &claims("fin")["email"]], ["user-1", "u@example.com"]);
    let expected = json!({
        "external_id": "user-1", "scope": "user", "email_verified": true, "name": "U", "iat": NOW, "exp": NOW + 600,
    });
    assert_eq!(claims("zendesk"), expected);
    // The first token to expire is Zendesk's.
    assert_eq!([&answer["expires_at"], &answer["expires_in"]], [&json!(NOW + 600), &json!(600)]);
    let body = json!({"sub": "user-1", "claims": {"zendesk": {"scope": "admin"}}});
    let refused = service.post("/bundle", "page", &body).await;
    refused.refused(400, "invalid_request", Some("claims.zendesk.scope"));
    let refused = service.post("/bundle", "half", &json!({"sub": "user-1"})).await;
    let description = refused.refused(403, "access_denied", Some("bundle"));
    assert!(description.contains("`hs256.zendesk`, which the bundle needs"), "{description}");
}

#[tokio::test]
async fn a_subject_token_proves_the_user() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let proven = "allow = [\"hs256.zendesk\"]\nsubject_token = \"required\"\nsubject_issuer = \"corp\"";
    let service = in_process(&(issuer(&fake.jwks_url()) + &caller("proven", proven))).await;
    let token = RSA.token("a", &claims_at(NOW, "user-7"));
    let answer = post(&service, "proven", json!({"subject_token": token, "ttl": 3600})).await.ok();
    let (_, claims) = unverified(answer["token"].as_str().expect("a token"));
    assert_eq!(claims["external_id"], "user-7");
    assert_eq!(answer["expires_in"], 600, "it doesn't end after the subject token");
    let other = post(&service, "proven", json!({"subject_token": token, "sub": "user-8"})).await;
    other.refused(400, "invalid_request", Some("sub"));
    let named = post(&service, "proven", json!({"sub": "user-7"})).await;
    named.refused(400, "invalid_request", Some("subject_token"));
}

#[tokio::test]
async fn a_token_is_counted_and_audited_with_its_key_id() {
    let service = workspace("").serve().await;
    let request = service.request(Method::POST, "/hs256-token").bearer_auth("site");
    let request =
        request.json(&json!({"sub": "user-1", "profile": "zendesk"})).header("Accept", "application/jwt");
    let answer = Answer::of(request).await;
    assert_eq!(answer.header("content-type"), "application/jwt");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(unverified(&answer.text).1["external_id"], "user-1");
    let metrics = service.metrics().await;
    let counted = r#"tokens_minted_total{caller="site",profile="hs256.zendesk"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    let log = service.whole_log().await;
    let line = log.lines().find(|line| line.contains("\"minted\"")).expect("an audit line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    let text = line.to_string();
    assert!(
        text.contains(r#""profile":"hs256.zendesk""#) && text.contains(r#""kid":"app_65f0c0ffee""#),
        "{text}"
    );
    assert!(!text.contains("user-1"), "{text}");
}

#[test]
fn the_command_line_mints_them_too() {
    let workspace = workspace("");
    let minted =
        workspace.run(&["mint", "hs256.zendesk", "--sub", "user-1", "--claims", r#"{"name":"U"}"#]).ok();
    let (header, claims) = unverified(minted.trim());
    assert_eq!(header["kid"], "app_65f0c0ffee");
    assert_eq!([&claims["external_id"], &claims["scope"], &claims["name"]], ["user-1", "user", "U"]);
    let json = workspace.run(&["mint", "hs256.odd", "--sub", "user-1", "--json"]).json();
    assert_eq!([&json["kid"], &json["expires_in"]], [&Value::Null, &json!(3600)]);
    let ran = workspace.run(&["mint", "hs256.none", "--sub", "user-1"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("hs256.zendesk"), "{}", ran.stderr);
}

#[test]
fn the_environment_sets_a_fixed_claim_as_text() {
    let mut workspace = Workspace::bare();
    workspace.configure(&configuration());
    workspace
        .set("TOKENMINT_HS256__STREAM__SECRET", "a-secret-of-stream-0123456789abcdef")
        .set("TOKENMINT_HS256__STREAM__SUBJECT_CLAIM", "user_id")
        .set("TOKENMINT_HS256__STREAM__FIXED_CLAIMS__LEVEL", "7");
    let minted = workspace.run(&["mint", "hs256.stream", "--sub", "user-1"]).ok();
    let (_, claims) = unverified(minted.trim());
    assert_eq!([&claims["user_id"], &claims["level"]], ["user-1", "7"]);
}
