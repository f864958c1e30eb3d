//! A workspace with keys and a configuration, the binary that runs in it, and a client of the service.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokenmint::clock::SystemRandomness;

/// The API key of the caller `web`, who may use one profile of each kind.
pub const API_KEY: &str = "tm_the-key-of-web";
/// The API key of the caller `crm`, who may make assertions and nothing else.
pub const CRM_KEY: &str = "tm_the-key-of-crm";

/// The keys of all tests of a run. Generating one takes long.
pub struct Keys {
    pub web: String,
    pub web512: String,
    pub crm: String,
    /// In no keyset: for tests that add a key.
    pub spare: [String; 2],
}

pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    // `main` does the same first: it decides which backend jsonwebtoken uses.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let key = || {
        let pem =
            tokenmint::keys::generate_private_key(2048, &SystemRandomness::default()).expect("random bytes");
        pem.expose_secret().to_owned()
    };
    Keys { web: key(), web512: key(), crm: key(), spare: [key(), key()] }
});

pub fn sha256_hex(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A directory with `tokenmint.toml` and `keys/`, removed on drop.
pub struct Workspace {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    _share: Arc<Share>,
}

impl Workspace {
    /// A workspace with keys and without a configuration.
    pub fn bare() -> Self {
        let workspace = Self {
            _share: Share::of_this_test(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            environment: BTreeMap::new(),
        };
        workspace.write_key("keys/web/WebAppKey1.key", &KEYS.web);
        workspace.write_key("keys/web512/Web512.key", &KEYS.web512);
        workspace.write_key("keys/crm/CrmKey1.key", &KEYS.crm);
        workspace.write("intercom.secret", "intercom-messenger-api-secret-0123456789\n");
        workspace
    }

    /// A workspace with keys and a configuration that uses every kind of section.
    pub fn new() -> Self {
        let workspace = Self::bare();
        workspace.configure(&configuration());
        workspace
    }

    /// Like `new`, with `more` appended to the configuration.
    pub fn with(more: &str) -> Self {
        let workspace = Self::bare();
        workspace.configure(&format!("{}\n{more}", configuration()));
        workspace
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn configure(&self, text: &str) {
        self.write("tokenmint.toml", text);
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    /// Writes a file that only its owner can read.
    pub fn write_key(&self, name: &str, pem: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        let _ = fs::remove_file(&path);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("a new file");
        file.write_all(pem.as_bytes()).expect("written");
    }

    pub fn set(&mut self, variable: &str, value: &str) -> &mut Self {
        self.environment.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// A program in the workspace's directory, with the workspace's environment. Of the machine's environment it
    /// gets `PATH` alone, so that a test doesn't depend on who runs it.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs(&self.environment);
        command
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_tokenmint"));
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().expect("the binary runs");
        Ran::of(output)
    }

    /// Runs a command in a shell that redirects its output.
    pub fn run_in_shell(&self, arguments: &[&str], redirect: &str) -> Ran {
        self.run_in_shell_for(2 * DEADLINE, arguments, redirect)
    }

    /// Runs a command in a shell that redirects its output, and kills it after `limit`. The exit code is 124 then.
    pub fn run_in_shell_for(&self, limit: Duration, arguments: &[&str], redirect: &str) -> Ran {
        let binary = self.command(arguments);
        let mut shell = self.program("bash");
        let limited = format!("timeout {} \"$0\" \"$@\" {redirect}", limit.as_secs());
        shell.args(["-c", &limited]).arg(binary.get_program());
        shell.args(arguments);
        Ran::of(shell.output().expect("bash runs"))
    }

    /// Runs a command at a terminal with that many columns, and types `typed`. `stdout` has everything that the
    /// terminal shows.
    pub fn run_at_terminal(&self, arguments: &[&str], columns: u16, typed: &str) -> Ran {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        // Closed on exec, since a child process of another test would keep this terminal open.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal of ours");
        let size = rustix::termios::Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&ours, size).expect("a size");
        let theirs = ioctl_tiocgptpeer(&ours, flags).expect("its other end");
        let again = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        let mut command = self.command(arguments);
        command.env("TERM", "dumb").stdin(again()).stdout(again()).stderr(again());
        let mut child = command.spawn().expect("the binary runs");
        drop((command, theirs));
        let mut ours = fs::File::from(ours);
        if !typed.is_empty() {
            // Control-D ends the input at the begin of a line.
            ours.write_all(format!("{typed}\n\u{4}").as_bytes()).expect("less than a terminal holds");
        }
        // Reading a terminal fails with EIO once its other end is closed.
        let mut shown = Vec::new();
        let _ = ours.read_to_end(&mut shown);
        let stdout = String::from_utf8(shown).expect("UTF-8").replace("\r\n", "\n");
        Ran { status: child.wait().expect("a child of ours"), stdout, stderr: String::new() }
    }

    /// Starts a command that doesn't end by itself, and kills it once it has printed its JSON.
    pub fn begin(&self, arguments: &[&str]) -> Value {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut text = String::new();
        for line in lines {
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        child.kill().expect("a child of ours");
        let _ = child.wait();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs a command to its end, with `input` on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        run_to_end(self.command(arguments), input)
    }

    /// Like `serve`, started by a shell that has run `setting` before.
    pub async fn serve_after(&self, setting: &str) -> Running {
        let binary = self.command(&["serve"]);
        let mut shell = self.program("bash");
        shell.args(["-c", &format!("{setting}; exec \"$0\" serve")]).arg(binary.get_program());
        Running::start(shell).await
    }

    /// Starts the service and waits until it answers.
    pub async fn serve(&self) -> Running {
        Running::start(self.command(&["serve"])).await
    }
}

fn run_to_end(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // The input is smaller than a pipe's buffer, so it can be written before anything is read.
    let stdin = child.stdin.take().expect("piped");
    let _ = (&stdin).write_all(input.as_bytes());
    drop(stdin);
    Ran::of(child.wait_with_output().expect("it ends"))
}

/// Returns an unused port of loopback, for a service that is configured with it. Each call returns another one. A
/// port that the kernel picks (bind to 0) may be given to an outgoing connection as soon as it is closed.
pub fn free_port() -> u16 {
    // Below the ports that Linux gives to outgoing connections (net.ipv4.ip_local_port_range, 32768 and up).
    const PORTS: std::ops::Range<u32> = 15_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Two test programs may run at once, so each begins at another port.
    let first = std::process::id().wrapping_mul(97);
    let port = || {
        let offset = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        u16::try_from(PORTS.start + offset).expect("below 32,000")
    };
    std::iter::repeat_with(port)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("it repeats without an end")
}

/// Exit status and output of a command.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn code(&self) -> i32 {
        self.status.code().expect("it ended by itself")
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code(), 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }
}

/// A configuration with a section of every kind.
pub fn configuration() -> String {
    let (web, crm) = (sha256_hex(API_KEY), sha256_hex(CRM_KEY));
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
[keysets.web]
directory = "keys/web"
[keysets.web512]
directory = "keys/web512"
[keysets.crm]
directory = "keys/crm"
[identity.web]
keyset = "web"
issuer = "intercom.com"
audience = "https://acme.my.salesforce-scrt.com"
ttl = "30m"
max_ttl = "1h"
claims = ["locale", "plan"]
[identity.web512]
keyset = "web512"
issuer = "acme"
algorithm = "RS512"
subjects = "user-[0-9]+"
[oauth.crm]
keyset = "crm"
consumer_key = "3MVG9.consumer"
username = "integration@acme.com"
audience = "https://login.salesforce.com"
[intercom.fin]
secret_file = "intercom.secret"
claims = ["email"]
[callers.web]
api_key_sha256 = ["{web}"]
allow = ["identity.web", "oauth.crm", "intercom.fin"]
[callers.crm]
api_key_sha256 = ["{crm}"]
allow = ["oauth.crm"]
"#
    )
}

/// The service in its own process, killed on drop.
pub struct Running {
    child: Child,
    addresses: BTreeMap<String, String>,
    log: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
    client: reqwest::Client,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    async fn start(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let kept = log.clone();
        let of_stdout = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let mut log = kept.lock().expect("not poisoned");
                log.push_str(&line);
                log.push('\n');
                let _ = sender.send(line);
            }
        });
        let kept = log.clone();
        let of_stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            kept.lock().expect("not poisoned").push_str(&text);
        });
        let mut running = Self {
            child,
            addresses: BTreeMap::new(),
            log,
            readers: vec![of_stdout, of_stderr],
            // The service closes idle connections after five seconds. A client should drop them before.
            client: reqwest::Client::builder()
                .pool_idle_timeout(Duration::from_secs(3))
                .build()
                .expect("a client"),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        // The log lines with the addresses come before "started".
        while let Ok(Some(line)) = tokio::time::timeout_at(deadline, lines.recv()).await {
            let line: Value = serde_json::from_str(&line).expect("a log line is JSON");
            if let (Some(listener), Some(address)) = (line["listener"].as_str(), line["address"].as_str()) {
                running.addresses.insert(listener.to_owned(), address.to_owned());
            }
            if line["message"] == "started" {
                return running;
            }
        }
        panic!("the service did not start: {}", running.log());
    }

    /// The log so far. The service writes it in the background: use `logged` to wait for a line, and `whole_log` to
    /// count lines or to assert that one is absent.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// Waits until a log line contains `needle`, and returns the line.
    pub async fn logged(&self, needle: &str) -> String {
        let mut line = None;
        eventually(&format!("{needle:?} is in the log"), async || {
            line = self.log().lines().find(|line| line.contains(needle)).map(str::to_owned);
            line.is_some()
        })
        .await;
        line.expect("it was found")
    }

    pub fn address(&self, listener: &str) -> &str {
        self.addresses.get(listener).unwrap_or_else(|| panic!("no listener {listener}"))
    }

    /// The certificate that the minting listener shows, in DER.
    pub async fn shown_certificate(&self) -> Vec<u8> {
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).tls_info(true).build();
        let url = format!("https://{}/livez", self.address("minting"));
        let answer = client.expect("a client").get(url).send().await.expect("an answer");
        let info = answer.extensions().get::<reqwest::tls::TlsInfo>().expect("TLS").clone();
        info.peer_certificate().expect("a certificate").to_vec()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address("minting"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// Posts JSON with the API key of `web`.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).bearer_auth(API_KEY).json(body)).await
    }

    /// Posts any text as JSON, with any API key.
    pub async fn post_text(&self, path: &str, api_key: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.request(Method::POST, path).bearer_auth(api_key);
        Answer::of(request.header("Content-Type", "application/json").body(body)).await
    }

    pub async fn jwks(&self, path: &str) -> JwkSet {
        serde_json::from_value(self.get(path).await.json()).expect("a JWK Set")
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.text
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(mut self) -> (ExitStatus, Duration) {
        self.end().await
    }

    /// Stops the service and returns its whole log.
    pub async fn whole_log(mut self) -> String {
        self.end().await;
        for reader in self.readers.drain(..) {
            reader.join().expect("it reads to the end");
        }
        self.log()
    }

    async fn end(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        signal(self.pid(), "TERM");
        // Like `eventually`, whose closure a spawned task can't hold.
        while start.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return (status, start.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("still there {DEADLINE:?} after SIGTERM: {}", self.log());
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// A response with its whole body.
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::of_response(request.send().await.expect("an answer")).await
    }

    async fn of_response(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("a whole answer") }
    }

    /// Like `of`, but sends the request again if the connection was closed before an answer, as HTTP clients do. A busy machine may need
    /// more than five seconds to send the requests of a thousand new connections, and the service doesn't wait longer.
    pub async fn of_one_of_many(request: reqwest::RequestBuilder) -> Self {
        let begin = Instant::now();
        loop {
            match request.try_clone().expect("the body is in memory").send().await {
                Err(error) if error.is_request() && begin.elapsed() < DEADLINE => {}
                sent => return Self::of_response(sent.expect("an answer")).await,
            }
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().expect("text")
    }

    /// Asserts that the response is an error in the form of the contract. Returns its description.
    #[track_caller]
    pub fn refused(&self, status: u16, error: &str, field: Option<&str>) -> String {
        let body = self.json();
        assert_eq!(self.status.as_u16(), status, "{body}");
        assert_eq!(body["error"], error, "{body}");
        assert_eq!(body.get("field").and_then(Value::as_str), field, "{body}");
        assert_eq!(body["request_id"], self.header("x-request-id"), "{body}");
        let members = if field.is_some() { 4 } else { 3 };
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(members), "{body}");
        body["error_description"].as_str().expect("a description").to_owned()
    }
}

/// Verifies a token with the key in `set` that has its `kid`, and returns its claims.
#[track_caller]
pub fn verified(token: &str, set: &JwkSet) -> Value {
    LazyLock::force(&KEYS);
    let header = jsonwebtoken::decode_header(token).expect("a JWS");
    let kid = header.kid.expect("a kid");
    let jwk = set.find(&kid).unwrap_or_else(|| panic!("no {kid} in the set"));
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).expect("an RSA key");
    let mut rules = jsonwebtoken::Validation::new(header.alg);
    rules.validate_aud = false;
    jsonwebtoken::decode::<Value>(token, &key, &rules).expect("a valid signature").claims
}

/// The header and claims of a token, unverified.
pub fn unverified(token: &str) -> (Value, Value) {
    use base64::Engine as _;
    let part = |part: &str| {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    (part(parts[0]), part(parts[1]))
}

/// A request for an identity token of `user-1`.
pub fn user_1() -> Value {
    json!({"sub": "user-1"})
}

/// A request for an identity token of a user that no test has used before, since tokens per user are limited.
pub fn another_user() -> Value {
    static COUNT: AtomicU32 = AtomicU32::new(1_000);
    json!({"sub": format!("user-{}", COUNT.fetch_add(1, Ordering::Relaxed))})
}

/// Sends a request, and again after `Retry-After` while the response is 503 `overloaded`, as a client should. A
/// machine that is busy with other tests may not sign a burst of tokens in time.
pub async fn retrying<F: Future<Output = Answer>>(request: impl Fn() -> F) -> Answer {
    let begin = Instant::now();
    loop {
        let answer = request().await;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE || answer.json()["error"] != "overloaded" {
            return answer;
        }
        assert!(begin.elapsed() < DEADLINE, "still overloaded after {DEADLINE:?}");
        let seconds = answer.header("retry-after").parse().expect("seconds");
        // The response demands this pause.
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

/// How long tests wait for a condition. It is far longer than any of them takes, so only a condition that never
/// holds fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Less than the five seconds after which the service closes a silent connection and gives up a request to
/// Salesforce. What ends sooner was not ended by those timeouts.
pub const AT_ONCE: Duration = Duration::from_secs(4);

const POLL: Duration = Duration::from_millis(20);

/// Waits until the condition `holds`. `what` states it, for the message of a failure.
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    eventually_within(DEADLINE, what, holds).await;
}

/// Waits until the condition `holds`, and fails after `limit`. A test whose `limit` is a promise of the service
/// starts with `timed`.
pub async fn eventually_within(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Like `eventually`, for tests without a runtime.
pub fn eventually_blocking(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// The number of running tests of each kind.
#[derive(Default)]
struct Tests {
    ordinary: usize,
    timed: usize,
    timed_waiting: usize,
}

static TESTS: Mutex<Tests> = Mutex::new(Tests { ordinary: 0, timed: 0, timed_waiting: 0 });
static A_TEST_ENDED: Condvar = Condvar::new();

thread_local! {
    /// The share of the test on this thread. The test harness runs each test on a thread of its own.
    static SHARE: RefCell<Weak<Share>> = const { RefCell::new(Weak::new()) };
}

/// Counts a running test. Each workspace of the test holds it, and so does the result of `timed`.
pub struct Share {
    is_timed: bool,
}

impl Share {
    fn of_this_test() -> Arc<Self> {
        if let Some(share) = SHARE.with_borrow(Weak::upgrade) {
            return share;
        }
        let others = cores().saturating_sub(1).max(1);
        let tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
        let must_wait = |tests: &mut Tests| tests.timed + tests.timed_waiting > 0 && tests.ordinary >= others;
        let mut tests = A_TEST_ENDED.wait_while(tests, must_wait).unwrap_or_else(PoisonError::into_inner);
        tests.ordinary += 1;
        Self::begin(false)
    }

    fn begin(is_timed: bool) -> Arc<Self> {
        let share = Arc::new(Self { is_timed });
        SHARE.set(Arc::downgrade(&share));
        share
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if self.is_timed { &mut tests.timed } else { &mut tests.ordinary };
        *count -= 1;
        drop(tests);
        A_TEST_ENDED.notify_all();
    }
}

/// Reserves the machine for a test that asserts an upper bound on a duration. The test calls it first and keeps the
/// result to its end. Until then at most one other test per remaining core runs, whatever `RUST_TEST_THREADS` is. So
/// the test measures the service and not its wait for a processor.
pub fn timed() -> Arc<Share> {
    assert!(SHARE.with_borrow(Weak::upgrade).is_none(), "`timed` comes before the first workspace");
    let others = cores().saturating_sub(1).max(1);
    let mut tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
    tests.timed_waiting += 1;
    let must_wait = |tests: &mut Tests| tests.timed >= cores() || tests.ordinary > others;
    tests = A_TEST_ENDED.wait_while(tests, must_wait).unwrap_or_else(PoisonError::into_inner);
    tests.timed_waiting -= 1;
    tests.timed += 1;
    drop(tests);
    Share::begin(true)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
