//! `[callers.NAME]`, and what must hold between them.

use std::collections::BTreeMap;

use super::super::section::Section;
use super::super::{Bundle, Caller, Kind, Name, Pace, ProfileName};
use super::profiles::{known, subjects};
use super::{Existing, SECOND, small_count};

#[expect(clippy::unnecessary_wraps, reason = "read_all takes it with the others")]
pub(super) fn caller(name: &Name, section: &Section<'_>, exist: &Existing) -> Option<Caller> {
    let api_key_sha256 = section.list("api_key_sha256", |text| {
        hex32(text).ok_or_else(|| {
            "must be the SHA-256 of an API key, 64 hexadecimal digits; `tokenmint callers new NAME` makes both"
                .to_owned()
        })
    });
    let allow = section.list("allow", ProfileName::parse);
    let subjects = subjects(section);
    let rate = section.optional("rate", small_count);
    let burst = section.optional("burst", small_count);
    if section.has("burst") && !section.has("rate") {
        section.problem("burst", "goes with `rate`, requests a second");
    }
    if !section.has("api_key_sha256") {
        section.problem("api_key_sha256", "is missing: without a key nobody can be this caller");
    } else if api_key_sha256.is_empty() {
        section.warn("api_key_sha256", "holds no key, so nobody can be this caller");
    }
    if !section.has("allow") {
        section.problem("allow", r#"is missing: name the profiles it may use, as ["identity.web"]"#);
    }
    for profile in &allow {
        if let Err(message) = known(profile, exist) {
            section.problem("allow", message);
        }
    }
    let pace = rate.map(|rate| Pace { requests: rate, window: SECOND, burst: burst.unwrap_or(rate) });
    Some(Caller { name: name.clone(), api_key_sha256, allow, subjects, pace })
}

/// A bundle opens no door of its own, so one whose profiles aren't all allowed is of no use.
pub(super) fn open_bundles(
    section: Option<&Section<'_>>,
    callers: &BTreeMap<Name, Caller>,
    bundles: &BTreeMap<Name, Bundle>,
) {
    let Some(section) = section else { return };
    for caller in callers.values() {
        let allowed = caller.allow.iter().filter(|profile| profile.kind == Kind::Bundle);
        for (name, bundle) in allowed.filter_map(|name| Some((name, bundles.get(&name.name)?))) {
            for missing in bundle.entries.values().filter(|profile| !caller.allow.contains(profile)) {
                let message = format!(
                    "may use `{name}` but not `{missing}`, which it needs: add it to `allow` as well"
                );
                section.warn(caller.name.as_str(), message);
            }
        }
    }
}

/// Two callers with one key could not be told apart.
pub(super) fn distinct_api_keys(root: &Section<'_>, callers: &BTreeMap<Name, Caller>) {
    let mut owners: BTreeMap<[u8; 32], &Name> = BTreeMap::new();
    for caller in callers.values() {
        for digest in &caller.api_key_sha256 {
            if let Some(other) = owners.insert(*digest, &caller.name)
                && other != &caller.name
            {
                let message = format!("`{other}` and `{}` share an API key; give each its own", caller.name);
                root.problem("callers", message);
            }
        }
    }
}

pub(super) fn hex32(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
