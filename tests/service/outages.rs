//! Faults of the upstream: invalid certificates, answers that drip, stall, are too long or redirect. And the login
//! budget across restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokenmint::clock::{Clock as _, ManualClock, SystemClock, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::exchange::Fake;
use crate::in_process::InProcess;
use crate::support::{API_KEY, DEADLINE, Workspace, configuration, eventually, retrying, sha256_hex};

const TOKEN: &str =
    r#"{"access_token":"opaque","token_type":"Bearer","instance_url":"https://acme.my.salesforce.com"}"#;

fn ok(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
}

/// Reads a whole request and returns its length.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> usize {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).to_ascii_lowercase();
        text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_some_and(|length| length.parse() == Ok(body.len()))
        })
    };
    while !is_whole(&request) {
        match stream.read_buf(&mut request).await {
            Ok(1..) => {}
            _ => break,
        }
    }
    request.len()
}

/// Counts the requests that a slow host has received, and what it has sent.
#[derive(Default)]
struct Progress {
    /// Received requests.
    requests: AtomicUsize,
    /// Written pieces of answers, or pauses where a piece is empty.
    pieces: AtomicUsize,
    /// Connections on which a write failed.
    closed: AtomicUsize,
}

impl Progress {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn pieces(&self) -> usize {
        self.pieces.load(Ordering::SeqCst)
    }

    fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }
}

/// A host that answers each request with `begins`, and then with the `piece` after each `pause`.
async fn slow_host(begins: String, piece: &'static [u8], pause: Duration) -> (String, Arc<Progress>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let progress = Arc::new(Progress::default());
    let counted = progress.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (begins, progress) = (begins.clone(), counted.clone());
            tokio::spawn(async move {
                read_request(&mut stream).await;
                progress.requests.fetch_add(1, Ordering::SeqCst);
                stream.write_all(begins.as_bytes()).await.expect("written");
                loop {
                    // The delay of a slow host.
                    tokio::time::sleep(pause).await;
                    if stream.write_all(piece).await.is_err() {
                        progress.closed.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    progress.pieces.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    (address, progress)
}

async fn service_of(salesforce: &str) -> InProcess {
    let clock = Arc::new(ManualClock::at(UnixTime::from_seconds(1_795_176_000)));
    InProcess::start(clock, salesforce, "").await
}

/// The timeout of five seconds is for the whole answer, and not between two bytes.
#[tokio::test]
async fn an_answer_that_drips_or_stalls_times_out_after_five_seconds() {
    let half_a_second = Duration::from_millis(500);
    let patterns = [
        ("a head that drips", "HTTP/1.1 200 OK\r\nX-Drip: ".to_owned(), &b"a"[..]),
        ("a body that drips", ok(9000), b" "),
        ("a head that stalls", "HTTP/1.1 200 OK\r\nX-Drip: ".to_owned(), b""),
        ("a body that stalls", ok(9000) + &TOKEN[..20], b""),
    ];
    let waits = patterns.map(|(name, begins, piece)| async move {
        let (salesforce, progress) = slow_host(begins, piece, half_a_second).await;
        let service = service_of(&salesforce).await;
        let start = Instant::now();
        let exchange = tokio::spawn(service.oauth());
        eventually("the host has a request", async || progress.requests() == 1).await;
        retrying(|| service.post("/identity-token", API_KEY, &json!({"sub": "user-1"}))).await.ok();
        assert!(!exchange.is_finished(), "{name}: minting waited for the exchange");
        exchange.await.expect("no panic").refused(504, "upstream_timeout", None);
        let (took, pieces) = (start.elapsed(), progress.pieces());
        assert!(took >= Duration::from_millis(4900), "{name}: {took:?}");
        // Counted in pauses of the host. If the machine is busy, its timers are as late as those of the service.
        assert!(pieces <= 11, "{name}: {pieces} halves of a second, {took:?}");
    });
    join_all(waits).await;
}

/// An answer is read up to 64 KiB, and a longer one is an error.
#[tokio::test]
async fn an_answer_of_64_kib_is_read_and_a_longer_one_is_aborted() {
    const PIECE: usize = 8 << 10;
    const MOST: usize = 64 << 10;
    for (length, is_taken) in [(MOST, true), (MOST + 1, false)] {
        let body = TOKEN.to_owned() + &" ".repeat(length - TOKEN.len());
        let (salesforce, _) = slow_host(ok(length) + &body, b"", Duration::from_mins(1)).await;
        let answer = service_of(&salesforce).await.oauth().await;
        if is_taken {
            answer.ok();
        } else {
            answer.json();
            assert_eq!(answer.status.as_u16(), 502, "{}", answer.text);
            assert!(answer.text.contains("more than 64 KiB"), "{}", answer.text);
        }
    }
    let (salesforce, progress) = slow_host(ok(1 << 30), &[b' '; PIECE], Duration::from_millis(1)).await;
    let answer = service_of(&salesforce).await.oauth().await;
    assert!(answer.text.contains("more than 64 KiB"), "{}", answer.text);
    // Only what the kernel buffers was sent in vain.
    eventually("the connection is closed", async || progress.closed() == 1).await;
    let sent = progress.pieces() * PIECE;
    assert!(sent < 16 << 20, "{sent} bytes");
}

/// An assertion is sent only to the configured URL.
#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("set");
    let address = elsewhere.local_addr().expect("an address");
    for status in [300, 301, 302, 303, 307, 308] {
        for location in [format!("http://{address}/"), format!("//{address}/"), "/elsewhere".to_owned()] {
            let head =
                format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let salesforce = format!("http://{}", listener.local_addr().expect("an address"));
            let asked = Arc::new(AtomicUsize::new(0));
            let counted = asked.clone();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    while read_request(&mut stream).await > 0 {
                        counted.fetch_add(1, Ordering::SeqCst);
                        stream.write_all(head.as_bytes()).await.expect("written");
                    }
                }
            });
            let answer = service_of(&salesforce).await.oauth().await;
            assert_eq!(answer.status.as_u16(), 502, "{status} {location}: {}", answer.text);
            assert!(answer.text.contains("a redirect"), "{status} {location}: {}", answer.text);
            assert_eq!(asked.load(Ordering::SeqCst), 1, "{status} {location}");
        }
    }
    assert!(elsewhere.accept().is_err(), "a redirect was followed");
}

/// A TLS configuration with a certificate of `issuer` for `name`, valid between these years.
fn certified(
    issuer: &rcgen::Issuer<'_, &rcgen::KeyPair>,
    name: &str,
    (from, to): (i32, i32),
) -> Arc<rustls::ServerConfig> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).expect("a pair"))
}

/// A host without a valid certificate gets no assertion, and neither does one whose name
/// doesn't resolve. Minting goes on.
#[tokio::test]
async fn a_host_with_an_invalid_certificate_gets_no_assertion() {
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params, rcgen::KeyPair::generate().expect("a key"))
    };
    let (known, unknown) = (authority("known"), authority("unknown"));
    let [by_known, by_unknown] =
        [&known, &unknown].map(|(params, key)| rcgen::Issuer::from_params(params, key));
    let now = (2020, 2999);
    let hosts = [
        ("good", certified(&by_known, "localhost", now), true),
        ("expired", certified(&by_known, "localhost", (2019, 2020)), false),
        ("not-yet", certified(&by_known, "localhost", (2990, 2999)), false),
        ("wrong-host", certified(&by_known, "salesforce.example", now), false),
        ("unknown", certified(&by_unknown, "localhost", now), false),
    ];
    let mut workspace = Workspace::bare();
    workspace.write("ca.crt", &known.0.self_signed(&known.1).expect("a certificate").pem());
    let mut sections = vec![configuration().replace("[server]\n", "[server]\nstate_directory = \"state\"\n")];
    let mut profile = |name: &str, token_url: &str| {
        sections.push(format!(
            "[oauth.{name}]\nkeyset = \"crm\"\nconsumer_key = \"3MVG9.{name}\"\nusername = \"{name}@acme.com\"\n\
             audience = \"https://login.salesforce.com\"\ntoken_url = \"{token_url}\"\n"
        ));
    };
    let mut heard = Vec::new();
    for (name, config, _) in &hosts {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        profile(name, &format!("https://localhost:{}/token", listener.local_addr().expect("bound").port()));
        let bytes = Arc::new(AtomicUsize::new(0));
        heard.push(bytes.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                bytes.fetch_add(read_request(&mut stream).await, Ordering::SeqCst);
                let _ = stream.write_all((ok(TOKEN.len()) + TOKEN).as_bytes()).await;
            }
        });
    }
    profile("nowhere", "https://nowhere.invalid/token");
    let names = hosts.iter().map(|(name, ..)| *name).chain(["nowhere"]);
    let allow = names.clone().map(|name| format!("\"oauth.{name}\"")).collect::<Vec<_>>().join(", ");
    let hash = sha256_hex("all");
    sections.push(format!("[callers.all]\napi_key_sha256 = [\"{hash}\"]\nallow = [{allow}]\n"));
    workspace.configure(&sections.concat());
    let authorities = workspace.path("ca.crt").display().to_string();
    let service = workspace.set("SSL_CERT_FILE", &authorities).serve().await;
    for name in names {
        let body = json!({"profile": format!("oauth.{name}")}).to_string();
        let answer = service.post_text("/oauth-access-token", "all", body);
        let answer = tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time");
        if name == "good" {
            answer.ok();
            continue;
        }
        answer.refused(503, "upstream_unavailable", None);
        answer.header("retry-after");
        service.post("/identity-token", &json!({"sub": name})).await.ok();
    }
    for ((name, _, is_good), bytes) in hosts.iter().zip(heard) {
        assert_eq!(bytes.load(Ordering::SeqCst) > 0, *is_good, "{name}");
    }
}

/// A crash loop shares one budget.
#[tokio::test]
async fn a_restart_does_not_reset_the_login_budget() {
    let now = SystemClock::default().now();
    let (fake, salesforce) = Fake::start(Arc::new(ManualClock::at(now))).await;
    let workspace = Workspace::new();
    let channel = format!(
        "[identity.web.messaging]\nscrt_url = \"{salesforce}\"\norg_id = \"00D000000000001\"\n\
         es_developer_name = \"Web_Channel\"\nrequests_per_minute = 3\n"
    );
    let text = configuration()
        .replacen("[identity.web512]", &format!("{channel}[identity.web512]"), 1)
        .replacen("[server]\n", "[server]\nstate_directory = \"state\"\n", 1);
    workspace.configure(&text);
    let mut statuses = Vec::new();
    for start in 0..5 {
        // The service is killed at the end of each round.
        let service = workspace.serve().await;
        let sub = json!({"sub": format!("user-{start}")});
        statuses.push(service.post("/messaging-access-token", &sub).await.status.as_u16());
    }
    assert_eq!((statuses, fake.asked()), (vec![200, 200, 200, 503, 503], 3));
}

/// An operator's shell may set them. An assertion must not pass through a proxy.
#[tokio::test]
async fn no_proxy_of_the_environment_is_used() {
    let now = SystemClock::default().now();
    let (fake, salesforce) = Fake::start(Arc::new(ManualClock::at(now))).await;
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    proxy.set_nonblocking(true).expect("set");
    let address = format!("http://{}", proxy.local_addr().expect("an address"));
    let mut workspace = Workspace::new();
    let endpoint =
        format!("audience = \"https://login.salesforce.com\"\ntoken_url = \"{salesforce}/token\"\n");
    let text = configuration()
        .replacen("audience = \"https://login.salesforce.com\"\n", &endpoint, 1)
        .replacen("[server]\n", "[server]\nstate_directory = \"state\"\n", 1);
    workspace.configure(&text);
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        workspace.set(variable, &address);
    }
    let service = workspace.serve().await;
    service.post("/oauth-access-token", &json!({})).await.ok();
    assert_eq!(fake.asked(), 1);
    assert!(proxy.accept().is_err(), "the proxy was asked");
}
