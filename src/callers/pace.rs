//! Rate limiting: how often a caller may ask, how often for one subject, and for how many subjects.
//!
//! - Requests are limited by token buckets (GCRA), different subjects by a sliding window. Neither has an edge at which
//!   the count begins anew: what is allowed in a minute is allowed in any sixty seconds.
//! - A reload carries the state over.
//!
//! A page whose token Salesforce refuses has been seen to ask for another forty times a second. That freezes
//! its tab and hides the real fault; a person with many tabs asks a few times a minute.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::iter::once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::{NoRandomness, Randomness};
use crate::config::{Name, ProfileName, RateLimit};
use crate::hash::Parts;
use crate::tokens::Subject;

/// Subjects whose buckets are remembered; a forgotten one starts full.
const MOST_SUBJECTS: u64 = 200_000;

/// A token bucket as one number, the moment at which it will be full again (the generic cell rate algorithm).
#[derive(Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token at the steady time `now`.
    ///
    /// # Errors
    /// There is none; the time until there is.
    pub fn take(&self, pace: RateLimit, now: Duration) -> Result<(), Duration> {
        let now = nanoseconds(now);
        let interval = nanoseconds(pace.window) / u64::from(pace.requests).max(1);
        let depth = interval.saturating_mul(u64::from(pace.burst));
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |full_at| {
            let full_at = full_at.max(now).saturating_add(interval);
            (full_at - now <= depth).then_some(full_at)
        });
        taken.map(|_| ()).map_err(|full_at| {
            Duration::from_nanos(full_at.saturating_add(interval).saturating_sub(now).saturating_sub(depth))
        })
    }

    fn is_full(&self, now: Duration) -> bool {
        self.0.load(Ordering::Acquire) <= nanoseconds(now)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A bucket for each caller, profile and subject. Holds hashes, salted anew at each start, and no subject.
pub struct Guard {
    buckets: Cache<[u8; 16], Arc<Watched>>,
    pace: RateLimit,
    salt: [u8; 16],
}

#[derive(Default)]
struct Watched {
    bucket: Bucket,
    storming: AtomicBool,
}

/// One subject is asked for too often, or too many are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOften {
    pub retry_after: Duration,
    /// The first refusal of a storm: the one to log.
    pub begins: bool,
}

impl Guard {
    /// # Errors
    /// No randomness for the salt.
    pub fn new(pace: RateLimit, randomness: &dyn Randomness) -> Result<Self, NoRandomness> {
        let mut salt = [0; 16];
        randomness.fill(&mut salt)?;
        // Idle for so long, a bucket is full, and may be forgotten.
        let idle = pace.window.saturating_mul(pace.burst / pace.requests.max(1) + 1);
        let buckets = Cache::builder()
            .max_capacity(MOST_SUBJECTS)
            // The default keeps newcomers out, who would then start full each time.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(idle)
            .build();
        Ok(Self { buckets, pace, salt })
    }

    /// Lets `caller` have one more token of `profile` for `subject`.
    ///
    /// # Errors
    /// It has had too many lately.
    pub fn admit(
        &self,
        caller: &Name,
        profile: &ProfileName,
        subject: &Subject,
        now: Duration,
    ) -> Result<(), TooOften> {
        let key =
            self.key(&[caller.as_str(), profile.kind.section(), profile.name.as_str(), subject.as_str()]);
        let watched = self.buckets.get_with(key, Arc::default);
        if watched.bucket.is_full(now) {
            watched.storming.store(false, Ordering::Release);
        }
        watched.bucket.take(self.pace, now).map_err(|retry_after| TooOften {
            retry_after,
            begins: !watched.storming.swap(true, Ordering::AcqRel),
        })
    }

    fn key(&self, parts: &[&str]) -> [u8; 16] {
        let parts = parts.iter().map(|part| part.as_bytes());
        let hash = Parts::of(once(self.salt.as_slice()).chain(parts));
        *hash.first_chunk().expect("SHA-256 is longer")
    }
}

const MINUTE: Duration = Duration::from_mins(1);

/// How many different subjects a caller may name in a minute: what a stolen credential is worth.
///
/// A sliding window: a subject is counted until a minute after it was last served, so no sixty seconds see more different
/// ones than are allowed. Its memory is bounded: two entries for each subject that is allowed, with salted hashes and no
/// subject in them.
#[derive(Default)]
pub struct Budget {
    salt: RandomState,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    /// When each subject was last served.
    served: HashMap<u64, Duration>,
    /// The same, the oldest first.
    by_age: BTreeSet<(Duration, u64)>,
    refused: Option<Duration>,
}

impl Budget {
    /// Counts `subject` at the steady time `now`, of `most` different ones in a minute.
    ///
    /// # Errors
    /// It is one too many. A storm is over after a minute without a refusal.
    pub fn admit(&self, subject: &Subject, most: u32, now: Duration) -> Result<(), TooOften> {
        let hash = self.salt.hash_one(subject.as_str());
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let Window { served, by_age, refused } = &mut *window;
        while let Some(&(at, oldest)) = by_age.first().filter(|(at, _)| now.saturating_sub(*at) >= MINUTE) {
            by_age.remove(&(at, oldest));
            served.remove(&oldest);
        }
        let known = served.get(&hash).copied();
        if known.is_none() && served.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            let begins = refused.is_none_or(|last| now.saturating_sub(last) >= MINUTE);
            *refused = Some(now);
            // A lower setting than before may leave more than one to wait for.
            let over = served.len().saturating_sub(most as usize);
            let free_at = by_age.iter().nth(over).map_or(now, |(at, _)| *at) + MINUTE;
            return Err(TooOften { retry_after: free_at.saturating_sub(now), begins });
        }
        if let Some(before) = known {
            by_age.remove(&(before, hash));
        }
        // Requests that come together may bring their times in any order.
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
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let bucket = Bucket::default();
        let take = |at| bucket.take(TWO_A_SECOND, ms(at));
        assert!([0, 0, 0].into_iter().all(|at| take(at).is_ok()));
        assert_eq!(take(0), Err(ms(500)));
        assert_eq!(take(400), Err(ms(100)));
        assert_eq!(take(500), Ok(()));
        assert!(take(999).is_err());
        // Full again, and never fuller than its burst.
        assert!([60_000, 60_000, 60_000].into_iter().all(|at| take(at).is_ok()));
        assert!(take(60_000).is_err());
    }

    fn subject(name: u8) -> Subject {
        Subject::parse("sub", format!("user-{name}")).expect("a subject")
    }

    #[test]
    fn a_budget_counts_different_subjects_until_a_minute_after_each_was_last_served() {
        let budget = Budget::default();
        let admit = |name, seconds| budget.admit(&subject(name), 2, Duration::from_secs(seconds));
        let refused = |seconds, begins| Err(TooOften { retry_after: Duration::from_secs(seconds), begins });
        assert!([1, 2, 1, 2, 1].into_iter().all(|name| admit(name, 50).is_ok()));
        assert_eq!(admit(3, 50), refused(60, true));
        assert_eq!(admit(4, 61), refused(49, false), "a minute of the clock is no edge");
        assert_eq!(admit(2, 70), Ok(()), "who was counted may come again");
        assert_eq!(admit(3, 109), refused(1, false));
        assert_eq!(admit(3, 110), Ok(()), "the first was last served a minute ago");
        assert_eq!(admit(4, 111), refused(19, false), "the same storm");
        assert!(admit(4, 170).is_ok() && admit(5, 170).is_ok());
        assert_eq!(admit(6, 171), refused(59, true), "another storm, after a minute without");
        assert_eq!(budget.admit(&subject(6), 1, Duration::from_secs(171)), refused(59, false));
    }

    proptest! {
        /// What is served in any sixty seconds, and that nothing is refused that could be served.
        #[test]
        fn no_minute_sees_more_subjects_than_allowed(
            most in 1..5_u32,
            asked in prop::collection::vec((0..25_000_u64, 0..8_u8), 1..200),
        ) {
            let budget = Budget::default();
            let mut served: Vec<(u64, u8)> = Vec::new();
            let mut now = 0;
            for (pause, name) in asked {
                now += pause;
                let lately = served.iter().filter(|(at, _)| now - at < 60_000).map(|(_, name)| *name);
                let mut with: BTreeSet<u8> = lately.collect();
                with.insert(name);
                let fits = with.len() <= most as usize;
                prop_assert_eq!(budget.admit(&subject(name), most, ms(now)).is_ok(), fits);
                if fits {
                    served.push((now, name));
                }
            }
        }

        #[test]
        fn no_window_sees_more_requests_than_the_burst_and_the_rate(
            burst in 1..6_u32,
            requests in 1..10_u32,
            pauses in prop::collection::vec(0..2_000_u64, 1..200),
        ) {
            let pace = RateLimit { requests, window: Duration::from_secs(1), burst };
            let bucket = Bucket::default();
            let mut now = 0;
            let mut served: Vec<u64> = Vec::new();
            for pause in pauses {
                now += pause;
                if bucket.take(pace, ms(now)).is_ok() {
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
