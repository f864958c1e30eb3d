//! Settings in environment variables.

use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use tokenmint::config::schema::{ROOT, ValueKind, tables};
use tokenmint::config::{Config, Environment};

use crate::support::{KEYS, Workspace, configuration, sha256_hex, user_1, verified};

#[tokio::test]
async fn any_value_can_be_overridden() {
    let mut workspace = Workspace::new();
    workspace
        .set("TOKENMINT_IDENTITY__WEB__ISSUER", "from-the-environment")
        .set("TOKENMINT_IDENTITY__WEB__TTL", "90s")
        .set("TOKENMINT_SERVER__LIMITS__CONNECTIONS", "5")
        .set("TOKENMINT_CALLERS__WEB__ALLOW", "identity.web,oauth.crm");
    let service = workspace.serve().await;
    let body = service.post("/identity-token", &user_1()).await.ok();
    let claims =
        verified(body["token"].as_str().expect("a token"), &service.jwks("/keysets/web/jwks.json").await);
    assert_eq!(claims["iss"], "from-the-environment");
    assert_eq!(body["expires_in"], 90);
    let refused = service.post("/intercom-user-jwt", &serde_json::json!({"user_id": "1"})).await;
    refused.refused(403, "access_denied", Some("profile"));
}

#[tokio::test]
async fn a_service_needs_no_file_at_all() {
    let mut workspace = Workspace::bare();
    workspace
        .set("TOKENMINT_SERVER__LISTEN", "127.0.0.1:0")
        .set("TOKENMINT_KEYSETS__WEB__KID", "EnvKey")
        .set("TOKENMINT_KEYSETS__WEB__KEY", &KEYS.web.replace('\n', "\\n"))
        .set("TOKENMINT_IDENTITY__WEB__KEYSET", "web")
        .set("TOKENMINT_IDENTITY__WEB__ISSUER", "acme")
        .set("TOKENMINT_CALLERS__RAILS__API_KEY_SHA256", &sha256_hex("env-key"))
        .set("TOKENMINT_CALLERS__RAILS__ALLOW", "[\"identity.web\"]");
    let service = workspace.serve().await;
    let body = service.post_text("/identity-token", "env-key", r#"{"sub":"user-1"}"#).await.ok();
    assert_eq!(body["kid"], "EnvKey");
}

/// An image built from scratch has none, for example. Everything that doesn't need Salesforce works.
#[tokio::test]
async fn a_host_without_certificate_authorities_mints() {
    let mut workspace = Workspace::new();
    workspace.set("SSL_CERT_FILE", "/nonexistent").set("SSL_CERT_DIR", "/nonexistent");
    let service = workspace.serve().await;
    service.post("/identity-token", &user_1()).await.ok();
    assert!(service.logged("SSL_CERT_FILE").await.contains("no certificate authorities"));
}

#[test]
fn variable_names_match_regardless_of_case_and_dashes() {
    let mut workspace = Workspace::with(&format!(
        "[callers.Rails-Web]\napi_key_sha256 = [\"{}\"]\nallow = [\"identity.web\"]",
        sha256_hex("x")
    ));
    workspace.set("TOKENMINT_CALLERS__RAILS_WEB__ALLOW", "identity.nothing");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    let line =
        "callers.Rails-Web.allow (environment TOKENMINT_CALLERS__RAILS_WEB__ALLOW): `identity.nothing`";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
}

#[test]
fn a_secret_can_be_given_as_a_file_and_not_twice() {
    let mut workspace = Workspace::new();
    workspace.set("TOKENMINT_INTERCOM__FIN__SECRET_FILE", "other.secret");
    workspace.write("other.secret", "another-messenger-api-secret-0123456789\r\n");
    workspace.run(&["check"]).ok();
    workspace.set("TOKENMINT_INTERCOM__FIN__SECRET", "canary-secret");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    let line = "intercom.fin.secret (environment TOKENMINT_INTERCOM__FIN__SECRET): is given twice";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
    assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
    // The same holds where one of the two is in the configuration file, which has `secret_file`.
    let mut workspace = Workspace::new();
    workspace.set("TOKENMINT_INTERCOM__FIN__SECRET", "another-messenger-api-secret-0123456789");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    assert!(
        ran.stderr.contains("intercom.fin.secret") && ran.stderr.contains("given twice"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_misspelt_override_is_an_error_and_a_near_miss_a_warning() {
    let mut workspace = Workspace::new();
    workspace.set("TOKENMINT_SERVER__LISTN", "127.0.0.1:1");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    let line = "server.listn (environment TOKENMINT_SERVER__LISTN): unknown key; did you mean `listen`?";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);

    let mut workspace = Workspace::new();
    // Kubernetes sets such variables for a service of this name. They are ignored.
    workspace.set("TOKENMINT_SERVICE_HOST", "10.0.0.1").set("TOKENMINT_PORT", "tcp://10.0.0.1:80");
    workspace.set("TOKENMINT_SERVER_LISTEN", "127.0.0.1:1");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let warnings: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(warnings.len(), 1, "{}", ran.stderr);
    assert!(warnings[0].contains("TOKENMINT_SERVER__LISTEN"), "{}", ran.stderr);
}

#[test]
fn the_file_is_named_by_flag_or_variable_and_paths_start_beside_it() {
    let mut workspace = Workspace::bare();
    workspace.write(
        "etc/tokenmint.toml",
        &configuration()
            .replace("\"keys/", "\"../keys/")
            .replace("\"intercom.secret\"", "\"../intercom.secret\""),
    );
    workspace.run(&["check", "--config", "etc/tokenmint.toml"]).ok();
    workspace.set("TOKENMINT_CONFIG", "etc/tokenmint.toml");
    workspace.run(&["check"]).ok();
}

/// If this weren't an error, an unreadable file would count as empty, and the variables as the whole configuration.
#[test]
fn only_a_file_that_is_not_there_may_be_left_out() {
    let mut workspace = Workspace::bare();
    let file = workspace.path("tokenmint.toml");
    workspace.set("TOKENMINT_SERVER__LISTEN", "127.0.0.1:0");
    workspace.run(&["check"]).ok();
    let refused = |what: &str| {
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains("tokenmint.toml: can't be read: "), "{what}: {}", ran.stderr);
    };
    std::fs::write(&file, b"[server]\n# caf\xe9\n").expect("written");
    refused("Latin-1");
    std::fs::remove_file(&file).expect("there");
    std::fs::create_dir(&file).expect("made");
    refused("a folder");
    std::fs::remove_dir(&file).expect("there");
    std::os::unix::fs::symlink("moved.toml", &file).expect("a link");
    refused("a link that leads nowhere");
    std::fs::remove_file(&file).expect("there");
    std::os::unix::fs::symlink("tokenmint.toml", &file).expect("a link");
    refused("a link to itself");
    if !rustix::process::geteuid().is_root() {
        std::fs::remove_file(&file).expect("there");
        workspace.configure("");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("ours");
        refused("no permission");
    }
}

/// If this variable were ignored, the caller could name any subject.
#[test]
fn a_variable_that_is_not_utf_8_is_an_error_that_names_it() {
    let workspace = Workspace::new();
    let check = |name: &[u8], value: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenmint"));
        command.arg("check").current_dir(workspace.path("")).env_clear();
        command.env(std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(value));
        let output = command.output().expect("the binary runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, said) = check(b"TOKENMINT_CALLERS__WEB__SUBJECTS", b"user-\xff");
    assert_eq!(code, Some(64), "{said}");
    let line = "callers.web.subjects (environment TOKENMINT_CALLERS__WEB__SUBJECTS): isn't UTF-8 text";
    assert!(said.contains(line), "{said}");
    let (code, said) = check(b"TOKENMINT_CALLERS__WEB\xff__SUBJECTS", b"user-1");
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("environment TOKENMINT_CALLERS__WEB\u{fffd}__SUBJECTS"), "{said}");
    for variable in ["RUST_LOG", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        let (code, said) = check(variable.as_bytes(), b"info\xff");
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(&format!("environment {variable}: isn't UTF-8 text")), "{said}");
    }
    for (value, why) in
        [("\"info\"", "a quote"), ("info ", "white space"), ("RUST_LOG=info", "a name and `=`")]
    {
        let (code, said) = check(b"RUST_LOG", value.as_bytes());
        assert_eq!(code, Some(64), "{value}: {said}");
        assert!(said.contains("environment RUST_LOG: ") && said.contains(why), "{value}: {said}");
    }
    // Variables of other programs are ignored.
    assert_eq!(check(b"LS_COLORS", b"\xff").0, Some(0));
}

/// Names of settings are case-insensitive, so one of the two values would be ignored.
#[test]
fn two_variables_of_one_setting_are_refused() {
    for (one, other) in [
        ("TOKENMINT_IDENTITY__WEB__TTL", "TOKENMINT_IDENTITY__web__TTL"),
        ("TOKENMINT_SERVER__LISTEN", "TOKENMINT_Server__Listen"),
    ] {
        let mut workspace = Workspace::new();
        let value = if one.ends_with("TTL") { "20m" } else { "127.0.0.1:0" };
        workspace.set(one, value).set(other, value);
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{}", ran.stderr);
        assert!(ran.stderr.contains(one) && ran.stderr.contains(other), "{}", ran.stderr);
    }
}

/// Settings, each with a valid value.
const SETTINGS: &[(&str, &str)] = &[
    ("SERVER__LISTEN", "127.0.0.1:0"),
    ("SERVER__URL", "https://tokens.acme.example"),
    ("SERVER__AUDIT", "required"),
    ("SERVER__AUDIT_KEY", "an-audit-key-of-32-bytes-or-more"),
    ("SERVER__AUDIT_KEY_FILE", "intercom.secret"),
    ("SERVER__STATE_DIRECTORY", "state"),
    ("SERVER__PUBLIC__LISTEN", "127.0.0.1:1"),
    ("SERVER__PUBLIC__URL", "https://tokens.example.com"),
    ("SERVER__PUBLIC__TLS__CERTIFICATE_FILE", "tls.crt"),
    ("SERVER__PUBLIC__TLS__PRIVATE_KEY_FILE", "tls.key"),
    ("SERVER__PUBLIC__TLS__CLIENT_CA_FILE", "ca.crt"),
    ("SERVER__OPS__LISTEN", "127.0.0.1:2"),
    ("SERVER__TLS__CERTIFICATE_FILE", "tls.crt"),
    ("SERVER__TLS__PRIVATE_KEY_FILE", "tls.key"),
    ("SERVER__TLS__CLIENT_CA_FILE", "ca.crt"),
    ("SERVER__LIMITS__REQUEST_TIMEOUT", "10s"),
    ("SERVER__LIMITS__BODY", "16 KiB"),
    ("SERVER__LIMITS__CONNECTIONS", "100"),
    ("SERVER__LIMITS__SIGNING_QUEUE", "100"),
    ("SERVER__LIMITS__TOKEN_CACHE", "1 MiB"),
    ("SERVER__LIMITS__REMINTS_PER_MINUTE", "100"),
    ("SERVER__LIMITS__REMINT_BURST", "100"),
    ("SERVER__SIGNING__BATCH", "off"),
    ("SERVER__SIGNING__LIBRARY", "libcrypto_mb.so.13"),
    ("CACHE__REDIS__URL", "redis://127.0.0.1"),
    ("CACHE__REDIS__KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("CACHE__REDIS__KEY_FILE", "redis.secret"),
    ("CACHE__REDIS__PASSWORD", "a=b_c"),
    ("CACHE__REDIS__PASSWORD_FILE", "intercom.secret"),
    ("CACHE__REDIS__TIMEOUT", "50ms"),
    ("KEYSETS__WEB__DIRECTORY", "keys/web"),
    ("KEYSETS__TEXT__KEY", "-----BEGIN PRIVATE KEY-----"),
    ("KEYSETS__TEXT__KEY_FILE", "web.key"),
    ("KEYSETS__TEXT__KID", "Key=1"),
    ("KEYSETS__WEB__PASSPHRASE", "open=sesame"),
    ("KEYSETS__WEB__PASSPHRASE_FILE", "intercom.secret"),
    ("KEYSETS__WEB__SEALED_BY", "vault"),
    ("KEYSETS__WEB__SIGNED_BY", "vault"),
    ("KEYSETS__WEB__SEAL_KEY", "tokenmint"),
    ("KEYSETS__WEB__PUBLISH_LEAD", "24h"),
    ("KEYSETS__WEB__RETIRE_MARGIN", "1h"),
    ("IDENTITY__WEB__KEYSET", "web"),
    ("IDENTITY__WEB__ISSUER", "intercom.com"),
    ("IDENTITY__WEB__AUDIENCE", "https://acme.my.salesforce-scrt.com"),
    ("IDENTITY__WEB__ALGORITHM", "RS256"),
    ("IDENTITY__WEB__TTL", "10m"),
    ("IDENTITY__WEB__MAX_TTL", "1h"),
    ("IDENTITY__WEB__CLAIMS", "plan"),
    ("IDENTITY__WEB__SUBJECTS", "user-[0-9]+"),
    ("IDENTITY__WEB__MESSAGING__SCRT_URL", "https://acme.my.salesforce-scrt.com"),
    ("IDENTITY__WEB__MESSAGING__ORG_ID", "00D000000000001"),
    ("IDENTITY__WEB__MESSAGING__ES_DEVELOPER_NAME", "Web_Channel"),
    ("IDENTITY__WEB__MESSAGING__REQUESTS_PER_MINUTE", "150"),
    ("OAUTH__CRM__KEYSET", "crm"),
    ("OAUTH__CRM__CONSUMER_KEY", "3MVG9.consumer"),
    ("OAUTH__CRM__USERNAME", "integration@acme.com"),
    ("OAUTH__CRM__AUDIENCE", "https://login.salesforce.com"),
    ("OAUTH__CRM__TOKEN_URL", "https://login.salesforce.com/services/oauth2/token"),
    ("OAUTH__CRM__ASSERTION_TTL", "150s"),
    ("OAUTH__CRM__ACCESS_TOKEN_TTL", "55m"),
    ("OAUTH__CRM__LOGINS_PER_HOUR", "360"),
    ("OAUTH__CRM__CHECK_SESSION", "10s"),
    ("INTERCOM__FIN__SECRET", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("INTERCOM__FIN__SECRET_FILE", "intercom.secret"),
    ("INTERCOM__FIN__ALLOW_SHORT_SECRET", "false"),
    ("INTERCOM__FIN__TTL", "10m"),
    ("INTERCOM__FIN__MAX_TTL", "1h"),
    ("INTERCOM__FIN__CLAIMS", "email"),
    ("HS256__ZENDESK__SECRET", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
    ("HS256__ZENDESK__SECRET_FILE", "intercom.secret"),
    ("HS256__ZENDESK__ALLOW_SHORT_SECRET", "false"),
    ("HS256__ZENDESK__SUBJECT_CLAIM", "external_id"),
    ("HS256__ZENDESK__FIXED_CLAIMS__SCOPE", "user"),
    ("HS256__ZENDESK__CLAIMS", "email"),
    ("HS256__ZENDESK__KID", "app_1"),
    ("HS256__ZENDESK__CTY", "twilio-fpa;v=1"),
    ("HS256__ZENDESK__TTL", "10m"),
    ("HS256__ZENDESK__MAX_TTL", "1h"),
    ("BUNDLES__FIN__ONE", "identity.web"),
    ("CALLERS__WEB__API_KEY_SHA256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("CALLERS__WEB__CLIENT_SAN", "web.example"),
    ("CALLERS__WEB__PEER_UID", "1001"),
    ("CALLERS__WEB__ALLOW", "identity.web"),
    ("CALLERS__WEB__POLICY", "audit"),
    ("CALLERS__WEB__RATE", "10"),
    ("CALLERS__CRM__BURST", "10"),
    ("CALLERS__WEB__SUBJECTS", "[0-9]+"),
    ("CALLERS__WEB__SUBJECTS_PER_MINUTE", "1000"),
    ("CALLERS__WEB__JWT_ISSUER", "corp"),
    ("CALLERS__WEB__JWT_CLAIMS__SUB", "system:serviceaccount:shop:web"),
    ("CALLERS__WEB__SUBJECT_TOKEN", "required"),
    ("CALLERS__WEB__SUBJECT_ISSUER", "corp"),
    ("CALLERS__WEB__SUBJECT_CLAIM", "email"),
    ("STORES__VAULT__KIND", "vault"),
    ("STORES__VAULT__ADDRESS", "https://vault.internal:8200"),
    ("STORES__VAULT__MOUNT", "transit"),
    ("STORES__VAULT__MAX_SIGNATURES_PER_SECOND", "100"),
    ("STORES__VAULT__MAX_CONCURRENT_SIGNATURES", "8"),
    ("STORES__VAULT__NAMESPACE", "team/shop"),
    ("STORES__VAULT__CA_FILE", "ca.crt"),
    ("STORES__VAULT__TOKEN_FILE", "vault.token"),
    ("STORES__VAULT__AUTH", "kubernetes"),
    ("STORES__VAULT__AUTH_MOUNT", "k8s"),
    ("STORES__VAULT__ROLE", "tokenmint"),
    ("STORES__VAULT__JWT_FILE", "pod.token"),
    ("STORES__KMS__REGION", "eu-central-1"),
    ("STORES__KMS__ENDPOINT", "https://kms.internal"),
    ("STORES__HSM__MODULE", "libsofthsm2.so"),
    ("STORES__HSM__TOKEN_LABEL", "tokenmint"),
    ("STORES__HSM__PIN_FILE", "hsm.pin"),
    ("ISSUERS__CORP__ISSUER", "https://login.acme.example"),
    ("ISSUERS__CORP__AUDIENCE", "tokenmint"),
    ("ISSUERS__CORP__JWKS_URL", "https://login.acme.example/jwks"),
    ("ISSUERS__CORP__DISCOVERY", "true"),
    ("ISSUERS__CORP__JWKS_FILE", "jwks.json"),
    ("ISSUERS__CORP__SECRET_FILE", "intercom.secret"),
    ("ISSUERS__CORP__CA_FILE", "ca.crt"),
    ("ISSUERS__CORP__BEARER_TOKEN_FILE", "pod.token"),
    ("ISSUERS__CORP__ALGORITHMS", "RS256,ES256"),
    ("ISSUERS__CORP__LEEWAY", "10s"),
    ("ISSUERS__CORP__MAX_AGE", "1h"),
];

/// Whether the setting belongs to the key of the schema. `NAME` and `ENTRY` stand for any name.
fn is_of_key(setting: &str, table: &str, key: &str) -> bool {
    let written = format!("{table}.{key}");
    let (levels, names) = (setting.split("__"), written.split('.'));
    levels.clone().count() == names.clone().count()
        && levels.zip(names).all(|(level, name)| {
            matches!(name, "NAME" | "ENTRY" | "CLAIM") || level.eq_ignore_ascii_case(name)
        })
}

#[test]
fn the_settings_are_all_keys_of_the_schema() {
    for table in tables(&ROOT) {
        for key in table.schema.keys.iter().chain(table.schema.named) {
            let is_table = matches!(key.kind, ValueKind::Table(_));
            let listed = SETTINGS.iter().any(|(setting, _)| is_of_key(setting, &table.path, key.name));
            assert!(is_table || listed, "{}.{} is not in the list", table.path, key.name);
        }
    }
}

/// Quotes and white space around a value. A shell removes them, `docker --env-file` and systemd's `EnvironmentFile`
/// only some of them, and editors add them.
#[test]
fn leftover_quotes_and_spaces_around_a_value_are_refused_by_setting() {
    let workspace = Workspace::bare();
    workspace.write("redis.secret", &sha256_hex("32 bytes"));
    let text = configuration().replace("secret_file = \"intercom.secret\"\n", "");
    // `burst` needs it.
    let text = text.replace("[callers.crm]\n", "[callers.crm]\nrate = 10\n");
    // `sealed_by` needs it.
    let text = text
        + "[stores.vault]\nkind = \"vault\"\naddress = \"https://vault.internal:8200\"\n\
        [stores.hsm]\nkind = \"pkcs11\"\n[stores.kms]\nkind = \"aws-kms\"\n";
    // `subject_issuer` and `jwt_issuer` need it.
    let text = text.replace("[callers.web]\n", "[callers.web]\nsubject_token = \"off\"\n")
        + "[issuers.corp]\nissuer = \"https://login.acme.example\"\naudience = [\"tokenmint\"]\n\
           jwks_url = \"https://login.acme.example/jwks\"\n";
    // All problems of that setting.
    let said = |variable: &str, field: &str, value: &str| {
        let environment: Environment = std::iter::once((variable.to_owned(), value.to_owned())).collect();
        let parsed = Config::parse("tokenmint.toml", &text, workspace.path(""), &environment);
        let problems = parsed.err().map(|invalid| invalid.problems).unwrap_or_default();
        let source = format!("environment {variable}");
        let of_it = problems.into_iter().filter(|problem| problem.source == source && problem.field == field);
        of_it.map(|problem| problem.to_string()).collect::<Vec<_>>()
    };
    for &(setting, good) in SETTINGS {
        let variable = format!("TOKENMINT_{setting}");
        let own = setting.rsplit("__").next().expect("a name");
        let field = setting.replace("__", ".").to_lowercase();
        let silent = said(&variable, &field, good);
        assert!(silent.is_empty(), "{silent:?}");
        // The PEM reader finds the beginning and the end of a key itself: tests/service/readers.rs.
        if setting == "KEYSETS__TEXT__KEY" {
            continue;
        }
        let left = [
            format!("\"{good}\""),
            format!("'{good}'"),
            format!("\u{201c}{good}\u{201d}"),
            format!("\u{feff}{good}"),
            format!("{good}\u{feff}"),
            format!("\"{good}"),
            format!("{good}'"),
            format!("{good}\u{201d}"),
            format!("\u{bb}{good}"),
            format!("`{good}"),
            format!("\u{200b}{good}"),
            format!("{good}\u{2060}"),
            format!("{own}={good}"),
            format!("{variable}={good}"),
            format!("export ACME_{own}={good}"),
            format!(" {good}"),
            format!("{good}\n"),
        ];
        for wrong in left {
            let problems = said(&variable, &field, &wrong);
            assert_eq!(problems.len(), 1, "{wrong:?} as {setting}: {problems:?}");
        }
    }
    let distinguished = said("TOKENMINT_IDENTITY__WEB__ISSUER", "identity.web.issuer", "CN=Acme,O=Acme");
    assert!(distinguished.is_empty(), "an issuer can be such a name: {distinguished:?}");
}

#[test]
fn leftover_quotes_and_spaces_around_a_secret_in_a_file_are_refused() {
    let workspace = Workspace::new();
    let secret = "intercom-messenger-api-secret-0123456789";
    for (left, why) in [
        (format!("\"{secret}\"\n"), "a quote"),
        (format!("{secret}'"), "a quote"),
        (format!("\u{201e}{secret}"), "a quote"),
        (format!("\u{200b}{secret}\n"), "invisible"),
        (format!("{secret}\u{feff}\n"), "byte order mark"),
        (format!("{secret}\n\n"), "white space"),
        (format!(" {secret}"), "white space"),
        (format!("\u{feff}{secret}"), "byte order mark"),
        (format!("SECRET={secret}\n"), "begins with a name"),
        (format!("INTERCOM_SECRET={secret}\n"), "begins with a name"),
        (format!("export S={secret}\n"), "begins with a name"),
        (secret.chars().flat_map(|c| [c, '\0']).collect(), "may be UTF-16"),
    ] {
        workspace.write("intercom.secret", &left);
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{why}");
        let line =
            ran.stderr.lines().find(|line| line.starts_with("intercom.fin.secret_file (tokenmint.toml"));
        assert!(line.is_some_and(|line| line.contains(why)), "{why}: {}", ran.stderr);
        assert!(!ran.stderr.contains("messenger-api"), "{}", ran.stderr);
    }
    for good in [format!("{secret}==\n"), format!("{secret}\"'`\u{201c}\u{200b} {secret}")] {
        workspace.write("intercom.secret", &good);
        workspace.run(&["check"]).ok();
    }
}

#[test]
fn leftover_quotes_around_the_name_of_the_configuration_are_reported() {
    for (name, why) in [
        ("'tokenmint.toml'", "a quote"),
        ("tokenmint.toml ", "white space"),
        ("TOKENMINT_CONFIG=t", "a name"),
    ] {
        let ran = Workspace::new().set("TOKENMINT_CONFIG", name).run(&["check"]);
        assert_eq!(ran.code(), 64, "{name}");
        assert!(ran.stderr.contains("can't be read") && ran.stderr.contains(why), "{name}: {}", ran.stderr);
    }
}

#[test]
fn a_list_that_is_not_of_strings_is_an_error() {
    for (list, fine) in [
        ("plan,locale", true),
        ("plan, locale", true),
        ("[\"plan\", \"locale\"]", true),
        ("['plan']", true),
        ("[]", true),
        ("", true),
        ("[plan, locale]", false),
        ("[\"plan\", 1]", false),
        ("[\"plan\"", false),
        ("\"plan\",\"locale\"", false),
    ] {
        let mut workspace = Workspace::new();
        workspace.set("TOKENMINT_IDENTITY__WEB__CLAIMS", list);
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), if fine { 0 } else { 64 }, "{list}: {}", ran.stderr);
        let line = "identity.web.claims (environment TOKENMINT_IDENTITY__WEB__CLAIMS): ";
        assert_eq!(ran.stderr.contains(line), !fine, "{list}: {}", ran.stderr);
    }
}
