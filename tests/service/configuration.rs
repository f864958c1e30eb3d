//! Bad configurations: each refused with its field, its line and what to do.

use crate::support::{KEYS, Running, Workspace, configuration, signal};
use crate::tls::certificates;

/// Each row: a change of a good configuration, the field of the error, and a part of the message.
const BAD: &[(&str, &str, &str, &str)] = &[
    // [server]
    ("\"127.0.0.1:0\"", "\"127.0.0.1\"", "server.listen", "address and a port"),
    ("\"127.0.0.1:0\"", "\":8080\"", "server.listen", "address and a port"),
    ("\"127.0.0.1:0\"", "\"127.0.0.1:99999\"", "server.listen", "address and a port"),
    ("\"127.0.0.1:0\"", "8080", "server.listen", "must be a string, not an integer"),
    ("\"127.0.0.1:0\"", "\"unix:\"", "server.listen", "has no socket path"),
    ("[server]\n", "[server]\nlisten_on = \"x\"\n", "server.listen_on", "unknown key"),
    ("[server]\n", "[server]\nlimit.body = 1\n", "server.limit", "did you mean `limits`?"),
    ("[server]\n", "[server]\nlimits.body = \"16 MB\"\n", "server.limits.body", "units are B, KiB and MiB"),
    ("[server]\n", "[server]\nlimits.body = \"2 MiB\"\n", "server.limits.body", "between 1 KiB and 1 MiB"),
    (
        "[server]\n",
        "[server]\nlimits.request_timeout = 10\n",
        "server.limits.request_timeout",
        "must be a duration",
    ),
    (
        "[server]\n",
        "[server]\nlimits.request_timeout = \"0s\"\n",
        "server.limits.request_timeout",
        "between 1s and 5m",
    ),
    ("[server]\n", "[server]\nlimits.connections = 0\n", "server.limits.connections", "at least 1"),
    (
        "[server]\n",
        "[server]\nlimits.signing_queue = \"many\"\n",
        "server.limits.signing_queue",
        "whole number",
    ),
    (
        "[server]\n",
        "[server]\nsigning.batch = \"yes\"\n",
        "server.signing.batch",
        "\"auto\", \"off\" or \"required\"",
    ),
    ("[server]\n", "[server]\npublic.url = \"https://t.example\"\n", "server.public.listen", "is missing"),
    (
        "[server]\n",
        "[server]\npublic.listen = \"0.0.0.0:1\"\npublic.url = \"http://t.example\"\n",
        "server.public.url",
        "https://",
    ),
    (
        "[server]\n",
        "[server]\npublic.listen = \"0.0.0.0:1\"\npublic.url = \"https://t.example/x\"\n",
        "server.public.url",
        "no path",
    ),
    (
        "[server]\n",
        "[server]\npublic.listen = \"0.0.0.0:1\"\nops.listen = \"0.0.0.0:1\"\n",
        "server.ops",
        "must not face the internet",
    ),
    (
        "[server]\n",
        "[server]\npublic.listen = \"127.0.0.1:1\"\nops.listen = \"0.0.0.0:1\"\n",
        "server.ops",
        "must not face the internet",
    ),
    (
        "\"127.0.0.1:0\"",
        "\"127.0.0.1:1\"\nops.listen = \"[::]:1\"",
        "server.ops",
        "one address covers the other",
    ),
    (
        "issuer = \"intercom.com",
        "issuer = \"SF_ISSUER=intercom.com",
        "identity.web.issuer",
        "begins with a name",
    ),
    (
        "[server]\n",
        "[server]\ntls.certificate_file = \"tls.crt\"\n",
        "server.tls.private_key_file",
        "is missing",
    ),
    (
        "[server]\n",
        "[server]\naudit_key = \"a\"\naudit_key_file = \"b\"\n",
        "server.audit_key",
        "given twice",
    ),
    ("[server]\n", "[server]\nlimits.token_cache = 0\n", "server.limits.token_cache", "at least 64 KiB"),
    ("[server]\n", "[server]\nsigning.batch = \"required\"\n", "server.signing.library", "is missing"),
    ("[server]\n", "server = 1\n[other]\n", "server", "must be a table"),
    ("[server]\n", "[serve]\n", "serve", "did you mean `server`?"),
    // [cache]
    ("[server]\n", "[cache]\nmemcached = 1\n[server]\n", "cache.memcached", "unknown key"),
    ("[server]\n", "[cache.redis]\nkey = \"x\"\n[server]\n", "cache.redis.url", "is missing"),
    ("[server]\n", "[cache.redis]\nurl = \"redis://127.0.0.1\"\n[server]\n", "cache.redis.key", "is missing"),
    ("[server]\n", "[cache.redis]\nkey = \"canary\"\n[server]\n", "cache.redis.key", "openssl rand -hex 32"),
    (
        "[server]\n",
        "[cache.redis]\ntimeout = \"1m\"\n[server]\n",
        "cache.redis.timeout",
        "between 1ms and 5s",
    ),
    (
        "[server]\n",
        "[cache.redis]\nurl = \"redis://cache.example\"\n[server]\n",
        "cache.redis.url",
        "only for loopback",
    ),
    (
        "[server]\n",
        "[cache.redis]\nurl = \"rediss://u:p@cache.example\"\n[server]\n",
        "cache.redis.url",
        "must not hold a password",
    ),
    (
        "[server]\n",
        "[cache.redis]\npassword = \"a\"\npassword_file = \"b\"\n[server]\n",
        "cache.redis.password",
        "given twice",
    ),
    // [keysets]
    ("directory = \"keys/web\"\n", "", "keysets.web.directory", "exactly one of"),
    (
        "directory = \"keys/web\"\n",
        "directory = \"keys/web\"\nkey = \"x\"\n",
        "keysets.web.directory",
        "exactly one of",
    ),
    (
        "directory = \"keys/web\"\n",
        "directory = \"keys/web\"\nkid = \"x\"\n",
        "keysets.web.kid",
        "is only for `key`",
    ),
    ("directory = \"keys/web\"\n", "key = \"x\"\n", "keysets.web.kid", "is missing"),
    ("directory = \"keys/web\"\n", "key = \"x\"\nkid = \"../x\"\n", "keysets.web.kid", "a key id is"),
    ("directory = \"keys/web\"\n", "key = \"x\"\nkid = \"\"\n", "keysets.web.kid", "a key id is"),
    (
        "directory = \"keys/web\"\n",
        "directory = [\"keys/web\"]\n",
        "keysets.web.directory",
        "must be a string",
    ),
    ("[keysets.web]", "[keysets.\"we b\"]", "keysets.we b", "names are 1 to 64"),
    // [identity]
    ("issuer = \"intercom.com\"\n", "", "identity.web.issuer", "is missing"),
    ("issuer = \"intercom.com\"", "issuer = \"\"", "identity.web.issuer", "must not be empty"),
    ("issuer = \"intercom.com\"", "issuer = \" intercom.com\"", "identity.web.issuer", "white space"),
    ("issuer = \"intercom.com\"", "isuer = \"intercom.com\"", "identity.web.isuer", "did you mean `issuer`?"),
    ("keyset = \"web\"", "keyset = \"wob\"", "identity.web.keyset", "defined: `keysets.crm`, `keysets.web`"),
    ("algorithm = \"RS512\"", "algorithm = \"HS256\"", "identity.web512.algorithm", "\"RS256\" or \"RS512\""),
    ("ttl = \"30m\"", "ttl = \"2h\"", "identity.web.ttl", "longer than `max_ttl`"),
    ("ttl = \"30m\"", "ttl = 1800", "identity.web.ttl", "must be a duration"),
    ("ttl = \"30m\"", "ttl = \"59s\"", "identity.web.ttl", "between 60s and 24h"),
    ("ttl = \"30m\"", "ttl = \"90500ms\"", "identity.web.ttl", "whole seconds"),
    ("max_ttl = \"1h\"", "max_ttl = \"25h\"", "identity.web.max_ttl", "between 60s and 24h"),
    ("\"locale\", \"plan\"", "\"locale\", \"sub\"", "identity.web.claims", "`sub` is set by tokenmint"),
    ("\"locale\", \"plan\"", "\"EXP\"", "identity.web.claims", "`EXP` is set by tokenmint"),
    ("\"locale\", \"plan\"", "\"\u{17f}ub\"", "identity.web.claims", "is set by tokenmint"),
    ("\"locale\", \"plan\"", "\"\u{ff53}ub\"", "identity.web.claims", "fullwidth characters"),
    ("\"locale\", \"plan\"", "1", "identity.web.claims", "must be a string"),
    ("claims = [\"email\"]", "claims = \"email\"", "intercom.fin.claims", "must be a list"),
    (
        "claims = [\"email\"]",
        "claims = [\"user_id\"]",
        "intercom.fin.claims",
        "`user_id` is set by tokenmint",
    ),
    ("\"user-[0-9]+\"", "\"user-[0-9+\"", "identity.web512.subjects", "regular expression"),
    ("keyset = \"web512\"", "keyset = \"web\"", "keysets.web", "RFC 8725, section 3.1"),
    (
        "[identity.web512]",
        "[identity.web.messaging]\nscrt_url = \"https://acme.my.salesforce-scrt.com/x\"\norg_id = \"00D1\"\nes_developer_name = \"1x\"\n[identity.web512]",
        "identity.web.messaging.org_id",
        "beginning with 00D",
    ),
    // [oauth]
    ("consumer_key = \"3MVG9.consumer\"\n", "", "oauth.crm.consumer_key", "is missing"),
    ("username = \"integration@acme.com\"\n", "", "oauth.crm.username", "is missing"),
    ("\"https://login.salesforce.com\"", "\"login.salesforce.com\"", "oauth.crm.audience", "isn't a URL"),
    (
        "\"https://login.salesforce.com\"",
        "\"https://u:p@login.salesforce.com\"",
        "oauth.crm.audience",
        "user name or password",
    ),
    (
        "[intercom.fin]",
        "token_url = \"http://evil.example\"\n[intercom.fin]",
        "oauth.crm.token_url",
        "https://",
    ),
    (
        "[intercom.fin]",
        "assertion_ttl = \"10m\"\n[intercom.fin]",
        "oauth.crm.assertion_ttl",
        "between 30s and 5m",
    ),
    // [intercom]
    ("secret_file = \"intercom.secret\"\n", "", "intercom.fin.secret", "is missing"),
    (
        "secret_file = \"intercom.secret\"",
        "secret_file = \"none.secret\"",
        "intercom.fin.secret_file",
        "names no file that can be read",
    ),
    (
        "secret_file = \"intercom.secret\"",
        "secret_file = \"canary/Zm9vYmFyYmF6cXV4Zm9v+w\"",
        "intercom.fin.secret_file",
        "may be the secret itself",
    ),
    (
        "secret_file = \"intercom.secret\"",
        "secret = \"canary-canary-canary-31-bytes--\"",
        "intercom.fin.secret",
        "RFC 7518, section 3.2",
    ),
    (
        "secret_file = \"intercom.secret\"",
        "secret_file = \"intercom.secret\"\nallow_short_secret = \"yes\"",
        "intercom.fin.allow_short_secret",
        "true or false",
    ),
    (
        "secret_file = \"intercom.secret\"",
        "secret_file = \"intercom.secret\"\nsecret = \"x\"",
        "intercom.fin.secret",
        "given twice",
    ),
    (
        "[callers.crm]",
        "[hs256.chat]\nsecret_file = \"intercom.secret\"\nsubject_claim = \"id\"\n[callers.crm]",
        "hs256",
        "`intercom.fin` and `hs256.chat` share a secret",
    ),
    (
        "[callers.crm]",
        "[issuers.corp]\nissuer = \"corp\"\naudience = [\"app\"]\nsecret_file = \"intercom.secret\"\n[callers.crm]",
        "issuers",
        "`intercom.fin` and `issuers.corp` share a secret",
    ),
    (
        "[server]\n",
        "[server]\naudit_key_file = \"intercom.secret\"\n",
        "server",
        "`intercom.fin` and `server.audit_key` share a secret",
    ),
    // [bundles] and [callers]
    (
        "[callers.crm]",
        "[bundles.fin]\nx = \"oauth.crm\"\n[callers.crm]",
        "bundles.fin.x",
        "`identity.NAME`, `intercom.NAME` or `hs256.NAME`",
    ),
    (
        "allow = [\"oauth.crm\"]",
        "allow = [\"oauth.crn\"]",
        "callers.crm.allow",
        "`oauth.crn` isn't defined; defined: `oauth.crm`",
    ),
    ("allow = [\"oauth.crm\"]", "allow = [\"crm\"]", "callers.crm.allow", "write `identity.NAME`"),
];

#[test]
fn each_bad_configuration_is_refused_by_field_and_line() {
    let workspace = Workspace::new();
    let good = configuration();
    for (from, to, field, why) in BAD {
        assert!(good.contains(from), "{from}");
        workspace.configure(&good.replacen(from, to, 1));
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{field}, {why}: {}", ran.stderr);
        let source = format!("{field} (tokenmint.toml line ");
        let line = ran.stderr.lines().find(|line| line.starts_with(&source) && line.contains(why));
        assert!(line.is_some(), "{field}, {why}: {}", ran.stderr);
        assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
    }
}

#[test]
fn no_registered_claim_can_be_listed_in_any_case() {
    let workspace = Workspace::new();
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        for name in [name.to_owned(), name.to_uppercase()] {
            for (from, field) in [
                ("claims = [\"locale\", \"plan\"]", "identity.web.claims"),
                ("claims = [\"email\"]", "intercom.fin.claims"),
            ] {
                let text = configuration().replacen(from, &format!("claims = [\"{name}\"]"), 1);
                workspace.configure(&text);
                let ran = workspace.run(&["check"]);
                assert_eq!(ran.code(), 64, "{field} {name}");
                let refused = format!("`{name}` is set by tokenmint");
                assert!(ran.stderr.contains(field) && ran.stderr.contains(&refused), "{}", ran.stderr);
            }
        }
    }
}

#[test]
fn invalid_and_shared_api_keys_are_refused() {
    let hash = crate::support::sha256_hex(crate::support::CRM_KEY);
    let good = configuration();
    for (from, to, field, why) in [
        (hash.as_str(), "", "callers.crm.api_key_sha256", "64 hexadecimal digits"),
        (&hash, "tm_the-key-of-crm", "callers.crm.api_key_sha256", "64 hexadecimal digits"),
        (&hash, &crate::support::sha256_hex(crate::support::API_KEY), "callers", "share an API key"),
        (&hash, &format!("{hash}\", \"{hash}"), "callers.crm.api_key_sha256 (tokenmint.toml line ", "twice"),
        (&hash, &format!("{hash}\", \"{}", hash.to_uppercase()), "callers.crm.api_key_sha256", "twice"),
        (
            "[callers.crm]",
            "[callers.crm]\nclient_san = [\"crm.example\", \"CRM.example\"]",
            "callers.crm.client_san",
            "twice",
        ),
        ("allow = [\"oauth.crm\"]", "", "callers.crm.allow", "is missing"),
        ("[callers.crm]\napi_key_sha256", "[callers.crm]\napi_key", "callers.crm.api_key", "unknown key"),
    ] {
        let workspace = Workspace::new();
        workspace.configure(&good.replacen(from, to, 1));
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{why}");
        assert!(ran.stderr.contains(field) && ran.stderr.contains(why), "{why}: {}", ran.stderr);
        assert!(!ran.stderr.contains("tm_the-key"), "{}", ran.stderr);
    }
}

#[test]
fn all_problems_are_reported_at_once_including_those_of_keys() {
    let workspace = Workspace::new();
    let bad = configuration()
        .replacen("\"127.0.0.1:0\"", "\"nowhere\"", 1)
        .replacen("issuer = \"intercom.com\"", "issuer = \"\"", 1)
        .replacen("allow = [\"oauth.crm\"]", "allow = [\"x\"]", 1);
    workspace.configure(&bad);
    workspace.write("keys/crm/CrmKey1.key", "");
    let ran = workspace.run(&["serve"]);
    assert_eq!(ran.code(), 64);
    for field in ["server.listen", "identity.web.issuer", "callers.crm.allow", "CrmKey1.key"] {
        assert!(ran.stderr.contains(field), "{field}: {}", ran.stderr);
    }
    assert!(ran.stderr.ends_with("bad configuration: 4 problems\n"), "{}", ran.stderr);
    let json = workspace.run(&["check", "--json"]);
    assert_eq!(json.code(), 64);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(4));
    assert_eq!(report["problems"][0]["field"], "server.listen");
}

#[test]
fn a_missing_file_and_invalid_toml_are_reported_with_a_fix() {
    let workspace = Workspace::new();
    workspace.configure("[server]\nlisten = \"127.0.0.1:0\"\n[server]\n");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    assert!(ran.stderr.contains("tokenmint.toml line 3: isn't TOML"), "{}", ran.stderr);

    std::fs::remove_file(workspace.path("tokenmint.toml")).expect("there");
    let ran = workspace.run(&["serve"]);
    assert_eq!(ran.code(), 64);
    assert!(ran.stderr.contains("tokenmint init") && ran.stderr.contains("tokenmint dev"), "{}", ran.stderr);
    let ran = workspace.run(&["check", "--config", "other.toml"]);
    assert_eq!(ran.code(), 64);
    assert!(ran.stderr.contains("other.toml: can't be read"), "{}", ran.stderr);
}

#[test]
fn every_section_of_the_contract_is_accepted() {
    let workspace = Workspace::new();
    workspace.configure(&format!(
        "{}\n{}",
        configuration().replace(
            "listen = \"127.0.0.1:0\"\n",
            "listen = \"unix:run.sock\"\n[server.public]\nlisten = \"0.0.0.0:0\"\nurl = \"https://tokens.example.com\"\n\
             [server.ops]\nlisten = \"localhost:0\"\n[server.limits]\nrequest_timeout = \"10s\"\nbody = \"16 KiB\"\n\
             connections = 10000\nsigning_queue = 1024\n[server.signing]\nbatch = \"auto\"\n\
             library = \"/opt/intel/lib/libcrypto_mb.so.13\"\n"
        ),
        "[identity.web.messaging]\nscrt_url = \"https://acme.my.salesforce-scrt.com\"\norg_id = \"00D000000000001\"\n\
         es_developer_name = \"Web_Channel\"\n\
         [bundles.fin]\nsalesforce_identity_token = \"identity.web\"\nintercom_user_jwt = \"intercom.fin\"\n\
         [callers.bundler]\napi_key_sha256 = []\nallow = [\"bundles.fin\"]\nsubjects = \"^user-\"\n",
    ));
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("callers.bundler.api_key_sha256"),
        "holding no key is a warning: {}",
        ran.stderr
    );
}

#[test]
fn allowed_but_unwise_settings_are_warnings() {
    let workspace = Workspace::new();
    workspace.configure(&configuration().replace("\"intercom.com\"", "\"https://acme.com/\""));
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0);
    assert!(
        ran.stderr.contains("warning: identity.web.issuer") && ran.stderr.contains("ends with a slash"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_key_can_stand_in_the_configuration_itself() {
    let escaped = KEYS.web.replace('\n', "\\n");
    let base64 = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&KEYS.web)
    };
    let expected = Workspace::new().run(&["jwk", "WebAppKey1"]).json();
    let forms = [
        format!("key = '''{}'''", KEYS.web),
        format!("key = \"{escaped}\""),
        format!("key = '{escaped}'"),
        format!("key = \"{base64}\""),
        "key_file = \"keys/web/WebAppKey1.key\"".to_owned(),
    ];
    for form in forms {
        let workspace = Workspace::new();
        let keyset = format!("kid = \"WebAppKey1\"\n{form}\n");
        workspace.configure(&configuration().replacen("directory = \"keys/web\"\n", &keyset, 1));
        assert_eq!(workspace.run(&["jwk", "WebAppKey1"]).json(), expected, "{}", &form[..12]);
    }
    let workspace = Workspace::new();
    workspace.configure(&configuration().replacen(
        "directory = \"keys/web\"\n",
        "kid = \"k\"\nkey = \"canary-secret\"\n",
        1,
    ));
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    assert!(ran.stderr.contains("keysets.web.key (tokenmint.toml line "), "{}", ran.stderr);
    assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
}

/// Each row: settings of a keyset, the field of the one problem, and a part of its message.
#[test]
fn a_mistaken_source_of_a_key_is_one_problem_that_says_what_to_do() {
    let workspace = Workspace::new();
    let pem = &KEYS.web;
    workspace.write("empty.pass", "");
    workspace.write("bom.pass", "\u{feff}word");
    let encrypted = "kid = \"K\"\nkey_file = \"encrypted.key\"\n";
    let key = KEYS.web.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    workspace.write_key("encrypted.key", &key);
    for (settings, field, expected) in [
        (
            format!("kid = \"K\"\nkey_file = \"\"\"{pem}\"\"\"\n"),
            ".key_file",
            "holds PEM text instead of a path",
        ),
        (
            "kid = \"K\"\nkey = \"keys/web/WebAppKey1.key\"\n".to_owned(),
            ".key",
            "holds the path of a file instead of PEM text: set `key_file`",
        ),
        ("directory = \"keys/web/WebAppKey1.key\"\n".to_owned(), "", "must be a directory"),
        ("directory = \"~/keys\"\n".to_owned(), ".directory", "doesn't expand"),
        ("directory = \"$HOME/keys\"\n".to_owned(), ".directory", "doesn't expand"),
        (format!("{encrypted}passphrase_file = \"empty.pass\"\n"), ".passphrase_file", "is empty"),
        (format!("{encrypted}passphrase_file = \"bom.pass\"\n"), ".passphrase_file", "byte order mark"),
    ] {
        workspace.configure(&configuration().replacen("directory = \"keys/web\"\n", &settings, 1));
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{settings}");
        let problems: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("keysets.")).collect();
        assert!(ran.stderr.contains("bad configuration: 1 problem\n"), "{}", ran.stderr);
        let [problem] = problems.as_slice() else { panic!("{expected}: {problems:#?}") };
        assert!(
            problem.starts_with(&format!("keysets.web{field} (")) && problem.contains(expected),
            "{problem}"
        );
        assert!(!ran.stderr.contains("MII"), "{}", ran.stderr);
    }
}

#[test]
fn a_configuration_in_utf_16_is_one_problem() {
    let workspace = Workspace::new();
    let utf16 = |with_bom: bool, to_bytes: fn(u16) -> [u8; 2]| {
        let bom = with_bom.then_some('\u{feff}');
        let text: String = bom.into_iter().chain(configuration().chars()).collect();
        text.encode_utf16().flat_map(to_bytes).collect::<Vec<u8>>()
    };
    for bytes in [
        utf16(true, u16::to_be_bytes),
        utf16(true, u16::to_le_bytes),
        utf16(false, u16::to_be_bytes),
        utf16(false, u16::to_le_bytes),
    ] {
        std::fs::write(workspace.path("tokenmint.toml"), bytes).expect("writable");
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64);
        assert!(ran.stderr.contains("UTF-16 text: save it as UTF-8"), "{}", ran.stderr);
        assert!(ran.stderr.contains("bad configuration: 1 problem\n"), "{}", ran.stderr);
    }
}

#[test]
fn the_example_for_a_variable_has_no_quotes() {
    let ran = Workspace::new().set("TOKENMINT_IDENTITY__WEB__TTL", "3600").run(&["check"]);
    assert!(ran.stderr.contains("must be a duration, for example 90s, 55m or 24h"), "{}", ran.stderr);
}

#[test]
fn a_caller_that_can_never_get_a_token_is_warned_of() {
    let workspace = Workspace::new();
    let more =
        format!("[callers.none]\napi_key_sha256 = [\"{}\"]\nallow = []\n", crate::support::sha256_hex(""));
    workspace.configure(&(configuration() + &more));
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("callers.none.api_key_sha256") && ran.stderr.contains("an empty text"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("callers.none.allow") && ran.stderr.contains("no token"), "{}", ran.stderr);
}

#[test]
fn a_value_in_place_of_a_section_is_reported_once() {
    let workspace = Workspace::bare();
    for section in ["server", "cache", "keysets", "identity", "oauth", "intercom", "bundles", "callers"] {
        workspace.configure(&format!("{section} = 1"));
        let ran = workspace.run(&["check"]);
        assert_eq!(ran.code(), 64, "{section}");
        assert_eq!(ran.stderr.matches("must be a table").count(), 1, "{section}: {}", ran.stderr);
    }
}

/// An invalid name is reported without errors about the contents of its table.
#[test]
fn unknown_keys_are_reported_at_each_depth_and_once() {
    let workspace = Workspace::bare();
    workspace.configure(
        "nothing = 1\n[server.limits]\nbodi = 1\n[[identity]]\n[callers.\"a b\"]\nallow = []\n[callers.c]\napi_key_sha256 = []\n\
         allow = []\nallows.x = 1\n",
    );
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    let unknown = ran.stderr.lines().filter(|line| line.contains("unknown key"));
    let fields: Vec<&str> = unknown.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(fields, ["callers.c.allows", "nothing", "server.limits.bodi"], "{}", ran.stderr);
}

#[test]
fn a_short_secret_is_accepted_where_the_profile_allows_it() {
    let workspace = Workspace::new();
    workspace.write("intercom.secret", "a-secret-of-31-bytes-0123456789\n");
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64);
    assert!(ran.stderr.contains("intercom.fin.secret_file (tokenmint.toml line "), "{}", ran.stderr);
    assert!(ran.stderr.contains("allow_short_secret") && !ran.stderr.contains("31-bytes"), "{}", ran.stderr);
    let allowed = "[intercom.fin]\nallow_short_secret = true\n";
    workspace.configure(&configuration().replace("[intercom.fin]\n", allowed));
    workspace.run(&["check"]).ok();
    workspace.configure(&configuration());
    workspace.write("intercom.secret", "a-secret-of-32-bytes-01234567890\n");
    workspace.run(&["check"]).ok();
}

/// Writes `tls.key` and `tls.crt`, valid between these years.
fn certify(workspace: &Workspace, from: i32, to: i32) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    workspace.write_key("tls.key", &key.serialize_pem());
    workspace.write("tls.crt", &certificate.pem());
}

const TLS: &str = "listen = \"127.0.0.1:0\"\n[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\n";

#[tokio::test]
async fn a_certificate_that_clients_would_refuse_never_replaces_another() {
    let workspace = Workspace::new();
    let good = configuration().replace("listen = \"127.0.0.1:0\"\n", TLS);
    workspace.configure(&good);
    certify(&workspace, 2020, 2999);
    let service = workspace.serve().await;
    let before = service.shown_certificate().await;
    for (from, to, why) in [
        (2020, 2021, "expired at 2021-01-01T00:00:00Z"),
        (
            2998,
            2999,
            "isn't valid before 2998-01-01T00:00:00Z, so clients reject it: check this host's clock",
        ),
    ] {
        certify(&workspace, from, to);
        signal(service.pid(), "HUP");
        let line = service.logged(why).await;
        assert!(line.contains("is rejected") && line.contains("server.tls.certificate_file"), "{line}");
        assert_eq!(service.shown_certificate().await, before);
    }
}

/// The service must start nevertheless: it may renew the certificate, or have other listeners.
#[tokio::test]
async fn an_expired_certificate_is_a_warning_and_blocks_no_reload() {
    let workspace = Workspace::new();
    let good = configuration().replace("listen = \"127.0.0.1:0\"\n", TLS);
    workspace.configure(&good);
    certify(&workspace, 2020, 2021);
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("warning: server.tls.certificate_file (tls.crt): expired at 2021"),
        "{}",
        ran.stderr
    );
    let service = workspace.serve().await;
    service.logged("expired at 2021-01-01").await;
    workspace.configure(&good.replace("issuer = \"acme\"", "issuer = \"acme-two\""));
    signal(service.pid(), "HUP");
    service.logged("\"reloaded\"").await;
}

/// TLS doesn't check it: the dates of a trust anchor are not part of path validation.
#[test]
fn an_authority_of_clients_that_has_expired_is_warned_of() {
    let workspace = Workspace::new();
    certify(&workspace, 2020, 2021);
    std::fs::rename(workspace.path("tls.crt"), workspace.path("clients.crt")).expect("renamed");
    certify(&workspace, 2020, 2999);
    let tls = format!("{TLS}client_ca_file = \"clients.crt\"\n");
    workspace.configure(&configuration().replace("listen = \"127.0.0.1:0\"\n", &tls));
    let ran = workspace.run(&["check"]);
    let warning =
        "warning: server.tls.client_ca_file (clients.crt): expired at 2021-01-01T00:00:00Z; clients";
    assert!(ran.code() == 0 && ran.stderr.contains(warning), "{}", ran.stderr);
}

/// Without the authority, an API key would be enough.
#[tokio::test]
async fn client_certificates_cannot_be_required_by_a_reload() {
    let workspace = Workspace::new();
    certificates(&workspace, "ca", "tls");
    let without = configuration().replace("listen = \"127.0.0.1:0\"\n", TLS);
    let with = without.replace("tls.key\"\n", "tls.key\"\nclient_ca_file = \"ca.crt\"\n");
    let refused = async |service: &Running, text: &str| {
        workspace.configure(text);
        signal(service.pid(), "HUP");
        let line = service.logged("can't change while the service runs").await;
        assert!(line.contains("server.tls.client_ca_file"), "{line}");
    };
    workspace.configure(&with);
    let service = workspace.serve().await;
    refused(&service, &without).await;
    let anonymous = crate::tls::client(&workspace, None);
    assert!(anonymous.get(format!("https://{}/livez", service.address("minting"))).send().await.is_err());
    drop(service);
    workspace.configure(&without);
    refused(&workspace.serve().await, &with).await;
}

/// Regression test: such a reload was an endless loop once.
#[tokio::test]
async fn a_digest_that_is_listed_twice_is_refused_by_a_reload_which_goes_on() {
    let workspace = Workspace::new();
    let service = workspace.serve().await;
    let hash = crate::support::sha256_hex(crate::support::CRM_KEY);
    workspace.configure(&configuration().replace(&hash, &format!("{hash}\", \"{hash}")));
    signal(service.pid(), "HUP");
    let line = service.logged("lists the same entry twice").await;
    assert!(line.contains("callers.crm.api_key_sha256") && !line.contains(&hash), "{line}");
    workspace.configure(&configuration());
    signal(service.pid(), "HUP");
    service.logged("\"reloaded\"").await;
}
