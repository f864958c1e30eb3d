//! Slow and strange clients: each is answered or closed in time, and none holds up the others.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{API_KEY, Running, Workspace, configuration};

/// Waits until the service closes the connection; what it said before, and how long it took.
async fn until_closed(mut stream: TcpStream) -> (String, Duration) {
    let start = Instant::now();
    let mut said = Vec::new();
    // A reset closes as well.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said))
        .await
        .expect("closed in time");
    (String::from_utf8_lossy(&said).into_owned(), start.elapsed())
}

async fn say(service: &Running, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.address("minting")).await.expect("connected");
    stream.write_all(text.as_bytes()).await.expect("written");
    stream
}

fn head(length: usize) -> String {
    format!(
        "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn whoever_sends_no_whole_request_in_five_seconds_is_closed() {
    let service = Workspace::new().serve().await;
    let patterns = [
        ("nothing at all", String::new()),
        ("half a request line", "POST /iden".to_owned()),
        ("half a head", "GET /livez HTTP/1.1\r\nHost: x\r\n".to_owned()),
        ("an idle connection kept alive", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        ("no body", head(20)),
        ("half a body", format!("{}{{\"sub\"", head(20))),
        ("an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\n".to_owned()),
        ("TLS on a plain port", "\u{16}\u{3}\u{1}\u{2}".to_owned()),
    ];
    let waits = patterns.map(|(name, text)| {
        let service = &service;
        async move {
            let (said, took) = until_closed(say(service, &text).await).await;
            assert!(took < Duration::from_millis(6500), "{name}: {took:?}, {said}");
            if name.ends_with("body") {
                assert!(
                    said.starts_with("HTTP/1.1 408") && said.contains("request_timeout"),
                    "{name}: {said}"
                );
            }
        }
    });
    futures_util::future::join_all(waits).await;
    // Drips: a byte a second restarts no clock.
    let mut drip = say(&service, "GET /livez HTTP/1.1\r\nX-Drip: ").await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(8) && drip.write_all(b"a").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(start.elapsed() < Duration::from_millis(6500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_a_place_comes_back() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("[server]\n", "[server]\nlimits.connections = 3\n"));
    let service = workspace.serve().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(say(&service, "GET /livez HTTP/1.1\r\nHost: x\r\n").await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stream = TcpStream::connect(service.address("minting")).await.expect("accepted");
    let (said, took) = until_closed(stream).await;
    assert!(said.is_empty() && took < Duration::from_secs(1), "{took:?} {said}");
    drop(open);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let metrics = service.metrics().await;
    assert!(metrics.contains("tokenmint_connections_refused_total{listener=\"minting\"} 1"), "{metrics}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let service = Workspace::new().serve().await;
    let requests: String = (0..20)
        .map(|n| format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: n{n}\r\n\r\n"))
        .chain(["GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned()])
        .collect();
    let (said, _) = until_closed(say(&service, &requests).await).await;
    let ids: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("x-request-id: n")).collect();
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(ids, expected);
}

/// The answer is made from the head: `Expect: 100-continue` gets no `100` from a stranger.
#[tokio::test]
async fn a_stranger_is_not_asked_for_its_body() {
    let service = Workspace::new().serve().await;
    let request = "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nExpect: 100-continue\r\n\
                   Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n";
    let (said, took) = until_closed(say(&service, request).await).await;
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_full_signing_queue_is_503_with_retry_after_and_health_goes_on() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("[server]\n", "[server]\nlimits.signing_queue = 1\n"));
    let service = std::sync::Arc::new(workspace.serve().await);
    let asks: Vec<_> = (0..64)
        .map(|n| {
            let (service, body) = (service.clone(), serde_json::json!({"sub": format!("user-{n}")}));
            tokio::spawn(async move { service.post("/identity-token", &body).await })
        })
        .collect();
    let (mut minted, mut refused) = (0, 0);
    for ask in asks {
        let answer = ask.await.expect("no panic");
        if answer.status.is_success() {
            minted += 1;
        } else {
            answer.refused(503, "overloaded", None);
            assert_eq!(answer.header("retry-after"), "1");
            refused += 1;
        }
    }
    assert_eq!(minted + refused, 64);
    assert!(minted > 0 && refused > 0, "{minted} are signed, {refused} refused");
    assert_eq!(service.get("/livez").await.status.as_u16(), 200);
    assert!(service.metrics().await.contains("tokenmint_signing_queue_depth 0"));
}

/// More at once than two cores sign in a quarter of a second: those whose turn comes too late are sent away without a
/// signature, so that the rest is not late as well.
#[tokio::test]
async fn a_signature_that_waited_too_long_is_503_and_counted() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("[server]\n", "[server]\nlimits.signing_queue = 10000\n"));
    let service = std::sync::Arc::new(workspace.serve().await);
    let (mut minted, mut late) = (0, 0);
    for burst in 1..=5 {
        let mut asks = tokio::task::JoinSet::new();
        for n in 0..1500 * burst {
            let (service, body) = (service.clone(), serde_json::json!({"sub": format!("user-{n}")}));
            asks.spawn(async move { service.post("/identity-token", &body).await });
        }
        for answer in asks.join_all().await {
            if answer.status.is_success() {
                minted += 1;
            } else {
                answer.refused(503, "overloaded", None);
                late += 1;
            }
        }
        if late > 0 {
            break;
        }
    }
    assert!(minted > 0 && late > 0, "{minted} minted, {late} late");
    let metrics = service.metrics().await;
    for line in [
        format!("tokenmint_signing_shed_total{{reason=\"late\"}} {late}"),
        format!("tokenmint_signing_wait_seconds_count {minted}"),
        "tokenmint_signing_queue_depth 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
}
