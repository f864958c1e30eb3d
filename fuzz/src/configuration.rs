//! `tokenmint.toml`, and below a line `---` the environment, as `NAME=VALUE` lines.
//!
//! Holds: it means the same when it is read again or written anew; what is taken keeps the rules (lives, names, claims, no key
//! of two callers); what isn't has a reason; no message shows a secret's value. `"SECRET"` becomes one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use tokenmint::config::{
    Bundle, Caller, Config, Environment, Hs256Kind, Invalid, Name, Problem, REGISTERED_CLAIMS,
};

const SECRET: &str = "canary/of+a=secret!";

/// Whether such an input is worth keeping.
pub fn feed(text: &str) -> bool {
    // Files that never end are no matter of text.
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
    assert_eq!(said(&parsed), said(&parse(text, &environment)), "read again it says something else");
    match &parsed {
        Ok(config) => {
            rules(config);
            if let Ok(table) = text.parse::<toml::Table>() {
                let anew = toml::to_string(&table).expect("TOML");
                let Ok(anew) = parse(&anew, &environment) else {
                    panic!("written anew it is wrong:\n{anew}")
                };
                assert_eq!(meaning(config), meaning(&anew), "written anew it means something else");
            }
        }
        Err(invalid) => {
            let reasons = &invalid.problems;
            assert!(!reasons.is_empty() && reasons.iter().all(|reason| !reason.message.is_empty()));
        }
    }
    // In single quotes it may be no value.
    if !text.contains('\'') {
        let text = text.replace("= \"SECRET\"", &format!("= \"{SECRET}\""));
        assert!(!said(&parse(&text, &environment)).contains(SECRET), "a message shows a secret");
    }
    true
}

fn parse(text: &str, environment: &Environment) -> Result<Config, Invalid> {
    Config::parse("tokenmint.toml", text, PathBuf::from("/nowhere"), environment)
}

/// All that a person is told.
fn said(parsed: &Result<Config, Invalid>) -> String {
    let (problems, warnings): (&[Problem], _) = match parsed {
        Ok(config) => (&[], &config.warnings),
        Err(invalid) => (&invalid.problems, &invalid.warnings),
    };
    problems.iter().chain(warnings).map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

fn rules(config: &Config) {
    for profile in config.identity.values() {
        assert!(profile.ttl.as_secs() >= 60 && profile.ttl <= profile.max_ttl);
        assert!(profile.max_ttl.as_secs() <= 86_400);
        assert!(config.keysets[&profile.keyset].longest_life >= profile.max_ttl);
        claims(&profile.claims);
    }
    for profile in config.oauth.values() {
        assert!((30..=300).contains(&profile.assertion_ttl.as_secs()));
        assert!(config.keysets.contains_key(&profile.keyset));
    }
    for profile in config.hs256.values().flat_map(BTreeMap::values) {
        assert!(!profile.secret.expose_secret().is_empty() && profile.ttl <= profile.max_ttl);
        claims(&profile.claims);
    }
    let exists = |profile: &tokenmint::config::ProfileName| {
        let tables: [(&str, Vec<&Name>); 4] = [
            ("identity", config.identity.keys().collect()),
            ("oauth", config.oauth.keys().collect()),
            ("intercom", config.hs256[&Hs256Kind::Intercom].keys().collect()),
            ("bundles", config.bundles.keys().collect()),
        ];
        tables
            .iter()
            .any(|(section, names)| profile.kind.section() == *section && names.contains(&&profile.name))
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

fn claims(claims: &[String]) {
    let registered = |claim: &String| REGISTERED_CLAIMS.iter().any(|name| name.eq_ignore_ascii_case(claim));
    assert!(!claims.iter().any(registered), "callers may set a claim of the token's own");
}

/// All of it, as text.
fn meaning(config: &Config) -> String {
    let mut text = String::new();
    let server = &config.server;
    let limits = &server.limits;
    let tls = |tls: &Option<tokenmint::config::Tls>| {
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
        limits.remints
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
    for Bundle { name, entries } in config.bundles.values() {
        line(format_args!("{name:?} {entries:?}"));
    }
    for Caller { name, api_key_sha256, allow, subjects, pace, .. } in config.callers.values() {
        line(format_args!("{name:?} {api_key_sha256:?} {allow:?} {subjects:?} {pace:?}"));
    }
    let warnings: BTreeSet<_> = config.warnings.iter().map(|w| (&w.field, &w.message)).collect();
    line(format_args!("{warnings:?}"));
    text
}
