//! A retrieved project beside what the configuration says: issuer and key id byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::types::{Certificate, CertificateSet, Channel, Mode, SetType};
use super::{Expected, ExpectedKey};
use crate::doctor::{JwkDocument, lookalike_difference};

/// One thing that isn't there as it is here.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Below the project's folder; empty where there is none.
    pub file: String,
    /// Of the metadata type, or `kid` of the JWK.
    pub field: &'static str,
    pub configured: Option<String>,
    pub retrieved: Option<String>,
    /// What a person would overlook, as a slash at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_what: Option<String>,
}

/// A component, by its API name.
struct Found<T> {
    file: String,
    component: T,
}

/// What a project has of our three types.
#[derive(Default)]
pub struct Retrieved {
    sets: BTreeMap<String, Found<CertificateSet>>,
    keys: BTreeMap<String, Found<Certificate>>,
    channels: BTreeMap<String, Found<Channel>>,
}

impl Retrieved {
    /// Reads a project, in source format or as the Metadata API gives it.
    ///
    /// # Errors
    /// Names the file that can't be read.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let mut retrieved = Self::default();
        retrieved.folder(folder, folder)?;
        Ok(retrieved)
    }

    fn folder(&mut self, root: &Path, folder: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let entries = fs::read_dir(folder).map_err(failed)?;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().map_err(failed)?.is_dir() {
                if !name.starts_with('.') && name != "node_modules" {
                    self.folder(root, &path)?;
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
            let unreadable = |error: super::Unreadable| format!("{}: it {error}", path.display());
            let name = name.to_owned();
            match kind {
                "PublicKeyCertificateSet" => {
                    let component = CertificateSet::read(&text).map_err(unreadable)?;
                    self.sets.insert(name, Found { file, component });
                }
                "PublicKeyCertificate" => {
                    let component = Certificate::read(&text).map_err(unreadable)?;
                    self.keys.insert(name, Found { file, component });
                }
                _ => {
                    let component = Channel::read(&text).map_err(unreadable)?;
                    self.channels.insert(name, Found { file, component });
                }
            }
        }
        Ok(())
    }

    /// The set that is meant for `expected`, whatever it is called: by its keys or their address first, since names
    /// are anybody's.
    fn set_of(&self, expected: &Expected) -> Option<(&String, &Found<CertificateSet>)> {
        let ours = |set: &CertificateSet| {
            let endpoint = expected.endpoint.is_some() && set.jwks_end_point == expected.endpoint;
            endpoint || self.keys_of(set).any(|(_, key)| expected.keys.iter().any(|ours| alike(key, ours)))
        };
        let issued = |set: &CertificateSet| {
            set.jwt_issuer == expected.issuer
                || lookalike_difference(&set.jwt_issuer, &expected.issuer).is_some()
        };
        let find = |fits: &dyn Fn(&CertificateSet) -> bool| {
            self.sets.iter().find(|(_, found)| fits(&found.component))
        };
        find(&|set| ours(set) && issued(set))
            .or_else(|| find(&ours))
            .or_else(|| self.sets.get_key_value(&expected.name))
            .or_else(|| find(&issued))
    }

    /// The keys that a set names and that are there.
    fn keys_of<'a>(
        &'a self,
        set: &'a CertificateSet,
    ) -> impl Iterator<Item = (&'a String, &'a Found<Certificate>)> {
        set.keys.iter().filter_map(|key| self.keys.get_key_value(&key.public_key_certificate))
    }
}

fn jwk(found: &Found<Certificate>) -> JwkDocument {
    JwkDocument::parse(&found.file, &found.component.json_web_key)
}

fn kid_of(document: &JwkDocument) -> Option<&str> {
    document.keys.first()?.kid()
}

fn numbers_of(document: &JwkDocument) -> Option<crate::keys::Numbers> {
    document.keys.first()?.numbers()
}

fn expected_jwk(key: &ExpectedKey) -> JwkDocument {
    JwkDocument::parse(&key.kid, &key.jwk.to_string())
}

/// Whether both are one key, or called so.
fn alike(found: &Found<Certificate>, ours: &ExpectedKey) -> bool {
    let theirs = jwk(found);
    kid_of(&theirs) == Some(ours.kid.as_str()) || numbers_of(&theirs) == numbers_of(&expected_jwk(ours))
}

/// All that `retrieved` has otherwise than the configuration.
pub fn differences(expected: &[Expected], retrieved: &Retrieved) -> Vec<Difference> {
    expected.iter().flat_map(|set| of_set(set, retrieved)).collect()
}

fn differs(file: &str, field: &'static str, configured: &str, retrieved: &str) -> Option<Difference> {
    (configured != retrieved).then(|| Difference {
        file: file.to_owned(),
        field,
        configured: Some(configured.to_owned()),
        retrieved: Some(retrieved.to_owned()),
        in_what: lookalike_difference(configured, retrieved),
    })
}

fn missing(file: &str, field: &'static str, configured: &str) -> Difference {
    let configured = Some(configured.to_owned());
    Difference { file: file.to_owned(), field, configured, retrieved: None, in_what: None }
}

fn of_set(expected: &Expected, retrieved: &Retrieved) -> Vec<Difference> {
    let Some((name, Found { file, component: set })) = retrieved.set_of(expected) else {
        return vec![missing("", "PublicKeyCertificateSet", &expected.name)];
    };
    let kind = if expected.endpoint.is_some() { SetType::JwksUrl } else { SetType::Jwks };
    let mut found: Vec<Difference> = [
        differs(file, "jwtIssuer", &expected.issuer, &set.jwt_issuer),
        differs(file, "type", kind.as_str(), set.kind.as_str()),
    ]
    .into_iter()
    .flatten()
    .collect();
    match (set.kind, &expected.endpoint) {
        (SetType::Jwks, _) => found.extend(of_keys(expected, file, set, retrieved)),
        (SetType::JwksUrl, Some(endpoint)) => {
            let theirs = set.jwks_end_point.as_deref().unwrap_or_default();
            found.extend(differs(file, "jwksEndPoint", endpoint, theirs));
        }
        (SetType::JwksUrl, None) => {}
    }
    found.extend(of_channels(name, retrieved));
    found
}

fn of_keys(expected: &Expected, file: &str, set: &CertificateSet, retrieved: &Retrieved) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut others: Vec<(&String, &Found<Certificate>)> = retrieved.keys_of(set).collect();
    for key in &expected.keys {
        let exact = |(_, theirs): &(&String, &Found<Certificate>)| kid_of(&jwk(theirs)) == Some(&key.kid);
        let near = |(_, theirs): &(&String, &Found<Certificate>)| alike(theirs, key);
        let Some(at) = others.iter().position(exact).or_else(|| others.iter().position(near)) else {
            found.push(missing(file, "kid", &key.kid));
            continue;
        };
        let (_, theirs) = others.remove(at);
        let document = jwk(theirs);
        found.extend(differs(&theirs.file, "kid", &key.kid, kid_of(&document).unwrap_or_default()));
        if numbers_of(&document) != numbers_of(&expected_jwk(key)) {
            found.push(Difference {
                in_what: Some("another key".to_owned()),
                ..missing(&theirs.file, "jsonWebKey", &key.kid)
            });
        }
        if !theirs.component.is_active {
            found.extend(differs(&theirs.file, "isActive", "true", "false"));
        }
    }
    found.extend(others.into_iter().map(|(_, theirs)| Difference {
        file: theirs.file.clone(),
        field: "kid",
        configured: None,
        retrieved: Some(kid_of(&jwk(theirs)).unwrap_or_default().to_owned()),
        in_what: None,
    }));
    let absent = set.keys.iter().filter(|key| !retrieved.keys.contains_key(&key.public_key_certificate));
    found.extend(absent.map(|key| Difference {
        in_what: Some("the project hasn't that PublicKeyCertificate: retrieve it too".to_owned()),
        retrieved: Some(key.public_key_certificate.clone()),
        configured: None,
        ..missing(file, "publicKeyCertificate", "")
    }));
    found
}

/// Where channels were retrieved, that one of them verifies its users by this set.
fn of_channels(set: &str, retrieved: &Retrieved) -> Vec<Difference> {
    let configs = retrieved
        .channels
        .values()
        .filter_map(|channel| Some((channel.file.as_str(), channel.component.embedded_config.as_ref()?)));
    let mut linked = Vec::new();
    for (file, config) in configs {
        let authorizations = config.messaging_authorizations.iter();
        for authorization in authorizations.filter(|found| found.public_key_certificate_set_name == set) {
            linked.push((file, config.auth_mode == Mode::Auth, authorization.enabled));
        }
    }
    if linked.is_empty() && !retrieved.channels.is_empty() {
        return vec![missing("", "messagingAuthorizations", set)];
    }
    let of_link = |(file, verifies, enabled): (&str, bool, bool)| {
        let mode = if verifies { "Auth" } else { "UnAuth" };
        let enabled = enabled.to_string();
        [differs(file, "authMode", "Auth", mode), differs(file, "enabled", "true", &enabled)]
    };
    linked.into_iter().flat_map(of_link).flatten().collect()
}
