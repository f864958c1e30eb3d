//! Authentication of callers by JWTs of their platform, for example the token of a Kubernetes service account.
//!
//! A verified JWT is cached by its SHA-256 until it ends. So a page load costs a hash and a lookup instead of a verification
//! (18 to 60 microseconds). Other keys of the issuer end that, so a token whose key is gone is refused. A reload starts
//! with an empty cache.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use prometheus::IntCounterVec;
use thiserror::Error;

use crate::clock::{Clock, UnixTime};
use crate::config::{CallerConfig, CallerJwtConfig, Name, RateLimit};
use crate::issuers::{
    Issuers, KeyVersion, Refusal, TrustedIssuer, UnverifiedJwt, VerifiedClaims, VerifyError,
};
use crate::metrics::Metrics;
use crate::token_bucket::TokenBucket;

/// The largest number of cached JWTs.
const MAX_VERIFIED: u64 = 10_000;
/// The rate of log lines about refused JWTs of one issuer. Metrics count all of them.
const MAX_LOG_RATE: RateLimit = RateLimit { requests: 1, window: Duration::from_secs(1), burst: 20 };

/// Why a JWT doesn't authenticate a caller. The caller itself learns only that it isn't.
#[derive(Debug, Error)]
pub(crate) enum JwtError {
    #[error("the JWT {refusal}")]
    Refused {
        /// The name of the issuer in the configuration; `None` if it has none with this `iss`, or if the JWT can't be parsed.
        issuer: Option<Name>,
        refusal: Refusal,
    },
    #[error("the keys that would verify the JWT aren't available")]
    KeysUnavailable { retry_after: Duration },
}

/// The issuers of callers' JWTs, and the JWTs that were verified.
pub(super) struct JwtCredentials {
    issuers: Vec<CallerIssuer>,
    /// By SHA-256 of the JWT.
    verified: Cache<[u8; 32], VerifiedJwt>,
    /// Counts refused JWTs, by issuer and rule.
    refusals: IntCounterVec,
    /// Limits the log lines about JWTs of no issuer.
    log_limit: TokenBucket,
}

/// An issuer, with the callers that authenticate with its JWTs.
struct CallerIssuer {
    issuer: Arc<TrustedIssuer>,
    callers: Vec<(u32, BTreeMap<String, Vec<String>>)>,
    /// Limits the log lines about refused JWTs of this issuer, because anybody can send one.
    log_limit: TokenBucket,
}

/// The result of a verification.
#[derive(Clone, Copy)]
struct VerifiedJwt {
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
    pub(super) fn new<'a>(
        callers: impl Iterator<Item = &'a CallerConfig>,
        issuers: &Issuers,
        metrics: &Metrics,
    ) -> Self {
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
            log_limit: TokenBucket::default(),
        };
        Self {
            issuers: of_issuer.into_iter().map(with_callers).collect(),
            verified: Cache::new(MAX_VERIFIED),
            refusals: metrics.issuer_refusals.clone(),
            log_limit: TokenBucket::default(),
        }
    }

    /// Whether a refused JWT of this issuer, or of none, may be logged at the monotonic time `now`.
    pub(super) fn may_log_refusal(&self, issuer: Option<&Name>, now: Duration) -> bool {
        let with = self.issuers.iter().find(|with| Some(&with.issuer.name) == issuer);
        with.map_or(&self.log_limit, |with| &with.log_limit).try_acquire(MAX_LOG_RATE, now).is_ok()
    }

    /// Whether a credential must be looked at as a JWT.
    pub(super) fn is_jwt(&self, credential: &[u8]) -> bool {
        !self.issuers.is_empty() && UnverifiedJwt::has_form(credential)
    }

    /// Finds the caller of a JWT that was verified before, unless the JWT has ended or its issuer has other keys now.
    pub(super) fn find_verified(&self, digest: &[u8; 32], now: UnixTime) -> Option<u32> {
        if self.issuers.is_empty() {
            return None;
        }
        let VerifiedJwt { caller, issuer, version, valid_until } = self.verified.get(digest)?;
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
        clock: &dyn Clock,
    ) -> Result<u32, JwtError> {
        let of_no_issuer = |refusal: Refusal| {
            self.refusals.with_label_values(&["", refusal.rule()]).inc();
            JwtError::Refused { issuer: None, refusal }
        };
        let text = std::str::from_utf8(credential).map_err(|_| of_no_issuer(Refusal::Form))?;
        let jwt = UnverifiedJwt::parse(text).map_err(of_no_issuer)?;
        // Two clusters can have the same `iss`, with other keys. So each is tried, the one that has the token's key first.
        let mut candidates: Vec<(usize, &CallerIssuer)> =
            self.issuers.iter().enumerate().filter(|(_, with)| with.issuer.matches_iss(&jwt)).collect();
        candidates.sort_by_key(|(_, with)| !with.issuer.has_key_of(&jwt));
        let mut failure = None;
        for (index, candidate) in candidates {
            let issuer = || candidate.issuer.name.clone();
            let error = match self.verify_with(index, &jwt, digest, clock).await {
                Ok(caller) => return Ok(caller),
                Err(error) => error,
            };
            match error {
                // The token is the issuer's, so no other issuer verifies it.
                VerifyError::Refused(refusal @ Refusal::CallerClaims) => {
                    return Err(JwtError::Refused { issuer: Some(issuer()), refusal });
                }
                VerifyError::Refused(refusal) => {
                    failure.get_or_insert_with(|| JwtError::Refused { issuer: Some(issuer()), refusal });
                }
                // It isn't known that the token is bad, even if another issuer refuses it.
                VerifyError::KeysUnavailable { retry_after } => {
                    failure = Some(JwtError::KeysUnavailable { retry_after });
                }
            }
        }
        Err(failure.unwrap_or_else(|| of_no_issuer(Refusal::Issuer)))
    }

    /// Verifies a JWT with the issuer of this index, finds its caller, and remembers both.
    async fn verify_with(
        &self,
        index: usize,
        jwt: &UnverifiedJwt<'_>,
        digest: [u8; 32],
        clock: &dyn Clock,
    ) -> Result<u32, VerifyError> {
        let CallerIssuer { issuer, callers, .. } = &self.issuers[index];
        let claims = issuer.verify(jwt, clock).await?;
        let caller = find_caller(callers, &claims).ok_or_else(|| {
            issuer.count_refusal(Refusal::CallerClaims.rule());
            Refusal::CallerClaims
        })?;
        let (version, valid_until) = (claims.key_version, claims.valid_until);
        self.verified.insert(digest, VerifiedJwt { caller, issuer: index, version, valid_until });
        Ok(caller)
    }
}

/// Finds the caller whose claims a token has. The validation of the configuration ensures that there is at most one.
fn find_caller(callers: &[(u32, BTreeMap<String, Vec<String>>)], claims: &VerifiedClaims<'_>) -> Option<u32> {
    let has_all = |required: &BTreeMap<String, Vec<String>>| {
        required.iter().all(|(name, values)| is_accepted_value(values, claims.text(name)))
    };
    callers.iter().find(|(_, required)| has_all(required)).map(|(caller, _)| *caller)
}

/// Whether `claim`, the value of a claim that is a string, is an accepted value of `jwt_claims`.
pub(crate) fn is_accepted_value(accepted: &[String], claim: Option<&str>) -> bool {
    claim.is_some_and(|value| accepted.iter().any(|accepted| accepted == value))
}
