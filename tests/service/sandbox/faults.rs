//! Fault injection of the sandbox: the effect of each fault on the wire.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokenmint::sandbox::{Fault, FaultKind, FaultTarget, KeySource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{PAIRS, Played, START, TOKEN, USER, assertion, chat_org, identity, org, play, set_of, subject};
use crate::support::{Answer, unverified};

fn all() -> tokenmint::sandbox::Org {
    chat_org(KeySource::Uploaded(set_of(&PAIRS[0].jwk("Key1"))))
}

/// Sends a valid login over a raw connection, and leaves the answer unread.
async fn raw_login(played: &Played) -> TcpStream {
    let address = played.url.strip_prefix("http://").expect("plain");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let body = format!("grant_type={grant}&assertion={}", assertion(&json!({}), START));
    let head = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("written");
    stream
}

/// The received bytes, and how the connection ends.
async fn raw(played: &Played) -> (String, std::io::Result<usize>) {
    let mut stream = raw_login(played).await;
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).await;
    (String::from_utf8_lossy(&bytes).into_owned(), ended)
}

fn length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    line.parse().expect("a number")
}

async fn login(played: &Played) -> Answer {
    played.login(&assertion(&json!({}), START)).await
}

#[tokio::test]
async fn connections_are_closed_reset_and_left_unanswered() {
    let played = play(org()).await;
    played.fault(Fault::new(FaultKind::Reset));
    let (bytes, ended) = raw(&played).await;
    assert_eq!(ended.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bytes, "");
    played.fault(Fault::new(FaultKind::Close));
    let (bytes, ended) = raw(&played).await;
    assert_eq!((bytes.as_str(), ended.expect("an orderly end")), ("", 0));
    played.fault(Fault { milliseconds: Some(200), ..Fault::new(FaultKind::NoAnswer) });
    let start = Instant::now();
    assert_eq!(raw(&played).await.0, "");
    assert!(start.elapsed() >= Duration::from_millis(200));
    played.fault(Fault::new(FaultKind::NoAnswer));
    // The time in which the fault before, of 200 ms, would have ended.
    let silent = tokio::time::timeout(Duration::from_millis(300), raw(&played)).await;
    assert!(silent.is_err());
    // None of these requests logged in, and the next one is answered.
    assert!(played.sandbox.counts().logins.is_empty());
    login(&played).await.ok();
}

#[tokio::test]
async fn bodies_end_early_late_and_never() {
    let played = play(org()).await;
    let whole = raw(&played).await.0;
    let whole = whole.split_once("\r\n\r\n").expect("a body").1.len();

    played.fault(Fault::new(FaultKind::Truncated));
    let (bytes, _) = raw(&played).await;
    let (head, body) = bytes.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!((length(head), body.len()), (whole, whole / 2));
    assert!(played.client.post(played.at(TOKEN)).send().await.is_ok(), "only one was asked for");

    played.fault(Fault { milliseconds: Some(2), ..Fault::new(FaultKind::SlowBody) });
    let mut stream = raw_login(&played).await;
    let (start, mut pieces, mut text) = (Instant::now(), 0, String::new());
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await.expect("bytes") {
            0 => break,
            read => text.push_str(std::str::from_utf8(&piece[..read]).expect("text")),
        }
        pieces += 1;
    }
    assert!(pieces > 50 && start.elapsed() >= Duration::from_millis(2) * u32::try_from(whole).unwrap() / 2);
    let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).expect("whole in the end");
    assert!(body["access_token"].is_string());

    played.fault(Fault { bytes: Some(3 << 20), ..Fault::new(FaultKind::HugeBody) });
    let (bytes, _) = raw(&played).await;
    let (head, body) = bytes.split_once("\r\n\r\n").expect("a body");
    assert_eq!(length(head), body.len());
    assert!(body.len() > 3 << 20);

    played.fault(Fault::new(FaultKind::EndlessBody));
    let mut stream = raw_login(&played).await;
    let (mut read, mut piece) = (0, vec![0; 64 << 10]);
    while read < 20 << 20 {
        let more = stream.read(&mut piece).await.expect("bytes");
        assert_ne!(more, 0, "it never ends");
        read += more;
    }
    let head = String::from_utf8_lossy(&piece);
    assert!(!head.contains("content-length"));
    drop(stream);
    login(&played).await.ok();
}

#[tokio::test]
async fn faults_replace_the_answer() {
    let played = play(org()).await;
    let answer = async |fault: Fault| {
        played.fault(fault);
        login(&played).await
    };
    let bytes = async |misdeed| {
        played.fault(Fault::new(misdeed));
        let request = played.client.post(played.at(TOKEN));
        let response = request.send().await.expect("an answer");
        assert_eq!(
            (response.status(), response.headers()["content-type"].as_bytes()),
            (StatusCode::OK, &b"application/json"[..])
        );
        response.bytes().await.expect("a body")
    };
    assert!(serde_json::from_slice::<Value>(&bytes(FaultKind::Garbage).await).is_err());
    assert!(bytes(FaultKind::Empty).await.is_empty());
    assert_eq!(bytes(FaultKind::EmptyObject).await, "{}");
    assert!(std::str::from_utf8(&bytes(FaultKind::Latin1).await).is_err());
    let deep = bytes(FaultKind::Deep).await;
    assert!(deep.starts_with(br#"{"a":"#.repeat(1000).as_slice()) && deep.ends_with(b"}"));
    let html = answer(Fault { status: Some(502), ..Fault::new(FaultKind::Html) }).await;
    assert_eq!((html.status.as_u16(), html.header("content-type")), (502, "text/html; charset=UTF-8"));

    let location = Some("http://169.254.169.254/".to_owned());
    let moved = Fault { location, status: Some(307), ..Fault::new(FaultKind::Redirect) };
    let moved = answer(moved).await;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (307, "http://169.254.169.254/"));
    assert_eq!(answer(Fault::new(FaultKind::Redirect)).await.status.as_u16(), 302);

    let start = Instant::now();
    answer(Fault { milliseconds: Some(150), ..Fault::new(FaultKind::Latency) }).await.ok();
    assert!(start.elapsed() >= Duration::from_millis(150));

    let busy = answer(Fault::new(FaultKind::Status)).await;
    assert_eq!((busy.status.as_u16(), &busy.json()["error"]), (503, &json!("server_error")));
    for retry_after in ["120", "-1", "99999999999", "Wed, 21 Oct 2037 07:28:00 GMT", "soon"] {
        let fault = Fault {
            status: Some(429),
            retry_after: Some(retry_after.to_owned()),
            ..Fault::new(FaultKind::Status)
        };
        let busy = answer(fault).await;
        assert_eq!((busy.status.as_u16(), busy.header("retry-after")), (429, retry_after));
    }
    let inactive = Fault {
        error: Some("inactive_user".to_owned()),
        error_description: Some("user is inactive".to_owned()),
        ..Fault::new(FaultKind::Status)
    };
    let inactive = answer(inactive).await;
    assert_eq!(inactive.status.as_u16(), 400);
    assert_eq!(inactive.json(), json!({"error": "inactive_user", "error_description": "user is inactive"}));
}

#[tokio::test]
async fn a_login_succeeds_and_its_answer_is_faulty() {
    let played = play(org()).await;
    let spoilt = async |fault: Fault| {
        played.fault(fault);
        login(&played).await
    };
    let simply = async |misdeed| spoilt(Fault::new(misdeed)).await.ok();
    let doubled = spoilt(Fault::new(FaultKind::DuplicateKeys)).await.text;
    assert_eq!(doubled.matches("\"access_token\":").count(), 2, "{doubled}");
    assert!(serde_json::from_str::<Value>(&doubled).is_ok());
    let missing = simply(FaultKind::MissingToken).await;
    assert!(missing["access_token"].is_null() && missing["instance_url"].is_string());
    assert!(simply(FaultKind::NumericToken).await["access_token"].is_number());
    assert!(simply(FaultKind::CrlfToken).await["access_token"].as_str().unwrap().contains("\r\n"));
    assert_eq!(simply(FaultKind::HugeToken).await["access_token"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(simply(FaultKind::WrongTokenType).await["token_type"], "mac");
    let elsewhere = simply(FaultKind::ForeignInstanceUrl).await;
    assert_eq!(elsewhere["instance_url"], "https://acme.my.salesforce.com.evil.example");
    let changes = json!({"expires_in": -1, "scope": null});
    let merged = spoilt(Fault { members: Some(changes), ..Fault::new(FaultKind::Merge) }).await.ok();
    assert!(merged["expires_in"] == -1 && merged.get("scope").is_none() && merged["id"].is_string());
    let expired = simply(FaultKind::ExpiredToken).await;
    assert_eq!(unverified(expired["access_token"].as_str().unwrap()).1["exp"], START - 60);
    assert_eq!(played.sandbox.counts().logins[USER], 9);
    // A refusal isn't changed.
    played.fault(Fault::new(FaultKind::NumericToken));
    assert_eq!(played.login("nonsense").await.json()["error"], "invalid_grant");
}

#[tokio::test]
async fn a_session_of_another_user_is_returned() {
    let played = play(all()).await;
    let spoilt = async |fault: Fault| {
        played.fault(fault);
        played.chat(&identity(&json!({}), START)).await.ok()
    };
    let in_token = |answer: &Value| unverified(answer["accessToken"].as_str().unwrap()).1;
    let anonymous = spoilt(Fault::new(FaultKind::Anonymous)).await;
    assert!(subject(&anonymous).starts_with("v2/iamessage/ANON/"));
    assert_eq!(in_token(&anonymous)["sub"], subject(&anonymous));
    let other = spoilt(Fault::new(FaultKind::OtherSubject)).await;
    assert_eq!(subject(&other), "v2/iamessage/AUTH/Web_Verification/uid:somebody-else");
    let tricky = "v2/iamessage/AUTH/Web_Verification/uid:x/uid:user-1";
    let fault = Fault { subject: Some(tricky.to_owned()), ..Fault::new(FaultKind::OtherSubject) };
    assert_eq!(subject(&spoilt(fault).await), tricky);
    let expired = spoilt(Fault::new(FaultKind::ExpiredToken)).await;
    assert_eq!(in_token(&expired)["exp"], START - 60);
    assert!(subject(&expired).contains("/AUTH/"));
    let opaque = spoilt(Fault::new(FaultKind::OpaqueToken)).await;
    assert!(!opaque["accessToken"].as_str().unwrap().contains('.'));
    assert!(spoilt(Fault::new(FaultKind::MissingToken)).await.get("accessToken").is_none());
    let description = Some("down for a moment".to_owned());
    played.fault(Fault { error_description: description, ..Fault::new(FaultKind::Status) });
    let down = played.chat(&identity(&json!({}), START)).await;
    assert_eq!((down.status.as_u16(), down.json()), (503, json!({"message": "down for a moment"})));
}

#[tokio::test]
async fn faults_apply_in_order_at_their_endpoint_and_as_often_as_requested() {
    let played = play(all()).await;
    let faults = json!([
        {"path": "messaging", "fault": "empty_object"},
        {"path": "token", "times": 2, "fault": "status", "status": 500},
        {"path": "token", "times": null, "fault": "status", "status": 503},
    ]);
    let set = played.post("/__sandbox/faults", &faults).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT, "{}", set.text);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(login(&played).await.status.as_u16());
    }
    assert_eq!(seen, [500, 500, 503, 503, 503]);
    assert_eq!(played.chat(&identity(&json!({}), START)).await.text, "{}");
    assert!(subject(&played.chat(&identity(&json!({}), START)).await.ok()).contains("/AUTH/"));
    let state = played.get("/__sandbox/state", "").await.ok();
    assert_eq!(state["counts"]["token"], 5);
    assert_eq!((&state["counts"]["messaging"], &state["counts"]["faults"]), (&json!(2), &json!(6)));
    assert_eq!(state["faults"].as_array().map(Vec::len), Some(1));
    played.post("/__sandbox/faults", &json!([])).await;
    login(&played).await.ok();
    for (path, wrong) in [
        ("faults", json!([{"fault": "earthquake"}])),
        ("faults", json!({"fault": "reset"})),
        ("settings", json!({"strict": true})),
        ("clock-skew", json!({"minutes": 1})),
    ] {
        let answer = played.post(&format!("/__sandbox/{path}"), &wrong).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.json()["message"].is_string());
    }
    played.fault(Fault { path: FaultTarget::Data, ..Fault::new(FaultKind::Status) });
    let token = played.session().await;
    let busy = played.get("/services/data/v59.0/query?q=SELECT+Id+FROM+User", &token).await;
    assert_eq!((busy.status.as_u16(), busy.json()[0]["errorCode"].is_string()), (503, true));
}

#[tokio::test]
async fn the_sandbox_s_clock_can_be_wrong_and_its_state_reset() {
    let played = play(org()).await;
    let answer = login(&played).await;
    assert_eq!(answer.header("date"), "Mon, 21 Sep 2026 14:13:20 GMT");
    let once = assertion(&json!({"jti": "1"}), START);
    played.login(&once).await.ok();
    played.post("/__sandbox/clock-skew", &json!({"seconds": 600})).await;
    let answer = login(&played).await;
    assert_eq!(answer.header("date"), "Mon, 21 Sep 2026 14:23:20 GMT");
    assert_eq!(answer.json()["error_description"], "expired authorization code");
    let changed = played.post("/__sandbox/settings", &json!({"expires_in": true, "session_life": 60})).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT, "{}", changed.text);
    played.sandbox.skew_clock(0);
    assert_eq!(login(&played).await.ok()["expires_in"], 60);
    let reset = played.post("/__sandbox/reset", &json!({})).await;
    assert_eq!(reset.status, StatusCode::NO_CONTENT);
    assert_eq!(played.sandbox.counts(), tokenmint::sandbox::RequestCounts::default());
    let granted = played.login(&once).await.ok();
    assert!(granted.get("expires_in").is_none());
}

#[tokio::test]
async fn the_sandbox_listens_on_loopback_only() {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let sandbox = play(org()).await.sandbox;
    let served = tokenmint::sandbox::serve(listener, sandbox, tokio_util::sync::CancellationToken::new());
    assert_eq!(served.await.expect_err("refused").kind(), ErrorKind::InvalidInput);
}

/// In a server that can't close connections, the answer is still incomplete.
#[tokio::test]
async fn behind_another_server_a_cut_connection_is_at_least_a_broken_body() {
    let played = play(org()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}{TOKEN}", listener.local_addr().expect("an address"));
    let router = played.sandbox.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    played.fault(Fault::new(FaultKind::Reset));
    let answer = match played.client.post(url).send().await {
        Ok(response) => response.bytes().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(answer.is_err());
}

/// The names that serde accepts, from its error about an unknown one.
fn misdeeds() -> Vec<String> {
    let complaint = serde_json::from_str::<FaultKind>("\"?\"").expect_err("no such fault").to_string();
    let listed = complaint.split("expected one of").nth(1).expect("a list").split('`');
    listed.skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_documentation_has_each_fault_and_each_setting() {
    let text = include_str!("../../../docs/sandbox.md");
    let settings = serde_json::to_value(tokenmint::sandbox::Settings::default()).expect("JSON");
    let settings = settings.as_object().expect("an object").keys().cloned();
    let names: Vec<String> = misdeeds().into_iter().chain(settings).collect();
    assert!(names.len() > 35, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}
