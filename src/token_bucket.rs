//! A token bucket that limits the rate of requests. Many threads share it without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::RateLimit;

/// A token bucket, stored as the time when it will be full again (generic cell rate algorithm, GCRA).
#[derive(Default)]
pub(crate) struct TokenBucket(AtomicU64);

impl TokenBucket {
    /// Takes a token at the monotonic time `now`.
    ///
    /// # Errors
    /// The bucket is empty. The value is the time until the next token.
    pub(crate) fn try_acquire(&self, rate: RateLimit, now: Duration) -> Result<(), Duration> {
        let now = nanoseconds(now);
        let interval = nanoseconds(rate.window) / u64::from(rate.requests).max(1);
        let tolerance = interval.saturating_mul(u64::from(rate.burst));
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |full_at| {
            let full_at = full_at.max(now).saturating_add(interval);
            (full_at - now <= tolerance).then_some(full_at)
        });
        taken.map(|_| ()).map_err(|full_at| {
            Duration::from_nanos(
                full_at.saturating_add(interval).saturating_sub(now).saturating_sub(tolerance),
            )
        })
    }

    pub(crate) fn is_full(&self, now: Duration) -> bool {
        self.0.load(Ordering::Acquire) <= nanoseconds(now)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
