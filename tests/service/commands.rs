//! The command line, by its output and its exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use crate::support::{DEADLINE, Workspace, configuration, sha256_hex, unverified, verified};

#[tokio::test]
async fn init_makes_what_serve_needs() {
    let workspace = Workspace::bare();
    let made = workspace.run(&["init", "new", "--issuer", "acme \"x\" co", "--kid", "K1", "--json"]).json();
    assert_eq!(made["caller"], "web-backend");
    for (name, mode) in [("K1.key", 0o600), ("K1.crt", 0o644), ("K1.jwk", 0o644)] {
        let metadata = std::fs::metadata(workspace.path("new/keys/web").join(name)).expect(name);
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
    let config = std::fs::read_to_string(workspace.path("new/tokenmint.toml")).expect("a configuration");
    let api_key = made["api_key"].as_str().expect("an API key");
    assert!(config.contains(&sha256_hex(api_key)) && !config.contains(api_key), "{config}");
    let checked = workspace.run(&["check", "--config", "new/tokenmint.toml"]).ok();
    assert!(checked.starts_with("ok: 1 key, 1 keyset, 1 profile, 1 caller\nread from /"), "{checked}");

    workspace.write(
        "tokenmint.toml",
        &config.replace("127.0.0.1:8080", "127.0.0.1:0").replace("keys/web", "new/keys/web"),
    );
    let service = workspace.serve().await;
    let body = service.post_text("/identity-token", api_key, r#"{"sub":"user-1"}"#).await.ok();
    let claims =
        verified(body["token"].as_str().expect("a token"), &service.jwks("/.well-known/jwks.json").await);
    assert_eq!(claims["iss"], "acme \"x\" co");

    let again = workspace.run(&["init", "new"]);
    assert_eq!(again.code(), 1);
    assert!(again.stderr.contains("nothing was written"), "{}", again.stderr);
}

#[test]
fn keys_new_makes_a_pair_a_certificate_and_a_jwk_that_belong_together() {
    let workspace = Workspace::bare();
    let made = workspace.run(&["keys", "new", "--directory", "fresh", "--json"]).json();
    let kid = made["kid"].as_str().expect("a kid");
    let read = |extension: &str| {
        std::fs::read_to_string(workspace.path(&format!("fresh/{kid}.{extension}"))).expect("a file")
    };
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_str(&read("jwk")).expect("a JWK");
    // Without a name a key's id is its thumbprint.
    assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).expect("RSA"), kid);
    let (_, certificate) = x509_parser::pem::parse_x509_pem(read("crt").as_bytes()).expect("PEM");
    let der = base64::engine::general_purpose::STANDARD.encode(&certificate.contents);
    assert_eq!(jwk.common.x509_chain, Some(vec![der]));
    assert!(read("key").starts_with("-----BEGIN PRIVATE KEY-----"));

    let second = workspace.run(&["keys", "new", "Second", "--directory", "fresh"]);
    assert_eq!(second.code(), 1);
    assert!(second.stderr.contains("keyset.toml"), "{}", second.stderr);
    workspace.write("fresh/keyset.toml", "");
    workspace.run(&["keys", "new", "Second", "--directory", "fresh", "--bits", "3072"]).ok();
    let over = workspace.run(&["keys", "new", "Second", "--directory", "fresh"]);
    assert_eq!(over.code(), 1, "nothing is overwritten");
    assert_eq!(workspace.run(&["keys", "new", "--directory", "fresh", "--bits", "1024"]).code(), 2);
    assert_eq!(workspace.run(&["keys", "new", "../x", "--directory", "fresh"]).code(), 2);
}

#[test]
fn keys_list_shows_what_signs_and_when_that_changes() {
    let workspace = Workspace::new();
    workspace.write_key("keys/web/WebAppKey2.key", &crate::support::KEYS.web512);
    workspace.write(
        "keys/web/keyset.toml",
        "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
         [[key]]\nkid = \"WebAppKey2\"\nsign_from = 2999-01-01T00:00:00Z\n",
    );
    let text = workspace.run(&["keys", "list"]).ok();
    let row =
        |kid: &str| text.lines().find(|line| line.contains(kid)).unwrap_or_else(|| panic!("{kid} in {text}"));
    assert!(row("WebAppKey1").contains("signing") && row("WebAppKey1").contains("2999-01-01T00:00:00Z"));
    assert!(row("WebAppKey2").contains("pending") && row("WebAppKey2").contains("2999-01-01T00:00:00Z"));
    assert!(row("CrmKey1").contains("oauth.crm") && row("Web512").contains("RS512 2048"));
    let list = workspace.run(&["keys", "list", "--json"]).json();
    let listed = |kid: &str| {
        let keys = list.as_array().expect("a list");
        keys.iter().find(|key| key["kid"] == kid).expect("listed")
    };
    assert_eq!(listed("WebAppKey2")["state"], "pending");
    let first = listed("WebAppKey1");
    // The longest lifetime of a token (1 h) plus an hour.
    assert_eq!(first["published_until"].as_i64(), first["signs_until"].as_i64().map(|until| until + 7200));
}

#[tokio::test]
async fn mint_makes_the_same_tokens_without_a_server() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let set = service.jwks("/.well-known/jwks.json").await;
    let token = workspace
        .run(&["mint", "identity.web", "--sub", "user-9", "--ttl", "60", "--claims", r#"{"locale":"de"}"#])
        .ok();
    let claims = verified(token.trim_end(), &set);
    assert_eq!([&claims["sub"], &claims["locale"]], ["user-9", "de"]);
    let json = workspace.run(&["mint", "identity.web512", "--sub", "user-9", "--json"]).json();
    assert_eq!(json["expires_in"], 3600);
    verified(json["token"].as_str().expect("a token"), &set);
    verified(workspace.run(&["mint", "oauth.crm"]).ok().trim_end(), &set);
    let (_, intercom) = unverified(workspace.run(&["mint", "intercom.fin", "--sub", "7"]).ok().trim_end());
    assert_eq!(intercom["user_id"], "7");
}

#[test]
fn mint_reports_what_is_wrong_with_its_options() {
    let workspace = Workspace::new();
    for (arguments, why) in [
        (&["mint", "identity.web"][..], "--sub"),
        (&["mint", "identity.none", "--sub", "a"], "there is no profile `identity.none`"),
        (&["mint", "web", "--sub", "a"], "there is no profile `web`"),
        (&["mint", "identity.web", "--sub", "null"], "--sub names nobody"),
        (
            &["mint", "identity.web512", "--sub", "someone"],
            "doesn't match the `subjects` of `identity.web512`",
        ),
        (&["mint", "identity.web", "--sub", "a", "--ttl", "5"], "--ttl must be between"),
        (&["mint", "identity.web", "--sub", "a", "--claims", "x"], "--claims isn't JSON"),
        (&["mint", "identity.web", "--sub", "a", "--claims", r#"{"exp":1}"#], "--claims.exp isn't allowed"),
        (&["mint", "oauth.crm", "--sub", "a"], "leave out --sub"),
        (&["mint"], "required"),
        (&["nothing"], "unrecognized"),
        (&[], "Usage"),
    ] {
        let ran = workspace.run(arguments);
        assert_eq!(ran.code(), 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn callers_new_makes_a_key_whose_lines_work() {
    let workspace = Workspace::new();
    let text = workspace
        .run(&["callers", "new", "rails-web", "--allow", "identity.web", "--allow", "oauth.crm"])
        .ok();
    let (before, lines) = text.split_once("[callers.rails-web]").expect("the lines");
    let key = before.lines().find_map(|line| line.trim().strip_prefix("tm_")).expect("the key");
    assert!(lines.contains(&sha256_hex(&format!("tm_{key}"))));
    assert!(key.len() == 43, "256 bits");
    workspace.configure(&format!("{}\n[callers.rails-web]{lines}", configuration()));
    assert!(workspace.run(&["check"]).ok().contains("3 callers"));
    let made = workspace.run(&["callers", "new", "x", "--json"]).json();
    assert_eq!(made["api_key_sha256"], sha256_hex(made["api_key"].as_str().expect("a key")));
    assert_eq!(workspace.run(&["callers", "new", "a b"]).code(), 2);
    assert_eq!(workspace.run(&["callers", "new", "x", "--allow", "web"]).code(), 2);
}

#[tokio::test]
async fn healthcheck_tells_a_service_that_answers_from_one_that_does_not() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let listens = |address: &str| workspace.configure(&configuration().replace("127.0.0.1:0", address));
    listens(service.address("minting"));
    workspace.run(&["healthcheck"]).ok();
    // `healthcheck` uses loopback for a service that listens on all addresses.
    let port = service.address("minting").rsplit(':').next().expect("a port").to_owned();
    listens(&format!("0.0.0.0:{port}"));
    workspace.run(&["healthcheck"]).ok();
    drop(service);
    let ran = workspace.run(&["healthcheck"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("/livez can't be reached"), "{}", ran.stderr);
    // Another program listens there and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listens(&mute.local_addr().expect("an address").to_string());
    let ran = workspace.run(&["healthcheck", "--timeout", "1"]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("within 1 s"), "{}", ran.stderr);
}

#[test]
fn every_command_has_help_with_an_example_and_says_its_version() {
    let workspace = Workspace::bare();
    for command in [
        &["serve"][..],
        &["dev"],
        &["init"],
        &["check"],
        &["keys"],
        &["keys", "new"],
        &["keys", "list"],
        &["jwk"],
        &["jwks"],
        &["mint"],
        &["callers"],
        &["callers", "new"],
        &["sandbox"],
        &["healthcheck"],
        &["openapi"],
        &["schema"],
        &["completions"],
    ] {
        let help = workspace.run(&[command, &["--help"]].concat()).ok();
        assert!(help.contains("Example: "), "{command:?}: {help}");
    }
    let version = workspace.run(&["--version"]).ok();
    assert_eq!(version, format!("tokenmint {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(workspace.run(&["completions", shell]).ok().contains("healthcheck"), "{shell}");
    }
}

#[test]
fn a_closed_output_pipe_is_no_panic() {
    let mut child = Workspace::bare()
        .command(&["openapi"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// Runs a command whose standard output is a pipe without a reader.
fn run_without_reader(workspace: &Workspace, arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = workspace
        .command(arguments)
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .expect("the binary runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The API key exists only in that output.
#[test]
fn an_api_key_that_nobody_reads_is_a_failure_and_other_unread_output_is_not() {
    let workspace = Workspace::new();
    for (arguments, files) in [
        (&["callers", "new", "rails"][..], false),
        (&["callers", "new", "rails", "--json"], false),
        (&["init", "fresh"], true),
        (&["init", "fresher", "--json"], true),
    ] {
        let (code, stderr) = run_without_reader(&workspace, arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("`tokenmint callers new` creates another"), "{stderr}");
        assert_eq!(stderr.contains("files were written"), files, "{stderr}");
    }
    for arguments in [
        &["check"][..],
        &["mint", "identity.web", "--sub", "user-1"],
        &["jwks"],
        &["keys", "list"],
        &["keys", "rotate", "--keyset", "web", "--plan"],
    ] {
        let (code, stderr) = run_without_reader(&workspace, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        let full = workspace.run_in_shell(arguments, "> /dev/full");
        assert!(full.stderr.contains("can't be written"), "{arguments:?}: {}", full.stderr);
        assert!(!full.stderr.contains("Files") && !full.stderr.contains("API key"), "{}", full.stderr);
    }
    let full = workspace.run_in_shell(&["salesforce-metadata", "--out", "project"], "> /dev/full");
    assert!(full.stderr.contains("Files that the command wrote are there"), "{}", full.stderr);
}

/// A program that reads the output gets a document, also if the command fails before it has a result.
#[test]
fn a_failure_under_json_or_sarif_is_a_document_too() {
    let workspace = Workspace::new();
    workspace.write("page.html", "<html>");
    workspace.write("project/x.PublicKeyCertificateSet-meta.xml", "<broken");
    workspace.write("bad.toml", &configuration().replace("ttl = \"30m\"", "ttl = 30"));
    for (arguments, code, reason) in [
        (&["doctor", "--json", "none.jwk", "--config", "bad.toml"][..], 1, "names no existing file"),
        (&["check", "--running", "--json"], 1, "no service answers at"),
        (&["keys", "list", "--json", "--config", "missing.toml"], 64, "missing.toml"),
        (&["callers", "new", "a", "--json", "--allow", "identity.no"], 2, "there is no `identity.no`"),
        (&["salesforce-metadata", "--json", "--diff", "project"], 1, "x.PublicKeyCertificateSet-meta.xml"),
        (&["verify", "--json", "none"], 1, "existing file"),
    ] {
        let ran = workspace.run(arguments);
        assert_eq!(ran.code(), code, "{arguments:?}: {}", ran.stderr);
        let document: Value = serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}{}", ran.stdout, ran.stderr));
        assert_eq!(document["ok"], false, "{arguments:?}");
        assert!(ran.stdout.contains(reason), "{arguments:?}: {}", ran.stdout);
    }
    let ran = workspace.run(&["doctor", "--sarif", "--jwks", "none"]);
    let log: Value = serde_json::from_str(&ran.stdout).expect("SARIF");
    let invocation = &log["runs"][0]["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false, "{log}");
    let notification = &invocation["toolExecutionNotifications"][0];
    assert!(notification["message"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{log}");
}

/// If unwritable output were no failure, an API key, which is shown only once, would be lost without a message.
#[tokio::test]
async fn unwritable_output_fails_every_command_and_a_closed_pipe_does_not() {
    let serving = Workspace::new();
    let service = serving.serve().await;
    let token = serving.run(&["mint", "identity.web", "--sub", "user-1"]).ok();
    let mut shown = std::collections::BTreeSet::new();
    for (arguments, readable) in [
        // Whether these print before the pipe closes is left to chance.
        (&["init", "new"][..], None),
        (&["init", "newer", "--json"], None),
        (&["check"], Some(0)),
        (&["check", "--json"], Some(0)),
        (&["keys", "new", "K", "--directory", "fresh"], Some(0)),
        (&["keys", "list"], Some(0)),
        (&["keys", "rotate", "--keyset", "web", "--plan"], Some(0)),
        (&["keys", "retire", "WebAppKey1", "--now"], Some(0)),
        (&["jwk", "WebAppKey1"], Some(0)),
        (&["jwks"], Some(0)),
        (&["mint", "identity.web", "--sub", "user-1"], Some(0)),
        (&["verify", token.trim()], None),
        (&["doctor"], None),
        (&["callers", "new", "rails"], None),
        (&["callers", "new", "rails", "--json"], None),
        (&["salesforce-metadata", "--out", "project"], Some(0)),
        (&["healthcheck"], Some(0)),
        (&["openapi"], Some(0)),
        (&["schema"], Some(0)),
        (&["completions", "bash"], Some(0)),
        (&["--help"], Some(0)),
        (&["--version"], Some(0)),
        // These two commands don't end by themselves.
        (&["sandbox", "--listen", "127.0.0.1:0", "--jwks-base", "http://127.0.0.1:1"], Some(124)),
        (&["dev", "--listen", "127.0.0.1:0"], Some(124)),
    ] {
        shown.insert(arguments[0]);
        let run = |limit: Duration, redirect: &str| {
            let workspace = Workspace::new();
            // Only this command contacts a service.
            if arguments[0] == "healthcheck" {
                workspace.configure(&configuration().replace("127.0.0.1:0", service.address("minting")));
            }
            workspace.run_in_shell_for(limit, arguments, redirect)
        };
        let full = run(2 * DEADLINE, "> /dev/full");
        assert_eq!(full.code(), 1, "{arguments:?}: {}", full.stderr);
        assert!(full.stderr.contains("standard output can't be written"), "{arguments:?}: {}", full.stderr);
        let limit = if readable == Some(124) { Duration::from_secs(10) } else { 2 * DEADLINE };
        let gone = run(limit, "| true; exit ${PIPESTATUS[0]}");
        if let Some(code) = readable {
            assert_eq!(gone.code(), code, "{arguments:?}: {}", gone.stderr);
            assert!(!gone.stderr.contains("standard output"), "{arguments:?}: {}", gone.stderr);
        }
    }
    let cli = <tokenmint::cli::Cli as clap::CommandFactory>::command();
    let silent = ["serve"];
    for command in cli.get_subcommands().map(clap::Command::get_name).filter(|name| !silent.contains(name)) {
        assert!(shown.contains(command), "{command} isn't tried");
    }
}

/// The commands that `dev` prints, pasted into a shell. `make run` starts `dev` for new users.
#[tokio::test]
async fn what_dev_prints_can_be_pasted() {
    use std::io::{BufRead as _, BufReader};
    let mut child = Workspace::bare()
        .command(&["dev", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let text: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.starts_with("Stop")).collect();
    let line = |needle: &str| {
        text.iter().find(|line| line.starts_with("curl") && line.contains(needle)).expect(needle)
    };
    let pasted = |needle: &str| -> Value {
        let command = line(needle);
        let output = std::process::Command::new("bash").args(["-c", command]).output().expect("a shell");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {command}"))
    };
    let set = serde_json::from_value(pasted("/keysets/web/jwks.json")).expect("a JWK Set");
    let token = pasted("/identity-token")["token"].clone();
    assert_eq!(verified(token.as_str().expect("a token"), &set)["sub"], "user-1");
    assert!(pasted("/intercom-user-jwt")["token"].is_string());
    assert!(pasted("/oauth-assertion")["assertion"].is_string());
    // End to end: the sandbox in the same process accepts both tokens, and verifies the user with the JWKS.
    let oauth = pasted("/oauth-access-token");
    assert!(oauth["access_token"].as_str().is_some_and(|token| token.starts_with("00D")), "{oauth}");
    let of_client = pasted("grant_type=client_credentials");
    assert_eq!(of_client["access_token"], oauth["access_token"], "{of_client}");
    let page = pasted("/bundle");
    let token = page["tokens"]["salesforce_identity_token"].as_str().expect("a token");
    assert_eq!(verified(token, &set)["sub"], "user-1");
    assert!(page["tokens"]["intercom_user_jwt"].is_string(), "{page}");
    let messaging = pasted("/messaging-access-token");
    assert_eq!(messaging["verified"], true, "{messaging}");
    assert!(
        messaging["subject"].as_str().is_some_and(|subject| subject.ends_with("/uid:user-1")),
        "{messaging}"
    );
    // The JWT of a workload in the place of the API key, and the JWT of a user in the place of `sub`.
    for needle in ["Authorization: Bearer ey", "subject_token"] {
        let token = pasted(needle)["token"].clone();
        assert_eq!(verified(token.as_str().expect("a token"), &set)["sub"], "user-1", "{needle}");
        let jwt = line(needle).split(['\'', '"', ' ']).find(|word| word.starts_with("ey")).expect("a JWT");
        let (_, claims) = unverified(jwt);
        assert_eq!(claims["exp"].as_i64(), claims["iat"].as_i64().map(|issued_at| issued_at + 3_600));
    }
    child.kill().expect("a child of ours");
    let _ = child.wait();
    let ran = Workspace::bare().run(&["dev", "--listen", "0.0.0.0:0"]);
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr.contains("loopback only"), "{}", ran.stderr);
}
