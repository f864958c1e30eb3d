//! `docs/troubleshoot/messages.md`: each message that the page quotes is a message of tokenmint.
//!
//! The tables below provoke the messages with the binary: `CHECK` by `check`, `RELOAD` by a changed file, `HTTP` by a
//! request, `LOG` by requests, and `COMMANDS` by a command. `SOURCE` has the others, which need another user, a state of
//! the host, Salesforce or load. They are only searched for in the code of `src`.
//!
//! A message is quoted in the first paragraph below a heading of the third level. `…` stands for any text.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use tokenmint::clock::{Clock as _, SystemClock, UnixTime};

use crate::key_files::{block, openssl};
use crate::support::{
    API_KEY, Answer, KEYS, Running, Workspace, configuration, eventually_blocking, sha256_hex, signal,
};

const PAGE: &str = include_str!("../../docs/troubleshoot/messages.md");
const KEY: &str = "keys/web/WebAppKey1.key";
const DAY: i64 = 86_400;

/// A body above the limit.
const LARGE: &str = match std::str::from_utf8(&[b' '; 20_000]) {
    Ok(text) => text,
    Err(_) => "",
};

type Change = fn(&mut Workspace);

/// Messages of `check`, each with the change of a good workspace that provokes it.
const CHECK: &[(&str, Change)] = &[
    ("unknown key", |workspace| replace(workspace, "ttl = \"30m\"", "tll = \"30m\"")),
    ("is given twice", |workspace| replace(workspace, "secret_file", "secret = \"s\"\nsecret_file")),
    ("give exactly one of", |workspace| {
        replace(
            workspace,
            "directory = \"keys/web\"",
            &format!("directory = \"keys/web\"\nkey_file = \"{KEY}\""),
        );
    }),
    (r#"must be a duration, for example "90s", "55m" or "24h""#, |workspace| {
        replace(workspace, "ttl = \"30m\"", "ttl = 1800");
    }),
    ("is ignored: separate levels by two underscores", |workspace| {
        workspace.set("TOKENMINT_SERVER_LISTEN", "127.0.0.1:1");
    }),
    ("begins or ends with a quote that would be part of the value", |workspace| {
        workspace.set("TOKENMINT_SERVER__LISTEN", "\"127.0.0.1:1\"");
    }),
    ("is empty", |workspace| workspace.write("intercom.secret", "")),
    ("is open to others (mode 0644); it must be readable by its owner only", |workspace| {
        set_mode(workspace, KEY, 0o644);
    }),
    ("is missing: name what the tokens must be issued for", |workspace| {
        issuer(workspace, "jwks_url = \"https://login.example/jwks\"");
        replace(workspace, "audience = [\"tokenmint\"]\n", "");
    }),
    ("must not hold HS256, whose key is a secret", |workspace| {
        issuer(workspace, "jwks_url = \"https://login.example/jwks\"\nalgorithms = [\"HS256\"]");
    }),
    ("holds fewer than 32 bytes, which can be guessed", |workspace| {
        workspace.write("issuer.secret", "0123456789");
        issuer(workspace, "secret_file = \"issuer.secret\"");
    }),
    ("holds no usable JWKS: it …", |workspace| {
        workspace.write("jwks.json", "{\"kty\": \"RSA\"}");
        issuer(workspace, "jwks_file = \"jwks.json\"");
    }),
    ("isn't an issuer; defined: …", |workspace| {
        issuer(workspace, "jwks_url = \"https://login.example/jwks\"");
        replace(workspace, "jwt_issuer = \"corp\"", "jwt_issuer = \"crop\"");
    }),
    ("everybody with a token of the issuer would be this caller", |workspace| {
        issuer(workspace, "jwks_url = \"https://login.example/jwks\"");
        replace(workspace, "{ sub = [\"shop\"] }", "{ azp = [\"shop\"] }");
    }),
    ("one JWT could be both …: give them different values of", |workspace| {
        issuer(workspace, "jwks_url = \"https://login.example/jwks\"");
        let second = "[callers.second]\njwt_issuer = \"corp\"\njwt_claims = { sub = [\"shop\"] }\n\
                      allow = [\"identity.web\"]\n[callers.web]";
        replace(workspace, "[callers.web]", second);
    }),
    ("is used by no caller", |workspace| {
        issuer(workspace, "jwks_url = \"https://login.example/jwks\"");
        replace(workspace, "jwt_issuer = \"corp\"\njwt_claims = { sub = [\"shop\"] }", "peer_uid = 4711");
    }),
    ("is a directory in which others can replace files", |workspace| set_mode(workspace, "keys/web", 0o777)),
    ("can be changed by others", |workspace| {
        schedule(workspace, &[("WebAppKey1", 0, "")]);
        set_mode(workspace, "keys/web/keyset.toml", 0o666);
    }),
    ("can't be listed: No such file or directory", |workspace| {
        fs::remove_dir_all(workspace.path("keys/web")).expect("there");
    }),
    ("holds no key", |workspace| fs::remove_file(workspace.path(KEY)).expect("there")),
    ("holds no KID.key, but …", |workspace| {
        fs::rename(workspace.path(KEY), workspace.path("keys/web/WebAppKey1.pem")).expect("there");
    }),
    ("it is a certificate, not a private key", |workspace| {
        let request = "req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout /dev/null";
        workspace.write_key(KEY, &openssl(request));
    }),
    ("is the certificate of another key", |workspace| {
        let request = "req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout /dev/null";
        workspace.write("keys/web/WebAppKey1.crt", &openssl(request));
    }),
    ("it isn't PEM text", |workspace| workspace.write_key(KEY, "my key")),
    ("it is the base64 of …", |workspace| {
        let lines: Vec<&str> = KEYS.web.lines().collect();
        workspace.write_key(KEY, &lines[1..lines.len() - 1].join("\n"));
    }),
    ("it holds … PEM blocks; a key file holds one private key and nothing else", |workspace| {
        workspace.write_key(KEY, &format!("{}{}", KEYS.web, KEYS.spare[0]));
    }),
    ("isn't valid for …, so Salesforce can't fetch the keys here", |workspace| {
        workspace.write_key("tls.key", &KEYS.spare[0]);
        workspace.write(
            "tls.crt",
            &openssl(&format!(
                "req -x509 -new -subj /CN=x -days 90 -key {}",
                workspace.path("tls.key").display()
            )),
        );
        let public = "[server.public]\nlisten = \"127.0.0.1:0\"\nurl = \"https://tokens.acme.example\"\n\
                      tls = { certificate_file = \"tls.crt\", private_key_file = \"tls.key\" }\n[keysets.web]";
        replace(workspace, "[keysets.web]", public);
    }),
    ("its PEM text is broken: lines are missing or changed", |workspace| {
        workspace.write_key(KEY, &KEYS.web.replacen('M', "*", 1));
    }),
    ("its contents are broken", |workspace| {
        let lines: Vec<&str> = KEYS.web.lines().collect();
        workspace.write_key(KEY, &[&lines[..9], &lines[10..]].concat().join("\n"));
    }),
    ("has …: tokenmint reads it all the same", |workspace| {
        workspace.write_key(KEY, &KEYS.web.replace('\n', "\n  "));
    }),
    ("it is encrypted and there is no passphrase", |workspace| {
        workspace.write_key(KEY, &openssl("genpkey -algorithm RSA -aes256 -pass pass:secret"));
    }),
    ("it is encrypted in the old OpenSSL way", |workspace| {
        workspace.write_key(KEY, &openssl("genrsa -traditional -aes128 -passout pass:secret 2048"));
    }),
    ("it is encrypted in a way that can't be read", |workspace| {
        workspace.write_key(KEY, &block("ENCRYPTED PRIVATE KEY", b"x"));
        workspace.write("passphrase", "secret");
        replace(
            workspace,
            "directory = \"keys/web\"",
            "directory = \"keys/web\"\npassphrase_file = \"passphrase\"",
        );
    }),
    ("the key has … bits; at least 2048 are needed", |workspace| {
        workspace.write_key(KEY, &openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024"));
    }),
    ("elliptic-curve (EC)", |workspace| {
        workspace.write_key(KEY, &openssl("ecparam -name prime256v1 -genkey -noout"));
    }),
    ("holds 2 keys (…) and no keyset.toml", second_key),
    ("doesn't list …, so that key neither signs nor is published", |workspace| {
        second_key(workspace);
        schedule(workspace, &[("WebAppKey1", 0, "")]);
    }),
    ("comes before verifiers know the key", |workspace| {
        second_key(workspace);
        let now = now();
        let added = format!("added = {}", date(now));
        schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now + 3_600, &added)]);
    }),
    ("no key signs until …", |workspace| schedule(workspace, &[("WebAppKey1", now() + DAY, "")])),
];

/// Messages of a refused reload: the state at the start, and the change.
const RELOAD: &[(&str, Change, Change)] = &[
    ("the changed configuration is rejected, and the previous one stays in force", unchanged, |workspace| {
        replace(workspace, "[server]", "[sever]");
    }),
    (
        "can't change while the service runs (… before, … now): put it back, or restart",
        unchanged,
        |workspace| {
            replace(workspace, "127.0.0.1:0", "127.0.0.1:1");
        },
    ),
    ("the running service rejects these files, and keeps the previous ones", unchanged, |workspace| {
        replace(workspace, "127.0.0.1:0", "127.0.0.1:1");
    }),
    ("has no entries left, possibly because a file was emptied or truncated", unchanged, |workspace| {
        let text = configuration();
        workspace.configure(text.split_once("[callers.web]").expect("there").0);
    }),
    (
        "is new and would sign …, before verifiers know it. In keyset.toml give it added",
        unchanged,
        |workspace| {
            second_key(workspace);
            schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 60, "")]);
        },
    ),
    ("No other key of the keyset signs meanwhile, so a date doesn't help", unchanged, |workspace| {
        replace(workspace, "[identity.web]\nkeyset = \"web\"", "[identity.web]\nkeyset = \"crm\"");
    }),
    ("no key would sign until …, but … signs now", unchanged, |workspace| {
        schedule(workspace, &[("WebAppKey1", now() + DAY, "")]);
    }),
    ("verifiers keep … as a key for …: put … back", unchanged, |workspace| {
        replace(workspace, "issuer = \"intercom.com\"", "issuer = \"intercom.com\"\nalgorithm = \"RS512\"");
    }),
    (
        "verifiers may keep the JWKS for … s, as this service has announced since its start",
        unchanged,
        |workspace| {
            let directory = "directory = \"keys/web\"\n";
            replace(workspace, directory, &format!("{directory}publish_lead = \"1m\"\n"));
        },
    ),
    ("is another key now; verifiers keep the old one under that id", unchanged, |workspace| {
        workspace.write_key(KEY, &KEYS.spare[0]);
    }),
    (
        "was retired and would come back",
        |workspace| {
            second_key(workspace);
            schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 60, "")]);
        },
        |workspace| {
            workspace.run(&["keys", "retire", "WebAppKey1", "--now"]).ok();
            schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 60, "")]);
        },
    ),
    (
        "was gone since … and would be published again",
        |workspace| {
            second_key(workspace);
            // The key is published for another 5 seconds: its tokens live for an hour, and the margin is an hour.
            schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 2 * 3_600 + 5, "")]);
        },
        |workspace| {
            eventually_blocking("the key is gone", || workspace.run(&["keys", "list"]).ok().contains("gone"));
            schedule(workspace, &[("WebAppKey1", 0, ""), ("WebAppKey2", now() - 60, "")]);
        },
    ),
];

/// Messages of HTTP answers. The request: API key, path, body.
const HTTP: &[(&str, [&str; 3])] = &[
    ("send a valid API key", ["tm_another", "/identity-token", r#"{"sub": "user-1"}"#]),
    (
        "this caller may not use that profile",
        ["tm_the-key-of-crm", "/identity-token", r#"{"sub": "user-1", "profile": "web"}"#],
    ),
    (
        "this caller may not have a token for that subject",
        ["both", "/identity-token", r#"{"sub": "1", "profile": "web512"}"#],
    ),
    ("is empty; give the id of the signed-in user", [API_KEY, "/identity-token", r#"{"sub": ""}"#]),
    ("names nobody", [API_KEY, "/identity-token", r#"{"sub": "undefined"}"#]),
    ("must be a string", [API_KEY, "/identity-token", r#"{"sub": 4711}"#]),
    (
        "is missing: this caller must send the user's token",
        ["proven", "/identity-token", r#"{"sub": "user-1"}"#],
    ),
    (
        "isn't accepted from this caller: leave it out",
        [API_KEY, "/identity-token", r#"{"subject_token": "ey.J.x"}"#],
    ),
    // Claims come before the signature, so these tokens need none.
    (
        "isn't for an … of the configuration (…)",
        [
            "proven",
            "/identity-token",
            r#"{"subject_token": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJvdGhlciIsImV4cCI6NDEwMjQ0NDgwMH0.AAAA"}"#,
        ],
    ),
    (
        "has expired (…)",
        [
            "proven",
            "/identity-token",
            r#"{"subject_token": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJ0b2tlbm1pbnQiLCJleHAiOjEwMDAwMDAwMDB9.AAAA"}"#,
        ],
    ),
    (
        "the keys of the token's issuer can't be fetched",
        [
            "proven",
            "/identity-token",
            r#"{"subject_token": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJ0b2tlbm1pbnQiLCJleHAiOjQxMDI0NDQ4MDB9.AAAA"}"#,
        ],
    ),
    ("name a profile", ["both", "/identity-token", r#"{"sub": "user-1"}"#]),
    (
        "must be between … seconds, the profile's max_ttl",
        [API_KEY, "/identity-token", r#"{"sub": "user-1", "ttl": 90000}"#],
    ),
    ("this listener has nothing at this path", [API_KEY, "/nothing", "{}"]),
    ("too many tokens were requested for this subject", [API_KEY, "/identity-token", r#"{"sub": "user-9"}"#]),
    ("the body is larger than … bytes", [API_KEY, "/identity-token", LARGE]),
    (
        "no key of this profile's keyset signs yet",
        ["both", "/identity-token", r#"{"sub": "user-1", "profile": "late"}"#],
    ),
];

/// Messages of HTTP answers to a request with that header.
const MESSAGES_BY_HEADER: &[(&str, [&str; 2])] = &[
    ("only application/json and application/jwt are available", ["accept", "text/html"]),
    ("send the body as JSON", ["content-type", "text/plain"]),
];

/// Log lines that the requests of the tests for `HTTP` cause.
const LOG: &[&str] = &[
    "a subject exceeded its rate of tokens",
    "would be refused",
    "refused a caller: the JWT",
    "the keys of an issuer can't be fetched",
];

/// Messages of commands: the arguments, and the state.
const COMMANDS: &[(&str, &[&str], Change)] = &[
    ("can't listen on …: Address already in use", &["serve"], unchanged),
    ("no running service answered", &["keys", "list"], unchanged),
    ("is already waiting to sign, from …", &["keys", "rotate", "--keyset", "web"], |workspace| {
        workspace.run(&["keys", "rotate", "--keyset", "web"]).ok();
    }),
    (
        "an argument is neither a token nor the name of an existing file",
        &["verify", "no-such-file"],
        unchanged,
    ),
    ("fails to upload", &["sandbox", "--upload", "set.json"], |workspace| {
        let set = workspace.run(&["jwks"]).ok();
        workspace.write("set.json", &set);
    }),
];

/// Messages that no table provokes. Other tests provoke most of them.
const SOURCE: &[&str] = &[
    // Another user's file: tests don't run as two users.
    "belongs to user …, who could change it",
    "can't be opened: …",
    // `retirement::a_retirement_reports_other_refusals_and_needs_no_unlisted_key` and others.
    "doesn't sign in its place",
    "is not retired, and a service that uses it still does",
    "its last [[key]] retires",
    "lists retired keys only, but",
    "another process has locked",
    // They need other users or network namespaces.
    "but it isn't known which files it reads",
    "that answers as the service: that user can't read these keys",
    "(one in a container isn't)",
    // Load.
    "the service is overloaded and can't answer in time",
    // A refusal of Salesforce.
    "exchange failed",
    // It needs a token with a good signature.
    "isn't the subject of …: leave it out, or send the same",
    // `reload::a_key_given_as_the_state_directory_is_not_shown`.
    "the login budget is kept in memory only",
    // States of the host: `host::running_as_root_is_warned_of`.
    "runs as root",
    "the host has swap",
];

const fn unchanged(_: &mut Workspace) {}

fn now() -> i64 {
    SystemClock::default().now().seconds()
}

/// A TOML date.
fn date(seconds: i64) -> String {
    UnixTime::from_seconds(seconds).to_string()
}

fn replace(workspace: &Workspace, old: &str, new: &str) {
    let text = fs::read_to_string(workspace.path("tokenmint.toml")).expect("a configuration");
    assert!(text.contains(old), "{old}");
    workspace.configure(&text.replacen(old, new, 1));
}

/// Adds the issuer `corp`, whose keys `source` names, and a caller that authenticates with its JWTs.
fn issuer(workspace: &Workspace, source: &str) {
    let added = format!(
        "[issuers.corp]\nissuer = \"https://login.example\"\naudience = [\"tokenmint\"]\n{source}\n\
         [callers.shop]\njwt_issuer = \"corp\"\njwt_claims = {{ sub = [\"shop\"] }}\nallow = [\"identity.web\"]\n[callers.web]"
    );
    replace(workspace, "[callers.web]", &added);
}

fn set_mode(workspace: &Workspace, name: &str, mode: u32) {
    fs::set_permissions(workspace.path(name), fs::Permissions::from_mode(mode)).expect("changed");
}

fn second_key(workspace: &mut Workspace) {
    workspace.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
}

fn schedule(workspace: &Workspace, entries: &[(&str, i64, &str)]) {
    let entries = entries
        .iter()
        .map(|(kid, from, more)| format!("[[key]]\nkid = \"{kid}\"\nsign_from = {}\n{more}\n", date(*from)));
    workspace.write("keys/web/keyset.toml", &entries.collect::<String>());
}

/// Whether `text` has the parts of `message` between its `…`, in that order.
fn shows(text: &str, message: &str) -> bool {
    let mut rest = text;
    message.split('…').all(|part| {
        let found = rest.find(part);
        rest = found.map_or("", |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

/// The messages that the page quotes.
fn quoted() -> Vec<&'static str> {
    let entries = PAGE.split("\n### ").skip(1);
    let first = entries.filter_map(|entry| entry.split("\n\n").nth(1)).filter(|text| text.starts_with('`'));
    first.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_quoted_message_is_in_a_table() {
    let mut tables: Vec<&str> = CHECK.iter().map(|(message, _)| *message).collect();
    tables.extend(RELOAD.iter().map(|(message, ..)| *message));
    tables.extend(HTTP.iter().map(|(message, _)| *message));
    tables.extend(MESSAGES_BY_HEADER.iter().map(|(message, _)| *message));
    tables.extend(LOG);
    tables.extend(COMMANDS.iter().map(|(message, ..)| *message));
    tables.extend(SOURCE);
    tables.sort_unstable();
    let mut quoted = quoted();
    quoted.sort_unstable();
    assert_eq!(quoted, tables);
}

#[test]
fn check_shows_the_messages_about_settings_and_keys() {
    for (message, change) in CHECK {
        let mut workspace = Workspace::new();
        change(&mut workspace);
        let ran = workspace.run(&["check"]);
        assert!(shows(&ran.stderr, message), "{message}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_refused_reload_logs_its_messages() {
    for (message, begin, change) in RELOAD {
        let mut workspace = Workspace::new();
        begin(&mut workspace);
        let service = workspace.serve().await;
        change(&mut workspace);
        signal(service.pid(), "HUP");
        let line = service.logged("the changed configuration is rejected").await;
        let output = line + &workspace.run(&["check", "--running"]).stderr;
        assert!(shows(&output, message), "{message}: {output}");
    }
}

async fn ask(service: &Running, [api_key, path, body]: [&str; 3]) -> String {
    let answer: Answer = service.post_text(path, api_key, body.to_owned()).await;
    let description = answer.json()["error_description"].as_str().map(str::to_owned);
    description.unwrap_or_default()
}

#[tokio::test]
async fn answers_have_the_messages() {
    let (both, trial, proven) = (sha256_hex("both"), sha256_hex("trial"), sha256_hex("proven"));
    let workspace = Workspace::with(&format!(
        "[callers.trial]\napi_key_sha256 = [\"{trial}\"]\nallow = [\"oauth.crm\"]\npolicy = \"audit\"\n\
         [callers.both]\napi_key_sha256 = [\"{both}\"]\n\
         allow = [\"identity.web\", \"identity.web512\", \"identity.late\"]\n\
         [keysets.late]\ndirectory = \"keys/late\"\n[identity.late]\nkeyset = \"late\"\nissuer = \"late\"\n\
         [callers.proven]\napi_key_sha256 = [\"{proven}\"]\nallow = [\"identity.web\"]\n\
         subject_token = \"required\"\nsubject_issuer = \"corp\"\n"
    ));
    // Nobody listens on port 1.
    issuer(&workspace, "jwks_url = \"http://127.0.0.1:1/jwks\"");
    workspace.write_key("keys/late/Late1.key", &KEYS.spare[1]);
    let from = date(now() + DAY);
    workspace.write("keys/late/keyset.toml", &format!("[[key]]\nkid = \"Late1\"\nsign_from = {from}\n"));
    replace(
        &workspace,
        "[keysets.web]",
        "[server.limits]\nremint_burst = 1\nremints_per_minute = 1\n[keysets.web]",
    );
    let service = workspace.serve().await;
    // The first of the tokens that are too many for their subject.
    service.post_text("/identity-token", API_KEY, r#"{"sub": "user-9"}"#).await.ok();
    for (message, request) in HTTP {
        let description = ask(&service, *request).await;
        assert!(shows(&description, message), "{message}: {description}");
    }
    for (message, [name, value]) in MESSAGES_BY_HEADER {
        let request = service.request(Method::POST, "/identity-token").bearer_auth(API_KEY);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert(*name, HeaderValue::from_static(value));
        let answer = Answer::of(request.headers(headers).body(r#"{"sub": "user-1"}"#)).await;
        assert!(shows(&answer.text, message), "{message}: {}", answer.text);
    }
    service.post_text("/identity-token", "trial", r#"{"sub": "user-1", "profile": "web"}"#).await.ok();
    ask(&service, ["eyJ.not.jwt", "/identity-token", r#"{"sub": "user-1"}"#]).await;
    for message in LOG {
        service.logged(message).await;
    }
}

#[test]
fn commands_show_their_messages() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = occupied.local_addr().expect("bound").to_string();
    for (message, arguments, change) in COMMANDS {
        let mut workspace = Workspace::new();
        if *arguments == ["serve"] {
            replace(&workspace, "127.0.0.1:0", &address);
        }
        change(&mut workspace);
        let ran = workspace.run(arguments);
        let output = format!("{}{}", ran.stdout, ran.stderr);
        assert!(shows(&output, message), "{message}: {output}");
    }
}

/// All Rust files below `folder`, as one text without the line breaks inside of string literals.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(path).expect("a source").lines() {
                let line = line.trim_start();
                let is_comment = line.starts_with("//");
                text += if is_comment { "" } else { line.strip_suffix('\\').unwrap_or(line) };
            }
        }
    }
    text
}

#[test]
fn the_other_messages_are_in_the_source() {
    let text = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for message in SOURCE {
        assert!(message.split('…').all(|part| text.contains(part)), "{message}");
    }
}
