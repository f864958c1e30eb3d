//! Authentication by API key, and authorization of profiles and subjects.

use reqwest::Method;
use serde_json::json;

use crate::support::{API_KEY, Answer, CRM_KEY, Workspace, sha256_hex, user_1};

#[tokio::test]
async fn no_key_a_wrong_key_and_a_malformed_header_get_the_same_401() {
    let service = Workspace::new().serve().await;
    let mut bodies = Vec::new();
    let hash = format!("Bearer {}", sha256_hex(API_KEY));
    for header in [
        None,
        Some("Bearer wrong"),
        Some("Bearer "),
        Some("Bearer"),
        Some("Basic dXNlcjpwYXNz"),
        Some("bearer"),
        Some("tm_the-key-of-web"),
        Some("Bearer tm_the-key-of-web "),
        Some("Bearer  tm_the-key-of-web"),
        Some("Bearer tm_the-key-of-we"),
        Some("Bearer tm_the-key-of-webb"),
        // The hash from the configuration is not the key.
        Some(hash.as_str()),
    ] {
        let mut request = service.request(Method::POST, "/identity-token").json(&user_1());
        request = header.into_iter().fold(request, |request, value| request.header("Authorization", value));
        let answer = Answer::of(request.header("X-Request-Id", "same")).await;
        // Trailing white space is not part of a header's value (RFC 9110, section 5.5).
        if header == Some("Bearer tm_the-key-of-web ") {
            answer.ok();
            continue;
        }
        answer.refused(401, "invalid_client", None);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        bodies.push(answer.text);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let lower =
        service.request(Method::POST, "/identity-token").header("Authorization", format!("bEaReR {API_KEY}"));
    Answer::of(lower.json(&user_1())).await.ok();
}

#[tokio::test]
async fn a_key_is_taken_from_one_header_and_nowhere_else() {
    let service = Workspace::new().serve().await;
    let query =
        service.request(Method::POST, &format!("/identity-token?access_token={API_KEY}")).json(&user_1());
    Answer::of(query).await.refused(401, "invalid_client", None);
    let twice = service.request(Method::POST, "/identity-token").bearer_auth(API_KEY).bearer_auth("other");
    Answer::of(twice.json(&user_1())).await.refused(400, "invalid_request", None);
}

/// The service checks the credential first. So an unauthenticated caller learns nothing about the form of a body.
#[tokio::test]
async fn an_unauthenticated_caller_learns_nothing_but_401() {
    let service = Workspace::new().serve().await;
    for body in ["", "{", r#"{"sub":"a","x":1}"#, r#"{"sub":"a","profile":"web"}"#] {
        service.post_text("/identity-token", "wrong", body).await.refused(401, "invalid_client", None);
    }
}

#[tokio::test]
async fn a_caller_gets_what_it_is_allowed_and_nothing_else() {
    let service = Workspace::new().serve().await;
    let ask = |key: &'static str, path: &'static str, body: serde_json::Value| {
        service.post_text(path, key, body.to_string())
    };
    ask(CRM_KEY, "/oauth-assertion", json!({})).await.ok();
    ask(CRM_KEY, "/oauth-assertion", json!({"profile": "oauth.crm"})).await.ok();
    for (path, body) in [
        ("/identity-token", user_1()),
        ("/identity-token", json!({"sub": "user-1", "profile": "web"})),
        ("/identity-token", json!({"sub": "user-1", "profile": "identity.web"})),
        ("/intercom-user-jwt", json!({"user_id": "1"})),
        ("/oauth-assertion", json!({"profile": "other"})),
    ] {
        ask(CRM_KEY, path, body).await.refused(403, "access_denied", Some("profile"));
    }
    ask(CRM_KEY, "/messaging-access-token", user_1()).await.refused(403, "access_denied", Some("profile"));
    ask(CRM_KEY, "/bundle", user_1()).await.refused(403, "access_denied", Some("bundle"));
    // A caller that may not use a profile doesn't learn whether it exists.
    let there = ask(API_KEY, "/identity-token", json!({"sub": "user-1", "profile": "web512"})).await;
    let absent = ask(API_KEY, "/identity-token", json!({"sub": "user-1", "profile": "web513"})).await;
    let there = there.refused(403, "access_denied", Some("profile"));
    assert_eq!(there, absent.refused(403, "access_denied", Some("profile")));
    assert!(there.contains("`identity.web`"), "{there}");
    let metrics = service.metrics().await;
    assert!(metrics.contains("tokenmint_refusals_total{error=\"access_denied\"} 9"), "{metrics}");
}

#[tokio::test]
async fn a_caller_with_several_profiles_must_name_one() {
    let workspace = Workspace::with(&format!(
        "[callers.both]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\", \"identity.web512\"]",
        sha256_hex("both")
    ));
    let service = workspace.serve().await;
    let ask = |body: &'static str| service.post_text("/identity-token", "both", body);
    let description = ask(r#"{"sub":"user-1"}"#).await.refused(400, "invalid_request", Some("profile"));
    assert!(description.contains("`identity.web`, `identity.web512`"), "{description}");
    assert_eq!(ask(r#"{"sub":"user-1","profile":"web512"}"#).await.ok()["kid"], "Web512");
    assert_eq!(ask(r#"{"sub":"user-1","profile":"identity.web"}"#).await.ok()["kid"], "WebAppKey1");
}

#[tokio::test]
async fn a_subject_must_match_the_patterns_of_profile_and_caller() {
    let workspace = Workspace::with(&format!(
        "[callers.narrow]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web512\", \"intercom.fin\"]\n\
         subjects = \"user-1.*\"",
        sha256_hex("narrow")
    ));
    let service = workspace.serve().await;
    let identity =
        |sub: &str| service.post_text("/identity-token", "narrow", json!({"sub": sub}).to_string());
    identity("user-12").await.ok();
    // The profile's pattern has no anchors and must match the whole subject nevertheless.
    for sub in ["user-2", "user-1x", "xuser-1", "user-1\u{2009}2"] {
        identity(sub).await.refused(403, "access_denied", Some("sub"));
    }
    let intercom =
        |id: &str| service.post_text("/intercom-user-jwt", "narrow", json!({"user_id": id}).to_string());
    intercom("user-1x").await.ok();
    intercom("user-2").await.refused(403, "access_denied", Some("user_id"));
}

#[tokio::test]
async fn two_keys_of_one_caller_are_valid_at_once() {
    let workspace = Workspace::with(&format!(
        "[callers.moving]\napi_key_sha256 = [\"{}\", \"{}\"]\nallow = [\"identity.web\"]",
        sha256_hex("old"),
        sha256_hex("new").to_uppercase(),
    ));
    let service = workspace.serve().await;
    for key in ["old", "new"] {
        service.post_text("/identity-token", key, r#"{"sub":"a"}"#).await.ok();
    }
    let metrics = service.metrics().await;
    assert!(
        metrics.contains(r#"tokens_minted_total{caller="moving",profile="identity.web"} 2"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_browser_gets_no_cors_headers() {
    let service = Workspace::new().serve().await;
    let preflight = service
        .request(Method::OPTIONS, "/identity-token")
        .header("Origin", "https://shop.example")
        .header("Access-Control-Request-Method", "POST");
    let answer = Answer::of(preflight).await;
    answer.refused(405, "method_not_allowed", None);
    let from_a_page = |method: Method, path: &str| {
        let request =
            service.request(method, path).bearer_auth(API_KEY).header("Origin", "https://shop.example");
        request.json(&user_1())
    };
    let minted = Answer::of(from_a_page(Method::POST, "/identity-token")).await;
    minted.ok();
    let keys = Answer::of(from_a_page(Method::GET, "/.well-known/jwks.json")).await;
    for answer in [answer, minted, keys] {
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    }
}

/// No response, log line or metric takes the values of these headers from the request.
#[tokio::test]
async fn forwarded_and_host_headers_are_never_read() {
    let service = Workspace::new().serve().await;
    let plain = |path: &'static str| service.request(Method::POST, path).bearer_auth(API_KEY);
    let spoofed = |path: &'static str| {
        let request =
            plain(path).header("Host", "spoofed.example").header("Forwarded", "for=spoofed;host=spoofed");
        ["For", "Host", "Proto", "Prefix", "Server"]
            .into_iter()
            .fold(request, |request, what| request.header(format!("X-Forwarded-{what}"), "spoofed.example"))
    };
    for (path, body) in
        [("/oauth-assertion", json!({})), ("/identity-token", user_1()), ("/nothing", json!({}))]
    {
        let (with, without) =
            (Answer::of(spoofed(path).json(&body)).await, Answer::of(plain(path).json(&body)).await);
        assert_eq!(with.status, without.status, "{path}");
        assert!(
            !with.text.contains("spoofed") && !format!("{:?}", with.headers).contains("spoofed"),
            "{path}"
        );
    }
    let set = |request: reqwest::RequestBuilder| Answer::of(request);
    let jwks = "/.well-known/jwks.json";
    let spoofed = service
        .request(Method::GET, jwks)
        .header("Host", "spoofed.example")
        .header("X-Forwarded-Host", "spoofed");
    assert_eq!(set(spoofed).await.text, set(service.request(Method::GET, jwks)).await.text);
    let metrics = service.metrics().await;
    let said = service.whole_log().await + &metrics;
    assert!(!said.contains("spoofed"), "{said}");
}
