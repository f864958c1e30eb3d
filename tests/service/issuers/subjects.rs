//! Subject tokens: the user's own token says who the user is.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use super::{FakeIssuer, RSA, claims, claims_at, issuer, subject_caller};
use crate::exchange::Fake;
use crate::in_process::InProcess;
use crate::support::{Answer, Workspace, sha256_hex, unverified};

const NOW: i64 = 1_796_083_200;

async fn service_of(fake: &FakeIssuer, caller: &str) -> InProcess {
    let workspace = Workspace::with(&(issuer(&fake.jwks_url()) + caller));
    InProcess::of(Arc::new(workspace), Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)))).await
}

fn token(sub: &str) -> String {
    RSA.token("a", &claims_at(NOW, sub))
}

async fn post(service: &InProcess, path: &str, body: Value) -> Answer {
    service.post(path, "shop", &body).await
}

/// The claim that names the user in the one token of a response.
fn user_of(path: &str, body: &Value) -> Value {
    let token = if path == "/bundle" { &body["tokens"]["chat"] } else { &body["token"] };
    let (_, claims) = unverified(token.as_str().expect("a token"));
    claims[if path == "/intercom-user-jwt" { "user_id" } else { "sub" }].clone()
}

#[tokio::test]
async fn the_subject_is_the_one_of_the_token_at_every_endpoint() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake, &subject_caller("required")).await;
    for (path, field) in [("/identity-token", "sub"), ("/intercom-user-jwt", "user_id"), ("/bundle", "sub")] {
        let proven = post(&service, path, json!({"subject_token": token("user-7")})).await.ok();
        assert_eq!(user_of(path, &proven), "user-7", "{path}");
        let same =
            post(&service, path, json!({"subject_token": token("user-7"), field: "user-7"})).await.ok();
        assert_eq!(user_of(path, &same), "user-7", "{path}");
        let other = post(&service, path, json!({"subject_token": token("user-7"), field: "user-8"})).await;
        let description = other.refused(400, "invalid_request", Some(field));
        assert_eq!(
            description,
            format!("`{field}` isn't the subject of `subject_token`: leave it out, or send the same")
        );
        let named = post(&service, path, json!({field: "user-7"})).await;
        let description = named.refused(400, "invalid_request", Some("subject_token"));
        assert!(description.contains("is missing: this caller must send the user's token"), "{description}");
        post(&service, path, json!({})).await.refused(400, "invalid_request", Some("subject_token"));
        let number = post(&service, path, json!({"subject_token": 7})).await;
        number.refused(400, "invalid_request", Some("subject_token"));
    }
    // The exchange with Salesforce needs it too.
    let named = post(&service, "/messaging-access-token", json!({"sub": "user-7"})).await;
    named.refused(400, "invalid_request", Some("subject_token"));
}

/// A cached access token needs the proof too.
#[tokio::test]
async fn a_messaging_access_token_is_of_the_proven_user() {
    let issuer_server = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(NOW)));
    let (salesforce, url) = Fake::start(clock.clone()).await;
    let caller = format!(
        "[callers.shop]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\"]\nsubject_token = \"required\"\n\
         subject_issuer = \"corp\"\n",
        sha256_hex("shop")
    );
    let service = InProcess::start(clock, &url, &(issuer(&issuer_server.jwks_url()) + &caller)).await;
    let path = "/messaging-access-token";
    for is_cached in [false, true] {
        let answer = post(&service, path, json!({"subject_token": token("user-7")})).await.ok();
        assert!(
            answer["subject"].as_str().is_some_and(|subject| subject.ends_with("/uid:user-7")),
            "{answer}"
        );
        assert_eq!(answer["cached"], is_cached);
        post(&service, path, json!({"sub": "user-7"})).await.refused(
            400,
            "invalid_request",
            Some("subject_token"),
        );
        let other = json!({"sub": "user-7", "subject_token": token("user-8")});
        post(&service, path, other).await.refused(400, "invalid_request", Some("sub"));
    }
    assert_eq!(salesforce.asked(), 1);
}

#[tokio::test]
async fn a_stolen_api_key_names_none_of_a_thousand_subjects() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake, &subject_caller("required")).await;
    for n in 0..1_000 {
        let sub = format!("user-{n}");
        for path in ["/identity-token", "/bundle"] {
            let body = match n % 4 {
                0 => json!({"sub": sub}),
                1 => json!({"sub": sub, "subject_token": ""}),
                2 => json!({"sub": sub, "subject_token": token("mallory")}),
                _ => json!({"sub": sub, "subject_token": format!("{}x", token(&sub))}),
            };
            let answer = post(&service, path, body).await;
            let field = if n % 4 == 2 { "sub" } else { "subject_token" };
            answer.refused(400, "invalid_request", Some(field));
        }
    }
}

#[tokio::test]
async fn optional_takes_either_and_off_takes_no_token() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake, &subject_caller("optional")).await;
    post(&service, "/identity-token", json!({"sub": "user-1"})).await.ok();
    let proven = post(&service, "/identity-token", json!({"subject_token": token("user-2")})).await.ok();
    assert_eq!(user_of("/identity-token", &proven), "user-2");
    post(&service, "/identity-token", json!({"subject_token": "x", "sub": "user-1"})).await.refused(
        400,
        "invalid_request",
        Some("subject_token"),
    );
    post(&service, "/identity-token", json!({})).await.refused(400, "invalid_request", Some("sub"));

    let service = service_of(&fake, &subject_caller("off")).await;
    post(&service, "/identity-token", json!({"sub": "user-1"})).await.ok();
    for body in [
        json!({"subject_token": token("user-1")}),
        json!({"subject_token": token("user-1"), "sub": "user-1"}),
    ] {
        let refused = post(&service, "/identity-token", body).await;
        let description = refused.refused(400, "invalid_request", Some("subject_token"));
        assert!(description.contains("isn't accepted from this caller"), "{description}");
    }
}

/// Audit mode allows, counts and logs the requests that `required` would refuse, while a backend is changed over.
#[tokio::test]
async fn audit_mode_shows_what_would_be_refused() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let audit = subject_caller("required").replace("[bundles", "policy = \"audit\"\n[bundles");
    let workspace = Workspace::with(&(issuer(&fake.jwks_url()) + &audit));
    let service = workspace.serve().await;
    let post = async |body: Value| service.post_text("/identity-token", "shop", body.to_string()).await;
    let good = RSA.token("a", &claims("user-1"));
    post(json!({"subject_token": good})).await.ok();
    let refused = "tokenmint_would_refuse_total{caller=\"shop\",rule=\"subject_token\"} ";
    assert!(service.metrics().await.contains(&format!("{refused}0")));
    for body in [
        json!({"sub": "user-2"}),
        json!({"sub": "user-3", "subject_token": "x"}),
        json!({"sub": "user-4", "subject_token": good}),
    ] {
        let minted = post(body.clone()).await.ok();
        assert_eq!(user_of("/identity-token", &minted), body["sub"]);
    }
    post(json!({"subject_token": "x"})).await.refused(400, "invalid_request", Some("subject_token"));
    // Only audit mode allowed the three, and not a fourth that another rule refuses.
    post(json!({"sub": "user-5", "profile": "web512"})).await.ok();
    assert!(service.metrics().await.contains(&format!("{refused}4")));
    post(json!({"sub": "user-6", "ttl": 1})).await.refused(400, "invalid_request", Some("ttl"));
    assert!(service.metrics().await.contains(&format!("{refused}4")));
    let log = service.whole_log().await;
    let line = |reason: &str| {
        let found = log.lines().find(|line| line.contains(reason) && line.contains("would be refused"));
        serde_json::from_str::<Value>(found.unwrap_or_else(|| panic!("{reason} in {log}"))).expect("JSON")
    };
    let missing = line("is missing");
    assert_eq!((&missing["rule"], &missing["profile"]), (&json!("subject_token"), &json!("identity.web")));
    line("isn't a signed JWT");
    line("isn't the subject of");
    assert!(!log.contains("user-4"), "no subject is in the log");
}

/// The subject's patterns and limits hold for a proven one, and the audit line says who proves it.
#[tokio::test]
async fn a_proven_subject_obeys_the_policy_and_the_audit_line_names_its_issuer() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let strict = subject_caller("required")
        .replace("[bundles", "subjects = \"user-[0-9]\"\nsubjects_per_minute = 2\n[bundles");
    let workspace = Workspace::with(&(issuer(&fake.jwks_url()) + &strict));
    let service = workspace.serve().await;
    let post = async |sub: &str| {
        let body = json!({"subject_token": RSA.token("a", &claims(sub))}).to_string();
        service.post_text("/identity-token", "shop", body).await
    };
    post("user-1").await.ok();
    post("guest").await.refused(403, "access_denied", Some("sub"));
    post("user-2").await.ok();
    post("user-3").await.refused(429, "rate_limited", None);
    let log = service.whole_log().await;
    let minted = log.lines().find(|line| line.contains("\"minted\"")).expect("an audit line");
    let minted: Value = serde_json::from_str(minted).expect("JSON");
    assert_eq!((&minted["subject_issuer"], &minted["credential"]), (&json!("corp"), &json!("api_key")));
}

#[tokio::test]
async fn no_minted_token_outlives_the_subject_token() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let service = service_of(&fake, &subject_caller("required")).await;
    // The subject token ends ten minutes after NOW; the profiles' lifetimes are longer.
    for (path, body) in [
        ("/identity-token", json!({})),
        ("/identity-token", json!({"ttl": 3600})),
        ("/intercom-user-jwt", json!({})),
        ("/bundle", json!({})),
    ] {
        let mut body = body;
        body["subject_token"] = json!(token("user-1"));
        let minted = post(&service, path, body.clone()).await.ok();
        assert_eq!(minted["expires_at"], NOW + 600, "{path} {body}");
        let each = minted["tokens"].as_object().map(|tokens| tokens.values().cloned().collect());
        for token in each.unwrap_or_else(|| vec![minted["token"].clone()]) {
            let (_, claims) = unverified(token.as_str().expect("a token"));
            assert_eq!(claims["exp"], NOW + 600, "{path} {body}");
        }
    }
    let shorter =
        post(&service, "/identity-token", json!({"ttl": 60, "subject_token": token("user-1")})).await;
    assert_eq!(shorter.ok()["expires_at"], NOW + 60);
    service.clock.advance(Duration::from_secs(599));
    let last = post(&service, "/identity-token", json!({"subject_token": token("user-1")})).await.ok();
    assert_eq!((&last["expires_at"], &last["expires_in"]), (&json!(NOW + 600), &json!(1)));
    assert_eq!(last["renew_at"], NOW + 600, "a page that obeys doesn't ask at once");
    service.clock.advance(Duration::from_secs(1));
    let late = post(&service, "/identity-token", json!({"subject_token": token("user-1")})).await;
    assert!(late.refused(400, "invalid_request", Some("subject_token")).contains("has expired"));
}

#[tokio::test]
async fn the_subject_can_be_in_another_claim() {
    let fake = FakeIssuer::serving(&[RSA.jwk("a")]).await;
    let caller = subject_caller("required")
        .replace("[bundles", "subject_claim = \"https://acme.example/id\"\n[bundles");
    let service = service_of(&fake, &caller).await;
    let mut claims = claims_at(NOW, "opaque");
    let refused = post(&service, "/identity-token", json!({"subject_token": RSA.token("a", &claims)})).await;
    refused.refused(400, "invalid_request", Some("subject_token"));
    claims["https://acme.example/id"] = json!("customer-7");
    let proven =
        post(&service, "/identity-token", json!({"subject_token": RSA.token("a", &claims)})).await.ok();
    assert_eq!(user_of("/identity-token", &proven), "customer-7");
}

#[tokio::test]
async fn without_the_issuer_s_keys_a_subject_token_is_a_503() {
    let fake = FakeIssuer::serving(&[]).await;
    let service = service_of(&fake, &subject_caller("required")).await;
    let refused = post(&service, "/identity-token", json!({"subject_token": token("user-1")})).await;
    refused.refused(503, "issuer_unavailable", None);
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1));
    fake.serve_keys(&[RSA.jwk("a")]);
    service.clock.advance(Duration::from_secs(2));
    post(&service, "/identity-token", json!({"subject_token": token("user-1")})).await.ok();
}
