//! The types of `[issuers.NAME]`, and of the settings of a caller that refer to it.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonwebtoken::Algorithm;
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
    pub(crate) algorithms: Vec<Algorithm>,
    /// The allowed difference of clocks for `iat` and `nbf`.
    pub(crate) leeway: Duration,
    /// The largest age of a token, by its `iat`.
    pub(crate) max_age: Option<Duration>,
}

/// Where the keys of an issuer come from.
pub(crate) enum IssuerKeySource {
    Fetched(KeyFetchConfig),
    /// A JWKS.
    File(UnverifiedPath),
    /// The shared secret of HS256, at least 32 bytes.
    Secret(SecretString),
}

impl IssuerKeySource {
    /// Whether both have the same keys.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
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

/// Parses a signature algorithm of an issuer (RFC 7518, section 3.1). `none` isn't one.
///
/// # Errors
/// Lists the algorithms.
pub(super) fn parse_algorithm(text: &str) -> Result<Algorithm, String> {
    const NAMES: &[&str] =
        &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256"];
    let known = NAMES.contains(&text).then(|| text.parse().ok());
    known.flatten().ok_or_else(|| format!("must be one of {}", NAMES.join(", ")))
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
