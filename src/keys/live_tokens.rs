//! Counts the tokens that a key has signed since the process started and that may still be valid. A reload carries the count over
//! to the same key.
//!
//! The counts are for people and metrics; no decision depends on them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::UnixTime;

/// Tokens are counted by the period of ten minutes in which they expire.
const BUCKET_SECONDS: i64 = 600;
/// The number of buckets, enough for a lifetime of a day.
const BUCKETS: usize = 160;
/// A bucket holds its period in the upper bits and the count in these lower bits.
const COUNT_BITS: u32 = 32;

/// Counts tokens by the time at which they expire.
pub(crate) struct LiveTokenCounter {
    expiring: [AtomicU64; BUCKETS],
}

impl Default for LiveTokenCounter {
    fn default() -> Self {
        Self { expiring: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl LiveTokenCounter {
    /// Counts a token that expires at `expires_at`.
    pub(crate) fn record(&self, expires_at: UnixTime) {
        let period = period(expires_at);
        let slot = usize::try_from(period).unwrap_or_default() % BUCKETS;
        let counted = |bucket: u64| {
            let same = bucket >> COUNT_BITS == period;
            Some(if same { bucket + 1 } else { period << COUNT_BITS | 1 })
        };
        let _ = self.expiring[slot].fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    }

    /// Returns an upper bound of the counted tokens that are valid at `now`. It includes tokens that expired in the current ten
    /// minutes.
    pub(crate) fn count(&self, now: UnixTime) -> u64 {
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
    fn a_token_counts_until_the_period_of_its_expiry_is_over() {
        let at = UnixTime::from_seconds;
        let counter = LiveTokenCounter::default();
        counter.record(at(3_600));
        counter.record(at(3_600));
        counter.record(at(86_400));
        assert_eq!(counter.count(at(0)), 3);
        assert_eq!(counter.count(at(3_599)), 3);
        assert_eq!(counter.count(at(4_200)), 1);
        // A reused bucket starts from zero.
        let again = 3_600 + BUCKET_SECONDS * i64::try_from(BUCKETS).expect("small");
        counter.record(at(again));
        assert_eq!(counter.count(at(again)), 1);
    }
}
