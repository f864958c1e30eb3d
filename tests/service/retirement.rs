//! Retiring keys. A retired key is no longer used, whatever the state of the other files, and the commands report
//! what the service did.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, ManualClock, SystemClock, UnixTime};

use crate::in_process::InProcess;
use crate::support::{
    API_KEY, Answer, KEYS, Ran, Running, Workspace, another_user, configuration, eventually,
    eventually_within, timed, user_1,
};

/// 2026-12-01T00:00:00Z.
const NOW: i64 = 1_796_083_200;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// How soon the service applies a change of its files.
pub const PROMISED: Duration = Duration::from_secs(5);

const fn at(seconds: i64) -> UnixTime {
    UnixTime::from_seconds(seconds)
}

fn now() -> i64 {
    SystemClock::default().now().seconds()
}

/// Makes the service listen on a Unix socket too, so that commands find it without its port.
fn asked_over_a_socket(text: &str) -> String {
    text.replace("[keysets.web]\n", "[server.ops]\nlisten = \"unix:ops.sock\"\n[keysets.web]\n")
}

/// Writes `keyset.toml` of web: each key with its `sign_from` and more lines.
fn schedule(workspace: &Workspace, entries: &[(&str, i64, &str)]) {
    let entries = entries
        .iter()
        .map(|(kid, from, more)| format!("[[key]]\nkid = \"{kid}\"\nsign_from = {}\n{more}\n", at(*from)));
    workspace.write("keys/web/keyset.toml", &entries.collect::<String>());
}

/// Writes keys 1, 2 and 3 of web, each with different key material.
fn three_keys(workspace: &Workspace) {
    for (kid, pem) in
        [("WebAppKey1", &KEYS.web), ("WebAppKey2", &KEYS.spare[0]), ("WebAppKey3", &KEYS.spare[1])]
    {
        workspace.write_key(&format!("keys/web/{kid}.key"), pem);
    }
}

/// A workspace in which key 1 no longer signs, key 2 signs and key 3 is pending, and its service.
async fn serving() -> (Workspace, Running) {
    let workspace = Workspace::bare();
    workspace.configure(&asked_over_a_socket(&configuration()));
    three_keys(&workspace);
    let recent = now() - 60;
    schedule(
        &workspace,
        &[("WebAppKey1", 0, ""), ("WebAppKey2", recent, ""), ("WebAppKey3", now() + 2 * DAY, "")],
    );
    let service = workspace.serve().await;
    assert_eq!(kid(&service).await, "WebAppKey2");
    (workspace, service)
}

async fn kid(service: &Running) -> String {
    let minted = service.post("/identity-token", &user_1()).await.ok();
    minted["kid"].as_str().expect("a kid").to_owned()
}

async fn is_published(service: &Running, kid: &str) -> bool {
    service.jwks("/keysets/web/jwks.json").await.find(kid).is_some()
}

fn retire(workspace: &Workspace, kid: &str) -> Ran {
    workspace.run(&["keys", "retire", kid, "--now"])
}

async fn state(service: &InProcess) -> (Option<String>, Vec<String>) {
    let minted = service.post("/identity-token", API_KEY, &user_1()).await.json();
    (minted["kid"].as_str().map(str::to_owned), service.published("web").await)
}

fn said(signing: Option<&str>, published: &[&str]) -> (Option<String>, Vec<String>) {
    (signing.map(str::to_owned), published.iter().map(|kid| (*kid).to_owned()).collect())
}

/// For each state of the key: when the command ends with 0, the service neither signs with the key nor publishes
/// it.
#[tokio::test]
async fn a_retired_key_is_gone_in_every_state_and_after_a_restart() {
    let _timed = timed();
    for (leaked, signs_then) in
        [("WebAppKey1", "WebAppKey2"), ("WebAppKey2", "WebAppKey1"), ("WebAppKey3", "WebAppKey2")]
    {
        let (workspace, service) = serving().await;
        let begin = Instant::now();
        let said = retire(&workspace, leaked).ok();
        assert!(begin.elapsed() < PROMISED, "{leaked}: {:?}", begin.elapsed());
        assert!(said.contains("has dropped it"), "{said}");
        assert!(!is_published(&service, leaked).await, "{leaked}");
        assert_eq!(kid(&service).await, signs_then, "after {leaked}");
        drop(service);
        let restarted = workspace.serve().await;
        assert!(!is_published(&restarted, leaked).await, "{leaked}");
        assert_eq!(kid(&restarted).await, signs_then, "{leaked}, after a restart");
    }
}

/// Each row is a change of the files that makes the service refuse reloads.
#[tokio::test]
async fn no_refused_reload_keeps_a_retired_key() {
    type Break = fn(&Workspace, &str);
    let _timed = timed();
    let breaks: [(&str, Break); 7] = [
        ("a limit that waits for a restart", |workspace, text| {
            workspace.configure(&format!("{text}[server.limits]\nconnections = 7\n"));
        }),
        ("a cache that waits for a restart", |workspace, text| {
            let key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
            workspace
                .configure(&format!("{text}[cache.redis]\nurl = \"redis://127.0.0.1:1\"\nkey = \"{key}\"\n"));
        }),
        ("an unknown key", |workspace, text| workspace.configure(&format!("{text}[nobody]\nknows = 1\n"))),
        ("no TOML", |workspace, text| workspace.configure(&format!("{text}[[[\n"))),
        ("a new key that would sign at once", |workspace, _| {
            let path = workspace.path("keys/web/keyset.toml");
            let text = fs::read_to_string(&path).expect("a schedule");
            workspace.write_key("keys/web/New.key", &KEYS.web);
            fs::write(path, format!("{text}[[key]]\nkid = \"New\"\nsign_from = {}\n", at(now() - 30)))
                .expect("written");
        }),
        ("a key that others can read", |workspace, _| {
            let path = workspace.path("keys/crm/CrmKey1.key");
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("changed");
        }),
        ("a mistake in the same keyset.toml", |workspace, _| {
            let path = workspace.path("keys/web/keyset.toml");
            let text = fs::read_to_string(&path).expect("a schedule");
            fs::write(path, format!("{text}[[key]]\nkid = \"Nobody\"\n")).expect("written");
        }),
    ];
    for (what, break_it) in breaks {
        let (workspace, service) = serving().await;
        break_it(&workspace, &asked_over_a_socket(&configuration()));
        let directory = workspace.path("keys/web").display().to_string();
        let begin = Instant::now();
        // The directory is given, for configurations that can't be read at all.
        let ran = workspace.run(&["keys", "retire", "WebAppKey2", "--now", "--directory", &directory]);
        // The command waits as long again for what the service refuses.
        assert!(begin.elapsed() < 2 * PROMISED, "{what}: {:?}", begin.elapsed());
        assert!(ran.stdout.contains("has dropped it"), "{what}: {}{}", ran.stdout, ran.stderr);
        assert!(!is_published(&service, "WebAppKey2").await, "{what}");
        assert_ne!(service.post("/identity-token", &user_1()).await.json()["kid"], "WebAppKey2", "{what}");
    }
}

/// An error elsewhere in the configuration doesn't stop the command.
#[tokio::test]
async fn retire_needs_only_the_key_s_directory_of_the_configuration() {
    let (workspace, service) = serving().await;
    workspace.configure(&format!(
        "{}[oauth.broken]\nkeyset = \"nobody\"\n",
        asked_over_a_socket(&configuration())
    ));
    retire(&workspace, "WebAppKey2").ok();
    assert!(!is_published(&service, "WebAppKey2").await);
    workspace.configure("[[[\n");
    let unread = retire(&workspace, "WebAppKey1");
    assert_eq!(unread.code(), 1);
    assert!(unread.stderr.contains("--directory"), "{}", unread.stderr);
}

/// The configuration can't be read, so the command gets the directory alone. It asks the service which key signs.
#[tokio::test]
async fn a_retirement_by_directory_asks_the_service_what_signs() {
    let workspace = Workspace::bare();
    workspace.configure(&asked_over_a_socket(&configuration()));
    let service = workspace.serve().await;
    // The service's address can still be read. The new key is refused with the whole configuration.
    workspace.configure(&format!("{}[[[\n", asked_over_a_socket(&configuration())));
    let ran = workspace.run(&["keys", "retire", "WebAppKey1", "--now", "--directory", "keys/web"]);
    assert_eq!(ran.code(), 1, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("has dropped `WebAppKey1`, but `WebAppKey2` doesn't sign"), "{}", ran.stderr);
    assert!(!is_published(&service, "WebAppKey1").await);
}

/// A leaked key is leaked under each of its ids, so all copies are retired with it.
#[tokio::test]
async fn copies_of_a_retired_key_are_retired_too() {
    let (workspace, service) = serving().await;
    workspace.write_key("keys/web/Copy.key", &KEYS.spare[0]);
    let added = format!("added = {}", at(now() - DAY - HOUR));
    let recent = now() - 60;
    schedule(
        &workspace,
        &[("WebAppKey1", 0, ""), ("WebAppKey2", recent, ""), ("Copy", now() + 2 * DAY, &added)],
    );
    workspace.run(&["check", "--running"]).ok();
    assert!(is_published(&service, "Copy").await);
    retire(&workspace, "WebAppKey2").ok();
    eventually("the copy is gone", async || !is_published(&service, "Copy").await).await;
    assert_eq!(kid(&service).await, "WebAppKey1");
}

/// Copies are retired in other keysets too, and without a running service. A start keeps what the files say is retired.
#[tokio::test]
async fn a_retirement_retires_every_copy_in_a_directory_and_names_the_others() {
    let workspace = Workspace::bare();
    let third = "[keysets.third]\nkid = \"Third\"\nkey_file = \"keys/third.key\"\n";
    workspace.configure(&asked_over_a_socket(&format!("{}{third}", configuration())));
    // The copies are in the key's own directory, in another keyset's, and in a single file.
    for copy in ["keys/web/WebAppKey2.key", "keys/crm/Copy.key", "keys/third.key"] {
        workspace.write_key(copy, &KEYS.web);
    }
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() + 2 * DAY, "")]);
    fs::remove_file(workspace.path("keys/crm/CrmKey1.key")).expect("there");
    assert_eq!(workspace.run(&["check"]).code(), 0, "a key may have several names");

    let ran = retire(&workspace, "WebAppKey1");
    assert_eq!(ran.code(), 1, "{}", ran.stdout);
    for said in ["WebAppKey2 in ", "Copy in ", "WebAppKey3 was created and signs"] {
        assert!(ran.stdout.contains(said), "{said}: {}", ran.stdout);
    }
    assert_eq!(ran.stdout.matches("was created and signs").count(), 2, "one in each folder: {}", ran.stdout);
    assert!(ran.stderr.contains("`Third` of keysets.third is the same key"), "{}", ran.stderr);

    let check = workspace.run(&["check"]);
    assert_eq!(check.code(), 64);
    assert!(check.stderr.contains("`Third` is the key that is retired as `"), "{}", check.stderr);
    workspace.configure(&asked_over_a_socket(&configuration()));
    let service = workspace.serve().await;
    for kid in ["WebAppKey1", "WebAppKey2", "Copy", "Third"] {
        assert!(service.jwks("/.well-known/jwks.json").await.find(kid).is_none(), "{kid}");
    }
    let again = retire(&workspace, "WebAppKey1");
    assert_eq!(again.code(), 0, "{}", again.stderr);

    // Two paths of one directory count once.
    let twice = configuration().replace("\"keys/web512\"", "\"keys/../keys/web\"");
    workspace.configure(&asked_over_a_socket(&twice));
    let said = retire(&workspace, "WebAppKey3").stdout;
    assert_eq!(said.matches("was created and signs").count(), 1, "{said}");
    workspace.configure(&asked_over_a_socket(&configuration()));

    // The next day the key comes back under a new name.
    workspace.write_key("keys/web/Back.key", &KEYS.web);
    let listed = fs::read_to_string(workspace.path("keys/web/keyset.toml")).expect("there");
    let back = format!("[[key]]\nkid = \"Back\"\nsign_from = {}\n", at(now() + 2 * DAY));
    workspace.write("keys/web/keyset.toml", &(listed + &back));
    let refused = workspace.run(&["check", "--running"]);
    assert_eq!(refused.code(), 64, "{}", refused.stderr);
    service.logged("is the key that is retired as").await;
}

/// A refused file can become valid by the time alone, without a change.
#[tokio::test]
async fn a_refused_file_is_retried_and_retire_fixes_a_retirement_date_in_the_future() {
    let (workspace, service) = serving().await;
    let entries = |retired: i64| {
        let retired = format!("retired = {}", at(retired));
        let recent = now() - 60;
        schedule(
            &workspace,
            &[("WebAppKey1", 0, ""), ("WebAppKey2", recent, &retired), ("WebAppKey3", now() + 2 * DAY, "")],
        );
    };
    // A minute of difference between two hosts' clocks is tolerated.
    entries(now() + 64);
    service.logged("its date lies ahead").await;
    eventually("the date lies ahead no more, and the service has taken the files over", async || {
        workspace.run(&["check", "--running"]).code() == 0
    })
    .await;
    assert_eq!(kid(&service).await, "WebAppKey1");

    entries(now() + DAY);
    assert_eq!(workspace.run(&["check"]).code(), 64);
    retire(&workspace, "WebAppKey2").ok();
    workspace.run(&["check", "--running"]).ok();
}

/// Other errors don't undo the retirement. The command reports them, since the next start would fail.
#[tokio::test]
async fn a_retirement_reports_other_refusals_and_needs_no_unlisted_key() {
    let (workspace, service) = serving().await;
    workspace.write("keys/web/Junk.key", "no key\n");
    workspace.run(&["check", "--running"]).ok();
    fs::remove_file(workspace.path("keys/web/WebAppKey3.key")).expect("there");
    let ran = retire(&workspace, "WebAppKey2");
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("the service rejects something else in these files"), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no WebAppKey3.key"), "{}", ran.stderr);
    assert_eq!(kid(&service).await, "WebAppKey1");
}

/// The given directory is one of the configuration, so its keyset's settings apply.
#[tokio::test]
async fn a_retirement_by_directory_applies_the_keyset_s_rules_if_they_can_be_read() {
    let workspace = Workspace::bare();
    workspace
        .configure(&configuration().replace("[keysets.web]\n", "[keysets.web]\npublish_lead = \"1h\"\n"));
    workspace.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
    let added = format!("added = {}", at(now()));
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() + 2 * HOUR, &added)]);
    let service = workspace.serve().await;
    workspace.run(&["keys", "retire", "WebAppKey1", "--now", "--directory", "keys/web"]).ok();
    assert_eq!(kid(&service).await, "WebAppKey2");
}

/// A lone key without a schedule has signed since the beginning, whatever `publish_lead` is.
#[test]
fn a_key_without_a_schedule_signs_again_after_a_retirement() {
    let workspace = Workspace::new();
    workspace
        .configure(&configuration().replace("[keysets.web]\n", "[keysets.web]\npublish_lead = \"3d\"\n"));
    workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency"]).ok();
    let said = retire(&workspace, "WebAppKey2").ok();
    assert!(said.contains("WebAppKey1 signs again"), "{said}");
    let past = ["keys", "rotate", "--keyset", "web", "--emergency", "--sign-from", "2020-01-01T00:00:00Z"];
    let ran = workspace.run(&past);
    assert!(ran.code() == 2 && ran.stderr.contains("--sign-from has passed"), "{}", ran.stderr);
}

/// Any user of the host may create such a socket and never answer.
#[tokio::test]
async fn sockets_that_do_not_answer_do_not_hide_a_service() {
    use std::os::linux::net::SocketAddrExt as _;
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let silent: Vec<_> = (0..8)
        .map(|n| {
            let name = format!("tokenmint/!{}-{n}", std::process::id());
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
            std::os::unix::net::UnixListener::bind_addr(&address).expect("free")
        })
        .collect();
    let said = retire(&workspace, "WebAppKey1").ok();
    assert!(said.contains("has dropped it"), "{said}");
    drop((silent, service));
}

/// Two leaked keys, each retired by another operator. The final files decide which key signs.
#[tokio::test]
async fn two_concurrent_retirements_both_succeed() {
    let (workspace, service) = serving().await;
    std::thread::scope(|scope| {
        let both = ["WebAppKey1", "WebAppKey2"].map(|kid| scope.spawn(|| retire(&workspace, kid)));
        for one in both {
            one.join().expect("no panic").ok();
        }
    });
    assert_eq!(kid(&service).await, "WebAppKey3");
}

/// The directory is a copy that the service doesn't read, and no configuration tells where the service listens.
#[tokio::test]
async fn a_retirement_in_other_files_names_the_service_that_uses_such_a_key() {
    let (workspace, backup) = (Workspace::new(), Workspace::new());
    for of in [&workspace, &backup] {
        fs::rename(of.path("keys/web/WebAppKey1.key"), of.path("keys/web/Leaked1.key")).expect("there");
    }
    let service = workspace.serve().await;
    fs::remove_file(backup.path("tokenmint.toml")).expect("there");
    let ran = backup.run(&["keys", "retire", "Leaked1", "--now", "--directory", "keys/web"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let named = format!(
        "the service at {} runs with other files and uses a key `Leaked1`",
        service.address("minting")
    );
    assert!(ran.stderr.contains(&named), "{}", ran.stderr);
}

/// The address in the file differs from the service's: it was edited, or a variable of the service overrides it.
#[tokio::test]
async fn a_command_finds_the_service_wherever_it_listens_now() {
    type Change = fn(&Workspace);
    let moved: Change = |workspace| {
        let text = configuration().replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"");
        workspace.configure(&text);
    };
    let broken: Change = |workspace| workspace.configure("[server]\nlisten = \"127.0.0.1:1\"\n[bogus");
    let elsewhere: Change = |workspace| {
        fs::create_dir(workspace.path("keys/new")).expect("made");
        workspace.write_key("keys/new/WebAppKey1.key", &KEYS.web);
        let text = configuration().replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"");
        workspace.configure(&text.replace("keys/web\"", "keys/new\""));
    };
    let cases = [
        ("the address was changed", moved, &[][..], "has dropped `WebAppKey1`, but"),
        ("the file is broken", broken, &["--directory", "keys/web"], "has dropped `WebAppKey1`, but"),
        ("the folder was changed too", elsewhere, &[], "still uses `WebAppKey1`"),
    ];
    for (what, change, more, said) in cases {
        let workspace = Workspace::new();
        let service = workspace.serve().await;
        change(&workspace);
        let command = ["keys", "retire", "WebAppKey1", "--now"];
        let ran = workspace.run(&[&command[..], more].concat());
        assert_eq!(ran.code(), 1, "{what}: {}", ran.stdout);
        assert!(ran.stderr.contains(said), "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains(service.address("minting")), "{what}: {}", ran.stderr);
        assert!(!ran.stdout.contains("\nWebAppKey2 "), "{what}: it doesn't sign: {}", ran.stdout);
    }
}

/// The message names the error in the file without quoting it: a line of a key may have been pasted there.
#[tokio::test]
async fn commands_report_a_broken_schedule_without_quoting_it() {
    let (workspace, service) = serving().await;
    let line = KEYS.web.lines().nth(2).expect("a line of base64");
    for broken in
        [format!("{line}\n"), format!("[[key]]\nkid = \"{line}\n"), format!("[[key]]\nsign_from={line}\n")]
    {
        workspace.write("keys/web/keyset.toml", &broken);
        for command in [
            &["keys", "rotate", "--keyset", "web"][..],
            &["keys", "rotate", "--keyset", "web", "--plan"],
            &["keys", "retire", "WebAppKey2", "--now"],
            &["keys", "retire", "WebAppKey2", "--now", "--directory", "keys/web"],
            &["keys", "list"],
            &["check"],
        ] {
            let ran = workspace.run(command);
            assert_ne!(ran.code(), 0, "{command:?}");
            assert!(ran.stderr.contains("keys/web/keyset.toml line "), "{command:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains(&line[..8]), "{command:?}: {}", ran.stderr);
        }
    }
    drop(service);
}

/// Each row makes a `keyset.toml` from the valid one. The key is gone, the next key signs, and the command says what to fix.
#[tokio::test]
async fn a_key_is_retired_whatever_is_in_its_schedule() {
    type Break = fn(&str) -> Option<Vec<u8>>;
    let breaks: [(&str, Break); 7] = [
        ("no TOML", |text| Some(format!("{text}\n]]\n").into())),
        ("a merge conflict", |text| Some(format!("<<<<<<< HEAD\n{text}=======\n>>>>>>> x\n").into())),
        ("cut in a line", |text| Some(text.as_bytes()[..text.len() - 20].to_vec())),
        ("cut in the first entry", |text| Some(text.as_bytes()[..12].to_vec())),
        ("empty", |_| Some(Vec::new())),
        ("binary", |_| Some(b"\xff\xfe\0\0".to_vec())),
        ("no file", |_| None),
    ];
    let _timed = timed();
    for (what, break_it) in breaks {
        for by_directory in [false, true] {
            let (workspace, service) = serving().await;
            let path = workspace.path("keys/web/keyset.toml");
            match break_it(&fs::read_to_string(&path).expect("a schedule")) {
                Some(bytes) => fs::write(&path, bytes).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            let directory = ["--directory", "keys/web"];
            let more = if by_directory { &directory[..] } else { &[] };
            let ran = workspace.run(&[&["keys", "retire", "WebAppKey2", "--now"], more].concat());
            assert_eq!(ran.code(), 64, "{what}: {}{}", ran.stdout, ran.stderr);
            assert!(ran.stdout.contains("has dropped it"), "{what}: {}", ran.stdout);
            let hint = if what == "cut in a line" { "line " } else { "keep that `retired`" };
            assert!(ran.stderr.contains(hint), "{what}: {}", ran.stderr);
            assert!(!is_published(&service, "WebAppKey2").await, "{what}");
            // The reload of the files, which `check --running` awaits, removes no other key.
            let checked = workspace.run(&["check", "--running"]);
            let is_empty = matches!(what, "empty" | "no file");
            // An emptied file with the entry of the retirement is valid in itself; the service refuses it.
            assert_eq!(checked.code(), if is_empty { 1 } else { 64 }, "{what}: {}", checked.stderr);
            service.logged(if is_empty { "lists retired keys only" } else { "web/keyset.toml" }).await;
            assert_eq!(kid(&service).await, "WebAppKey1", "{what}");
            assert!(is_published(&service, "WebAppKey3").await, "{what}");
        }
    }
}

#[tokio::test]
async fn the_document_of_an_incomplete_retirement_says_what_is_left_to_do() {
    let (workspace, _service) = serving().await;
    fs::write(workspace.path("keys/web/keyset.toml"), "").expect("written");
    let ran = workspace.run(&["keys", "retire", "WebAppKey2", "--now", "--json"]);
    assert_eq!(ran.code(), 64, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(document["ok"], false, "{document}");
    assert!(document["problems"][0].as_str().is_some_and(|told| told.contains("keyset.toml")), "{document}");
}

/// The file is fixed, and the same command completes the retirement: the next key is promoted.
#[tokio::test]
async fn a_second_run_completes_the_retirement_of_a_fixed_schedule() {
    let (workspace, service) = serving().await;
    let path = workspace.path("keys/web/keyset.toml");
    let text = fs::read_to_string(&path).expect("a schedule");
    fs::write(&path, format!("{text}\n]]\n")).expect("written");
    assert_eq!(retire(&workspace, "WebAppKey2").code(), 64);
    let broken = fs::read_to_string(&path).expect("a schedule");
    fs::write(&path, broken.replace("\n]]\n", "\n")).expect("written");
    let said = retire(&workspace, "WebAppKey2").ok();
    assert!(said.contains("WebAppKey1 signs"), "{said}");
    let fixed = fs::read_to_string(&path).expect("a schedule");
    assert_eq!(fixed.matches("\"WebAppKey2\"").count(), 1, "{fixed}");
    assert!(fixed.contains("retired = "), "{fixed}");
    workspace.run(&["check", "--running"]).ok();
    drop(service);
}

/// The service's files are others than the ones that are checked: a copy, or another `directory` by a variable.
#[tokio::test]
async fn check_running_accepts_only_the_files_that_the_service_reads() {
    let (workspace, copy) = (Workspace::bare(), Workspace::bare());
    let socket = workspace.path("ops.sock").display().to_string();
    let text = asked_over_a_socket(&configuration()).replace("unix:ops.sock", &format!("unix:{socket}"));
    workspace.configure(&text);
    copy.configure(&text);
    let service = workspace.serve().await;
    workspace.run(&["check", "--running"]).ok();
    let ran = copy.run(&["check", "--running"]);
    assert_eq!(ran.code(), 1, "{}", ran.stdout);
    let said = format!(
        "reads {}, not {}",
        workspace.path("tokenmint.toml").display(),
        copy.path("tokenmint.toml").display()
    );
    assert!(ran.stderr.contains(&said), "{said}: {}", ran.stderr);
    drop(service);
}

/// Nothing can be written, so the command says that the key is still used.
#[tokio::test]
async fn a_key_that_can_not_be_retired_is_said_to_be_in_use() {
    let (workspace, service) = serving().await;
    let path = workspace.path("keys/web/keyset.toml");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    let ran = retire(&workspace, "WebAppKey2");
    assert_eq!(ran.code(), 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("`WebAppKey2` is not retired, and a service that uses it still does: "),
        "{}",
        ran.stderr
    );
    assert!(is_published(&service, "WebAppKey2").await);
}

/// Every user who can read the folder can lock it.
#[tokio::test]
async fn a_lock_of_another_process_does_not_stop_a_retirement() {
    let (workspace, service) = serving().await;
    let folder = fs::File::open(workspace.path("keys/web")).expect("a folder");
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let ran = retire(&workspace, "WebAppKey2");
    assert_eq!(ran.code(), 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("another process has locked"), "{}", ran.stderr);
    assert!(!is_published(&service, "WebAppKey2").await);
}

/// Both commands find the folder empty, and one writes first.
#[test]
fn of_two_concurrent_new_keys_the_second_is_refused() {
    let workspace = Workspace::new();
    let ran = std::thread::scope(|scope| {
        let both = ["One", "Two"].map(|kid| {
            let workspace = &workspace;
            scope.spawn(move || workspace.run(&["keys", "new", kid, "--directory", "keys/fresh"]))
        });
        both.map(|one| one.join().expect("no panic"))
    });
    let refused = ran.iter().find(|ran| ran.code() == 1).expect("one is refused");
    assert!(refused.stderr.contains("which signs without a keyset.toml"), "{}", refused.stderr);
    assert!(ran.iter().any(|ran| ran.code() == 0));
    for kid in ["One", "Two"] {
        let files =
            ["key", "crt", "jwk"].map(|end| workspace.path(&format!("keys/fresh/{kid}.{end}")).exists());
        assert!(files[0] == files[1] && files[1] == files[2], "{kid}: {files:?}");
    }
}

/// A command that was killed has left its temporary file.
#[test]
fn a_command_removes_what_a_killed_one_left() {
    let workspace = Workspace::new();
    let left = workspace.path("keys/web/.keyset-a1b2c3");
    fs::write(&left, &KEYS.web).expect("written");
    workspace.run(&["keys", "rotate", "--keyset", "web"]).ok();
    assert!(!left.exists());
}

/// The key's files were removed first. The service refuses that and still uses the key, and the command reports it.
#[tokio::test]
async fn a_key_that_only_the_service_has_is_reported() {
    let workspace = Workspace::bare();
    workspace.configure(&asked_over_a_socket(&configuration()));
    let service = workspace.serve().await;
    fs::remove_file(workspace.path("keys/web/WebAppKey1.key")).expect("removed");
    let ran = retire(&workspace, "WebAppKey1");
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("uses it: if it came from a folder, list it"), "{}", ran.stderr);
    let retired = format!("retired = {}", at(now()));
    schedule(&workspace, &[("WebAppKey1", 0, &retired)]);
    eventually("the service has dropped it", async || !is_published(&service, "WebAppKey1").await).await;
}

/// Two commands within a second, and a key in two directories.
#[test]
fn retirements_work_right_after_each_other_and_with_copied_directories() {
    let workspace = Workspace::new();
    workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency"]).ok();
    workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency"]).ok();
    retire(&workspace, "WebAppKey1").ok();
    retire(&workspace, "WebAppKey3").ok();
    fs::create_dir(workspace.path("keys/copy")).expect("a folder");
    for item in fs::read_dir(workspace.path("keys/web")).expect("a folder") {
        let from = item.expect("an entry").path();
        fs::copy(&from, workspace.path("keys/copy").join(from.file_name().expect("a name"))).expect("copied");
    }
    workspace.configure(&format!("{}[keysets.copy]\ndirectory = \"keys/copy\"\n", configuration()));
    retire(&workspace, "WebAppKey2").ok();
    for folder in ["keys/web", "keys/copy"] {
        let text = fs::read_to_string(workspace.path(folder).join("keyset.toml")).expect("a schedule");
        assert_eq!(text.matches("retired = ").count(), 3, "{folder}: {text}");
    }
}

/// The commands report the state of the service, and not that of the files.
#[tokio::test]
async fn a_command_whose_change_the_service_refuses_ends_with_1() {
    let workspace = Workspace::bare();
    workspace.configure(&asked_over_a_socket(&configuration()));
    let service = workspace.serve().await;
    let waits_for_a_restart =
        format!("{}[server.limits]\nconnections = 7\n", asked_over_a_socket(&configuration()));
    workspace.configure(&waits_for_a_restart);
    // `check` alone can't know, and reports that.
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 0);
    assert!(
        checked.stderr.contains("not checked") && checked.stderr.contains("check --running"),
        "{}",
        checked.stderr
    );
    let running = workspace.run(&["check", "--running"]);
    assert_eq!(running.code(), 1);
    assert!(running.stderr.contains("server.limits.connections (tokenmint.toml line"), "{}", running.stderr);
    let told = workspace.run(&["check", "--running", "--json"]);
    assert_eq!(told.code(), 1);
    let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(
        (&told["ok"], &told["problems"][0]["field"]),
        (&json!(false), &json!("server.limits.connections"))
    );

    let rotated = workspace.run(&["keys", "rotate", "--keyset", "crm"]);
    assert_eq!(rotated.code(), 1, "{}{}", rotated.stdout, rotated.stderr);
    assert!(rotated.stderr.contains("server.limits.connections: can't change while"), "{}", rotated.stderr);
    // The leaked key is dropped nevertheless. The key made for it can't be loaded.
    let retired = retire(&workspace, "WebAppKey1");
    assert_eq!(retired.code(), 1, "{}{}", retired.stdout, retired.stderr);
    assert!(
        retired.stderr.contains("has dropped `WebAppKey1`, but `WebAppKey2` doesn't sign"),
        "{}",
        retired.stderr
    );
    assert!(!is_published(&service, "WebAppKey1").await);
    workspace.configure(&asked_over_a_socket(&configuration()));
    workspace.run(&["check", "--running"]).ok();
    assert_eq!(kid(&service).await, "WebAppKey2");
    drop(service);
    let nobody = workspace.run(&["check", "--running"]);
    assert_eq!(nobody.code(), 1);
    assert!(nobody.stderr.contains("no service answers at unix:"), "{}", nobody.stderr);
}

/// Key 1 signed long ago, key 2 signs, key 3 is pending. Key 2 is retired. Key 1 must not come back, with its files
/// or without.
#[tokio::test]
async fn a_retirement_does_not_republish_expired_keys() {
    for files_of_the_first in [true, false] {
        let workspace = Workspace::new();
        three_keys(&workspace);
        let month = 30 * DAY;
        let from =
            [("WebAppKey1", 0, ""), ("WebAppKey2", now() - month, ""), ("WebAppKey3", now() + 2 * DAY, "")];
        schedule(&workspace, &from);
        if !files_of_the_first {
            fs::remove_file(workspace.path("keys/web/WebAppKey1.key")).expect("removed");
        }
        let service = workspace.serve().await;
        let said = retire(&workspace, "WebAppKey2").ok();
        assert!(said.contains("WebAppKey3 signs from now on, before its date"), "{said}");
        eventually("key 3 signs", async || {
            service.post("/identity-token", &another_user()).await.json()["kid"] == "WebAppKey3"
        })
        .await;
        for service in [service, workspace.serve().await] {
            assert_eq!(kid(&service).await, "WebAppKey3");
            assert!(
                !is_published(&service, "WebAppKey1").await && !is_published(&service, "WebAppKey2").await
            );
        }
        workspace.run(&["check"]).ok();
    }
}

/// Two operators at once: the changes of both are there in the end.
#[test]
fn a_concurrent_rotation_and_retirement_lose_nothing() {
    for round in 0..4 {
        let workspace = Arc::new(Workspace::new());
        three_keys(&workspace);
        let more = format!("retired = {}", at(now() - 100));
        schedule(
            &workspace,
            &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 60, ""), ("WebAppKey3", now() - 1, &more)],
        );
        let other = workspace.clone();
        let rotating = std::thread::spawn(move || other.run(&["keys", "rotate", "--keyset", "web"]));
        // The commands overlap differently in each round.
        std::thread::sleep(Duration::from_millis(40 * round));
        retire(&workspace, "WebAppKey2").ok();
        rotating.join().expect("it ends").ok();
        let listed = workspace.run(&["keys", "list", "--json"]).json();
        let web = |kid: &str| {
            let found = listed.as_array().expect("keys").iter().find(|key| key["kid"] == kid).cloned();
            found.unwrap_or_else(|| panic!("round {round}: no {kid} in {listed}"))
        };
        assert_eq!(web("WebAppKey2")["retired"], true, "round {round}");
        assert_eq!(web("WebAppKey4")["state"], "pending", "round {round}");
    }
}

/// A power failure leaves the old file or the new one: the command syncs the content before the rename, and the
/// directory after it.
#[test]
#[ignore = "needs strace: make system"]
fn what_a_command_wrote_is_on_the_disk_before_it_ends() {
    let workspace = Workspace::new();
    three_keys(&workspace);
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 60, "")]);
    let output = std::process::Command::new("strace")
        .args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2"])
        .args([env!("CARGO_BIN_EXE_tokenmint"), "keys", "retire", "WebAppKey2", "--now"])
        .current_dir(workspace.path(""))
        .output()
        .expect("strace runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let folder = fs::canonicalize(workspace.path("keys/web")).expect("the folder");
    let folder = folder.to_str().expect("text");
    let calls: Vec<&str> =
        said.lines().filter(|line| line.contains(folder) || line.contains("rename")).collect();
    let place = |wanted: &dyn Fn(&str) -> bool| calls.iter().position(|line| wanted(line));
    let content = place(&|line| line.contains("sync(") && line.contains(&format!("<{folder}/")));
    let name = place(&|line| line.contains("rename") && line.contains("keyset.toml"));
    let entry = place(&|line| line.contains("sync(") && line.contains(&format!("<{folder}>")));
    assert!(content.is_some() && content < name && name < entry, "{said}");
}

/// An editor writes the old text back. The retired key stays retired.
#[tokio::test]
async fn a_key_that_this_process_has_seen_retired_never_comes_back() {
    let clock = Arc::new(ManualClock::at(at(NOW)));
    let workspace = Workspace::new();
    three_keys(&workspace);
    let before: [(&str, i64, &str); 2] = [("WebAppKey1", 0, ""), ("WebAppKey2", NOW - 60, "")];
    schedule(&workspace, &before);
    let service = InProcess::of(Arc::new(workspace), clock.clone()).await;
    let retired = format!("retired = {}", at(NOW));
    schedule(&service.workspace, &[before[0], ("WebAppKey2", NOW - 60, &retired)]);
    service.reload();
    let without = said(Some("WebAppKey1"), &["WebAppKey1"]);
    assert_eq!(state(&service).await, without);
    for (what, more) in [("as before", ""), ("with emergency", "emergency = true")] {
        schedule(&service.workspace, &[before[0], ("WebAppKey2", NOW - 60, more)]);
        service.reload();
        assert_eq!(state(&service).await, without, "{what}");
    }
    // It is the same key under another name.
    service.workspace.write_key("keys/web/Other.key", &KEYS.spare[0]);
    schedule(&service.workspace, &[before[0], ("Other", NOW - 60, "emergency = true")]);
    service.reload();
    assert_eq!(state(&service).await, without);
    // The same with a clock set back to before the retirement.
    schedule(&service.workspace, &[before[0], ("WebAppKey2", NOW - 60, &retired)]);
    for step in [-30, -HOUR, DAY] {
        clock.set(at(NOW + step));
        service.reload();
        assert!(!service.published("web").await.contains(&"WebAppKey2".to_owned()), "{step}");
    }
}

/// Changes that would let a key sign before verifiers have it, with any name of the keyset. Each row is one edit of
/// a running service's files.
#[tokio::test]
async fn a_reload_never_signs_with_a_key_that_verifiers_may_not_have() {
    struct Edit {
        what: &'static str,
        /// The schedule of web's keys.
        keys: Vec<(&'static str, i64, &'static str)>,
        configuration: fn(String) -> String,
        is_taken: bool,
    }
    let as_it_is: fn(String) -> String = |text| text;
    let edits = [
        Edit {
            what: "a pending key whose date moves to the past",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW - 60, "")],
            configuration: as_it_is,
            is_taken: false,
        },
        Edit {
            what: "the same, knowingly",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW - 60, "emergency = true")],
            configuration: as_it_is,
            is_taken: true,
        },
        Edit {
            what: "a pending key that is let forward a little, still before the lead",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW + HOUR, "")],
            configuration: as_it_is,
            is_taken: false,
        },
        Edit {
            what: "a pending key that is put off",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW + 9 * DAY, "")],
            configuration: as_it_is,
            is_taken: true,
        },
        Edit {
            what: "a new key that signs in a moment",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey3", NOW + 10, "")],
            configuration: as_it_is,
            is_taken: false,
        },
        Edit {
            what: "a keyset of another name with the same keys",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW + 2 * DAY, "")],
            configuration: |text| {
                text.replace("[keysets.web]", "[keysets.renamed]")
                    .replace("keyset = \"web\"", "keyset = \"renamed\"")
            },
            is_taken: true,
        },
        Edit {
            what: "a keyset of another name with a new key that signs",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey3", NOW - 60, "")],
            configuration: |text| {
                text.replace("[keysets.web]", "[keysets.renamed]")
                    .replace("keyset = \"web\"", "keyset = \"renamed\"")
            },
            is_taken: false,
        },
        Edit {
            what: "an old profile with a new keyset",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW + 2 * DAY, "")],
            configuration: |text| {
                let text = text.replace("keyset = \"web\"", "keyset = \"fresh\"");
                format!("{text}[keysets.fresh]\ndirectory = \"keys/fresh\"\n")
            },
            is_taken: false,
        },
        Edit {
            what: "a new profile with a new keyset",
            keys: vec![("WebAppKey1", 0, ""), ("WebAppKey2", NOW + 2 * DAY, "")],
            configuration: |text| {
                format!(
                    "{text}[keysets.fresh]\ndirectory = \"keys/fresh\"\n[identity.fresh]\nkeyset = \"fresh\"\nissuer = \"fresh\"\n"
                )
            },
            is_taken: true,
        },
    ];
    for Edit { what, keys, configuration: change, is_taken } in edits {
        let workspace = Workspace::new();
        three_keys(&workspace);
        workspace.write_key("keys/fresh/Fresh1.key", &KEYS.spare[1]);
        schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", NOW + 2 * DAY, "")]);
        let service = InProcess::of(Arc::new(workspace), Arc::new(ManualClock::at(at(NOW)))).await;
        schedule(&service.workspace, &keys);
        service.workspace.configure(&change(configuration()));
        service.reload();
        let current = service.metric("tokenmint_config_last_reload_successful").await;
        let look = service.get("/status").await.ok();
        assert_eq!(current.ends_with(" 1"), is_taken, "{what}: {look}");
        assert_eq!(look["reload"]["in_force"], is_taken, "{what}: {look}");
        if !is_taken {
            let told = look["reload"]["problems"][0]["message"].as_str().expect("a message").to_owned();
            assert!(told.contains("before verifiers know it"), "{what}: {told}");
        }
    }
}

/// A removed key id must not return with another key, nor with the same key without `emergency`.
#[tokio::test]
async fn a_key_id_that_was_removed_stays_removed() {
    let clock = Arc::new(ManualClock::at(at(NOW)));
    let workspace = Workspace::new();
    three_keys(&workspace);
    let rotated = [("WebAppKey1", 0, ""), ("WebAppKey2", NOW + DAY, "")];
    schedule(&workspace, &rotated);
    let service = InProcess::of(Arc::new(workspace), clock.clone()).await;
    clock.set(at(NOW + DAY + 3 * HOUR));
    service.reload();
    let gone = said(Some("WebAppKey2"), &["WebAppKey2"]);
    assert_eq!(state(&service).await, gone);
    let later = NOW + 4 * DAY;
    service.workspace.write_key("keys/web/WebAppKey1.key", &KEYS.spare[1]);
    schedule(&service.workspace, &[("WebAppKey2", NOW + DAY, ""), ("WebAppKey1", later, "")]);
    service.reload();
    assert_eq!(state(&service).await, gone, "new material");
    service.workspace.write_key("keys/web/WebAppKey1.key", &KEYS.web);
    service.reload();
    assert_eq!(state(&service).await, gone, "the same, without a word");
    schedule(&service.workspace, &[("WebAppKey2", NOW + DAY, ""), ("WebAppKey1", later, "emergency = true")]);
    service.reload();
    assert_eq!(state(&service).await, said(Some("WebAppKey2"), &["WebAppKey2", "WebAppKey1"]), "knowingly");
}

/// TOML has two forms of a list of tables. An edit must work in both.
#[test]
fn keys_that_are_listed_inline_are_retired_and_rotated_too() {
    let workspace = Workspace::new();
    let inline = format!("key = [{{ kid = \"WebAppKey1\", sign_from = {} }}]\n", at(0));
    workspace.write("keys/web/keyset.toml", &inline);
    workspace.run(&["keys", "rotate", "--keyset", "web"]).ok();
    retire(&workspace, "WebAppKey1").ok();
    let listed = workspace.run(&["keys", "list", "--json"]).json();
    let of = |kid: &str| {
        listed.as_array().expect("keys").iter().find(|key| key["kid"] == kid).cloned().expect("listed")
    };
    assert_eq!(of("WebAppKey1")["retired"], true);
    assert_eq!(of("WebAppKey2")["state"], "signing");
}

/// New files are readable by those who can read the files beside them. `tests/deploy` tests the same with owners,
/// as root.
#[test]
fn new_files_get_the_permissions_of_their_neighbours() {
    let mode = |workspace: &Workspace, name: &str| {
        let metadata = fs::metadata(workspace.path("keys/web").join(name)).expect(name);
        metadata.permissions().mode() & 0o777
    };
    for open in [0o400, 0o440, 0o600] {
        let workspace = Workspace::new();
        let key = workspace.path("keys/web/WebAppKey1.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(open)).expect("changed");
        let rotated = workspace.run(&["keys", "rotate", "--keyset", "web"]);
        if open == 0o440 && rustix::process::geteuid().as_raw() != 0 {
            continue;
        }
        rotated.ok();
        assert_eq!(mode(&workspace, "WebAppKey2.key"), open, "{open:o}");
        assert_eq!(mode(&workspace, "keyset.toml"), open | 0o044, "{open:o}");
        // An edit keeps the mode of the file.
        let schedule = workspace.path("keys/web/keyset.toml");
        fs::set_permissions(&schedule, fs::Permissions::from_mode(0o640)).expect("changed");
        retire(&workspace, "WebAppKey1").ok();
        assert_eq!(mode(&workspace, "keyset.toml"), 0o640, "{open:o}");
        let left: Vec<_> = fs::read_dir(workspace.path("keys/web")).expect("a folder").collect();
        assert_eq!(left.len(), 5, "no temporary file is left");
    }
}

/// Another user may have put a symlink where a command writes. It must not be followed.
#[test]
fn symlinks_in_a_key_directory_are_not_written_through() {
    let workspace = Workspace::new();
    workspace.write("victim", "untouched");
    for name in ["keyset.toml.new", ".keyset.toml", "WebAppKey2.jwk"] {
        symlink(workspace.path("victim"), workspace.path("keys/web").join(name)).expect("a link");
    }
    let ran = workspace.run(&["keys", "rotate", "--keyset", "web", "--kid", "WebAppKey2"]);
    assert_eq!(ran.code(), 1, "the new key's name is taken");
    assert!(ran.stderr.contains("nothing is overwritten"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(workspace.path("victim")).expect("a file"), "untouched");
    let left =
        ["WebAppKey2.key", "WebAppKey2.crt"].map(|name| workspace.path("keys/web").join(name).exists());
    assert_eq!(left, [false; 2], "nothing half made is left");
}

/// A FIFO in place of any file is an immediate error, and doesn't block the running service.
#[tokio::test]
async fn a_fifo_in_a_key_directory_blocks_nothing() {
    let _timed = timed();
    let (workspace, service) = serving().await;
    let fifo = |name: &str| {
        let path = workspace.path(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a FIFO");
        path
    };
    for name in ["keys/web512/Web512.key", "keys/crm/CrmKey1.crt"] {
        let aside = workspace.path("aside");
        let was_there = fs::rename(workspace.path(name), &aside).is_ok();
        let path = fifo(name);
        let begin = Instant::now();
        let checked = workspace.run(&["check"]);
        assert!(begin.elapsed() < PROMISED, "{name}: {:?}", begin.elapsed());
        assert_eq!(checked.code(), 64, "{name}: {}", checked.stderr);
        assert!(checked.stderr.contains("is a FIFO, not a regular file"), "{name}: {}", checked.stderr);
        let running = workspace.run(&["check", "--running"]);
        assert_ne!(running.code(), 0, "{name}");
        fs::remove_file(&path).expect("removed");
        if was_there {
            fs::rename(&aside, path).expect("back");
        }
    }
    fifo("keys/crm/CrmKey1.crt");
    retire(&workspace, "WebAppKey2").ok();
    assert!(!is_published(&service, "WebAppKey2").await);
}

/// 200 keys without certificates. Each certificate is made once, and a change is live as soon as with one key.
#[tokio::test]
async fn a_change_is_live_in_five_seconds_with_two_hundred_keys() {
    let _timed = timed();
    let workspace = Workspace::new();
    let mut listed = vec![("WebAppKey1".to_owned(), 0)];
    for n in 0..200 {
        let kid = format!("Waiting{n}");
        let pem = [&KEYS.web, &KEYS.spare[0], &KEYS.spare[1]][n % 3];
        // The files differ, and the keys in them are three.
        workspace.write_key(&format!("keys/web/{kid}.key"), &format!("{pem}\n{}", " ".repeat(n)));
        listed.push((kid, 4_000_000_000 + i64::try_from(n).expect("small")));
    }
    let entries: Vec<_> = listed.iter().map(|(kid, from)| (kid.as_str(), *from, "")).collect();
    schedule(&workspace, &entries);
    let service = workspace.serve().await;
    // Two changes: the second one waits for the work of the first.
    for (ttl, seconds) in [("20m", 1200), ("10m", 600)] {
        workspace.configure(&configuration().replace("ttl = \"30m\"", &format!("ttl = \"{ttl}\"")));
        eventually_within(PROMISED, &format!("the ttl is {ttl}"), async || {
            service.post("/identity-token", &another_user()).await.ok()["expires_in"] == seconds
        })
        .await;
    }
}

/// A key expires beside a broken file. The service drops it and logs the refusal once.
#[tokio::test]
async fn a_key_that_expires_beside_a_broken_file_is_logged_once() {
    let workspace = Workspace::new();
    three_keys(&workspace);
    // Key 1 expires an hour of lifetime and an hour of margin after key 2 took over, four seconds from now.
    let gone_soon = now() - 2 * HOUR + 4;
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", gone_soon, "")]);
    let service = workspace.serve().await;
    workspace.configure(&format!("{}[nobody]\n", configuration()));
    service.logged("the changed configuration is rejected").await;
    assert!(is_published(&service, "WebAppKey1").await);
    eventually("the key is gone", async || !is_published(&service, "WebAppKey1").await).await;
    service.logged("whose publication has ended").await;
    // Two polls more.
    let looked = async || {
        let metrics = service.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("tokenmint_config_last_look_timestamp_seconds "))
            .map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).expect("a time")
    };
    let first = looked().await;
    eventually("the service has looked at its files twice", async || looked().await >= first + 4.0).await;
    let log = service.whole_log().await;
    assert_eq!(log.matches("the changed configuration is rejected").count(), 1, "{log}");
}

/// Nobody else may be able to change the directory and the schedule.
#[test]
fn a_folder_or_schedule_that_others_can_change_is_refused() {
    let refused = |workspace: &Workspace| {
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64);
        ran.stderr
    };
    let workspace = Workspace::new();
    schedule(&workspace, &[("WebAppKey1", 0, "")]);
    let change = |name: &str, mode: u32| {
        fs::set_permissions(workspace.path(name), fs::Permissions::from_mode(mode)).expect("changed");
    };
    workspace.run(&["check"]).ok();
    change("keys/web", 0o777);
    assert!(
        refused(&workspace)
            .contains("others can replace files (mode 0777): run `chmod go-w` on this directory")
    );
    change("keys/web", 0o1777);
    workspace.run(&["check"]).ok();
    change("keys/web", 0o755);
    change("keys/web/keyset.toml", 0o664);
    assert!(
        refused(&workspace).contains("can be changed by others (mode 0664): run `chmod go-w` on this file")
    );
}

/// The rules for a key in a key directory also apply to a key file.
#[test]
fn a_key_file_in_a_folder_where_others_can_replace_it_is_refused() {
    let workspace = Workspace::new();
    let folder = "directory = \"keys/web\"";
    let file = "kid = \"WebAppKey1\"\nkey_file = \"keys/web/WebAppKey1.key\"";
    let configuration = configuration();
    assert!(configuration.contains(folder));
    workspace.configure(&configuration.replace(folder, file));
    for (mode, fine) in [(0o700, true), (0o755, true), (0o777, false), (0o770, false), (0o1777, true)] {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(workspace.path("keys/web"), permissions).expect("changed");
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), if fine { 0 } else { 64 }, "{mode:o}: {}", ran.stderr);
        let line = format!("others can replace files (mode {mode:04o}): run `chmod go-w` on this directory");
        assert_eq!(ran.stderr.contains(&line), !fine, "{mode:o}: {}", ran.stderr);
        assert_eq!(
            ran.stderr.contains("keys/web): is a directory in which"),
            !fine,
            "{mode:o}: {}",
            ran.stderr
        );
    }
    // The key file is beside the configuration, and named without a directory.
    let key = fs::read(workspace.path("keys/web/WebAppKey1.key")).expect("the key");
    workspace.write_key("WebAppKey1.key", std::str::from_utf8(&key).expect("PEM"));
    workspace
        .configure(&configuration.replace(folder, "kid = \"WebAppKey1\"\nkey_file = \"WebAppKey1.key\""));
    workspace.run(&["check"]).ok();
}

/// An error in the files isn't an error of the running service.
#[tokio::test]
async fn the_health_check_asks_the_service_whatever_the_configuration_says() {
    let (workspace, service) = serving().await;
    workspace.run(&["healthcheck"]).ok();
    for broken in ["[nobody]\n", "[identity.web]\nkeyset = 7\n", "[[[\n", "\u{1}"] {
        workspace.configure(&format!("{}{broken}", asked_over_a_socket(&configuration())));
        assert_eq!(workspace.run(&["check"]).code(), 64, "{broken:?}");
        workspace.run(&["healthcheck"]).ok();
    }
    drop(service);
    assert_eq!(workspace.run(&["healthcheck"]).code(), 1);
}

/// `/status` shows the keys in force, and no path.
#[tokio::test]
async fn the_status_says_which_keys_are_in_force() {
    let service = InProcess::of(Arc::new(Workspace::new()), Arc::new(ManualClock::at(at(NOW)))).await;
    let status = service.get("/status").await.ok();
    assert_eq!(status["keysets"]["web"], json!({"signing": "WebAppKey1", "published": ["WebAppKey1"]}));
    assert_eq!(status["reload"], json!({"looked_at": null, "in_force": true, "problems": []}));
    service
        .workspace
        .write("keys/web/keyset.toml", "[[key]]\nkid = \"Nobody\"\nsign_from = 2026-01-01T00:00:00Z\n");
    service.reload();
    let answer: Answer = service.get("/status").await;
    let status = answer.ok();
    assert_eq!((&status["reload"]["looked_at"], &status["reload"]["in_force"]), (&json!(NOW), &json!(false)));
    assert_eq!(status["reload"]["problems"][0]["field"], "keysets.web");
    assert!(!answer.text.contains(&service.workspace.path("").display().to_string()), "{}", answer.text);
}

/// The key is dropped for every value of `retired`, even if the file has other errors.
#[tokio::test]
async fn a_manual_retirement_is_accepted_in_each_toml_form() {
    let _timed = timed();
    let listed = |more: &str| {
        format!(
            "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
             [[key]]\nkid = \"WebAppKey2\"\nsign_from = {}\n{more}\n",
            at(now() - 60)
        )
    };
    let mut services = Vec::new();
    for (what, text) in [
        ("a date", listed(&format!("retired = {}", at(now())))),
        ("no date", listed("retired = true")),
        ("a day", listed("retired = 2026-11-28")),
        ("a date in text", listed("retired = \"2026-11-28T00:00:00+01:00\"")),
        ("a date that lies ahead", listed("retired = 2999-01-01T00:00:00Z")),
        ("nonsense", listed("retired = \"yes\"")),
        ("a second entry", listed("[[key]]\nkid = \"WebAppKey2\"\nretired = true")),
        ("line ends of Windows", listed("retired = true").replace('\n', "\r\n")),
    ] {
        let workspace = Workspace::new();
        three_keys(&workspace);
        workspace.write("keys/web/keyset.toml", &listed(""));
        let service = workspace.serve().await;
        assert_eq!(kid(&service).await, "WebAppKey2");
        workspace.write("keys/web/keyset.toml", &text);
        services.push((what, Instant::now(), workspace, service));
    }
    for (what, written, _workspace, service) in services {
        eventually(what, async || !is_published(&service, "WebAppKey2").await).await;
        assert!(written.elapsed() < PROMISED + Duration::from_secs(1), "{what}: {:?}", written.elapsed());
        assert_ne!(service.post("/identity-token", &user_1()).await.json()["kid"], "WebAppKey2", "{what}");
    }
}

/// The key made for a leaked one has an id that no keyset and no file uses.
#[test]
fn a_key_made_for_a_retired_one_gets_an_unused_id() {
    let workspace = Workspace::new();
    workspace.write_key("keys/crm/WebAppKey2.key", &KEYS.spare[1]);
    fs::remove_file(workspace.path("keys/crm/CrmKey1.key")).expect("removed");
    workspace.write_key("keys/web/WebAppKey3.key", &KEYS.spare[1]);
    schedule(&workspace, &[("WebAppKey1", 0, "")]);
    let said = retire(&workspace, "WebAppKey1").ok();
    assert!(said.contains("WebAppKey4 was created"), "{said}");
    workspace.run(&["check"]).ok();
}

/// The service notices a fixed mode like any other change.
#[tokio::test]
async fn a_directory_whose_mode_is_fixed_is_applied() {
    let (workspace, _service) = serving().await;
    let open = |mode: u32| {
        fs::set_permissions(workspace.path("keys/web"), fs::Permissions::from_mode(mode)).expect("changed");
    };
    open(0o777);
    let refused = workspace.run(&["check", "--running"]);
    assert_ne!(refused.code(), 0);
    open(0o755);
    workspace.run(&["check", "--running"]).ok();
}

/// An invalid `listen` doesn't stop the retirement of a leaked key.
#[test]
fn a_key_is_retired_wherever_the_configuration_says_that_the_service_is() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("listen = \"127.0.0.1:0\"", "listen = 7"));
    let said = workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
    assert!(said.contains("WebAppKey1 is retired in"), "{said}");
    assert!(said.contains("No service with these files is visible from here"), "{said}");
    let text = fs::read_to_string(workspace.path("keys/web/keyset.toml")).expect("a schedule");
    assert!(text.contains("retired = "), "{text}");
}

/// The service notices changes of files of any size. It refuses too large ones, and never reads a part of them.
#[tokio::test]
async fn a_configuration_that_is_too_large_is_refused_and_seen_when_it_shrinks() {
    let (workspace, service) = serving().await;
    let text = asked_over_a_socket(&configuration());
    workspace.configure(&format!("{text}\n#{}\n", "x".repeat(4 << 20)));
    assert_eq!(workspace.run(&["check"]).code(), 64);
    service.logged("larger than 4096 KiB").await;
    // The service also notices a change behind the first 4 MiB.
    workspace.configure(&text.replace("ttl = \"30m\"", "ttl = \"20m\""));
    eventually("the ttl is 20m", async || {
        service.post("/identity-token", &another_user()).await.json()["expires_in"] == 1200
    })
    .await;
}
