//! Authentication of callers by JWTs of their platform, for example the token of a Kubernetes service account.
//!
//! A verified JWT is remembered by its SHA-256 until it ends. So a page load costs a hash and a lookup instead of a verification
//! (18 to 60 microseconds). Newly fetched keys of the issuer end that, so a token whose key is gone is refused. A reload starts
//! with an empty memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use thiserror::Error;

use super::rate_limit::TokenBucket;
use crate::clock::UnixTime;
use crate::config::{CallerConfig, CallerJwtConfig, Name, RateLimit};
use crate::issuers::{Issuer, Issuers, KeyVersion, Refusal, UnverifiedJwt, VerifiedClaims, VerifyError};

/// The largest number of remembered JWTs.
const MAX_REMEMBERED: u64 = 10_000;
/// The rate of log lines about refused JWTs. Metrics count all of them.
const MAX_LOG_RATE: RateLimit = RateLimit { requests: 1, window: Duration::from_secs(1), burst: 20 };

/// Why a JWT doesn't authenticate a caller. The caller itself learns only that it isn't.
#[derive(Debug, Error)]
pub(crate) enum JwtError {
    #[error("the JWT {refusal}")]
    Refused {
        /// The name of the issuer in the configuration; `None` if it has none with this `iss`.
        issuer: Option<Name>,
        refusal: Refusal,
    },
    /// The keys that decide aren't available.
    #[error("the keys of the issuer `{issuer}` aren't available")]
    KeysUnavailable { issuer: Name, retry_after: Duration },
}

/// The issuers of callers' JWTs, and the JWTs that were verified.
pub(super) struct JwtCredentials {
    issuers: Vec<CallerIssuer>,
    /// By SHA-256 of the JWT.
    remembered: Cache<[u8; 32], RememberedJwt>,
    /// Limits the log lines about refused JWTs, because anybody can send one.
    log_limit: TokenBucket,
}

/// An issuer, with the callers that authenticate with its JWTs.
struct CallerIssuer {
    issuer: Arc<Issuer>,
    callers: Vec<(u32, BTreeMap<String, Vec<String>>)>,
}

/// The result of a verification.
#[derive(Clone, Copy)]
struct RememberedJwt {
    caller: u32,
    /// The index of its issuer.
    issuer: usize,
    /// The keys that verified it.
    version: KeyVersion,
    valid_until: UnixTime,
}

impl JwtCredentials {
    /// # Panics
    /// If `issuers` doesn't belong to the same configuration.
    pub(super) fn new<'a>(callers: impl Iterator<Item = &'a CallerConfig>, issuers: &Issuers) -> Self {
        let mut of_issuer: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, caller) in (0..).zip(callers) {
            if let Some(CallerJwtConfig { issuer, claims }) = &caller.jwt {
                of_issuer.entry(issuer).or_default().push((index, claims.clone()));
            }
        }
        let with_callers = |(name, callers)| CallerIssuer {
            issuer: issuers
                .get(name)
                .expect("a validated configuration has each issuer that it names")
                .clone(),
            callers,
        };
        Self {
            issuers: of_issuer.into_iter().map(with_callers).collect(),
            remembered: Cache::new(MAX_REMEMBERED),
            log_limit: TokenBucket::default(),
        }
    }

    /// Whether a refused JWT may be logged, at the monotonic time `now`.
    pub(super) fn may_log_refusal(&self, now: Duration) -> bool {
        self.log_limit.try_acquire(MAX_LOG_RATE, now).is_ok()
    }

    /// Whether a credential must be looked at as a JWT.
    pub(super) fn is_jwt(&self, credential: &[u8]) -> bool {
        !self.issuers.is_empty() && UnverifiedJwt::has_form(credential)
    }

    /// Finds the caller of a JWT that was verified before.
    pub(super) fn find_remembered(&self, digest: &[u8; 32], now: UnixTime) -> Option<u32> {
        if self.issuers.is_empty() {
            return None;
        }
        let RememberedJwt { caller, issuer, version, valid_until } = self.remembered.get(digest)?;
        let keys = self.issuers[issuer].issuer.key_version();
        (now < valid_until && keys == Some(version)).then_some(caller)
    }

    /// Verifies a JWT, and finds its caller. `digest` is its SHA-256.
    ///
    /// # Errors
    /// The JWT is refused, or its issuer's keys aren't available.
    pub(super) async fn authenticate(
        &self,
        credential: &[u8],
        digest: [u8; 32],
        now: UnixTime,
    ) -> Result<u32, JwtError> {
        let refused = |refusal| JwtError::Refused { issuer: None, refusal };
        let text = std::str::from_utf8(credential).map_err(|_| refused(Refusal::Form))?;
        let jwt = UnverifiedJwt::parse(text).map_err(refused)?;
        let mut failure = refused(Refusal::Issuer);
        // Two clusters can have the same `iss`, with other keys. So each is tried, the one that has the token's key first.
        let mut candidates: Vec<(usize, &CallerIssuer)> =
            self.issuers.iter().enumerate().filter(|(_, with)| with.issuer.issued(&jwt)).collect();
        candidates.sort_by_key(|(_, with)| !with.issuer.has_key_of(&jwt));
        for (index, with) in candidates {
            let name = || with.issuer.name.clone();
            match self.verify_with(index, &jwt, digest, now).await {
                Ok(caller) => return Ok(caller),
                // It isn't known that the token is bad, even if another issuer refuses it.
                Err(VerifyError::KeysUnavailable { retry_after }) => {
                    failure = JwtError::KeysUnavailable { issuer: name(), retry_after };
                }
                Err(VerifyError::Refused(refusal)) if matches!(failure, JwtError::Refused { .. }) => {
                    failure = JwtError::Refused { issuer: Some(name()), refusal };
                }
                Err(VerifyError::Refused(_)) => {}
            }
        }
        Err(failure)
    }

    /// Verifies a JWT with the issuer of this index, finds its caller, and remembers both.
    async fn verify_with(
        &self,
        index: usize,
        jwt: &UnverifiedJwt<'_>,
        digest: [u8; 32],
        now: UnixTime,
    ) -> Result<u32, VerifyError> {
        let CallerIssuer { issuer, callers } = &self.issuers[index];
        // Taken before, so that keys that are fetched meanwhile aren't credited with this verification.
        let version = issuer.key_version();
        let claims = issuer.verify(jwt, now).await?;
        let caller = find_caller(callers, &claims).ok_or_else(|| {
            issuer.count_refusal(Refusal::CallerClaims.rule());
            Refusal::CallerClaims
        })?;
        if let Some(version) = version {
            let valid_until = claims.valid_until;
            self.remembered.insert(digest, RememberedJwt { caller, issuer: index, version, valid_until });
        }
        Ok(caller)
    }
}

/// Finds the caller whose claims a token has. The validation of the configuration ensures that there is at most one.
fn find_caller(callers: &[(u32, BTreeMap<String, Vec<String>>)], claims: &VerifiedClaims) -> Option<u32> {
    let has_all = |required: &BTreeMap<String, Vec<String>>| {
        required.iter().all(|(name, values)| is_accepted_value(values, claims.text(name)))
    };
    callers.iter().find(|(_, required)| has_all(required)).map(|(caller, _)| *caller)
}

/// Whether `claim`, the value of a claim that is a string, is an accepted value of `jwt_claims`.
pub(crate) fn is_accepted_value(accepted: &[String], claim: Option<&str>) -> bool {
    claim.is_some_and(|value| accepted.iter().any(|accepted| accepted == value))
}
