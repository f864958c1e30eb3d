//! Parses `[callers.NAME]` and checks the callers against each other.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::Zeroizing;

use super::super::section::Section;
use super::super::source::{ConfigNode, ConfigValue, WarningCode};
use super::super::{
    BundleConfig, CallerConfig, ClientSan, ListenAddress, Name, PolicyMode, ProfileKind, ProfileName,
    RateLimit, ServerConfig,
};
use super::issuers::{parse_caller_jwt, parse_subject_token};
use super::profiles::{check_defined, parse_subjects};
use super::{DefinedNames, SECOND, saturating_u32};
use crate::hash::sha256;

/// The user `nobody`. Linux maps unmapped user ids to it.
const OVERFLOW_UID: u32 = 65_534;

#[expect(clippy::unnecessary_wraps, reason = "parse_named takes it with the others")]
pub(super) fn parse_caller(
    name: &Name,
    section: &Section<'_>,
    defined: &DefinedNames,
) -> Option<CallerConfig> {
    let api_key_sha256 = section.set("api_key_sha256", |text| {
        decode_hex32(text).ok_or_else(|| {
            "must be the SHA-256 of an API key, 64 hexadecimal digits; `tokenmint callers new NAME` makes both"
                .to_owned()
        })
    });
    let client_san = section.set("client_san", ClientSan::parse);
    let peer_uid = section.optional("peer_uid", parse_uid);
    let jwt = parse_caller_jwt(section, defined);
    let subject_token = parse_subject_token(section, defined);
    let allow = section.list("allow", ProfileName::parse);
    let subjects = parse_subjects(section);
    let subjects_per_minute = section.count("subjects_per_minute").map(saturating_u32);
    let policy = match section.choice_or_default("policy", "") {
        "audit" => PolicyMode::Audit,
        _ => PolicyMode::Enforce,
    };
    if policy == PolicyMode::Audit {
        section.warn(
            WarningCode::PolicyAudit,
            "policy",
            "allows and counts requests that `allow`, `subjects`, `subjects_per_minute` and `subject_token` forbid",
        );
    }
    let rate = section.count("rate").map(saturating_u32);
    let burst = section.count("burst").map(saturating_u32);
    if section.has("burst") && !section.has("rate") {
        section.problem("burst", "needs `rate`, the requests per second");
    }
    if !["api_key_sha256", "client_san", "peer_uid", "jwt_issuer"]
        .iter()
        .any(|credential| section.has(credential))
    {
        let message = "is missing: without an API key, `client_san`, `peer_uid` or `jwt_issuer`, nobody can authenticate as \
        this caller";
        section.problem("api_key_sha256", message);
    } else if section.is_empty_list("api_key_sha256")
        && client_san.is_empty()
        && peer_uid.is_none()
        && !section.has("jwt_issuer")
    {
        section.warn(
            WarningCode::CallerCredential,
            "api_key_sha256",
            "contains no key, so nobody can authenticate as this caller",
        );
    }
    if api_key_sha256.contains(&sha256(b"")) {
        section.warn(
            WarningCode::CallerCredential,
            "api_key_sha256",
            "contains the SHA-256 of an empty text, which no caller can send: `tokenmint callers new NAME` makes a key \
             and its hash",
        );
    }
    if section.is_empty_list("allow") {
        section.warn(WarningCode::AllowsNothing, "allow", "is empty, so this caller can request no token");
    }
    if peer_uid == Some(OVERFLOW_UID) {
        section.warn(
            WarningCode::CallerCredential,
            "peer_uid",
            "65534 (nobody) stands for every user outside this container's user namespace, so any of them would be this \
             caller: use another uid",
        );
    }
    if !section.has("allow") {
        section.problem("allow", r#"is missing: name the profiles it may use, for example ["identity.web"]"#);
    }
    for profile in &allow {
        if let Err(message) = check_defined(profile, defined) {
            section.problem("allow", message);
        }
    }
    let rate_limit =
        rate.map(|rate| RateLimit { requests: rate, window: SECOND, burst: burst.unwrap_or(rate) });
    Some(CallerConfig {
        name: name.clone(),
        api_key_sha256,
        client_san,
        peer_uid,
        jwt,
        subject_token,
        allow,
        subjects,
        subjects_per_minute,
        policy,
        rate_limit,
    })
}

/// Warns about bundles with profiles that the caller may not use: a bundle grants no access to its profiles.
pub(super) fn warn_unreachable_bundles(
    section: Option<&Section<'_>>,
    callers: &BTreeMap<Name, CallerConfig>,
    bundles: &BTreeMap<Name, BundleConfig>,
) {
    let Some(section) = section else { return };
    for caller in callers.values() {
        let allowed = caller.allow.iter().filter(|profile| profile.kind == ProfileKind::Bundle);
        for (name, bundle) in allowed.filter_map(|name| Some((name, bundles.get(&name.bare_name)?))) {
            for missing in bundle.entries.values().filter(|profile| !caller.allow.contains(profile)) {
                let message = format!(
                    "may use `{name}` but not `{missing}`, which it needs: add it to `allow` as well"
                );
                section.warn(WarningCode::UnreachableBundle, caller.name.as_str(), message);
            }
        }
    }
}

/// Reports callers that share a credential: they can't be distinguished.
pub(super) fn reject_shared_credentials(root: &Section<'_>, callers: &BTreeMap<Name, CallerConfig>) {
    let api_key = |digest: &[u8; 32]| (*digest, "an API key".to_owned());
    let client_san = |name: &ClientSan| (name.clone(), format!("the client_san `{name}`"));
    let peer_uid = |uid: &u32| (*uid, format!("the peer_uid {uid}"));
    reject_shared(root, callers, |caller| caller.api_key_sha256.iter().map(api_key).collect());
    reject_shared(root, callers, |caller| caller.client_san.iter().map(client_san).collect());
    reject_shared(root, callers, |caller| caller.peer_uid.iter().map(peer_uid).collect());
}

fn reject_shared<C: Ord>(
    root: &Section<'_>,
    callers: &BTreeMap<Name, CallerConfig>,
    credentials: impl Fn(&CallerConfig) -> Vec<(C, String)>,
) {
    let mut owners: BTreeMap<C, &Name> = BTreeMap::new();
    for caller in callers.values() {
        for (credential, what) in credentials(caller) {
            if let Some(other) = owners.insert(credential, &caller.name)
                && other != &caller.name
            {
                let message = format!("`{other}` and `{}` share {what}; give each its own", caller.name);
                root.problem("callers", message);
            }
        }
    }
}

/// Warns about credentials that no connection to this service can present.
pub(super) fn warn_unusable_credentials(
    section: Option<&Section<'_>>,
    callers: &BTreeMap<Name, CallerConfig>,
    server: Option<&ServerConfig>,
) {
    let (Some(section), Some(server)) = (section, server) else { return };
    let asks_for_certificates = server.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    let by_path = matches!(server.listen, ListenAddress::Unix(_));
    for caller in callers.values() {
        if !caller.client_san.is_empty() && !asks_for_certificates {
            let message =
                "has a client_san, but clients present no certificates: set client_ca_file of [server.tls]";
            section.warn(WarningCode::CallerCredential, caller.name.as_str(), message);
        }
        if caller.peer_uid.is_some() && !by_path {
            let message =
                "has a peer_uid, which only a Unix socket provides: set listen = \"unix:PATH\" in [server]";
            section.warn(WarningCode::CallerCredential, caller.name.as_str(), message);
        }
    }
}

fn parse_uid(node: &ConfigNode) -> Result<u32, String> {
    let number = match &node.value {
        ConfigValue::Integer(number) => u32::try_from(*number).ok(),
        ConfigValue::Untyped(text) => text.parse().ok(),
        _ => None,
    };
    // The kernel reserves the highest id for "no user".
    number
        .filter(|uid| *uid != u32::MAX)
        .ok_or_else(|| "must be the number of a user, for example from `id -u`".to_owned())
}

pub(super) fn decode_hex32(text: &str) -> Option<[u8; 32]> {
    // Zeroized, because it may be a key.
    let bytes = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?);
    bytes.as_slice().try_into().ok()
}
