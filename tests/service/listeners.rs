//! Listeners over TCP, Unix sockets and TLS: which routes each serves, and graceful shutdown.

use std::os::unix::fs::FileTypeExt as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{
    API_KEY, Answer, DEADLINE, Running, Workspace, another_user, configuration, eventually, signal, timed,
    user_1,
};
use crate::tls::{certificates, client, connector, handshake, short_lived, tls_stream};

/// Sends one request and reads until the stream closes. Returns the status and the whole response.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {answer}")), answer)
}

async fn at(service: &Running, listener: &str, method: &str, path: &str) -> u16 {
    let stream = TcpStream::connect(service.address(listener)).await.expect("connected");
    exchange(stream, method, path, r#"{"sub":"user-1"}"#).await.0
}

#[tokio::test]
async fn the_public_listener_serves_keys_alone_and_ops_moves_to_its_own() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace(
        "listen = \"127.0.0.1:0\"\n",
        "listen = \"127.0.0.1:0\"\n[server.public]\nlisten = \"127.0.0.1:0\"\n[server.ops]\nlisten = \"127.0.0.1:0\"\n",
    ));
    let service = workspace.serve().await;
    for (method, path, minting, public, ops) in [
        ("POST", "/identity-token", 200, 404, 404),
        ("GET", "/openapi.yaml", 200, 404, 404),
        ("GET", "/keysets/web/jwks.json", 200, 200, 404),
        ("GET", "/.well-known/jwks.json", 200, 200, 404),
        ("GET", "/metrics", 404, 404, 200),
        ("GET", "/livez", 404, 404, 200),
        ("GET", "/readyz", 404, 404, 200),
        ("GET", "/healthz", 404, 404, 200),
    ] {
        for (listener, expected) in [("minting", minting), ("public", public), ("ops", ops)] {
            assert_eq!(at(&service, listener, method, path).await, expected, "{path} at {listener}");
        }
    }
    for path in [
        "/oauth-assertion",
        "/intercom-user-jwt",
        "/bundle",
        "/oauth-access-token",
        "/messaging-access-token",
    ] {
        assert_ne!(at(&service, "minting", "POST", path).await, 404, "{path}");
        for listener in ["public", "ops"] {
            assert_eq!(at(&service, listener, "POST", path).await, 404, "{path} at {listener}");
        }
    }
    for (listener, expected) in [("minting", 404), ("public", 404), ("ops", 200)] {
        assert_eq!(at(&service, listener, "GET", "/status").await, expected, "/status at {listener}");
    }
    workspace.configure(&configuration().replace(
        "listen = \"127.0.0.1:0\"\n",
        &format!("listen = \"127.0.0.1:1\"\n[server.ops]\nlisten = \"{}\"\n", service.address("ops")),
    ));
    workspace.run(&["healthcheck"]).ok();
}

/// The public listener accepts a head half as large as the minting listener.
#[tokio::test]
async fn a_head_for_the_public_listener_is_at_most_4_kib() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace(
        "listen = \"127.0.0.1:0\"\n",
        "listen = \"127.0.0.1:0\"\n[server.public]\nlisten = \"127.0.0.1:0\"\n",
    ));
    let service = workspace.serve().await;
    let ask = async |listener: &str, padding: usize| {
        let url = format!("http://{}/.well-known/jwks.json", service.address(listener));
        let request = reqwest::Client::new().get(url).header("X-Padding", "a".repeat(padding));
        Answer::of(request).await.status.as_u16()
    };
    for (listener, taken, refused) in [("public", 3_900, 4_100), ("minting", 7_900, 8_200)] {
        assert_eq!((ask(listener, taken).await, ask(listener, refused).await), (200, 431), "{listener}");
    }
}

#[tokio::test]
async fn without_other_listeners_one_serves_everything() {
    let service = Workspace::new().serve().await;
    for path in ["/metrics", "/livez", "/readyz", "/healthz", "/.well-known/jwks.json", "/openapi.yaml"] {
        assert_eq!(service.get(path).await.status.as_u16(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_unix_socket_serves_and_is_gone_at_the_end() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("127.0.0.1:0", "unix:run.sock"));
    let socket = workspace.path("run.sock");
    // A killed process has left its socket file.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    let service = workspace.serve().await;
    let stream = UnixStream::connect(&socket).await.expect("connected");
    let (status, answer) = exchange(stream, "POST", "/identity-token", r#"{"sub":"user-1"}"#).await;
    assert_eq!(status, 200, "{answer}");
    workspace.run(&["healthcheck"]).ok();
    let taken = workspace.run(&["serve"]);
    assert_eq!(taken.code(), 1, "somebody answers there, so the socket is not taken over");
    let occupied = Workspace::new();
    occupied.configure(&configuration().replace("127.0.0.1:0", "unix:run.sock"));
    occupied.write("run.sock", "mine");
    let ran = occupied.run(&["serve"]);
    assert!(
        ran.code() == 1 && ran.stderr.contains("a file that isn't a socket is at this path"),
        "{}",
        ran.stderr
    );
    assert_eq!(std::fs::read_to_string(occupied.path("run.sock")).expect("kept"), "mine");
    assert!(std::fs::metadata(&socket).expect("there").file_type().is_socket());
    let (status, _) = service.terminate().await;
    assert!(status.success() && !socket.exists());
}

#[tokio::test]
async fn tls_serves_verifying_clients_and_mutual_tls_those_with_a_certificate() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    certificates(&workspace, "clients", "backend");
    certificates(&workspace, "others", "outsider");
    let tls = TLS;
    workspace.configure(&configuration().replace("listen = \"127.0.0.1:0\"\n", tls));
    let service = workspace.serve().await;
    let ask = |service: &Running, identity: Option<&str>| {
        let url = format!("https://{}/identity-token", service.address("minting"));
        client(&workspace, identity).post(url).bearer_auth(API_KEY).json(&user_1()).send()
    };
    assert_eq!(ask(&service, None).await.expect("TLS").status().as_u16(), 200);
    // Plain HTTP on a TLS port gets no answer and breaks nothing.
    assert!(service.request(Method::GET, "/livez").send().await.is_err());
    let address = service.address("minting").to_owned();
    workspace.configure(
        &configuration().replace("listen = \"127.0.0.1:0\"\n", &tls.replace("127.0.0.1:0", &address)),
    );
    workspace.run(&["healthcheck"]).ok();
    drop(service);

    workspace.configure(
        &configuration()
            .replace("listen = \"127.0.0.1:0\"\n", &format!("{tls}client_ca_file = \"clients.crt\"\n")),
    );
    let service = workspace.serve().await;
    assert_eq!(ask(&service, Some("backend.both")).await.expect("TLS").status().as_u16(), 200);
    assert!(ask(&service, None).await.is_err(), "no certificate");
    assert!(ask(&service, Some("outsider.both")).await.is_err(), "another authority's");
}

const TLS: &str = "listen = \"127.0.0.1:0\"\n[server.tls]\ncertificate_file = \"server.crt\"\nprivate_key_file = \"server.key\"\n";

/// Without `close_notify`, a client can't tell the end from a truncation attack.
#[tokio::test]
async fn tls_ends_with_close_notify() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    workspace.configure(&configuration().replace("listen = \"127.0.0.1:0\"\n", TLS));
    let service = workspace.serve().await;
    let address = service.address("minting").to_owned();
    let mut idle = tls_stream(&workspace, &address, None).await;
    let mut used = tls_stream(&workspace, &address, None).await;
    used.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    assert!(used.read(&mut [0; 1024]).await.expect("read") > 0);
    let ended = tokio::spawn(service.terminate());
    for stream in [&mut idle, &mut used] {
        let end = stream.read(&mut [0; 1024]).await;
        assert!(matches!(end, Ok(0)), "{end:?}");
    }
    ended.await.expect("no panic");
}

#[tokio::test]
async fn a_slow_handshake_and_the_first_head_have_five_seconds_together() {
    const BEFORE: Duration = Duration::from_secs(3);
    const LIMIT: Duration = Duration::from_secs(5);
    let _timed = timed();
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    workspace.configure(&configuration().replace("listen = \"127.0.0.1:0\"\n", TLS));
    let service = workspace.serve().await;
    // Before the service can accept the connection and start its own timer.
    let start = Instant::now();
    let stream = TcpStream::connect(service.address("minting")).await.expect("connected");
    // The client is slow.
    tokio::time::sleep(BEFORE).await;
    let mut stream = handshake(&workspace, stream, None).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("written");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("closed");
    let took = start.elapsed();
    // Two separate timeouts would take at least their sum.
    assert!(said.is_empty() && (LIMIT..BEFORE + LIMIT).contains(&took), "{took:?}");
}

/// An expired certificate mints neither on the connection that it opened nor in a resumed TLS session. The same holds
/// for an expired intermediate certificate.
#[tokio::test]
async fn an_expired_client_certificate_mints_no_more() {
    // The service must start while the certificate is valid.
    let _timed = timed();
    let (life, long) = (Duration::from_secs(8), Duration::from_hours(1));
    tokio::join!(mints_until_it_expires(life, None), mints_until_it_expires(long, Some(life)));
}

async fn mints_until_it_expires(own: Duration, intermediate: Option<Duration>) {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    short_lived(&workspace, "clients", "backend", own, intermediate);
    workspace.configure(
        &configuration()
            .replace("listen = \"127.0.0.1:0\"\n", &format!("{TLS}client_ca_file = \"clients.crt\"\n")),
    );
    let service = workspace.serve().await;
    let address = service.address("minting").to_owned();
    // The client keeps its sessions, and resumes them if the server agrees.
    let client = connector(&workspace, Some("backend.both"));
    let connect = async || {
        let stream = TcpStream::connect(&address).await.expect("connected");
        client.connect("localhost".try_into().expect("a name"), stream).await
    };
    let mut kept = connect().await.expect("the certificate is valid");
    let request = || {
        let body = another_user().to_string();
        format!(
            "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    eventually("the certificate has expired", async || {
        kept.write_all(request().as_bytes()).await.expect("written");
        let mut answer = [0; 4096];
        let length = kept.read(&mut answer).await.expect("read");
        let answer = String::from_utf8_lossy(&answer[..length]);
        if answer.starts_with("HTTP/1.1 401") {
            assert!(answer.contains("connection: close") && answer.contains("has expired"), "{answer}");
            return true;
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        false
    })
    .await;
    // With TLS 1.3 the client learns of the refusal after the handshake.
    let resumed = async {
        let mut stream = connect().await?;
        stream.write_all(request().as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let resumed = resumed.await;
    assert!(resumed.is_err(), "{resumed:?}");
}

#[test]
fn bad_tls_files_are_refused_before_a_port_opens() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    let good = std::fs::read_to_string(workspace.path("server.crt")).expect("made");
    let script = "mkdir open; cp server.key open; chmod 777 open
                  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=end -addext basicConstraints=critical,CA:FALSE \
                  -keyout end.key -out end.crt";
    let made = std::process::Command::new("bash")
        .args(["-ec", script])
        .current_dir(workspace.path(""))
        .output()
        .expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    workspace
        .write("chain.crt", &format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    for (certificate, key, field, why) in [
        (
            "chain.crt",
            "server.key",
            "server.tls.certificate_file",
            "its certificate number 2 isn't a certificate",
        ),
        (
            "server.crt",
            "server.key\"\nclient_ca_file = \"end.crt",
            "server.tls.client_ca_file",
            "isn't a CA's (CA:FALSE)",
        ),
        ("none.crt", "server.key", "server.tls.certificate_file", "can't be read"),
        ("server.key", "server.key", "server.tls.certificate_file", "holds no certificate"),
        ("server.crt", "none.key", "server.tls.private_key_file", "can't be opened"),
        ("server.crt", "server.crt", "server.tls.private_key_file", "is open to others"),
        (
            "server.crt",
            "ca.key",
            "server.tls.certificate_file",
            "doesn't match `private_key_file`: the two aren't a pair",
        ),
        ("server.crt", "open/server.key", "server.tls.private_key_file", "others can replace files"),
    ] {
        workspace.configure(&configuration().replace(
            "listen = \"127.0.0.1:0\"\n",
            &format!("listen = \"127.0.0.1:0\"\n[server.tls]\ncertificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"\n"),
        ));
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{why}");
        assert!(ran.stderr.contains(field) && ran.stderr.contains(why), "{why}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let workspace = Workspace::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    workspace.configure(&configuration().replace("127.0.0.1:0", &address));
    let ran = workspace.run(&["serve"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains(&format!("can't listen on {address} ([server] listen)")), "{}", ran.stderr);
}

/// Waits until the service reports that it is stopping.
async fn is_stopping(address: &str) {
    eventually("it is not ready any more", async || {
        exchange(TcpStream::connect(address).await.expect("still there"), "GET", "/readyz", "").await.0 == 503
    })
    .await;
}

/// Waits until the stopping service closes a silent connection. After that it accepts no new one.
async fn closes_idle(stream: &mut (impl AsyncRead + Unpin)) {
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await.expect("closed in time");
    assert_eq!(end.expect("an orderly end"), 0);
}

#[tokio::test]
async fn sigterm_finishes_requests_and_ends_in_time_whatever_clients_do() {
    let _timed = timed();
    let service = Workspace::new().serve().await;
    let address = service.address("minting").to_owned();
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(TcpStream::connect(&address).await.expect("connected"));
    }
    // This client is in the middle of its body, and finishes it.
    let mut late = TcpStream::connect(&address).await.expect("connected");
    let body = user_1().to_string();
    let head = format!(
        "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    late.write_all(head.as_bytes()).await.expect("written");
    late.write_all(&body.as_bytes()[..3]).await.expect("written");
    // This client never finishes it.
    let mut stuck = TcpStream::connect(&address).await.expect("connected");
    stuck.write_all(head.as_bytes()).await.expect("written");
    eventually("all are accepted", async || {
        service.metrics().await.contains("tokenmint_connections{listener=\"minting\"} 53")
    })
    .await;

    let ended = tokio::spawn(service.terminate());
    // The service is not ready and still answers, so that load balancers notice in time.
    is_stopping(&address).await;
    closes_idle(&mut idle[0]).await;
    late.write_all(&body.as_bytes()[3..]).await.expect("written");
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
    let (status, took) = ended.await.expect("no panic");
    assert!(status.success());
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// A slow reader gets its whole response although the service is stopping.
#[tokio::test]
async fn a_response_in_progress_is_sent_whole_after_sigterm() {
    // The service aborts responses that aren't read within seconds.
    let _timed = timed();
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("127.0.0.1:0", "unix:run.sock"));
    let service = workspace.serve().await;
    // The kernel buffers some four responses, so one of these is in the middle of its last.
    let mut streams = Vec::new();
    for count in 1..=10 {
        let mut stream = UnixStream::connect(workspace.path("run.sock")).await.expect("connected");
        let requests = "GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n".repeat(count);
        stream.write_all(requests.as_bytes()).await.expect("written");
        stream.readable().await.expect("answered");
        streams.push(stream);
    }
    // Three each at least, if they were requested.
    eventually("what the kernel buffers is answered", async || {
        let mut stream = UnixStream::connect(workspace.path("run.sock")).await.expect("connected");
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("written");
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await.expect("read");
        let count = metrics.lines().find_map(|line| {
            line.strip_prefix("tokenmint_requests_total{route=\"/openapi.yaml\",status=\"200\"} ")
        });
        count.is_some_and(|count| count.parse::<u32>().expect("a number") >= 1 + 2 + 8 * 3)
    })
    .await;
    let mut idle = UnixStream::connect(workspace.path("run.sock")).await.expect("connected");
    let ended = tokio::spawn(service.terminate());
    closes_idle(&mut idle).await;
    let document = include_str!("../../openapi.yaml");
    let mut taken = Vec::new();
    for mut stream in streams {
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.expect("read");
        let (begun, whole) = (answers.matches("HTTP/1.1 200 OK").count(), answers.matches(document).count());
        assert_eq!(begun, whole, "each answer is whole");
        taken.push(whole);
    }
    // A client that requested more than is buffered gets the response that was in progress, and no other.
    assert!(taken[..3] == [1, 2, 3] && taken.iter().all(|count| *count < 10), "{taken:?}");
    assert!(ended.await.expect("no panic").0.success());
}

/// Responses tell connection pools to close, and no begun request is lost.
#[tokio::test]
async fn after_sigterm_responses_close_connections_and_begun_requests_are_answered() {
    let _timed = timed();
    let service = Workspace::new().serve().await;
    let address = service.address("minting").to_owned();
    let request = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.expect("read");
        assert!(!String::from_utf8_lossy(&answer[..length]).contains("connection: close"));
        open.push(stream);
    }
    // Half of them begin a second request, and finish it after SIGTERM.
    let (early, late) = open.split_at_mut(10);
    for stream in &mut *late {
        stream.write_all(&request.as_bytes()[..30]).await.expect("written");
    }
    let mut idle = TcpStream::connect(&address).await.expect("connected");
    let ended = tokio::spawn(service.terminate());
    is_stopping(&address).await;
    for stream in early {
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read, and closed");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }
    closes_idle(&mut idle).await;
    for stream in late {
        stream.write_all(&request.as_bytes()[30..]).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read, and closed");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }
    let (status, took) = ended.await.expect("no panic");
    assert!(status.success() && took < Duration::from_secs(4), "{took:?}");
}

/// `100 Continue` is no final response: a client that got it sends a body, and isn't idle.
#[tokio::test]
async fn a_request_that_got_100_continue_is_answered_after_sigterm() {
    let _timed = timed();
    let service = Workspace::new().serve().await;
    let mut stream = TcpStream::connect(service.address("minting")).await.expect("connected");
    let body = r#"{"sub":"user-1","profile":"identity.web"}"#;
    let head = format!(
        "POST /identity-token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.expect("read");
    assert!(told.starts_with(b"HTTP/1.1 100 Continue"));
    let mut idle = TcpStream::connect(service.address("minting")).await.expect("connected");
    let ended = tokio::spawn(service.terminate());
    // Idle connections are closed after the notice period.
    assert_eq!(idle.read(&mut told).await.expect("closed"), 0);
    stream.write_all(body.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read, and closed");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    let (status, took) = ended.await.expect("no panic");
    assert!(status.success() && took < Duration::from_secs(5), "{took:?}");
}

/// SIGHUP kills the service neither in operation nor during the shutdown, which an open connection prolongs.
#[tokio::test]
async fn sighup_never_kills() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    for _ in 0..5 {
        signal(service.pid(), "HUP");
    }
    service.logged("reloaded").await;
    service.post("/identity-token", &json!({"sub": "a"})).await.ok();
    let _idle = TcpStream::connect(service.address("minting")).await.expect("connected");
    let pid = service.pid();
    let ended = tokio::spawn(service.terminate());
    eventually("it has ended", async || {
        // The id is the service's until its exit is collected, which no other task does between these two lines.
        let has_ended = ended.is_finished();
        if !has_ended {
            signal(pid, "HUP");
        }
        has_ended
    })
    .await;
    let (status, _) = ended.await.expect("no panic");
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn health_and_metrics_have_their_documented_forms() {
    let service = Workspace::new().serve().await;
    assert_eq!(service.get("/livez").await.ok(), json!({"status": "ok"}));
    assert_eq!(service.get("/readyz").await.ok(), json!({"status": "ready"}));
    assert_eq!(service.get("/healthz").await.ok(), json!({"status": "ready"}));
    service.get("/nothing/user-1").await;
    let metrics = service.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    for name in [
        "tokenmint_build_info{version=",
        "tokenmint_tokens_minted_total{",
        "tokenmint_requests_total{route=\"/livez\",status=\"200\"} 1",
        "tokenmint_requests_total{route=\"other\",status=\"404\"} 1",
        "tokenmint_request_duration_seconds_bucket{",
        "tokenmint_signing_queue_depth 0",
        "tokenmint_jwks_fetches_total{client=\"java\",keyset=\"web\"} 0",
        "tokenmint_certificate_remaining_seconds{keyset=\"crm\",kid=\"CrmKey1\"}",
        "tokenmint_config_reload_failures_total 0",
        "tokenmint_connections{listener=\"minting\"} 1",
        "tokenmint_panics_total 0",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.text.contains(name), "{name} in {}", metrics.text);
    }
    assert!(!metrics.text.contains("user-1"), "no caller's string is a label");
    let method = Answer::of(service.request(Method::HEAD, "/metrics")).await;
    assert_eq!((method.status.as_u16(), method.text.as_str()), (200, ""));
}
