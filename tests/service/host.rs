//! Hardening of the process: no copy of a key as text or DER in memory, no core dump, no child process.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::traits::PrivateKeyParts as _;

use crate::fake_vault::FakeVault;
use crate::reload::in_memory;
use crate::sealed_keys::unsealed_workspace;
use crate::support::{KEYS, Workspace, configuration, eventually, eventually_blocking, signal, user_1};
use crate::tls::{certificates, client};

/// Parts of a key in the form of its file, and of its numbers in DER.
fn traces(pem: &str) -> Vec<(&'static str, Vec<u8>)> {
    let key = rsa::RsaPrivateKey::from_pkcs8_pem(pem).expect("a key");
    let der = key.to_pkcs1_der().expect("DER").as_bytes().to_vec();
    let line = |number: usize| pem.lines().nth(number).expect("a line").as_bytes().to_vec();
    vec![
        ("PEM", line(12)),
        ("PEM", line(20)),
        ("DER", der[der.len() - 200..der.len() - 136].to_vec()),
        ("d", key.d().to_bytes_be()[64..128].to_vec()),
        ("p", key.primes()[0].to_bytes_be()[..64].to_vec()),
        ("q", key.primes()[1].to_bytes_be()[64..].to_vec()),
    ]
}

/// The store sends the key as base64 of PEM in JSON. That passes the buffers of an HTTP client.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn no_copy_of_a_sealed_key_is_left_in_memory() {
    use base64::Engine as _;
    let vault = FakeVault::start();
    let workspace = unsealed_workspace(&vault.address);
    workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]).ok();
    let service = workspace.serve().await;
    let hits = |trace: &[u8]| in_memory(service.pid(), trace);
    let sent = base64::engine::general_purpose::STANDARD.encode(&KEYS.web);
    let mut traces = traces(&KEYS.web);
    let prime: Vec<u8> = traces[4].1.iter().rev().copied().collect();
    for start in (64..sent.len() - 64).step_by(128) {
        traces.push(("base64 of PEM", sent.as_bytes()[start..start + 64].to_vec()));
    }
    let look = |when: &str| {
        let found = traces.iter().map(|(what, trace)| (*what, hits(trace))).filter(|(_, hits)| *hits > 0);
        let found: Vec<_> = found.collect();
        assert!(found.is_empty(), "{when}: {found:?}");
        assert!((1..=2).contains(&hits(&prime)), "{when}: the scanner finds the key itself");
    };
    look("after the start");
    service.post("/identity-token", &user_1()).await.ok();
    // The file has another data key, so the service opens it again.
    let asked = vault.asked("decrypt");
    workspace.run(&["keys", "reseal", "--keyset", "web"]).ok();
    workspace.run(&["check", "--running"]).ok();
    // The command asks twice itself.
    assert!(vault.asked("decrypt") > asked + 2, "the service has opened it again");
    look("after a reload");
}

/// A signing key is in memory only in the library's own form, at most twice.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn no_copy_of_a_key_is_left_in_memory_as_text_or_der() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    let tls = "listen = \"127.0.0.1:0\"\n[server.tls]\ncertificate_file = \"server.crt\"\nprivate_key_file = \"server.key\"\n";
    workspace.configure(&configuration().replace("listen = \"127.0.0.1:0\"\n", tls));
    let service = workspace.serve().await;
    let url = format!("https://{}/identity-token", service.address("minting"));
    let client = client(&workspace, None);
    let mint = async || {
        let minted = client.post(&url).bearer_auth(crate::support::API_KEY).json(&user_1()).send().await;
        assert_eq!(minted.expect("TLS").status().as_u16(), 200);
    };
    let read = |name: &str| fs::read_to_string(workspace.path(name)).expect(name);
    let look = |when: &str| {
        let mut found = Vec::new();
        // A reload reads the TLS key again, and an open connection keeps the old configuration.
        for (name, pem, most) in [("signing", KEYS.web.clone(), 2), ("TLS", read("server.key"), 4)] {
            let traces = traces(&pem);
            let hits = |trace: &[u8]| in_memory(service.pid(), trace);
            found.extend(
                traces.iter().map(|(what, trace)| (name, *what, hits(trace))).filter(|(.., hits)| *hits > 0),
            );
            let prime: Vec<u8> = traces[4].1.iter().rev().copied().collect();
            let copies = hits(&prime);
            assert!(
                (1..=most).contains(&copies),
                "{when}: the scanner finds the {name} key itself, {copies} times"
            );
        }
        assert!(found.is_empty(), "{when}: {found:?}");
    };
    mint().await;
    look("after the start");
    // The service polls its files, and reads them again on SIGHUP.
    signal(service.pid(), "HUP");
    service.logged("reloaded").await;
    let metrics = format!("https://{}/metrics", service.address("minting"));
    let looked = async || {
        let metrics = client.get(&metrics).send().await.expect("TLS").text().await.expect("text");
        let name = "tokenmint_config_last_look_timestamp_seconds ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|time| time.parse::<f64>().ok()).expect("a time")
    };
    let reloaded = looked().await;
    eventually("the service looks at its files again", async || looked().await > reloaded).await;
    mint().await;
    look("after a reload");
}

/// A reload reads all secrets again. One copy of each is in use after it, and none of the old values.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn a_reload_leaves_no_copy_of_a_secret_in_memory() {
    let workspace = Workspace::new();
    let secrets = |fin: &str| {
        [
            ("intercom.secret", format!("{fin}-messenger-secret-0123456789")),
            ("audit.secret", "audit-secret-that-is-read-at-each-reload".to_owned()),
            ("redis.secret", "redis-password-that-is-read-at-each-reload".to_owned()),
            ("redis.key", "0123456789abcdef".repeat(4)),
        ]
    };
    let write = |fin: &str| {
        for (name, secret) in secrets(fin) {
            // The secret is long and searched for by its end: an allocator overwrites the beginning of freed
            // memory.
            let before = if name == "redis.key" { String::new() } else { "=".repeat(150) };
            workspace.write(name, &format!("{before}{secret}\n"));
        }
    };
    write("first");
    workspace.configure(&format!(
        "{}[cache.redis]\nurl = \"redis://127.0.0.1:1/\"\npassword_file = \"redis.secret\"\n\
         key_file = \"redis.key\"\n",
        configuration().replace("[server]\n", "[server]\naudit_key_file = \"audit.secret\"\n")
    ));
    let service = workspace.serve().await;
    let copies =
        |fin: &str| secrets(fin).map(|(name, secret)| (name, in_memory(service.pid(), secret.as_bytes())));
    // The Redis client holds the password once more. The encryption key for Redis isn't kept as text.
    let in_use = [("intercom.secret", 1), ("audit.secret", 1), ("redis.secret", 2), ("redis.key", 0)];
    assert_eq!(copies("first"), in_use, "after the start");
    for (reloads, (before, fin)) in
        [("first", "second"), ("second", "third"), ("third", "fourth")].into_iter().enumerate()
    {
        write(fin);
        signal(service.pid(), "HUP");
        eventually("reloaded", async || service.log().matches("reloaded").count() > reloads).await;
        eventually("no more is in memory than after the start", async || copies(fin) == in_use).await;
        eventually("the secret before is gone", async || copies(before)[0].1 == 0).await;
    }
}

/// Starts the service as another user, with its standard output in `log`, and waits for "started".
fn start_as(uid: u32, workspace: &Workspace, wrap: &[&str]) -> (Child, u32) {
    let binary = workspace.path("tokenmint");
    fs::copy(env!("CARGO_BIN_EXE_tokenmint"), &binary).expect("copied");
    let folder = workspace.path("");
    let owned = Command::new("chown").arg("-R").arg(format!("{uid}:{uid}")).arg(&folder).status();
    assert!(owned.expect("chown runs").success());
    let log = fs::File::create(folder.join("log")).expect("a file");
    let words: Vec<&str> = wrap.iter().copied().chain([binary.to_str().expect("text"), "serve"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(&folder).uid(uid).gid(uid).stdin(Stdio::null()).stdout(log);
    let child = command.stderr(Stdio::null()).spawn().expect("it runs");
    eventually_blocking("the service has started", || {
        fs::read_to_string(folder.join("log")).expect("the log").contains("\"started\"")
    });
    let pid = child.id();
    (child, pid)
}

fn as_user(uid: u32, script: &str) -> String {
    let ran = Command::new("bash").args(["-c", script]).uid(uid).gid(uid).current_dir("/").output();
    String::from_utf8_lossy(&ran.expect("bash runs").stdout).into_owned()
}

/// Another process of the service's user tries to read its memory, environment and descriptors, and to attach like a
/// debugger.
#[test]
#[ignore = "needs root and strace: make system"]
fn no_process_of_its_user_reads_its_memory_and_it_leaves_no_core_dump() {
    const USER: u32 = 21_001;
    let workspace = Workspace::new();
    let (mut child, pid) = start_as(USER, &workspace, &[]);
    let tried = as_user(
        USER,
        &format!("cat /proc/{pid}/environ /proc/{pid}/maps; head -c1 /proc/{pid}/mem; ls /proc/{pid}/fd"),
    );
    assert_eq!(tried, "", "another process of the same user");
    // strace attaches like a debugger.
    let attached = as_user(USER, &format!("timeout 3 strace -qq -o /dev/null -p {pid} 2>&1"));
    assert!(attached.contains("Operation not permitted"), "{attached}");
    let own = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(own.contains("Umask:\t0077"), "{own}");
    let log = fs::read_to_string(workspace.path("log")).expect("the log");
    assert!(!log.contains("runs as root"), "{log}");
    // The service itself can still count its descriptors.
    let address = log
        .lines()
        .find_map(|line| line.split("\"address\":\"").nth(1)?.split('"').next())
        .expect("an address");
    let metrics = as_user(USER, &format!("curl -s http://{address}/metrics"));
    assert!(metrics.contains("process_open_fds"), "{metrics}");
    signal(pid, "ABRT");
    let ended = child.wait().expect("it ends");
    assert!(ended.signal() == Some(6) && !ended.core_dumped(), "{ended}");
    let files =
        fs::read_dir(workspace.path("")).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    assert!(files.into_iter().all(|name| !name.to_string_lossy().contains("core")));
}

#[tokio::test]
#[ignore = "needs root and strace: make system"]
async fn running_as_root_is_warned_of() {
    let service = Workspace::new().serve().await;
    service.logged("runs as root").await;
}

/// The service runs under strace: first normally, then on a kernel that refuses the protection.
#[test]
#[ignore = "needs root and strace: make system"]
fn no_program_is_started_and_no_key_is_read_where_memory_cannot_be_protected() {
    let workspace = Workspace::new();
    let trace = workspace.path("trace");
    let trace = trace.to_str().expect("text");
    let wrap = ["strace", "-f", "-qq", "-e", "trace=execve,execveat,fork,vfork", "-o", trace];
    let (mut child, _) = start_as(0, &workspace, &wrap);
    let log = fs::read_to_string(workspace.path("log")).expect("the log");
    let address = log
        .lines()
        .find_map(|line| line.split("\"address\":\"").nth(1)?.split('"').next())
        .expect("an address");
    let key = crate::support::API_KEY;
    let minted = as_user(
        0,
        &format!(
            "curl -s -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{{\"sub\":\"a\"}}' http://{address}/identity-token"
        ),
    );
    assert!(minted.contains("\"token\""), "{minted}");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("children");
    let traced: u32 = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a pid");
    signal(traced, "HUP");
    eventually_blocking("the service has reloaded", || {
        fs::read_to_string(workspace.path("log")).expect("the log").contains("\"reloaded\"")
    });
    signal(traced, "TERM");
    child.wait().expect("it ends");
    let calls = fs::read_to_string(Path::new(trace)).expect("the trace");
    let programs: Vec<&str> =
        calls.lines().filter(|line| line.contains("exec") || line.contains("fork")).collect();
    assert_eq!(programs.len(), 1, "only its own start: {programs:?}");

    let refused = Command::new("strace")
        .args(["-qq", "-o", trace, "-e", "trace=prctl,openat", "-e", "inject=prctl:error=EPERM:when=1+"])
        .args([env!("CARGO_BIN_EXE_tokenmint"), "serve"])
        .current_dir(workspace.path(""))
        .output()
        .expect("strace runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("can't close its memory to other processes"), "{said}");
    assert!(
        !fs::read_to_string(Path::new(trace)).expect("the trace").contains("WebAppKey1"),
        "no key was opened"
    );
}

/// Signatures that take long run on threads of lower priority, so they delay no answer. The duration that the
/// service measures for the key decides.
#[tokio::test]
async fn long_signatures_run_on_threads_of_lower_priority() {
    const SIGNATURES: u64 = 60;
    let made = Command::new("openssl").args(["genrsa", "4096"]).output().expect("openssl runs");
    let workspace = Workspace::new();
    workspace.write_key("keys/web/WebAppKey1.key", &String::from_utf8(made.stdout).expect("PEM"));
    let service = workspace.serve().await;
    // Name, nice value, and time on a processor in nanoseconds. The ticks of `stat` are too coarse: the kernel counts them
    // by sampling, so some milliseconds may count as nothing.
    let threads = || -> Vec<(String, i32, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", service.pid())).expect("the process");
        let read = |task: std::io::Result<fs::DirEntry>| -> Option<(String, i32, u64)> {
            let task = task.ok()?.path();
            let stat = fs::read_to_string(task.join("stat")).ok()?;
            let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
            let (name, rest) = stat.split_once('(').expect("a name").1.rsplit_once(')').expect("its end");
            // Field 19 of proc_pid_stat(5); the first behind the name is 3.
            let nice = rest.split_whitespace().nth(16).expect("field 19").parse().expect("nice");
            let time = schedstat.split_whitespace().next().expect("a field").parse().expect("nanoseconds");
            Some((name.to_owned(), nice, time))
        };
        tasks.filter_map(read).collect()
    };
    let long = |threads: &[(String, i32, u64)]| -> Vec<(i32, u64)> {
        let named = threads.iter().filter(|(name, ..)| name.starts_with("long-signature"));
        named.map(|(_, nice, time)| (*nice, *time)).collect()
    };
    let before = threads();
    assert!(long(&before).is_empty(), "none before the first");
    let set = service.jwks("/keysets/web/jwks.json").await;
    for _ in 0..SIGNATURES {
        let body = service.post("/identity-token", &user_1()).await.ok();
        crate::support::verified(body["token"].as_str().expect("a token"), &set);
    }
    let all = threads();
    let pool = long(&all);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(pool.len(), cores, "{all:?}");
    let own = all.iter().find(|(name, ..)| name == "log").expect("it writes a log").1;
    assert!(pool.iter().all(|(nice, _)| *nice == own + 2), "{all:?}");
    let signing: u64 = pool.iter().map(|(_, time)| time).sum();
    // Each took more than a millisecond when the key was loaded, or it would not be a long one. An interrupted measurement may
    // have made it longer, so half of that is required.
    assert!(signing > SIGNATURES * 500_000, "the signatures were made elsewhere: {all:?}");
}
