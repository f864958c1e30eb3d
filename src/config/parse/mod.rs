//! Parses each section into its type, and checks the sections against each other.
//!
//! All fields of a section are read before the first `?`. So an invalid field doesn't hide the errors of others, and no field
//! is reported as unknown because it wasn't read.

mod aws_kms;
mod cache;
mod callers;
mod hs256;
mod issuers;
mod keysets;
mod profiles;
mod server;
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::diagnostics::Diagnostics;
use super::section::Section;
use super::source::{
    Environment, OVERRIDE_PREFIX, Problem, ValueOrigin, WarningCode, is_non_setting_variable,
};
use super::values::paste_artifact;
use super::written::WrittenSettings;
use super::{
    BundleConfig, CacheConfig, CallerConfig, Config, Hs256Kind, IdentityConfig, IssuerConfig,
    IssuerKeySource, KeysetConfig, Name, OauthConfig, ProfileKind, ServerConfig,
};
use callers::{parse_caller, reject_shared_credentials, warn_unreachable_bundles, warn_unusable_credentials};
pub(crate) use hs256::Hs256Config;
use hs256::hs256_profile;
use issuers::{parse_issuer, reject_shared_jwts, warn_unused_issuers};
use keysets::{assign_algorithms, parse_keyset};
use profiles::{parse_bundle, parse_identity, parse_oauth};
use stores::{parse_store, warn_remote_identity, warn_unused_stores};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
/// The sections that hold no profiles; each [`ProfileKind`] has one of its own.
const SECTIONS: &[&str] = &["server", "cache", "keysets", "callers", "issuers", "stores"];

/// The parsed sections. `rest` is `None` only if a problem was reported.
pub(super) struct ParsedConfig {
    pub(crate) keysets: BTreeMap<Name, KeysetConfig>,
    pub(crate) rest: Option<OtherSections>,
}

pub(super) struct OtherSections {
    server: ServerConfig,
    cache: CacheConfig,
    identity: BTreeMap<Name, IdentityConfig>,
    oauth: BTreeMap<Name, OauthConfig>,
    hs256: BTreeMap<Hs256Kind, BTreeMap<Name, Hs256Config>>,
    bundles: BTreeMap<Name, BundleConfig>,
    issuers: BTreeMap<Name, IssuerConfig>,
    callers: BTreeMap<Name, CallerConfig>,
}

impl OtherSections {
    pub(crate) fn into_config(
        self,
        keysets: BTreeMap<Name, KeysetConfig>,
        warnings: Vec<Problem>,
        files: Vec<PathBuf>,
        written: WrittenSettings,
    ) -> Config {
        let Self { server, cache, identity, oauth, hs256, bundles, issuers, callers } = self;
        Config {
            server,
            cache,
            keysets,
            identity,
            oauth,
            hs256,
            bundles,
            issuers,
            callers,
            warnings,
            files,
            written,
        }
    }
}

/// Warns about a variable that was probably meant as an override, for example `TOKENMINT_SERVER_LISTEN`.
pub(super) fn warn_near_misses(environment: &Environment, diagnostics: &Diagnostics) {
    for variable in environment.keys() {
        let Some(path) = variable.strip_prefix(OVERRIDE_PREFIX) else { continue };
        let mut sections = SECTIONS.iter().copied().chain(ProfileKind::ALL.iter().map(|kind| kind.section()));
        let section = sections.find_map(|section| {
            path.to_lowercase().strip_prefix(section)?.starts_with('_').then_some(section.len())
        });
        if let Some(length) = section
            && !path.contains("__")
        {
            let (section, field) = (&path[..length], &path[length + 1..]);
            let message = format!(
                "is ignored: separate levels by two underscores, as in {OVERRIDE_PREFIX}{section}__{field}"
            );
            diagnostics.warn(
                WarningCode::UnreadVariable,
                "",
                &ValueOrigin::Variable(variable.clone()),
                message,
            );
        }
    }
}

/// Checks the variables that are used but don't override a setting.
pub(super) fn check_other_variables(environment: &Environment, diagnostics: &Diagnostics) {
    for (variable, text) in environment.iter().filter(|(variable, _)| is_non_setting_variable(variable)) {
        if let Some(message) = paste_artifact(variable, text) {
            diagnostics.add(vec![Problem::new("", ValueOrigin::Variable(variable.clone()), message)]);
        }
    }
}

pub(super) fn parse_config(root: &Section<'_>, environment: &Environment) -> ParsedConfig {
    let server = root.section_or_empty("server").and_then(|server| server::parse_server(&server));
    let cache = cache::parse_cache(root.section("cache").as_ref());
    let defined = DefinedNames::new(root);
    let stores_section = root.section("stores");
    let stores =
        parse_named(stores_section.as_ref(), |name, section| parse_store(name, section, environment));
    let keysets_section = root.section("keysets");
    let mut keysets =
        parse_named(keysets_section.as_ref(), |name, section| parse_keyset(name, section, &stores, &defined));
    let identity = parse_named(root.section("identity").as_ref(), |name, section| {
        parse_identity(name, section, &defined)
    });
    let oauth =
        parse_named(root.section("oauth").as_ref(), |name, section| parse_oauth(name, section, &defined));
    let of_kind = |kind: Hs256Kind| {
        let section = root.section(kind.facts().section);
        parse_named(section.as_ref(), |_, section| hs256_profile(kind, section))
    };
    let hs256 = Hs256Kind::ALL.iter().map(|kind| (*kind, of_kind(*kind))).collect();
    let bundles =
        parse_named(root.section("bundles").as_ref(), |name, section| parse_bundle(name, section, &defined));
    let issuers_section = root.section("issuers");
    let issuers = parse_named(issuers_section.as_ref(), parse_issuer);
    let callers_section = root.section("callers");
    let callers =
        parse_named(callers_section.as_ref(), |name, section| parse_caller(name, section, &defined));

    warn_unreachable_bundles(callers_section.as_ref(), &callers, &bundles);
    assign_algorithms(keysets_section.as_ref(), &mut keysets, &identity, &oauth);
    reject_shared_credentials(root, &callers);
    reject_shared_jwts(root, &callers, &issuers);
    reject_shared_secrets(root, &hs256, &issuers, server.as_ref());
    warn_unused_issuers(issuers_section.as_ref(), &issuers, &callers);
    warn_unused_stores(stores_section.as_ref(), &stores, &keysets);
    warn_remote_identity(keysets_section.as_ref(), &keysets);
    warn_unusable_credentials(callers_section.as_ref(), &callers, server.as_ref());
    if callers.is_empty() && !root.has("callers") {
        root.warn(
            WarningCode::NoCaller,
            "callers",
            "there is no caller, so nobody can request a token: add one with `tokenmint callers new NAME`",
        );
    }
    let rest = server.zip(cache).map(|(server, cache)| OtherSections {
        server,
        cache,
        identity,
        oauth,
        hs256,
        bundles,
        issuers,
        callers,
    });
    ParsedConfig { keysets, rest }
}

/// Rejects a secret that signs tokens and also does something else. With the secret of an issuer, for example, a caller of the profile
/// could make JWTs of that issuer. Profiles of one kind may share their secret.
fn reject_shared_secrets(
    root: &Section<'_>,
    hs256: &BTreeMap<Hs256Kind, BTreeMap<Name, Hs256Config>>,
    issuers: &BTreeMap<Name, IssuerConfig>,
    server: Option<&ServerConfig>,
) {
    let of_profiles = hs256.iter().flat_map(|(kind, profiles)| {
        let section = kind.facts().section;
        profiles.iter().map(move |(name, profile)| (section, format!("{section}.{name}"), &profile.secret))
    });
    let of_issuers = issuers.iter().filter_map(|(name, issuer)| match &issuer.keys {
        IssuerKeySource::Secret(secret) => Some(("issuers", format!("issuers.{name}"), secret)),
        IssuerKeySource::Fetched(_) | IssuerKeySource::File(_) => None,
    });
    let audit_key = server.and_then(|server| server.audit_key.as_ref());
    let of_audit = audit_key.map(|secret| ("server", "server.audit_key".to_owned(), secret));
    let all: Vec<_> = of_profiles.chain(of_issuers).chain(of_audit).collect();
    for (at, (section, name, secret)) in all.iter().enumerate() {
        let is_shared = |(other, _, used): &&(&str, String, &SecretString)| {
            other != section && used.expose_secret() == secret.expose_secret()
        };
        if let Some((_, other, _)) = all[..at].iter().find(is_shared) {
            root.problem(section, format!("`{other}` and `{name}` share a secret; give each its own"));
        }
    }
}

/// Parses each `[section.NAME]`. Invalid ones are reported and left out.
fn parse_named<T>(
    section: Option<&Section<'_>>,
    read: impl Fn(&Name, &Section<'_>) -> Option<T>,
) -> BTreeMap<Name, T> {
    let Some(section) = section else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (name, entry) in section.sections() {
        match Name::parse(name) {
            Ok(name) => {
                if let Some(value) = read(&name, &entry) {
                    all.insert(name, value);
                }
            }
            Err(message) => section.problem(name, message),
        }
    }
    all
}

/// The names that the configuration defines, valid or not. An error inside a profile is then not reported again by each
/// reference to it.
struct DefinedNames(BTreeMap<&'static str, BTreeSet<String>>);

impl DefinedNames {
    fn new(root: &Section<'_>) -> Self {
        let names = |section: &'static str| (section, root.names_in(section).map(str::to_owned).collect());
        let sections = ProfileKind::ALL.iter().map(|kind| kind.section());
        Self(sections.chain(["keysets", "issuers", "stores"]).map(names).collect())
    }

    fn has(&self, section: &str, name: &str) -> bool {
        self.0.get(section).is_some_and(|names| names.contains(name))
    }

    fn list(&self, section: &str) -> String {
        let names = self.0.get(section).into_iter().flatten();
        let listed = names.map(|name| format!("`{section}.{name}`")).collect::<Vec<_>>().join(", ");
        if listed.is_empty() { "none".to_owned() } else { listed }
    }
}

/// Marks a section that is present but invalid; a problem was reported.
struct InvalidSection;

/// Converts a number that the schema bounds by a million.
fn saturating_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
