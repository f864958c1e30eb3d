//! A panic in a handler is one 500 without details. It is counted, and other requests aren't affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokenmint::clock::{ManualClock, NoRandomness, Randomness, SystemRandomness, UnixTime};

use crate::in_process::InProcess;
use crate::support::{API_KEY, Answer, DEADLINE, Workspace};

/// Random numbers that panic once on demand, where the handler needs a `jti`.
#[derive(Default)]
struct Broken {
    sound: SystemRandomness,
    breaks: AtomicBool,
}

impl Randomness for Broken {
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness> {
        assert!(!self.breaks.swap(false, Ordering::SeqCst), "canary: what was in hand");
        self.sound.fill(into)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_one_500_without_details_and_is_counted() {
    let randomness = Arc::new(Broken::default());
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::with(Arc::new(Workspace::new()), clock, randomness.clone()).await;
    // A request with an id needs no random number for one.
    let ask = async || {
        let request = service.client.post(format!("{}/oauth-assertion", service.url)).bearer_auth(API_KEY);
        let request = request.header("X-Request-Id", "mine").json(&json!({}));
        tokio::time::timeout(DEADLINE, Answer::of(request)).await.expect("an answer")
    };
    ask().await.ok();
    randomness.breaks.store(true, Ordering::SeqCst);
    let broken = ask().await;
    let description = broken.refused(500, "server_error", None);
    assert!(
        description.contains("search tokenmint's log") && !broken.text.contains("canary"),
        "{description}"
    );
    assert!(!broken.headers.contains_key("connection"), "its body was read, so that it can go on");
    ask().await.ok();
    assert_eq!(service.metric("tokenmint_panics_total").await, "tokenmint_panics_total 1");
    assert!(service.metric(r#"tokenmint_refusals_total{error="server_error"}"#).await.ends_with(" 1"));
}

/// An exchange runs in a background task, outside of any handler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_an_exchange_is_counted_and_the_next_request_begins_anew() {
    let randomness = Arc::new(Broken::default());
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    let service = InProcess::with(Arc::new(Workspace::new()), clock, randomness.clone()).await;
    let ask = async || {
        let request = service.client.post(format!("{}/oauth-access-token", service.url)).bearer_auth(API_KEY);
        let request = request.header("X-Request-Id", "mine").json(&json!({}));
        tokio::time::timeout(DEADLINE, Answer::of(request)).await.expect("an answer")
    };
    randomness.breaks.store(true, Ordering::SeqCst);
    let broken = ask().await;
    assert!(broken.status.is_server_error() && !broken.text.contains("canary"), "{}", broken.text);
    assert_eq!(service.metric("tokenmint_panics_total").await, "tokenmint_panics_total 1");
    // There is no Salesforce, and the next request reports that.
    let next = ask().await;
    assert!(next.text.contains("upstream_unavailable"), "{}", next.text);
    assert_eq!(service.metric("tokenmint_panics_total").await, "tokenmint_panics_total 1");
}
