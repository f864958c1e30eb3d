//! Compares a retrieved project with the configuration. Issuers and key ids must match byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::types::{
    AuthMode, CertificateSetType, MessagingChannel, PublicKeyCertificate, PublicKeyCertificateSet,
};
use super::{ExpectedKey, ExpectedKeyset};
use crate::doctor::{JwkDocument, lookalike_difference};

/// One difference between the retrieved project and the configuration.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MetadataDifference {
    /// Path relative to the project's folder; empty if there is no such file.
    pub(crate) file: String,
    /// The field of the metadata type, `kid` of the JWK, or the type of a component that isn't there.
    pub(crate) field: &'static str,
    pub(crate) configured: Option<String>,
    pub(crate) retrieved: Option<String>,
    /// Details of the difference, for example a trailing slash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) in_what: Option<String>,
}

/// A component of the retrieved project, with its file.
struct RetrievedComponent<T> {
    file: String,
    component: T,
}

/// The components of a retrieved project, by type and API name.
#[derive(Default)]
pub(crate) struct RetrievedProject {
    sets: BTreeMap<String, RetrievedComponent<PublicKeyCertificateSet>>,
    keys: BTreeMap<String, RetrievedComponent<PublicKeyCertificate>>,
    channels: BTreeMap<String, RetrievedComponent<MessagingChannel>>,
}

impl RetrievedProject {
    /// Reads a project in source format or Metadata API format.
    ///
    /// # Errors
    /// A file can't be read or parsed; the message names it.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let mut retrieved = Self::default();
        retrieved.read_folder(folder, folder)?;
        Ok(retrieved)
    }

    fn read_folder(&mut self, root: &Path, folder: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let entries = fs::read_dir(folder).map_err(failed)?;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().map_err(failed)?.is_dir() {
                if !name.starts_with('.') && name != "node_modules" {
                    self.read_folder(root, &path)?;
                }
                continue;
            }
            let Some((name, kind)) = name.strip_suffix("-meta.xml").unwrap_or(&name).rsplit_once('.') else {
                continue;
            };
            if !matches!(kind, "PublicKeyCertificateSet" | "PublicKeyCertificate" | "messagingChannel") {
                continue;
            }
            let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let unreadable = |error: super::InvalidMetadata| format!("{}: it {error}", path.display());
            let name = name.to_owned();
            match kind {
                "PublicKeyCertificateSet" => {
                    let component = PublicKeyCertificateSet::read(&text).map_err(unreadable)?;
                    self.sets.insert(name, RetrievedComponent { file, component });
                }
                "PublicKeyCertificate" => {
                    let component = PublicKeyCertificate::read(&text).map_err(unreadable)?;
                    self.keys.insert(name, RetrievedComponent { file, component });
                }
                _ => {
                    let component = MessagingChannel::read(&text).map_err(unreadable)?;
                    self.channels.insert(name, RetrievedComponent { file, component });
                }
            }
        }
        Ok(())
    }

    /// Finds the set that corresponds to `expected`. Its keys and its JWKS URL count more than its name, which users
    /// choose freely.
    fn find_set(
        &self,
        expected: &ExpectedKeyset,
    ) -> Option<(&String, &RetrievedComponent<PublicKeyCertificateSet>)> {
        let expected_key = |set: &PublicKeyCertificateSet| {
            let endpoint = expected.endpoint.is_some() && set.jwks_end_point == expected.endpoint;
            endpoint
                || self
                    .keys_of(set)
                    .any(|(_, key)| expected.keys.iter().any(|expected_key| is_same_key(key, expected_key)))
        };
        let issued = |set: &PublicKeyCertificateSet| {
            set.jwt_issuer == expected.issuer
                || lookalike_difference(&set.jwt_issuer, &expected.issuer).is_some()
        };
        let find = |fits: &dyn Fn(&PublicKeyCertificateSet) -> bool| {
            self.sets.iter().find(|(_, found)| fits(&found.component))
        };
        find(&|set| expected_key(set) && issued(set))
            .or_else(|| find(&expected_key))
            .or_else(|| self.sets.get_key_value(&expected.name))
            .or_else(|| find(&issued))
    }

    /// Returns the keys that a set refers to, as far as the project contains them.
    fn keys_of<'a>(
        &'a self,
        set: &'a PublicKeyCertificateSet,
    ) -> impl Iterator<Item = (&'a String, &'a RetrievedComponent<PublicKeyCertificate>)> {
        set.keys.iter().filter_map(|key| self.keys.get_key_value(&key.public_key_certificate))
    }
}

fn retrieved_jwk(found: &RetrievedComponent<PublicKeyCertificate>) -> JwkDocument {
    JwkDocument::parse(&found.file, &found.component.json_web_key)
}

fn kid_of(document: &JwkDocument) -> Option<&str> {
    document.keys.first()?.kid()
}

fn numbers_of(document: &JwkDocument) -> Option<crate::keys::PublicNumbers> {
    document.keys.first()?.numbers()
}

fn expected_jwk(key: &ExpectedKey) -> JwkDocument {
    JwkDocument::parse(&key.kid, &key.jwk.to_string())
}

/// Whether both have the same key id or the same public key.
fn is_same_key(found: &RetrievedComponent<PublicKeyCertificate>, expected_key: &ExpectedKey) -> bool {
    let theirs = retrieved_jwk(found);
    kid_of(&theirs) == Some(expected_key.kid.as_str())
        || numbers_of(&theirs) == numbers_of(&expected_jwk(expected_key))
}

/// Lists all differences between `retrieved` and the configuration.
pub(crate) fn differences(
    expected: &[ExpectedKeyset],
    retrieved: &RetrievedProject,
) -> Vec<MetadataDifference> {
    expected.iter().flat_map(|set| compare_set(set, retrieved)).collect()
}

fn differs(file: &str, field: &'static str, configured: &str, retrieved: &str) -> Option<MetadataDifference> {
    (configured != retrieved).then(|| MetadataDifference {
        file: file.to_owned(),
        field,
        configured: Some(configured.to_owned()),
        retrieved: Some(retrieved.to_owned()),
        in_what: lookalike_difference(configured, retrieved),
    })
}

fn missing(file: &str, field: &'static str, configured: &str) -> MetadataDifference {
    let configured = Some(configured.to_owned());
    MetadataDifference { file: file.to_owned(), field, configured, retrieved: None, in_what: None }
}

fn compare_set(expected: &ExpectedKeyset, retrieved: &RetrievedProject) -> Vec<MetadataDifference> {
    let Some((name, RetrievedComponent { file, component: set })) = retrieved.find_set(expected) else {
        return vec![missing("", "PublicKeyCertificateSet", &expected.name)];
    };
    let kind =
        if expected.endpoint.is_some() { CertificateSetType::JwksUrl } else { CertificateSetType::Jwks };
    let mut found: Vec<MetadataDifference> = [
        differs(file, "jwtIssuer", &expected.issuer, &set.jwt_issuer),
        differs(file, "type", kind.as_str(), set.kind.as_str()),
    ]
    .into_iter()
    .flatten()
    .collect();
    match (set.kind, &expected.endpoint) {
        (CertificateSetType::Jwks, _) => found.extend(compare_keys(expected, file, set, retrieved)),
        (CertificateSetType::JwksUrl, Some(endpoint)) => {
            let theirs = set.jwks_end_point.as_deref().unwrap_or_default();
            found.extend(differs(file, "jwksEndPoint", endpoint, theirs));
        }
        (CertificateSetType::JwksUrl, None) => {}
    }
    found.extend(compare_channels(name, retrieved));
    found
}

fn compare_keys(
    expected: &ExpectedKeyset,
    file: &str,
    set: &PublicKeyCertificateSet,
    retrieved: &RetrievedProject,
) -> Vec<MetadataDifference> {
    let mut found = Vec::new();
    let mut others: Vec<(&String, &RetrievedComponent<PublicKeyCertificate>)> =
        retrieved.keys_of(set).collect();
    for key in &expected.keys {
        let exact = |(_, theirs): &(&String, &RetrievedComponent<PublicKeyCertificate>)| {
            kid_of(&retrieved_jwk(theirs)) == Some(&key.kid)
        };
        let near =
            |(_, theirs): &(&String, &RetrievedComponent<PublicKeyCertificate>)| is_same_key(theirs, key);
        let Some(at) = others.iter().position(exact).or_else(|| others.iter().position(near)) else {
            found.push(missing(file, "kid", &key.kid));
            continue;
        };
        let (_, theirs) = others.remove(at);
        let document = retrieved_jwk(theirs);
        found.extend(differs(&theirs.file, "kid", &key.kid, kid_of(&document).unwrap_or_default()));
        if numbers_of(&document) != numbers_of(&expected_jwk(key)) {
            found.push(MetadataDifference {
                in_what: Some("another key".to_owned()),
                ..missing(&theirs.file, "jsonWebKey", &key.kid)
            });
        }
        if !theirs.component.is_active {
            found.extend(differs(&theirs.file, "isActive", "true", "false"));
        }
    }
    found.extend(others.into_iter().map(|(_, theirs)| MetadataDifference {
        file: theirs.file.clone(),
        field: "kid",
        configured: None,
        retrieved: Some(kid_of(&retrieved_jwk(theirs)).unwrap_or_default().to_owned()),
        in_what: None,
    }));
    let absent = set.keys.iter().filter(|key| !retrieved.keys.contains_key(&key.public_key_certificate));
    found.extend(absent.map(|key| MetadataDifference {
        in_what: Some("the project hasn't that PublicKeyCertificate: retrieve it too".to_owned()),
        retrieved: Some(key.public_key_certificate.clone()),
        configured: None,
        ..missing(file, "publicKeyCertificate", "")
    }));
    found
}

/// Checks that a channel verifies its users with this set, and compares the links of such channels. If the project contains no
/// channel, there is nothing to check.
fn compare_channels(set: &str, retrieved: &RetrievedProject) -> Vec<MetadataDifference> {
    let configs = retrieved
        .channels
        .values()
        .filter_map(|channel| Some((channel.file.as_str(), channel.component.embedded_config.as_ref()?)));
    let mut linked = Vec::new();
    for (file, config) in configs {
        let authorizations = config.messaging_authorizations.iter();
        for authorization in authorizations.filter(|found| found.public_key_certificate_set_name == set) {
            linked.push((file, config.auth_mode == AuthMode::Auth, authorization.enabled));
        }
    }
    if linked.is_empty() && !retrieved.channels.is_empty() {
        return vec![missing("", "messagingAuthorizations", set)];
    }
    let compare_link = |(file, verifies, enabled): (&str, bool, bool)| {
        let mode = if verifies { "Auth" } else { "UnAuth" };
        let enabled = enabled.to_string();
        [differs(file, "authMode", "Auth", mode), differs(file, "enabled", "true", &enabled)]
    };
    linked.into_iter().flat_map(compare_link).flatten().collect()
}
