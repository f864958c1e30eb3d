//! The org that is played: plain data, built by the caller or from a configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A Salesforce org, as far as tokens see it.
#[derive(Clone, Debug, Default)]
pub struct Org {
    /// 15 or 18 characters.
    pub org_id: String,
    /// `https://acme.my.salesforce.com`; one more audience that assertions may name.
    pub my_domain: Option<String>,
    pub apps: Vec<ConnectedApp>,
    pub deployments: Vec<Deployment>,
}

/// A connected app or External Client App with the JWT bearer flow on.
#[derive(Clone, Debug, Default)]
pub struct ConnectedApp {
    pub consumer_key: String,
    /// X.509, DER; any of them may verify. Salesforce has one; several make rotation easy to play.
    pub certificates: Vec<Vec<u8>>,
    /// User names that are pre-authorized.
    pub users: Vec<String>,
    /// Users that exist, but whose profile or permission set the app doesn't have.
    pub unassigned: Vec<String>,
    /// What `aud` may be, besides the sandbox's own URL; empty: login, test and the My Domain.
    pub audiences: Vec<String>,
    /// Separated by spaces; empty: `api refresh_token offline_access`.
    pub scopes: String,
    /// An External Client App, which since Spring '26 isn't found through login or test.
    pub external: bool,
}

impl ConnectedApp {
    pub(super) fn scopes(&self) -> &str {
        if self.scopes.is_empty() { "api refresh_token offline_access" } else { &self.scopes }
    }
}

/// An embedded service deployment for custom clients, with its channel and user verification.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub es_developer_name: String,
    /// *JSON Web Key Issuer* of the keyset; compared byte for byte.
    pub issuer: String,
    pub keys: KeySource,
    /// Of the *User Verification Configuration*; part of the subject of a verified user.
    pub configuration_name: String,
    pub on_failure: OnFailure,
    /// Whether that configuration is active.
    pub verification: bool,
}

impl Deployment {
    /// With an active configuration `Web_Verification`, and guests where verification fails.
    pub fn new(es_developer_name: impl Into<String>, issuer: impl Into<String>, keys: KeySource) -> Self {
        Self {
            es_developer_name: es_developer_name.into(),
            issuer: issuer.into(),
            keys,
            configuration_name: "Web_Verification".to_owned(),
            on_failure: OnFailure::Anonymous,
            verification: true,
        }
    }
}

/// Where a keyset has its keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// An endpoint that serves a JWK Set.
    Url(String),
    /// Keys uploaded in Setup, as a JWK Set. One without `x5c` is taken, and then verifies nobody.
    Uploaded(Value),
}

/// What a failed verification looks like. People have seen all three in live orgs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// 200 with `v2/iamessage/ANON/<id>`.
    #[default]
    Anonymous,
    /// 200 with `v2/iamessage/UNAUTH/NA/uid:<uuid>`.
    Unauthenticated,
    /// 401 with a message. Which status Salesforce uses is documented nowhere.
    Refuse,
}

/// How strict it is, where sources disagree, and its limits.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one open question about Salesforce")]
pub struct Settings {
    /// Where it is reached, without a slash at the end; `None`: what the request's `Host` says.
    pub url: Option<String>,
    /// What its OAuth answers give as `instance_url`; `None`: its own URL.
    pub instance_url: Option<String>,
    /// Refuse an `exp` more than five minutes ahead. Salesforce's own command line sends milliseconds and is let in.
    pub strict_exp: bool,
    /// Add `expires_in` to OAuth answers, which the JWT bearer flow usually lacks.
    pub expires_in: bool,
    /// Make OAuth access tokens JWTs with an `exp`.
    pub jwt_access_tokens: bool,
    /// Refuse messaging requests without `context`, as the unauthenticated endpoint was seen to do.
    pub require_context: bool,
    /// Logins per user and hour.
    pub logins_per_hour: usize,
    /// Failed logins in an hour after which every login is refused for an hour; `None`: never.
    pub failures_until_block: Option<usize>,
    /// Messaging access-token requests of the whole org.
    pub messaging_per_minute: usize,
    /// How long an OAuth session lives after its last use.
    #[serde(with = "seconds")]
    pub session_life: Duration,
    /// *Authorization Token Expiration Time for Verified Users*.
    #[serde(with = "seconds")]
    pub messaging_life: Duration,
    /// How long a fetched JWK Set is kept. Salesforce's interval is documented nowhere; zero shows every exchange.
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

/// Durations as numbers of seconds.
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

/// The 18 characters of an org id of 15: three more, which say which of the others are capitals.
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

/// The part of an id that tells records apart.
pub(super) fn id_15(id: &str) -> &str {
    id.get(..15).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_18_characters_says_which_are_capitals() {
        assert_eq!(id_18("00D000000000001"), "00D000000000001EAA");
        assert_eq!(id_18("001A000000abcde"), "001A000000abcdeIAA");
        assert_eq!(id_15("00D000000000001EAA"), "00D000000000001");
    }
}
