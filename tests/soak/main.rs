//! Soak test of reloads in a process of its own: memory, file descriptors and threads don't grow.
//!
//! `make soak` runs `RELOADS=10000 cargo test --release --test soak`. CI runs a few hundred reloads.

#![allow(clippy::print_stdout, reason = "says what was measured")]

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tokenmint::app::reload::ConfigSource;
use tokenmint::app::{App, ClockAndRng, LoadedConfig};
use tokenmint::clock::SystemRandomness;
use tokenmint::config::Environment;

/// Memory that the allocator may keep beyond the allocations.
const SLACK_KIB: u64 = 2 << 10;

fn write(path: &Path, mode: u32, content: &str) {
    fs::create_dir_all(path.parent().expect("inside a folder")).expect("a folder");
    let _ = fs::remove_file(path);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).expect("a new file");
    std::io::Write::write_all(&mut file, content.as_bytes()).expect("written");
}

/// Anonymous resident memory in KiB, open descriptors, and threads.
fn usage() -> (u64, usize, usize) {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    let count = |folder: &str| fs::read_dir(folder).expect("Linux").count();
    (kib.expect("a number"), count("/proc/self/fd"), count("/proc/self/task"))
}

#[test]
fn ten_thousand_reloads_leave_nothing_behind() {
    let installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    installed.expect("nobody was here before");
    let reloads: usize =
        std::env::var_os("RELOADS").and_then(|count| count.to_str()?.parse().ok()).unwrap_or(400);
    let randomness = SystemRandomness::default();
    let keys: Vec<String> = (0..4)
        .map(|_| {
            tokenmint::keys::generate_private_key(2048, &randomness)
                .expect("a key")
                .expose_secret()
                .to_owned()
        })
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    // Each round has another set of keys, callers and profiles. Names recur.
    let turn = |round: usize| {
        for at in 0..2 {
            let kid = (round + at) % keys.len();
            write(&file(&format!("keys/web/Key{kid}.key")), 0o600, &keys[kid]);
        }
        let entry = |kid: usize, from: &str| {
            format!("[[key]]\nkid = \"Key{}\"\nsign_from = {from}\nemergency = true\n", kid % keys.len())
        };
        let schedule = entry(round, "2026-01-01T00:00:00Z") + &entry(round + 1, "2099-01-01T00:00:00Z");
        write(&file("keys/web/keyset.toml"), 0o644, &schedule);
        let caller = |n: usize| {
            format!("[callers.c{n}]\napi_key_sha256 = [\"{n:064x}\"]\nallow = [\"identity.p{round}\"]\n")
        };
        let callers = (round * 5..round * 5 + 5).map(caller).collect::<String>();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nstate_directory = \"state\"\n[keysets.web]\ndirectory = \"keys/web\"\n\
             [identity.p{round}]\nkeyset = \"web\"\nissuer = \"i\"\n{callers}"
        );
        write(&file("tokenmint.toml"), 0o644, &text);
        let _ = fs::remove_file(file(&format!("keys/web/Key{}.key", (round + 3) % keys.len())));
    };
    turn(0);
    let source = ConfigSource { file: Some(file("tokenmint.toml")), environment: Environment::new() };
    let clock_and_rng = ClockAndRng::system();
    let Ok(config) = source.load() else { unreachable!("the configuration is good") };
    let Ok(loaded) = LoadedConfig::new(config, &*clock_and_rng.clock) else {
        unreachable!("and so are its keys")
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let app = runtime.block_on(App::bind(loaded, clock_and_rng, || 0)).expect("bound");
    let service = Arc::clone(app.state());
    let mut reloader = app.reloader(source);
    // Allocations that are made once and kept don't count.
    let warm = (reloads / 4).max(100);
    (1..=warm).for_each(|round| {
        turn(round);
        reloader.reload();
    });
    let before = usage();
    for round in warm + 1..=warm + reloads {
        turn(round);
        reloader.reload();
    }
    let after = usage();
    let series = service.metrics.render().split(|byte| *byte == b'\n').count();
    println!(
        "{reloads} reloads: {} KiB more of {} KiB, descriptors {} -> {}, threads {} -> {}, {series} lines of metrics",
        after.0.saturating_sub(before.0),
        before.0,
        before.1,
        after.1,
        before.2,
        after.2
    );
    assert_eq!(service.metrics.config_reloads.get(), (warm + reloads) as u64, "each was taken over");
    assert!(after.0 <= before.0 + SLACK_KIB, "memory grew");
    assert_eq!((after.1, after.2), (before.1, before.2), "descriptors and threads");
    assert!(series < 500, "series of what is gone stay behind: {series}");
}
