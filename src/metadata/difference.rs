//! Compares a retrieved project with the configuration. Issuers and key ids must match byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::types::{
    AuthMode, CertificateSetType, MessagingChannel, PublicKeyCertificate, PublicKeyCertificateSet,
};
use super::{Component, ExpectedKey, ExpectedKeyset};
use crate::clock::UnixTime;
use crate::doctor::{
    CheckInput, CheckOutcome, ConfigView, GivenArtifacts, JwkDocument, lookalike_difference, run_checks,
};

/// One difference between the retrieved project and the configuration.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MetadataDifference {
    /// Path relative to the project's folder; empty if there is no such file.
    pub(crate) file: String,
    /// The field of the metadata type, a member of the JWK, or the type of a component that isn't there.
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
    /// Reads a project in source format or Metadata API format. Skips hidden folders and `node_modules`.
    ///
    /// # Errors
    /// A file can't be read or parsed; the message names it.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        Self::read_kinds(folder, &["PublicKeyCertificateSet", "PublicKeyCertificate", "messagingChannel"])
    }

    /// Like [`read`](Self::read), without the channels.
    ///
    /// # Errors
    /// A file can't be read or parsed; the message names it.
    pub(crate) fn read_keys(folder: &Path) -> Result<Self, String> {
        Self::read_kinds(folder, &["PublicKeyCertificateSet", "PublicKeyCertificate"])
    }

    fn read_kinds(folder: &Path, kinds: &[&str]) -> Result<Self, String> {
        let mut retrieved = Self::default();
        retrieved.read_folder(folder, folder, kinds)?;
        Ok(retrieved)
    }

    fn read_folder(&mut self, root: &Path, folder: &Path, kinds: &[&str]) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let entries = fs::read_dir(folder).map_err(failed)?;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().map_err(failed)?.is_dir() {
                if !name.starts_with('.') && name != "node_modules" {
                    self.read_folder(root, &path, kinds)?;
                }
                continue;
            }
            let Some((name, kind)) = name.strip_suffix("-meta.xml").unwrap_or(&name).rsplit_once('.') else {
                continue;
            };
            if !kinds.contains(&kind) {
                continue;
            }
            let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let unreadable = |error: super::InvalidMetadata| format!("{}: it {error}", path.display());
            let name = name.to_owned();
            match kind {
                "PublicKeyCertificateSet" => {
                    let component = PublicKeyCertificateSet::from_xml(&text).map_err(unreadable)?;
                    self.sets.insert(name, RetrievedComponent { file, component });
                }
                "PublicKeyCertificate" => {
                    let component = PublicKeyCertificate::from_xml(&text).map_err(unreadable)?;
                    self.keys.insert(name, RetrievedComponent { file, component });
                }
                _ => {
                    let component = MessagingChannel::from_xml(&text).map_err(unreadable)?;
                    self.channels.insert(name, RetrievedComponent { file, component });
                }
            }
        }
        Ok(())
    }

    /// Finds the set that corresponds to `expected`: the first set with a key or the JWKS URL in common and a similar issuer;
    /// otherwise with such a key or URL; with its name, which users choose freely; or with a similar issuer.
    fn find_best_match(
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

    /// Returns the sets that `is_ours` doesn't accept by their API name.
    fn foreign_sets(
        &self,
        is_ours: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = &RetrievedComponent<PublicKeyCertificateSet>> {
        self.sets.iter().filter(move |(name, _)| !is_ours(name)).map(|(_, set)| set)
    }

    /// Returns the active keys that no foreign set refers to.
    fn own_active_keys(
        &self,
        is_ours: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (&String, &RetrievedComponent<PublicKeyCertificate>)> {
        let foreign: BTreeSet<&str> = self
            .foreign_sets(is_ours)
            .flat_map(|set| &set.component.keys)
            .map(|key| key.public_key_certificate.as_str())
            .collect();
        self.keys
            .iter()
            .filter(move |(name, key)| key.component.is_active && !foreign.contains(name.as_str()))
    }

    /// Returns the names of the keys that the project's sets of the names in `sets` refer to.
    pub(crate) fn uploaded_keys(&self, sets: &[ExpectedKeyset]) -> BTreeSet<String> {
        let ours = self.sets.iter().filter(|(name, _)| sets.iter().any(|set| set.name == **name));
        ours.flat_map(|(_, set)| &set.component.keys).map(|key| key.public_key_certificate.clone()).collect()
    }

    /// Returns the active keys of `earlier` that `sets` don't upload any more, rewritten as inactive. Other keys stay, and so do
    /// keys that another set of the project refers to, because several configurations may write to one project.
    pub(crate) fn deactivate_stale_keys(
        self,
        sets: &[ExpectedKeyset],
        earlier: &BTreeSet<String>,
    ) -> Vec<Component> {
        let uploaded = || sets.iter().filter(|set| set.endpoint.is_none()).flat_map(|set| &set.keys);
        let is_stale = |name: &str| earlier.contains(name) && !uploaded().any(|key| key.name == name);
        let stale: BTreeSet<String> = self
            .own_active_keys(|name| sets.iter().any(|set| set.name == name))
            .filter(|(name, key)| key.component.is_own() && is_stale(name))
            .map(|(name, _)| name.clone())
            .collect();
        let keys = self.keys.into_iter().filter(|(name, _)| stale.contains(name));
        keys.map(|(_, RetrievedComponent { file, component })| Component {
            path: file.into(),
            text: component.deactivated().to_xml(),
            only_if_absent: false,
        })
        .collect()
    }

    /// Returns the files of sets that an earlier run wrote and that `sets` don't have.
    pub(crate) fn stale_sets(&self, sets: &[ExpectedKeyset]) -> Vec<&str> {
        let foreign = self.foreign_sets(|name| sets.iter().any(|set| set.name == name));
        foreign.filter(|set| set.component.is_own()).map(|set| set.file.as_str()).collect()
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

/// Lists the differences between the expected keysets and the sets of `retrieved` that correspond to them, with the faults
/// of their JWKs at `now`. Also lists active keys that are in no set and not in the configuration. Ignores other sets.
pub(crate) fn differences(
    expected: &[ExpectedKeyset],
    retrieved: &RetrievedProject,
    now: UnixTime,
) -> Vec<MetadataDifference> {
    let mut found: Vec<MetadataDifference> =
        expected.iter().flat_map(|set| compare_set(set, retrieved, now)).collect();
    found.extend(unpublished_keys(expected, retrieved));
    found
}

/// Lists the active keys that are in no set of the project and that the configuration doesn't publish. A deployment of the
/// project leaves them active.
fn unpublished_keys(expected: &[ExpectedKeyset], retrieved: &RetrievedProject) -> Vec<MetadataDifference> {
    let in_a_set: BTreeSet<&str> = retrieved
        .foreign_sets(|_| false)
        .flat_map(|set| &set.component.keys)
        .map(|key| key.public_key_certificate.as_str())
        .collect();
    let is_published = |key: &RetrievedComponent<PublicKeyCertificate>| {
        expected.iter().flat_map(|set| &set.keys).any(|expected_key| is_same_key(key, expected_key))
    };
    retrieved
        .keys
        .iter()
        .filter(|(name, key)| key.component.is_active && !in_a_set.contains(name.as_str()))
        .filter(|(_, key)| !is_published(key))
        .map(|(_, key)| unpublished_key(key))
        .collect()
}

fn unpublished_key(key: &RetrievedComponent<PublicKeyCertificate>) -> MetadataDifference {
    MetadataDifference {
        file: key.file.clone(),
        field: "kid",
        configured: None,
        retrieved: Some(kid_of(&retrieved_jwk(key)).unwrap_or_default().to_owned()),
        in_what: None,
    }
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

fn compare_set(
    expected: &ExpectedKeyset,
    retrieved: &RetrievedProject,
    now: UnixTime,
) -> Vec<MetadataDifference> {
    let Some((name, RetrievedComponent { file, component: set })) = retrieved.find_best_match(expected)
    else {
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
        (CertificateSetType::Jwks, _) => found.extend(compare_keys(expected, file, set, retrieved, now)),
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
    now: UnixTime,
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
        found.extend(compare_jwk(key, &theirs.file, document, now));
        if !theirs.component.is_active {
            found.extend(differs(&theirs.file, "isActive", "true", "false"));
        }
    }
    found.extend(others.into_iter().map(|(_, theirs)| unpublished_key(theirs)));
    let absent = set.keys.iter().filter(|key| !retrieved.keys.contains_key(&key.public_key_certificate));
    found.extend(absent.map(|key| MetadataDifference {
        in_what: Some("the project hasn't that PublicKeyCertificate: retrieve it too".to_owned()),
        retrieved: Some(key.public_key_certificate.clone()),
        configured: None,
        ..missing(file, "publicKeyCertificate", "")
    }));
    found
}

/// Compares `kty`, `use`, `alg` and the public key of a JWK. Lists the failures of the doctor's checks too, unless they follow
/// from a difference listed before.
fn compare_jwk(
    expected: &ExpectedKey,
    file: &str,
    document: JwkDocument,
    now: UnixTime,
) -> Vec<MetadataDifference> {
    let ours = expected_jwk(expected);
    let member = |document: &JwkDocument, name: &str| {
        document.keys.first().and_then(|jwk| jwk.text(name)).unwrap_or_default().to_owned()
    };
    let differs_in = |name: &'static str| differs(file, name, &member(&ours, name), &member(&document, name));
    let mut found: Vec<MetadataDifference> =
        ["kty", "use", "alg"].into_iter().filter_map(differs_in).collect();
    let fault = |in_what: String| MetadataDifference {
        in_what: Some(in_what),
        ..missing(file, "jsonWebKey", &expected.kid)
    };
    let is_another_key = numbers_of(&document) != numbers_of(&ours);
    if is_another_key {
        found.push(fault("another key".to_owned()));
    }
    let given = GivenArtifacts { jwks: vec![document], ..GivenArtifacts::default() };
    let input = CheckInput { now, configured: ConfigView::default(), given, probe_results: None };
    let has_reported_cause = |check: &str| {
        // If only `n` is another key's, the certificate beside it doesn't match: that isn't a second fault.
        check == "key-pair" && is_another_key
            || check == "jwk-members" && found.iter().any(|reported| reported.field != "jsonWebKey")
    };
    let faults: Vec<MetadataDifference> = run_checks(&input)
        .findings
        .into_iter()
        .filter(|finding| finding.outcome == CheckOutcome::Fail && !has_reported_cause(finding.check))
        .map(|finding| fault(finding.seen))
        .collect();
    found.extend(faults);
    found
}

/// Checks that a channel is linked to this set, that each such link is enabled, and that its channel verifies users. If the
/// project contains no channel, there is nothing to check.
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
