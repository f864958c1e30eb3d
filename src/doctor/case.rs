//! One row of the catalogue.

use serde::Serialize;

use super::answers::Answer;
use super::finding::Observations;
use super::known::Known;
use crate::config::Hs256Kind;

/// One question, answered by one check.
#[derive(Clone, Copy, Serialize)]
pub struct Case {
    /// Stable: programs may look for it.
    pub id: &'static str,
    /// What holds where all is well.
    pub title: &'static str,
    /// What people see of the fault.
    pub sees: &'static str,
    /// The question of Salesforce's page that it answers, or the report that it explains.
    pub answers: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    pub source: Source,
    /// Whether it needs the answer of a request.
    pub online: bool,
    /// What it looks at.
    #[serde(skip)]
    pub needs: Needs,
    #[serde(skip)]
    pub check: fn(&Known<'_>) -> Observations,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Salesforce's or Intercom's documentation.
    Doc,
    /// Reports of people who met it.
    Field,
    /// A standard.
    Rfc,
    /// tokenmint's own rule.
    Own,
}

/// What a check looks at, so that a report can say what was missing where it saw nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Configuration,
    /// The keysets, with their keys.
    Keysets,
    Messaging,
    OauthProfile,
    PublicUrl,
    PrivateKey,
    Key,
    Certificate,
    /// A private key and a public half, or a JWK and its certificate.
    Pair,
    /// Keysets for identity tokens, and for assertions.
    TwoKinds,
    Jwk,
    /// A JWK for an upload form.
    UploadedJwk,
    /// `n` and `e`.
    Numbers,
    /// The certificates in a JWK.
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
    FetchedJwks,
    OwnJwks,
    Answer,
}

impl Needs {
    /// Why a check that needs it had nothing to look at.
    pub fn missing(self, known: &Known<'_>) -> &'static str {
        match self {
            Self::FetchedJwks | Self::OwnJwks | Self::Answer => self.not_answered(known),
            Self::Configuration
            | Self::Keysets
            | Self::Messaging
            | Self::OauthProfile
            | Self::PublicUrl
            | Self::TwoKinds => self.not_configured(known),
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
            | Self::JwkSet => self.not_in_jwks(known),
            Self::Token
            | Self::Expiry
            | Self::IdentityToken
            | Self::Assertion
            | Self::SalesforceToken
            | Self::Hs256Token(_) => self.not_in_tokens(known),
        }
    }

    fn not_answered(self, known: &Known<'_>) -> &'static str {
        let own = known.answers.iter().flatten().any(|answer| matches!(answer, Answer::Jwks(_)));
        match self {
            Self::FetchedJwks if known.fetched().next().is_some() => "what the address shows is no JWK Set",
            Self::OwnJwks if own => "what the address shows is no JWK Set",
            _ if known.answers.is_none() => "nothing was asked; --online asks",
            Self::Answer => "no profile of that kind was there to ask Salesforce about",
            _ => {
                "no JWKS of the configuration was asked for: `url` of [server.public] isn't set, or no [identity.NAME] is"
            }
        }
    }

    const fn not_configured(self, known: &Known<'_>) -> &'static str {
        match self {
            _ if known.configured.config.is_none() => "there is no configuration that loads",
            Self::Messaging => "no [identity.NAME.messaging] is configured",
            Self::OauthProfile => "no [oauth.NAME] is configured",
            Self::PublicUrl => "`url` of [server.public] isn't set, or no [identity.NAME] is",
            Self::TwoKinds => "no keys are configured for both identity tokens and assertions",
            _ => "the keysets don't load",
        }
    }

    fn not_in_jwks(self, known: &Known<'_>) -> &'static str {
        match self {
            _ if known.documents().next().is_none() => "no JWK was given",
            Self::JwkSet => "no set of several keys was given",
            _ if known.jwks().next().is_none() => "what was given as a JWK isn't JSON, or holds no JWK",
            Self::UploadedJwk => "each JWK was given as one of a served set",
            Self::Numbers => "the JWK has no `n` and no `e`",
            Self::X5c => "the JWK has no certificate (`x5c`)",
            Self::PublicJwk => "the JWK holds the private key",
            Self::Thumbprint => "the JWK has no thumbprint (`x5t`, `x5t#S256`)",
            _ => "no JWK was given",
        }
    }

    fn not_in_tokens(self, known: &Known<'_>) -> &'static str {
        match self {
            _ if known.given.tokens.is_empty() => "no token was given",
            _ if known.jwts().next().is_none() => "what was given as a token isn't a JWT",
            Self::Expiry => "the token has no `exp`",
            Self::Assertion => "no assertion was given",
            Self::Hs256Token(kind) => kind.facts().no_token,
            Self::IdentityToken => "no identity token was given",
            _ => "no token for Salesforce was given",
        }
    }
}
