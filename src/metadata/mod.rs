//! Salesforce metadata: writes the keysets as a project for `sf project deploy start`, and compares a retrieved project
//! with the configuration.
//!
//! Supports `PublicKeyCertificateSet`, `PublicKeyCertificate`, and the link to the keyset in `MessagingChannel`
//! (Metadata API Developer Guide, version 62.0 and later).
//!
//! - Elements are in alphabetical order, like in metadata that an org returns.
//! - The project contains no private key: a key is written as its public JWK.
//! - Names are converted to API names. Issuers and key ids are written byte for byte.

mod difference;
mod types;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

pub(crate) use difference::{MetadataDifference, RetrievedProject, differences};
use types::{
    AuthMode, AuthorizationType, CertificateSetType, EmbeddedConfig, MessagingAuthorization,
    MessagingChannel, PublicKeyCertificate, PublicKeyCertificateSet, SetKeyReference,
};
pub(crate) use types::{InvalidMetadata, NAMESPACE};

use crate::clock::UnixTime;
use crate::config::{Config, ProfileKind};
use crate::jwks;
use crate::keys::{KeyRing, Keyset};

/// The first API version that has these types.
pub(crate) const API_VERSION: &str = "62.0";
/// The folder of components in a project, as `sf project generate` creates it.
const SOURCE: &str = "force-app/main/default";

/// A keyset as the org should have it.
pub(crate) struct ExpectedKeyset {
    /// API name of the `PublicKeyCertificateSet`.
    pub(crate) name: String,
    pub(crate) issuer: String,
    /// The URL of its JWKS; `None` if its keys are uploaded.
    pub(crate) endpoint: Option<String>,
    pub(crate) keys: Vec<ExpectedKey>,
}

pub(crate) struct ExpectedKey {
    /// API name of the `PublicKeyCertificate`.
    pub(crate) name: String,
    pub(crate) kid: String,
    pub(crate) jwk: Value,
}

/// A file of the project, with its path relative to the project's folder.
pub(crate) struct Component {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// Whether an existing file is kept instead of being replaced.
    pub(crate) only_if_absent: bool,
}

/// Lists the keysets that the org should have: one for each pair of a keyset that signs identity tokens and an issuer.
/// `public_url` is the base URL of their JWKS.
///
/// # Errors
/// Two components would have the same API name.
pub(crate) fn expected_keysets(
    config: &Config,
    ring: &KeyRing,
    public_url: Option<&str>,
    now: UnixTime,
) -> Result<Vec<ExpectedKeyset>, String> {
    let mut sets: Vec<ExpectedKeyset> = Vec::new();
    let mut names = ApiNames::default();
    for keyset in ring.keysets.values() {
        let profiles = keyset.used_by.iter().filter(|user| user.kind == ProfileKind::Identity);
        let mut issuers: BTreeMap<&str, &str> = BTreeMap::new();
        for profile in profiles.filter_map(|user| config.identity.get(&user.bare_name)) {
            issuers.entry(profile.issuer.as_str()).or_insert(profile.name.as_str());
        }
        for key in keyset.published(now).filter(|_| !issuers.is_empty()) {
            names.reserve(&api_name(key.kid.as_str()), &format!("the key `{}`", key.kid))?;
        }
        for (&issuer, profile) in &issuers {
            let name = match issuers.len() {
                1 => api_name(keyset.name.as_str()),
                _ => api_name(&format!("{}_{profile}", keyset.name)),
            };
            names.reserve(&format!("set {name}"), &format!("the keyset `{}`", keyset.name))?;
            let endpoint = public_url
                .map(|url| format!("{}/keysets/{}/jwks.json", url.trim_end_matches('/'), keyset.name));
            sets.push(ExpectedKeyset {
                name,
                issuer: issuer.to_owned(),
                endpoint,
                keys: expected_keys(keyset, now),
            });
        }
    }
    Ok(sets)
}

/// The API names in use, to detect duplicates.
#[derive(Default)]
struct ApiNames(BTreeMap<String, String>);

impl ApiNames {
    fn reserve(&mut self, name: &str, what: &str) -> Result<(), String> {
        // Salesforce compares API names without regard to case.
        match self.0.insert(name.to_lowercase(), what.to_owned()) {
            Some(other) => {
                let name = name.trim_start_matches("set ");
                Err(format!("{other} and {what} would both be called {name} in Salesforce: rename one"))
            }
            None => Ok(()),
        }
    }
}

fn expected_keys(keyset: &Keyset, now: UnixTime) -> Vec<ExpectedKey> {
    let key = |key: &crate::keys::KeysetKey| ExpectedKey {
        name: api_name(key.kid.as_str()),
        kid: key.kid.to_string(),
        jwk: serde_json::to_value(jwks::jwk(keyset, key, now)).expect("strings can be written to memory"),
    };
    keyset.published(now).map(key).collect()
}

/// Converts a text to an API name: letters, digits and single underscores, with a letter first and no underscore last,
/// at most 80 characters.
fn api_name(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut name = words.collect::<Vec<_>>().join("_");
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        name.insert_str(0, "Key_");
    }
    name.truncate(80);
    name.trim_end_matches('_').to_owned()
}

/// Builds the project: its description and manifest, components to deploy, and one fragment for each set, to merge into the
/// channel's file. `configuration` is the name of the User Verification configuration; without it, each set gets its own.
pub(crate) fn build_project(sets: &[ExpectedKeyset], configuration: Option<&str>) -> Vec<Component> {
    let mut files =
        vec![Component { path: "sfdx-project.json".into(), text: sfdx_project(), only_if_absent: true }];
    files.push(Component {
        path: "manifest/package.xml".into(),
        text: types::manifest(),
        only_if_absent: true,
    });
    for set in sets {
        let uploaded = set.endpoint.is_none();
        let keys: &[ExpectedKey] = if uploaded { &set.keys } else { &[] };
        for key in keys {
            let component = PublicKeyCertificate::new(&key.kid, &key.jwk).to_xml();
            files.push(Component::new("PublicKeyCertificate", &key.name, component));
        }
        let component = PublicKeyCertificateSet {
            xmlns: NAMESPACE.to_owned(),
            description: Some(types::DESCRIPTION.to_owned()),
            jwks_end_point: set.endpoint.clone(),
            jwt_issuer: set.issuer.clone(),
            master_label: set.name.clone(),
            keys: keys
                .iter()
                .map(|key| SetKeyReference { public_key_certificate: key.name.clone() })
                .collect(),
            kind: if uploaded { CertificateSetType::Jwks } else { CertificateSetType::JwksUrl },
        };
        files.push(Component::new("PublicKeyCertificateSet", &set.name, component.to_xml()));
        let authorization = MessagingAuthorization {
            auth_identifier: configuration
                .map_or_else(|| format!("{}_Verification", set.name), str::to_owned),
            authorization_type: AuthorizationType::PublicKeyCertificateSet,
            enabled: true,
            public_key_certificate_set_name: set.name.clone(),
        };
        let channel = MessagingChannel {
            xmlns: NAMESPACE.to_owned(),
            embedded_config: Some(EmbeddedConfig {
                auth_mode: AuthMode::Auth,
                messaging_authorizations: vec![authorization],
            }),
        };
        let path = format!("fragments/{}.messagingChannel.xml", set.name).into();
        files.push(Component { path, text: channel.to_xml(), only_if_absent: false });
    }
    // If a keyset has several issuers, its keys are written once.
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup_by(|one, other| one.path == other.path);
    files
}

impl Component {
    fn new(kind: &str, name: &str, text: String) -> Self {
        // Folder and suffix have the exact case of the type: otherwise the `sf` command doesn't recognize it.
        let path = format!("{SOURCE}/{kind}/{name}.{kind}-meta.xml").into();
        Self { path, text, only_if_absent: false }
    }
}

fn sfdx_project() -> String {
    let project = json!({
        "packageDirectories": [{"path": "force-app", "default": true}],
        "sourceApiVersion": API_VERSION,
    });
    format!("{project:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_valid_api_name() {
        for (text, name) in [
            ("web", "web"),
            ("WebAppKey1", "WebAppKey1"),
            ("2026-11.key@acme", "Key_2026_11_key_acme"),
            ("--a__b--", "a_b"),
            ("~", "Key"),
        ] {
            assert_eq!(api_name(text), name, "{text}");
        }
        assert_eq!(api_name(&"a-".repeat(60)).len(), 79);
    }
}
