//! Checks of loaded keysets, one by one and against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::publication_history::ModulusHash;
use super::{Keyset, SCHEDULE_FILE};
use crate::clock::UnixTime;
use crate::config::{KeyId, Name, Problem, ProfileKind, WarningCode};
use crate::shell;

/// Warns of a key that signs before verifiers are sure to know it, until they are.
pub(super) fn early_signing_warnings(field: &str, keyset: &Keyset, now: UnixTime) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for key in keyset.keys.iter().filter(|key| key.validity.entry.emergency) {
        let from = key.validity.signs_from();
        let (Some(from), Some(added)) = (from, key.validity.entry.added.or(from)) else { continue };
        let safe = added.plus(keyset.rules.publish_lead);
        if from < safe && now < safe {
            let message = format!(
                "`{}` signs from {from} by `emergency`: verifiers that keep a JWKS may not know it before {safe}",
                key.kid
            );
            warnings.push(Problem::warning(WarningCode::EmergencyKey, field, SCHEDULE_FILE, message));
        }
    }
    warnings
}

/// Finds key ids that two keysets use. Retired keys count, expired ones don't.
pub(super) fn duplicate_kids(keysets: &[Arc<Keyset>]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut keyset_by_kid: BTreeMap<&KeyId, &Name> = BTreeMap::new();
    for keyset in keysets {
        let gone = keyset.gone.iter().map(|validity| &validity.entry);
        let retired = gone.filter(|entry| entry.retired.is_some()).map(|entry| &entry.kid);
        for kid in keyset.keys.iter().map(|key| &key.kid).chain(retired) {
            if let Some(other) = keyset_by_kid.insert(kid, &keyset.name) {
                let message = format!(
                    "its key id `{kid}` is also in keyset `{other}`; key ids are unique across the service"
                );
                problems.push(Problem::new(format!("keysets.{}", keyset.name), "keys", message));
            }
        }
    }
    problems
}

/// Finds copies of a retired key under another id: such a copy is as compromised as that key.
pub(super) fn copies_of_retired(
    keysets: &[Arc<Keyset>],
    retired: &BTreeMap<ModulusHash, KeyId>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (keyset, key) in keysets.iter().flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset, key))) {
        let Some(retired) = retired.get(&key.public().modulus_hash()) else { continue };
        let kid = &key.kid;
        let message = format!(
            "`{kid}` is the key that is retired as `{retired}`: `tokenmint keys retire {} --now` takes it away too; one that \
             is given as text or file must be another key",
            shell::quote(kid)
        );
        problems.push(Problem::new(format!("keysets.{}", keyset.name), "keys", message));
    }
    problems
}

/// Warns if one key signs identity tokens and OAuth assertions, in different keysets (RFC 8725, section 3.12).
pub(super) fn shared_key_warnings(keysets: &[Arc<Keyset>]) -> Vec<Problem> {
    let signs = |kind: ProfileKind| {
        let used = move |keyset: &&Arc<Keyset>| keyset.used_by.iter().any(|user| user.kind == kind);
        keysets.iter().filter(used).flat_map(|keyset| keyset.keys.iter().map(move |key| (keyset, key)))
    };
    let mut warnings = Vec::new();
    let mut warned = BTreeSet::new();
    for (identity, key) in signs(ProfileKind::Identity) {
        for (oauth, other) in signs(ProfileKind::Oauth) {
            let same = key.public().n == other.public().n;
            if same && identity.name != oauth.name && warned.insert(&key.kid) {
                let message = format!(
                    "its key `{}` is the same as `{}` of keyset `{}`: identity tokens and OAuth assertions \
                     are signed by one key, so one leak exposes both; make another key for one of them",
                    key.kid, other.kid, oauth.name
                );
                warnings.push(Problem::warning(
                    WarningCode::OneKeyForTwoKinds,
                    format!("keysets.{}", identity.name),
                    "keys",
                    message,
                ));
            }
        }
    }
    warnings
}
