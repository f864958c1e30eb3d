//! Keys that AWS KMS seals, and keys with which it signs, with a strict fake. `tests/interop/test_kms.py` has the same with the emulator `ministack`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_kms::{
    ACCESS_KEY_ID, AGENT_TOKEN, EC_KEY, FakeKms, ISSUED_SECRETS, JWT, OTHER_SEAL_KEY, REGION, ROLE_ARN,
    RSA_KEY, SEAL_KEY, SECRET_ACCESS_KEY, Trouble, arn,
};
use crate::support::{KEYS, Running, Workspace, configuration, eventually, unverified, user_1, verified};

/// The sealed key of the keyset `web`.
const SEALED: &str = "keys/web/WebAppKey1.key.sealed";

/// A configuration whose keyset `web` is sealed by the key `seal_key` of KMS at `address`.
fn sealed_configuration(address: &str, seal_key: &str) -> String {
    let seal = format!("directory = \"keys/web\"\nsealed_by = \"kms\"\nseal_key = \"{seal_key}\"");
    let store =
        format!("[stores.kms]\nkind = \"aws-kms\"\nregion = \"{REGION}\"\nendpoint = \"{address}\"\n");
    configuration().replace("directory = \"keys/web\"", &seal) + &store
}

/// A workspace with the credentials of a user, whose key of `web` still lies in the clear.
fn unsealed_workspace(kms: &FakeKms) -> Workspace {
    let mut workspace = Workspace::bare();
    workspace.configure(&sealed_configuration(&kms.address, &arn(SEAL_KEY)));
    workspace.set("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).set("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    workspace
}

/// A workspace with a sealed key.
fn workspace(kms: &FakeKms) -> Workspace {
    let workspace = unsealed_workspace(kms);
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

#[track_caller]
fn assert_hides_secrets(output: &str) {
    for secret in [SECRET_ACCESS_KEY, JWT, AGENT_TOKEN].into_iter().chain(ISSUED_SECRETS) {
        assert!(!output.contains(secret), "{secret}: {output}");
    }
}

#[tokio::test]
async fn a_key_that_kms_seals_signs_in_memory() {
    let kms = FakeKms::start();
    let workspace = unsealed_workspace(&kms);
    let checked = workspace.run(&["check"]);
    assert!(checked.stderr.contains("lies in the clear"), "{}", checked.stderr);
    workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]).ok();
    let sealed: Value = serde_json::from_str(&text(&workspace, SEALED)).expect("JSON");
    assert_eq!((&sealed["store"], &sealed["seal_key"]), (&json!("aws-kms"), &json!(arn(SEAL_KEY))));
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.stderr.matches("warning").count(), 0, "{}", checked.stderr);
    let service = workspace.serve().await;
    assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
    let asked = kms.asked("Decrypt");
    for _ in 0..5 {
        service.post("/identity-token", &user_1()).await.ok();
    }
    assert_eq!(kms.asked("Decrypt"), asked, "no request asks KMS");
    let metrics = service.metrics().await;
    assert!(metrics.contains(
        "tokenmint_store_requests_total{operation=\"unseal\",outcome=\"success\",store=\"kms\"} 1"
    ));
    assert!(!metrics.contains("operation=\"login\""), "credentials of the environment take no request");
    workspace.run(&["keys", "rotate", "--keyset", "web", "--emergency"]).ok();
    assert_eq!(kid_that_signs(&service).await, "WebAppKey2");
    workspace.run(&["keys", "reseal", "--keyset", "web"]).ok();
    assert_hides_secrets(&service.whole_log().await);
}

/// The encryption context binds a data key to its keyset and key id, and `KeyId` binds it to the configured key.
#[test]
fn a_sealed_key_opens_under_its_own_name_and_key_only() {
    let kms = FakeKms::start();
    let workspace = workspace(&kms);
    let sealed: Value = serde_json::from_str(&text(&workspace, SEALED)).expect("JSON");
    let refused = |name: &str, key: &str, changed: (&str, Value), reason: &str| {
        workspace.configure(&sealed_configuration(&kms.address, key));
        let mut content = sealed.clone();
        content[changed.0] = changed.1;
        content["seal_key"] = json!(key);
        workspace.write(name, &content.to_string());
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{reason}: {}", checked.stderr);
        assert!(checked.stderr.contains(reason), "{reason}: {}", checked.stderr);
        std::fs::remove_file(workspace.path(name)).expect("a file");
    };
    let own = arn(SEAL_KEY);
    let invalid = format!("store `kms` can't decrypt with the key `{own}`: InvalidCiphertextException");
    std::fs::remove_file(workspace.path(SEALED)).expect("a file");
    refused("keys/web/Other.key.sealed", &own, ("kid", json!("Other")), &invalid);
    refused(SEALED, &own, ("data_key", json!("AAAA")), &invalid);
    let incorrect = "does not identify a CMK that can perform this operation. (IncorrectKeyException)";
    refused(SEALED, OTHER_SEAL_KEY, ("kid", json!("WebAppKey1")), incorrect);
    refused(
        SEALED,
        "gone",
        ("kid", json!("WebAppKey1")),
        "can't decrypt with the key `gone`: Key 'arn:aws:kms:eu-central-1:111122223333:key/gone' does not exist",
    );
    refused(SEALED, "alias/none", ("kid", json!("WebAppKey1")), "is not found. (NotFoundException)");
}

#[test]
fn an_alias_can_seal() {
    let kms = FakeKms::start();
    let workspace = unsealed_workspace(&kms);
    workspace.configure(&sealed_configuration(&kms.address, "alias/crm"));
    let refused = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]);
    let reason = "can't encrypt with the key `alias/crm`";
    assert!(refused.code() == 1 && refused.stderr.contains(reason), "{}", refused.stderr);
    assert!(refused.stderr.contains("InvalidKeyUsageException"), "{}", refused.stderr);
    workspace.configure(&sealed_configuration(&kms.address, EC_KEY));
    assert_eq!(workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]).code(), 1);
    assert_eq!(text(&workspace, "keys/web/WebAppKey1.key"), KEYS.web);
}

/// Somebody disables the key, or changes a policy, while the service restarts; then they set it right.
#[tokio::test]
async fn each_trouble_of_kms_at_the_start_is_named_and_ends_without_a_restart() {
    let kms = FakeKms::start();
    let workspace = workspace(&kms);
    for (trouble, reason) in [
        (
            Trouble::Denied,
            "refuses tokenmint: User: arn:aws:iam::111122223333:user/tokenmint is not authorized to perform: kms:Decrypt on resource: (…)",
        ),
        (Trouble::Throttled, "You have exceeded the rate at which you may call KMS."),
        (Trouble::Disabled, "refuses tokenmint: (…) is disabled. (DisabledException)"),
        (Trouble::PendingDeletion, "refuses tokenmint: (…) is pending deletion. (KMSInvalidStateException)"),
        (Trouble::Internal, "doesn't answer: KMSInternalException"),
        (Trouble::BadGateway, "doesn't answer: status 502"),
        (Trouble::Garbage, "doesn't answer: its answer isn't one of AWS KMS"),
        (Trouble::TooLarge, "doesn't answer: its answer has more than 64 KiB"),
        (Trouble::OtherClock, "compare the clock of this host and the secret access key"),
    ] {
        kms.has(trouble);
        let service = workspace.serve().await;
        let answer = service.get("/readyz").await.json();
        let said = answer["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{trouble:?}: {said}");
        kms.has(Trouble::None);
        eventually(&format!("{trouble:?} is over"), async || is_ready(&service).await).await;
    }
}

#[test]
fn wrong_credentials_are_refused_and_not_shown() {
    let kms = FakeKms::start();
    let mut workspace = workspace(&kms);
    let wrong = "a-wrong-secret-that-is-pasted";
    for (id, secret, token, reason) in [
        (ACCESS_KEY_ID, wrong, "", "compare the clock of this host and the secret access key"),
        (
            "AKIAUNKNOWN",
            wrong,
            "",
            "The security token included in the request is invalid. (UnrecognizedClientException)",
        ),
        (ACCESS_KEY_ID, SECRET_ACCESS_KEY, wrong, "(UnrecognizedClientException)"),
    ] {
        workspace
            .set("AWS_ACCESS_KEY_ID", id)
            .set("AWS_SECRET_ACCESS_KEY", secret)
            .set("AWS_SESSION_TOKEN", token);
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 0, "{}", checked.stderr);
        assert!(checked.stderr.contains("refuses tokenmint: "), "{}", checked.stderr);
        assert!(checked.stderr.contains(reason), "{reason}: {}", checked.stderr);
        assert!(!checked.stderr.contains(wrong), "{}", checked.stderr);
        assert_hides_secrets(&checked.stderr);
    }
}

/// Where the credentials come from: the variables, and the operation that the fake counts.
#[tokio::test]
async fn roles_of_pods_and_instances_give_credentials() {
    let kms = FakeKms::start();
    let sealed = text(&workspace(&kms), SEALED);
    let (agent, metadata) = (format!("{}/container", kms.address), kms.address.clone());
    let sources: [(&str, &[(&str, &str)]); 4] = [
        (
            "AssumeRoleWithWebIdentity",
            &[
                ("AWS_ROLE_ARN", ROLE_ARN),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "jwt"),
                ("AWS_ENDPOINT_URL_STS", &kms.address),
            ],
        ),
        (
            "container",
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "agent-token"),
            ],
        ),
        (
            "container",
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", AGENT_TOKEN),
            ],
        ),
        ("instance", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)]),
    ];
    for (operation, variables) in sources {
        let mut workspace = Workspace::bare();
        workspace.configure(&sealed_configuration(&kms.address, &arn(SEAL_KEY)));
        workspace.write(SEALED, &sealed);
        std::fs::remove_file(workspace.path("keys/web/WebAppKey1.key")).expect("a file");
        workspace.write_key("jwt", &format!("{JWT}\n"));
        workspace.write_key("agent-token", AGENT_TOKEN);
        for (name, value) in variables {
            workspace.set(name, value);
        }
        let asked = kms.asked(operation);
        workspace.run(&["check"]).ok();
        assert_eq!(kms.asked(operation), asked + 1, "{operation}");
        let service = workspace.serve().await;
        assert_eq!(kid_that_signs(&service).await, "WebAppKey1");
        let metrics = service.metrics().await;
        assert!(metrics.contains("{operation=\"login\",outcome=\"success\",store=\"kms\"} 1"), "{metrics}");
        assert_hides_secrets(&(service.whole_log().await + &metrics));
    }
}

#[test]
fn a_source_that_gives_no_credentials_says_why() {
    let kms = FakeKms::start();
    let sealed = text(&workspace(&kms), SEALED);
    let agent = format!("{}/container", kms.address);
    let other_role = ROLE_ARN.replace("tokenmint", "other");
    let sts = ("AWS_ENDPOINT_URL_STS", kms.address.as_str());
    let cases = [
        (
            0,
            Trouble::None,
            vec![("AWS_ROLE_ARN", ROLE_ARN), ("AWS_WEB_IDENTITY_TOKEN_FILE", "agent-token"), sts],
            "refuses tokenmint: STS returns no credentials for the web identity: No OpenIDConnect provider found in your account for \
             https://issuer (InvalidIdentityToken)",
        ),
        (
            0,
            Trouble::None,
            vec![("AWS_ROLE_ARN", &other_role), ("AWS_WEB_IDENTITY_TOKEN_FILE", "jwt"), sts],
            "Not authorized to perform sts:AssumeRoleWithWebIdentity (AccessDenied)",
        ),
        (
            64,
            Trouble::None,
            vec![("AWS_ROLE_ARN", ROLE_ARN), ("AWS_WEB_IDENTITY_TOKEN_FILE", "none"), sts],
            "`AWS_WEB_IDENTITY_TOKEN_FILE` can't be opened: No such file",
        ),
        (
            0,
            Trouble::None,
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "jwt"),
            ],
            "the container's agent returns no credentials: Unauthorized Exception!",
        ),
        (
            0,
            Trouble::None,
            vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")],
            "doesn't answer: Connection refused",
        ),
        (
            0,
            Trouble::Denied,
            vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", &kms.address)],
            "refuses tokenmint: the instance has no IAM role",
        ),
        (
            0,
            Trouble::None,
            vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")],
            "doesn't answer: no AWS credentials: the environment has none, and the instance metadata service says: Connection refused",
        ),
    ];
    for (code, trouble, variables, reason) in cases {
        let mut workspace = Workspace::bare();
        workspace.configure(&sealed_configuration(&kms.address, &arn(SEAL_KEY)));
        workspace.write(SEALED, &sealed);
        std::fs::remove_file(workspace.path("keys/web/WebAppKey1.key")).expect("a file");
        workspace.write_key("jwt", JWT);
        workspace.write_key("agent-token", AGENT_TOKEN);
        for (name, value) in variables {
            workspace.set(name, value);
        }
        kms.has(trouble);
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), code, "{}", checked.stderr);
        assert!(checked.stderr.contains(reason), "{reason}: {}", checked.stderr);
        assert_hides_secrets(&checked.stderr);
    }
}

/// Each mistake in the configuration, with the field that the message names.
#[test]
fn mistakes_in_the_configuration_of_kms_are_named() {
    let mut workspace = Workspace::bare();
    let right = sealed_configuration("https://kms.internal", &arn(SEAL_KEY));
    for (before, after, field, message) in [
        (
            "kind = \"aws-kms\"",
            "kind = \"kms\"",
            "stores.kms.kind",
            "must be \"vault\", \"aws-kms\" or \"pkcs11\"",
        ),
        ("region = ", "# ", "stores.kms.region", "is missing: the AWS region of the keys"),
        (REGION, "eu central", "stores.kms.region", "must be an AWS region"),
        ("https://kms.internal", "http://kms.internal", "stores.kms.endpoint", "must begin with https://"),
        ("https://kms.internal", "https://kms.internal/x", "stores.kms.endpoint", "must have no path"),
        ("region", "token_file = \"x\"\nregion", "stores.kms.token_file", "is for stores of kind `vault`"),
        (
            "seal_key = \"arn:",
            "seal_key = \"a key:",
            "keysets.web.seal_key",
            "must be the id or the ARN of a KMS key",
        ),
    ] {
        assert!(right.contains(before), "{before}");
        workspace.configure(&right.replacen(before, after, if before == REGION { 9 } else { 1 }));
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{after}: {}", checked.stderr);
        let line = checked.stderr.lines().find(|line| line.starts_with(field));
        assert!(line.is_some_and(|line| line.contains(message)), "{field} {message}: {}", checked.stderr);
    }
    workspace.configure(&right);
    workspace.set("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID);
    let checked = workspace.run(&["check"]);
    let line = "stores.kms.kind (environment AWS_ACCESS_KEY_ID): is set without AWS_SECRET_ACCESS_KEY: set both or none";
    assert!(checked.code() == 64 && checked.stderr.contains(line), "{}", checked.stderr);
}

/// A workspace whose keysets `crm` and `web512` have no keys yet, and in which KMS signs.
fn remote_workspace(kms: &FakeKms) -> Workspace {
    let mut workspace = Workspace::bare();
    let mut text = configuration()
        .replace("\"oauth.crm\", \"intercom", "\"oauth.crm\", \"identity.web512\", \"intercom");
    for (keyset, file) in [("crm", "CrmKey1"), ("web512", "Web512")] {
        let directory = format!("directory = \"keys/{keyset}\"");
        text = text.replace(&directory, &format!("{directory}\nsigned_by = \"kms\""));
        std::fs::remove_file(workspace.path(&format!("keys/{keyset}/{file}.key"))).expect("a file");
    }
    let address = &kms.address;
    let store =
        format!("[stores.kms]\nkind = \"aws-kms\"\nregion = \"{REGION}\"\nendpoint = \"{address}\"\n");
    workspace.configure(&(text + &store));
    workspace.set("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).set("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    workspace.run(&["keys", "new", "CrmKms", "--keyset", "crm", "--remote-key", &arn(RSA_KEY)]).ok();
    workspace.run(&["keys", "new", "Web.512", "--keyset", "web512"]).ok();
    workspace
}

async fn assert_signs(service: &Running) {
    let set = service.jwks("/keysets/crm/jwks.json").await;
    let minted = service.post("/oauth-assertion", &json!({})).await.ok();
    let assertion = minted["assertion"].as_str().expect("an assertion");
    assert_eq!(verified(assertion, &set)["iss"], "3MVG9.consumer");
    assert_eq!(unverified(assertion).0["kid"], "CrmKms");
}

#[tokio::test]
async fn kms_signs_with_keys_that_never_leave_it() {
    let kms = FakeKms::start();
    let workspace = remote_workspace(&kms);
    let schedule = text(&workspace, "keys/web512/keyset.toml");
    assert!(schedule.contains("remote = \"arn:aws:kms:eu-central-1:111122223333:key/5"), "{schedule}");
    let again = workspace.run(&["keys", "new", "Web+512", "--keyset", "web512"]);
    let reason = "has `alias/Web-512` already: list its key with --remote-key arn:aws:kms:";
    assert!(again.code() == 1 && again.stderr.contains(reason), "{}", again.stderr);
    workspace.run(&["check"]).ok();
    let service = workspace.serve().await;
    assert_signs(&service).await;
    let body = json!({"sub": "user-1", "profile": "identity.web512"});
    let minted = service.post("/identity-token", &body).await.ok();
    let token = minted["token"].as_str().expect("a token");
    assert_eq!(unverified(token).0["alg"], "RS512");
    verified(token, &service.jwks("/keysets/web512/jwks.json").await);
    assert_hides_secrets(&service.whole_log().await);
}

#[tokio::test]
async fn troubles_of_kms_while_it_signs_end_by_themselves() {
    let kms = FakeKms::start();
    let workspace = remote_workspace(&kms);
    let service = workspace.serve().await;
    assert_signs(&service).await;
    for trouble in [
        Trouble::Throttled,
        Trouble::Denied,
        Trouble::Disabled,
        Trouble::Internal,
        Trouble::Garbage,
        Trouble::WrongSignature,
    ] {
        kms.has(trouble);
        let answer = service.post("/oauth-assertion", &json!({})).await;
        assert_eq!(answer.status, 503, "{trouble:?}: {}", answer.text);
        assert!(answer.headers.contains_key("retry-after"), "{trouble:?}");
        kms.has(Trouble::None);
        eventually("it signs again", async || {
            service.post("/oauth-assertion", &json!({})).await.status.is_success()
        })
        .await;
    }
    assert_signs(&service).await;
}

/// At half of their life, and when KMS refuses them.
#[tokio::test]
async fn credentials_are_renewed() {
    let kms = FakeKms::start();
    let mut workspace = remote_workspace(&kms);
    workspace
        .set("AWS_ACCESS_KEY_ID", "")
        .set("AWS_ROLE_ARN", ROLE_ARN)
        .set("AWS_ENDPOINT_URL_STS", &kms.address);
    workspace.set("AWS_WEB_IDENTITY_TOKEN_FILE", "jwt");
    workspace.write_key("jwt", JWT);
    let service = workspace.serve().await;
    let asked = || kms.asked("AssumeRoleWithWebIdentity");
    assert_signs(&service).await;
    let before = asked();
    assert_signs(&service).await;
    assert_eq!(asked(), before, "a session serves many requests");
    kms.has(Trouble::Expired);
    kms.issues_for(Duration::from_secs(12));
    assert_signs(&service).await;
    assert_eq!(asked(), before + 1);
    eventually("they are renewed", async || {
        assert_signs(&service).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        asked() == before + 2
    })
    .await;
    assert_hides_secrets(&service.whole_log().await);
}

#[test]
fn only_an_rsa_key_that_is_named_by_itself_can_sign() {
    let kms = FakeKms::start();
    let workspace = remote_workspace(&kms);
    for (remote, reason) in [
        (
            "alias/crm".to_owned(),
            format!(
                "has the alias `alias/crm`, which somebody can point at another key: list the key's ARN: `{}`",
                arn(RSA_KEY)
            ),
        ),
        (arn("x").replace("key/x", "alias/none"), "has the alias `arn:aws:kms:".to_owned()),
        (format!("{RSA_KEY}:3"), format!("has no versions of keys: write `{RSA_KEY}` without `:3`")),
        (
            EC_KEY.to_owned(),
            "with KeyUsage SIGN_VERIFY and KeySpec ECC_NIST_P256: Salesforce needs an RSA key".to_owned(),
        ),
        (SEAL_KEY.to_owned(), "can't return the public key of `11111111-".to_owned()),
        (
            "gone".to_owned(),
            "can't return the public key of `gone`: Key 'arn:aws:kms:eu-central-1:111122223333:key/gone' does not".to_owned(),
        ),
    ] {
        let schedule =
            format!("[[key]]\nkid = \"CrmKms\"\nsign_from = 2026-01-01T00:00:00Z\nremote = \"{remote}\"\n");
        workspace.write("keys/crm/keyset.toml", &schedule);
        let checked = workspace.run(&["check"]);
        assert_eq!(checked.code(), 64, "{}", checked.stderr);
        assert!(checked.stderr.contains(&reason), "{reason}: {}", checked.stderr);
    }
}

/// The service's policy may forbid what the person's policy allows.
#[test]
fn a_key_that_kms_does_not_open_again_is_not_sealed() {
    let kms = FakeKms::start();
    let workspace = unsealed_workspace(&kms);
    kms.has(Trouble::ForbidsDecrypt);
    let refused = workspace.run(&["keys", "seal", "WebAppKey1", "--keyset", "web"]);
    assert!(refused.code() == 1 && refused.stderr.contains("kms:Decrypt"), "{}", refused.stderr);
    assert_eq!(text(&workspace, "keys/web/WebAppKey1.key"), KEYS.web);
}
