//! How often a token may be called rejected: a token bucket (GCRA) for each cache key, so that no caller can use up an
//! integration's logins by calling each token rejected.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::job::CacheKey;
use crate::callers::Bucket;
use crate::config::RateLimit;

/// Three rejections are believed at once, and then one in 30 s.
pub const REJECTIONS: RateLimit = RateLimit { requests: 1, window: Duration::from_secs(30), burst: 3 };
/// Keys that are remembered; a forgotten one starts anew.
const MOST_KEYS: u64 = 100_000;

pub struct RejectionLimit {
    buckets: Cache<CacheKey, Arc<Bucket>>,
    pace: RateLimit,
}

impl RejectionLimit {
    pub fn new(pace: RateLimit) -> Self {
        // Idle for so long, a bucket is full, and may be forgotten.
        let idle = pace.window.saturating_mul(pace.burst);
        let buckets = Cache::builder().max_capacity(MOST_KEYS).time_to_idle(idle);
        Self { buckets: buckets.eviction_policy(EvictionPolicy::lru()).build(), pace }
    }

    /// Whether one more rejection for this key is believed at the steady time `now`.
    pub fn allows(&self, key: &CacheKey, now: Duration) -> bool {
        self.buckets.get_with(*key, Arc::default).take(self.pace, now).is_ok()
    }
}
