//! Request smuggling: requests that servers and proxies may parse differently. Each is refused, and nothing behind
//! it is answered.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{API_KEY, AT_ONCE, Running, Workspace, eventually};

/// Sends `bytes`. Returns what the service sends, and whether it closes the connection before the idle timeout.
async fn said(service: &Running, bytes: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(service.address("minting")).await.expect("connected");
    stream.write_all(bytes).await.expect("written");
    let mut said = Vec::new();
    let closed = tokio::time::timeout(AT_ONCE, stream.read_to_end(&mut said)).await.is_ok();
    (String::from_utf8_lossy(&said).into_owned(), closed)
}

/// The statuses of the responses in `said`.
fn statuses(said: &str) -> Vec<u16> {
    let answers = said.split("HTTP/1.1 ").skip(1);
    answers.map(|answer| answer[..3].parse().expect("a status")).collect()
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\n{headers}\r\n{body}"
    )
}

const NEXT: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n";

/// A server that parsed the request differently would answer the request behind it.
#[tokio::test]
async fn an_ambiguous_request_is_refused_and_nothing_behind_it_is_answered() {
    let service = Workspace::new().serve().await;
    let body = r#"{"sub":"a"}"#;
    let get = |line: &str, headers: &str| format!("{line}\r\n{headers}\r\n");
    let host = "Host: x\r\n";
    let (mut wrong, mut refused) = (Vec::new(), BTreeMap::new());
    for (name, request, status) in [
        (
            "CL and TE",
            post("Content-Length: 11\r\nTransfer-Encoding: chunked\r\n", "b\r\n{\"sub\":\"a\"}\r\n0\r\n\r\n"),
            400,
        ),
        (
            "TE and CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 11\r\n", "b\r\n{\"sub\":\"a\"}\r\n0\r\n\r\n"),
            400,
        ),
        ("two lengths", post("Content-Length: 11\r\nContent-Length: 12\r\n", body), 400),
        ("one length twice", post("Content-Length: 11\r\nContent-Length: 11\r\n", body), 400),
        ("a list of lengths", post("Content-Length: 11, 11\r\n", body), 400),
        ("a length with a sign", post("Content-Length: +11\r\n", body), 400),
        ("another encoding", post("Transfer-Encoding: gzip\r\n", body), 400),
        (
            "another encoding and chunked",
            post("Transfer-Encoding: gzip, chunked\r\n", "b\r\n{\"sub\":\"a\"}\r\n0\r\n\r\n"),
            400,
        ),
        (
            "chunked twice",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "b\r\n{\"sub\":\"a\"}\r\n0\r\n\r\n",
            ),
            400,
        ),
        (
            "chunked by HTTP/1.0",
            post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n").replace("P/1.1", "P/1.0"),
            400,
        ),
        ("a fragment", get("GET /livez#x HTTP/1.1", host), 400),
        ("a space in the path", get("GET /livez x HTTP/1.1", host), 400),
        ("a path that is no ASCII", get("GET /é HTTP/1.1", host), 400),
        ("a quotation mark in the path", get("GET /\"livez\" HTTP/1.1", host), 400),
        ("chunked and then not", post("Transfer-Encoding: chunked, identity\r\n", body), 400),
        (
            "a chunk's size that overflows",
            post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx"),
            400,
        ),
        ("a folded line", post("X-A: b\r\n c\r\nContent-Length: 11\r\n", body), 400),
        ("a space before the colon", post("Content-Length : 11\r\n", body), 400),
        (
            "a bare LF behind the request line",
            get("GET /livez HTTP/1.1", host).replacen("\r\n", "\n", 1),
            400,
        ),
        ("a bare LF behind a header", "GET /livez HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n".to_owned(), 400),
        ("bare LFs", "GET /livez HTTP/1.1\nHost: x\n\n".to_owned(), 400),
        ("a bare LF at the end", "GET /livez HTTP/1.1\r\nHost: x\r\n\n".to_owned(), 400),
        ("a bare CR", "GET /livez HTTP/1.1\r\nHost: x\rX-A: b\r\n\r\n".to_owned(), 400),
        ("a NUL", "GET /livez HTTP/1.1\r\nHost: x\0\r\n\r\n".to_owned(), 400),
        ("no Host", get("GET /livez HTTP/1.1", ""), 400),
        ("two Hosts", get("GET /livez HTTP/1.1", "Host: x\r\nHost: x\r\n"), 400),
        ("two in one Host", get("GET /livez HTTP/1.1", "Host: x, y\r\n"), 400),
        ("a Host with a user", get("GET /livez HTTP/1.1", "Host: a@b\r\n"), 400),
        ("absolute form", get("GET http://x/livez HTTP/1.1", host), 400),
        ("another's absolute form", get("GET http://evil.example/livez HTTP/1.1", host), 400),
        ("CONNECT", get("CONNECT x:443 HTTP/1.1", host), 405),
        ("TRACE", get("TRACE /livez HTTP/1.1", host), 405),
        ("OPTIONS *", get("OPTIONS * HTTP/1.1", host), 400),
        ("HTTP/0.9", "GET /livez\r\n".to_owned(), 400),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        ("no HTTP", get("GET /livez HTTX/1.1", host), 400),
        ("a header's name with a space", get("GET /livez HTTP/1.1", &format!("{host}A b: c\r\n")), 400),
        ("HTTP/1.9", get("GET /livez HTTP/1.9", host), 400),
        ("two keys", post("Authorization: Bearer x\r\nContent-Length: 11\r\n", body), 400),
        ("a long URI", get(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)), host), 431),
        ("a long header", get("GET /livez HTTP/1.1", &format!("{host}X-A: {}\r\n", "a".repeat(20_000))), 431),
        ("65 headers", get("GET /livez HTTP/1.1", &(host.to_owned() + &"X-A: b\r\n".repeat(64))), 431),
        ("101 headers", get("GET /livez HTTP/1.1", &(host.to_owned() + &"X-A: b\r\n".repeat(101))), 431),
        ("a body that is too large", post("Content-Length: 3000000\r\n", "{"), 413),
    ] {
        let (answer, closed) = said(&service, format!("{request}{NEXT}").as_bytes()).await;
        // With an unknown method it is still clear where the request ends.
        let goes_on = name == "TRACE";
        let expected = if goes_on { vec![status, 200] } else { vec![status] };
        let is_ours = answer.contains("\r\nx-request-id: ") && answer.contains("\"request_id\":\"");
        if statuses(&answer) != expected || !is_ours || closed == goes_on || answer.contains("\"token\"") {
            wrong.push(format!("{name}: closed {closed}, {answer}"));
        }
        *refused.entry(status).or_insert(0) += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let metrics = service.metrics().await;
    for (status, error) in
        [(400, "invalid_request"), (405, "method_not_allowed"), (431, "request_headers_too_large")]
    {
        let line = format!("tokenmint_refusals_total{{error=\"{error}\"}} {}", refused[&status]);
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    // TLS on a plain port gets no bytes that could pass for TLS, and no delay.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh";
    let (answer, closed) = said(&service, hello).await;
    assert!(closed && statuses(&answer) == [400], "{answer}");
    let metrics = service.metrics().await;
    assert!(metrics.contains("tokenmint_panics_total 0"), "{metrics}");
}

/// The answer to a head that is refused before it is routed has the request ID too, if that has arrived.
#[tokio::test]
async fn a_refused_head_is_answered_with_its_own_request_id() {
    let service = Workspace::new().serve().await;
    let id = "X-Request-Id: my.id\r\n";
    let length = "Content-Length: 11\r\n";
    for (name, request) in [
        ("two lengths", post(&format!("{id}{length}{length}"), r#"{"sub":"a"}"#)),
        ("65 headers", post(&format!("{id}{}", "X-A: b\r\n".repeat(65)), "")),
        ("a long header", post(&format!("{id}X-A: {}\r\n", "a".repeat(20_000)), "")),
        ("absolute form", format!("GET http://x/ HTTP/1.1\r\nHost: x\r\n{id}\r\n")),
        ("a bare LF", format!("GET / HTTP/1.1\r\n{id}Host: x\n\r\n")),
    ] {
        let (answer, _) = said(&service, request.as_bytes()).await;
        let is_same =
            answer.contains("\r\nx-request-id: my.id\r\n") && answer.contains("\"request_id\":\"my.id\"");
        assert!(is_same, "{name}: {answer}");
    }
    // A line that hasn't arrived as a whole has no id.
    let (answer, _) =
        said(&service, post(&format!("X-Request-Id: {}", "a".repeat(20_000)), "").as_bytes()).await;
    assert!(statuses(&answer) == [431] && !answer.contains("x-request-id: a\r\n"), "{answer}");
}

/// Chunk after chunk: the size limit closes the connection, whatever follows.
#[tokio::test]
async fn a_chunked_body_is_limited_and_its_connection_is_closed() {
    let service = Workspace::new().serve().await;
    let chunked = |chunks: &str| post("Transfer-Encoding: chunked\r\n", chunks);
    let (answer, closed) =
        said(&service, format!("{}{NEXT}", chunked("b\r\n{\"sub\":\"a\"}\r\n0\r\n\r\n")).as_bytes()).await;
    assert!(closed && statuses(&answer) == [200] && answer.contains("connection: close"), "{answer}");
    let endless = chunked(&format!("1000\r\n{}\r\n", "a".repeat(4096)).repeat(8));
    let (answer, closed) = said(&service, endless.as_bytes()).await;
    assert!(closed && statuses(&answer) == [413], "{answer}");
    let extension = chunked(&format!("b;{}\r\n{{\"sub\":\"a\"}}\r\n0\r\n\r\n", "a".repeat(40_000)));
    let (answer, closed) = said(&service, extension.as_bytes()).await;
    assert!(closed && statuses(&answer) == [400], "{answer}");
}

/// The body of a request that needs none, or that was refused, is never parsed as the next request.
#[tokio::test]
async fn no_body_is_taken_for_a_request() {
    let service = Workspace::new().serve().await;
    let with_body = |head: &str| format!("{head}Content-Length: {}\r\n\r\n{NEXT}", NEXT.len());
    for (name, head, status) in [
        ("TRACE at nothing", "TRACE /nothing HTTP/1.1\r\nHost: x\r\n".to_owned(), 405),
        ("a GET with a body", "GET /readyz HTTP/1.1\r\nHost: x\r\n".to_owned(), 200),
        ("nothing there", "POST /nothing HTTP/1.1\r\nHost: x\r\n".to_owned(), 404),
        ("not that method", "DELETE /livez HTTP/1.1\r\nHost: x\r\n".to_owned(), 405),
        ("no key", "POST /identity-token HTTP/1.1\r\nHost: x\r\n".to_owned(), 401),
        ("no JSON", post("", "").trim_end().to_owned() + "\r\n", 400),
    ] {
        let request = with_body(&head) + "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let (answer, closed) = said(&service, request.as_bytes()).await;
        assert!(closed, "{name}: {answer}");
        assert!(!answer.contains("smuggled"), "{name}: {answer}");
        assert_eq!(statuses(&answer)[0], status, "{name}: {answer}");
        // Either the body was read and the connection goes on, or it is closed.
        let behind = &statuses(&answer)[1..];
        assert!(behind.is_empty() || behind == [200], "{name}: {answer}");
    }
}

/// A client that closed its sending side is answered or disconnected.
#[tokio::test]
async fn a_half_closed_connection_is_answered_or_closed() {
    let service = Workspace::new().serve().await;
    for request in [NEXT.to_owned(), "GET /livez HTT".to_owned(), post("Content-Length: 40\r\n", "{")] {
        let mut stream = TcpStream::connect(service.address("minting")).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("half closed");
        let mut said = String::new();
        let read = tokio::time::timeout(AT_ONCE, stream.read_to_string(&mut said)).await;
        assert!(read.is_ok() && statuses(&said).len() <= 1, "{request}: {said}");
    }
    // The client sees the end a moment before the metric.
    eventually("only the one that asks is open", async || {
        service.metrics().await.contains("tokenmint_connections{listener=\"minting\"} 1")
    })
    .await;
}

/// Old health checks use HTTP/1.0 (`option httpchk` of haproxy).
#[tokio::test]
async fn http_1_0_needs_no_host() {
    let service = Workspace::new().serve().await;
    let (answer, closed) = said(&service, b"GET /readyz HTTP/1.0\r\n\r\n").await;
    assert!(closed && answer.starts_with("HTTP/1.0 200"), "{answer}");
}
