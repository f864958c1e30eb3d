//! Keys that a store has: `signed_by`, `remote` in keyset.toml, `tokenmint keys new --remote`, and what requests see while the store is in
//! trouble. `tests/interop/test_remote_keys.py` has the same with a real OpenBao.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::fake_vault::{FakeVault, JWT, ROLE, TOKEN, Trouble};
use crate::support::{
    API_KEY, Answer, KEYS, Running, Workspace, configuration, eventually, eventually_within, free_port,
    unverified, user_1, verified,
};

const SCHEDULE: &str = "keys/crm/keyset.toml";
/// All troubles in which a store gives no usable signature, with what the log says.
const TROUBLES: &[(Trouble, &str)] = &[
    (Trouble::Sealed, "doesn't answer: Vault is sealed"),
    (Trouble::Denied, "refuses tokenmint: permission denied"),
    (Trouble::Throttled, "asks for fewer requests"),
    (Trouble::Broken, "doesn't answer: internal error"),
    (Trouble::SilentSign, "doesn't answer: not within 1 s"),
    (Trouble::Garbage, "its answer isn't one of Vault's"),
    (Trouble::TooLarge, "its answer has more than 64 KiB"),
    (Trouble::Standby, "doesn't answer: status 307"),
    (Trouble::OtherKey, "returned a signature that the public key doesn't verify"),
    (Trouble::OtherVersion, "its answer isn't one of Vault's"),
    (Trouble::CutSignature, "returned a signature that the public key doesn't verify"),
    (Trouble::NoSignature, "its answer isn't one of Vault's"),
];

/// A configuration whose keyset `crm` signs with the store at `address`.
fn remote_configuration(address: &str, login: &str, limits: &str) -> String {
    let store = format!("[stores.vault]\nkind = \"vault\"\naddress = \"{address}\"\n{login}\n{limits}\n");
    configuration().replace("directory = \"keys/crm\"", "directory = \"keys/crm\"\nsigned_by = \"vault\"")
        + &store
}

/// A workspace whose keyset `crm` has no key yet.
fn empty_workspace(address: &str, limits: &str) -> Workspace {
    let workspace = Workspace::bare();
    workspace.write_key("vault-token", &format!("{TOKEN}\n"));
    fs::remove_file(workspace.path("keys/crm/CrmKey1.key")).expect("a file");
    workspace.configure(&remote_configuration(address, "token_file = \"vault-token\"", limits));
    workspace
}

/// A workspace whose keyset `crm` signs with version 1 of the store's key `crm-key`, and the store.
fn workspace_with(limits: &str) -> (FakeVault, Workspace) {
    let vault = FakeVault::start();
    vault.add_version("crm-key", &KEYS.crm);
    vault.add_version("crm-key", &KEYS.spare[0]);
    let workspace = empty_workspace(&vault.address, limits);
    workspace.write(SCHEDULE, &entry("CrmKey1", "crm-key:1"));
    (vault, workspace)
}

fn workspace() -> (FakeVault, Workspace) {
    workspace_with("")
}

fn entry(kid: &str, remote: &str) -> String {
    format!("[[key]]\nkid = \"{kid}\"\nsign_from = 2026-01-01T00:00:00Z\nremote = \"{remote}\"\n")
}

async fn assertion(service: &Running) -> Answer {
    service.post("/oauth-assertion", &json!({})).await
}

/// Mints an assertion, and verifies it with the published key. Returns its `kid`.
async fn kid_that_signs(service: &Running) -> String {
    let minted = assertion(service).await.ok();
    let token = minted["assertion"].as_str().expect("an assertion");
    let set = service.jwks("/keysets/crm/jwks.json").await;
    assert_eq!(verified(token, &set)["iss"], "3MVG9.consumer");
    unverified(token).0["kid"].as_str().expect("a kid").to_owned()
}

fn text(workspace: &Workspace, name: &str) -> String {
    fs::read_to_string(workspace.path(name)).expect(name)
}

#[tokio::test]
async fn a_key_of_a_store_signs_assertions_and_its_private_half_is_in_no_file() {
    let vault = FakeVault::start();
    let workspace = empty_workspace(&vault.address, "");
    let made = workspace.run(&["keys", "new", "CrmKey1", "--remote", "--keyset", "crm", "--json"]).json();
    assert_eq!((&made["kid"], &made["remote"]), (&json!("CrmKey1"), &json!("CrmKey1:1")));
    assert!(made.get("private_key").is_none(), "{made}");
    for file in fs::read_dir(workspace.path("keys/crm")).expect("a folder") {
        let text = fs::read_to_string(file.expect("an entry").path()).expect("text");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
    let checked = workspace.run(&["check"]);
    assert!(checked.code() == 0 && checked.stderr.is_empty(), "{}", checked.stderr);
    let service = workspace.serve().await;
    let asked = vault.asked("sign");
    assert_eq!(kid_that_signs(&service).await, "CrmKey1");
    assert_eq!(kid_that_signs(&service).await, "CrmKey1");
    assert_eq!(vault.asked("sign"), asked + 2, "one request a token");
    let published = service.get("/keysets/crm/jwks.json").await.json();
    assert_eq!(published["keys"][0]["x5c"].as_array().map(Vec::len), Some(1));
    let listed = workspace.run(&["keys", "list", "--json"]).json();
    let row = listed.as_array().expect("rows").iter().find(|row| row["kid"] == "CrmKey1").expect("listed");
    assert_eq!(row["remote"], "CrmKey1:1");
    let examined = workspace.run(&["doctor", "--json", "--verbose"]).stdout;
    assert!(
        examined.contains("store `vault` signs with `CrmKey1:1` for `CrmKey1` (RSA, 2048 bits)"),
        "{examined}"
    );
    assert!(examined.contains("is logged in until"), "{examined}");
    let minted = workspace.run(&["mint", "oauth.crm"]).ok();
    verified(minted.trim(), &service.jwks("/keysets/crm/jwks.json").await);
    let metrics = service.metrics().await;
    assert!(
        metrics.contains(
            "tokenmint_store_requests_total{operation=\"sign\",outcome=\"success\",store=\"vault\"}"
        ),
        "{metrics}"
    );
}

/// RS512, and an identity profile: `check` says what it can carry.
#[tokio::test]
async fn a_key_of_a_store_signs_identity_tokens_with_rs512_within_its_limit() {
    let vault = FakeVault::start();
    vault.add_version("web", &KEYS.web512);
    let workspace = empty_workspace(&vault.address, "max_signatures_per_second = 7");
    let all = text(&workspace, "tokenmint.toml");
    let all = all.replace("directory = \"keys/crm\"\nsigned_by = \"vault\"", "directory = \"keys/crm\"");
    let all = all
        .replace("directory = \"keys/web512\"", "directory = \"keys/web512\"\nsigned_by = \"vault\"")
        .replace("allow = [\"identity.web\",", "allow = [\"identity.web\", \"identity.web512\",");
    workspace.configure(&all);
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.crm);
    fs::remove_file(workspace.path("keys/web512/Web512.key")).expect("a file");
    workspace.write("keys/web512/keyset.toml", &entry("Web512", "web:1"));
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 0, "{}", checked.stderr);
    assert!(checked.stderr.contains("at most 7 tokens a second"), "{}", checked.stderr);
    let service = workspace.serve().await;
    let asked = json!({"sub": "user-1", "profile": "web512"});
    let minted = service.post("/identity-token", &asked).await.ok();
    let token = minted["token"].as_str().expect("a token");
    assert_eq!(unverified(token).0["alg"], "RS512");
    verified(token, &service.jwks("/keysets/web512/jwks.json").await);
}

/// No bad signature leaves, others work, and all is well again without a restart.
#[tokio::test]
async fn each_trouble_of_the_store_costs_its_own_tokens_alone_and_ends_by_itself() {
    let (vault, workspace) = workspace();
    let service = workspace.serve().await;
    kid_that_signs(&service).await;
    for (trouble, _) in TROUBLES {
        vault.has(*trouble);
        let answer = assertion(&service).await;
        answer.refused(503, "temporarily_unavailable", None);
        let wait: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((1..=5).contains(&wait), "{wait}");
        service.post("/identity-token", &user_1()).await.ok();
        assert_eq!(service.jwks("/keysets/crm/jwks.json").await.keys.len(), 1);
        assert!(service.get("/readyz").await.status.is_success(), "{trouble:?}");
        vault.has(Trouble::None);
        let recovered = async || assertion(&service).await.status.is_success();
        eventually_within(Duration::from_secs(30), &format!("{trouble:?} is over"), recovered).await;
        kid_that_signs(&service).await;
    }
    let log = service.whole_log().await;
    for (trouble, said) in TROUBLES {
        assert!(log.contains(&format!("store `vault` {said}")) || log.contains(said), "{trouble:?}: {log}");
    }
}

/// A store that doesn't answer is asked now and then, and the log has one line for the outage and one for its end.
#[tokio::test]
async fn an_outage_of_the_store_is_no_storm_of_requests_and_no_flood_of_errors() {
    let (vault, workspace) = workspace();
    let service = workspace.serve().await;
    vault.has(Trouble::Sealed);
    let asked = vault.asked("sign");
    let begin = Instant::now();
    for _ in 0..200 {
        assertion(&service).await.refused(503, "temporarily_unavailable", None);
    }
    // Three failures with a retry each, then one attempt in five seconds.
    let bound = 6 + 2 * (1 + usize::try_from(begin.elapsed().as_secs()).expect("small") / 5);
    let asked = vault.asked("sign") - asked;
    assert!((6..=bound).contains(&asked), "{asked}");
    vault.has(Trouble::None);
    eventually("it signs again", async || assertion(&service).await.status.is_success()).await;
    let log = service.whole_log().await;
    assert_eq!(log.matches("the store doesn't sign").count(), 1, "{log}");
    assert_eq!(log.matches("the store signs again").count(), 1, "{log}");
}

/// A token that somebody revoked, and one whose life is half over.
#[tokio::test]
async fn a_revoked_or_ageing_login_is_replaced_without_a_failed_request() {
    let (vault, workspace) = workspace();
    workspace.write_key("jwt", JWT);
    let login = format!("auth = \"kubernetes\"\nrole = \"{ROLE}\"\njwt_file = \"jwt\"");
    workspace.configure(&remote_configuration(&vault.address, &login, ""));
    let service = workspace.serve().await;
    let at_start = vault.logins();
    kid_that_signs(&service).await;
    kid_that_signs(&service).await;
    assert_eq!(vault.logins(), at_start + 1, "the session is kept");
    vault.leases(2);
    vault.has(Trouble::Revoked);
    kid_that_signs(&service).await;
    assert_eq!(vault.logins(), at_start + 2, "once");
    // A lease of two seconds: after one, the next signature logs in again.
    let logins = vault.logins();
    eventually("another login", async || {
        kid_that_signs(&service).await;
        vault.logins() > logins
    })
    .await;
}

/// The token of the last login is still valid, so it serves until its end.
#[tokio::test]
async fn a_login_that_fails_ends_no_session_before_its_time() {
    let (vault, workspace) = workspace();
    workspace.write_key("jwt", JWT);
    let login = format!("auth = \"kubernetes\"\nrole = \"{ROLE}\"\njwt_file = \"jwt\"");
    workspace.configure(&remote_configuration(&vault.address, &login, ""));
    let service = workspace.serve().await;
    // It is due after a second and a half.
    vault.leases(3);
    kid_that_signs(&service).await;
    vault.has(Trouble::RefusesLogin);
    let refused = "tokenmint_store_requests_total{operation=\"login\",outcome=\"denied\",store=\"vault\"} ";
    let begin = Instant::now();
    loop {
        let answer = assertion(&service).await;
        // A slow machine may be past the end of the session.
        assert!(answer.status.is_success() || begin.elapsed() > Duration::from_secs(3), "{}", answer.text);
        if service.metrics().await.contains(refused) {
            break;
        }
    }
    eventually("the end of the session", async || assertion(&service).await.status == 503).await;
    vault.has(Trouble::None);
    eventually_within(Duration::from_secs(30), "another login", async || {
        assertion(&service).await.status.is_success()
    })
    .await;
}

/// The limits hold for all keys of the store together, and what is too much is refused with `Retry-After`.
#[tokio::test]
async fn more_signatures_than_the_limits_allow_wait_and_are_then_refused() {
    let (vault, workspace) = workspace_with("max_concurrent_signatures = 3\nmax_signatures_per_second = 20");
    let service = workspace.serve().await;
    vault.takes(Duration::from_millis(30));
    let asked = vault.asked("sign");
    let begin = Instant::now();
    let answers = join_all((0..100).map(|_| {
        Answer::of_one_of_many(
            service.request(reqwest::Method::POST, "/oauth-assertion").bearer_auth(API_KEY).json(&json!({})),
        )
    }))
    .await;
    let took = begin.elapsed();
    let (minted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status.is_success());
    assert!(!minted.is_empty() && !refused.is_empty(), "{} minted", minted.len());
    for answer in refused {
        answer.refused(503, "overloaded", None);
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert!(vault.most_signatures_at_once() <= 3, "{} at once", vault.most_signatures_at_once());
    let asked = vault.asked("sign") - asked;
    // A burst of two, and twenty a second.
    let allowed = 3 + 20 * took.as_millis() / 1_000;
    assert!(asked as u128 <= allowed && asked == minted.len(), "{asked} in {took:?}");
    eventually("another signature", async || assertion(&service).await.status.is_success()).await;
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_closes_the_keyset_until_it_answers() {
    let port = free_port();
    let (vault, workspace) = workspace();
    let away = format!("http://127.0.0.1:{port}");
    workspace.configure(&remote_configuration(&away, "token_file = \"vault-token\"", ""));
    let service = workspace.serve().await;
    let readiness = service.get("/readyz").await;
    let reason = readiness.json()["reason"].as_str().expect("a reason").to_owned();
    assert_eq!(readiness.status.as_u16(), 503);
    assert!(
        reason.contains("can't sign with `crm-key:1` for `CrmKey1`: store `vault` doesn't answer"),
        "{reason}"
    );
    assertion(&service).await.refused(503, "temporarily_unavailable", None);
    service.get("/keysets/crm/jwks.json").await.refused(503, "temporarily_unavailable", None);
    service.post("/identity-token", &user_1()).await.ok();
    let late = vault.restart_at(port);
    eventually("the keyset opens", async || service.get("/readyz").await.status.is_success()).await;
    assert_eq!(kid_that_signs(&service).await, "CrmKey1");
    drop(late);
}

/// A reload doesn't ask for what is known, and what it can't learn keeps nothing else from being taken over.
#[tokio::test]
async fn a_store_that_is_away_at_a_reload_costs_no_key_in_memory() {
    let (vault, workspace) = workspace();
    let service = workspace.serve().await;
    let before = service.jwks("/keysets/crm/jwks.json").await;
    vault.has(Trouble::Silent);
    let read = vault.asked("read");
    let changed = text(&workspace, "tokenmint.toml").replace("ttl = \"30m\"", "ttl = \"20m\"");
    workspace.configure(&changed);
    service.logged("reloaded").await;
    assert_eq!(vault.asked("read"), read, "nothing is asked");
    vault.has(Trouble::Sealed);
    let both = entry("CrmKey1", "crm-key:1")
        + "[[key]]\nkid = \"CrmKey2\"\nsign_from = 2999-01-01T00:00:00Z\nremote = \"crm-key:2\"\n";
    workspace.write(SCHEDULE, &both);
    service.logged("can't sign with `crm-key:2` for `CrmKey2`: store `vault` doesn't answer").await;
    assert_eq!(service.jwks("/keysets/crm/jwks.json").await, before);
    vault.has(Trouble::None);
    eventually("both keys are published", async || {
        service.jwks("/keysets/crm/jwks.json").await.keys.len() == 2
    })
    .await;
    assert_eq!(kid_that_signs(&service).await, "CrmKey1");
}

/// Another version in the store signs only once keyset.toml lists it.
#[tokio::test]
async fn a_rotation_in_the_store_changes_nothing_by_itself() {
    let (vault, workspace) = workspace();
    let service = workspace.serve().await;
    let before = service.jwks("/keysets/crm/jwks.json").await;
    vault.add_version("crm-key", &KEYS.spare[1]);
    assert_eq!(kid_that_signs(&service).await, "CrmKey1");
    assert_eq!(service.jwks("/keysets/crm/jwks.json").await, before);
    let rotated = ["keys", "rotate", "--keyset", "crm", "--emergency", "--remote-key", "crm-key:3"];
    workspace.run(&rotated).ok();
    eventually("the third version signs", async || kid_that_signs(&service).await == "CrmKey2").await;
    assert!(text(&workspace, SCHEDULE).contains("remote = \"crm-key:3\""));
    // Without --remote-key, the store makes a key.
    workspace.run(&["keys", "rotate", "--keyset", "crm", "--emergency"]).ok();
    eventually("a new key signs", async || kid_that_signs(&service).await == "CrmKey3").await;
    assert!(text(&workspace, SCHEDULE).contains("remote = \"CrmKey3:1\""));
    assert!(!workspace.path("keys/crm/CrmKey3.key").exists());
}

/// From a file to a store, without a moment in which no key signs.
#[tokio::test]
async fn a_keyset_moves_from_a_file_to_the_store_by_a_rotation() {
    let (_vault, workspace) = workspace();
    fs::remove_file(workspace.path(SCHEDULE)).expect("a file");
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.crm);
    let service = workspace.serve().await;
    assert_eq!(kid_that_signs(&service).await, "CrmKey1");
    workspace.run(&["keys", "rotate", "--keyset", "crm", "--emergency"]).ok();
    eventually("the store's key signs", async || kid_that_signs(&service).await == "CrmKey2").await;
    assert_eq!(service.jwks("/keysets/crm/jwks.json").await.keys.len(), 2);
}

#[tokio::test]
async fn a_retired_key_of_a_store_signs_no_more_under_any_id() {
    let vault = FakeVault::start();
    vault.add_version("crm-key", &KEYS.crm);
    let workspace = empty_workspace(&vault.address, "");
    workspace.run(&["keys", "new", "CrmKey1", "--keyset", "crm", "--remote-key", "crm-key:1"]).ok();
    let service = workspace.serve().await;
    for again in [["new", "Copy"], ["rotate", "--emergency"]] {
        let command = [&["keys"], &again[..], &["--keyset", "crm", "--remote-key", "crm-key:1"]].concat();
        let said = workspace.run(&command);
        assert_ne!(said.code(), 0, "{command:?}");
        assert!(said.stderr.contains("`crm-key:1` is the key of `CrmKey1` already"), "{}", said.stderr);
    }
    let new = ["keys", "rotate", "--keyset", "crm", "--emergency", "--kid", "Next"];
    workspace.run(&new).ok();
    eventually("the new key signs", async || kid_that_signs(&service).await == "Next").await;
    let jwk = ["keys", "retire", "CrmKey1", "--now"];
    let said = workspace.run(&jwk);
    assert!(said.code() == 0 && !said.stderr.contains("can't be found"), "{}", said.stderr);
    eventually("it is gone", async || {
        let set = service.jwks("/keysets/crm/jwks.json").await;
        set.keys.iter().all(|key| key.common.key_id.as_deref() != Some("CrmKey1"))
    })
    .await;
    // The same key of the store, listed again under another id.
    let listed = text(&workspace, SCHEDULE) + &entry("Copy", "crm-key:1");
    workspace.write(SCHEDULE, &listed);
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 64, "{}", checked.stderr);
    assert!(checked.stderr.contains("CrmKey1"), "{}", checked.stderr);
    assert_eq!(kid_that_signs(&service).await, "Next");
    drop(vault);
}

/// Somebody deletes the key in the store: that is named, and it costs the other keys nothing.
#[tokio::test]
async fn a_key_that_is_deleted_in_the_store_is_named() {
    let (vault, workspace) = workspace();
    let service = workspace.serve().await;
    vault.remove_key("crm-key");
    assertion(&service).await.refused(503, "temporarily_unavailable", None);
    service.post("/identity-token", &user_1()).await.ok();
    service.logged("can't sign with the key `crm-key:1`: signing key not found").await;
}

/// Each mistake in the files has a message that says so.
#[test]
fn each_mistake_in_a_remote_key_is_named() {
    let (vault, workspace) = workspace();
    let good = text(&workspace, "tokenmint.toml");
    let refused = |said: &str| {
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{said}: {}", checked.stderr);
        assert!(checked.stderr.contains(said), "{said}: {}", checked.stderr);
        assert_eq!(
            checked.stderr.matches("keysets.crm").count().max(1),
            1,
            "one problem: {}",
            checked.stderr
        );
    };
    for (remote, said) in [
        ("crm-key", "has versions of each key, and `remote` must say which one: for example `crm-key:1`"),
        ("crm-key:9", "has no version 9 of the key `crm-key`, but 1, 2"),
        ("crm-key:0", "must be a store's name for a key"),
        ("crm-key:", "must be a store's name for a key"),
        ("crm-key:-1", "must be a store's name for a key"),
        ("crm-key:+1", "must be a store's name for a key"),
        ("crm-key:01", "must be a store's name for a key"),
        ("crm-key:4294967296", "must be a store's name for a key"),
        ("crm-key.:1", "can't have a key `crm-key.`"),
        ("no such key", "must be a store's name for a key"),
        ("../sys/seal:1", "must be a store's name for a key"),
        ("a/../../sys/seal:1", "can't have a key `a/../../sys/seal`"),
        ("other:1", "has no key `other` at `transit`"),
        ("seal:1", "has the key `seal` with type aes256-gcm96: Salesforce needs an RSA key"),
    ] {
        workspace.write(SCHEDULE, &entry("CrmKey1", remote));
        refused(said);
    }
    workspace.write(SCHEDULE, &entry("CrmKey1", "crm-key:1"));
    workspace.configure(&good.replace("signed_by = \"vault\"", ""));
    refused("says that `CrmKey1` is a key of a store, and the keyset has no `signed_by`");
    workspace.configure(&good.replace("signed_by = \"vault\"", "signed_by = \"volt\""));
    refused("`volt` isn't a store; defined: `stores.vault`");
    workspace
        .configure(&good.replace("mount", "x").replace("[stores.vault]", "[stores.vault]\nmount = \"x\""));
    refused("has no transit secrets engine at `x`");
    workspace.configure(&good.replace("kind = \"vault\"", "kind = \"vault\"\nmax_signatures_per_second = 0"));
    refused("max_signatures_per_second");
    workspace.configure(&good);
    workspace.write_key("keys/crm/CrmKey1.key", &KEYS.crm);
    refused("says that `CrmKey1` is a key of a store, and");
    fs::remove_file(workspace.path("keys/crm/CrmKey1.key")).expect("a file");
    vault.has(Trouble::OtherKey);
    refused("returned a signature that the public key doesn't verify");
    vault.has(Trouble::None);
    workspace.run(&["check"]).ok();
    fs::remove_file(workspace.path(SCHEDULE)).expect("a file");
    refused("`tokenmint keys new KID --remote --keyset crm` makes one");
}

#[test]
fn commands_that_make_remote_keys_say_what_is_wrong() {
    let (vault, workspace) = workspace();
    let failed = |arguments: &[&str], said: &str| {
        let ran = workspace.run(arguments);
        assert_ne!(ran.code(), 0, "{arguments:?}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    };
    failed(&["keys", "new", "Web2", "--keyset", "web", "--remote"], "keysets.web has no `signed_by`");
    failed(&["keys", "new", "crm-key", "--keyset", "crm"], "has a key `crm-key` already");
    failed(&["keys", "new", "a~b", "--keyset", "crm"], "can't have a key `a~b`");
    failed(&["keys", "new", "--keyset", "crm", "--remote"], "give the key an id");
    failed(&["keys", "new", "New", "--keyset", "crm", "--remote-key", "none:1"], "has no key `none`");
    vault.has(Trouble::Sealed);
    failed(
        &["keys", "new", "New", "--keyset", "crm", "--remote"],
        "store `vault` doesn't answer: Vault is sealed",
    );
    assert!(!workspace.path("keys/crm/New.crt").exists() && !workspace.path("keys/crm/New.jwk").exists());
    assert!(!text(&workspace, SCHEDULE).contains("New"));
}
