//! The tokens of the three minting endpoints, verified with the published JWKS.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{API_KEY, Answer, Workspace, retrying, sha256_hex, unverified, user_1, verified};

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[expect(clippy::disallowed_methods, reason = "the test's own look at the clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("fits")
}

#[tokio::test]
async fn an_identity_token_has_the_claims_of_its_profile_and_verifies_with_the_jwks() {
    let service = Workspace::new().serve().await;
    let answer = service.post("/identity-token", &user_1()).await;
    let body = answer.ok();
    let expected = ["token", "token_type", "kid", "issued_at", "expires_at", "expires_in", "renew_at"];
    assert_eq!(names(&body), BTreeSet::from(expected));
    assert_eq!((&body["token_type"], &body["kid"]), (&json!("JWT"), &json!("WebAppKey1")));

    let token = body["token"].as_str().expect("a token");
    let (header, _) = unverified(token);
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "WebAppKey1"}));
    for set in ["/keysets/web/jwks.json", "/.well-known/jwks.json"] {
        let claims = verified(token, &service.jwks(set).await);
        assert_eq!(names(&claims), BTreeSet::from(["iss", "sub", "aud", "iat", "exp"]));
        assert_eq!(claims["iss"], "intercom.com");
        assert_eq!(claims["aud"], "https://acme.my.salesforce-scrt.com");
        assert_eq!(claims["sub"], "user-1");
        assert_eq!([&claims["iat"], &claims["exp"]], [&body["issued_at"], &body["expires_at"]]);
    }
    let (issued_at, expires_at) = (body["issued_at"].as_i64().expect("seconds"), body["expires_at"].as_i64());
    assert!((now() - issued_at).abs() <= 2, "issued now");
    assert_eq!(body["expires_in"], 1800);
    assert_eq!(expires_at, Some(issued_at + 1800));
    assert_eq!(body["renew_at"], issued_at + 1440);
}

#[tokio::test]
async fn a_token_answer_is_stored_nowhere_and_has_no_etag() {
    let service = Workspace::new().serve().await;
    for (path, body) in [
        ("/identity-token", user_1()),
        ("/oauth-assertion", json!({})),
        ("/intercom-user-jwt", json!({"user_id": "user-1"})),
    ] {
        let answer = service.post(path, &body).await;
        answer.ok();
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("pragma"), "no-cache");
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(!answer.header("x-request-id").is_empty());
        for absent in ["etag", "access-control-allow-origin", "server", "last-modified"] {
            assert!(!answer.headers.contains_key(absent), "{absent}");
        }
    }
}

#[tokio::test]
async fn an_rs512_profile_signs_rs512_with_a_key_published_as_such() {
    let workspace = Workspace::with(&format!(
        "[callers.web512]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web512\"]",
        sha256_hex("tm_512")
    ));
    let service = workspace.serve().await;
    let answer = service.post_text("/identity-token", "tm_512", r#"{"sub":"user-7"}"#).await;
    let body = answer.ok();
    let token = body["token"].as_str().expect("a token");
    assert_eq!(unverified(token).0["alg"], "RS512");
    let set = service.get("/keysets/web512/jwks.json").await.json();
    assert_eq!(set["keys"][0]["alg"], "RS512");
    let claims = verified(token, &service.jwks("/keysets/web512/jwks.json").await);
    // Without `audience` there is no `aud`. Salesforce doesn't check it.
    assert_eq!(names(&claims), BTreeSet::from(["iss", "sub", "iat", "exp"]));
    assert_eq!(body["expires_in"], 3600);
}

#[tokio::test]
async fn a_caller_sets_the_ttl_and_the_listed_claims_and_nothing_is_altered() {
    let service = Workspace::new().serve().await;
    let claims = json!({"plan": {"name": "pro \u{1f600}", "seats": [1, 2.5, null, true]}, "locale": "de"});
    let body = json!({"sub": "Jürgen \"J\" Groß/\\", "ttl": 60, "claims": claims, "profile": "web"});
    let answer = service.post("/identity-token", &body).await.ok();
    let minted =
        verified(answer["token"].as_str().expect("a token"), &service.jwks("/.well-known/jwks.json").await);
    assert_eq!(minted["sub"], body["sub"]);
    assert_eq!([&minted["plan"], &minted["locale"]], [&claims["plan"], &claims["locale"]]);
    // Two users for Salesforce, which compares bytes, although Unicode normalization makes them equal.
    for sub in ["J\u{fc}rgen", "Ju\u{308}rgen"] {
        let answer = service.post("/identity-token", &json!({"sub": sub})).await.ok();
        assert_eq!(unverified(answer["token"].as_str().expect("a token")).1["sub"], sub);
    }
    assert_eq!(answer["expires_in"], 60);
    assert_eq!(answer["renew_at"], answer["issued_at"].as_i64().expect("seconds") + 30);
}

#[tokio::test]
async fn an_assertion_has_the_claims_of_rfc_7523_and_a_jti_of_its_own() {
    let service = Workspace::new().serve().await;
    let set = service.jwks("/keysets/crm/jwks.json").await;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let body = service.post("/oauth-assertion", &json!({})).await.ok();
        let expected =
            ["assertion", "grant_type", "token_endpoint", "kid", "issued_at", "expires_at", "expires_in"];
        assert_eq!(names(&body), BTreeSet::from(expected));
        assert_eq!(body["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        assert_eq!(body["token_endpoint"], "https://login.salesforce.com/services/oauth2/token");
        let assertion = body["assertion"].as_str().expect("an assertion");
        assert_eq!(unverified(assertion).0, json!({"alg": "RS256", "typ": "JWT", "kid": "CrmKey1"}));
        let claims = verified(assertion, &set);
        assert_eq!(names(&claims), BTreeSet::from(["iss", "sub", "aud", "exp", "iat", "jti"]));
        assert_eq!(claims["iss"], "3MVG9.consumer");
        assert_eq!(claims["sub"], "integration@acme.com");
        assert_eq!(claims["aud"], "https://login.salesforce.com");
        assert_eq!(body["expires_in"], 150);
        assert_eq!(claims["exp"], claims["iat"].as_i64().expect("seconds") + 150);
        assert!(seen.insert(claims["jti"].as_str().expect("a jti").to_owned()), "a jti came twice");
    }
}

#[tokio::test]
async fn an_intercom_user_jwt_is_signed_with_the_secret_and_names_the_user_as_a_string() {
    let service = Workspace::new().serve().await;
    let body = json!({"user_id": "42", "claims": {"email": "u@example.com"}});
    let answer = service.post("/intercom-user-jwt", &body).await.ok();
    let token = answer["token"].as_str().expect("a token");
    assert_eq!(unverified(token).0, json!({"alg": "HS256", "typ": "JWT"}));
    // The file's trailing newline is not part of the secret.
    let key = jsonwebtoken::DecodingKey::from_secret(b"intercom-messenger-api-secret-0123456789")
        .expect("a secret");
    let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let claims = jsonwebtoken::decode::<Value>(token, &key, &rules).expect("a valid signature").claims;
    assert_eq!(claims["user_id"], "42");
    assert_eq!(claims["email"], "u@example.com");
    assert_eq!(names(&claims), BTreeSet::from(["user_id", "iat", "exp", "email"]));
    // Intercom's secrets have no id.
    assert_eq!(answer["kid"], Value::Null);
    assert_eq!(answer["expires_in"], 3600);
}

#[tokio::test]
async fn accept_application_jwt_gets_the_bare_token() {
    let service = Workspace::new().serve().await;
    let set = service.jwks("/.well-known/jwks.json").await;
    for (path, body) in [("/identity-token", user_1()), ("/oauth-assertion", json!({}))] {
        let request = service.request(Method::POST, path).bearer_auth(API_KEY).json(&body);
        let answer = Answer::of(request.header("Accept", "application/jwt")).await;
        assert_eq!(answer.header("content-type"), "application/jwt");
        assert_eq!(answer.header("cache-control"), "no-store");
        verified(&answer.text, &set);
    }
}

#[tokio::test]
async fn a_harmless_request_id_is_kept_and_any_other_replaced() {
    let service = Workspace::new().serve().await;
    let with =
        |id: &str| Answer::of(service.request(Method::GET, "/livez").header("X-Request-Id", id.to_owned()));
    assert_eq!(with("page-load_7.1").await.header("x-request-id"), "page-load_7.1");
    let longest = "x".repeat(64);
    assert_eq!(with(&longest).await.header("x-request-id"), longest);
    for harmful in
        ["a b", "\"", "<x>", &"x".repeat(65), "", "a\tb", "a;b", "a,b", "%0d%0aSet-Cookie:x=1", "\u{e9}"]
    {
        let answer = with(harmful).await;
        let made = answer.header("x-request-id");
        assert_ne!(made, harmful);
        assert!(
            (1..=64).contains(&made.len())
                && made.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
            "{made}"
        );
    }
}

#[tokio::test]
async fn a_hundred_concurrent_callers_each_get_their_own_token() {
    let service = Workspace::new().serve().await;
    let set = service.jwks("/.well-known/jwks.json").await;
    let service = Arc::new(service);
    let asks: Vec<_> = (0..100)
        .map(|n| {
            let (service, body) = (service.clone(), json!({"sub": format!("user-{n}")}));
            tokio::spawn(async move { retrying(|| service.post("/identity-token", &body)).await })
        })
        .collect();
    for (n, ask) in asks.into_iter().enumerate() {
        let body = ask.await.expect("no panic").ok();
        let claims = verified(body["token"].as_str().expect("a token"), &set);
        assert_eq!(claims["sub"], format!("user-{n}"));
    }
    let metrics = service.metrics().await;
    let counted = r#"tokenmint_tokens_minted_total{caller="web",profile="identity.web"} 100"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(
        metrics.contains(r#"tokenmint_signing_duration_seconds_count{algorithm="RS256"} 100"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_key_signs_from_its_sign_from_on_and_its_predecessor_stays_published() {
    let workspace = Workspace::new();
    workspace.write_key("keys/web/WebAppKey2.key", &crate::support::KEYS.web512);
    workspace.write_key("keys/web/WebAppKey3.key", &crate::support::KEYS.crm);
    std::fs::remove_dir_all(workspace.path("keys/web512")).expect("removed");
    workspace.configure(
        &crate::support::configuration()
            .replace("keys/web512", "keys/crm")
            .replace("RS512", "RS256")
            .replacen("[keysets.web512]\ndirectory = \"keys/crm\"\n", "", 1)
            .replace("keyset = \"web512\"", "keyset = \"web\""),
    );
    let scheduled = |second: &str| {
        let schedule = format!(
            "[[key]]\nkid = \"WebAppKey2\"\nsign_from = {second}\n\
             [[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
             [[key]]\nkid = \"WebAppKey3\"\nsign_from = 2999-01-01T00:00:00+01:00\n"
        );
        workspace.write("keys/web/keyset.toml", &schedule);
    };
    let published = async |service: &crate::support::Running| {
        let set = service.get("/keysets/web/jwks.json").await.json();
        set["keys"].as_array().expect("keys").iter().map(|key| key["kid"].clone()).collect::<Vec<_>>()
    };
    // Key 1 signed until a minute ago. Key 3 is published before it signs.
    scheduled(&tokenmint::clock::UnixTime::from_seconds(now() - 60).to_string());
    let service = workspace.serve().await;
    assert_eq!(service.post("/identity-token", &user_1()).await.ok()["kid"], "WebAppKey2");
    assert_eq!(published(&service).await, ["WebAppKey1", "WebAppKey2", "WebAppKey3"]);
    drop(service);
    // Key 1's last token has expired, so the key is no longer published.
    scheduled("2026-01-02T00:00:00Z");
    let service = workspace.serve().await;
    assert_eq!(service.post("/identity-token", &user_1()).await.ok()["kid"], "WebAppKey2");
    assert_eq!(published(&service).await, ["WebAppKey2", "WebAppKey3"]);
    let metrics = service.metrics().await;
    assert!(
        metrics.contains(r#"tokenmint_key_starts_signing_seconds{keyset="web",kid="WebAppKey3"}"#),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"tokenmint_key_stops_signing_seconds{keyset="web",kid="WebAppKey2"}"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn before_the_first_key_signs_the_service_is_alive_but_not_ready() {
    let workspace = Workspace::new();
    workspace
        .write("keys/web/keyset.toml", "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2999-01-01T00:00:00Z\n");
    let service = workspace.serve().await;
    let refusal = service.post("/identity-token", &user_1()).await;
    let description = refusal.refused(503, "temporarily_unavailable", None);
    assert!(description.contains("keyset.toml"), "{description}");
    assert_eq!(refusal.header("retry-after"), "3600");
    assert_eq!(service.get("/livez").await.status.as_u16(), 200);
    assert_eq!(service.get("/readyz").await.status.as_u16(), 503);
}

/// A signed number is unchanged in every character: digits, sign, zeros, exponent.
#[tokio::test]
async fn a_number_in_a_claim_is_signed_unchanged_or_refused() {
    let service = Workspace::new().serve().await;
    let mint = async |(path, subject, claim): (&str, &str, &str), number: &str| {
        let claims = format!(r#"{{"{claim}":[{number},{{"a":-{number}}}]}}"#);
        let body = format!(r#"{{"{subject}":"user-1","claims":{claims},"ttl":60}}"#);
        service.post_text(path, API_KEY, body).await
    };
    let kinds = [("/identity-token", "sub", "plan"), ("/intercom-user-jwt", "user_id", "email")];
    for number in [
        "0",
        "0.0",
        "0.1",
        "1.50",
        "1.50e2",
        "1e2",
        "1E+2",
        "1e16",
        "0.0000001",
        "1e-400",
        "9007199254740993.0",
        "18446744073709551615",
        "18446744073709551616",
        "100000000000000000000",
        "0.1234567890123456789",
    ] {
        for kind in kinds {
            let body = mint(kind, number).await.ok();
            let payload = body["token"].as_str().and_then(|token| token.split('.').nth(1)).expect("a token");
            let payload = {
                use base64::Engine as _;
                base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64url")
            };
            let payload = String::from_utf8(payload).expect("text");
            let signed = format!(r#":[{number},{{"a":-{number}}}]"#);
            assert!(payload.contains(&signed), "{number}: {payload}");
        }
    }
    for kind in kinds {
        let description = mint(kind, "1e400").await.refused(400, "invalid_request", None);
        assert!(description.contains("number out of range"), "{description}");
    }
}
