//! Keys that a store seals: `sealed_by`, `tokenmint keys seal`, and what the service does while the store is away. `tests/interop/test_stores.py`
//! has the same with a real OpenBao.

use serde_json::{Value, json};

use crate::fake_vault::{FakeVault, JWT, ROLE, SEAL_KEY, TOKEN, Trouble};
use crate::reload::prime_in_memory;
use crate::support::{
    API_KEY, KEYS, Running, Workspace, another_user, configuration, eventually, free_port, sha256_hex,
    unverified, user_1, verified,
};

/// The sealed key of the keyset `web`.
const SEALED: &str = "keys/web/WebAppKey1.key.sealed";
const PLAIN: &str = "keys/web/WebAppKey1.key";

/// A configuration whose keyset `web` is sealed by the store at `address`, which is logged in to as `login` says.
fn sealed_configuration(address: &str, login: &str) -> String {
    let seal = format!("directory = \"keys/web\"\nsealed_by = \"vault\"\nseal_key = \"{SEAL_KEY}\"");
    let store = format!("[stores.vault]\nkind = \"vault\"\naddress = \"{address}\"\n{login}\n");
    configuration().replace("directory = \"keys/web\"", &seal) + &store
}

/// A workspace whose store is at `address`, with the key of `web` still in the clear.
pub fn unsealed_workspace(address: &str) -> Workspace {
    let workspace = Workspace::bare();
    workspace.write_key("vault-token", &format!("{TOKEN}\n"));
    workspace.configure(&sealed_configuration(address, "token_file = \"vault-token\""));
    workspace
}

/// A workspace with a sealed key.
fn workspace(vault: &FakeVault) -> Workspace {
    let workspace = unsealed_workspace(&vault.address);
    workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]).ok();
    workspace
}

fn text(workspace: &Workspace, name: &str) -> String {
    std::fs::read_to_string(workspace.path(name)).expect(name)
}

async fn kid_that_signs(service: &Running) -> String {
    let minted = service.post("/identity-token", &user_1()).await.ok();
    let token = minted["token"].as_str().expect("a token");
    let set = service.jwks("/keysets/web/jwks.json").await;
    assert_eq!(verified(token, &set)["sub"], "user-1");
    unverified(token).0["kid"].as_str().expect("a kid").to_owned()
}

async fn is_ready(service: &Running) -> bool {
    service.get("/readyz").await.status.is_success()
}

#[tokio::test]
async fn a_sealed_key_signs_and_its_plain_text_is_in_no_file() {
    let vault = FakeVault::start();
    let workspace = unsealed_workspace(&vault.address);
    let checked = workspace.run(&["check"]);
    assert!(checked.stderr.contains("lies in the clear"), "{}", checked.stderr);
    let sealed = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web", "--json"]).json();
    assert_eq!(sealed["kid"], "WebAppKey1");
    assert!(!workspace.path(PLAIN).exists() && workspace.path(SEALED).exists());
    let secret: Vec<&str> = KEYS.web.lines().filter(|line| !line.starts_with('-')).collect();
    for file in std::fs::read_dir(workspace.path("keys/web")).expect("a folder") {
        let content = std::fs::read_to_string(file.expect("an entry").path()).expect("text");
        assert!(secret.iter().all(|line| !content.contains(line)), "{content}");
    }
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.stderr.matches("warning").count(), 0, "{}", checked.stderr);
    let service = workspace.serve().await;
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    let asked = vault.asked("decrypt");
    for _ in 0..20 {
        service.post("/identity-token", &another_user()).await.ok();
        service.get("/keysets/web/jwks.json").await.ok();
    }
    assert_eq!(vault.asked("decrypt"), asked, "no request asks the store");
    let again = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]);
    assert!(again.code() == 1 && again.stderr.contains("is sealed already"), "{}", again.stderr);
}

/// The plain key stays until the service has opened the sealed one.
#[tokio::test]
async fn a_running_service_takes_over_the_sealed_key_before_the_plain_one_is_removed() {
    let vault = FakeVault::start();
    let workspace = unsealed_workspace(&vault.address);
    let service = workspace.serve().await;
    let before = service.jwks("/keysets/web/jwks.json").await;
    let said = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]).ok();
    assert!(said.contains("uses the sealed key"), "{said}");
    assert!(!workspace.path(PLAIN).exists());
    assert_eq!(service.jwks("/keysets/web/jwks.json").await, before);
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
}

/// A file that was moved, or whose names or ciphertext were changed.
#[tokio::test]
async fn a_sealed_key_opens_under_its_own_name_and_unchanged_only() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let sealed: Value = serde_json::from_str(&text(&workspace, SEALED)).expect("JSON");
    let refused = |name: &str, content: &Value, reason: &str| {
        workspace.write(name, &content.to_string());
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{name}: {reason}");
        assert!(checked.stderr.contains(reason), "{reason}: {}", checked.stderr);
        std::fs::remove_file(workspace.path(name)).expect("a file");
    };
    let with = |changes: &[(&str, Value)]| {
        let mut changed = sealed.clone();
        for (name, value) in changes {
            changed[*name] = value.clone();
        }
        changed
    };
    workspace.run(&["keys", "rotate", "--keyset", "web"]).ok();
    let second: Value =
        serde_json::from_str(&text(&workspace, "keys/web/WebAppKey2.key.sealed")).expect("JSON");
    for name in ["WebAppKey2.key.sealed", "WebAppKey2.crt", "WebAppKey1.key.sealed", "keyset.toml"] {
        std::fs::remove_file(workspace.path(&format!("keys/web/{name}"))).expect("a file");
    }
    let other = "keys/web/Other.key.sealed";
    refused(other, &sealed, "is sealed for the key `WebAppKey1` of the keyset `web`");
    let not_opened = "can't decrypt with the key `seal`: cipher: message authentication failed";
    let not_authentic = "can't be opened with its data key";
    refused(other, &with(&[("kid", json!("Other"))]), not_opened);
    refused(SEALED, &with(&[("keyset", json!("crm"))]), "of the keyset `crm`");
    refused(SEALED, &with(&[("store", json!("aws-kms"))]), "of a store of kind `aws-kms`");
    refused(SEALED, &with(&[("seal_key", json!("x"))]), "is sealed with the key `x`");
    refused(SEALED, &with(&[("tokenmint_sealed_key", json!(2))]), "has the format 2");
    refused(SEALED, &with(&[("n", json!("AQAB"))]), "holds another key than it says");
    refused(SEALED, &with(&[("more", json!(1))]), "isn't a sealed key");
    refused(SEALED, &json!("text"), "isn't a sealed key");
    // Parts of another key's file.
    refused(SEALED, &with(&[("data_key", second["data_key"].clone())]), not_opened);
    refused(SEALED, &with(&[("ciphertext", second["ciphertext"].clone())]), not_authentic);
    for (part, reason, without) in
        [("data_key", not_opened, not_opened), ("ciphertext", not_authentic, "isn't a sealed key")]
    {
        let mut flipped: Vec<char> = sealed[part].as_str().expect("text").chars().collect();
        let middle = flipped.len() / 2;
        flipped[middle] = if flipped[middle] == 'A' { 'B' } else { 'A' };
        refused(SEALED, &with(&[(part, json!(flipped.iter().collect::<String>()))]), reason);
        refused(SEALED, &with(&[(part, json!(""))]), without);
    }
    // Sealed with the same key by another service, or for another service's key of this name.
    let key = "a data key of thirty-two letters";
    for context in ["web/WebAppKey1", "other/web/WebAppKey1", ""] {
        refused(SEALED, &with(&[("data_key", json!(vault.seal(key, context)))]), not_opened);
    }
    let context = "tokenmint/web/WebAppKey1";
    refused(SEALED, &with(&[("data_key", json!(vault.seal(key, context)))]), not_authentic);
    let short = vault.seal("short", context);
    refused(SEALED, &with(&[("data_key", json!(short))]), "decrypts it to something else than a data key");
    // A store that doesn't authenticate the name.
    vault.has(Trouble::IgnoresContext);
    refused(other, &with(&[("kid", json!("Other"))]), not_authentic);
    vault.has(Trouble::None);
    workspace.write(SEALED, &sealed.to_string());
    workspace.run(&["check"]).ok();
}

/// Two keysets of one store: the file of one is no file of the other.
#[test]
fn a_sealed_key_of_another_keyset_is_refused_by_name() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let crm = format!("directory = \"keys/crm\"\nsealed_by = \"vault\"\nseal_key = \"{SEAL_KEY}\"");
    workspace.configure(&text(&workspace, "tokenmint.toml").replace("directory = \"keys/crm\"", &crm));
    workspace.run(&["keys", "seal", "CrmKey1", "--keyset", "crm"]).ok();
    workspace.run(&["check"]).ok();
    workspace.write("keys/web/CrmKey1.key.sealed", &text(&workspace, "keys/crm/CrmKey1.key.sealed"));
    std::fs::remove_file(workspace.path(SEALED)).expect("a file");
    std::fs::remove_file(workspace.path("keys/crm/CrmKey1.key.sealed")).expect("a file");
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 64);
    assert!(checked.stderr.contains("for the key `CrmKey1` of the keyset `crm`"), "{}", checked.stderr);
}

/// The keyset is closed, and nothing else is. It opens by itself, without a restart.
#[tokio::test]
async fn a_store_that_is_away_at_the_start_is_asked_again_until_it_answers() {
    let port = free_port();
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    workspace.configure(&sealed_configuration(
        &format!("http://127.0.0.1:{port}"),
        "token_file = \"vault-token\"",
    ));
    let service = workspace.serve().await;
    let answer = service.get("/readyz").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (503, &json!("keys are unavailable")));
    let reason = answer.json()["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("store `vault` doesn't answer: Connection refused"), "{reason}");
    assert!(service.get("/livez").await.status.is_success());
    service.post("/identity-token", &user_1()).await.refused(503, "temporarily_unavailable", None);
    // A set without its keys would make verifiers refuse the tokens of other replicas.
    for path in ["/keysets/web/jwks.json", "/.well-known/jwks.json"] {
        let answer = service.get(path).await;
        answer.refused(503, "temporarily_unavailable", None);
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let others = service.jwks("/keysets/crm/jwks.json").await;
    assert_eq!(others.keys.len(), 1);
    assert!(service.post("/oauth-assertion", &json!({})).await.status.is_success());

    let _late = vault.restart_at(port);
    eventually("the keyset opens", async || is_ready(&service).await).await;
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    assert_eq!(service.jwks("/.well-known/jwks.json").await.keys.len(), 3);
    let log = service.whole_log().await;
    assert_eq!(log.matches("store `vault` doesn't answer").count(), 1, "one line: {log}");
}

/// Somebody revokes the token, or seals the store, while the service restarts; then they set it right.
#[tokio::test]
async fn each_trouble_of_a_store_at_the_start_is_named_and_ends_without_a_restart() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    for (trouble, reason) in [
        (Trouble::Sealed, "doesn't answer: Vault is sealed"),
        (Trouble::Denied, "refuses tokenmint: permission denied"),
        (Trouble::Throttled, "asks for fewer requests: request path \"transit\": rate limit quota exceeded"),
        (Trouble::Broken, "doesn't answer: internal error"),
        (Trouble::Garbage, "doesn't answer: its answer isn't one of Vault's"),
        (Trouble::TooLarge, "doesn't answer: its answer has more than 64 KiB"),
        (Trouble::Standby, "doesn't answer: status 307"),
        (Trouble::Silent, "doesn't answer: not within 5 s"),
    ] {
        vault.has(trouble);
        let service = workspace.serve().await;
        let answer = service.get("/readyz").await.json();
        let said = answer["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{trouble:?}: {said}");
        vault.has(Trouble::None);
        eventually(&format!("{trouble:?} is over"), async || is_ready(&service).await).await;
    }
}

/// The keys in memory go on, and the new key is taken over once the store answers.
#[tokio::test]
async fn a_store_that_is_away_at_a_reload_costs_no_key_in_memory() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let service = workspace.serve().await;
    let before = service.jwks("/keysets/web/jwks.json").await;
    let asked = vault.asked("decrypt");
    // Another host makes the key, and this one gets its files.
    let elsewhere = unsealed_workspace(&vault.address);
    std::fs::remove_file(elsewhere.path(PLAIN)).expect("a file");
    elsewhere.run(&["keys", "new", "WebAppKey2", "--keyset", "web"]).ok();
    vault.has(Trouble::Sealed);
    let file = "keys/web/WebAppKey2.key.sealed";
    workspace.write(file, &text(&elsewhere, file));
    workspace.write(
        "keys/web/keyset.toml",
        "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
         [[key]]\nkid = \"WebAppKey2\"\nsign_from = 2999-01-01T00:00:00Z\n",
    );
    service.logged("store `vault` doesn't answer: Vault is sealed").await;
    assert_eq!(service.jwks("/keysets/web/jwks.json").await, before);
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    assert!(is_ready(&service).await);
    vault.has(Trouble::None);
    eventually("both keys are published", async || {
        service.jwks("/keysets/web/jwks.json").await.keys.len() == 2
    })
    .await;
    assert!(vault.asked("decrypt") > asked);
    let log = service.whole_log().await;
    assert_eq!(log.matches("store `vault` doesn't answer").count(), 1, "one line: {log}");
}

/// A reload that needs nothing of the store doesn't ask it.
#[tokio::test]
async fn other_changes_are_taken_over_while_the_store_is_away() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let service = workspace.serve().await;
    let asked = vault.asked("decrypt");
    vault.has(Trouble::Silent);
    let changed = text(&workspace, "tokenmint.toml").replace("ttl = \"30m\"", "ttl = \"20m\"");
    workspace.configure(&changed);
    service.logged("reloaded").await;
    let minted = service.post("/identity-token", &user_1()).await.ok();
    assert_eq!(minted["expires_in"], 1200);
    assert_eq!(vault.asked("decrypt"), asked);
}

/// The rest of a reload is taken over: a removed API key must not work on because a store is away.
#[tokio::test]
async fn a_key_that_is_not_opened_keeps_no_other_change_from_being_taken_over() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let service = workspace.serve().await;
    workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency"]).ok();
    assert_eq!(kid_that_signs(&service).await, "WebAppKey2");
    drop(service);
    // The service starts with the first key; the second one comes back while the store is away.
    let (schedule, second) = ("keys/web/keyset.toml", "keys/web/WebAppKey2.key.sealed");
    let (all, sealed) = (text(&workspace, schedule), text(&workspace, second));
    let first = all.split("[[key]]").nth(1).expect("an entry");
    workspace.write(schedule, &format!("[[key]]{first}"));
    std::fs::remove_file(workspace.path(second)).expect("a file");
    let service = workspace.serve().await;
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    vault.has(Trouble::Sealed);
    workspace.write(second, &sealed);
    workspace.write(schedule, &all);
    let without_key =
        text(&workspace, "tokenmint.toml").replace(&sha256_hex(API_KEY), &sha256_hex("another"));
    workspace.configure(&without_key);
    eventually("the removed API key is refused", async || {
        service.post("/identity-token", &another_user()).await.status == 401
    })
    .await;
    let mint =
        async || service.post_text("/identity-token", "another", another_user().to_string()).await.ok();
    assert_eq!(mint().await["kid"], "WebAppKey1", "the key in memory goes on");
    assert!(is_ready(&service).await);
    let status = service.get("/status").await.json();
    assert_eq!(status["reload"]["in_force"], false);
    let problem = status["reload"]["problems"][0]["message"].as_str().expect("a problem").to_owned();
    assert!(problem.contains("store `vault` doesn't answer: Vault is sealed"), "{problem}");
    assert!(service.metrics().await.contains("\ntokenmint_config_last_reload_successful 0\n"));
    vault.has(Trouble::None);
    eventually("the second key signs", async || mint().await["kid"] == "WebAppKey2").await;
    eventually("all is in force", async || service.get("/status").await.json()["reload"]["in_force"] == true)
        .await;
}

/// Also a key that waits in memory for another one of its keyset goes when it is retired, even if the configuration is broken.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn a_retired_key_of_a_closed_keyset_leaves_memory() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency"]).ok();
    let second = "keys/web/WebAppKey2.key.sealed";
    let mut broken: Value = serde_json::from_str(&text(&workspace, second)).expect("JSON");
    broken["data_key"] = json!("vault:v1:another");
    workspace.write(second, &broken.to_string());
    let service = workspace.serve().await;
    assert!(!is_ready(&service).await);
    assert!(prime_in_memory(&service) > 0, "the first key is open");
    workspace.configure("broken");
    service.logged("is rejected").await;
    let schedule = "keys/web/keyset.toml";
    let retired =
        text(&workspace, schedule).replacen("[[key]]", "[[key]]\nretired = 2026-11-30T00:00:00Z", 1);
    workspace.write(schedule, &retired);
    eventually("the retired key has left memory", async || prime_in_memory(&service) == 0).await;
}

/// The operator follows the reason, so it must be that of now.
#[tokio::test]
async fn the_reason_of_a_closed_keyset_is_the_latest() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    vault.has(Trouble::Sealed);
    let service = workspace.serve().await;
    for (trouble, reason) in [
        (Trouble::Sealed, "Vault is sealed"),
        (Trouble::Denied, "permission denied, at transit/decrypt/seal"),
        (Trouble::Throttled, "rate limit quota exceeded"),
    ] {
        vault.has(trouble);
        eventually(reason, async || service.get("/readyz").await.text.contains(reason)).await;
        service.logged(reason).await;
    }
    vault.has(Trouble::None);
    eventually("the keyset opens", async || is_ready(&service).await).await;
}

/// A proxy or a store may answer anything for a while. A start that ended with it would end other keysets too.
#[tokio::test]
async fn no_answer_of_a_store_ends_the_start() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let right = text(&workspace, "tokenmint.toml");
    let mount = right.replace("kind = \"vault\"\n", "kind = \"vault\"\nmount = \"other\"\n");
    let no_token = right.replace("\"vault-token\"", "\"no-token\"");
    for (configuration, trouble, reason) in [
        (&right, Trouble::ShortText, "decrypts it to something else than a data key"),
        (&mount, Trouble::None, "has no transit secrets engine at `other`"),
        (&no_token, Trouble::None, "`token_file` can't be opened"),
    ] {
        workspace.configure(configuration);
        vault.has(trouble);
        let checked = workspace.run(&["check"]);
        assert!(checked.code() == 64 && checked.stderr.contains(reason), "{}", checked.stderr);
        let service = workspace.serve().await;
        assert!(service.get("/readyz").await.text.contains(reason));
        assert!(service.post("/oauth-assertion", &json!({})).await.status.is_success());
        vault.has(Trouble::None);
        workspace.configure(&right);
        eventually("the keyset opens", async || is_ready(&service).await).await;
    }
}

/// A keyset that is closed since the start keeps no other change from being taken over.
#[tokio::test]
async fn another_keyset_is_rotated_while_one_is_closed() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    vault.has(Trouble::Sealed);
    let service = workspace.serve().await;
    workspace.run(&["keys", "rotate", "--keyset", "crm"]).ok();
    assert_eq!(service.jwks("/keysets/crm/jwks.json").await.keys.len(), 2);
    assert!(!is_ready(&service).await);
    vault.has(Trouble::None);
    eventually("the keyset opens", async || is_ready(&service).await).await;
}

/// An outage costs one request at a start or a check, however many keys there are.
#[test]
fn a_store_that_does_not_answer_is_asked_once_in_a_load() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    workspace.run(&["keys", "rotate", "--keyset", "web"]).ok();
    let before = vault.asked("decrypt");
    workspace.run(&["check"]).ok();
    assert_eq!(vault.asked("decrypt"), before + 2, "two keys");
    vault.has(Trouble::Broken);
    let checked = workspace.run(&["check"]);
    assert_eq!(vault.asked("decrypt"), before + 3);
    assert_eq!(checked.code(), 0);
    assert!(checked.stderr.contains("doesn't answer"), "{}", checked.stderr);
}

/// Otherwise an incomplete set of keys would be printed, or deployed to Salesforce.
#[test]
fn commands_that_need_the_keys_fail_while_the_store_is_away() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    vault.has(Trouble::Sealed);
    let reason = "a key of keysets.web isn't opened: store `vault` doesn't answer: Vault is sealed";
    for command in [
        &["jwks"][..],
        &["jwk", "WebAppKey1"],
        &["salesforce-metadata", "--out", "project"],
        &["sandbox", "--listen", "127.0.0.1:0"],
    ] {
        let ran = workspace.run(command);
        assert_eq!((ran.code(), ran.stdout.as_str()), (1, ""), "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{command:?}: {}", ran.stderr);
    }
    assert!(!workspace.path("project").exists());
    let minted = workspace.run(&["mint", "identity.web", "--sub", "user-1"]);
    assert!(minted.code() == 1 && minted.stderr.contains(reason), "{}", minted.stderr);
    let listed = workspace.run(&["keys", "list"]);
    assert!(listed.code() == 0 && listed.stderr.contains(reason), "{}", listed.stderr);
    assert!(listed.stdout.contains("CrmKey1") && !listed.stdout.contains("WebAppKey1"), "{}", listed.stdout);
}

#[tokio::test]
async fn new_keys_of_a_sealed_keyset_are_sealed() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let service = workspace.serve().await;
    let made = workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency", "--json"]).json();
    assert_eq!(
        made["files"]["private_key"].as_str().map(|path| path.ends_with("WebAppKey2.key.sealed")),
        Some(true)
    );
    assert!(!workspace.path("keys/web/WebAppKey2.key").exists());
    assert_eq!(kid_that_signs(&service).await, "WebAppKey2");
    // A retired key is replaced by a sealed one.
    workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
    workspace.run(&["keys", "retire", "WebAppKey2", "--now"]).ok();
    assert_eq!(kid_that_signs(&service).await, "WebAppKey3");
    assert!(workspace.path("keys/web/WebAppKey3.key.sealed").exists());
    assert!(!workspace.path("keys/web/WebAppKey3.key").exists());
}

/// A second run of `keys seal` ends with the sealed key alone, whatever interrupted the first one.
#[tokio::test]
async fn an_interrupted_seal_is_completed() {
    let vault = FakeVault::start();
    let workspace = unsealed_workspace(&vault.address);
    let plain = text(&workspace, PLAIN);
    let seal = || workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]);
    seal().ok();
    workspace.write_key(PLAIN, &plain);
    let checked = workspace.run(&["check"]);
    assert!(
        checked
            .stderr
            .contains("`tokenmint keys seal WebAppKey1 --keyset web` seals it and removes this file"),
        "{}",
        checked.stderr
    );
    // The sealed key can't be compared now.
    vault.has(Trouble::Sealed);
    let refused = seal();
    assert!(refused.code() == 1 && refused.stderr.contains("isn't opened"), "{}", refused.stderr);
    vault.has(Trouble::None);
    // Another key lies there.
    workspace.write_key(PLAIN, &KEYS.spare[0]);
    let refused = seal();
    assert!(refused.code() == 1 && refused.stderr.contains("is another key"), "{}", refused.stderr);
    assert!(workspace.path(PLAIN).exists());
    workspace.write_key(PLAIN, &plain);
    seal().ok();
    assert!(!workspace.path(PLAIN).exists());
    let service = workspace.serve().await;
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
}

/// The command's token may seal and open, and the service's may not open: then the plain key stays.
#[tokio::test]
async fn a_key_that_the_service_can_not_open_is_not_sealed() {
    let vault = FakeVault::start();
    let mut workspace = unsealed_workspace(&vault.address);
    workspace.write_key("service-token", "s.other\n");
    workspace.set("TOKENMINT_STORES__VAULT__TOKEN_FILE", "service-token");
    let service = workspace.serve().await;
    let before = text(&workspace, PLAIN);
    workspace.set("TOKENMINT_STORES__VAULT__TOKEN_FILE", "vault-token");
    let refused = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]);
    assert_eq!(refused.code(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("refuses tokenmint: permission denied"), "{}", refused.stderr);
    assert!(refused.stderr.contains("is removed again"), "{}", refused.stderr);
    assert!(!workspace.path(SEALED).exists());
    assert_eq!(text(&workspace, PLAIN), before);
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    workspace.set("TOKENMINT_STORES__VAULT__TOKEN_FILE", "service-token");
    workspace.run(&["check"]).ok();
}

#[test]
fn a_linked_key_is_not_sealed() {
    let vault = FakeVault::start();
    let workspace = unsealed_workspace(&vault.address);
    std::fs::rename(workspace.path(PLAIN), workspace.path("elsewhere.key")).expect("a file");
    std::os::unix::fs::symlink(workspace.path("elsewhere.key"), workspace.path(PLAIN)).expect("a link");
    let refused = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]);
    assert!(refused.code() == 1 && refused.stderr.contains("is a symbolic link"), "{}", refused.stderr);
    assert!(workspace.path(PLAIN).is_symlink() && !workspace.path(SEALED).exists());
}

/// A command that doesn't find `sealed_by` must not write a key in the clear beside sealed ones.
#[test]
fn no_plain_key_is_written_beside_sealed_ones() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let without = configuration();
    workspace.write("without.toml", &without);
    for command in [
        &["keys", "new", "Next", "--directory", "keys/web"][..],
        &["keys", "rotate", "--keyset", "web", "--config", "without.toml"],
        &["keys", "retire", "WebAppKey1", "--now", "--config", "without.toml"],
    ] {
        let ran = workspace.run(command);
        assert_eq!(ran.code(), 1, "{command:?}: {}{}", ran.stdout, ran.stderr);
        let entries = std::fs::read_dir(workspace.path("keys/web")).expect("a folder");
        let mut names =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        assert!(!names.any(|name| name.ends_with(".key")), "{command:?}");
    }
}

#[test]
fn a_key_that_can_not_be_sealed_is_not_written() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let files = || {
        let entries = std::fs::read_dir(workspace.path("keys/web")).expect("a folder");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    // `rotate` first writes the schedule that the first key needs.
    workspace.run(&["keys", "rotate", "--keyset", "web"]).ok();
    let before = files();
    for (trouble, reason) in [
        (Trouble::Sealed, "store `vault` doesn't answer"),
        (Trouble::OtherText, "returns another data key than it was given"),
        (Trouble::ShortText, "decrypts it to something else than a data key"),
    ] {
        vault.has(trouble);
        for command in [
            &["keys", "new", "Next", "--keyset", "web", "--sealed"][..],
            &["keys", "rotate", "--keyset", "web", "--emergency"],
        ] {
            let ran = workspace.run(command);
            assert!(ran.code() == 1 && ran.stderr.contains(reason), "{trouble:?}: {}", ran.stderr);
            assert_eq!(files(), before, "{trouble:?}");
        }
    }
    let plain = workspace.run(&["keys", "new", "Next", "--keyset", "crm", "--sealed"]);
    assert!(plain.code() == 1 && plain.stderr.contains("keysets.crm has no `sealed_by`"), "{}", plain.stderr);
}

/// After a rotation of the store's key, old versions can be given up.
#[tokio::test]
async fn keys_are_sealed_again() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    let service = workspace.serve().await;
    let before = text(&workspace, SEALED);
    let resealed = workspace.run(&["keys", "reseal", "--keyset", "web", "--json"]).json();
    assert_eq!(resealed[0]["kid"], "WebAppKey1");
    let after = text(&workspace, SEALED);
    assert_ne!(before, after);
    workspace.run(&["check", "--running"]).ok();
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    let none = workspace.run(&["keys", "reseal", "--keyset", "crm"]);
    assert!(none.code() == 1 && none.stderr.contains("has no `sealed_by`"), "{}", none.stderr);
}

/// A login by the JWT of the pod's service account. Each load gives its token up again.
#[test]
fn a_jwt_logs_in_and_the_token_is_given_up() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    workspace.write_key("jwt", &format!("{JWT}\n"));
    let login = |mount: &str, role: &str| {
        format!("auth = \"kubernetes\"\n{mount}role = \"{role}\"\njwt_file = \"jwt\"")
    };
    workspace.configure(&sealed_configuration(&vault.address, &login("", ROLE)));
    workspace.run(&["check"]).ok();
    assert_eq!(vault.revoked(), 1);
    // Also after a refusal, which the service tries again and again.
    vault.has(Trouble::ForbidsDecrypt);
    let checked = workspace.run(&["check"]);
    assert!(checked.stderr.contains("permission denied, at transit/decrypt/seal"), "{}", checked.stderr);
    assert_eq!(vault.revoked(), 2);
    vault.has(Trouble::None);
    for (login, reason) in [
        (login("", "other"), "the login as `other` failed: error validating token"),
        (login("auth_mount = \"k8s\"\n", ROLE), "the login as `tokenmint` failed: error validating token"),
    ] {
        workspace.configure(&sealed_configuration(&vault.address, &login));
        let checked = workspace.run(&["check"]);
        assert!(checked.stderr.contains(reason), "{}", checked.stderr);
    }
    assert_eq!(vault.revoked(), 2);
}

#[test]
fn an_unusable_file_of_a_store_is_named() {
    let vault = FakeVault::start();
    let workspace = workspace(&vault);
    for (content, reason) in
        [("", "`token_file` doesn't hold a token"), ("two words", "`token_file` doesn't hold a token")]
    {
        workspace.write_key("vault-token", content);
        let checked = workspace.run(&["check"]);
        assert!(checked.code() == 64 && checked.stderr.contains(reason), "{}", checked.stderr);
    }
    std::fs::remove_file(workspace.path("vault-token")).expect("a file");
    let checked = workspace.run(&["check"]);
    assert!(checked.stderr.contains("`token_file` can't be opened: No such file"), "{}", checked.stderr);
    for (content, reason) in
        [("no PEM", "`ca_file` holds no certificate"), ("", "`ca_file` holds no certificate")]
    {
        workspace.write("ca.pem", content);
        let login = "token_file = \"vault-token\"\nca_file = \"ca.pem\"";
        workspace.configure(&sealed_configuration(&vault.address, login));
        let checked = workspace.run(&["check"]);
        assert!(checked.stderr.contains(reason), "{}", checked.stderr);
    }
}

/// Each mistake in the configuration, with the field that the message names.
#[test]
fn mistakes_in_the_configuration_of_a_store_are_named() {
    let workspace = Workspace::bare();
    let right = sealed_configuration("https://vault.internal:8200", "token_file = \"vault-token\"");
    for (before, after, field, message) in [
        ("kind = \"vault\"", "", "stores.vault.kind", "is missing"),
        ("kind = \"vault\"", "kind = \"kms\"", "stores.vault.kind", "must be \"vault\""),
        ("address = ", "# ", "stores.vault.address", "is missing"),
        (
            "https://vault.internal:8200",
            "http://vault.internal:8200",
            "stores.vault.address",
            "must begin with https://",
        ),
        (
            "https://vault.internal:8200",
            "https://vault.internal:8200/v1",
            "stores.vault.address",
            "must have no path",
        ),
        ("token_file = ", "# ", "stores.vault.token_file", "give exactly one of `token_file` and `auth`"),
        ("token_file", "auth = \"jwt\"\ntoken_file", "stores.vault.token_file", "give exactly one"),
        ("token_file", "role = \"x\"\ntoken_file", "stores.vault.role", "is only for `auth`"),
        ("token_file = \"vault-token\"", "auth = \"jwt\"", "stores.vault.role", "is missing"),
        ("token_file = \"vault-token\"", "auth = \"jwt\"", "stores.vault.jwt_file", "is missing"),
        (
            "token_file = \"vault-token\"",
            "auth = \"ldap\"",
            "stores.vault.auth",
            "must be \"kubernetes\" or \"jwt\"",
        ),
        ("token_file", "mount = \"a b\"\ntoken_file", "stores.vault.mount", "must be a path"),
        ("token_file", "namespace = \"a//b\"\ntoken_file", "stores.vault.namespace", "must be a path"),
        ("token_file", "tokens = 1\ntoken_file", "stores.vault.tokens", "unknown key"),
        (
            "sealed_by = \"vault\"",
            "sealed_by = \"hsm\"",
            "keysets.web.sealed_by",
            "`hsm` isn't a store; defined: `stores.vault`",
        ),
        ("sealed_by = \"vault\"\n", "", "keysets.web.sealed_by", "is missing"),
        ("seal_key = \"seal\"\n", "", "keysets.web.seal_key", "is missing"),
        ("seal_key = \"seal\"", "seal_key = \"../seal\"", "keysets.web.seal_key", "must be 1 to 128 letters"),
        (
            "seal_key = \"seal\"",
            "seal_key = \"seal\"\npassphrase = \"x\"",
            "keysets.web.passphrase",
            "a sealed key has no passphrase",
        ),
        (
            "directory = \"keys/web\"",
            "key_file = \"keys/web/WebAppKey1.key\"\nkid = \"a\"",
            "keysets.web.sealed_by",
            "is only for a `directory`",
        ),
    ] {
        assert!(right.contains(before), "{before}");
        workspace.configure(&right.replace(before, after));
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{after}: {}", checked.stderr);
        let line = checked.stderr.lines().find(|line| line.starts_with(field));
        assert!(line.is_some_and(|line| line.contains(message)), "{field} {message}: {}", checked.stderr);
    }
    // A sealed file without `sealed_by`.
    workspace.configure(&configuration());
    workspace.write("keys/web/Other.key.sealed", "{}");
    workspace.write("keys/web/keyset.toml", "[[key]]\nkid = \"Other\"\nsign_from = 2026-01-01T00:00:00Z\n");
    let checked = workspace.run(&["check"]);
    assert!(
        checked.stderr.contains("is a sealed key, and the keyset has no `sealed_by`"),
        "{}",
        checked.stderr
    );
}

#[test]
fn a_store_that_no_keyset_uses_is_warned_of() {
    let workspace = Workspace::with(
        "[stores.spare]\nkind = \"vault\"\naddress = \"https://v.internal\"\ntoken_file = \"t\"\n",
    );
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 0);
    assert!(
        checked.stderr.contains("stores.spare") && checked.stderr.contains("is used by no keyset"),
        "{}",
        checked.stderr
    );
}
