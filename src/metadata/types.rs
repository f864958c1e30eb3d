//! The metadata types as XML. Elements of a retrieved file that these types don't have are ignored.

use quick_xml::events::Event;
use quick_xml::se::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::API_VERSION;

pub(crate) const NAMESPACE: &str = "http://soap.sforce.com/2006/04/metadata";
/// The description of the sets and keys that tokenmint writes. It tells them from others in the same project.
pub(super) const DESCRIPTION: &str = "Made by tokenmint from its configuration";

#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidMetadata {
    #[error("isn't the metadata that its name says: {0}")]
    Xml(#[from] quick_xml::DeError),
    #[error("has the root element `{found}`, and its name says {expected}")]
    RootElement { found: String, expected: &'static str },
    #[error("has more than one root element")]
    SecondRoot,
}

/// Checks that the root element has the name `expected`, and that no second one follows. The deserializer checks neither.
fn check_root(text: &str, expected: &'static str) -> Result<(), InvalidMetadata> {
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut depth, mut roots) = (0_usize, 0_usize);
    loop {
        let (start, opens) = match reader.read_event().map_err(quick_xml::DeError::from)? {
            Event::Start(start) => (start, 1),
            Event::Empty(start) => (start, 0),
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                continue;
            }
            Event::Eof => return Ok(()),
            _ => continue,
        };
        if depth == 0 {
            roots += 1;
            let found = start.local_name();
            if found.as_ref() != expected {
                let found = crate::doctor::escape_and_truncate(found.as_ref());
                return Err(InvalidMetadata::RootElement { found, expected });
            }
            if roots > 1 {
                return Err(InvalidMetadata::SecondRoot);
            }
        }
        depth += opens;
    }
}

/// A keyset in Salesforce Setup.
#[derive(Serialize, Deserialize)]
#[serde(rename = "PublicKeyCertificateSet", rename_all = "camelCase")]
pub(super) struct PublicKeyCertificateSet {
    #[serde(rename = "@xmlns", default)]
    pub(crate) xmlns: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) jwks_end_point: Option<String>,
    #[serde(default)]
    pub(crate) jwt_issuer: String,
    #[serde(default)]
    pub(crate) master_label: String,
    #[serde(rename = "publicKeyCertificateSetKeys", skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) keys: Vec<SetKeyReference>,
    #[serde(rename = "type")]
    pub(crate) kind: CertificateSetType,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SetKeyReference {
    pub(crate) public_key_certificate: String,
}

/// Source of a set's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum CertificateSetType {
    /// Uploaded keys. The spelling `Jwks` is read too.
    #[serde(rename = "JWKS", alias = "Jwks")]
    Jwks,
    #[serde(rename = "JWKS_URL")]
    JwksUrl,
}

impl PublicKeyCertificateSet {
    /// Whether tokenmint wrote it.
    pub(crate) fn is_own(&self) -> bool {
        self.description.as_deref() == Some(DESCRIPTION)
    }
}

impl CertificateSetType {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Jwks => "JWKS",
            Self::JwksUrl => "JWKS_URL",
        }
    }
}

/// An uploaded key in Salesforce Setup.
#[derive(Serialize, Deserialize)]
#[serde(rename = "PublicKeyCertificate", rename_all = "camelCase")]
pub(super) struct PublicKeyCertificate {
    #[serde(rename = "@xmlns", default)]
    xmlns: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    description: Option<String>,
    /// A key without this element is inactive.
    #[serde(default)]
    pub(crate) is_active: bool,
    /// A JWK as JSON.
    #[serde(default)]
    pub(crate) json_web_key: String,
    #[serde(default)]
    master_label: String,
}

impl PublicKeyCertificate {
    pub(crate) fn new(kid: &str, jwk: &Value) -> Self {
        Self {
            xmlns: NAMESPACE.to_owned(),
            description: Some(DESCRIPTION.to_owned()),
            is_active: true,
            json_web_key: format!("{jwk:#}"),
            master_label: kid.chars().take(80).collect(),
        }
    }

    /// Whether tokenmint wrote it.
    pub(crate) fn is_own(&self) -> bool {
        self.description.as_deref() == Some(DESCRIPTION)
    }

    pub(crate) fn deactivated(self) -> Self {
        Self { is_active: false, ..self }
    }
}

/// A messaging channel, reduced to its user verification.
#[derive(Serialize, Deserialize)]
#[serde(rename = "MessagingChannel", rename_all = "camelCase")]
pub(super) struct MessagingChannel {
    #[serde(rename = "@xmlns", default)]
    pub(crate) xmlns: String,
    pub(crate) embedded_config: Option<EmbeddedConfig>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EmbeddedConfig {
    pub(crate) auth_mode: AuthMode,
    #[serde(default)]
    pub(crate) messaging_authorizations: Vec<MessagingAuthorization>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AuthMode {
    Auth,
    UnAuth,
}

/// A User Verification configuration of a channel.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessagingAuthorization {
    /// The name of the configuration, which is part of the subject of each verified conversation.
    #[serde(default)]
    pub(crate) auth_identifier: String,
    pub(crate) authorization_type: AuthorizationType,
    /// A configuration without this element is disabled.
    #[serde(default)]
    pub(crate) enabled: bool,
    #[serde(default)]
    pub(crate) public_key_certificate_set_name: String,
}

#[derive(Serialize, Deserialize)]
pub(super) enum AuthorizationType {
    PublicKeyCertificateSet,
    AuthProvider,
}

macro_rules! impl_xml {
    ($($kind:ident),*) => {
        $(impl $kind {
            pub(crate) fn to_xml(&self) -> String {
                to_xml(self)
            }

            /// Parses the XML.
            ///
            /// # Errors
            /// The XML is malformed, has another root element or a second one, or a required element is missing or has an
            /// unknown value.
            pub(crate) fn from_xml(text: &str) -> Result<Self, InvalidMetadata> {
                check_root(text, stringify!($kind))?;
                Ok(quick_xml::de::from_str(text)?)
            }
        })*
    };
}
impl_xml!(PublicKeyCertificateSet, PublicKeyCertificate, MessagingChannel);

/// Serializes to XML with an indentation of four spaces, like an org does.
fn to_xml(value: &impl Serialize) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let mut serializer = Serializer::new(&mut text);
    serializer.indent(' ', 4);
    value.serialize(serializer).expect("names are constants and values text");
    text.push('\n');
    text
}

#[derive(Serialize)]
struct Package {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    types: [PackageTypes; 2],
    version: &'static str,
}

#[derive(Serialize)]
struct PackageTypes {
    members: &'static str,
    name: &'static str,
}

/// Builds `package.xml`, which selects all components of `PublicKeyCertificate` and `PublicKeyCertificateSet`.
pub(super) fn manifest() -> String {
    let all = |name| PackageTypes { members: "*", name };
    to_xml(&Package {
        xmlns: NAMESPACE,
        types: [all("PublicKeyCertificate"), all("PublicKeyCertificateSet")],
        version: API_VERSION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For example, a trailing slash or a space must not get lost.
    #[test]
    fn an_issuer_is_written_and_read_byte_for_byte() {
        for issuer in ["https://acme.example/", " acme ", "a&b <c> \"d\" 'e'", "Ümlaut"] {
            let set = PublicKeyCertificateSet {
                xmlns: NAMESPACE.to_owned(),
                description: None,
                jwks_end_point: None,
                jwt_issuer: issuer.to_owned(),
                master_label: "web".to_owned(),
                keys: Vec::new(),
                kind: CertificateSetType::Jwks,
            };
            assert_eq!(PublicKeyCertificateSet::from_xml(&set.to_xml()).expect("our own").jwt_issuer, issuer);
        }
    }
}
