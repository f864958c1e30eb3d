//! W3C Trace Context: the trace of a request, in requests to Salesforce and in the log.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, ManualClock, SystemClock};

use crate::exchange::{Fake, Mood};
use crate::in_process::InProcess;
use crate::support::{API_KEY, Answer, Running, Workspace, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "00f067aa0ba902b7";

/// The service with a fake Salesforce that records the headers of each exchange.
struct Traced {
    salesforce: Fake,
    service: Running,
    _workspace: Workspace,
}

impl Traced {
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
        let (salesforce, url) = Fake::start(clock).await;
        let mut workspace = Workspace::with(&format!(
            "[identity.web.messaging]\nscrt_url = \"{url}\"\norg_id = \"00D000000000001\"\n\
             es_developer_name = \"Web_Channel\"\nrequests_per_minute = 200\n"
        ));
        workspace.set("TOKENMINT_OAUTH__CRM__TOKEN_URL", &format!("{url}/services/oauth2/token"));
        workspace.set("TOKENMINT_SERVER__STATE_DIRECTORY", "state");
        let service = workspace.serve().await;
        Self { salesforce, service, _workspace: workspace }
    }

    /// Sends a request with that request id.
    async fn post(&self, path: &str, body: &Value, id: &str, headers: &[(&str, &str)]) {
        let request = self.service.request(Method::POST, path).bearer_auth(API_KEY).json(body);
        let request = request.header("X-Request-Id", id);
        Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
            .await
            .ok();
    }

    /// Causes an exchange with that request id. Returns the `traceparent` and `tracestate` that Salesforce got.
    async fn exchange(&self, id: &str, headers: &[(&str, &str)]) -> [Option<String>; 2] {
        let before = self.salesforce.asked();
        self.post("/messaging-access-token", &json!({"sub": id}), id, headers).await;
        let all = self.salesforce.headers();
        assert_eq!(all.len(), before + 1, "{id}");
        ["traceparent", "tracestate"].map(|name| {
            assert!(all[before].get_all(name).iter().count() <= 1, "{id}");
            all[before].get(name).map(|value| value.to_str().expect("text").to_owned())
        })
    }

    /// The trace id in the audit line of the request.
    async fn audited(&self, id: &str) -> Value {
        let line = self.service.logged(&format!("\"request_id\":\"{id}\"")).await;
        serde_json::from_str::<Value>(&line).expect("JSON")["trace_id"].clone()
    }

    /// The messages of all log lines of a trace.
    fn messages(&self, trace: &str) -> Vec<String> {
        let lines = self.service.log();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let lines = lines.filter(|line| line["trace_id"] == trace);
        lines.map(|line| line["message"].as_str().expect("a message").to_owned()).collect()
    }
}

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-{SPAN}-01")
}

/// The trace id and the span id of a `traceparent`.
#[track_caller]
fn parts(traceparent: Option<&String>) -> (String, String) {
    let traceparent = traceparent.expect("a traceparent");
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert!(parts.len() == 4 && parts[0] == "00" && parts[3] == "01", "{traceparent}");
    assert!(
        parts[2].len() == 16 && u64::from_str_radix(parts[2], 16).is_ok_and(|id| id > 0),
        "{traceparent}"
    );
    (parts[1].to_owned(), parts[2].to_owned())
}

#[tokio::test]
async fn a_trace_continues_to_salesforce_and_the_log_but_not_for_a_cached_token() {
    let traced = Traced::start().await;
    let headers = [("traceparent", &*traceparent(TRACE)), ("tracestate", "vendor=opaque")];
    let [first, state] = traced.exchange("first", &headers).await;
    assert_eq!(state.as_deref(), Some("vendor=opaque"));
    let (trace, span) = parts(first.as_ref());
    assert_eq!(trace, TRACE);
    assert_ne!(span, SPAN, "the caller's own span asks nobody");
    let [second, _] = traced.exchange("second", &headers).await;
    assert_ne!(parts(second.as_ref()).1, span, "each request is a span of its own");
    traced.post("/oauth-access-token", &json!({}), "third", &headers).await;
    let login = traced.salesforce.headers().pop().expect("a login");
    let login = login.get("traceparent").map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(parts(login.as_ref()).0, TRACE);
    assert_eq!(traced.audited("third").await, TRACE);
    assert_eq!(traced.messages(TRACE), ["exchanged", "handed out"].repeat(3));

    traced
        .post("/oauth-access-token", &json!({}), "fourth", &[("traceparent", &traceparent(OTHER_TRACE))])
        .await;
    assert_eq!(traced.audited("fourth").await, OTHER_TRACE);
    assert_eq!(traced.messages(OTHER_TRACE), ["handed out"]);
    assert_eq!(traced.salesforce.asked(), 3);
}

#[tokio::test]
async fn each_kind_of_token_is_audited_with_its_trace() {
    let traced = Traced::start().await;
    for (path, body) in [
        ("/identity-token", json!({"sub": "user-1"})),
        ("/oauth-assertion", json!({})),
        ("/intercom-user-jwt", json!({"user_id": "user-1"})),
    ] {
        traced.post(path, &body, &path[1..], &[("traceparent", &traceparent(TRACE))]).await;
        assert_eq!(traced.audited(&path[1..]).await, TRACE, "{path}");
    }
}

/// The exchange belongs to the trace of the request that began it, and not to those of requests that wait.
#[tokio::test]
async fn a_shared_exchange_belongs_to_the_trace_that_began_it() {
    let traced = Traced::start().await;
    traced.salesforce.is(Mood::Slow(Duration::from_secs(1)));
    let (own, body) = ([traceparent(TRACE), traceparent(OTHER_TRACE)], json!({}));
    let first = [("traceparent", &*own[0])];
    let first = traced.post("/oauth-access-token", &body, "first", &first);
    let second = async {
        eventually("Salesforce is asked", async || traced.salesforce.asked() > 0).await;
        traced.post("/oauth-access-token", &body, "second", &[("traceparent", &*own[1])]).await;
    };
    tokio::join!(first, second);
    assert_eq!(traced.salesforce.asked(), 1);
    let sent = traced.salesforce.headers()[0]["traceparent"].to_str().expect("text").to_owned();
    assert_eq!(parts(Some(&sent)).0, TRACE);
    assert_eq!([traced.audited("first").await, traced.audited("second").await], [TRACE, OTHER_TRACE]);
    assert_eq!(traced.messages(OTHER_TRACE), ["handed out"]);
}

#[tokio::test]
async fn a_background_renewal_belongs_to_the_trace_that_triggered_it() {
    let clock = Arc::new(ManualClock::at(SystemClock::default().now()));
    let (salesforce, url) = Fake::start(clock.clone()).await;
    let service = InProcess::start(clock, &url, "").await;
    service.oauth().await.ok();
    service.pass(90);
    let request = service.client.post(format!("{}/oauth-access-token", service.url)).bearer_auth(API_KEY);
    let request = request.json(&json!({})).header("traceparent", traceparent(TRACE));
    assert_eq!(Answer::of(request).await.ok()["cached"], true);
    eventually("the token is renewed", async || salesforce.headers().len() == 2).await;
    let sent = salesforce.headers();
    assert!(!sent[0].contains_key("traceparent"), "nobody sent one");
    let renewal = sent[1]["traceparent"].to_str().expect("text").to_owned();
    assert_eq!(parts(Some(&renewal)).0, TRACE);
}

/// Section 3.2.2.5: one flag is defined, and the others must be 0. Section 3.2.4: a future version is parsed as far
/// as it is known.
#[tokio::test]
async fn the_sampled_flag_is_passed_on_and_future_versions_are_read_as_far_as_known() {
    let traced = Traced::start().await;
    for (n, (sent, flags)) in [
        (format!("00-{TRACE}-{SPAN}-00"), "00"),
        (format!("00-{TRACE}-{SPAN}-01"), "01"),
        (format!("00-{TRACE}-{SPAN}-02"), "00"),
        (format!("00-{TRACE}-{SPAN}-ff"), "01"),
        (format!("cc-{TRACE}-{SPAN}-01"), "01"),
        (format!("cc-{TRACE}-{SPAN}-01-what-comes-then"), "01"),
    ]
    .iter()
    .enumerate()
    {
        let [parent, _] = traced.exchange(&format!("user-{n}"), &[("traceparent", sent)]).await;
        let parent = parent.unwrap_or_else(|| panic!("{sent}: ignored"));
        assert!(
            parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with(&format!("-{flags}")),
            "{sent}"
        );
    }
}

#[tokio::test]
async fn a_malformed_traceparent_is_ignored() {
    let traced = Traced::start().await;
    let good = traceparent(TRACE);
    let mut shapes: Vec<String> = [
        "",
        TRACE,
        "00",
        "a\"b",
        &good[..54],
        &format!("{good}0"),
        &format!("{good}-"),
        &format!("{good}-more"),
        &format!("cc{}.more", &good[2..]),
        &format!("ff{}", &good[2..]),
        &format!("0{good}"),
        &good.to_uppercase(),
        &format!("00-{}-{SPAN}-01", "0".repeat(32)),
        &format!("00-{TRACE}-{}-01", "0".repeat(16)),
        &format!("{good},{good}"),
    ]
    .map(str::to_owned)
    .into();
    // One wrong byte at a time: a letter that is no hexadecimal digit, a dash too many, a dash too few.
    for at in [0, 1, 2, 3, 34, 35, 36, 51, 52, 53, 54] {
        let wrong = if good.as_bytes()[at] == b'-' { "_" } else { "-" };
        shapes.push(format!("{}{wrong}{}", &good[..at], &good[at + 1..]));
        shapes.push(format!("{}g{}", &good[..at], &good[at + 1..]));
    }
    for (n, shape) in shapes.iter().enumerate() {
        let id = format!("user-{n}");
        let sent = traced.exchange(&id, &[("traceparent", shape), ("tracestate", "vendor=opaque")]).await;
        assert_eq!(sent, [None, None], "{shape}");
        assert_eq!(traced.audited(&id).await, Value::Null, "{shape}");
    }
    let twice = [("traceparent", &*good), ("traceparent", &*good)];
    assert_eq!(traced.exchange("twice", &twice).await, [None, None]);
    assert_eq!(traced.exchange("alone", &[("tracestate", "vendor=opaque")]).await, [None, None]);
}

#[tokio::test]
async fn a_too_long_or_malformed_tracestate_is_dropped_and_the_trace_continues() {
    let traced = Traced::start().await;
    let long = |last: usize| format!("a={},b={}", "x".repeat(252), "y".repeat(last));
    let many = |members: usize| (0..members).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(long(255).len(), 512);
    let (fits, over, full, overfull) = (long(255), long(256), many(32), many(33));
    let (longest, longer) = (format!("a={}", "x".repeat(256)), format!("a={}", "x".repeat(257)));
    for (n, (sent, passed)) in [
        (&["a=1"][..], Some("a=1")),
        (&["a=1", "b=2"], Some("a=1,b=2")),
        (&["a=1 , b=2,,c=a b;c"], Some("a=1 , b=2,,c=a b;c")),
        (&["0tenant-*/_@system=x", "system@s=~"], Some("0tenant-*/_@system=x,system@s=~")),
        (&[&fits], Some(&fits)),
        (&[&over], None),
        (&[&full], Some(&full)),
        (&[&overfull], None),
        (&[&longest], Some(&longest)),
        (&[&longer], None),
        (&[""], None),
        (&[",,"], None),
        (&["a"], None),
        (&["a="], None),
        (&["=1"], None),
        (&["a=1=2"], None),
        (&["A=1"], None),
        (&["0=1"], None),
        (&["a@=1"], None),
        (&["a@0=1"], None),
        (&["a@b@c=1"], None),
        (&["a=b\tc"], None),
        (&["a=\u{fc}"], None),
        (&["a=1", "b"], None),
    ]
    .into_iter()
    .enumerate()
    {
        let parent = traceparent(TRACE);
        let states = sent.iter().map(|state| ("tracestate", *state));
        let headers: Vec<_> = std::iter::once(("traceparent", &*parent)).chain(states).collect();
        let [parent, state] = traced.exchange(&format!("user-{n}"), &headers).await;
        assert_eq!(parts(parent.as_ref()).0, TRACE, "{sent:?}");
        assert_eq!(state.as_deref(), passed, "{sent:?}");
    }
}

/// Without the warning an operator would wait for traces that are never sent.
#[cfg(not(feature = "otel"))]
#[tokio::test]
async fn a_build_without_trace_export_warns_where_export_is_configured() {
    const SAID: &str = "exports no traces";
    let mut workspace = Workspace::new();
    workspace.set("OTEL_EXPORTER_OTLP_ENDPOINT", "");
    assert!(!workspace.serve().await.whole_log().await.contains(SAID));
    for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        workspace.set(variable, "http://127.0.0.1:4318");
        let line = workspace.serve().await.logged(SAID).await;
        assert!(line.contains(variable) && line.contains("--features otel"), "{line}");
    }
}
