//! Authentication of callers by JWTs of their platform, for example the token of a Kubernetes service account.
//!
//! A verified JWT is remembered by its SHA-256 until it ends. So a page load costs a hash and a lookup instead of a verification
//! (18 to 60 microseconds). Newly fetched keys of the issuer end that, so a token whose key is gone is refused. A reload starts
//! with an empty memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use moka::sync::Cache;

use super::AuthenticationError;
use crate::clock::UnixTime;
use crate::config::{CallerConfig, CallerJwtConfig};
use crate::issuers::{Issuer, Issuers, KeyVersion, Refusal, UnverifiedJwt, VerifiedClaims, VerifyError};

/// The largest number of remembered JWTs.
const MAX_REMEMBERED: u64 = 10_000;

/// The issuers of callers' JWTs, and the JWTs that were verified.
pub(super) struct JwtCredentials {
    issuers: Vec<CallerIssuer>,
    /// By SHA-256 of the JWT.
    remembered: Cache<[u8; 32], RememberedJwt>,
}

/// An issuer, with the callers that authenticate with its JWTs.
struct CallerIssuer {
    issuer: Arc<Issuer>,
    callers: Vec<(u32, BTreeMap<String, Vec<String>>)>,
}

/// What a verified JWT said.
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
        }
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
    ) -> Result<u32, AuthenticationError> {
        let refused = |refusal| AuthenticationError::RefusedJwt { issuer: None, refusal };
        let text = std::str::from_utf8(credential).map_err(|_| refused(Refusal::Form))?;
        let jwt = UnverifiedJwt::parse(text).map_err(refused)?;
        let mut failure = refused(Refusal::Issuer);
        // Two clusters can have the same `iss`, with other keys.
        let candidates = self.issuers.iter().enumerate();
        for (index, CallerIssuer { issuer, callers }) in
            candidates.filter(|(_, with)| with.issuer.issued(&jwt))
        {
            let refused =
                |refusal| AuthenticationError::RefusedJwt { issuer: Some(issuer.name.clone()), refusal };
            // Taken before, so that keys that are fetched meanwhile aren't credited with this verification.
            let version = issuer.key_version();
            let verified = issuer.verify(&jwt, now).await;
            let claims = match verified {
                Ok(claims) => claims,
                Err(VerifyError::Refused(refusal)) => {
                    failure = refused(refusal);
                    continue;
                }
                // The other issuers' refusals don't say that the token is bad.
                Err(VerifyError::KeysUnavailable { retry_after }) => {
                    return Err(AuthenticationError::KeysUnavailable {
                        issuer: issuer.name.clone(),
                        retry_after,
                    });
                }
            };
            let Some(caller) = find_caller(callers, &claims) else {
                issuer.count_refusal(Refusal::CallerClaims.rule());
                failure = refused(Refusal::CallerClaims);
                continue;
            };
            if let Some(version) = version {
                let valid_until = claims.valid_until;
                self.remembered.insert(digest, RememberedJwt { caller, issuer: index, version, valid_until });
            }
            return Ok(caller);
        }
        Err(failure)
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
