//! The rules for the claims of a token (RFC 7519, section 4.1), and the claims of a verified one.

use std::time::Duration;

use super::jwt::UnverifiedJwt;
use super::refusal::Refusal;
use crate::clock::UnixTime;
use crate::config::{Issuer, IssuerConfig};
use crate::json::Json;

/// The rules of an issuer for claims.
pub(super) struct ClaimRules {
    issuer: Issuer,
    audience: Vec<String>,
    leeway: Duration,
    max_age: Option<Duration>,
}

/// The claims of a verified token.
pub struct VerifiedClaims {
    claims: Json,
    /// When the token ends: its `exp`, or earlier by `max_age`.
    pub valid_until: UnixTime,
}

impl VerifiedClaims {
    pub(super) fn new(jwt: &UnverifiedJwt<'_>, valid_until: UnixTime) -> Self {
        Self { claims: jwt.claims.clone(), valid_until }
    }

    /// The value of a claim that is a string.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.text(claim)
    }
}

impl ClaimRules {
    pub(super) fn new(issuer: &IssuerConfig) -> Self {
        Self {
            issuer: issuer.issuer.clone(),
            audience: issuer.audience.clone(),
            leeway: issuer.leeway,
            max_age: issuer.max_age,
        }
    }

    pub(super) fn has_issuer(&self, jwt: &UnverifiedJwt<'_>) -> bool {
        jwt.claims.text("iss") == Some(self.issuer.as_str())
    }

    /// Checks all registered claims but `sub` and `jti`. Returns when the token ends.
    ///
    /// # Errors
    /// The first rule that refuses the token. A claim of a wrong type refuses it: it doesn't count as absent.
    pub(super) fn check(&self, jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Result<UnixTime, Refusal> {
        if !self.has_issuer(jwt) {
            return Err(Refusal::Issuer);
        }
        if !self.is_for_us(jwt.claims.member("aud")) {
            return Err(Refusal::Audience);
        }
        let expires_at = time_claim(&jwt.claims, "exp", Refusal::NoExpiry)?.ok_or(Refusal::NoExpiry)?;
        if expires_at <= now {
            return Err(Refusal::Expired);
        }
        let latest = now.plus(self.leeway);
        if time_claim(&jwt.claims, "nbf", Refusal::NotBefore)?.is_some_and(|not_before| not_before > latest) {
            return Err(Refusal::NotBefore);
        }
        let issued_at = time_claim(&jwt.claims, "iat", Refusal::IssuedAt)?;
        if issued_at.is_some_and(|issued_at| issued_at > latest) {
            return Err(Refusal::IssuedAt);
        }
        let Some(max_age) = self.max_age else { return Ok(expires_at) };
        let too_old_at = issued_at.ok_or(Refusal::TooOld)?.plus(max_age);
        if too_old_at < now {
            return Err(Refusal::TooOld);
        }
        Ok(expires_at.min(too_old_at))
    }

    /// Whether `aud`, a string or an array of strings, has one of the configured audiences.
    fn is_for_us(&self, audience: Option<&Json>) -> bool {
        let is_ours = |text: &Json| matches!(text, Json::String(text) if self.audience.contains(text));
        match audience {
            Some(Json::Array(all)) => {
                all.iter().all(|item| matches!(item, Json::String(_))) && all.iter().any(is_ours)
            }
            Some(one) => is_ours(one),
            None => false,
        }
    }
}

/// A claim that is a `NumericDate`, rounded down. `None` if it is absent.
///
/// # Errors
/// `refusal`, if it isn't a number.
fn time_claim(claims: &Json, name: &str, refusal: Refusal) -> Result<Option<UnixTime>, Refusal> {
    match claims.member(name) {
        None => Ok(None),
        Some(Json::Number(number)) => Ok(Some(UnixTime::from_seconds(number.floor()))),
        Some(_) => Err(refusal),
    }
}
