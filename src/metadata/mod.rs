//! The keysets as Salesforce metadata: what `sf project deploy start` takes, and what a retrieved project has.
//!
//! Knows the types `PublicKeyCertificateSet`, `PublicKeyCertificate` and, of `MessagingChannel`, the link
//! to the keyset (Metadata API Developer Guide, version 62.0 and later).
//!
//! - A component's members stand in the order of the alphabet, as in what an org gives.
//! - Nothing private is in it: a key is its JWK.
//! - Names are API names; issuer and key id keep their bytes.

mod difference;
mod types;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

pub use difference::{Difference, Retrieved, differences};
use types::{
    AuthorizationType, Certificate, CertificateSet, Channel, EmbeddedConfig, MessagingAuthorization, Mode,
    SetKey, SetType,
};
pub use types::{NAMESPACE, Unreadable};

use crate::clock::UnixTime;
use crate::config::{Config, ProfileKind};
use crate::jwks;
use crate::keys::{KeyRing, Keyset};

/// The first that knows these types.
pub const API_VERSION: &str = "62.0";
/// Where a project has its components, as `sf project generate` makes it.
const SOURCE: &str = "force-app/main/default";

/// A keyset as it should be in the org.
pub struct Expected {
    /// API name of the `PublicKeyCertificateSet`.
    pub name: String,
    /// Byte for byte.
    pub issuer: String,
    /// The address of its JWKS; `None`: its keys are uploaded.
    pub endpoint: Option<String>,
    pub keys: Vec<ExpectedKey>,
}

pub struct ExpectedKey {
    /// API name of the `PublicKeyCertificate`.
    pub name: String,
    pub kid: String,
    pub jwk: Value,
}

/// A file of the project, below its folder.
pub struct Component {
    pub path: PathBuf,
    pub text: String,
    /// Made for a project that is new; one that is there stays.
    pub once: bool,
}

/// What the org should have: a set for each keyset that signs identity tokens, and for each of its issuers.
/// `public_url` is where Salesforce asks for their JWKS.
///
/// # Errors
/// Two of them would have the same API name.
pub fn expected(
    config: &Config,
    ring: &KeyRing,
    public_url: Option<&str>,
    now: UnixTime,
) -> Result<Vec<Expected>, String> {
    let mut sets: Vec<Expected> = Vec::new();
    let mut names = Names::default();
    for keyset in ring.keysets.values() {
        let profiles = keyset.used_by.iter().filter(|user| user.kind == ProfileKind::Identity);
        let mut issuers: BTreeMap<&str, &str> = BTreeMap::new();
        for profile in profiles.filter_map(|user| config.identity.get(&user.name)) {
            issuers.entry(profile.issuer.as_str()).or_insert(profile.name.as_str());
        }
        for key in keyset.published(now).filter(|_| !issuers.is_empty()) {
            names.take(&api_name(key.kid.as_str()), &format!("the key `{}`", key.kid))?;
        }
        for (&issuer, profile) in &issuers {
            let name = match issuers.len() {
                1 => api_name(keyset.name.as_str()),
                _ => api_name(&format!("{}_{profile}", keyset.name)),
            };
            names.take(&format!("set {name}"), &format!("the keyset `{}`", keyset.name))?;
            let endpoint = public_url
                .map(|url| format!("{}/keysets/{}/jwks.json", url.trim_end_matches('/'), keyset.name));
            sets.push(Expected { name, issuer: issuer.to_owned(), endpoint, keys: keys(keyset, now) });
        }
    }
    Ok(sets)
}

/// What is called how, so that nothing is called like something else.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn take(&mut self, name: &str, what: &str) -> Result<(), String> {
        // Salesforce doesn't tell names apart by case.
        match self.0.insert(name.to_lowercase(), what.to_owned()) {
            Some(other) => {
                let name = name.trim_start_matches("set ");
                Err(format!("{other} and {what} would both be called {name} in Salesforce: rename one"))
            }
            None => Ok(()),
        }
    }
}

fn keys(keyset: &Keyset, now: UnixTime) -> Vec<ExpectedKey> {
    let key = |key: &crate::keys::Key| ExpectedKey {
        name: api_name(key.kid.as_str()),
        kid: key.kid.to_string(),
        jwk: serde_json::to_value(jwks::jwk(keyset, key, now)).expect("strings can be written to memory"),
    };
    keyset.published(now).map(key).collect()
}

/// An API name: letters, digits and single underscores, a letter first and no underscore last, 80 at most.
fn api_name(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut name = words.collect::<Vec<_>>().join("_");
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        name.insert_str(0, "Key_");
    }
    name.truncate(80);
    name.trim_end_matches('_').to_owned()
}

/// The project: components to deploy, and beside them what goes into each channel. `configuration` is the name of
/// the User Verification configuration; each set has one of its own otherwise.
pub fn project(sets: &[Expected], configuration: Option<&str>) -> Vec<Component> {
    let mut files = vec![Component { path: "sfdx-project.json".into(), text: sfdx_project(), once: true }];
    files.push(Component { path: "manifest/package.xml".into(), text: types::manifest(), once: true });
    for set in sets {
        let uploaded = set.endpoint.is_none();
        let keys: &[ExpectedKey] = if uploaded { &set.keys } else { &[] };
        for key in keys {
            let component = Certificate::new(&key.kid, &key.jwk).to_xml();
            files.push(Component::new("PublicKeyCertificate", &key.name, component));
        }
        let component = CertificateSet {
            xmlns: NAMESPACE.to_owned(),
            description: Some("Made by tokenmint from its configuration".to_owned()),
            jwks_end_point: set.endpoint.clone(),
            jwt_issuer: set.issuer.clone(),
            master_label: set.name.clone(),
            keys: keys.iter().map(|key| SetKey { public_key_certificate: key.name.clone() }).collect(),
            kind: if uploaded { SetType::Jwks } else { SetType::JwksUrl },
        };
        files.push(Component::new("PublicKeyCertificateSet", &set.name, component.to_xml()));
        let authorization = MessagingAuthorization {
            auth_identifier: configuration
                .map_or_else(|| format!("{}_Verification", set.name), str::to_owned),
            authorization_type: AuthorizationType::PublicKeyCertificateSet,
            enabled: true,
            public_key_certificate_set_name: set.name.clone(),
        };
        let channel = Channel {
            xmlns: NAMESPACE.to_owned(),
            embedded_config: Some(EmbeddedConfig {
                auth_mode: Mode::Auth,
                messaging_authorizations: vec![authorization],
            }),
        };
        let path = format!("fragments/{}.messagingChannel.xml", set.name).into();
        files.push(Component { path, text: channel.to_xml(), once: false });
    }
    // Two issuers of one keyset upload its keys once.
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup_by(|one, other| one.path == other.path);
    files
}

impl Component {
    fn new(kind: &str, name: &str, text: String) -> Self {
        // Folder and suffix are spelt like the type; in other letters the `sf` command infers none.
        let path = format!("{SOURCE}/{kind}/{name}.{kind}-meta.xml").into();
        Self { path, text, once: false }
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
    fn an_api_name_is_one_whatever_it_is_made_from() {
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
