//! Key rotation: which key signs, which are published, and which clients have fetched them, with a clock that the
//! test sets.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenmint::clock::{Clock as _, ManualClock, SystemClock, UnixTime};

use crate::in_process::InProcess;
use crate::retirement::PROMISED;
use crate::support::{
    API_KEY, Answer, KEYS, Workspace, another_user, eventually, eventually_within, free_port, signal, timed,
    unverified, user_1, verified,
};

/// 2026-12-01T00:00:00Z.
const NOW: i64 = 1_796_083_200;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

const fn at(seconds: i64) -> UnixTime {
    UnixTime::from_seconds(seconds)
}

fn clock(seconds: i64) -> Arc<ManualClock> {
    Arc::new(ManualClock::at(at(seconds)))
}

/// Writes `keyset.toml` with these entries.
fn schedule(workspace: &Workspace, entries: &[(&str, i64, &str)]) {
    let entries = entries
        .iter()
        .map(|(kid, from, more)| format!("[[key]]\nkid = \"{kid}\"\nsign_from = {}\n{more}\n", at(*from)));
    workspace.write("keys/web/keyset.toml", &entries.collect::<String>());
}

/// A workspace with a second key for `identity.web`, whose tokens are valid for at most an hour.
fn two_keys(second_from: i64) -> Workspace {
    let workspace = Workspace::new();
    workspace.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", second_from, "")]);
    workspace
}

async fn state(service: &InProcess) -> (String, Vec<String>) {
    (service.signing().await, service.published("web").await)
}

fn said(signing: &str, published: &[&str]) -> (String, Vec<String>) {
    (signing.to_owned(), published.iter().map(|kid| (*kid).to_owned()).collect())
}

#[tokio::test]
async fn a_key_is_published_then_signs_then_is_only_published_then_removed() {
    let clock = clock(NOW);
    let service = InProcess::of(Arc::new(two_keys(NOW + DAY)), clock.clone()).await;
    let both = ["WebAppKey1", "WebAppKey2"];
    assert_eq!(state(&service).await, said("WebAppKey1", &both));
    clock.set(at(NOW + DAY - 1));
    assert_eq!(state(&service).await, said("WebAppKey1", &both));
    clock.set(at(NOW + DAY));
    assert_eq!(state(&service).await, said("WebAppKey2", &both));
    // The last token of the first key is valid for up to an hour, and there is an hour of margin.
    clock.set(at(NOW + DAY + 2 * HOUR - 1));
    assert_eq!(state(&service).await, said("WebAppKey2", &both));
    clock.set(at(NOW + DAY + 2 * HOUR));
    assert_eq!(state(&service).await, said("WebAppKey2", &["WebAppKey2"]));
}

/// Replicas that start and reload at different moments must publish the same bytes.
#[tokio::test]
async fn replicas_publish_the_same_bytes_whenever_they_started() {
    let clock = clock(NOW);
    let workspace = Arc::new(two_keys(NOW + DAY));
    let early = InProcess::of(workspace.clone(), clock.clone()).await;
    let mut seen = Vec::new();
    for hours in [0, 23, 24, 25, 26, 40] {
        clock.set(at(NOW + hours * HOUR));
        let late = InProcess::of(workspace.clone(), clock.clone()).await;
        if hours == 25 {
            early.reload();
        }
        let sets = [early.get("/keysets/web/jwks.json").await, late.get("/keysets/web/jwks.json").await];
        assert_eq!(sets[0].text, sets[1].text, "{hours} h");
        assert_eq!(sets[0].header("etag"), sets[1].header("etag"), "{hours} h");
        assert!(sets[0].text.len() < 50 << 10);
        assert_eq!(early.signing().await, late.signing().await, "{hours} h");
        seen.push(sets[0].header("etag").to_owned());
    }
    seen.dedup();
    assert_eq!(seen.len(), 2, "the set changed when a key left it, and at no other time");
}

#[tokio::test]
async fn a_set_may_be_cached_for_at_most_a_quarter_of_the_lead() {
    for (lead, max_age) in [("24h", 300), ("10m", 150), ("1m", 15), ("2s", 0)] {
        let workspace = two_keys(NOW + DAY);
        let text = std::fs::read_to_string(workspace.path("tokenmint.toml")).expect("the configuration");
        let directory = "directory = \"keys/web\"";
        workspace.configure(&text.replace(directory, &format!("{directory}\npublish_lead = \"{lead}\"")));
        let clock = clock(NOW);
        let service = InProcess::of(Arc::new(workspace), clock.clone()).await;
        for hours in [0, 24, 25, 27] {
            clock.set(at(NOW + hours * HOUR));
            let caching = format!("public, max-age={max_age}");
            assert_eq!(service.get("/keysets/web/jwks.json").await.header("cache-control"), caching);
            assert_eq!(service.get("/.well-known/jwks.json").await.header("cache-control"), caching);
        }
    }
}

#[tokio::test]
async fn a_verifier_gets_304_until_the_set_changes() {
    let clock = clock(NOW);
    let service = InProcess::of(Arc::new(two_keys(NOW + DAY)), clock.clone()).await;
    let path = format!("{}/keysets/web/jwks.json", service.url);
    let etag = service.get("/keysets/web/jwks.json").await.header("etag").to_owned();
    let again = || Answer::of(service.client.get(&path).header("If-None-Match", &etag));
    clock.set(at(NOW + DAY + HOUR));
    assert_eq!(again().await.status.as_u16(), 304);
    clock.set(at(NOW + DAY + 2 * HOUR));
    assert_eq!(again().await.status.as_u16(), 200);
}

#[test]
fn a_schedule_without_enough_lead_is_refused_with_dates_that_work() {
    let workspace = two_keys(0);
    let surprise = "added = 2026-11-28T00:00:00Z";
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", 1_795_867_200, surprise)]);
    let refused = workspace.run(&["check"]);
    assert_eq!(refused.code(), 64);
    assert!(refused.stderr.contains("set it to 2026-11-29T00:00:00Z or later"), "{}", refused.stderr);
    assert!(refused.stderr.contains("keysets.web.key.sign_from"), "{}", refused.stderr);

    let knowingly = format!("{surprise}\nemergency = true");
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", 1_795_867_200, &knowingly)]);
    workspace.run(&["check"]).ok();
    let listed = workspace.run(&["keys", "list", "--json"]).json();
    let second = listed.as_array().expect("keys").iter().find(|key| key["kid"] == "WebAppKey2");
    assert_eq!(second.expect("listed")["emergency"], true);
}

#[tokio::test]
async fn an_emergency_is_warned_of_until_verifiers_must_know_the_key() {
    let workspace = two_keys(NOW);
    let knowingly = format!("added = {}\nemergency = true", at(NOW));
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", NOW, &knowingly)]);
    let warned = |seconds: i64| {
        let source = tokenmint::app::reload::ConfigSource {
            file: Some(workspace.path("tokenmint.toml")),
            environment: tokenmint::config::Environment::new(),
        };
        let config = source.load().unwrap_or_else(|invalid| panic!("{:?}", invalid.problems));
        let loaded =
            tokenmint::app::LoadedConfig::new(config, &*clock(seconds)).unwrap_or_else(|p| panic!("{p:?}"));
        loaded.warnings().any(|warning| warning.message.contains("by `emergency`"))
    };
    assert!(warned(NOW));
    assert!(!warned(NOW + DAY));
}

/// A key that verifiers have never fetched must not sign just because somebody copied it into the directory.
#[tokio::test]
async fn a_key_that_a_reload_brings_in_may_not_sign_at_once() {
    let service = InProcess::of(Arc::new(Workspace::new()), clock(NOW)).await;
    let workspace = &service.workspace;
    workspace.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
    let before = state(&service).await;
    let try_with = async |from: i64, more: &str| {
        schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", from, more)]);
        service.reload();
        state(&service).await
    };
    assert_eq!(try_with(NOW - HOUR, "").await, before);
    assert_eq!(try_with(NOW - HOUR, &format!("added = {}", at(NOW - DAY))).await, before, "too short a lead");
    assert!(service.metric("tokenmint_config_reload_failures_total").await.ends_with(" 2"));
    assert!(service.metric("tokenmint_config_last_reload_successful").await.ends_with(" 0"));

    let both = ["WebAppKey1", "WebAppKey2"];
    assert_eq!(try_with(NOW + DAY, "").await, said("WebAppKey1", &both));
    assert!(service.metric("tokenmint_config_last_reload_successful").await.ends_with(" 1"));
    // It has been published meanwhile, so it may sign earlier.
    assert_eq!(try_with(NOW - 1, "emergency = true").await, said("WebAppKey2", &both));
}

/// Each message has the path and the line, and says that it is about `keyset.toml`.
#[test]
fn a_problem_in_keyset_toml_names_its_line() {
    let workspace = two_keys(NOW + DAY);
    let good = "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2025-01-01T00:00:00Z\n";
    for (more, expected) in [
        ("[[key]\n", "keysets.web (keys/web/keyset.toml line 4): keyset.toml isn't TOML"),
        (good, "keysets.web.key.kid (keys/web/keyset.toml line 5): `WebAppKey1` is listed twice"),
        (
            "[[key]]\nkid = \"WebAppKey2\"\nsign_from = 2025-01-01T00:00:00Z\n",
            "keysets.web.key.sign_from (keys/web/keyset.toml line 6): `WebAppKey2` signs from the same moment",
        ),
        (
            "[[key]]\nkid = \"Lost\"\nsign_from = 2026-01-01T00:00:00Z\n",
            "keysets.web (keys/web/keyset.toml line 5): lists `Lost`, but",
        ),
        (
            "[[key]]\nkid = \"WebAppKey2\"\nsign_from = 2025-02-01T00:00:00Z\nretired = 2199-01-01T00:00:00Z\n",
            "keysets.web.key.retired (keys/web/keyset.toml line 7): `WebAppKey2` is retired from now on",
        ),
    ] {
        workspace.write("keys/web/keyset.toml", &format!("{good}{more}"));
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
}

/// An entry is lost, or its date is wrong. The retirement of the only key takes effect all the same.
#[tokio::test]
async fn a_reload_that_leaves_no_signing_key_is_refused_unless_the_key_is_retired() {
    let service = InProcess::of(Arc::new(two_keys(NOW + DAY)), clock(NOW)).await;
    let workspace = &service.workspace;
    let before = state(&service).await;
    for entries in [
        [("WebAppKey2", NOW + DAY, "")].as_slice(),
        &[("WebAppKey1", NOW + HOUR, ""), ("WebAppKey2", NOW + DAY, "")],
    ] {
        schedule(workspace, entries);
        service.reload();
        assert_eq!(state(&service).await, before, "{entries:?}");
        assert!(service.metric("tokenmint_config_last_reload_successful").await.ends_with(" 0"));
        workspace.run(&["check"]).ok();
    }
    let retired = format!("retired = {}", at(NOW));
    schedule(workspace, &[("WebAppKey1", 0, &retired), ("WebAppKey2", NOW + DAY, "")]);
    service.reload();
    assert_eq!(service.published("web").await, ["WebAppKey2"]);
    assert!(service.metric("tokenmint_config_last_reload_successful").await.ends_with(" 1"));
    assert_eq!(service.post("/identity-token", API_KEY, &user_1()).await.status.as_u16(), 503);
}

/// Verifiers keep a key with its `alg`, and a JWKS as long as its `max-age` says.
#[tokio::test]
async fn a_reload_changes_neither_the_algorithm_of_a_key_nor_the_lead_below_the_max_age() {
    let service = InProcess::of(Arc::new(two_keys(NOW + DAY)), clock(NOW)).await;
    let workspace = &service.workspace;
    let text = std::fs::read_to_string(workspace.path("tokenmint.toml")).expect("the configuration");
    let set = service.get("/keysets/web/jwks.json").await.text;
    let directory = "directory = \"keys/web\"\n";
    let with_lead = |lead: &str| text.replace(directory, &format!("{directory}publish_lead = \"{lead}\"\n"));
    let other_algorithm = text.replace("[identity.web]\n", "[identity.web]\nalgorithm = \"RS512\"\n");
    for (text, outcome) in [
        (other_algorithm.as_str(), " 0"),
        (&with_lead("299s"), " 0"),
        (&with_lead("300s"), " 1"),
        // It was announced with the first lead.
        (&with_lead("200s"), " 0"),
    ] {
        workspace.configure(text);
        service.reload();
        assert!(service.metric("tokenmint_config_last_reload_successful").await.ends_with(outcome), "{text}");
        assert_eq!(service.get("/keysets/web/jwks.json").await.text, set);
    }
}

#[tokio::test]
async fn a_replaced_lone_key_is_refused_and_so_is_another_key_of_the_same_id() {
    let service = InProcess::of(Arc::new(Workspace::new()), clock(NOW)).await;
    let workspace = &service.workspace;
    let first = workspace.path("keys/web/WebAppKey1.key");
    let before = service.get("/.well-known/jwks.json").await.text;
    std::fs::rename(&first, workspace.path("keys/web/WebAppKey2.key")).expect("renamed");
    service.reload();
    assert_eq!(state(&service).await, said("WebAppKey1", &["WebAppKey1"]));
    std::fs::remove_file(workspace.path("keys/web/WebAppKey2.key")).expect("removed");
    workspace.write_key("keys/web/WebAppKey1.key", &KEYS.crm);
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.web);
    service.reload();
    let token = service.post("/identity-token", API_KEY, &user_1()).await.ok();
    let set = serde_json::from_value(service.get("/keysets/web/jwks.json").await.ok()).expect("a set");
    assert_eq!(verified(token["token"].as_str().expect("a token"), &set)["sub"], "user-1");
    assert_eq!(service.get("/.well-known/jwks.json").await.text, before, "the keys are the same as before");
    assert!(service.metric("tokenmint_config_reload_failures_total").await.ends_with(" 2"));
}

/// Derived certificates are renewed each January. The key and its id stay.
#[tokio::test]
async fn a_derived_certificate_is_renewed_for_the_same_key() {
    let clock = clock(NOW);
    let service = InProcess::of(Arc::new(Workspace::new()), clock.clone()).await;
    let key = async || service.get("/keysets/web/jwks.json").await.ok()["keys"][0].clone();
    let before = key().await;
    clock.set(at(NOW + 31 * DAY - 1));
    assert_eq!(key().await, before);
    clock.set(at(NOW + 31 * DAY));
    let after = key().await;
    assert_eq!((&after["n"], &after["kid"]), (&before["n"], &before["kid"]));
    assert_ne!(after["x5c"], before["x5c"]);
    let remaining = service.metric("tokenmint_certificate_remaining_seconds{keyset=\"web\"").await;
    let remaining: f64 = remaining.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    assert!(remaining > 2.9 * 365.0 * 86_400.0, "{remaining}");
}

#[tokio::test]
async fn the_right_key_signs_after_the_clock_was_set() {
    let clock = clock(NOW);
    let service = InProcess::of(Arc::new(two_keys(NOW + 30 * 60)), clock.clone()).await;
    for step in [HOUR, -HOUR, DAY, -DAY, 2 * HOUR, -2 * HOUR, 30 * 60, -1] {
        clock.set(at(clock.now().seconds() + step));
        // The key must be right with a reload, like after the poll, and without one.
        for reloads in [false, true] {
            if reloads {
                service.reload();
            }
            let now = clock.now().seconds();
            let minted = service.post("/identity-token", API_KEY, &user_1()).await.ok();
            let kid = minted["kid"].as_str().expect("a kid");
            let right = if now < NOW + 30 * 60 { "WebAppKey1" } else { "WebAppKey2" };
            // With the clock set back by a day, the right key is not in memory until the next reload. The key in
            // memory signs, since verifiers know it.
            let expected = if step == -DAY && !reloads { "WebAppKey2" } else { right };
            assert_eq!(kid, expected, "{step} {now} {reloads}");
            let claims = unverified(minted["token"].as_str().expect("a token")).1;
            assert_eq!(claims["iat"], now, "no token is from the future");
            assert!(service.published("web").await.iter().any(|published| published == kid), "{kid} {step}");
        }
    }
}

#[tokio::test]
async fn a_process_suspended_during_a_rotation_signs_with_the_new_key() {
    // The service must start before the second key signs.
    let _timed = timed();
    let change = SystemClock::default().now().seconds() + 4;
    let workspace = two_keys(change);
    let service = workspace.serve().await;
    let kid = async || service.post("/identity-token", &user_1()).await.ok()["kid"].clone();
    assert_eq!(kid().await, "WebAppKey1");
    signal(service.pid(), "STOP");
    eventually("the change is past", async || SystemClock::default().now().seconds() > change).await;
    signal(service.pid(), "CONT");
    assert_eq!(kid().await, "WebAppKey2", "the very first token");
}

#[tokio::test]
async fn keys_list_shows_which_clients_fetched_a_pending_key() {
    let workspace = two_keys(i64::MAX / 1_000_000_000_000);
    schedule(&workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", 4_000_000_000, "")]);
    let mut workspace = workspace;
    let address = format!("127.0.0.1:{}", free_port());
    workspace.set("TOKENMINT_SERVER__LISTEN", &address);
    let unasked = workspace.run(&["keys", "list", "--json"]).json();
    assert_eq!(unasked[1]["fetched"], Value::Null, "nobody runs who could be asked");

    let service = workspace.serve().await;
    let listed = || workspace.run(&["keys", "list", "--json"]).json()[1].clone();
    assert_eq!(listed()["fetched"], json!({}));
    let fetch = |agent: &'static str| {
        Answer::of(
            service.request(reqwest::Method::GET, "/keysets/web/jwks.json").header("User-Agent", agent),
        )
    };
    fetch("Java/17.0.9").await.ok();
    fetch("curl/8.5").await.ok();
    let fetched = listed()["fetched"].clone();
    assert!(fetched["java"].is_i64() && fetched["tool"].is_i64(), "{fetched}");
    let table = workspace.run(&["keys", "list"]).ok();
    assert!(
        table
            .lines()
            .any(|line| line.contains("WebAppKey2") && line.contains("pending") && line.contains("tool ")),
        "{table}"
    );
    let metrics = service.metrics().await;
    let of_java =
        "tokenmint_key_fetched_timestamp_seconds{client=\"java\",keyset=\"web\",kid=\"WebAppKey2\"}";
    assert!(metrics.contains(of_java), "{metrics}");
    assert!(metrics.contains("tokenmint_jwks_fetches_total{client=\"java\",keyset=\"web\"} 1"), "{metrics}");
}

#[test]
fn rotate_plans_without_writing_and_then_writes_what_it_planned() {
    let workspace = Workspace::new();
    let files = || {
        let mut names: Vec<String> = std::fs::read_dir(workspace.path("keys/web"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    };
    let plan = workspace.run(&["keys", "rotate", "--keyset", "web", "--plan"]).ok();
    assert_eq!(files(), ["WebAppKey1.key"]);
    for effect in [
        "publishes WebAppKey2",
        "WebAppKey2 signs in place of WebAppKey1, which stays published",
        "WebAppKey1 is gone",
    ] {
        assert!(plan.contains(effect), "{plan}");
    }
    let done = workspace.run(&["keys", "rotate", "--keyset", "web", "--json"]).json();
    assert_eq!(
        files(),
        ["WebAppKey1.key", "WebAppKey2.crt", "WebAppKey2.jwk", "WebAppKey2.key", "keyset.toml"]
    );
    assert_eq!((&done["kid"], &done["emergency"]), (&json!("WebAppKey2"), &json!(false)));
    let ahead =
        done["sign_from"].as_i64().expect("a date") - done["steps"][0]["at"].as_i64().expect("a date");
    assert!((DAY..DAY + 60).contains(&ahead), "{done}");
    workspace.run(&["check"]).ok();
    let listed = workspace.run(&["keys", "list", "--json"]).json();
    let web: Vec<_> = listed.as_array().expect("keys").iter().filter(|key| key["keyset"] == "web").collect();
    assert_eq!((&web[0]["state"], &web[1]["state"]), (&json!("signing"), &json!("pending")));

    let twice = workspace.run(&["keys", "rotate", "--keyset", "web"]);
    assert_eq!(twice.code(), 1);
    assert!(twice.stderr.contains("`WebAppKey2` is already waiting to sign"), "{}", twice.stderr);
    let soon = workspace.run(&["keys", "rotate", "--keyset", "crm", "--sign-from", "2026-01-01T00:00:00Z"]);
    assert_eq!(soon.code(), 2);
    assert!(soon.stderr.contains("--sign-from must be"), "{}", soon.stderr);
}

/// The new entry makes `keyset.toml` larger than the 4 MiB that are read. The file lists the new key, so the key stays.
#[test]
fn a_new_key_stays_if_the_written_keyset_toml_cannot_be_read_back() {
    let workspace = two_keys(1);
    let path = workspace.path("keys/web/keyset.toml");
    let listed = std::fs::read_to_string(&path).expect("a schedule");
    let comment = "#".repeat((4 << 20) - listed.len() - 1);
    workspace.write("keys/web/keyset.toml", &format!("{listed}{comment}\n"));
    let ran = workspace.run(&["keys", "rotate", "--keyset", "web", "--kid", "WebAppKey3"]);
    assert_eq!(ran.code(), 1, "{}", ran.stderr);
    let said =
        "keyset.toml was written, but can't be read back: it is larger than 4096 KiB. No key was deleted: ";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let written = std::fs::read_to_string(&path).expect("a schedule");
    assert!(written.contains("WebAppKey3"), "the key is listed");
    for extension in ["key", "crt", "jwk"] {
        assert!(workspace.path(&format!("keys/web/WebAppKey3.{extension}")).exists(), "{extension}");
    }
}

#[test]
fn rotate_keeps_the_comments_in_keyset_toml() {
    let workspace = Workspace::new();
    let written = "# Ours since 2025, ask Kim.\n[[key]]\nkid = \"WebAppKey1\" # the first\nsign_from = 2025-01-01T00:00:00Z\n";
    workspace.write("keys/web/keyset.toml", written);
    workspace.run(&["keys", "rotate", "--keyset", "web", "--kid", "Next"]).ok();
    let now = std::fs::read_to_string(workspace.path("keys/web/keyset.toml")).expect("the schedule");
    assert!(now.starts_with(written) && now.contains("kid = \"Next\""), "{now}");
}

#[test]
fn a_retirement_that_was_interrupted_is_completed_by_the_same_command() {
    let workspace = Workspace::new();
    let retired =
        "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2025-01-01T00:00:00Z\nretired = 2026-01-01T00:00:00Z\n";
    workspace.write("keys/web/keyset.toml", retired);
    let said = workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
    assert!(said.contains("WebAppKey2 was created and signs from now on"), "{said}");
    let written = std::fs::read_to_string(workspace.path("keys/web/keyset.toml")).expect("the schedule");
    assert!(written.starts_with(retired), "the date of the retirement stays: {written}");
    let listed = workspace.run(&["keys", "list", "--json"]).json();
    assert_eq!(listed[2]["state"], "signing", "{listed}");
}

/// The service drops a leaked key within five seconds, by the file alone. The pending key signs in its place.
#[tokio::test]
async fn a_retired_key_leaves_signing_and_the_jwks_of_a_running_service() {
    let _timed = timed();
    let workspace = two_keys(4_000_000_000);
    let service = workspace.serve().await;
    service.post("/identity-token", &user_1()).await.ok();
    assert_eq!(workspace.run(&["keys", "retire", "WebAppKey1"]).code(), 2, "not without --now");
    let said = workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
    assert!(said.contains("WebAppKey2 signs from now on, before its date"), "{said}");
    eventually_within(PROMISED, "the retired key is not published", async || {
        service.jwks("/keysets/web/jwks.json").await.find("WebAppKey1").is_none()
    })
    .await;
    assert_eq!(service.post("/identity-token", &user_1()).await.ok()["kid"], "WebAppKey2");
    service.logged("was removed while its tokens may still be valid").await;
    let listed = workspace.run(&["keys", "list", "--json"]).json();
    assert_eq!((&listed[1]["kid"], &listed[1]["retired"]), (&json!("WebAppKey1"), &json!(true)), "{listed}");
    let schedule = || std::fs::read_to_string(workspace.path("keys/web/keyset.toml")).expect("the schedule");
    let before = schedule();
    workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
    assert_eq!(schedule(), before, "all that it asks for is done");
}

#[tokio::test]
async fn retiring_the_only_key_makes_another_and_says_how_many_tokens_it_hits() {
    let mut workspace = Workspace::new();
    let address = format!("127.0.0.1:{}", free_port());
    workspace.set("TOKENMINT_SERVER__LISTEN", &address);
    let service = workspace.serve().await;
    for _ in 0..3 {
        service.post("/identity-token", &user_1()).await.ok();
    }
    let done = workspace.run(&["keys", "retire", "WebAppKey1", "--now", "--json"]).json();
    assert_eq!((&done["live_tokens"], &done["signs_now"]), (&json!(3), &json!("WebAppKey2")), "{done}");
    assert_eq!((&done["ok"], &done["problems"]), (&json!(true), &json!([])), "{done}");
    service.logged("was removed while its tokens may still be valid").await;
    // The leaked key is dropped first, so there may be a moment without any key.
    let asked = async || service.post("/identity-token", &another_user()).await;
    eventually("another key signs", async || asked().await.status == 200).await;
    assert_eq!(asked().await.ok()["kid"], "WebAppKey2");
}
