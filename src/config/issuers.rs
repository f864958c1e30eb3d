//! `[issuers.NAME]`, and the settings of a caller that refer to it: whose JWTs the service accepts, from whom, and for what.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::{HttpsOrLoopbackUrl, Issuer, Name, UnverifiedPath};

/// An issuer of JWTs that the service accepts.
pub struct IssuerConfig {
    pub name: Name,
    /// The required `iss`, compared byte for byte.
    pub(crate) issuer: Issuer,
    /// At least one of them must be in `aud`. Never empty.
    pub(crate) audience: Vec<String>,
    pub(crate) keys: IssuerKeySource,
    /// Never empty. `HS256` alone if the key is a secret, and never otherwise.
    pub(crate) algorithms: Vec<JwtAlgorithm>,
    /// The allowed difference of clocks for `iat` and `nbf`.
    pub(crate) leeway: Duration,
    /// The largest age of a token, by its `iat`.
    pub(crate) max_age: Option<Duration>,
}

/// Where the keys of an issuer come from. Two are equal if the keys are the same.
pub(crate) enum IssuerKeySource {
    Fetched(KeyFetchConfig),
    /// A JWKS.
    File(UnverifiedPath),
    /// The shared secret of HS256, at least 32 bytes.
    Secret(SecretString),
}

impl PartialEq for IssuerKeySource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fetched(one), Self::Fetched(other)) => one.address == other.address,
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Secret(one), Self::Secret(other)) => one.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

/// How the keys of an issuer are fetched.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyFetchConfig {
    pub(crate) address: KeyAddress,
    /// The only certificate authorities that are trusted for the fetch; by default the host's.
    pub(crate) ca_file: Option<UnverifiedPath>,
    /// A file with a token that is sent with the fetch. It is read anew for each.
    pub(crate) bearer_token_file: Option<UnverifiedPath>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum KeyAddress {
    Jwks(HttpsOrLoopbackUrl),
    /// The metadata document that names the JWKS (`OpenID` Connect Discovery 1.0, section 4).
    Discovery(HttpsOrLoopbackUrl),
}

/// A signature algorithm of an issuer (RFC 7518, section 3.1). `none` is no value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct JwtAlgorithm(pub(crate) jsonwebtoken::Algorithm);

impl JwtAlgorithm {
    pub(crate) const HS256: Self = Self(jsonwebtoken::Algorithm::HS256);
    /// The default for keys that aren't secrets.
    pub(crate) const DEFAULT: [Self; 2] =
        [Self(jsonwebtoken::Algorithm::RS256), Self(jsonwebtoken::Algorithm::ES256)];
    /// The names of all values.
    pub(crate) const NAMES: &[&str] =
        &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256"];

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let known = Self::NAMES.contains(&text).then(|| jsonwebtoken::Algorithm::from_str(text).ok());
        known.flatten().map(Self).ok_or_else(|| format!("must be one of {}", Self::NAMES.join(", ")))
    }
}

impl fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The JWTs with which a caller authenticates.
pub struct CallerJwtConfig {
    pub(crate) issuer: Name,
    /// The allowed values of each claim. `sub` is always among them.
    pub(crate) claims: BTreeMap<String, Vec<String>>,
}

/// The tokens with which a caller proves who its user is.
pub struct SubjectTokenConfig {
    pub(crate) issuer: Name,
    /// The claim that names the subject.
    pub(crate) claim: String,
    /// Whether each request with a subject needs such a token.
    pub(crate) is_required: bool,
}
