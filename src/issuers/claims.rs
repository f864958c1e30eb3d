//! The rules for the claims of a token (RFC 7519, section 4.1), and the claims of a verified one.

use std::time::Duration;

use super::jwt::UnverifiedJwt;
use super::key_cache::KeyVersion;
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
pub struct VerifiedClaims<'a> {
    claims: &'a Json,
    /// When the token ends: the earlier of `exp` and `iat` + `max_age`.
    pub valid_until: UnixTime,
    /// The version of the keys that verified it.
    pub key_version: KeyVersion,
}

impl<'a> VerifiedClaims<'a> {
    pub(super) const fn new(
        jwt: &'a UnverifiedJwt<'_>,
        valid_until: UnixTime,
        key_version: KeyVersion,
    ) -> Self {
        Self { claims: &jwt.claims, valid_until, key_version }
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
        self.check_issuer(jwt)?;
        self.check_audience(jwt)?;
        let expires_at = check_expiry(jwt, now)?;
        self.check_not_before(jwt, now)?;
        self.check_issued_at(jwt, now)?;
        let too_old_at = self.check_age(jwt, now)?;
        Ok(too_old_at.map_or(expires_at, |too_old_at| expires_at.min(too_old_at)))
    }

    /// Applies each rule of [`check`](Self::check), in its order: the claim, what it requires, and the result.
    pub(super) fn inspect(
        &self,
        jwt: &UnverifiedJwt<'_>,
        now: UnixTime,
    ) -> Vec<(&'static str, String, Result<(), Refusal>)> {
        let audience: Vec<String> = self.audience.iter().map(|audience| format!("{audience:?}")).collect();
        let leeway = self.leeway.as_secs();
        let mut results = vec![
            ("iss", format!("{:?}", self.issuer.as_str()), self.check_issuer(jwt)),
            ("aud", audience.join(" or "), self.check_audience(jwt)),
            ("exp", "later than now".to_owned(), check_expiry(jwt, now).map(|_| ())),
            ("nbf", format!("at most {leeway} s in the future"), self.check_not_before(jwt, now)),
            ("iat", format!("at most {leeway} s in the future"), self.check_issued_at(jwt, now)),
        ];
        if let Some(max_age) = self.max_age {
            let required = format!("at most {} s old", max_age.as_secs());
            results.push(("iat", required, self.check_age(jwt, now).map(|_| ())));
        }
        results
    }

    fn check_issuer(&self, jwt: &UnverifiedJwt<'_>) -> Result<(), Refusal> {
        if self.has_issuer(jwt) { Ok(()) } else { Err(Refusal::Issuer) }
    }

    fn check_audience(&self, jwt: &UnverifiedJwt<'_>) -> Result<(), Refusal> {
        if self.matches_audience(jwt.claims.member("aud")) { Ok(()) } else { Err(Refusal::Audience) }
    }

    fn check_not_before(&self, jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Result<(), Refusal> {
        let not_before = time_claim(&jwt.claims, "nbf", Refusal::NotBefore)?;
        if not_before.is_some_and(|not_before| not_before > now.plus(self.leeway)) {
            return Err(Refusal::NotBefore);
        }
        Ok(())
    }

    fn check_issued_at(&self, jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Result<(), Refusal> {
        let issued_at = time_claim(&jwt.claims, "iat", Refusal::IssuedAt)?;
        if issued_at.is_some_and(|issued_at| issued_at > now.plus(self.leeway)) {
            return Err(Refusal::IssuedAt);
        }
        Ok(())
    }

    /// Checks `max_age`. Returns when the token gets too old; `None` without `max_age`.
    fn check_age(&self, jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Result<Option<UnixTime>, Refusal> {
        let Some(max_age) = self.max_age else { return Ok(None) };
        let issued_at = time_claim(&jwt.claims, "iat", Refusal::IssuedAt)?;
        let too_old_at = issued_at.ok_or(Refusal::TooOld)?.plus(max_age);
        if too_old_at <= now { Err(Refusal::TooOld) } else { Ok(Some(too_old_at)) }
    }

    /// Whether `aud`, a string or an array of strings, has one of the configured audiences.
    fn matches_audience(&self, audience: Option<&Json>) -> bool {
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

fn check_expiry(jwt: &UnverifiedJwt<'_>, now: UnixTime) -> Result<UnixTime, Refusal> {
    let expires_at = time_claim(&jwt.claims, "exp", Refusal::NoExpiry)?.ok_or(Refusal::NoExpiry)?;
    if expires_at <= now { Err(Refusal::Expired) } else { Ok(expires_at) }
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
