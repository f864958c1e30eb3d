//! A log that nobody reads or that can't be written. Minting goes on, or fails closed where the audit is required.

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::json;

use crate::support::{
    API_KEY, Answer, Workspace, configuration, eventually, free_port, signal, timed, user_1,
};

/// The number of entries of the bundle `many`, each of which writes an audit line.
const ENTRIES: usize = 200;

/// The service with a given standard output.
struct Started {
    child: Child,
    url: String,
    client: Client,
    _workspace: Workspace,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Started {
    async fn with(audit: &str, stdout: impl Into<Stdio>, wrap: &[&str]) -> Self {
        let port = free_port();
        let workspace = Workspace::new();
        let server = format!("[server]\naudit = \"{audit}\"\n");
        let entries: Vec<String> = (0..ENTRIES).map(|n| format!("e{n} = \"intercom.fin\"\n")).collect();
        let bundle = format!("[bundles.many]\n{}", entries.concat());
        let configuration = configuration()
            .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
            .replace("[server]\n", &server)
            .replace("\"intercom.fin\"]", "\"intercom.fin\", \"bundles.many\"]");
        workspace.configure(&(configuration + &bundle));
        let words: Vec<&str> =
            wrap.iter().copied().chain([env!("CARGO_BIN_EXE_tokenmint"), "serve"]).collect();
        let mut command = workspace.program(words[0]);
        command.args(&words[1..]);
        let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it runs");
        let started = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            client: Client::new(),
            _workspace: workspace,
        };
        eventually("the service answers", async || {
            started.client.get(format!("{}/livez", started.url)).send().await.is_ok()
        })
        .await;
        started
    }

    async fn mint(&self, sub: usize) -> Answer {
        let request = self.client.post(format!("{}/intercom-user-jwt", self.url)).bearer_auth(API_KEY);
        Answer::of(request.json(&json!({"user_id": sub.to_string()}))).await
    }

    /// Requests the bundle, which writes `ENTRIES` audit lines.
    async fn mint_many(&self, sub: usize) -> Answer {
        let request = self.client.post(format!("{}/bundle", self.url)).bearer_auth(API_KEY);
        Answer::of(request.json(&json!({"sub": sub.to_string()}))).await
    }

    /// Sends SIGTERM and waits for the end. Returns the exit code, the duration, and the standard error.
    async fn terminate(&mut self) -> (Option<i32>, Duration, String) {
        let begin = Instant::now();
        signal(self.child.id(), "TERM");
        let mut status = None;
        eventually("the service ends", async || {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some()
        })
        .await;
        let took = begin.elapsed();
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut said).expect("text");
        (status.expect("it has ended").code(), took, said)
    }

    async fn metric(&self, name: &str) -> u64 {
        let text = Answer::of(self.client.get(format!("{}/metrics", self.url))).await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    }
}

const DROPPED: &str = "tokenmint_log_lines_dropped_total";
const MINTED: &str = r#"tokenmint_tokens_minted_total{caller="web",profile="intercom.fin"}"#;

fn refused_unaudited(answer: &Answer) {
    answer.refused(503, "temporarily_unavailable", None);
    assert_eq!(answer.header("retry-after"), "1");
}

/// With audit `best-effort`, minting doesn't depend on the log.
#[tokio::test]
async fn minting_goes_on_with_a_full_disk_a_closed_log_pipe_and_no_output() {
    let full = || File::options().write(true).open("/dev/full").expect("Linux");
    let mut dead_reader = Started::with("best-effort", Stdio::piped(), &[]).await;
    drop(dead_reader.child.stdout.take());
    let closed =
        Started::with("best-effort", Stdio::null(), &["bash", "-c", "exec \"$@\" >&-", "bash"]).await;
    for (name, service, drops) in [
        ("full disk", Started::with("best-effort", full(), &[]).await, true),
        ("dead reader", dead_reader, true),
        ("closed", closed, false),
    ] {
        // The line that fails and those in the buffer before it aren't dropped yet.
        let mut minted = 0;
        eventually(&format!("{name}: lines are dropped, if any are"), async || {
            service.mint(minted).await.ok();
            minted += 1;
            !drops || service.metric(DROPPED).await > 0
        })
        .await;
        let before = service.metric(DROPPED).await;
        for sub in minted..minted + 50 {
            service.mint(sub).await.ok();
        }
        assert_eq!(service.metric(MINTED).await, minted as u64 + 50, "{name}");
        let dropped = service.metric(DROPPED).await - before;
        assert_eq!(dropped, if drops { 50 } else { 0 }, "{name}");
    }
}

#[tokio::test]
async fn with_a_required_audit_no_token_leaves_without_a_log_line() {
    let full = File::options().write(true).open("/dev/full").expect("Linux");
    let service = Started::with("required", full, &[]).await;
    for sub in 0..20 {
        refused_unaudited(&service.mint(sub).await);
    }
    assert_eq!(service.metric(MINTED).await, 0);
    let jwks = service.client.get(format!("{}/.well-known/jwks.json", service.url));
    Answer::of(jwks).await.ok();

    let hidden = Workspace::new();
    hidden.configure(&configuration().replace("[server]\n", "[server]\naudit = \"required\"\n"));
    let mut hidden = hidden;
    for command in ["serve", "check"] {
        let ran = hidden.set("RUST_LOG", "warn").run(&[command]);
        assert_eq!(ran.code(), 64, "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains("environment RUST_LOG: hides audit lines"), "{command}: {}", ran.stderr);
    }
    assert_eq!(hidden.set("RUST_LOG", "warn,tokenmint::audit=info").run(&["check"]).code(), 0);
}

#[tokio::test]
async fn an_invalid_log_filter_is_reported_and_logging_goes_on() {
    let mut workspace = Workspace::new();
    workspace.configure(&configuration());
    let service = workspace.set("RUST_LOG", "tokenmint=loud").serve().await;
    let told = service.logged("using `info` instead").await;
    assert!(told.contains("tokenmint=loud") && told.contains("WARN"), "{told}");
    drop(service);
    for (filter, word) in [
        ("info,hyper=warn,debgu", "debgu"),
        ("debgu", "debgu"),
        ("[x", "[x"),
        ("info,[{caller}]=off", "[{caller}]=off"),
    ] {
        let service = workspace.set("RUST_LOG", filter).serve().await;
        let told = service.logged("using `info` instead").await;
        assert!(told.contains(&format!("`{word}` isn't a level")) && told.contains("WARN"), "{told}");
    }
    // For example, an environment file sets it to nothing.
    let service = workspace.set("RUST_LOG", "").serve().await;
    service.post("/identity-token", &user_1()).await.ok();
    service.logged("minted").await;
}

/// Writes more log lines than the pipe and the buffer of 16,384 lines hold. Returns the last answer.
async fn fill(service: &Started) -> Answer {
    let mut last = service.mint_many(0).await;
    for sub in 1..100 {
        last = service.mint_many(sub).await;
    }
    last
}

/// If the reader hangs, the pipe fills and then the buffer. Requests don't wait for it, and memory doesn't grow.
#[tokio::test]
async fn a_stuck_log_reader_blocks_no_request_and_minting_recovers_with_it() {
    let free = Started::with("best-effort", Stdio::piped(), &[]).await;
    fill(&free).await.ok();
    assert!(free.metric(DROPPED).await > 1000, "it was full");
    free.mint(1).await.ok();

    let mut strict = Started::with("required", Stdio::piped(), &[]).await;
    refused_unaudited(&fill(&strict).await);
    let mut log = strict.child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        let mut piece = vec![0; 65_536];
        while log.read(&mut piece).is_ok_and(|length| length > 0) {}
    });
    eventually("it mints again", async || strict.mint(7).await.status.is_success()).await;
}

/// Counts the audit lines of a log, and asserts that it consists of whole lines.
#[track_caller]
fn audit_lines(log: &[u8]) -> usize {
    assert!(
        log.ends_with(b"\n"),
        "the last line is cut: {:?}",
        String::from_utf8_lossy(&log[log.len() - 80..])
    );
    let lines = std::str::from_utf8(log).expect("UTF-8").lines();
    let parsed = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a whole line"));
    parsed.filter(|line| line["message"] == "minted").count()
}

/// The reader is slow and starts about when the signal is sent.
#[tokio::test]
async fn shutdown_waits_for_a_slow_log_reader() {
    let _timed = timed();
    let mut service = Started::with("required", Stdio::piped(), &[]).await;
    for sub in 0..50 {
        service.mint_many(sub).await.ok();
    }
    let mut log = service.child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let (mut read, mut piece) = (Vec::new(), vec![0; 65_536]);
        loop {
            // A slow reader.
            std::thread::sleep(Duration::from_millis(60));
            match log.read(&mut piece).expect("readable") {
                0 => return read,
                length => read.extend(&piece[..length]),
            }
        }
    });
    let (code, took, said) = service.terminate().await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(audit_lines(&reader.join().expect("no panic")), 50 * ENTRIES, "after {took:?}");
}

/// The number of lost lines in the message on standard error.
#[track_caller]
fn lost_lines(said: &str) -> usize {
    let count =
        said.split_once(" lines of the log were lost").and_then(|(before, _)| before.split(' ').next_back());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

/// The count includes all lines since the start, also those dropped before the shutdown.
#[tokio::test]
async fn a_failed_log_is_reported_with_its_error_and_the_number_of_lost_lines() {
    for (audit, code) in [("best-effort", 0), ("required", 1)] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut healthy = Started::with(audit, File::create(&path).expect("created"), &[]).await;
        let full = File::options().write(true).open("/dev/full").expect("Linux");
        let mut full = Started::with(audit, full, &[]).await;
        if audit == "best-effort" {
            for sub in 0..10 {
                healthy.mint(sub).await.ok();
                full.mint(sub).await.ok();
            }
        }
        assert_eq!(healthy.terminate().await.0, Some(0));
        let (ended, _, said) = full.terminate().await;
        assert_eq!(ended, Some(code), "{audit}: {said}");
        assert!(said.contains("couldn't be written: No space left on device"), "{audit}: {said}");
        let all = std::fs::read_to_string(&path).expect("a log").lines().count();
        assert_eq!(lost_lines(&said), all, "{audit}: {said}");
    }
}

/// Unwritten lines are counted, and are a failure where the audit is required. The last written line is whole.
#[tokio::test]
async fn log_lines_that_nobody_reads_before_the_end_are_counted_and_reported() {
    let _timed = timed();
    for (audit, code) in [("required", 1), ("best-effort", 0)] {
        let mut service = Started::with(audit, Stdio::piped(), &[]).await;
        for sub in 0..20 {
            service.mint_many(sub).await.ok();
        }
        let (ended, took, said) = service.terminate().await;
        assert_eq!(ended, Some(code), "{audit}: {said}");
        assert!(took < Duration::from_secs(10), "{took:?}");
        let mut log = Vec::new();
        service.child.stdout.take().expect("piped").read_to_end(&mut log).expect("what the pipe holds");
        let written = audit_lines(&log);
        let lost = lost_lines(&said);
        assert!(said.contains("the reader was too slow"), "{said}");
        // The lines of the shutdown are lost as well.
        let all = written + lost;
        assert!((20 * ENTRIES..=20 * ENTRIES + 5).contains(&all), "{audit}: {written} + {lost}");
    }
}

/// A second signal ends the service at once.
#[tokio::test]
async fn a_second_sigterm_ends_the_wait_for_a_log_reader() {
    let _timed = timed();
    let mut service = Started::with("required", Stdio::piped(), &[]).await;
    for sub in 0..20 {
        service.mint_many(sub).await.ok();
    }
    signal(service.child.id(), "TERM");
    // The kernel merges a signal with one that the process hasn't received yet.
    eventually("the first signal is received", async || {
        service.client.get(format!("{}/livez", service.url)).send().await.is_err()
    })
    .await;
    let (code, took, _) = service.terminate().await;
    assert_eq!(code, Some(1));
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Where the log can be written, the second signal loses no line.
    let file = tempfile::tempfile().expect("a file");
    let mut service = Started::with("required", file, &[]).await;
    service.mint(1).await.ok();
    signal(service.child.id(), "TERM");
    let (code, _, said) = service.terminate().await;
    assert!(code == Some(0) && !said.contains("lost"), "{code:?} {said}");
}
