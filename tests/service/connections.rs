//! Slow and unusual clients. Each is answered or disconnected in time, and none delays the others.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    API_KEY, AT_ONCE, DEADLINE, Running, Workspace, configuration, eventually, eventually_within, timed,
};

/// Less than two timeouts of five seconds. A timeout that starts anew takes longer. Unit tests with a paused clock measure the
/// timeouts exactly.
const BEFORE_A_SECOND_TIMEOUT: Duration = Duration::from_millis(9500);

/// Waits until the service closes the connection. Returns what the service sent before, and how long that took.
async fn until_closed(mut stream: TcpStream) -> (String, Duration) {
    let start = Instant::now();
    let mut said = Vec::new();
    // A reset counts as closed, too.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut said)).await.expect("closed in time");
    (String::from_utf8_lossy(&said).into_owned(), start.elapsed())
}

async fn say(service: &Running, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(service.address("minting")).await.expect("connected");
    stream.write_all(text.as_bytes()).await.expect("written");
    stream
}

/// The service hasn't read the bytes behind the request. If it closed at once, the kernel would reset the connection, and the
/// client would lose what it hasn't received yet.
#[tokio::test]
async fn the_last_response_arrives_whole_although_the_client_has_sent_more() {
    let service = Workspace::new().serve().await;
    for last in ["Connection: close\r\n\r\n", "Content-Length: 5\r\n\r\nabcde"] {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        let mut stream =
            socket.connect(service.address("minting").parse().expect("an address")).await.expect("connected");
        let request = format!("GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n{last}{}", "a".repeat(100_000));
        stream.write_all(request.as_bytes()).await.expect("written");
        eventually("the service has closed it", async || {
            service.metrics().await.contains("tokenmint_connections{listener=\"minting\"} 1")
        })
        .await;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.expect("no reset");
        assert!(said.ends_with(include_str!("../../openapi.yaml")), "{} bytes", said.len());
    }
}

fn head(length: usize) -> String {
    format!(
        "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_connection_without_a_whole_request_in_five_seconds_is_closed() {
    let _timed = timed();
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
            assert!(took < BEFORE_A_SECOND_TIMEOUT, "{name}: {took:?}, {said}");
            if name.ends_with("body") {
                assert!(
                    said.starts_with("HTTP/1.1 408") && said.contains("request_timeout"),
                    "{name}: {said}"
                );
            }
        }
    });
    futures_util::future::join_all(waits).await;
    // A client that sends a byte at a time doesn't restart the timeout.
    let mut drip = say(&service, "GET /livez HTTP/1.1\r\nX-Drip: ").await;
    let start = Instant::now();
    while start.elapsed() < DEADLINE && drip.write_all(b"a").await.is_ok() {
        // The interval between the client's bytes.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(start.elapsed() < BEFORE_A_SECOND_TIMEOUT, "{:?}", start.elapsed());
}

/// A connection works as before after a pause, even in the middle of a head or a body.
#[tokio::test]
async fn a_connection_that_was_idle_answers_as_before() {
    let service = Workspace::new().serve().await;
    let mut stream = TcpStream::connect(service.address("minting")).await.expect("connected");
    let body = "{\"sub\": \"user-1\"}";
    let request = format!("{}{body}", head(body.len()));
    for pause in [0, 300, 900, 100] {
        // The pauses are what is tested.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for piece in [&request[..40], &request[40..request.len() - 5], &request[request.len() - 5..]] {
            stream.write_all(piece.as_bytes()).await.expect("written");
            tokio::time::sleep(Duration::from_millis(pause / 5)).await;
        }
        let said = one_answer(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 200") && said.contains("\"token\""), "after {pause} ms: {said}");
        assert!(!said.contains("connection: close"), "after {pause} ms: {said}");
    }
    assert_eq!(until_closed(stream).await.0, "", "nothing follows the response");
}

/// Reads the next response, whose body has a `content-length`.
async fn one_answer(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = async {
        while !said.ends_with(b"\r\n\r\n") {
            said.push(stream.read_u8().await.expect("a whole head"));
        }
        let mut body = vec![0; content_length(&String::from_utf8_lossy(&said))];
        stream.read_exact(&mut body).await.expect("a whole body");
        said.append(&mut body);
    };
    tokio::time::timeout(DEADLINE, read).await.expect("an answer in time");
    String::from_utf8(said).expect("text")
}

fn content_length(head: &str) -> usize {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    // An interim response has none.
    value.map_or(0, |value| value.parse().expect("a length"))
}

/// The check for request smuggling also covers a request behind one that arrived in two pieces with a pause.
#[tokio::test]
async fn a_request_in_two_pieces_is_read_like_a_whole_one_and_so_is_the_next() {
    let service = Workspace::new().serve().await;
    let body = "{\"sub\": \"user-1\"}";
    let request = format!("{}{body}", head(body.len()));
    for follows in [
        "GET /livez HTTP/1.1\nHost: x\r\n\r\n".to_owned(),
        head(5).replacen(
            "\r\n\r\n",
            "\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{\"sub\": \"user-1\"}\r\n0\r\n\r\n",
            1,
        ),
    ] {
        let mut stream = say(&service, &format!("{request}{}", &request[..25])).await;
        assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        // The pause in the middle of the request is what is tested.
        tokio::time::sleep(Duration::from_millis(1600)).await;
        stream.write_all(&request.as_bytes()[25..]).await.expect("written");
        let said = one_answer(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 200") && said.contains("\"token\""), "{said}");
        stream.write_all(follows.as_bytes()).await.expect("written");
        let (said, took) = until_closed(stream).await;
        assert!(said.starts_with("HTTP/1.1 400") && took < AT_ONCE, "{took:?} {said}");
    }
}

/// An attacker's silent connections then close only each other.
#[tokio::test]
async fn at_the_limit_a_new_connection_closes_the_longest_idle_one() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("[server]\n", "[server]\nlimits.connections = 3\n"));
    let service = workspace.serve().await;
    let whole = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept = say(&service, whole).await;
    assert!(one_answer(&mut kept).await.starts_with("HTTP/1.1 200"));
    let oldest = say(&service, "GET /livez HTTP/1.1\r\n").await;
    // How long each has idled is what is tested.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let young = say(&service, "").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Sends a request again, so this connection has been idle for the shortest time.
    kept.write_all(whole.as_bytes()).await.expect("written");
    assert!(one_answer(&mut kept).await.starts_with("HTTP/1.1 200"));
    let mut new = say(&service, whole).await;
    assert!(one_answer(&mut new).await.starts_with("HTTP/1.1 200"));
    let (said, took) = until_closed(oldest).await;
    assert!(said.is_empty() && took < AT_ONCE, "{took:?} {said}");
    // The next connection closes the one that sent nothing.
    let metrics = service.metrics().await;
    assert!(metrics.contains("tokenmint_connections_refused_total{listener=\"minting\"} 2"), "{metrics}");
    let (_, took) = until_closed(young).await;
    assert!(took < AT_ONCE, "{took:?}");
    for stream in [&mut kept, &mut new] {
        stream.write_all(whole.as_bytes()).await.expect("written");
        assert!(one_answer(stream).await.starts_with("HTTP/1.1 200"));
    }
}

/// The form of a token request may contain the credential, so the service waits for it. Such a connection counts as idle.
#[tokio::test]
async fn at_the_limit_a_client_that_sends_no_form_is_closed() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("[server]\n", "[server]\nlimits.connections = 3\n"));
    let service = workspace.serve().await;
    let begun = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9000\r\nExpect: 100-continue\r\n\r\n";
    let awaits_body = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut waiting = Vec::new();
    for part in ["", "grant_type=client_credentials", ""] {
        let mut stream = say(&service, begun).await;
        assert_eq!(one_answer(&mut stream).await, awaits_body);
        stream.write_all(part.as_bytes()).await.expect("written");
        waiting.push(stream);
    }
    let mut new = Vec::new();
    for _ in 0..3 {
        let mut stream = say(&service, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        new.push(stream);
    }
    for stream in waiting {
        let (said, took) = until_closed(stream).await;
        assert!(said.is_empty() && took < AT_ONCE, "{took:?} {said}");
    }
}

/// The service responds after the head and closes the connection. It doesn't wait for the body.
#[tokio::test]
async fn no_body_is_read_from_unauthenticated_callers_or_where_none_is_expected() {
    let service = Workspace::new().serve().await;
    let post = |key: &str| head(9000).replace(API_KEY, key);
    for (request, status) in [
        (post("wrong"), "401"),
        (post("wrong").replace("Content-Length: 9000", "Transfer-Encoding: chunked"), "401"),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n".to_owned(), "200"),
        (post(API_KEY).replace("/identity-token", "/livez"), "405"),
    ] {
        for begun in ["", "half of it"] {
            let (said, took) = until_closed(say(&service, &format!("{request}{begun}")).await).await;
            assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {said}");
            assert!(said.contains("connection: close") && took < AT_ONCE, "{took:?} {said}");
        }
    }
}

/// The service has read the body, so the connection can be reused.
#[tokio::test]
async fn a_rate_limited_caller_keeps_its_connection() {
    // All three requests must come within a second.
    let _timed = timed();
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("[callers.web]\n", "[callers.web]\nrate = 1\n"));
    let service = workspace.serve().await;
    let body = "{\"sub\": \"user-1\"}";
    let mut stream = say(&service, "").await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        for piece in [head(body.len()).as_str(), body] {
            stream.write_all(piece.as_bytes()).await.expect("written");
            // So the service reads head and body separately.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = one_answer(&mut stream).await;
        assert!(!said.contains("connection: close"), "{said}");
        statuses.push(said[9..12].to_owned());
    }
    assert_eq!(statuses, ["200", "429", "429"]);
}

/// The duration metric and the timeout include the time in which the request arrives.
#[tokio::test]
async fn the_request_timeout_starts_with_the_first_byte() {
    let _timed = timed();
    let workspace = Workspace::new();
    workspace
        .configure(&configuration().replace("[server]\n", "[server]\nlimits.request_timeout = \"3s\"\n"));
    let service = workspace.serve().await;
    let body = "{\"sub\": \"user-1\"}";
    let request = format!("{}{body}", head(body.len()));
    let start = Instant::now();
    let mut slow = say(&service, &request[..30]).await;
    // The pauses are what is tested, here and below.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    slow.write_all(&request.as_bytes()[30..request.len() - 5]).await.expect("written");
    tokio::time::sleep(Duration::from_millis(300)).await;
    slow.write_all(&request.as_bytes()[request.len() - 5..]).await.expect("written");
    assert!(one_answer(&mut slow).await.starts_with("HTTP/1.1 200"));
    let took = start.elapsed().as_secs_f64();
    let metrics = service.metrics().await;
    let sum = "tokenmint_request_duration_seconds_sum{route=\"/identity-token\"} ";
    let sum = metrics.split_once(sum).expect("it is counted").1;
    let sum: f64 = sum.split_whitespace().next().and_then(|sum| sum.parse().ok()).expect("a number");
    // A measurement that starts with the whole head would say 0.3 seconds. A busy service notices the first byte late.
    assert!((0.9..took).contains(&sum), "{sum} of {took}");

    let start = Instant::now();
    let mut late = say(&service, &request[..30]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    late.write_all(&request.as_bytes()[30..request.len() - 5]).await.expect("written");
    let (said, _) = until_closed(late).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    let took = start.elapsed();
    // A timeout that starts with the last bytes would take 4.5 seconds.
    assert!((2900..4400).contains(&took.as_millis()), "{took:?}");

    // A head that took the whole timeout is the client's fault, and not overload. After five seconds the connection would be closed
    // without an answer.
    let mut late = say(&service, &request[..30]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    late.write_all(&request.as_bytes()[30..]).await.expect("written");
    let (said, _) = until_closed(late).await;
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("the head did not arrive in time"), "{said}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let service = Workspace::new().serve().await;
    let requests: String = (0..99)
        .map(|n| format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: n{n}\r\n\r\n"))
        .chain([
            "GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: last\r\nConnection: close\r\n\r\n".to_owned()
        ])
        .collect();
    let (said, _) = until_closed(say(&service, &requests).await).await;
    let ids: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    let expected: Vec<String> = (0..99).map(|n| format!("n{n}")).chain(["last".to_owned()]).collect();
    assert_eq!(ids, expected);
}

/// The service responds after the head: an unauthenticated `Expect: 100-continue` gets no `100`.
#[tokio::test]
async fn an_unauthenticated_caller_gets_no_100_continue() {
    let service = Workspace::new().serve().await;
    let request = "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nExpect: 100-continue\r\n\
                   Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n";
    let (said, took) = until_closed(say(&service, request).await).await;
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    assert!(took < AT_ONCE, "{took:?}");
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

/// More requests come at once than the host signs in a quarter of a second. Those that have waited too long are refused
/// instead of signed, so the others aren't late as well.
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

/// Processor time of a process, in seconds.
fn processor_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

fn limit_descriptors(pid: u32, most: u64) {
    let limit = format!("--nofile={most}:20000");
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(set.expect("prlimit runs").success());
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("alive").count()
}

/// The process has no file descriptor left.
#[tokio::test]
async fn without_descriptors_accepting_pauses_and_resumes_when_some_are_free() {
    let service = Workspace::new().serve().await;
    let mut kept = say(&service, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut piece = [0; 4096];
    assert!(kept.read(&mut piece).await.expect("an answer") > 0);
    limit_descriptors(service.pid(), 10);
    let waiting = say(&service, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    service.logged("can't accept connections").await;
    let before = processor_time(service.pid());
    // The processor time used in this period is what is tested.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let taken = processor_time(service.pid()) - before;
    assert!(taken < 0.4, "{taken} s of 2 s");
    // Open connections are served.
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    assert!(kept.read(&mut piece).await.expect("an answer") > 0);
    limit_descriptors(service.pid(), 20_000);
    let (said, took) = until_closed(waiting).await;
    assert!(said.starts_with("HTTP/1.1 200") && took < AT_ONCE, "{took:?} {said}");
    assert_eq!(
        service.whole_log().await.matches("can't accept connections").count(),
        1,
        "one line an outage"
    );
}

/// Clients hold all descriptors of the minting listener. The ops listener still accepts.
#[tokio::test]
async fn each_listener_has_descriptors_of_its_own() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace(
        "listen = \"127.0.0.1:0\"\n",
        "listen = \"127.0.0.1:0\"\n[server.ops]\nlisten = \"127.0.0.1:0\"\n",
    ));
    let service = workspace.serve_after("ulimit -n 96").await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(say(&service, "GET /livez").await);
    }
    let health = async || {
        let mut ops = TcpStream::connect(service.address("ops")).await.expect("connected");
        ops.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("written");
        let (said, took) = until_closed(ops).await;
        assert!(said.starts_with("HTTP/1.1 200") && took < AT_ONCE, "{took:?} {said}");
    };
    health().await;
    service.logged("raise it (ulimit -n)").await;
    drop(open);
    health().await;
    let log = service.whole_log().await;
    assert!(!log.contains("can't accept connections"), "{log}");
}

/// The client sends requests and reads no response.
#[tokio::test]
async fn a_client_that_reads_no_response_is_disconnected() {
    let _timed = timed();
    let service = Workspace::new().serve().await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    let address = service.address("minting").parse().expect("an address");
    let mut stream = socket.connect(address).await.expect("connected");
    let start = Instant::now();
    let requests = "GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    // Writes until the service takes no more requests, and then until it closes the connection.
    let cut_off = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, cut_off).await.expect("cut off");
    let took = start.elapsed();
    assert!(Duration::from_secs(4) < took && took < BEFORE_A_SECOND_TIMEOUT, "{took:?}");
    assert!(service.metrics().await.contains("tokenmint_connections{listener=\"minting\"} 1"));
}

/// This is the form that CI runs; `make chaos FULL=1` opens ten thousand connections, in more patterns.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn thousands_of_connections_cost_little_and_are_gone_in_six_seconds() {
    use std::io::Write as _;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let _timed = timed();
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: own.maximum, ..own }).expect("up to its own maximum");
    let asked = std::env::var_os("CONNECTIONS").and_then(|count| count.to_str()?.parse().ok());
    let hostile: usize = asked.unwrap_or(2_000);
    let service = Workspace::new().serve().await;
    let base = descriptors(service.pid());
    let fat = "a".repeat(7_900);
    let patterns = [
        String::new(),
        "POST /iden".to_owned(),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-A: {fat}"),
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-A: {fat}\r\nContent-Length: 16000\r\n\r\n{fat}{fat}"),
        format!("POST /identity-token HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n{fat}{fat}"),
    ];
    let mut open = Vec::with_capacity(hostile);
    let start = Instant::now();
    for n in 0..hostile {
        let mut stream = std::net::TcpStream::connect(service.address("minting")).expect("connected");
        // It may have been closed already.
        let _ = stream.write_all(patterns[n % patterns.len()].as_bytes());
        open.push(stream);
        // The test pauses after each 50 connections. The host's queue of connections to accept may be short. A connection that
        // finds it full is tried again a second later.
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let (mut accepted, mut before) = (descriptors(service.pid()), 0);
    eventually("it has accepted all that wait", async || {
        (before, accepted) = (accepted, descriptors(service.pid()));
        accepted <= before
    })
    .await;
    let (took, most) = (start.elapsed(), descriptors(service.pid()) - base);
    let anonymous = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("alive");
        let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("a number") >> 10
    };
    let held = anonymous();
    eventually_within(Duration::from_secs(6), "their descriptors are closed", async || {
        descriptors(service.pid()) <= base + 2
    })
    .await;
    println!(
        "{hostile} connections in {took:?}, {most} at once: {held} MiB, {} MiB when they were gone",
        anonymous()
    );
    assert!(held <= 48, "{held} MiB");
}
