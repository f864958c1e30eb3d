//! Settings from the environment.

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

/// As in an image built from nothing: what needs no Salesforce goes on.
#[tokio::test]
async fn a_host_without_certificate_authorities_mints() {
    let mut workspace = Workspace::new();
    workspace.set("SSL_CERT_FILE", "/nonexistent").set("SSL_CERT_DIR", "/nonexistent");
    let service = workspace.serve().await;
    service.post("/identity-token", &user_1()).await.ok();
    assert!(service.logged("SSL_CERT_FILE").await.contains("no certificate authorities"));
}

#[test]
fn a_name_is_found_whatever_its_case_and_dashes() {
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
    workspace.write("other.secret", "another\r\n");
    workspace.run(&["check"]).ok();
    workspace.set("TOKENMINT_INTERCOM__FIN__SECRET", "canary-secret");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    let line = "intercom.fin.secret (environment TOKENMINT_INTERCOM__FIN__SECRET): is given twice";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
    assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
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
    // What Kubernetes sets by itself for a service of this name stays unread.
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
