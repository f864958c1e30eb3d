//! Each exit code of the reference is produced by a run.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::Stdio;

use tokenmint::cli::EXIT_CODES;

use crate::fake_vault::FakeVault;
use crate::sealed_keys::unsealed_workspace;
use crate::support::{KEYS, Workspace, configuration, free_port, signal};

/// Runs a command, and returns its exit code.
type Run = Box<dyn Fn() -> i32>;

/// Runs a command in a workspace with a whole configuration.
fn run(arguments: &'static str) -> Run {
    prepared(|_| {}, arguments)
}

/// Runs a command in such a workspace once `prepare` has changed it.
fn prepared(prepare: impl Fn(&Workspace) + 'static, arguments: &'static str) -> Run {
    Box::new(move || {
        let workspace = Workspace::new();
        prepare(&workspace);
        workspace.run(&words(arguments)).code()
    })
}

fn words(arguments: &str) -> Vec<&str> {
    arguments.split(' ').collect()
}

/// Runs a command with an invalid configuration.
fn misconfigured(arguments: &'static str) -> Run {
    prepared(|workspace| workspace.configure("nonsense = 1\n"), arguments)
}

/// Starts a command, stops it with a signal once it has printed a line with `marker`, and returns its exit code.
fn stop(workspace: &Workspace, arguments: &str, marker: &str) -> i32 {
    let mut child =
        workspace.command(&words(arguments)).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(marker)), "{arguments} doesn't print {marker}");
    signal(child.id(), "TERM");
    let rest = std::thread::spawn(move || lines.count());
    let code = child.wait().expect("a child of ours").code().expect("it ended by itself");
    rest.join().expect("read");
    code
}

fn stopped(arguments: &'static str, marker: &'static str) -> Run {
    Box::new(move || stop(&Workspace::new(), arguments, marker))
}

/// Runs a command whose address is in use.
fn at_a_used_port(arguments: &'static str) -> Run {
    Box::new(move || {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        let workspace = Workspace::new();
        workspace.configure(&configuration().replace("127.0.0.1:0", &address));
        workspace.run(&words(&arguments.replace("ADDRESS", &address))).code()
    })
}

/// Runs `healthcheck` while the service runs.
fn healthy() -> i32 {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("127.0.0.1:0", &format!("127.0.0.1:{}", free_port())));
    let mut service = workspace.command(&["serve"]).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(service.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("started")), "the service doesn't start");
    let code = workspace.run(&["healthcheck"]).code();
    service.kill().expect("a child of ours");
    service.wait().expect("a child of ours");
    code
}

/// Runs one or two commands in a workspace whose keyset `web` has a store. Returns the code of the last one.
fn with_store(first: &'static str, second: Option<&'static str>) -> Run {
    Box::new(move || {
        let vault = FakeVault::start();
        let workspace = unsealed_workspace(&vault.address);
        let code = |arguments: &str| workspace.run(&words(arguments)).code();
        let first = code(first);
        second.map_or(first, code)
    })
}

fn verified() -> i32 {
    let workspace = Workspace::new();
    let token = workspace.run(&["mint", "identity.web", "--sub", "user-1"]).ok();
    workspace.run_with_input(&["verify"], &token).code()
}

fn schedule(workspace: &Workspace, entry: &str) {
    workspace.write("keys/web/keyset.toml", &format!("[[key]]\nkid = \"WebAppKey1\"\n{entry}"));
}

fn runs() -> Vec<(&'static str, i32, Run)> {
    let second_key = |workspace: &Workspace| workspace.write_key("new/keys/web/Other.key", &KEYS.spare[0]);
    let rotated = |workspace: &Workspace| drop(workspace.run(&["keys", "rotate", "--keyset", "web"]).ok());
    vec![
        ("serve", 0, stopped("serve", "started")),
        ("serve", 1, at_a_used_port("serve")),
        ("serve", 64, misconfigured("serve")),
        ("dev", 0, stopped("dev --listen 127.0.0.1:0", "curl")),
        ("dev", 1, at_a_used_port("dev --listen ADDRESS")),
        ("init", 0, run("init new")),
        ("init", 1, run("init .")),
        ("init", 64, prepared(second_key, "init new")),
        ("check", 0, run("check")),
        ("check", 1, run("check --running")),
        ("check", 64, misconfigured("check")),
        ("keys new", 0, run("keys new Another --directory another")),
        ("keys new", 1, run("keys new WebAppKey1 --directory keys/web")),
        ("keys new", 64, misconfigured("keys new Another --keyset web")),
        ("keys list", 0, run("keys list")),
        ("keys list", 64, misconfigured("keys list")),
        ("keys rotate", 0, run("keys rotate --keyset web")),
        ("keys rotate", 1, prepared(rotated, "keys rotate --keyset web")),
        ("keys rotate", 2, run("keys rotate --keyset web --sign-from 2020-01-01T00:00:00Z")),
        ("keys rotate", 64, misconfigured("keys rotate --keyset web")),
        ("keys retire", 0, run("keys retire WebAppKey1 --now")),
        ("keys retire", 1, run("keys retire Nobody --now")),
        (
            "keys retire",
            64,
            prepared(
                |workspace| schedule(workspace, "sign_from = 2025-01-01T00:00:00Z\nnonsense = 1\n"),
                "keys retire WebAppKey1 --now",
            ),
        ),
        ("keys seal", 0, with_store("keys seal WebAppKey1 --keyset web", None)),
        ("keys seal", 1, run("keys seal WebAppKey1 --keyset web")),
        ("keys seal", 64, misconfigured("keys seal WebAppKey1 --keyset web")),
        ("keys reseal", 0, with_store("keys seal WebAppKey1 --keyset web", Some("keys reseal --keyset web"))),
        ("keys reseal", 1, with_store("keys reseal --keyset web", None)),
        ("keys reseal", 64, misconfigured("keys reseal --keyset web")),
        ("jwk", 0, run("jwk WebAppKey1")),
        ("jwk", 1, run("jwk Nobody")),
        ("jwk", 64, misconfigured("jwk WebAppKey1")),
        ("jwks", 0, run("jwks")),
        ("jwks", 1, run("jwks --keyset nobody")),
        ("jwks", 64, misconfigured("jwks")),
        ("mint", 0, run("mint identity.web --sub user-1")),
        (
            "mint",
            1,
            prepared(
                |workspace| schedule(workspace, "sign_from = 2999-01-01T00:00:00Z\n"),
                "mint identity.web --sub user-1",
            ),
        ),
        ("mint", 2, run("mint identity.nobody --sub user-1")),
        ("mint", 64, misconfigured("mint identity.web --sub user-1")),
        ("verify", 0, Box::new(verified)),
        ("verify", 1, run("verify not-a-token")),
        ("verify", 64, misconfigured("verify --config tokenmint.toml not-a-token")),
        ("doctor", 0, run("doctor keys/web/WebAppKey1.key")),
        ("doctor", 1, misconfigured("doctor")),
        ("callers new", 0, run("callers new shop")),
        ("callers new", 2, run("callers new shop --allow identity.nobody")),
        ("salesforce-metadata", 0, run("salesforce-metadata --out metadata")),
        ("salesforce-metadata", 1, run("salesforce-metadata --diff nothing")),
        ("salesforce-metadata", 64, misconfigured("salesforce-metadata --out metadata")),
        ("sandbox", 0, stopped("sandbox --listen 127.0.0.1:0 --jwks-base http://127.0.0.1:1", "http")),
        ("sandbox", 1, at_a_used_port("sandbox --listen ADDRESS --jwks-base http://127.0.0.1:1")),
        ("sandbox", 64, misconfigured("sandbox --jwks-base http://127.0.0.1:1")),
        ("healthcheck", 0, Box::new(healthy)),
        ("healthcheck", 1, run("healthcheck")),
        ("healthcheck", 64, run("healthcheck --config none.toml")),
        ("openapi", 0, run("openapi")),
        ("schema", 0, run("schema")),
        ("completions", 0, run("completions bash")),
    ]
}

#[test]
fn each_exit_code_of_the_reference_is_produced_by_a_run() {
    let stated: BTreeSet<(&str, i32)> = EXIT_CODES
        .iter()
        .flat_map(|(command, codes)| codes.iter().map(|(code, _)| (*command, *code)))
        .collect();
    let mut produced = BTreeSet::new();
    let mut wrong = Vec::new();
    for (command, code, run) in runs() {
        let ended_with = run();
        if ended_with != code {
            wrong.push(format!("{command} ends with {ended_with}, not {code}"));
        }
        produced.insert((command, code));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(produced, stated);
}

#[test]
fn every_command_ends_with_2_on_wrong_usage() {
    let workspace = Workspace::new();
    for (command, _) in EXIT_CODES {
        let arguments = format!("{command} --no-such-option");
        assert_eq!(workspace.run(&words(&arguments)).code(), 2, "{command}");
    }
}
