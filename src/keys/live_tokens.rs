//! What became of a key since the process started: how many tokens that it signed may still live. A reload carries it over
//! to the same key.
//!
//! Counts are for people and metrics; nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::UnixTime;

/// Tokens are counted by the ten minutes in which they expire.
const BUCKET_SECONDS: i64 = 600;
/// Enough of them for a token of a day's life.
const BUCKETS: usize = 160;
/// A bucket holds which ten minutes it counts, and the count.
const COUNT_BITS: u32 = 32;

pub struct LiveTokenCounter {
    expiring: [AtomicU64; BUCKETS],
}

impl Default for LiveTokenCounter {
    fn default() -> Self {
        Self { expiring: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl LiveTokenCounter {
    /// One more token that expires then.
    pub fn record(&self, expires_at: UnixTime) {
        let period = period(expires_at);
        let slot = usize::try_from(period).unwrap_or_default() % BUCKETS;
        let counted = |bucket: u64| {
            let same = bucket >> COUNT_BITS == period;
            Some(if same { bucket + 1 } else { period << COUNT_BITS | 1 })
        };
        let _ = self.expiring[slot].fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    }

    /// How many tokens may live: at most this many, and at least those of them that don't end within ten minutes.
    pub fn count(&self, now: UnixTime) -> u64 {
        let now = period(now);
        let buckets = self.expiring.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        buckets.filter(|bucket| bucket >> COUNT_BITS >= now).map(|bucket| bucket & u64::from(u32::MAX)).sum()
    }
}

fn period(moment: UnixTime) -> u64 {
    u64::try_from(moment.seconds() / BUCKET_SECONDS).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_count_while_they_live_and_no_longer() {
        let at = UnixTime::from_seconds;
        let counter = LiveTokenCounter::default();
        counter.record(at(3_600));
        counter.record(at(3_600));
        counter.record(at(86_400));
        assert_eq!(counter.count(at(0)), 3);
        assert_eq!(counter.count(at(3_599)), 3);
        assert_eq!(counter.count(at(4_200)), 1);
        // A bucket that comes round again forgets what it counted.
        let again = 3_600 + BUCKET_SECONDS * i64::try_from(BUCKETS).expect("small");
        counter.record(at(again));
        assert_eq!(counter.count(at(again)), 1);
    }
}
