//! `tokenmint sandbox`: the org that it derives from a configuration.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::MESSAGING;
use crate::support::{Answer, Workspace, configuration, signal};

const MESSAGING_SECTION: &str = r#"
[identity.web.messaging]
scrt_url = "https://acme.my.salesforce-scrt.com"
org_id = "00D000000000009"
es_developer_name = "Web_Channel"
"#;

/// Starts the sandbox. Returns the process, and the JSON that it prints first.
fn start(workspace: &Workspace, arguments: &[&str]) -> (Child, Value) {
    let mut child = workspace
        .command(&["sandbox", "--listen", "127.0.0.1:0", "--json"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut text = String::new();
    for line in lines.map_while(Result::ok) {
        text.push_str(&line);
        if line == "}" {
            break;
        }
    }
    let said = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    (child, said)
}

/// End to end with tokens of the service. The sandbox shares no code with the minting.
#[tokio::test]
async fn tokens_of_the_service_are_accepted_by_the_org_of_its_configuration() {
    let workspace = Workspace::with(MESSAGING_SECTION);
    let service = workspace.serve().await;
    let (mut child, said) = start(&workspace, &["--jwks-base", &service.url("/")]);
    let url = said["url"].as_str().expect("a URL");
    assert_eq!(said["org_id"], "00D000000000009");
    assert_eq!(said["deployments"][0]["jwks"], service.url("/keysets/web/jwks.json"));
    let client = reqwest::Client::new();

    let made = service.post("/oauth-assertion", &json!({})).await.ok();
    let form = [("grant_type", &made["grant_type"]), ("assertion", &made["assertion"])];
    let login = client.post(said["token_url"].as_str().expect("a URL")).form(&form);
    let granted = Answer::of(login).await.ok();
    let query = format!("{url}/services/data/v62.0/query?q=SELECT+Id+FROM+Account");
    let token = granted["access_token"].as_str().expect("a token");
    assert_eq!(Answer::of(client.get(query).bearer_auth(token)).await.ok()["totalSize"], 1);

    let identity = service.post("/identity-token", &json!({"sub": "user-1"})).await.ok();
    let mut request = super::chat_request(identity["token"].as_str().expect("a token"));
    request["orgId"] = json!("00D000000000009");
    let chat = Answer::of(client.post(format!("{url}{MESSAGING}")).json(&request)).await.ok();
    assert_eq!(super::subject(&chat), "v2/iamessage/AUTH/Web_Verification/uid:user-1");
    let state = Answer::of(client.get(format!("{url}/__sandbox/state"))).await.ok();
    assert_eq!((&state["counts"]["verified"], &state["counts"]["jwks_fetches"]), (&json!(1), &json!(1)));

    signal(child.id(), "TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn the_sandbox_prints_what_to_put_into_the_configuration() {
    let workspace = Workspace::with(MESSAGING_SECTION);
    let mut child = workspace
        .command(&["sandbox", "--listen", "127.0.0.1:0", "--jwks-base", "http://localhost:8080/"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let text: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.starts_with("Stop")).collect();
    signal(child.id(), "INT");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let text = text.join("\n");
    for part in [
        "[oauth.crm]",
        "/services/oauth2/token\"\n",
        "[identity.web.messaging]    # keys from http://localhost:8080/keysets/web/jwks.json",
        "scrt_url = \"http://127.0.0.1:",
        "/__sandbox/state",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("web512"), "it has no messaging: {text}");
}

#[test]
fn the_sandbox_says_what_it_cannot_simulate() {
    let workspace = Workspace::new();
    let ran = workspace.run(&["sandbox", "--listen", "0.0.0.0:0"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("loopback only"), "{}", ran.stderr);
    // The service uses any free port, so the sandbox can't know the JWKS URL.
    workspace.configure(&format!("{}{MESSAGING_SECTION}", configuration()));
    let ran = workspace.run(&["sandbox", "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("--jwks-base"), "{}", ran.stderr);
    let ran = workspace.run(&["sandbox", "--jwks-base", "http://elsewhere.example"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("--jwks-base must begin with https://"), "{}", ran.stderr);
    assert_eq!(Workspace::bare().run(&["sandbox"]).code(), 64);
}
