//! The command line where users made mistakes: what it accepts, what it prints, and which files it leaves.

use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use rustix::fs::inotify;
use serde_json::{Value, json};

use crate::support::{KEYS, Workspace, configuration, unverified, verified};

/// The words of each command, groups of commands included.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            below(inner, &path, all);
            all.push(path);
        }
    }
    let mut all = vec![Vec::new()];
    below(&tokenmint::cli::Cli::command(), &[], &mut all);
    all
}

fn with<'a>(path: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    path.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn help_is_as_wide_as_the_terminal_and_no_wider_than_a_person_reads() {
    let mut workspace = Workspace::bare();
    // A terminal without colours gets none, even in a CI system.
    workspace.set("CI", "true");
    for (columns, widest) in [(60, 60), (200, 100)] {
        for path in commands() {
            let shown = workspace.run_at_terminal(&with(&path, &["--help"]), columns, "").ok();
            let longest = shown.lines().map(|line| line.chars().count()).max().expect("help");
            assert!(longest <= widest, "{path:?} at {columns}: {longest} columns\n{shown}");
        }
    }
    // The help uses the width of the terminal.
    let shown = workspace.run_at_terminal(&["verify", "--help"], 200, "").ok();
    assert!(shown.lines().any(|line| line.chars().count() > 80), "{shown}");
}

#[test]
fn the_commands_in_the_help_are_grouped_and_none_is_left_out() {
    let help = Workspace::bare().run(&["--help"]).ok();
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in help.lines() {
        if let Some(title) = line.strip_suffix(':').filter(|title| !title.starts_with(' ')) {
            groups.push((title, Vec::new()));
        } else if let (Some((_, names)), Some(name)) = (groups.last_mut(), line.strip_prefix("  ")) {
            names.extend(name.split_whitespace().next().filter(|_| !name.starts_with([' ', '-'])));
        }
    }
    let (options, groups) = groups.split_last().expect("options");
    assert_eq!(options.0, "Options");
    assert!(groups.len() >= 4 && groups.iter().all(|(_, names)| (1..=6).contains(&names.len())), "{help}");
    let mut listed: Vec<&str> = groups.iter().flat_map(|(_, names)| names.clone()).collect();
    let cli = tokenmint::cli::Cli::command();
    let mut all: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    listed.sort_unstable();
    all.sort_unstable();
    assert_eq!(listed, all);
}

#[test]
fn config_is_an_option_where_a_configuration_is_read_and_nowhere_else() {
    const READ_NONE: [&str; 5] = ["dev", "init", "openapi", "schema", "completions"];
    let workspace = Workspace::bare();
    let cli = tokenmint::cli::Cli::command();
    for path in commands().iter().filter(|path| !path.is_empty()) {
        let command =
            path.iter().fold(&cli, |command, name| command.find_subcommand(name).expect("a command"));
        if command.has_subcommands() {
            continue;
        }
        let help = workspace.run(&with(path, &["--help"])).ok();
        let reads = !READ_NONE.contains(&path[0].as_str());
        assert_eq!(help.contains("--config <FILE>"), reads, "{path:?}: {help}");
        if !reads {
            for wrong in [
                with(path, &["--config", "x.toml"]),
                [&["--config", "x.toml"][..], &with(path, &[])].concat(),
            ] {
                let ran = workspace.run(&wrong);
                assert_eq!(ran.code(), 2, "{wrong:?}: {}", ran.stderr);
            }
        }
    }
    let mut workspace = Workspace::bare();
    workspace.write(
        "etc/tokenmint.toml",
        &configuration().replace("\"keys/", "\"../keys/").replace("\"intercom.s", "\"../intercom.s"),
    );
    for arguments in
        [["check", "--config", "etc/tokenmint.toml"], ["--config", "etc/tokenmint.toml", "check"]]
    {
        assert!(workspace.run(&arguments).ok().contains("etc/tokenmint.toml"), "{arguments:?}");
    }
    workspace.set("TOKENMINT_CONFIG", "etc/tokenmint.toml");
    workspace.run(&["check"]).ok();
    for arguments in [["check", "--config", "none.toml"], ["--config", "none.toml", "check"]] {
        let ran = workspace.run(&arguments);
        assert!(ran.code() == 64 && ran.stderr.contains("none.toml"), "{arguments:?}: {}", ran.stderr);
    }
    // `docker --env-file` leaves the quotes there.
    let ran = workspace.set("TOKENMINT_CONFIG", "\"etc/tokenmint.toml\"").run(&[
        "check",
        "--config",
        "etc/tokenmint.toml",
    ]);
    assert!(ran.code() == 64 && ran.stderr.contains("TOKENMINT_CONFIG"), "{}", ran.stderr);
}

/// The message about an unknown name lists the known ones.
#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let workspace = Workspace::with("[bundles.page]\na = \"identity.web\"\nb = \"intercom.fin\"\n");
    workspace.write_key("keys/spare/Spare1.key", &KEYS.spare[0]);
    let profiles = ["identity.web", "identity.web512", "oauth.crm", "intercom.fin"];
    for (arguments, code, known) in [
        (&["mint", "identity.wbe", "--sub", "a"][..], 2, &profiles[..]),
        (&["mint", "web", "--sub", "a"], 2, &profiles),
        (&["mint", "bundles.page", "--sub", "a"], 2, &["identity.web", "intercom.fin"]),
        (&["mint", "identity.web", "--sub", "a", "--claims", r#"{"x":1}"#], 2, &["locale", "plan"]),
        (&["callers", "new", "shop", "--allow", "identity.wbe"], 2, &["identity.web512", "bundles.page"]),
        (&["jwk", "WebAppKey9"], 1, &["WebAppKey1", "Web512", "CrmKey1"]),
        (&["jwks", "--keyset", "wbe"], 1, &["web", "web512", "crm"]),
        (&["keys", "new", "--keyset", "wbe"], 2, &["web", "web512", "crm"]),
        (&["keys", "new"], 2, &["--keyset", "web, web512"]),
        (&["keys", "rotate", "--keyset", "wbe"], 2, &["web", "web512", "crm"]),
        (&["keys", "rotate"], 2, &["--keyset", "web, web512"]),
        (&["keys", "retire", "WebAppKey9", "--now"], 1, &["WebAppKey1", "Web512", "CrmKey1"]),
        (&["keys", "retire", "WebAppKey9", "--now", "--directory", "keys/spare"], 1, &["Spare1"]),
        (&["minted"], 2, &["mint", "doctor", "sandbox", "healthcheck"]),
        (&["keys", "rename"], 2, &["new", "list", "rotate", "retire"]),
        (&["callers", "list"], 2, &["new"]),
        (
            &["mint", "identity.web", "--subject", "a"],
            2,
            &["--sub", "--ttl", "--claims", "--json", "--config"],
        ),
        (&["keys", "rotate", "--when", "now"], 2, &["--keyset", "--kid", "--sign-from", "--plan"]),
        (&["sandbox", "--on-failure", "anon"], 2, &["anonymous", "unauthenticated", "refuse"]),
        (&["completions", "tcsh"], 2, &["bash", "zsh", "fish"]),
        (&["init", "new", "--with", "chat"], 2, &["fin", "messaging", "oauth"]),
    ] {
        let ran = workspace.run(arguments);
        assert_eq!(ran.code(), code, "{arguments:?}: {}", ran.stderr);
        let said = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        for name in known {
            assert!(said.contains(name), "{name} for {arguments:?}: {said}");
        }
    }
}

#[tokio::test]
async fn durations_lists_and_addresses_are_accepted_in_their_usual_forms() {
    let mut workspace = Workspace::new();
    for (written, seconds) in [("600", 600), ("600s", 600), ("10m", 600), ("1h", 3600), ("1h 0m", 3600)] {
        let minted =
            workspace.run(&["mint", "identity.web", "--sub", "a", "--ttl", written, "--json"]).json();
        assert_eq!(minted["expires_in"], seconds, "{written}");
    }
    for wrong in ["soon", "1.5s", "90ms", "-1"] {
        let ran = workspace.run(&["mint", "identity.web", "--sub", "a", &format!("--ttl={wrong}")]);
        assert_eq!(ran.code(), 2, "{wrong}: {}", ran.stderr);
        assert!(ran.stderr.contains("90s") || ran.stderr.contains("whole seconds"), "{}", ran.stderr);
    }
    for list in [
        &["--allow", "identity.web,oauth.crm"][..],
        &["--allow", "identity.web, oauth.crm"],
        &["--allow", "identity.web", "--allow", "oauth.crm"],
    ] {
        let made = workspace.run(&[&["callers", "new", "shop", "--json"], list].concat()).json();
        assert_eq!(made["allow"], json!(["identity.web", "oauth.crm"]), "{list:?}");
    }
    let service = workspace.serve().await;
    let port = service.address("minting").rsplit(':').next().expect("a port").to_owned();
    workspace.set("TOKENMINT_SERVER__LISTEN", &format!("localhost:{port}"));
    for timeout in ["5", "5s", "1m"] {
        workspace.run(&["healthcheck", "--timeout", timeout]).ok();
    }
    let jwks_base = format!("http://localhost:{port}");
    for (command, more) in [("dev", &[][..]), ("sandbox", &["--jwks-base", &jwks_base])] {
        let said = workspace.begin(&[&[command, "--json", "--listen", "localhost:0"], more].concat());
        let url = said["url"].as_str().expect("a URL");
        assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"), "{said}");
        let ran = workspace.run(&[&[command, "--listen", "example.com"], more].concat());
        assert!(ran.code() == 2 && ran.stderr.contains("127.0.0.1:8080"), "{}", ran.stderr);
    }
}

/// Records all file names that appear in a directory while `act` runs.
fn appearing(folder: &Path, act: impl FnOnce()) -> Vec<String> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("a watch");
    inotify::add_watch(&watch, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)
        .expect("watched");
    act();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = inotify::Reader::new(&watch, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = reader.next() {
        names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    names
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// A service that reads the directory must never see a key that is removed again, or a key beside another key's
/// certificate.
#[test]
fn a_new_key_whose_file_name_is_taken_leaves_no_partial_files() {
    for (arguments, folder, kid) in [
        (&["keys", "new", "Next", "--directory", "fresh"][..], "fresh", "Next"),
        (&["keys", "rotate", "--keyset", "web", "--kid", "Next"], "keys/web", "Next"),
        (&["keys", "rotate", "--keyset", "web", "--kid", "Next", "--plan"], "keys/web", "Next"),
        (&["init", "fresh"], "fresh/keys/web", "WebAppKey1"),
    ] {
        for extension in ["key", "crt", "jwk"] {
            let workspace = Workspace::new();
            let old = format!("{folder}/{kid}.{extension}");
            workspace.write(&old, "old\n");
            if folder == "keys/web" && extension == "key" {
                let schedule = "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n";
                workspace.write("keys/web/keyset.toml", schedule);
            }
            let folder = workspace.path(folder);
            let before = files(&folder);
            let appeared = appearing(&folder, || {
                let ran = workspace.run(arguments);
                assert_eq!(ran.code(), 1, "{arguments:?}: {}", ran.stderr);
                assert!(ran.stderr.contains(kid), "{}", ran.stderr);
            });
            // A key's temporary file would be no partial key, but there is none either.
            assert_eq!((appeared, files(&folder)), (Vec::new(), before), "{arguments:?}, .{extension}");
            assert_eq!(std::fs::read_to_string(workspace.path(&old)).expect("the old file"), "old\n");
            assert!(!workspace.path("fresh/tokenmint.toml").exists());
        }
    }
    // Where no file is in the way, the key is written last. Whoever finds the key finds its certificate.
    let workspace = Workspace::bare();
    workspace.write("fresh/keyset.toml", "");
    let appeared = appearing(&workspace.path("fresh"), || {
        workspace.run(&["keys", "new", "Next", "--directory", "fresh"]).ok();
    });
    let made: Vec<&String> = appeared.iter().filter(|name| name.starts_with("Next")).collect();
    assert_eq!(made.last().map(|name| name.as_str()), Some("Next.key"), "{appeared:?}");
}

#[tokio::test]
async fn init_accepts_an_existing_key() {
    for (file, options, kid) in [
        ("WebAppKey7.key", &[][..], "WebAppKey7"),
        ("server.pem", &[], "WebAppKey1"),
        ("WebAppKey7.key", &["--kid", "Mine"], "Mine"),
    ] {
        let workspace = Workspace::bare();
        workspace.write(file, &KEYS.spare[0]);
        let made = workspace.run(&[&["init", "new", "--key", file, "--json"], options].concat()).json();
        assert_eq!((&made["to_do"], &made["keys"][0]["kid"]), (&json!([]), &json!(kid)), "{made}");
        let copy = workspace.path(&format!("new/keys/web/{kid}.key"));
        assert_eq!(std::fs::read_to_string(&copy).expect("the copy"), KEYS.spare[0]);
        assert_eq!(std::fs::metadata(&copy).expect("the copy").permissions().mode() & 0o777, 0o600);
        assert_eq!(
            files(&workspace.path("new/keys/web")),
            ["crt", "jwk", "key"].map(|extension| format!("{kid}.{extension}"))
        );
        workspace.write(
            "tokenmint.toml",
            &std::fs::read_to_string(workspace.path("new/tokenmint.toml"))
                .expect("a configuration")
                .replace("127.0.0.1:8080", "127.0.0.1:0")
                .replace("keys/web", "new/keys/web"),
        );
        let service = workspace.serve().await;
        let api_key = made["api_key"].as_str().expect("a key");
        let token =
            service.post_text("/identity-token", api_key, r#"{"sub":"user-1"}"#).await.ok()["token"].clone();
        let token = token.as_str().expect("a token");
        assert_eq!(verified(token, &service.jwks("/keysets/web/jwks.json").await)["sub"], "user-1");
        assert_eq!(unverified(token).0["kid"], kid);
    }
    // A file that is no key is refused before anything is written.
    let workspace = Workspace::bare();
    workspace.write("notes.key", "buy milk");
    for file in ["notes.key", "none.key"] {
        let ran = workspace.run(&["init", "new", "--key", file]);
        assert!(ran.code() == 1 && ran.stderr.contains(file), "{}", ran.stderr);
        assert!(!workspace.path("new").exists(), "{file}");
    }
}

/// The advice of each message works when its commands are run.
#[test]
fn init_says_how_to_make_one_plain_key_of_an_encrypted_one_and_of_several() {
    let workspace = Workspace::bare();
    let bash = |script: &str| {
        let ran = Command::new("bash").args(["-ec", script]).current_dir(workspace.path("")).output();
        let ran = ran.expect("bash runs");
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    bash(
        "key=keys/web/WebAppKey1.key
         openssl pkcs8 -topk8 -v2 aes-256-cbc -passout pass:secret -in $key -out pkcs8.pem
         openssl rsa -traditional -aes128 -passout pass:secret -in $key -out traditional.pem
         openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES -passout pass:secret -in $key -out old.pem
         openssl req -x509 -new -subj /CN=x -days 400 -key $key > certificate.pem
         cat certificate.pem $key > chain.pem
         cat $key keys/crm/CrmKey1.key > two.pem
         cat pkcs8.pem certificate.pem > both.pem",
    );
    for (file, kept) in [
        ("pkcs8.pem", "NEW"),
        ("traditional.pem", "NEW"),
        ("old.pem", "NEW"),
        ("chain.pem", "NEW2"),
        ("two.pem", "NEW1"),
        ("both.pem", "NEW1"),
    ] {
        let refused = workspace.run(&["init", "new", "--key", file]);
        assert_eq!(refused.code(), 1, "{file}: {}", refused.stderr);
        let command = refused.stderr.split('`').find(|part| part.contains("KEY") && part.contains("NEW"));
        let command = command.unwrap_or_else(|| panic!("a command: {}", refused.stderr)).replace("KEY", file);
        bash(&command.replace("pkey -in", "pkey -passin pass:secret -in"));
        let ran = workspace.run(&["init", "new", "--key", kept]);
        if file == "both.pem" {
            assert!(ran.stderr.contains("it is encrypted, and `init` takes no passphrase"), "{}", ran.stderr);
            continue;
        }
        ran.ok();
        bash("rm -r new NEW*");
    }
    // The other advice: keep it encrypted.
    workspace.run(&["init", "new"]).ok();
    bash(
        "cp pkcs8.pem new/keys/web/WebAppKey1.key && chmod 600 new/keys/web/WebAppKey1.key
         rm new/keys/web/*.crt new/keys/web/*.jwk
         echo secret > new/passphrase && chmod 600 new/passphrase
         sed -i 's/^\\[keysets.web\\]/&\\npassphrase_file = \"passphrase\"/' new/tokenmint.toml",
    );
    workspace.run(&["check", "--config", "new/tokenmint.toml"]).ok();
}

#[test]
fn init_writes_what_it_is_asked_for_and_says_what_only_its_user_knows() {
    let messaging =
        ["scrt_url", "org_id", "es_developer_name"].map(|name| format!("identity.web.messaging.{name}"));
    let oauth = ["audience", "consumer_key", "username"].map(|name| format!("oauth.crm.{name}"));
    let fin = ["intercom.fin.secret_file".to_owned()];
    for (with, to_do, allowed) in [
        ("fin", fin.to_vec(), json!(["identity.web", "intercom.fin", "bundles.fin"])),
        ("messaging", messaging.to_vec(), json!(["identity.web"])),
        ("oauth", oauth.to_vec(), json!(["identity.web", "oauth.crm"])),
        (
            "fin,messaging,oauth",
            [&fin[..], &messaging, &oauth].concat(),
            json!(["identity.web", "oauth.crm", "intercom.fin", "bundles.fin"]),
        ),
    ] {
        let workspace = Workspace::bare();
        let text = workspace.run(&["init", "text", "--with", with]).ok();
        let made = workspace.run(&["init", "new", "--with", with, "--json"]).json();
        let mut fields: Vec<&str> = made["to_do"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|problem| problem["field"].as_str().expect("a field"))
            .collect();
        let mut expected: Vec<&str> = to_do.iter().map(String::as_str).collect();
        fields.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fields, expected, "{with}");
        assert!(expected.iter().all(|field| text.contains(field)), "{text}");
        // `check` reports the same, and succeeds once the values are set.
        let ran = workspace.run(&["check", "--config", "new/tokenmint.toml", "--json"]);
        assert_eq!(ran.code(), 64);
        let said: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(said["problems"].as_array().map(Vec::len), Some(expected.len()), "{said}");
        let mut config =
            std::fs::read_to_string(workspace.path("new/tokenmint.toml")).expect("a configuration");
        for (name, value) in [
            ("scrt_url", "https://acme.my.salesforce-scrt.com"),
            ("org_id", "00D000000000001"),
            ("es_developer_name", "Web_Channel"),
            ("consumer_key", "3MVG9.consumer"),
            ("username", "integration@acme.com"),
            ("audience", "https://acme.my.salesforce.com"),
        ] {
            config = config.replace(&format!("{name} = \"\""), &format!("{name} = \"{value}\""));
        }
        workspace.write("new/tokenmint.toml", &config);
        if with.contains("fin") {
            let secret = workspace.path("new/intercom.secret");
            assert_eq!(std::fs::metadata(&secret).expect("the file").permissions().mode() & 0o777, 0o600);
            std::fs::write(secret, "intercom-messenger-api-secret-0123456789\n").expect("written");
        }
        let checked = workspace.run(&["check", "--config", "new/tokenmint.toml"]);
        assert!(!checked.stderr.contains("warning"), "{}", checked.stderr);
        checked.ok();
        let written: toml::Table = config.parse().expect("TOML");
        let allow = serde_json::to_value(&written["callers"]["web-backend"]["allow"]).expect("a list");
        assert_eq!(allow, allowed, "{with}");
    }
}

/// Setup needs the JWK of an identity keyset; an External Client App needs the certificate of an OAuth keyset.
#[test]
fn commands_say_what_salesforce_needs_of_each_key() {
    let line = |text: &str, file: &str| {
        let found =
            text.lines().find(|line| line.split("  ").next().is_some_and(|path| path.ends_with(file)));
        found.unwrap_or_else(|| panic!("{file}: {text}")).to_owned()
    };
    let workspace = Workspace::bare();
    let text = workspace.run(&["init", "new", "--with", "oauth"]).ok();
    let mut config = std::fs::read_to_string(workspace.path("new/tokenmint.toml")).expect("a configuration");
    for (name, value) in [
        ("consumer_key", "3MVG9.consumer"),
        ("username", "integration@acme.com"),
        ("audience", "https://acme.my.salesforce.com"),
    ] {
        config = config.replace(&format!("{name} = \"\""), &format!("{name} = \"{value}\""));
    }
    workspace.write("new/tokenmint.toml", &config);
    let rotate = |keyset: &str| {
        workspace.run(&["keys", "rotate", "--keyset", keyset, "--config", "new/tokenmint.toml"]).ok()
    };
    let (web, crm) = (rotate("web"), rotate("crm"));
    for (text, id) in [(&text, "WebAppKey1"), (&web, "WebAppKey2")] {
        assert!(line(text, &format!("{id}.jwk")).contains("Enhanced Chat User Verification"), "{text}");
        assert!(!line(text, &format!("{id}.crt")).contains("External Client App"), "{text}");
    }
    for (text, id) in [(&text, "CrmKey1"), (&crm, "CrmKey2")] {
        assert!(line(text, &format!("{id}.crt")).ends_with("for an External Client App"), "{text}");
        assert!(!line(text, &format!("{id}.jwk")).contains("Enhanced Chat"), "{text}");
    }
    let alone = workspace.run(&["keys", "new", "K1", "--directory", "alone"]).ok();
    assert!(line(&alone, "K1.crt").ends_with("for an External Client App"), "{alone}");
    assert!(line(&alone, "K1.jwk").contains("Enhanced Chat User Verification"), "{alone}");
}

#[test]
fn init_checks_what_it_wrote_and_removes_it_if_it_is_invalid() {
    let workspace = Workspace::bare();
    // There is a key already, and no schedule that says which of the two signs.
    workspace.write_key("new/keys/web/Other.key", &KEYS.spare[0]);
    let ran = workspace.run(&["init", "new"]);
    assert_eq!(ran.code(), 64, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("keyset.toml") && ran.stderr.contains("were removed"), "{}", ran.stderr);
    assert_eq!(files(&workspace.path("new/keys/web")), ["Other.key"]);
    assert_eq!(files(&workspace.path("new")), ["keys"]);
    assert!(Workspace::bare().run(&["init", "new"]).ok().contains("are checked"));

    // The second key's file exists. So init removes the first key's directories too, and those above that it made.
    let workspace = Workspace::bare();
    workspace.write("new/keys/crm", "");
    let ran = workspace.run(&["init", "new", "--with", "oauth"]);
    assert_eq!(
        (ran.code(), files(&workspace.path("new/keys"))),
        (1, vec!["crm".to_owned()]),
        "{}",
        ran.stderr
    );
}

/// The key of the OAuth flow has a fixed id, which no other key can have.
#[test]
fn init_refuses_two_keys_of_one_id_before_anything_is_written() {
    for arguments in [&["--kid", "CrmKey1"][..], &["--key", "CrmKey1.key"]] {
        let workspace = Workspace::bare();
        workspace.write("CrmKey1.key", &KEYS.spare[0]);
        let ran = workspace.run(&[&["init", "new", "--with", "fin,oauth"], arguments].concat());
        assert_eq!(ran.code(), 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("--with oauth") && ran.stderr.contains("--kid"), "{}", ran.stderr);
        assert!(!workspace.path("new").exists(), "{arguments:?}");
        workspace.run(&[&["init", "new", "--with", "fin"], arguments].concat()).ok();
    }
}

#[test]
fn the_next_steps_that_init_prints_can_be_pasted() {
    let workspace = Workspace::bare();
    let said = workspace.run(&["init", "my $HOME dir"]).ok();
    for command in ["check", "serve"] {
        let line = format!("tokenmint {command} --config 'my $HOME dir/tokenmint.toml'");
        assert!(said.contains(&line), "{said}");
    }
    assert!(said.contains("Set `issuer` of [identity.web], look with"), "{said}");
    let said = workspace.run(&["init", "plain", "--issuer", "acme.example"]).ok();
    assert!(said.contains("\nLook with `tokenmint check --config plain/tokenmint.toml`"), "{said}");
    assert!(!said.contains("Set `issuer`"), "{said}");
}

#[test]
fn init_adds_every_secret_that_it_writes_to_gitignore() {
    for (with, before, ignored, warns) in [
        (&[][..], None, None, false),
        (&["--with", "fin"], None, Some("intercom.secret\n"), false),
        (&["--with", "fin"], Some("target\n/intercom.secret\n"), Some("target\n/intercom.secret\n"), false),
        (&["--with", "fin"], Some("target\n"), Some("target\n"), true),
    ] {
        let workspace = Workspace::bare();
        if let Some(before) = before {
            workspace.write("new/.gitignore", before);
        }
        let ran = workspace.run(&[&["init", "new"], with].concat());
        let warned = ran.stderr.contains("new/.gitignore exists already and doesn't list intercom.secret");
        assert_eq!(warned, warns, "{}", ran.stderr);
        ran.ok();
        let read = |path: &str| std::fs::read_to_string(workspace.path(path)).ok();
        assert_eq!(read("new/.gitignore").as_deref(), ignored, "{with:?}");
        assert_eq!(read("new/keys/.gitignore").as_deref(), Some("*.key\n"));
    }
}

#[test]
fn keys_list_fits_a_hundred_columns_with_any_names_and_explains_its_signs() {
    let plain = Workspace::new();
    plain.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
    plain.write(
        "keys/web/keyset.toml",
        "[[key]]\nkid = \"WebAppKey1\"\nsign_from = 2026-01-01T00:00:00Z\n\
         [[key]]\nkid = \"WebAppKey2\"\nsign_from = 2999-01-01T00:00:00Z\n\
         [[key]]\nkid = \"WebAppKey0\"\nsign_from = 2025-01-01T00:00:00Z\n\
         [[key]]\nkid = \"Leaked\"\nsign_from = 2025-06-01T00:00:00Z\nretired = 2025-07-01T00:00:00Z\n",
    );
    let long = Workspace::bare();
    let (keyset, kid, profile) = ("k".repeat(64), "i".repeat(128), "p".repeat(64));
    long.write_key(&format!("keys/long/{kid}.key"), &KEYS.spare[0]);
    let profile =
        |number: u8| format!("[identity.{number}{}]\nkeyset = \"{keyset}\"\nissuer = \"a\"\n", &profile[1..]);
    long.configure(&format!("[keysets.{keyset}]\ndirectory = \"keys/long\"\n{}{}", profile(1), profile(2)));
    for (workspace, kids) in [(&plain, &["WebAppKey1", "WebAppKey2", "CrmKey1", "Web512"][..]), (&long, &[])]
    {
        let text = workspace.run(&["keys", "list"]).ok();
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(kids.iter().all(|kid| text.contains(kid)), "{text}");
    }
    let text = plain.run(&["keys", "list"]).ok();
    let (table, legend) = text.split_once("\n\n").expect("a table and what its signs mean");
    for (sign, kid) in
        [("signing", "WebAppKey1"), ("pending", "WebAppKey2"), ("gone", "WebAppKey0"), ("retired", "Leaked")]
    {
        let row = table.lines().find(|line| line.split_whitespace().nth(1) == Some(kid));
        assert!(row.is_some_and(|row| row.contains(sign)), "{sign} in {table}");
        assert!(legend.contains(&format!("{sign}: ")), "{sign} in {legend}");
    }
    assert!(table.contains(" ? ") && legend.contains("?: no running service answered"), "{text}");
    assert!(
        !legend.contains("retiring") && !legend.contains('!'),
        "only what is there is explained: {legend}"
    );
}

/// Prepares a workspace.
type Prepare<'a> = &'a dyn Fn(&Workspace);

/// Exit code 2 means wrong usage only. Files that `serve` would not load give 64.
#[test]
fn rotate_ends_with_the_exit_code_of_the_contract() {
    let rotate = |workspace: &Workspace, more: &[&str]| {
        workspace.run(&[&["keys", "rotate", "--keyset", "web"], more].concat())
    };
    let several = |workspace: &Workspace| workspace.write_key("keys/web/WebAppKey2.key", &KEYS.spare[0]);
    let under_way: Prepare<'_> = &|workspace| drop(rotate(workspace, &[]).ok());
    let rows: &[(&str, Prepare<'_>, &[&str], i32)] = &[
        ("nothing in the way", &|_| (), &[], 0),
        ("another key is on its way", under_way, &[], 1),
        ("the same, planned", under_way, &["--plan"], 1),
        ("an id that is taken", &|_| (), &["--kid", "WebAppKey1"], 1),
        ("an id of another keyset", &|_| (), &["--kid", "CrmKey1"], 1),
        ("a date too soon", &|_| (), &["--sign-from", "2026-01-01T00:00:00Z"], 2),
        ("a date that has passed", &|_| (), &["--sign-from", "2026-01-01T00:00:00Z", "--emergency"], 2),
        ("no date", &|_| (), &["--sign-from", "tomorrow"], 2),
        ("several keys and no schedule", &several, &[], 64),
        (
            "a schedule that is wrong",
            &|workspace| workspace.write("keys/web/keyset.toml", "[[key]]\nkid = 5\n"),
            &[],
            64,
        ),
        (
            "no folder",
            &|workspace| std::fs::remove_dir_all(workspace.path("keys/web")).expect("removed"),
            &[],
            64,
        ),
        (
            "a keyset that is wrong",
            &|workspace| workspace.configure(&configuration().replace("\"keys/web\"", "5")),
            &[],
            64,
        ),
        (
            "a key given as a file",
            &|workspace| {
                workspace.configure(&configuration().replace(
                    "directory = \"keys/web\"",
                    "kid = \"WebAppKey1\"\nkey_file = \"keys/web/WebAppKey1.key\"",
                ));
            },
            &[],
            1,
        ),
    ];
    for (what, prepare, more, code) in rows {
        let workspace = Workspace::new();
        prepare(&workspace);
        let ran = rotate(&workspace, more);
        assert_eq!(ran.code(), *code, "{what}: {}{}", ran.stdout, ran.stderr);
    }
}

/// A command that also fails otherwise reports that its output is lost.
#[test]
fn unwritable_output_is_reported_even_where_the_command_fails_otherwise() {
    let workspace = Workspace::new();
    for (arguments, reason) in [
        (&["check", "--json", "--config", "none.toml"][..], "none.toml"),
        (&["doctor", "--list"], ""),
        (&["doctor", "--json", "--config", "none.toml"], ""),
        (&["verify", "eyJ", "--json"], ""),
        (&["help"], ""),
        (&["keys", "--help"], ""),
        (&["keys", "list", "--json"], ""),
        (&["keys", "rotate", "--keyset", "web", "--json"], ""),
        (&["callers", "new", "web"], ""),
    ] {
        let ran = workspace.run_in_shell(arguments, "> /dev/full");
        assert_eq!(ran.code(), 1, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("standard output can't be written"), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("standard output").count(), 1, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    }
}

/// `callers new` prints a table. For a name that is in use, that table would be a duplicate.
#[test]
fn a_second_key_of_a_caller_comes_with_the_line_that_lists_both() {
    let workspace = Workspace::new();
    let text = workspace.run(&["callers", "new", "web"]).ok();
    assert!(!text.contains("[callers.web]\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with("api_key_sha256 = [")).expect("the line");
    let mut changed = configuration();
    let old =
        changed.lines().find(|line| line.starts_with("api_key_sha256")).expect("the first caller").to_owned();
    changed = changed.replacen(&old, line, 1);
    workspace.configure(&changed);
    workspace.run(&["check"]).ok();
    assert_eq!(line.matches('"').count(), 4, "the old hash and the new: {line}");
    // Without a configuration, or with a broken one, the command makes a key nevertheless.
    Workspace::bare().run(&["callers", "new", "shop", "--allow", "identity.any"]).ok();
    workspace.configure("broken");
    let ran = workspace.run(&["callers", "new", "shop", "--allow", "identity.any"]);
    assert!(ran.stderr.contains("warning"), "{}", ran.stderr);
    ran.ok();
}

/// The control paths of the sandbox, mistyped.
#[tokio::test]
async fn the_sandbox_answers_an_unknown_name_with_the_known_ones() {
    let played = crate::sandbox::play(crate::sandbox::org()).await;
    for (path, body, known) in [
        ("/__sandbox/faults", r#"[{"fault": "timeout"}]"#, &["latency", "no_answer", "merge"][..]),
        ("/__sandbox/faults", r#"[{"fault": "reset", "path": "login"}]"#, &["token", "messaging", "data"]),
        ("/__sandbox/faults", r#"[{"fault": "reset", "count": 2}]"#, &["times", "milliseconds"]),
        ("/__sandbox/settings", r#"{"life": 5}"#, &["session_life", "messaging_life"]),
        (
            "/__sandbox/fault",
            "[]",
            &["faults", "settings", "state", "reset", "expire-sessions", "clock-skew"],
        ),
    ] {
        let answer = played.post(path, &serde_json::from_str::<Value>(body).expect("JSON")).await;
        assert!(answer.status.is_client_error(), "{path} {body}: {}", answer.text);
        for name in known {
            assert!(answer.text.contains(name), "{name} for {path} {body}: {}", answer.text);
        }
    }
}

#[test]
fn a_command_that_waits_for_a_terminal_says_so() {
    let workspace = Workspace::new();
    let token = workspace.run(&["mint", "identity.web", "--sub", "user-1"]).ok();
    for arguments in
        [&["verify"][..], &["verify", "-"], &["doctor", "-", "-v"], &["doctor", "--token", "-", "-v"]]
    {
        let ran = workspace.run_at_terminal(arguments, 100, &token);
        assert!(ran.stdout.contains("waiting for standard input"), "{arguments:?}: {}", ran.stdout);
        assert!(
            ran.stdout.contains("token-signature") || arguments[0] == "verify",
            "it is read: {}",
            ran.stdout
        );
    }
    // The command doesn't prompt when it reads from a pipe.
    let ran = workspace.run_with_input(&["verify"], &token);
    assert_eq!((ran.code(), ran.stderr.as_str()), (0, ""));
}
