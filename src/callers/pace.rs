//! How often may one ask: token buckets, for callers and for each subject of theirs; and for how many subjects.
//!
//! A page whose token Salesforce refuses has been seen to ask for another forty times a second. That freezes
//! its tab and hides the real fault; a person with many tabs asks a few times a minute.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::iter::once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::{NoRandomness, Randomness};
use crate::config::{Name, Pace, ProfileName};
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
    pub fn take(&self, pace: Pace, now: Duration) -> Result<(), Duration> {
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
    pace: Pace,
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
    pub fn new(pace: Pace, randomness: &dyn Randomness) -> Result<Self, NoRandomness> {
        let mut salt = [0; 16];
        randomness.fill(&mut salt)?;
        // Idle for so long, a bucket is full, and may be forgotten.
        let idle = pace.window.saturating_mul(pace.burst / pace.requests.max(1) + 1);
        let buckets = Cache::builder().max_capacity(MOST_SUBJECTS).time_to_idle(idle).build();
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

const MINUTE: u64 = 60;

/// How many different subjects a caller may name in a minute: what a stolen credential is worth.
///
/// Minutes are those of the steady clock, one after the other, so that the count is exact and its memory bounded: one
/// hash, salted anew for each caller and load, for each subject within the budget.
pub struct Budget {
    most: usize,
    salt: RandomState,
    minute: Mutex<Minute>,
}

#[derive(Default)]
struct Minute {
    number: u64,
    seen: HashSet<u64>,
    exceeded: bool,
    storming: bool,
}

impl Budget {
    pub fn new(subjects_per_minute: u32) -> Self {
        let most = usize::try_from(subjects_per_minute).unwrap_or(usize::MAX);
        Self { most, salt: RandomState::new(), minute: Mutex::default() }
    }

    /// Counts `subject` in the minute that the steady time `now` is in.
    ///
    /// # Errors
    /// It is one too many. A storm is over after a minute without.
    pub fn admit(&self, subject: &Subject, now: Duration) -> Result<(), TooOften> {
        let hash = self.salt.hash_one(subject.as_str());
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let number = now.as_secs() / MINUTE;
        if number != minute.number {
            minute.storming &= minute.exceeded && number == minute.number + 1;
            minute.exceeded = false;
            minute.number = number;
            minute.seen.clear();
        }
        if minute.seen.contains(&hash) || minute.seen.len() < self.most {
            minute.seen.insert(hash);
            return Ok(());
        }
        minute.exceeded = true;
        let begins = !std::mem::replace(&mut minute.storming, true);
        Err(TooOften { retry_after: Duration::from_secs((number + 1) * MINUTE).saturating_sub(now), begins })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_A_SECOND: Pace = Pace { requests: 2, window: Duration::from_secs(1), burst: 3 };

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

    #[test]
    fn a_budget_counts_different_subjects_and_begins_anew_each_minute() {
        let budget = Budget::new(2);
        let admit = |sub: &str, seconds| {
            let subject = Subject::parse("sub", sub.to_owned()).expect("a subject");
            budget.admit(&subject, Duration::from_secs(seconds))
        };
        let refused = |seconds, begins| Err(TooOften { retry_after: Duration::from_secs(seconds), begins });
        assert!(["a", "b", "a", "b", "a"].into_iter().all(|sub| admit(sub, 10).is_ok()));
        assert_eq!(admit("c", 10), refused(50, true));
        assert_eq!(admit("d", 59), refused(1, false));
        assert_eq!(admit("b", 59), Ok(()), "who was counted may come again");
        assert!(admit("c", 60).is_ok() && admit("d", 60).is_ok());
        assert_eq!(admit("e", 61), refused(59, false), "the same storm");
        assert!(admit("e", 120).is_ok() && admit("f", 180).is_ok() && admit("g", 180).is_ok());
        assert_eq!(admit("h", 180), refused(60, true), "another storm, after a minute without");
    }
}
