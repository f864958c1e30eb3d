//! Reloads: changed files are applied while the service runs, completely or not at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokenmint::clock::{Clock as _, ManualClock, SystemClock, UnixTime};

use crate::in_process::InProcess;
use crate::retirement::PROMISED;
use crate::support::{
    API_KEY, KEYS, Running, Workspace, another_user, configuration, eventually, eventually_within,
    sha256_hex, signal, timed, user_1, verified,
};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(UnixTime::from_seconds(1_796_083_200)))
}

/// An editor on a full disk truncates files. The rest would be a valid configuration without callers or keys.
#[tokio::test]
async fn an_emptied_or_truncated_file_is_not_applied() {
    let mut workspace = Workspace::new();
    // The file has no `[server]` section, so the truncated one changes nothing that needs a restart.
    let text = configuration().replace("[server]\nlisten = \"127.0.0.1:0\"\n", "");
    workspace.configure(&text);
    let service = workspace.set("TOKENMINT_SERVER__LISTEN", "127.0.0.1:0").serve().await;
    let (before_callers, _) = text.split_once("[callers.web]").expect("there");
    for (left, gone) in [("", "keysets"), (before_callers, "callers")] {
        workspace.configure(left);
        let refused = format!("{gone} (tokenmint.toml): has no entries left");
        service.logged(&refused).await;
        service.post("/identity-token", &user_1()).await.ok();
        workspace.configure(&text);
        workspace.run(&["check", "--running"]).ok();
    }
}

/// A line of a key is given as the path of the state directory. The message doesn't show it.
#[tokio::test]
async fn a_key_given_as_the_state_directory_is_not_shown() {
    let mut workspace = Workspace::new();
    workspace.configure(&configuration());
    let line = KEYS.web.lines().nth(2).expect("a line of base64");
    let service = workspace.set("TOKENMINT_SERVER__STATE_DIRECTORY", &format!("/proc/{line}")).serve().await;
    service.logged("the login budget is kept in memory only").await;
    let log = service.whole_log().await;
    assert!(!log.contains(&line[..8]), "{log}");
}

#[test]
fn check_warns_of_a_state_directory_that_the_service_will_not_use() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut workspace = Workspace::new();
    let path = workspace.path("state");
    fs::create_dir(&path).expect("a directory");
    workspace.set("TOKENMINT_SERVER__STATE_DIRECTORY", "state");
    for (mode, is_warned) in [(0o755, true), (0o700, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let ran = workspace.run(&["check"]);
        let warning = "server.state_directory (environment TOKENMINT_SERVER__STATE_DIRECTORY): the login budget is kept in memory only";
        assert_eq!((ran.code(), ran.stderr.contains(warning)), (0, is_warned), "{}", ran.stderr);
    }
}

async fn is_allowed(service: &Running, api_key: &str) -> bool {
    service.post_text("/identity-token", api_key, r#"{"sub":"user-1","profile":"web"}"#).await.status == 200
}

#[tokio::test]
async fn sighup_applies_callers_and_profiles() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    assert!(!is_allowed(&service, "new").await);
    workspace.configure(&format!(
        "{}[callers.new]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\"]\n",
        configuration().replace("issuer = \"intercom.com\"", "issuer = \"https://issuer.example\""),
        sha256_hex("new")
    ));
    signal(service.pid(), "HUP");
    service.logged("\"reloaded\"").await;
    assert!(is_allowed(&service, "new").await);
    let minted = service.post("/identity-token", &user_1()).await.ok();
    let set = service.jwks("/keysets/web/jwks.json").await;
    assert_eq!(verified(minted["token"].as_str().expect("a token"), &set)["iss"], "https://issuer.example");
}

#[tokio::test]
async fn a_change_is_applied_within_five_seconds_without_a_signal() {
    let _timed = timed();
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    workspace.write("intercom.secret", "another-messenger-api-secret-0123456789");
    workspace.configure(&configuration().replace("ttl = \"30m\"", "ttl = \"20m\""));
    eventually_within(PROMISED, "the ttl is 20m", async || {
        service.post("/identity-token", &another_user()).await.ok()["expires_in"] == 1200
    })
    .await;
    // The service also applies a change of a file that the configuration names.
    let asked = json!({"user_id": "user-1"});
    let with_another = service.post("/intercom-user-jwt", &asked).await.ok()["token"].clone();
    workspace.write("intercom.secret", "a-third-messenger-api-secret-0123456789");
    eventually_within(PROMISED, "the new secret signs", async || {
        service.logged("reloaded").await;
        let asked = json!({"user_id": another_user()["sub"]});
        let token = service.post("/intercom-user-jwt", &asked).await.ok()["token"].clone();
        let signature = |token: &serde_json::Value| {
            let token = token.as_str().expect("a token").to_owned();
            jsonwebtoken::decode::<serde_json::Value>(
                &token,
                &jsonwebtoken::DecodingKey::from_secret(b"a-third-messenger-api-secret-0123456789")
                    .expect("a secret"),
                &jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256),
            )
            .is_ok()
        };
        assert!(!signature(&with_another));
        signature(&token)
    })
    .await;
}

#[tokio::test]
async fn a_change_that_needs_a_restart_is_refused_with_that_reason() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let other = configuration()
        .replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"\n[server.limits]\nconnections = 7")
        .replace("ttl = \"30m\"", "ttl = \"20m\"");
    workspace.configure(&other);
    signal(service.pid(), "HUP");
    let line = service.logged("the changed configuration is rejected").await;
    for expected in [
        "server.listen (tokenmint.toml line 3): can't change while the service runs (127.0.0.1:0 before, 127.0.0.1:1 now): put it back",
        "server.limits.connections (tokenmint.toml line 5): can't change while the service runs (the default before, 7 now)",
    ] {
        assert!(line.contains(expected), "{line}");
    }
    assert_eq!(service.post("/identity-token", &user_1()).await.ok()["expires_in"], 1800);
}

#[tokio::test]
async fn tls_certificates_change_for_new_connections() {
    let workspace = Workspace::bare();
    let certify = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = certificate.self_signed(&key).expect("a certificate");
        workspace.write_key("tls.key", &key.serialize_pem());
        workspace.write("tls.crt", &certificate.pem());
        certificate.der().to_vec()
    };
    let first = certify("first.example");
    workspace.configure(&configuration().replace(
        "[keysets.web]\n",
        "[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\n[keysets.web]\n",
    ));
    let service = workspace.serve().await;
    assert_eq!(service.shown_certificate().await, first);
    let second = certify("second.example");
    eventually("the new certificate is shown", async || service.shown_certificate().await == second).await;
}

/// Mints without a pause until it is stopped, and counts failures.
struct Load {
    stop: Arc<AtomicBool>,
    minted: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl Load {
    fn on(service: &InProcess) -> Self {
        let load = Self { stop: Arc::default(), minted: Arc::default(), failed: Arc::default() };
        for n in 0..4 {
            let (stop, minted, failed) = (load.stop.clone(), load.minted.clone(), load.failed.clone());
            let request = service.client.post(format!("{}/identity-token", service.url)).bearer_auth(API_KEY);
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    // The test's clock stands still, so requests for one subject would be limited.
                    let subject = format!("user-{n}-{}", minted.load(Ordering::Relaxed));
                    let request = request.try_clone().expect("no body").json(&json!({"sub": subject}));
                    let good = request.send().await.is_ok_and(|answer| answer.status() == 200);
                    (if good { &minted } else { &failed }).fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Release);
        (self.minted.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// The issuer in a token that is minted now. Asserts that its signature is valid.
async fn intact(service: &InProcess) {
    static PROBES: AtomicUsize = AtomicUsize::new(0);
    let subject = format!("probe-{}", PROBES.fetch_add(1, Ordering::Relaxed));
    let minted = service.post("/identity-token", PROBE_KEY, &json!({"sub": subject})).await.ok();
    let set = serde_json::from_value(service.get("/keysets/web/jwks.json").await.ok()).expect("a set");
    assert_eq!(verified(minted["token"].as_str().expect("a token"), &set)["iss"], "intercom.com");
}

const PROBE_KEY: &str = "tm_the-key-of-the-probe";

/// Adds a caller for probes, whose subjects no other caller uses.
fn with_probe(text: &str) -> String {
    format!(
        "{text}[callers.probe]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\"]\n",
        sha256_hex(PROBE_KEY)
    )
}

/// 200 configurations with one error each. None changes the running service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_broken_configurations_change_nothing() {
    let workspace = Workspace::bare();
    let good = with_probe(&configuration());
    workspace.configure(&good);
    let service = InProcess::of(Arc::new(workspace), clock()).await;
    let load = Load::on(&service);
    let lines: Vec<&str> = good.lines().collect();
    let mut broken = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let with = |changed: &str| {
            let mut lines = lines.clone();
            lines[at] = changed;
            lines.join("\n")
        };
        if let Some((name, _)) = line.split_once(" = ") {
            broken.push(with(&format!("{name} =")));
            broken.push(with(&format!("{name} = {{}}")));
            broken.push(with(&format!("{name}_ = \"x\"\n{line}")));
            broken.push(with(&format!("{line}\n{line}")));
        } else if line.starts_with('[') {
            broken.push(with(&format!("{line}\nnobody = \"knows\"")));
            broken.push(with(&line.replace(']', "")));
        }
    }
    // Truncated in the middle of a line.
    broken.extend((1..good.len()).step_by(11).map(|end| format!("{}\n[", &good[..end])));
    assert!(broken.len() >= 200, "{}", broken.len());
    for (count, text) in broken.iter().enumerate() {
        service.workspace.configure(text);
        service.reload();
        if count % 20 == 0 {
            intact(&service).await;
        }
    }
    let refused = service.metric("tokenmint_config_reload_failures_total").await;
    assert_eq!(refused, format!("tokenmint_config_reload_failures_total {}", broken.len()));
    let (minted, failed) = load.end();
    assert!(minted > 100 && failed == 0, "{minted} minted, {failed} failed");
    println!("{} broken configurations, {minted} mints meanwhile, 0 failed", broken.len());
}

/// A killed writer leaves a part of a key, which is never used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_file_truncated_at_any_byte_changes_nothing() {
    let workspace = Workspace::bare();
    workspace.configure(&with_probe(&configuration()));
    let service = InProcess::of(Arc::new(workspace), clock()).await;
    let load = Load::on(&service);
    // Only the final newline may be missing.
    let whole = KEYS.web.trim_end().len();
    for end in 0..whole {
        service.workspace.write_key("keys/web/WebAppKey1.key", &KEYS.web[..end]);
        service.reload();
        if end % 100 == 0 {
            intact(&service).await;
        }
    }
    let refused = service.metric("tokenmint_config_reload_failures_total").await;
    assert_eq!(refused, format!("tokenmint_config_reload_failures_total {whole}"));
    service.workspace.write_key("keys/web/WebAppKey1.key", &KEYS.web);
    service.reload();
    assert!(service.metric("tokenmint_config_reloads_total").await.ends_with(" 1"));
    let (minted, failed) = load.end();
    assert!(minted > 100 && failed == 0, "{minted} minted, {failed} failed");
    println!("{whole} cut-off keys, {minted} mints meanwhile, 0 failed");
}

/// A volume like the kubelet writes it: files are symlinks into `..data`, a symlink that is replaced atomically.
struct Projected {
    folder: PathBuf,
    turns: usize,
}

impl Projected {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, turns: 0 }
    }

    fn turn(&mut self, files: &[(&str, &str)]) {
        self.turns += 1;
        let name = format!("..2026_12_01_{:09}", self.turns);
        let version = self.folder.join(&name);
        fs::create_dir(&version).expect("a folder");
        for (file, content) in files {
            write_private(&version.join(file), content);
            let link = self.folder.join(file);
            if !link.is_symlink() {
                symlink(format!("..data/{file}"), link).expect("a link");
            }
        }
        let old = fs::read_link(self.folder.join("..data")).ok();
        symlink(&name, self.folder.join("..data_tmp")).expect("a link");
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).expect("turned");
        if let Some(old) = old {
            fs::remove_dir_all(self.folder.join(old)).expect("the old version");
        }
        // Links to files that this version lacks are removed last.
        for link in fs::read_dir(&self.folder).expect("a folder").map(|entry| entry.expect("an entry").path())
        {
            if !link.exists() {
                fs::remove_file(link).expect("a link");
            }
        }
    }
}

fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("a new file");
    std::io::Write::write_all(&mut file, content.as_bytes()).expect("written");
}

/// A certificate for that key by openssl, as PEM.
fn certificate_of(workspace: &Workspace, pem: &str) -> String {
    workspace.write_key("made.key", pem);
    let key = workspace.path("made.key").display().to_string();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-new", "-key", &key, "-days", "3650", "-subj", "/CN=x"])
        .output()
        .expect("openssl runs");
    assert!(made.status.success());
    String::from_utf8(made.stdout).expect("PEM")
}

/// The service notices the update without a signal.
#[tokio::test]
async fn an_update_of_a_kubernetes_volume_is_applied_within_five_seconds() {
    let _timed = timed();
    let workspace = Workspace::bare();
    workspace.configure(&configuration().replace("keys/web\"", "projected\""));
    let mut projected = Projected::new(workspace.path("projected"));
    let certificate = certificate_of(&workspace, &KEYS.web);
    projected.turn(&[("a.key", &KEYS.web), ("a.crt", &certificate)]);
    let service = workspace.serve().await;
    let published = async || service.get("/keysets/web/jwks.json").await.ok()["keys"].clone();
    let first = published().await;
    assert_eq!((first.as_array().map(Vec::len), &first[0]["kid"]), (Some(1), &json!("a")));
    // First only the certificate changes, then there is a second key that signs in years.
    let another = certificate_of(&workspace, &KEYS.web);
    projected.turn(&[("a.key", &KEYS.web), ("a.crt", &another)]);
    let is_new = async || published().await[0]["x5c"] != first[0]["x5c"];
    eventually_within(PROMISED, "the new certificate is published", is_new).await;
    let entry =
        |kid: &str, year: u32| format!("[[key]]\nkid = \"{kid}\"\nsign_from = {year}-01-01T00:00:00Z\n");
    let schedule = entry("a", 2026) + &entry("b", 2999);
    projected.turn(&[
        ("a.key", &KEYS.web),
        ("a.crt", &another),
        ("b.key", &KEYS.spare[0]),
        ("keyset.toml", &schedule),
    ]);
    eventually_within(PROMISED, "the new key is published", async || published().await[1]["kid"] == "b")
        .await;
    assert_eq!(service.post("/identity-token", &user_1()).await.ok()["kid"], "a");
}

/// Files that are copied one by one don't fit together for a while.
#[tokio::test]
async fn a_new_key_beside_an_old_certificate_is_refused_until_they_fit() {
    let service = InProcess::of(Arc::new(Workspace::new()), clock()).await;
    let workspace = &service.workspace;
    let (old, fitting) = (certificate_of(workspace, &KEYS.web), certificate_of(workspace, &KEYS.spare[0]));
    let before = service.get("/keysets/web/jwks.json").await.text;
    workspace.write("keys/web/WebAppKey2.crt", &old);
    workspace.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
    workspace.write(
        "keys/web/keyset.toml",
        "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
         [[key]]\nkid = \"WebAppKey2\"\nsign_from = 2999-01-01T00:00:00Z\n",
    );
    service.reload();
    assert_eq!(service.get("/keysets/web/jwks.json").await.text, before);
    assert!(service.metric("tokenmint_config_reload_failures_total").await.ends_with(" 1"));
    workspace.write("keys/web/WebAppKey2.crt", &fitting);
    service.reload();
    assert_eq!(service.published("web").await, ["WebAppKey1", "WebAppKey2"]);
    let set = service.get("/keysets/web/jwks.json").await.ok();
    let base64: String = fitting.lines().filter(|line| !line.starts_with("-----")).collect();
    assert_eq!(set["keys"][1]["x5c"][0], base64);
}

/// Key and certificate are replaced together a thousand times while the service reads them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_updates_of_a_kubernetes_volume_never_mix_key_and_certificate() {
    let workspace = Workspace::bare();
    workspace.configure(&with_probe(&configuration().replace("keys/web\"", "projected\"")));
    // Two keys with an id each take turns. The schedule names the one that is present.
    let keys = [("a", &KEYS.web), ("b", &KEYS.web512)];
    let keys = keys.map(|(kid, pem)| (kid, pem, certificate_of(&workspace, pem)));
    workspace.write_key("keys/web512/Web512.key", &KEYS.crm);
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.web);
    let mut projected = Projected::new(workspace.path("projected"));
    let mut turn = move |round: usize| {
        let (kid, pem, certificate) = &keys[round % 2];
        let schedule = format!(
            "# {round}\n[[key]]\nkid = \"{kid}\"\nsign_from = 2026-01-01T00:00:00Z\nemergency = true\n"
        );
        let (key, crt) = (format!("{kid}.key"), format!("{kid}.crt"));
        projected.turn(&[(&key, pem), (&crt, certificate), ("keyset.toml", &schedule)]);
    };
    turn(0);
    let service = InProcess::of(Arc::new(workspace), clock()).await;
    let load = Load::on(&service);
    let turning = Arc::new(AtomicBool::new(true));
    let (still, mut looks) = (turning.clone(), 0);
    let turner = std::thread::spawn(move || {
        for round in 1..=1_000 {
            turn(round);
            // So that some updates come while the service reads, and others in between.
            std::thread::sleep(Duration::from_millis(4));
        }
        still.store(false, Ordering::Release);
    });
    while turning.load(Ordering::Acquire) {
        service.reload();
        intact(&service).await;
        looks += 1;
    }
    turner.join().expect("the writer ends");
    service.reload();
    assert_eq!(service.published("web").await, ["a"], "the last turn is in force");
    let (minted, failed) = load.end();
    assert!(failed == 0 && minted > 0, "{minted} minted, {failed} failed");
    let reloads = service.metric("tokenmint_config_reloads_total").await;
    println!("1000 turns, {looks} looks, {reloads}, {minted} mints meanwhile, 0 failed");
}

/// SIGHUP is handled from the start on, before any key is read.
#[tokio::test]
async fn a_thousand_sighups_a_second_never_kill_and_cost_no_token() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(service.pid()).expect("small")).expect("a pid");
    let begin = Instant::now();
    let sending = Arc::new(AtomicBool::new(true));
    let still = sending.clone();
    let sender = std::thread::spawn(move || {
        let (begin, mut sent) = (Instant::now(), 0);
        while still.load(Ordering::Acquire) || sent < 3_000 {
            // A thousand a second, even if this thread had to wait for a processor.
            while sent < begin.elapsed().as_millis() {
                rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("alive");
                sent += 1;
            }
            // The rate of a thousand signals a second is what is tested.
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    });
    let mut minted = 0;
    while begin.elapsed() < Duration::from_secs(3) {
        let subject = json!({"sub": format!("user-{minted}")});
        service.post("/identity-token", &subject).await.ok();
        minted += 1;
    }
    sending.store(false, Ordering::Release);
    let sent = sender.join().expect("it ends");
    let metrics = service.metrics().await;
    let reloads = metrics.lines().find_map(|line| line.strip_prefix("tokenmint_config_reloads_total "));
    let reloads: u128 = reloads.and_then(|count| count.parse().ok()).expect("a count");
    assert!(sent >= 3_000, "{sent} signals");
    // Reloads are at least 200 ms apart.
    let most = begin.elapsed().as_millis() / 200 + 2;
    assert!((1..=most).contains(&reloads), "{reloads} reloads for {sent} signals, and not {most}");
    println!("{sent} signals, {reloads} reloads, {minted} mints meanwhile, 0 failed");
    let (status, _) = service.terminate().await;
    assert!(status.success());
}

/// A SIGHUP that arrives while the service still reads its keys causes a reload.
#[tokio::test]
async fn a_sighup_during_the_start_is_not_lost() {
    let workspace = Workspace::new();
    let mut child =
        workspace.command(&["serve"]).stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    let status = format!("/proc/{}/status", child.id());
    let handled = || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 == 1)
    };
    while !handled() {
        std::thread::yield_now();
    }
    signal(child.id(), "HUP");
    let mut log = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("\"reloaded\"") {
        line.clear();
        let read = std::io::BufRead::read_line(&mut log, &mut line).expect("the log");
        assert_ne!(read, 0, "it ended");
    }
    child.kill().expect("alive");
    child.wait().expect("ended");
}

/// A service whose `WebAppKey1` signs until the second key's `sign_from`, and its workspace.
async fn with_two_keys(second_from: UnixTime) -> (Workspace, Running) {
    let workspace = Workspace::new();
    workspace.write_key("keys/web/WebAppKey2.key", &KEYS.web512);
    workspace.write_key("keys/web512/Web512.key", &KEYS.crm);
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.crm);
    workspace.write(
        "keys/web/keyset.toml",
        &format!(
            "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
             [[key]]\nkid = \"WebAppKey2\"\nsign_from = {second_from}\n"
        ),
    );
    let service = workspace.serve().await;
    service.post("/identity-token", &user_1()).await.ok();
    (workspace, service)
}

/// How often a prime of `WebAppKey1` occurs in the memory of the service, in the form of the library or of the
/// file.
pub fn prime_in_memory(service: &Running) -> usize {
    use rsa::pkcs8::DecodePrivateKey as _;
    use rsa::traits::PrivateKeyParts as _;
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(&KEYS.web).expect("a key");
    let little_endian = key.primes()[0].to_bytes_le();
    let big_endian: Vec<u8> = little_endian.iter().rev().copied().collect();
    in_memory(service.pid(), &little_endian) + in_memory(service.pid(), &big_endian)
}

#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn a_retired_key_leaves_memory() {
    let (workspace, service) = with_two_keys(UnixTime::from_seconds(4_000_000_000)).await;
    assert!(prime_in_memory(&service) > 0, "the scanner finds a key that is in use");
    workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
    service.logged("was removed while its tokens may still be valid").await;
    eventually("the key is gone from memory", async || {
        service.post("/identity-token", &another_user()).await.ok();
        prime_in_memory(&service) == 0
    })
    .await;
}

/// No file changes, and there is no signal.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn an_expired_key_leaves_memory_without_a_reload() {
    // The second key took over two hours ago, less three seconds: an hour of token lifetime and an hour of margin.
    let gone_in_three_seconds = SystemClock::default().now().seconds() - 7_200 + 3;
    let (_workspace, service) = with_two_keys(UnixTime::from_seconds(gone_in_three_seconds)).await;
    assert!(prime_in_memory(&service) > 0, "published still");
    eventually("the key is gone from memory", async || prime_in_memory(&service) == 0).await;
    let line = service.logged("whose publication has ended").await;
    assert!(line.contains("\"keys_gone\":\"WebAppKey1\""), "{line}");
}

/// How often `needle` occurs in the memory of a process.
pub fn in_memory(pid: u32, needle: &[u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process of ours");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("a process of ours");
    let mut hits = 0;
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[vvar")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let (start, end) = range.expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; usize::try_from(end - start).expect("small")];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            let finder = memchr::memmem::Finder::new(needle);
            hits += finder.find_iter(&bytes).count();
        }
    }
    hits
}

/// Names that a configuration no longer has leave nothing in the metrics, or series would accumulate over reloads.
#[tokio::test]
async fn no_series_of_a_removed_caller_profile_or_keyset_remains() {
    const SECTIONS: &str = r#"
[keysets.bygone]
directory = "keys/web512"
[identity.bygone]
keyset = "bygone"
issuer = "acme"
[identity.bygone.messaging]
scrt_url = "http://127.0.0.1:9"
org_id = "00D000000000001"
es_developer_name = "Web_Channel"
[bundles.bygone]
token = "identity.bygone"
[callers.bygone]
api_key_sha256 = ["HASH"]
allow = ["identity.bygone", "bundles.bygone"]
policy = "audit"
subjects_per_minute = 2
"#;
    let workspace = Workspace::bare();
    let web512 = "[keysets.web512]\ndirectory = \"keys/web512\"\n";
    let of_web512 = configuration();
    let (begin, end) =
        (of_web512.find("[identity.web512]").expect("there"), of_web512.find("[oauth.crm]").expect("there"));
    let kept = (of_web512[..begin].to_owned() + &of_web512[end..]).replace(web512, "").replacen(
        "[server]\n",
        "[server]\nlimits.remint_burst = 2\nlimits.remints_per_minute = 1\n",
        1,
    );
    workspace.configure(&(kept.clone() + &SECTIONS.replace("HASH", &sha256_hex("bygone"))));
    let service = InProcess::of(Arc::new(workspace), clock()).await;
    let ask = |profile: &str, sub: &str| {
        service.post("/identity-token", "bygone", &json!({"profile": profile, "sub": sub}))
    };
    for _ in 0..3 {
        ask("bygone", "user-1").await;
        ask("web", "user-1").await;
        service.post("/bundle", "bygone", &json!({"bundle": "bygone", "sub": "user-1"})).await;
    }
    for user in ["user-2", "user-3", "user-4"] {
        ask("bygone", user).await;
    }
    service.post("/messaging-access-token", "bygone", &json!({"sub": "user-5"})).await;
    service.get("/keysets/bygone/jwks.json").await;
    let series = async || {
        let text = service.get("/metrics").await.text;
        text.lines()
            .filter(|line| line.contains("bygone") || line.contains("Web512"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = series().await.join("\n");
    for family in [
        "tokens_minted_total{",
        "remints_refused_total{",
        "profile=\"bundles.bygone\"",
        "subjects_refused_total{",
        "would_refuse_total{",
        "jwks_fetches_total{",
        "key_fetched_timestamp_seconds{",
        "live_tokens{",
        "exchanges_not_sent_total{",
        "token_cache_requests_total{",
    ] {
        assert!(before.contains(family), "{family} in {before}");
    }
    service.workspace.configure(&kept);
    service.reload();
    assert_eq!(series().await, Vec::<String>::new());
}
