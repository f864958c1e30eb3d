//! Rate limit of `rejected_token`: a token bucket (GCRA) for each cache key. Without it, a caller could use up an
//! integration's logins by reporting each token as rejected. Announcements to other replicas have a limit of this kind too.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::request::CacheKey;
use crate::config::RateLimit;
use crate::token_bucket::TokenBucket;

/// Allows a burst of three rejections, then one in 30 s.
pub(crate) const REJECTION_RATE: RateLimit =
    RateLimit { requests: 1, window: Duration::from_secs(30), burst: 3 };
/// Maximum number of buckets. The bucket of an evicted key starts full again.
const MAX_TRACKED_KEYS: u64 = 100_000;

/// A token bucket for each cache key.
pub(crate) struct RejectionLimit {
    buckets: Cache<CacheKey, Arc<TokenBucket>>,
    rate: RateLimit,
}

impl RejectionLimit {
    pub(crate) fn new(rate: RateLimit) -> Self {
        // After this idle time a bucket is full, so it can be evicted.
        let idle = rate.window.saturating_mul(rate.burst);
        let buckets = Cache::builder().max_capacity(MAX_TRACKED_KEYS).time_to_idle(idle);
        Self { buckets: buckets.eviction_policy(EvictionPolicy::lru()).build(), rate }
    }

    /// Takes a token for this key at the monotonic time `now`; `false` if none is left.
    pub(crate) fn allows(&self, key: &CacheKey, now: Duration) -> bool {
        self.buckets.get_with(*key, Arc::default).try_acquire(self.rate, now).is_ok()
    }
}
