//! Negative cache: stores failures and answers requests with them until they expire, instead of asking Salesforce again.
//! Transient failures back off exponentially, with jitter, unless Salesforce says when to retry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::errors::ErrorClass;
use super::exchange_error::ExchangeError;
use super::request::CacheKey;
use crate::config::KeyId;

/// How long a permanent error is cached. Repeated failed logins can get this host's address blocked.
pub(crate) const REJECTION_CACHE_TTL: Duration = Duration::from_mins(1);
const BASE_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(45);
/// Longest time that an error is cached if nothing was sent and the error says when to retry. For example, a reload may
/// change the login rate limit that caused it. A failed connection backs off instead, up to 54 s ([`MAX_BACKOFF`] with
/// jitter).
const LOCAL_REFUSAL_TTL: Duration = Duration::from_secs(10);
/// Bounds of Salesforce's `Retry-After`; values outside are clamped.
pub(crate) const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_mins(15);
/// Maximum number of cached failures; each is small.
const MAX_CACHED_FAILURES: u64 = 100_000;

/// A cached failure. Times are from the monotonic clock.
pub(crate) struct CachedFailure {
    pub(crate) error: ExchangeError,
    /// The key that signed, or would have; `None` if no key was active.
    pub(crate) kid: Option<KeyId>,
    pub(crate) at: Duration,
    until: Duration,
    /// Number of transient failures since the last success or eviction, for the next backoff.
    streak: u32,
}

impl CachedFailure {
    pub(crate) const fn ttl(&self) -> Duration {
        self.until.saturating_sub(self.at)
    }
}

/// A failure that another replica stored in the shared cache.
pub(crate) struct SharedFailure {
    pub(crate) error: ExchangeError,
    pub(crate) kid: Option<KeyId>,
    /// When the exchange failed, on this replica's monotonic clock.
    pub(crate) at: Duration,
    pub(crate) remaining: Duration,
}

/// Cached failures by cache key.
pub(crate) struct NegativeCache(Cache<CacheKey, Arc<CachedFailure>>);

/// Evicts a failure at least [`MAX_BACKOFF`] after it has expired, so that the next failure can continue the streak.
struct FailureExpiry;

impl Expiry<CacheKey, Arc<CachedFailure>> for FailureExpiry {
    fn expire_after_create(
        &self,
        _: &CacheKey,
        failure: &Arc<CachedFailure>,
        _: Instant,
    ) -> Option<Duration> {
        Some(failure.ttl() + MAX_BACKOFF)
    }

    fn expire_after_update(
        &self,
        key: &CacheKey,
        failure: &Arc<CachedFailure>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, failure, now)
    }
}

impl Default for NegativeCache {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(MAX_CACHED_FAILURES).eviction_policy(EvictionPolicy::lru());
        Self(cache.expire_after(FailureExpiry).build())
    }
}

impl NegativeCache {
    /// Returns the failure that hasn't expired at `now`. Its error's `retry_after`, if the variant stores one, is the longest
    /// of the entry's remaining time, what is left of the error's own, and [`MIN_RETRY_AFTER`].
    pub(crate) fn get(&self, key: &CacheKey, now: Duration) -> Option<(ExchangeError, Arc<CachedFailure>)> {
        let failure = self.0.get(key).filter(|failure| now < failure.until)?;
        let age = now.saturating_sub(failure.at);
        let requested = failure.error.retry_after().unwrap_or_default().saturating_sub(age);
        let wait = failure.until.saturating_sub(now).max(requested).max(MIN_RETRY_AFTER);
        Some((failure.error.clone().with_retry_after(wait), failure))
    }

    /// Caches a failure for a time that depends on its kind. `fraction`, between 0 and 1, gives the backoff its jitter.
    pub(crate) fn insert(
        &self,
        key: &CacheKey,
        error: ExchangeError,
        kid: Option<KeyId>,
        now: Duration,
        fraction: f64,
    ) -> Arc<CachedFailure> {
        let streak = self.0.get(key).map_or(0, |before| before.streak);
        let requested = error.retry_after().map(|wait| wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER));
        let (wait, streak) = match &error {
            ExchangeError::Rejected { diagnosis, .. } if diagnosis.class == ErrorClass::Limited => {
                (requested.unwrap_or(diagnosis.backoff), streak)
            }
            error if error.is_permanent() => (REJECTION_CACHE_TTL, streak),
            ExchangeError::Mint(_) => (BASE_BACKOFF, streak),
            error if !error.was_sent() && requested.is_some() => {
                (requested.unwrap_or(LOCAL_REFUSAL_TTL).min(LOCAL_REFUSAL_TTL), streak)
            }
            _ => (requested.unwrap_or_else(|| backoff(streak, fraction)), streak.saturating_add(1)),
        };
        let is_local =
            matches!(error, ExchangeError::CircuitOpen { .. } | ExchangeError::LoginRateLimited { .. });
        let error = if is_local { error } else { error.with_retry_after(wait) };
        self.insert_entry(key, CachedFailure { error, kid, at: now, until: now + wait, streak })
    }

    /// Caches a failure of another replica for its remaining time, at most [`MAX_RETRY_AFTER`].
    pub(crate) fn insert_shared(&self, key: &CacheKey, shared: SharedFailure, now: Duration) {
        let streak = self.0.get(key).map_or(0, |before| before.streak);
        let SharedFailure { error, kid, at, remaining } = shared;
        self.insert_entry(
            key,
            CachedFailure { error, kid, at, until: now + remaining.min(MAX_RETRY_AFTER), streak },
        );
    }

    fn insert_entry(&self, key: &CacheKey, failure: CachedFailure) -> Arc<CachedFailure> {
        let failure = Arc::new(failure);
        self.0.insert(*key, failure.clone());
        failure
    }

    pub(crate) fn remove(&self, key: &CacheKey) {
        self.0.invalidate(key);
    }
}

/// Exponential backoff with jitter: doubles from [`BASE_BACKOFF`] up to [`MAX_BACKOFF`], then varies by ±20 %.
fn backoff(streak: u32, fraction: f64) -> Duration {
    let doubled = BASE_BACKOFF.saturating_mul(1_u32.checked_shl(streak).unwrap_or(u32::MAX));
    doubled.min(MAX_BACKOFF).mul_f64(0.4_f64.mul_add(fraction, 0.8))
}
