//! Parses `[stores.NAME]`, and the settings of keysets that refer to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::section::Section;
use super::super::source::{Environment, WarningCode};
use super::super::stores::{Pkcs11Config, SealConfig, StoreConfig, StoreKind, VaultConfig, VaultLogin};
use super::super::values::parse_string;
use super::super::{
    HttpsOrLoopbackUrl, KeysetConfig, Name, ProfileKind, ProfileName, RateLimit, validate_text,
};
use super::aws_kms::{parse_aws_kms, parse_kms_key};
use super::{DefinedNames, saturating_u32};

const LONGEST_NAME: usize = 128;
const LONGEST_PATH: usize = 256;
/// PKCS#11 gives a label 32 bytes.
const LONGEST_TOKEN_LABEL: usize = 32;

/// The stores, by name. A store that isn't valid is missing.
pub(super) type Stores = BTreeMap<Name, Arc<StoreConfig>>;

pub(super) fn parse_store(
    name: &Name,
    section: &Section<'_>,
    environment: &Environment,
) -> Option<Arc<StoreConfig>> {
    let kind = section.choice("kind");
    if !section.has("kind") {
        section.problem("kind", "is missing: \"vault\" for HashiCorp Vault or OpenBao, \"aws-kms\", or \"pkcs11\" for an HSM or a TPM");
    }
    for key in KEYS_OF_KINDS.iter().flat_map(|(_, keys)| *keys) {
        section.accept(key);
    }
    let per_second = saturating_u32(section.count_or_default("max_signatures_per_second"));
    let concurrent_signatures = section.count_or_default("max_concurrent_signatures");
    let kind = kind?;
    reject_keys_of_other_kinds(section, kind);
    let kind = match kind {
        "vault" => StoreKind::Vault(parse_vault(section)?),
        "aws-kms" => StoreKind::AwsKms(parse_aws_kms(section, environment)?),
        "pkcs11" => StoreKind::Pkcs11(parse_pkcs11(section)?),
        // The schema has no other kind.
        _ => return None,
    };
    Some(Arc::new(StoreConfig {
        name: name.clone(),
        kind,
        // A small burst, because the quota of a store counts each second.
        signature_rate: RateLimit {
            requests: per_second,
            window: Duration::from_secs(1),
            burst: per_second.div_ceil(10),
        },
        concurrent_signatures,
    }))
}

/// The keys of each kind of store, without those that all kinds have.
const KEYS_OF_KINDS: &[(&str, &[&str])] = &[
    (
        "vault",
        &["address", "mount", "namespace", "ca_file", "token_file", "auth", "auth_mount", "role", "jwt_file"],
    ),
    ("aws-kms", &["region", "endpoint", "ca_file"]),
    ("pkcs11", &["module", "token_label", "pin_file"]),
];

/// Rejects the keys of other kinds of stores.
fn reject_keys_of_other_kinds(section: &Section<'_>, kind: &str) {
    let own = KEYS_OF_KINDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| keys);
    for (other, keys) in KEYS_OF_KINDS {
        for key in keys.iter().filter(|key| !own.contains(key) && section.has(key)) {
            section.problem(
                key,
                format!("is for stores of kind `{other}`, and this one is `{kind}`: remove it"),
            );
        }
    }
}

fn parse_vault(section: &Section<'_>) -> Option<VaultConfig> {
    let address = section.required(
        "address",
        |node| {
            let url = HttpsOrLoopbackUrl::parse(&parse_string(node)?)?;
            if url.is_origin() { Ok(url) } else { Err("must have no path: `mount` has it".to_owned()) }
        },
        "the address of Vault or OpenBao, for example \"https://vault.internal:8200\"",
    );
    let mount = section.or_default("mount", |node| parse_path(&parse_string(node)?));
    let namespace = section.optional("namespace", |node| parse_path(&parse_string(node)?));
    let ca_file = section.path("ca_file");
    let login = parse_login(section);
    Some(VaultConfig { address: address?, mount, namespace, ca_file, login: login? })
}

fn parse_pkcs11(section: &Section<'_>) -> Option<Pkcs11Config> {
    let module = section.path("module");
    let pin_file = section.path("pin_file");
    for (name, what) in [
        ("module", "the PKCS#11 library of the HSM, for example \"/usr/lib/softhsm/libsofthsm2.so\""),
        ("pin_file", "a file with the PIN of the token's user"),
    ] {
        if !section.has(name) {
            section.problem(name, format!("is missing: {what}"));
        }
    }
    let token_label = section.required(
        "token_label",
        |node| {
            let label = parse_string(node)?;
            validate_text(&label, LONGEST_TOKEN_LABEL).map(|()| label.to_string())
        },
        "the label of the token, as `pkcs11-tool --list-slots` shows it",
    );
    Some(Pkcs11Config { module: module?, token_label: token_label?, pin_file: pin_file? })
}

fn parse_login(section: &Section<'_>) -> Option<VaultLogin> {
    let method = section.choice("auth");
    let auth_mount = section.optional("auth_mount", |node| parse_path(&parse_string(node)?));
    let role = section.optional("role", |node| parse_name(&parse_string(node)?));
    let jwt_file = section.path("jwt_file");
    let token_file = section.path("token_file");
    if section.has("token_file") == section.has("auth") {
        let message = "give exactly one of `token_file` and `auth`: how does tokenmint log in to the store?";
        section.problem("token_file", message);
        return None;
    }
    if section.has("token_file") {
        for name in ["auth_mount", "role", "jwt_file"] {
            if section.has(name) {
                section.problem(name, "is only for `auth`, and `token_file` is given: remove one of them");
            }
        }
        return token_file.map(VaultLogin::TokenFile);
    }
    for (name, what) in
        [("role", "the role to log in as"), ("jwt_file", "the file with the JWT to log in with")]
    {
        if !section.has(name) {
            section.problem(name, format!("is missing: {what}"));
        }
    }
    let mount = match auth_mount {
        Some(mount) => mount,
        None => method?.to_owned(),
    };
    Some(VaultLogin::Jwt { mount, role: role?, jwt_file: jwt_file? })
}

/// Reads `sealed_by` and `seal_key` of a keyset. `None` if its keys aren't sealed, or if a problem was reported.
pub(super) fn parse_seal(
    section: &Section<'_>,
    stores: &Stores,
    defined: &DefinedNames,
) -> Option<SealConfig> {
    let store = parse_store_name(section, "sealed_by", defined);
    let kind = store.as_ref().and_then(|name| stores.get(name)).map(|store| &store.kind);
    let key = section.optional("seal_key", |node| {
        let text = parse_string(node)?;
        match kind {
            Some(StoreKind::Vault(_) | StoreKind::Pkcs11(_)) => parse_name(&text),
            Some(StoreKind::AwsKms(_)) => parse_kms_key(&text),
            // A store with a problem was reported already.
            None => Ok(text.to_string()),
        }
    });
    match (section.has("sealed_by"), section.has("seal_key")) {
        (false, false) => return None,
        (true, false) => {
            section.problem("seal_key", "is missing: the store's name for the key that seals");
        }
        (false, true) => section.problem("sealed_by", "is missing: the store that has the `seal_key`"),
        (true, true) => {}
    }
    if section.has("sealed_by") && !section.has("directory") {
        section.problem("sealed_by", "is only for a `directory`, which holds KID.key.sealed files");
    }
    for name in ["passphrase", "passphrase_file"] {
        if section.has("sealed_by") && section.has(name) {
            section.problem(name, "is for encrypted PEM files: a sealed key has no passphrase, so remove it");
        }
    }
    // A store with a problem was reported already.
    Some(SealConfig { store: stores.get(&store?)?.clone(), key: key? })
}

/// Reads `signed_by` of a keyset. `None` if no store signs with its keys, or if a problem was reported.
pub(super) fn parse_signed_by(
    section: &Section<'_>,
    stores: &Stores,
    defined: &DefinedNames,
) -> Option<Arc<StoreConfig>> {
    let store = parse_store_name(section, "signed_by", defined);
    if section.has("signed_by") && !section.has("directory") {
        section
            .problem("signed_by", "is only for a `directory`, whose keyset.toml lists the keys of the store");
    }
    // A store with a problem was reported already.
    Some(stores.get(&store?)?.clone())
}

/// Reads the name of a store that the configuration defines.
fn parse_store_name(section: &Section<'_>, key: &'static str, defined: &DefinedNames) -> Option<Name> {
    section.optional(key, |node| {
        let name = Name::parse(&parse_string(node)?)?;
        if defined.has("stores", name.as_str()) {
            Ok(name)
        } else {
            Err(format!("`{name}` isn't a store; defined: {}", defined.list("stores")))
        }
    })
}

/// Warns about each keyset whose identity tokens a store signs: each page load waits for it.
pub(super) fn warn_remote_identity(section: Option<&Section<'_>>, keysets: &BTreeMap<Name, KeysetConfig>) {
    let Some(section) = section else { return };
    for keyset in keysets.values() {
        let Some(store) = &keyset.signed_by else { continue };
        let is_identity = |profile: &&ProfileName| profile.kind == ProfileKind::Identity;
        let Some(profile) = keyset.used_by.iter().find(is_identity) else { continue };
        let message = format!(
            "signs for `{profile}` in store `{}`: each page load waits for the store, and this process mints at most {} tokens a second \
             with all keys of that store (`max_signatures_per_second`); a sealed key (`sealed_by`) signs in memory",
            store.name, store.signature_rate.requests
        );
        section.warn(WarningCode::RemoteIdentity, keyset.name.as_str(), message);
    }
}

/// Warns about stores that no keyset refers to.
pub(super) fn warn_unused_stores(
    section: Option<&Section<'_>>,
    stores: &Stores,
    keysets: &BTreeMap<Name, KeysetConfig>,
) {
    // A keyset with a problem may refer to a store all the same.
    let Some(section) = section.filter(|section| !section.diagnostics().has_problems()) else { return };
    let is_used =
        |store: &Arc<StoreConfig>| keysets.values().flat_map(KeysetConfig::stores).any(|used| used == store);
    for (name, _) in stores.iter().filter(|(_, store)| !is_used(store)) {
        let message = "is used by no keyset: set `sealed_by` or `signed_by` of a keyset, or remove it";
        section.warn(WarningCode::UnusedStore, name.as_str(), message);
    }
}

/// The name of a key or a role: one segment of a path.
fn parse_name(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(is_valid);
    if is_name && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err(format!("must be 1 to {LONGEST_NAME} letters, digits or any of `-_.`, and doesn't begin with a dot"))
}

/// The path of a mount or a namespace: names, separated by slashes.
fn parse_path(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    if path.len() <= LONGEST_PATH && path.split('/').all(|name| parse_name(name).is_ok()) {
        return Ok(path.to_owned());
    }
    Err("must be a path of letters, digits and any of `-_.`, for example \"transit\"".to_owned())
}
