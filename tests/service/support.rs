//! A workspace with keys and a configuration, the binary run in it, and a client for what it serves.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
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

/// Keys are slow to make, so all tests of a run share a few.
pub struct Keys {
    pub web: String,
    pub web512: String,
    pub crm: String,
    /// Of no keyset, for keys that come second.
    pub spare: [String; 2],
}

pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    // Whichever crate compiles in which back end: what `main` does first.
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

/// A folder with `tokenmint.toml` and `keys/`, gone at the end.
pub struct Workspace {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl Workspace {
    /// Only keys.
    pub fn bare() -> Self {
        let workspace =
            Self { folder: tempfile::tempdir().expect("a temporary folder"), environment: BTreeMap::new() };
        workspace.write_key("keys/web/WebAppKey1.key", &KEYS.web);
        workspace.write_key("keys/web512/Web512.key", &KEYS.web512);
        workspace.write_key("keys/crm/CrmKey1.key", &KEYS.crm);
        workspace.write("intercom.secret", "intercom-messenger-api-secret-0123456789\n");
        workspace
    }

    /// Keys and a configuration in which everything is used.
    pub fn new() -> Self {
        let workspace = Self::bare();
        workspace.configure(&configuration());
        workspace
    }

    /// As `new`, with `more` behind its configuration.
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

    /// A file that only its owner can read.
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

    /// A program in the workspace's folder, with the workspace's environment and nothing of the machine's but `PATH`: what a
    /// test finds must not depend on who runs it.
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

    /// The same, in a shell that redirects its output; killed after a while, which is code 124.
    pub fn run_in_shell(&self, arguments: &[&str], redirect: &str) -> Ran {
        let binary = self.command(arguments);
        let mut shell = self.program("bash");
        shell.args(["-c", &format!("timeout 10 \"$0\" \"$@\" {redirect}")]).arg(binary.get_program());
        shell.args(arguments);
        Ran::of(shell.output().expect("bash runs"))
    }

    /// The same, at a terminal that wide, where `typed` is typed. All that it shows comes in `stdout`.
    pub fn run_at_terminal(&self, arguments: &[&str], columns: u16, typed: &str) -> Ran {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        // Closed on exec: else a child of another test would hold this terminal open.
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
        // Once nobody has its other end open any more, reading a terminal fails (EIO).
        let mut shown = Vec::new();
        let _ = ours.read_to_end(&mut shown);
        let stdout = String::from_utf8(shown).expect("UTF-8").replace("\r\n", "\n");
        Ran { status: child.wait().expect("a child of ours"), stdout, stderr: String::new() }
    }

    /// Starts what runs on, and ends it once it has printed its JSON.
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

    /// The same, with something on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        run_to_end(self.command(arguments), input)
    }

    /// As `serve`, from a shell that has run `setting` before.
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
    // Less than a pipe holds, so that it can be written before anything is read.
    let stdin = child.stdin.take().expect("piped");
    let _ = (&stdin).write_all(input.as_bytes());
    drop(stdin);
    Ran::of(child.wait_with_output().expect("it ends"))
}

/// Returns a port on which nobody listens on loopback, for a service that is configured with it; each once in this process. One
/// that the kernel picks (bind to 0) may be given to a client's end of a connection as soon as it is closed.
pub fn free_port() -> u16 {
    // Below those that Linux gives to clients' ends (net.ipv4.ip_local_port_range, 32768 and up).
    const PORTS: std::ops::Range<u32> = 15_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Test programs run one after the other, and in parallel where somebody starts two.
    let first = std::process::id().wrapping_mul(97);
    let port = || {
        let offset = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        u16::try_from(PORTS.start + offset).expect("below 32,000")
    };
    std::iter::repeat_with(port)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("it repeats without an end")
}

/// What a command came to.
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

/// One of everything.
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

/// The service as a process of its own; killed at the end, whatever happens.
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
            // Below the five seconds after which the service closes a connection that idles, as any client should.
            client: reqwest::Client::builder()
                .pool_idle_timeout(Duration::from_secs(3))
                .build()
                .expect("a client"),
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        // Every listener says where it is before any answers.
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

    /// What it has logged until now: it logs behind the answers, so wait for what is to be there (`logged`),
    /// and take the `whole_log` for what is counted or must not be there.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// Waits until the log, which is written behind the answers, has this in it.
    pub async fn logged(&self, needle: &str) -> String {
        for _ in 0..100 {
            if let Some(line) = self.log().lines().find(|line| line.contains(needle)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no {needle} in the log: {}", self.log());
    }

    pub fn address(&self, listener: &str) -> &str {
        self.addresses.get(listener).unwrap_or_else(|| panic!("no listener {listener}"))
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

    /// All that it has logged, to its end.
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
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return (status, start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("still there 15 s after SIGTERM: {}", self.log());
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// An answer, read whole.
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("a whole answer") }
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

    /// Asserts a refusal as the contract has it; returns its description.
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

/// The claims of a token, once its signature was verified with the key of that `kid` in `set`.
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

/// Waits for something that happens behind the requests.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
