//! `POST /bundle`: all tokens of a page load or none, and the limit on repeated requests for one subject.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use crate::in_process::InProcess;
use crate::support::{Running, Workspace, configuration, sha256_hex, unverified, user_1, verified};

fn workspace() -> Workspace {
    let caller = |name: &str, allow: &str| {
        format!("[callers.{name}]\napi_key_sha256 = [\"{}\"]\nallow = [{allow}]\n", sha256_hex(name))
    };
    Workspace::with(&format!(
        "[bundles.fin]\nsalesforce_identity_token = \"identity.web\"\nintercom_user_jwt = \"intercom.fin\"\n\
         [bundles.two]\na = \"identity.web\"\nb = \"identity.web512\"\n{}{}{}{}",
        caller("page", r#""identity.web", "intercom.fin", "bundles.fin""#),
        caller("both", r#""identity.web", "identity.web512", "intercom.fin", "bundles.fin", "bundles.two""#),
        caller("half", r#""identity.web", "bundles.fin""#),
        caller("bare", r#""bundles.fin""#),
    ))
}

async fn ask(service: &Running, caller: &str, body: Value) -> crate::support::Answer {
    service.post_text("/bundle", caller, body.to_string()).await
}

#[tokio::test]
async fn one_call_brings_every_token_of_the_page() {
    let service = workspace().serve().await;
    let answer = ask(&service, "page", user_1()).await;
    let body = answer.ok();
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!answer.headers.contains_key("etag"));
    let members: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["expires_at", "expires_in", "renew_at", "tokens"]);
    let tokens = body["tokens"].as_object().expect("an object");
    assert_eq!(tokens.keys().collect::<Vec<_>>(), ["intercom_user_jwt", "salesforce_identity_token"]);
    let identity = tokens["salesforce_identity_token"].as_str().expect("a token");
    let claims = verified(identity, &service.jwks("/keysets/web/jwks.json").await);
    assert_eq!([&claims["sub"], &claims["iss"]], ["user-1", "intercom.com"]);
    let (_, intercom) = unverified(tokens["intercom_user_jwt"].as_str().expect("a token"));
    assert_eq!(intercom["user_id"], "user-1");
    // The earliest expiry counts: 30 minutes of identity.web, not the hour of intercom.fin.
    assert_eq!([&body["expires_at"], &body["expires_in"]], [&claims["exp"], &json!(1800)]);
    assert_eq!(body["renew_at"], claims["iat"].as_i64().expect("seconds") + 1440);
    let metrics = service.metrics().await;
    for profile in ["identity.web", "intercom.fin"] {
        let counted = format!(r#"tokens_minted_total{{caller="page",profile="{profile}"}} 1"#);
        assert!(metrics.contains(&counted), "{metrics}");
    }
    let log = service.whole_log().await;
    for profile in ["identity.web", "intercom.fin"] {
        assert!(log.contains(&format!("\"profile\":\"{profile}\"")), "{log}");
    }
    assert_eq!(log.matches("\"minted\"").count(), 2, "an audit line for each token");
}

#[tokio::test]
async fn a_bundle_is_atomic_and_needs_a_grant_for_each_entry() {
    let workspace = workspace();
    let warned = workspace.run(&["check"]);
    assert!(warned.stderr.contains("may use `bundles.fin` but not `intercom.fin`"), "{}", warned.stderr);
    let service = workspace.serve().await;
    for caller in ["half", "bare"] {
        ask(&service, caller, user_1()).await.refused(403, "access_denied", Some("bundle"));
    }
    service.post("/bundle", &user_1()).await.refused(403, "access_denied", Some("bundle"));
    ask(&service, "page", json!({"sub": "user-1", "bundle": "two"})).await.refused(
        403,
        "access_denied",
        Some("bundle"),
    );
    ask(&service, "both", user_1()).await.refused(400, "invalid_request", Some("bundle"));
    // One profile allows any subject, the other only user-N. So neither token is minted.
    let strange = json!({"sub": "somebody", "bundle": "two"});
    ask(&service, "both", strange).await.refused(403, "access_denied", Some("sub"));
    assert!(
        !service.metrics().await.contains(r#"tokens_minted_total{caller="both",profile="identity.web"} 1"#)
    );
    let both = ask(&service, "both", json!({"sub": "user-1", "bundle": "bundles.two"})).await.ok();
    let set = service.jwks("/.well-known/jwks.json").await;
    for (entry, kid) in [("a", "WebAppKey1"), ("b", "Web512")] {
        let token = both["tokens"][entry].as_str().expect("a token");
        assert_eq!(unverified(token).0["kid"], kid);
        verified(token, &set);
    }
}

#[tokio::test]
async fn the_claims_of_each_entry_are_its_profile_s() {
    let service = workspace().serve().await;
    let claims = json!({"salesforce_identity_token": {"locale": "de"}, "intercom_user_jwt": {"email": "u@example.com"}});
    let body = ask(&service, "page", json!({"sub": "user-1", "claims": claims})).await.ok();
    let payload = |entry: &str| unverified(body["tokens"][entry].as_str().expect("a token")).1;
    assert_eq!(payload("salesforce_identity_token")["locale"], "de");
    assert_eq!(payload("intercom_user_jwt")["email"], "u@example.com");
    for (claims, field) in [
        (json!([]), "claims"),
        (json!({"other": {}}), "claims.other"),
        (json!({"intercom_user_jwt": 1}), "claims.intercom_user_jwt"),
        (json!({"intercom_user_jwt": {"locale": "de"}}), "claims.intercom_user_jwt.locale"),
        (json!({"salesforce_identity_token": {"sub": "admin"}}), "claims.salesforce_identity_token.sub"),
    ] {
        let answer = ask(&service, "page", json!({"sub": "user-1", "claims": claims})).await;
        answer.refused(400, "invalid_request", Some(field));
    }
    for (body, field) in [
        (json!({}), "sub"),
        (json!({"sub": "null"}), "sub"),
        (json!({"sub": "a", "ttl": 60}), "ttl"),
        (json!({"sub": "a", "bundle": 1}), "bundle"),
        (json!({"sub": "a", "user_id": "b"}), "user_id"),
    ] {
        ask(&service, "page", body).await.refused(400, "invalid_request", Some(field));
    }
}

/// A page whose token Salesforce refuses asks forty times a second. The service allows that for three seconds, and
/// then two a second.
#[tokio::test]
async fn a_page_that_asks_too_often_is_told_to_wait() {
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::start(clock, "http://127.0.0.1:9", "").await;
    let ask = |sub: &str| service.post("/identity-token", "both", &json!({"sub": sub, "profile": "web"}));
    for n in 0..120 {
        assert_eq!(ask("user-1").await.status.as_u16(), 200, "{n}");
    }
    for _ in 0..20 {
        let answer = ask("user-1").await;
        answer.refused(429, "rate_limited", None);
        assert_eq!(answer.header("retry-after"), "1");
    }
    // Other users and other profiles of the same user aren't limited.
    ask("user-2").await.ok();
    service.post("/identity-token", "both", &json!({"sub": "user-1", "profile": "shop"})).await.ok();
    service.pass(1);
    ask("user-1").await.ok();
    ask("user-1").await.ok();
    ask("user-1").await.refused(429, "rate_limited", None);
    let counted =
        service.metric(r#"tokenmint_remints_refused_total{caller="both",profile="identity.web"}"#).await;
    assert!(counted.ends_with(" 21"), "{counted}");
}

#[tokio::test]
async fn many_refused_requests_for_one_subject_are_one_line_in_the_log() {
    let workspace = Workspace::new();
    let limits = "[server]\nlimits.remint_burst = 3\nlimits.remints_per_minute = 1\n";
    workspace.configure(&configuration().replacen("[server]\n", limits, 1));
    let service = workspace.serve().await;
    for n in 0..10 {
        let answer = service.post("/identity-token", &json!({"sub": "canary-user"})).await;
        assert_eq!(answer.status.as_u16(), if n < 3 { 200 } else { 429 });
    }
    let log = service.whole_log().await;
    assert_eq!(log.matches("a subject exceeded its rate of tokens").count(), 1);
    assert!(!log.contains("canary-user"));
}

#[tokio::test]
async fn a_caller_is_limited_to_its_own_rate() {
    let workspace = Workspace::with(&format!(
        "[callers.slow]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\"]\nrate = 1\nburst = 5\n",
        sha256_hex("slow")
    ));
    let service = workspace.serve().await;
    let mut refused = 0;
    for n in 0..10 {
        let answer =
            service.post_text("/identity-token", "slow", json!({"sub": format!("u{n}")}).to_string()).await;
        if !answer.status.is_success() {
            answer.refused(429, "rate_limited", None);
            assert_eq!(answer.header("retry-after"), "1");
            refused += 1;
        }
    }
    assert!((4..=5).contains(&refused), "{refused}");
    service.post("/identity-token", &json!({"sub": "u1"})).await.ok();
    let bad = Workspace::with("[callers.x]\napi_key_sha256 = []\nallow = []\nburst = 5\n").run(&["check"]);
    assert!(bad.stderr.contains("callers.x.burst") && bad.stderr.contains("needs `rate`"), "{}", bad.stderr);
}
