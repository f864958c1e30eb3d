//! [`Refusal`]: the rule that refuses a token. [`VerifyError`] is a refusal or a lack of keys.

use std::time::Duration;

use thiserror::Error;

/// Why a token is refused. The messages continue a sentence about the token, and contain no value of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("has more than 16 KiB")]
    TooLong,
    /// An encrypted token (JWE) too: it has five parts.
    #[error(
        "isn't a signed JWT in compact form: three parts in base64url without padding, separated by dots"
    )]
    Form,
    #[error("has a header that isn't a JSON object, or that has a member twice")]
    Header,
    #[error("has a payload that isn't a JSON object, or that has a member twice")]
    Payload,
    /// Explicit typing (RFC 8725, section 3.11): a logout token, for example, proves nothing about its sender.
    #[error("is of another type than JWT (`typ`)")]
    Type,
    #[error("has critical extensions (`crit`), and tokenmint supports none")]
    Critical,
    #[error(
        "has a signature algorithm (`alg`) that isn't one of the issuer's `algorithms`, or isn't its key's"
    )]
    Algorithm,
    #[error("has a `kid` that isn't a string")]
    KeyId,
    #[error("names a key (`kid`) that isn't one of the issuer's")]
    UnknownKey,
    #[error("has a wrong signature")]
    Signature,
    #[error("is of another issuer (`iss`)")]
    Issuer,
    #[error("isn't for an `audience` of the configuration (`aud`)")]
    Audience,
    #[error("has no `exp` that is a number")]
    NoExpiry,
    #[error("has expired (`exp`)")]
    Expired,
    #[error("isn't valid yet, or its `nbf` isn't a number")]
    NotBefore,
    #[error("was issued in the future, or its `iat` isn't a number")]
    IssuedAt,
    #[error("is older than `max_age`, or has no `iat`")]
    TooOld,
    /// A rule of a caller.
    #[error("doesn't have the claims that the configuration requires (`jwt_claims` of a caller)")]
    CallerClaims,
    /// A rule of a caller.
    #[error("has no string in the claim that names the subject (`subject_claim` of the caller)")]
    SubjectClaim,
}

impl Refusal {
    /// The value of the label `rule` in metrics and logs.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::TooLong => "length",
            Self::Form => "form",
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Type => "typ",
            Self::Critical => "crit",
            Self::Algorithm => "alg",
            Self::KeyId | Self::UnknownKey => "kid",
            Self::Signature => "signature",
            Self::Issuer => "iss",
            Self::Audience => "aud",
            Self::NoExpiry | Self::Expired => "exp",
            Self::NotBefore => "nbf",
            Self::IssuedAt => "iat",
            Self::TooOld => "max_age",
            Self::CallerClaims => "jwt_claims",
            Self::SubjectClaim => "subject_claim",
        }
    }
}

/// Why a token isn't accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    Refused(Refusal),
    /// The keys that would verify the token aren't available.
    KeysUnavailable {
        retry_after: Duration,
    },
}

impl From<Refusal> for VerifyError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl VerifyError {
    /// The value of the label `rule`.
    pub(crate) const fn rule(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.rule(),
            Self::KeysUnavailable { .. } => "keys_unavailable",
        }
    }
}
