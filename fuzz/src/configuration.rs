//! Fuzzes `tokenmint.toml`. The environment follows a line `---`, as `NAME=VALUE` lines. `"SECRET"` becomes a secret.
//!
//! Invariants:
//! - Parsing again, or after serializing, gives the same configuration.
//! - An accepted configuration keeps the rules: lifetimes, references, claims, and no API key of two callers.
//! - A rejected configuration has a reason.
//! - No message contains a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use tokenmint::config::{
    BundleConfig, CallerConfig, Config, Environment, Hs256Kind, InvalidConfig, Name, Problem,
    REGISTERED_CLAIMS,
};

const SECRET: &str = "canary/of+a=secret!";

/// Whether the input is worth keeping in the corpus.
pub fn test_one_input(text: &str) -> bool {
    // The input may name files that never end, for example /dev/zero.
    if ["/dev", "/proc", "/sys", ".."].iter().any(|path| text.contains(path)) {
        return false;
    }
    let (text, variables) = text.split_once("\n---\n").unwrap_or((text, ""));
    let environment: Environment = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let parsed = parse(text, &environment);
    assert_eq!(messages(&parsed), messages(&parse(text, &environment)), "read again it says something else");
    match &parsed {
        Ok(config) => {
            check_rules(config);
            if let Ok(table) = text.parse::<toml::Table>() {
                let anew = toml::to_string(&table).expect("TOML");
                let Ok(anew) = parse(&anew, &environment) else {
                    panic!("written anew it is wrong:\n{anew}")
                };
                assert_eq!(
                    canonical_text(config),
                    canonical_text(&anew),
                    "written anew it means something else"
                );
            }
        }
        Err(invalid) => {
            let reasons = &invalid.problems;
            assert!(!reasons.is_empty() && reasons.iter().all(|reason| !reason.message.is_empty()));
        }
    }
    // Within single quotes, `"SECRET"` may not be a value.
    if !text.contains('\'') {
        let text = text.replace("= \"SECRET\"", &format!("= \"{SECRET}\""));
        assert!(!messages(&parse(&text, &environment)).contains(SECRET), "a message shows a secret");
    }
    true
}

fn parse(text: &str, environment: &Environment) -> Result<Config, InvalidConfig> {
    Config::parse("tokenmint.toml", text, PathBuf::from("/nowhere"), environment)
}

/// All problems and warnings.
fn messages(parsed: &Result<Config, InvalidConfig>) -> String {
    let (problems, warnings): (&[Problem], _) = match parsed {
        Ok(config) => (&[], &config.warnings),
        Err(invalid) => (&invalid.problems, &invalid.warnings),
    };
    problems.iter().chain(warnings).map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

fn check_rules(config: &Config) {
    for profile in config.identity.values() {
        assert!(profile.ttl.as_secs() >= 60 && profile.ttl <= profile.max_ttl);
        assert!(profile.max_ttl.as_secs() <= 86_400);
        assert!(config.keysets[&profile.keyset].longest_life >= profile.max_ttl);
        check_claims(&profile.claims);
    }
    for profile in config.oauth.values() {
        assert!((30..=300).contains(&profile.assertion_ttl.as_secs()));
        assert!(config.keysets.contains_key(&profile.keyset));
    }
    for profile in config.hs256.values().flat_map(BTreeMap::values) {
        assert!(!profile.secret.expose_secret().is_empty() && profile.ttl <= profile.max_ttl);
        check_claims(&profile.claims);
    }
    let exists = |profile: &tokenmint::config::ProfileName| {
        let tables: [(&str, Vec<&Name>); 5] = [
            ("identity", config.identity.keys().collect()),
            ("oauth", config.oauth.keys().collect()),
            ("intercom", config.hs256[&Hs256Kind::Intercom].keys().collect()),
            ("hs256", config.hs256[&Hs256Kind::General].keys().collect()),
            ("bundles", config.bundles.keys().collect()),
        ];
        tables
            .iter()
            .any(|(section, names)| profile.kind.section() == *section && names.contains(&&profile.bare_name))
    };
    assert!(config.bundles.values().flat_map(|bundle| bundle.entries.values()).all(exists));
    assert!(config.callers.values().flat_map(|caller| &caller.allow).all(exists));
    let mut owners = BTreeMap::new();
    for caller in config.callers.values() {
        for digest in &caller.api_key_sha256 {
            assert!(owners.insert(digest, &caller.name).is_none_or(|owner| *owner == caller.name));
        }
    }
}

fn check_claims(claims: &[String]) {
    let registered = |claim: &String| REGISTERED_CLAIMS.iter().any(|name| name.eq_ignore_ascii_case(claim));
    assert!(!claims.iter().any(registered), "callers may set a claim of the token's own");
}

/// The whole configuration as text, for comparison.
fn canonical_text(config: &Config) -> String {
    let mut text = String::new();
    let server = &config.server;
    let limits = &server.limits;
    let tls = |tls: &Option<tokenmint::config::TlsConfig>| {
        tls.as_ref().map(|tls| {
            [Some(&tls.certificate_file), Some(&tls.private_key_file), tls.client_ca_file.as_ref()]
                .map(|path| path.map(|path| path.as_path().to_path_buf()))
        })
    };
    let public = server.public.as_ref().map(|public| (&public.listen, &public.url, tls(&public.tls)));
    let secret =
        |secret: &Option<secrecy::SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
    let mut line = |of: std::fmt::Arguments<'_>| writeln!(text, "{of}").expect("written to memory");
    line(format_args!("{:?} {:?} {public:?} {:?}", server.listen, tls(&server.tls), server.ops));
    line(format_args!(
        "{:?} {} {} {} {} {:?}",
        limits.request_timeout,
        limits.body,
        limits.connections,
        limits.signing_queue,
        limits.token_cache,
        limits.remint_rate
    ));
    line(format_args!(
        "{:?} {:?} {:?}",
        server.signing.batch,
        secret(&server.audit_key),
        server.state_directory.as_ref().map(tokenmint::config::UnverifiedPath::as_path)
    ));
    for k in config.keysets.values() {
        let times = (k.longest_life, k.publish_lead, k.retire_margin);
        line(format_args!(
            "{:?} {:?} {:?} {times:?} {:?}",
            k.name,
            secret(&k.passphrase),
            k.algorithm,
            k.used_by
        ));
    }
    for p in config.identity.values() {
        let messaging = p.messaging.as_ref();
        let messaging =
            messaging.map(|m| (&m.scrt_url, m.org_id.as_str(), &m.es_developer_name, m.requests_per_minute));
        line(format_args!("{:?} {:?} {:?} {:?} {:?}", p.name, p.keyset, p.issuer, p.audience, p.algorithm));
        line(format_args!("{:?} {:?} {:?} {:?} {messaging:?}", p.ttl, p.max_ttl, p.claims, p.subjects));
    }
    for p in config.oauth.values() {
        line(format_args!("{:?} {:?} {} {}", p.name, p.keyset, p.consumer_key, p.username));
        line(format_args!(
            "{:?} {:?} {:?} {:?} {}",
            p.audience, p.token_url, p.assertion_ttl, p.access_token_ttl, p.logins_per_hour
        ));
    }
    for (name, p) in config.hs256.values().flatten() {
        line(format_args!(
            "{:?} {} {:?} {:?} {:?}",
            name,
            p.secret.expose_secret(),
            p.ttl,
            p.max_ttl,
            p.claims
        ));
    }
    for BundleConfig { name, entries } in config.bundles.values() {
        line(format_args!("{name:?} {entries:?}"));
    }
    for CallerConfig { name, api_key_sha256, allow, subjects, rate_limit, .. } in config.callers.values() {
        line(format_args!("{name:?} {api_key_sha256:?} {allow:?} {subjects:?} {rate_limit:?}"));
    }
    let warnings: BTreeSet<_> = config.warnings.iter().map(|w| (&w.field, &w.message)).collect();
    line(format_args!("{warnings:?}"));
    text
}
