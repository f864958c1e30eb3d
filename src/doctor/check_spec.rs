//! The type of a catalogue entry, and the reasons why a check had no input.

use serde::Serialize;

use super::finding::Observations;
use super::input::{CheckInput, Purpose};
use super::probe::ProbeResult;
use crate::config::Hs256Kind;

/// One check: its texts, and the function that runs it.
#[derive(Clone, Copy, Serialize)]
pub struct CheckSpec {
    /// Stable id, for programs.
    pub id: &'static str,
    /// The condition that the check verifies.
    pub(crate) title: &'static str,
    /// How users notice the fault.
    #[serde(rename = "sees")]
    pub symptom: &'static str,
    /// The question that the check answers: from Salesforce's troubleshooting page, from reports, or our own.
    #[serde(rename = "answers")]
    pub question: &'static str,
    /// How to fix the fault.
    pub fix: &'static str,
    pub source: EvidenceSource,
    /// Whether the check needs a probe (`--online`) or a served JWKS (`--jwks`).
    pub online: bool,
    /// The input that the check needs.
    #[serde(skip)]
    pub(crate) requires: Requirement,
    #[serde(skip)]
    pub(crate) run: fn(&CheckInput<'_>) -> Observations,
}

/// The evidence for a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceSource {
    /// Salesforce's or Intercom's documentation.
    Doc,
    /// Reports of users who met the fault.
    Field,
    /// A standard.
    Rfc,
    /// tokenmint's own rule.
    Own,
}

/// The input that a check needs. It tells the report what was missing if the check observed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    Configuration,
    /// Keysets with their keys.
    Keysets,
    Messaging,
    OauthProfile,
    PublicUrl,
    PrivateKey,
    Key,
    Certificate,
    /// Two files or JWKs whose keys can be compared, or one of them and a configured key.
    Pair,
    /// Keysets for both identity tokens and assertions.
    TwoKinds,
    Jwk,
    /// A JWK for an upload form.
    UploadedJwk,
    /// A JWK with `n` or `e`.
    Numbers,
    /// A JWK with a certificate.
    X5c,
    /// A JWK without the private key.
    PublicJwk,
    Thumbprint,
    JwkSet,
    Token,
    Expiry,
    IdentityToken,
    Assertion,
    SalesforceToken,
    Hs256Token(Hs256Kind),
    /// A JWT of another issuer.
    IncomingToken,
    /// Issuers of incoming JWTs.
    Issuers,
    /// Keysets with `sealed_by`.
    SealedKeysets,
    /// Keysets with `signed_by`.
    RemoteKeysets,
    /// Keysets with `sealed_by` or `signed_by`.
    Stores,
    FetchedJwks,
    OwnJwks,
    ProbeResult,
}

impl Requirement {
    /// Why a check with this requirement had no input.
    pub(crate) fn missing_reason(self, input: &CheckInput<'_>) -> &'static str {
        match self {
            Self::FetchedJwks | Self::OwnJwks | Self::ProbeResult => self.no_probe_reason(input),
            Self::Configuration
            | Self::Keysets
            | Self::Messaging
            | Self::OauthProfile
            | Self::PublicUrl
            | Self::Issuers
            | Self::SealedKeysets
            | Self::RemoteKeysets
            | Self::Stores
            | Self::TwoKinds => self.no_configuration_reason(input),
            Self::PrivateKey => "no file with a private key was given",
            Self::Key => "no key is there",
            Self::Certificate => "no certificate is there",
            Self::Pair => "no two halves of a key are there to compare",
            Self::Jwk
            | Self::UploadedJwk
            | Self::Numbers
            | Self::X5c
            | Self::PublicJwk
            | Self::Thumbprint
            | Self::JwkSet => self.no_jwk_reason(input),
            Self::Token
            | Self::Expiry
            | Self::IdentityToken
            | Self::Assertion
            | Self::SalesforceToken
            | Self::Hs256Token(_)
            | Self::IncomingToken => self.no_token_reason(input),
        }
    }

    fn no_probe_reason(self, input: &CheckInput<'_>) -> &'static str {
        let own = input.probe_results.iter().flatten().any(|answer| matches!(answer, ProbeResult::Jwks(_)));
        match self {
            Self::FetchedJwks if input.fetched().next().is_some() => "what the address shows is no JWK Set",
            Self::OwnJwks if own => "what the address shows is no JWK Set",
            _ if input.probe_results.is_none() => "nothing was asked; --online asks",
            Self::ProbeResult => "no profile of that kind was there to ask Salesforce about",
            _ => {
                "no JWKS of the configuration was asked for: `url` of [server.public] isn't set, or no [identity.NAME] is"
            }
        }
    }

    const fn no_configuration_reason(self, input: &CheckInput<'_>) -> &'static str {
        match self {
            _ if input.configured.config.is_none() => "there is no configuration that loads",
            Self::Messaging => "no [identity.NAME.messaging] is configured",
            Self::Issuers => "no [issuers.NAME] is configured",
            Self::SealedKeysets => "no [keysets.NAME] has `sealed_by`",
            Self::RemoteKeysets => "no [keysets.NAME] has `signed_by`",
            Self::Stores => "no [keysets.NAME] has `sealed_by` or `signed_by`",
            Self::OauthProfile => "no [oauth.NAME] is configured",
            Self::PublicUrl => "`url` of [server.public] isn't set, or no [identity.NAME] is",
            Self::TwoKinds => "no keys are configured for both identity tokens and assertions",
            _ => "the keysets don't load",
        }
    }

    fn no_jwk_reason(self, input: &CheckInput<'_>) -> &'static str {
        match self {
            _ if input.jwk_documents().next().is_none() => "no JWK was given",
            Self::JwkSet => "no set of several keys was given",
            _ if input.jwks().next().is_none() => "what was given as a JWK isn't JSON, or holds no JWK",
            Self::UploadedJwk => "each JWK was given as one of a served set",
            Self::Numbers => "the JWK has no `n` and no `e`",
            Self::X5c => "the JWK has no certificate (`x5c`)",
            Self::PublicJwk => "the JWK holds the private key",
            Self::Thumbprint => "the JWK has no thumbprint (`x5t`, `x5t#S256`)",
            _ => "no JWK was given",
        }
    }

    fn no_token_reason(self, input: &CheckInput<'_>) -> &'static str {
        match self {
            _ if input.given.tokens.is_empty() => "no token was given",
            _ if input.jwts().next().is_none() => "what was given as a token isn't a JWT",
            Self::Expiry if input.tokens_for(&[Purpose::Incoming]).next().is_some() => {
                "incoming-token judges the `exp` of a token of another issuer"
            }
            Self::Expiry => "the token has no `exp`",
            Self::Assertion => "no assertion was given",
            Self::Hs256Token(kind) => kind.facts().no_token,
            Self::IncomingToken => "no JWT of another issuer was given",
            Self::IdentityToken => "no identity token was given",
            _ => "no token for Salesforce was given",
        }
    }
}
