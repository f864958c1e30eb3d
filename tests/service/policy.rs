//! Limits of a caller's policy, and the audit-only mode that counts instead of refusing.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenmint::clock::{ManualClock, UnixTime};

use crate::in_process::InProcess;
use crate::support::{Running, Workspace, sha256_hex};

fn caller(name: &str, more: &str) -> String {
    format!("[callers.{name}]\napi_key_sha256 = [\"{}\"]\n{more}\n", sha256_hex(name))
}

async fn status(service: &Running, path: &str, api_key: &str, body: Value) -> u16 {
    service.post_text(path, api_key, body.to_string()).await.status.as_u16()
}

#[tokio::test]
async fn the_distinct_subjects_of_a_caller_are_limited_per_minute() {
    let allow = "allow = [\"identity.web\", \"intercom.fin\"]\nsubjects = \"[a-z]\"\nsubjects_per_minute = 3";
    let service = Workspace::with(&caller("backend", allow)).serve().await;
    let identity = |sub: &'static str| status(&service, "/identity-token", "backend", json!({"sub": sub}));
    // Each subject counts once, whatever is requested for it. A refused one doesn't count.
    for (sub, expected) in [("a", 200), ("b", 200), ("a", 200), ("1", 403)] {
        assert_eq!(identity(sub).await, expected, "{sub}");
    }
    assert_eq!(status(&service, "/intercom-user-jwt", "backend", json!({"user_id": "c"})).await, 200);
    let answer = service.post_text("/identity-token", "backend", r#"{"sub":"d"}"#).await;
    let description = answer.refused(429, "rate_limited", None);
    assert!(
        description.contains("more different subjects in a minute than its subjects_per_minute"),
        "{description}"
    );
    let wait: u32 = answer.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    for sub in ["e", "f", "g"] {
        assert_eq!(identity(sub).await, 429, "{sub}");
    }
    // The first subjects are still served.
    assert_eq!(identity("c").await, 200);
    let metrics = service.metrics().await;
    assert!(metrics.contains("tokenmint_subjects_refused_total{caller=\"backend\"} 4"), "{metrics}");
    let log = service.whole_log().await;
    assert_eq!(log.matches("names more different subjects").count(), 1, "one line a storm");
}

/// Neither a reload nor the next minute gives a caller, or a thief of its credential, a second allowance.
#[tokio::test]
async fn a_reload_does_not_reset_rate_limits() {
    let few = "allow = [\"identity.web\"]\nsubjects_per_minute = 3";
    let slow = "allow = [\"oauth.crm\"]\nrate = 1\nburst = 2";
    let workspace = Workspace::with(&(caller("few", few) + &caller("slow", slow)));
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_796_083_200)));
    let service = InProcess::of(Arc::new(workspace), clock).await;
    let names =
        async |sub: &str| service.post("/identity-token", "few", &json!({"sub": sub})).await.status.as_u16();
    let asks = async || service.post("/oauth-assertion", "slow", &json!({})).await.status.as_u16();

    // This is just before the first minute of the monotonic clock ends.
    service.pass(59);
    for sub in ["a", "b", "c"] {
        assert_eq!(names(sub).await, 200, "{sub}");
    }
    assert_eq!([asks().await, asks().await, asks().await], [200, 200, 429]);
    service.reload();
    assert_eq!([names("d").await, names("a").await], [429, 200], "after a reload");
    assert_eq!(asks().await, 429, "after a reload");
    service.pass(2);
    assert_eq!([names("d").await, names("b").await], [429, 200], "in the clock's next minute");
    assert_eq!([asks().await, asks().await, asks().await], [200, 200, 429]);
    service.pass(58);
    let after = [names("d").await, names("e").await, names("f").await];
    assert_eq!(after, [200, 200, 429], "a minute after a and c were last served, and not yet after b");

    // A caller that a reload adds starts from zero. A changed limit applies at once.
    let stricter = few.replace("= 3", "= 2");
    service.workspace.configure(&format!(
        "{}\n{}{}",
        crate::support::configuration(),
        caller("few", &stricter),
        caller("new", few)
    ));
    service.reload();
    assert_eq!([names("b").await, names("f").await], [200, 429]);
    service.pass(60);
    assert_eq!([names("x").await, names("y").await, names("z").await], [200, 200, 429]);
}

/// A caller that names no profile, since there was only one, isn't broken by an audit-only `allow`.
#[tokio::test]
async fn an_audit_only_policy_does_not_break_requests_without_a_profile() {
    for (policy, expected) in [("audit", 200), ("enforce", 403)] {
        let narrowed = format!("allow = [\"identity.web\"]\npolicy = \"{policy}\"");
        let service = Workspace::with(&caller("trial", &narrowed)).serve().await;
        let got = status(&service, "/intercom-user-jwt", "trial", json!({"user_id": "user-1"})).await;
        assert_eq!(got, expected, "{policy}");
    }
}

#[tokio::test]
async fn an_audit_only_policy_allows_and_counts_what_it_would_refuse() {
    let bundle = "[bundles.fin]\nchat = \"identity.web\"\nfin = \"intercom.fin\"\n";
    let allow =
        "allow = [\"identity.web\"]\nsubjects = \"user-[0-9]+\"\nsubjects_per_minute = 2\npolicy = \"audit\"";
    let workspace = Workspace::with(&(bundle.to_owned() + &caller("trial", allow)));
    let warned = workspace.run(&["check"]);
    assert_eq!(warned.code(), 0);
    assert!(
        warned.stderr.contains("callers.trial.policy") && warned.stderr.contains("allows and counts"),
        "{}",
        warned.stderr
    );
    let service = workspace.serve().await;
    for (path, body, expected, why) in [
        ("/identity-token", json!({"sub": "user-1"}), 200, "allowed"),
        ("/identity-token", json!({"sub": "user-1", "profile": "web512"}), 200, "let through: allow"),
        ("/bundle", json!({"sub": "user-1", "bundle": "fin"}), 200, "let through: allow"),
        ("/identity-token", json!({"sub": "guest"}), 200, "let through: subjects"),
        ("/identity-token", json!({"sub": "user-2"}), 200, "allowed"),
        ("/identity-token", json!({"sub": "user-3"}), 200, "let through: subjects_per_minute"),
        ("/identity-token", json!({"sub": "user-4"}), 200, "let through: subjects_per_minute"),
        ("/identity-token", json!({"sub": "guest", "profile": "web512"}), 403, "the profile's own subjects"),
        ("/identity-token", json!({"sub": "user-1", "profile": "absent"}), 403, "there is no such profile"),
        ("/identity-token", json!({"sub": "user-1", "ttl": 86400}), 400, "the profile's max_ttl"),
        ("/identity-token", json!({"sub": "user-1", "claims": {"admin": true}}), 400, "the profile's claims"),
        ("/oauth-assertion", json!({"profile": "crm"}), 403, "the login of an integration user"),
        ("/oauth-access-token", json!({"profile": "crm"}), 403, "the login of an integration user"),
    ] {
        assert_eq!(status(&service, path, "trial", body.clone()).await, expected, "{why}: {body}");
    }
    let metrics = service.metrics().await;
    for (rule, count) in [("allow", 2), ("subjects", 1), ("subjects_per_minute", 2)] {
        let line = format!("tokenmint_would_refuse_total{{caller=\"trial\",rule=\"{rule}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    assert!(metrics.contains("tokenmint_subjects_refused_total{caller=\"trial\"} 0"), "{metrics}");
    service.logged("\"let_through\":true").await;
    let line: Value = serde_json::from_str(&service.logged("would be refused").await).expect("JSON");
    assert_eq!([&line["caller"], &line["profile"], &line["rule"]], ["trial", "identity.web512", "allow"]);
    assert_eq!(line["subject_hmac"].as_str().map(str::len), Some(32));
    // Other callers are not audit-only.
    let other = service.post("/identity-token", &json!({"sub": "user-1", "profile": "web512"})).await;
    other.refused(403, "access_denied", Some("profile"));
    assert_eq!(service.whole_log().await.matches("would be refused").count(), 5);
}
