//! The simulated Salesforce org: its connected apps, deployments and keysets. Also the sandbox's settings: limits, and
//! behaviour where sources about Salesforce disagree.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A Salesforce org: the parts that matter for tokens.
#[derive(Clone, Debug, Default)]
pub struct Org {
    /// 15 or 18 characters.
    pub org_id: String,
    /// For example `https://acme.my.salesforce.com`. Assertions may have it as audience.
    pub my_domain: Option<String>,
    pub apps: Vec<ConnectedApp>,
    pub deployments: Vec<Deployment>,
}

/// A connected app or External Client App with the JWT bearer flow enabled.
#[derive(Clone, Debug, Default)]
pub struct ConnectedApp {
    pub consumer_key: String,
    /// X.509 certificates in DER. Any of them may verify. Salesforce has one; several simplify tests that rotate keys.
    pub certificates: Vec<Vec<u8>>,
    /// Pre-authorized user names.
    pub users: Vec<String>,
    /// Existing users whose profile or permission set isn't assigned to the app.
    pub unassigned: Vec<String>,
    /// The accepted audiences besides the sandbox's own URL and token endpoint. Empty means login, test and the My Domain.
    pub audiences: Vec<String>,
    /// Separated by spaces. Empty means `api refresh_token offline_access`.
    pub scopes: String,
    /// Whether this is an External Client App. Since Spring '26, login and test don't find those.
    pub external: bool,
}

impl ConnectedApp {
    pub(super) fn scopes(&self) -> &str {
        if self.scopes.is_empty() { "api refresh_token offline_access" } else { &self.scopes }
    }
}

/// An embedded service deployment for custom clients, with its keyset and its user verification.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub es_developer_name: String,
    /// *JSON Web Key Issuer* of the keyset, compared byte for byte.
    pub issuer: String,
    pub keys: KeySource,
    /// Name of the *User Verification Configuration*, a part of the subject of a verified user.
    pub configuration_name: String,
    pub on_failure: OnFailure,
    /// Whether that configuration is active.
    pub is_verification_active: bool,
}

impl Deployment {
    /// A deployment with an active configuration `Web_Verification`. A failed verification yields an anonymous session.
    pub fn new(es_developer_name: impl Into<String>, issuer: impl Into<String>, keys: KeySource) -> Self {
        Self {
            es_developer_name: es_developer_name.into(),
            issuer: issuer.into(),
            keys,
            configuration_name: "Web_Verification".to_owned(),
            on_failure: OnFailure::Anonymous,
            is_verification_active: true,
        }
    }
}

/// The source of the keys of a keyset.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// An endpoint that serves a JWK Set.
    Url(String),
    /// Keys uploaded in Setup, as a JWK Set. A key without `x5c` never verifies a token.
    Uploaded(Value),
}

/// The response to a failed verification. All three were seen in live orgs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// 200 with `v2/iamessage/ANON/<id>`.
    #[default]
    Anonymous,
    /// 200 with `v2/iamessage/UNAUTH/NA/uid:<uuid>`.
    Unauthenticated,
    /// 401 with a message. Salesforce's status is undocumented.
    Refuse,
}

/// The limits of the sandbox, and its behaviour where sources disagree.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one open question about Salesforce")]
pub struct Settings {
    /// The URL of the sandbox without a trailing slash. `None` means `http://` and the `Host` of the request.
    pub url: Option<String>,
    /// `instance_url` of OAuth responses. `None` means the URL of the sandbox.
    pub instance_url: Option<String>,
    /// Refuse an `exp` more than five minutes ahead. Off by default: Salesforce accepts the milliseconds of its own command line.
    pub strict_exp: bool,
    /// Add `expires_in` to OAuth responses. The JWT bearer flow usually lacks it.
    pub expires_in: bool,
    /// Make OAuth access tokens JWTs with an `exp`.
    pub jwt_access_tokens: bool,
    /// Refuse messaging requests without `context`. The unauthenticated endpoint was seen to do so.
    pub require_context: bool,
    /// The limit of logins per user and hour.
    pub logins_per_hour: usize,
    /// The number of failed logins in an hour that blocks all logins for an hour. `None` means never.
    pub failures_until_block: Option<usize>,
    /// The limit of messaging access-token requests of the org in a minute.
    pub messaging_per_minute: usize,
    /// The lifetime of an OAuth session after its last use. The session of a JWT isn't extended by use.
    #[serde(with = "seconds")]
    pub session_life: Duration,
    /// *Authorization Token Expiration Time for Verified Users*.
    #[serde(with = "seconds")]
    pub messaging_life: Duration,
    /// How long a fetched JWK Set is cached. Salesforce's interval is undocumented. Zero fetches for every exchange.
    #[serde(with = "seconds")]
    pub jwks_cache: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: None,
            instance_url: None,
            strict_exp: false,
            expires_in: false,
            jwt_access_tokens: false,
            require_context: false,
            logins_per_hour: 3600,
            failures_until_block: None,
            messaging_per_minute: 200,
            session_life: Duration::from_hours(2),
            messaging_life: Duration::from_hours(1),
            jwks_cache: Duration::ZERO,
        }
    }
}

/// Serializes durations as whole seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

/// The 18-character form of a 15-character id; other texts stay unchanged. The last three characters encode which of the others
/// are capitals.
pub(super) fn id_18(id: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
    if id.len() != 15 {
        return id.to_owned();
    }
    let suffix = id.as_bytes().chunks(5).map(|chunk| {
        let capitals = chunk.iter().enumerate().filter(|(_, byte)| byte.is_ascii_uppercase());
        char::from(ALPHABET[capitals.fold(0, |bits, (at, _)| bits | 1 << at)])
    });
    id.chars().chain(suffix).collect()
}

/// The first 15 characters of an id, which identify the record.
pub(super) fn id_15(id: &str) -> &str {
    id.get(..15).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_of_an_id_of_18_characters_encodes_its_capitals() {
        assert_eq!(id_18("00D000000000001"), "00D000000000001EAA");
        assert_eq!(id_18("001A000000abcde"), "001A000000abcdeIAA");
        assert_eq!(id_15("00D000000000001EAA"), "00D000000000001");
    }
}
