//! Parses `[keysets.NAME]` and applies the profiles that sign with each keyset.

use std::collections::BTreeMap;

use super::super::section::Section;
use super::super::source::WarningCode;
use super::super::values::parse_string;
use super::super::{
    Algorithm, IdentityConfig, KeyId, KeysetConfig, KeysetSource, MIN_TTL, Name, OauthConfig, ProfileKind,
    ProfileName,
};
use super::stores::{Stores, parse_seal, parse_signed_by};
use super::{DefinedNames, HOUR};

pub(super) fn parse_keyset(
    name: &Name,
    section: &Section<'_>,
    stores: &Stores,
    defined: &DefinedNames,
) -> Option<KeysetConfig> {
    let directory = section.path("directory");
    let key = section.pem("key");
    let key_file = section.path("key_file");
    let kid = section.optional("kid", |node| KeyId::parse(&parse_string(node)?));
    let passphrase = section.secret("passphrase", "passphrase_file");
    let seal = parse_seal(section, stores, defined);
    let signed_by = parse_signed_by(section, stores, defined);
    let publish_lead = section.duration_or_default("publish_lead");
    let retire_margin = section.duration_or_default("retire_margin");
    if publish_lead < HOUR {
        section.warn(
            WarningCode::PublishLead,
            "publish_lead",
            "is shorter than verifiers cache a JWKS: they receive tokens signed by unknown keys",
        );
    }

    let given = ["directory", "key", "key_file"].into_iter().filter(|name| section.has(name)).count();
    if given != 1 {
        let message = "give exactly one of `directory` (of KID.key files), `key_file` or `key` (PEM text)";
        section.problem("directory", message);
        return None;
    }
    if section.has("directory") && section.has("kid") {
        section
            .problem("kid", "is only for `key` and `key_file`: in a directory the file's name is the key id");
        return None;
    }
    if !section.has("directory") && !section.has("kid") {
        section.problem("kid", "is missing: the key id that Salesforce Setup knows this key by");
    }
    // Without its store, each key would be reported as well.
    if seal.is_none() && section.has("sealed_by") || signed_by.is_none() && section.has("signed_by") {
        return None;
    }
    // Without its passphrase, the key would be reported as well.
    if passphrase.is_none() && (section.has("passphrase") || section.has("passphrase_file")) {
        return None;
    }
    let keys = match (directory, key_file, key) {
        (Some(directory), _, _) => KeysetSource::Directory(directory),
        (_, Some(path), _) => KeysetSource::File { kid: kid?, path },
        (_, _, Some(pem)) => {
            KeysetSource::Text { kid: kid?, pem, origin: section.origin_of("key").to_string() }
        }
        (None, None, None) => return None,
    };
    Some(KeysetConfig {
        name: name.clone(),
        keys,
        passphrase,
        seal,
        signed_by,
        algorithm: Algorithm::Rs256,
        longest_life: MIN_TTL,
        publish_lead,
        retire_margin,
        used_by: Vec::new(),
    })
}

/// Sets `algorithm`, `longest_life` and `used_by` of each keyset from the profiles that sign with it.
///
/// Reports a problem if these profiles have different algorithms, and a warning if they are of different kinds.
pub(super) fn assign_algorithms(
    section: Option<&Section<'_>>,
    keysets: &mut BTreeMap<Name, KeysetConfig>,
    identity: &BTreeMap<Name, IdentityConfig>,
    oauth: &BTreeMap<Name, OauthConfig>,
) {
    let identity = identity.values().map(|profile| {
        let name = ProfileName::new(ProfileKind::Identity, profile.name.clone());
        (name, &profile.keyset, profile.algorithm, profile.max_ttl)
    });
    let oauth = oauth.values().map(|profile| {
        let name = ProfileName::new(ProfileKind::Oauth, profile.name.clone());
        (name, &profile.keyset, Algorithm::Rs256, profile.assertion_ttl)
    });
    for (profile, keyset_name, algorithm, life) in identity.chain(oauth) {
        let (Some(keyset), Some(section)) = (keysets.get_mut(keyset_name), section) else { continue };
        if let Some(first) = keyset.used_by.first()
            && keyset.algorithm != algorithm
        {
            let message = format!(
                "`{first}` signs {} and `{profile}` {} with its keys; a key has one algorithm \
                 (RFC 8725, section 3.1): give one of them a keyset of its own",
                keyset.algorithm.as_str(),
                algorithm.as_str(),
            );
            section.problem(keyset_name.as_str(), message);
            continue;
        }
        if let Some(other) = keyset.used_by.iter().find(|other| other.kind != profile.kind) {
            let message = format!(
                "serves both `{other}` and `{profile}`; one leaked key would compromise both (RFC 8725, section \
                3.12): give each a keyset of its own"
            );
            section.warn(WarningCode::OneKeyForTwoKinds, keyset_name.as_str(), message);
        }
        keyset.algorithm = algorithm;
        keyset.longest_life = keyset.longest_life.max(life);
        keyset.used_by.push(profile);
    }
}
