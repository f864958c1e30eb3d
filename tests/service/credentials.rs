//! Callers authenticated by their connection: a name in their certificate, or the peer's user of a Unix socket.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::json;

use crate::support::{API_KEY, Answer, Running, Workspace, configuration, user_1};
use crate::tls::{certificates, certified, client};

const TLS: &str = "listen = \"127.0.0.1:0\"\n[server.tls]\ncertificate_file = \"server.crt\"\n\
                   private_key_file = \"server.key\"\nclient_ca_file = \"clients.crt\"\n";

const CALLERS: &str = r#"
[callers.rails]
client_san = ["spiffe://acme/rails", "rails.internal"]
allow = ["identity.web"]
[callers.job]
client_san = ["job.internal"]
allow = ["oauth.crm"]
"#;

fn mutual(callers: &str) -> String {
    configuration().replace("listen = \"127.0.0.1:0\"\n", TLS) + callers
}

async fn ask(service: &Running, client: &reqwest::Client, api_key: Option<&str>) -> Answer {
    let request = client.post(format!("https://{}/identity-token", service.address("minting")));
    let request = api_key.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
    Answer::of(request.json(&user_1())).await
}

#[tokio::test]
async fn a_certificate_authenticates_a_caller_only_by_its_whole_name() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    workspace.configure(&mutual(CALLERS));
    let of = |name: &str, san: &str| {
        certified(&workspace, "clients", name, san);
        client(&workspace, Some(&format!("{name}.both")))
    };
    let (by_uri, by_host) = (of("uri", "URI:spiffe://acme/rails"), of("host", "DNS:else,DNS:Rails.Internal"));
    let service = workspace.serve().await;
    for known in [&by_uri, &by_host] {
        ask(&service, known, None).await.ok();
    }
    let line: serde_json::Value = serde_json::from_str(&service.logged("minted").await).expect("JSON");
    assert_eq!([&line["caller"], &line["credential"]], ["rails", "connection"]);
    for (name, san) in [
        ("below", "DNS:x.rails.internal,URI:spiffe://acme/rails/x"),
        ("wildcard", "DNS:*.internal"),
        ("shouting", "URI:spiffe://acme/RAILS"),
        ("other-kind", "email:spiffe://acme/rails,URI:rails.internal"),
        // A common name doesn't count.
        ("rails.internal", "DNS:nobody.internal"),
        ("two-callers", "DNS:rails.internal,DNS:job.internal"),
    ] {
        let unknown = ask(&service, &of(name, san), None).await;
        assert_eq!(unknown.status.as_u16(), 401, "{name}: {}", unknown.text);
    }
    // The caller's policy applies, however it is authenticated.
    let job = of("job", "DNS:job.internal");
    ask(&service, &job, None).await.refused(403, "access_denied", Some("profile"));
}

/// If a wrong key fell back to the connection's caller, a failed key change would mint under another policy and
/// name, unnoticed.
#[tokio::test]
async fn an_api_key_takes_precedence_over_the_connection() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    certified(&workspace, "clients", "rails", "DNS:rails.internal");
    workspace.configure(&mutual(CALLERS));
    let service = workspace.serve().await;
    let rails = client(&workspace, Some("rails.both"));
    ask(&service, &rails, Some("wrong")).await.refused(401, "invalid_client", None);
    ask(&service, &rails, Some(API_KEY)).await.ok();
    let line: serde_json::Value = serde_json::from_str(&service.logged("minted").await).expect("JSON");
    assert_eq!([&line["caller"], &line["credential"]], ["web", "api_key"]);
    let url = format!("https://{}/identity-token", service.address("minting"));
    let basic = rails.post(&url).basic_auth("rails", Some("x")).json(&user_1());
    Answer::of(basic).await.refused(401, "invalid_client", None);
    let two = rails.post(&url).bearer_auth(API_KEY).bearer_auth(API_KEY).json(&user_1());
    Answer::of(two).await.refused(400, "invalid_request", None);
}

/// The names are read when the connection opens. Each request looks up which caller they belong to.
#[tokio::test]
async fn a_removed_caller_is_refused_on_its_open_connection_too() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "server");
    certified(&workspace, "clients", "rails", "DNS:rails.internal");
    workspace.configure(&mutual(CALLERS));
    let service = workspace.serve().await;
    let rails = client(&workspace, Some("rails.both"));
    ask(&service, &rails, None).await.ok();
    workspace.configure(&mutual(""));
    crate::support::signal(service.pid(), "HUP");
    service.logged("reloaded").await;
    ask(&service, &rails, None).await.refused(401, "invalid_client", None);
}

/// Sends a request through a Unix socket as another user, and returns the status.
fn as_user(uid: u32, socket: &std::path::Path, header: &str) -> String {
    let asked = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"])
        .arg(socket)
        .args(["-H", "Content-Type: application/json", "-H", header, "-d", r#"{"sub":"user-1"}"#])
        .arg("http://localhost/identity-token")
        .uid(uid)
        .gid(uid)
        .output();
    String::from_utf8(asked.expect("curl runs").stdout).expect("text")
}

#[tokio::test]
#[ignore = "needs root: make system"]
async fn on_a_unix_socket_the_peer_s_user_is_the_caller() {
    let workspace = Workspace::new();
    let callers = "[callers.rails]\npeer_uid = 21001\nallow = [\"identity.web\"]\n\
                   [callers.job]\npeer_uid = 21002\nallow = [\"oauth.crm\"]\n";
    workspace.configure(&(configuration().replace("127.0.0.1:0", "unix:run.sock") + callers));
    let service = workspace.serve().await;
    let socket = workspace.path("run.sock");
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    // The directory's owner would open it to a group instead.
    mode(&workspace.path(""), 0o755);
    mode(&socket, 0o666);
    assert_eq!(as_user(21_001, &socket, "X-Nothing: 1"), "200");
    let line: serde_json::Value = serde_json::from_str(&service.logged("minted").await).expect("JSON");
    assert_eq!([&line["caller"], &line["credential"]], ["rails", "connection"]);
    assert_eq!(as_user(21_002, &socket, "X-Nothing: 1"), "403");
    assert_eq!(as_user(21_003, &socket, "X-Nothing: 1"), "401");
    assert_eq!(as_user(21_001, &socket, "Authorization: Bearer wrong"), "401");
    assert_eq!(as_user(21_003, &socket, &format!("Authorization: Bearer {API_KEY}")), "200");
}

#[test]
fn a_caller_has_a_credential_and_no_two_have_the_same() {
    let allow = "allow = [\"oauth.crm\"]\n";
    for (callers, field, why) in [
        (
            format!("[callers.a]\n{allow}"),
            "callers.a.api_key_sha256",
            "without an API key, `client_san`, `peer_uid` or `jwt_issuer`",
        ),
        (
            format!(
                "[callers.a]\nclient_san = [\"x\"]\n{allow}[callers.b]\nclient_san = [\"y\", \"X\"]\n{allow}"
            ),
            "callers",
            "share the client_san `x`",
        ),
        (
            format!("[callers.a]\npeer_uid = 7\n{allow}[callers.b]\npeer_uid = 7\n{allow}"),
            "callers",
            "share the peer_uid 7",
        ),
        (
            format!("[callers.a]\nclient_san = [\"*.internal\"]\n{allow}"),
            "callers.a.client_san",
            "a whole name",
        ),
        (
            format!("[callers.a]\nclient_san = [\"10.0.0.7\"]\n{allow}"),
            "callers.a.client_san",
            "is an IP address",
        ),
        (
            format!("[callers.a]\nclient_san = [\"a b\"]\n{allow}"),
            "callers.a.client_san",
            "a host name, or a URI",
        ),
        (format!("[callers.a]\nclient_san = [\"://\"]\n{allow}"), "callers.a.client_san", "isn't a URI"),
        (format!("[callers.a]\npeer_uid = -1\n{allow}"), "callers.a.peer_uid", "the number of a user"),
        (
            format!("[callers.a]\npeer_uid = 4294967295\n{allow}"),
            "callers.a.peer_uid",
            "the number of a user",
        ),
    ] {
        let ran = Workspace::with(&callers).run(&["check"]);
        assert_eq!(ran.code(), 64, "{why}: {}", ran.stderr);
        assert!(ran.stderr.contains(field) && ran.stderr.contains(why), "{why}: {}", ran.stderr);
    }
    let no_use = "[callers.a]\nclient_san = [\"x\"]\nallow = []\n[callers.b]\npeer_uid = 65534\nallow = []\n";
    let ran = Workspace::with(no_use).run(&["check", "--json"]);
    let warnings = ran.json()["warnings"].as_array().cloned().unwrap_or_default();
    for (field, why) in [
        ("callers.a", "set client_ca_file of [server.tls]"),
        ("callers.b", "listen = \"unix:PATH\""),
        ("callers.b.peer_uid", "namespace"),
    ] {
        let fits =
            |w: &&serde_json::Value| w["field"] == field && w["message"].as_str().unwrap_or("").contains(why);
        assert!(warnings.iter().any(|warning| fits(&warning)), "{field}: {}", json!(warnings));
    }
}
