//! The request rate of each caller, the minting rate of each subject, and the limit of distinct subjects per caller.
//!
//! - Token buckets (GCRA) limit requests. In any period, a bucket allows at most its burst, plus the period times its rate.
//! - A sliding window limits distinct subjects. No period of sixty seconds has more of them than the limit, unless it was lowered.
//! - A reload keeps the state, except the bucket of a caller whose rate has changed.
//!
//! The limit per subject stops pages that retry in a loop. In the field, a page whose token Salesforce rejected requested 40 new
//! ones per second, which froze its tab and hid the cause. A user with many tabs needs a few tokens per minute.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::iter::once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::{NoRandomness, Randomness};
use crate::config::{Name, ProfileName, RateLimit};
use crate::hash::PartsHasher;
use crate::token_bucket::TokenBucket;
use crate::tokens::Subject;

/// The most buckets of a [`SubjectRateLimiter`]. An evicted bucket starts full again.
const MAX_TRACKED_SUBJECTS: u64 = 200_000;

/// Limits requests for new tokens, with one token bucket for each caller, profile or bundle, and subject. Stores salted hashes
/// instead of subjects; each process has its own salt.
pub(crate) struct SubjectRateLimiter {
    buckets: Cache<[u8; 16], Arc<SubjectBucket>>,
    rate: RateLimit,
    salt: [u8; 16],
}

#[derive(Default)]
struct SubjectBucket {
    bucket: TokenBucket,
    is_limited: AtomicBool,
}

/// A rate limit is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimited {
    pub(crate) retry_after: Duration,
    /// Whether this is the first rejection of a series, which should be logged.
    pub(crate) is_first: bool,
}

impl SubjectRateLimiter {
    /// Creates the limiter with a random salt.
    ///
    /// # Errors
    /// No randomness is available.
    pub(crate) fn new(rate: RateLimit, randomness: &dyn Randomness) -> Result<Self, NoRandomness> {
        let mut salt = [0; 16];
        randomness.fill(&mut salt)?;
        // After this idle time a bucket is full, so it can be evicted.
        let idle = rate.window.saturating_mul(rate.burst / rate.requests.max(1) + 1);
        let buckets = Cache::builder()
            .max_capacity(MAX_TRACKED_SUBJECTS)
            // moka's default policy may refuse new entries. Then the bucket of a new subject would start full at each request.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(idle)
            .build();
        Ok(Self { buckets, rate, salt })
    }

    /// Counts one request of `caller` for `subject` and `profile`.
    ///
    /// # Errors
    /// The rate is exceeded.
    pub(crate) fn check_subject_rate(
        &self,
        caller: &Name,
        profile: &ProfileName,
        subject: &Subject,
        now: Duration,
    ) -> Result<(), RateLimited> {
        let key = self.key(&[
            caller.as_str(),
            profile.kind.section(),
            profile.bare_name.as_str(),
            subject.as_str(),
        ]);
        let entry = self.buckets.get_with(key, Arc::default);
        if entry.bucket.is_full(now) {
            entry.is_limited.store(false, Ordering::Release);
        }
        entry.bucket.try_acquire(self.rate, now).map_err(|retry_after| RateLimited {
            retry_after,
            is_first: !entry.is_limited.swap(true, Ordering::AcqRel),
        })
    }

    fn key(&self, parts: &[&str]) -> [u8; 16] {
        let parts = parts.iter().map(|part| part.as_bytes());
        let hash = PartsHasher::of(once(self.salt.as_slice()).chain(parts));
        *hash.first_chunk().expect("SHA-256 is longer")
    }
}

const WINDOW: Duration = Duration::from_mins(1);

/// Limits how many distinct subjects a caller can request per minute. This bounds the damage of a stolen credential.
///
/// A sliding window: a subject counts until a minute after its last allowed request. Memory is bounded to two entries per
/// allowed subject, which contain salted hashes instead of subjects.
#[derive(Default)]
pub(crate) struct DistinctSubjectLimit {
    salt: RandomState,
    window: Mutex<SubjectWindow>,
}

#[derive(Default)]
struct SubjectWindow {
    /// The time of each subject's last allowed request.
    served: HashMap<u64, Duration>,
    /// The same entries, oldest first.
    by_age: BTreeSet<(Duration, u64)>,
    last_rejected: Option<Duration>,
}

impl DistinctSubjectLimit {
    /// Counts `subject` at the monotonic time `now`, if the window has no more than `most` distinct subjects with it.
    ///
    /// # Errors
    /// The limit is exceeded. After a minute without a rejection, the next one counts as the first again.
    pub(crate) fn check_subject_limit(
        &self,
        subject: &Subject,
        most: u32,
        now: Duration,
    ) -> Result<(), RateLimited> {
        let hash = self.salt.hash_one(subject.as_str());
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let SubjectWindow { served, by_age, last_rejected } = &mut *window;
        while let Some(&(at, oldest)) = by_age.first().filter(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            by_age.remove(&(at, oldest));
            served.remove(&oldest);
        }
        let known = served.get(&hash).copied();
        if known.is_none() && served.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            let is_first = last_rejected.is_none_or(|last| now.saturating_sub(last) >= WINDOW);
            *last_rejected = Some(now);
            // After a reload with a lower limit, several subjects must leave the window first.
            let over = served.len().saturating_sub(most as usize);
            let free_at = by_age.iter().nth(over).map_or(now, |(at, _)| *at) + WINDOW;
            return Err(RateLimited { retry_after: free_at.saturating_sub(now), is_first });
        }
        if let Some(before) = known {
            by_age.remove(&(before, hash));
        }
        // Concurrent requests may arrive out of order.
        let at = known.map_or(now, |before| before.max(now));
        served.insert(hash, at);
        by_age.insert((at, hash));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_A_SECOND: RateLimit = RateLimit { requests: 2, window: Duration::from_secs(1), burst: 3 };

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let bucket = TokenBucket::default();
        let acquire = |at| bucket.try_acquire(TWO_A_SECOND, ms(at));
        assert!([0, 0, 0].into_iter().all(|at| acquire(at).is_ok()));
        assert_eq!(acquire(0), Err(ms(500)));
        assert_eq!(acquire(400), Err(ms(100)));
        assert_eq!(acquire(500), Ok(()));
        assert!(acquire(999).is_err());
        // Full again, up to its burst and no more.
        assert!([60_000, 60_000, 60_000].into_iter().all(|at| acquire(at).is_ok()));
        assert!(acquire(60_000).is_err());
    }

    fn subject(name: u8) -> Subject {
        Subject::parse("sub", format!("user-{name}")).expect("a subject")
    }

    #[test]
    fn a_subject_counts_until_a_minute_after_it_was_last_served() {
        let limit = DistinctSubjectLimit::default();
        let check =
            |name, seconds| limit.check_subject_limit(&subject(name), 2, Duration::from_secs(seconds));
        let refused =
            |seconds, is_first| Err(RateLimited { retry_after: Duration::from_secs(seconds), is_first });
        assert!([1, 2, 1, 2, 1].into_iter().all(|name| check(name, 50).is_ok()));
        assert_eq!(check(3, 50), refused(60, true));
        assert_eq!(check(4, 61), refused(49, false), "a new minute of the clock resets nothing");
        assert_eq!(check(2, 70), Ok(()), "a counted subject is still allowed");
        assert_eq!(check(3, 109), refused(1, false));
        assert_eq!(check(3, 110), Ok(()), "the first subject left the window");
        assert_eq!(check(4, 111), refused(19, false), "not the first rejection in a row");
        assert!(check(4, 170).is_ok() && check(5, 170).is_ok());
        assert_eq!(check(6, 171), refused(59, true), "the first again, after a minute without a rejection");
        assert_eq!(limit.check_subject_limit(&subject(6), 1, Duration::from_secs(171)), refused(59, false));
    }

    proptest! {
        /// Any sixty seconds have at most `most` subjects, and no request is rejected that would fit.
        #[test]
        fn no_minute_has_more_subjects_than_allowed(
            most in 1..5_u32,
            asked in prop::collection::vec((0..25_000_u64, 0..8_u8), 1..200),
        ) {
            let limit = DistinctSubjectLimit::default();
            let mut served: Vec<(u64, u8)> = Vec::new();
            let mut now = 0;
            for (pause, name) in asked {
                now += pause;
                let lately = served.iter().filter(|(at, _)| now - at < 60_000).map(|(_, name)| *name);
                let mut with: BTreeSet<u8> = lately.collect();
                with.insert(name);
                let fits = with.len() <= most as usize;
                prop_assert_eq!(limit.check_subject_limit(&subject(name), most, ms(now)).is_ok(), fits);
                if fits {
                    served.push((now, name));
                }
            }
        }

        #[test]
        fn no_window_has_more_requests_than_the_burst_and_the_rate(
            burst in 1..6_u32,
            requests in 1..10_u32,
            pauses in prop::collection::vec(0..2_000_u64, 1..200),
        ) {
            let rate = RateLimit { requests, window: Duration::from_secs(1), burst };
            let bucket = TokenBucket::default();
            let mut now = 0;
            let mut served: Vec<u64> = Vec::new();
            for pause in pauses {
                now += pause;
                if bucket.try_acquire(rate, ms(now)).is_ok() {
                    served.push(now);
                }
            }
            for (first, from) in served.iter().enumerate() {
                for (last, to) in served.iter().enumerate().skip(first) {
                    let most = u64::from(burst) + (to - from) * u64::from(requests) / 1_000;
                    prop_assert!(((last - first) as u64) < most, "{} to {}", from, to);
                }
            }
        }
    }
}
