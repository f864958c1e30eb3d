//! One row of the catalogue.

use serde::Serialize;

use super::finding::Observations;
use super::known::Known;

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

/// What a check needs, so that it can say what was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Configuration,
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
    Thumbprint,
    JwkSet,
    Token,
    IdentityToken,
    Assertion,
    SalesforceToken,
    IntercomToken,
    FetchedJwks,
    OwnJwks,
    Answer,
}

impl Needs {
    /// Why a check that needs it had nothing to look at.
    pub const fn missing(self, known: &Known<'_>) -> &'static str {
        match self {
            Self::FetchedJwks | Self::OwnJwks | Self::Answer if known.answers.is_none() => {
                "nothing was asked; --online asks"
            }
            Self::FetchedJwks | Self::OwnJwks => {
                "no JWKS was asked for, as `url` of [server.public] isn't set"
            }
            Self::Answer => "no profile of that kind was there to ask Salesforce about",
            Self::Configuration | Self::Messaging | Self::OauthProfile | Self::PublicUrl
                if known.configured.config.is_none() =>
            {
                "there is no configuration that loads"
            }
            Self::Configuration => "the configuration loads without it",
            Self::Messaging => "no [identity.NAME.messaging] is configured",
            Self::OauthProfile => "no [oauth.NAME] is configured",
            Self::PublicUrl => "`url` of [server.public] isn't set",
            Self::PrivateKey => "no file with a private key was given",
            Self::Key => "no key is there",
            Self::Certificate => "no certificate is there",
            Self::Pair => "no two halves of a key are there to compare",
            Self::TwoKinds => "no keyset is for both identity tokens and assertions",
            Self::Jwk | Self::Thumbprint if known.given.jwks.is_empty() && known.given.fetched.is_empty() => {
                "no JWK was given"
            }
            Self::Jwk => "the JWK has none",
            Self::Thumbprint => "the JWK has no thumbprint",
            Self::JwkSet => "no set of several keys was given",
            _ if known.given.tokens.is_empty() => "no token was given",
            Self::Token => "the token is no JWT",
            Self::IdentityToken => "no identity token was given",
            Self::Assertion => "no assertion was given",
            Self::SalesforceToken => "no token for Salesforce was given",
            Self::IntercomToken => "no Intercom token was given",
        }
    }
}
