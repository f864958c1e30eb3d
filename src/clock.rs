//! Wall clock, monotonic clock and random number generator, as traits that are injected: tests can set the time and fix
//! the randomness.
//!
//! Wall-clock times are whole seconds since the Unix epoch, like a JWT's `NumericDate` (RFC 7519, section 2).

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since the Unix epoch, in 64 bits, so that no time overflows in 2038.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UnixTime(i64);

impl UnixTime {
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    pub const fn seconds(self) -> i64 {
        self.0
    }

    /// Adds the whole seconds of `duration`. Saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `self` until `later`; negative if `later` is the earlier of the two.
    pub(crate) const fn seconds_until(self, later: Self) -> i64 {
        later.0.saturating_sub(self.0)
    }

    /// This time as date and time in UTC. A time that `OffsetDateTime` can't represent becomes the end of the year 9999.
    pub(crate) fn date_time(self) -> OffsetDateTime {
        let latest = time::macros::datetime!(9999-12-31 23:59:59 UTC);
        OffsetDateTime::from_unix_timestamp(self.0).unwrap_or(latest)
    }
}

impl From<OffsetDateTime> for UnixTime {
    fn from(moment: OffsetDateTime) -> Self {
        Self(moment.unix_timestamp())
    }
}

/// Writes RFC 3339 in UTC; the number of seconds for a year that RFC 3339 can't state.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.date_time().format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// A wall clock together with a monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time. It jumps when the host's time is corrected.
    fn now(&self) -> UnixTime;

    /// The monotonic time: time since a fixed moment, unaffected by corrections of the wall clock.
    fn monotonic(&self) -> Duration;
}

/// The host's clocks.
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the only reader of the host's wall clock")]
    fn now(&self) -> UnixTime {
        let seconds = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        };
        UnixTime(seconds)
    }
}

/// A clock for tests, which moves only when a test sets or advances it.
pub struct ManualClock {
    wall: AtomicI64,
    monotonic: AtomicU64,
}

impl ManualClock {
    pub const fn at(now: UnixTime) -> Self {
        Self { wall: AtomicI64::new(now.0), monotonic: AtomicU64::new(0) }
    }

    /// Sets the wall clock only, like a correction of the host's time.
    pub fn set(&self, now: UnixTime) {
        self.wall.store(now.0, Ordering::SeqCst);
    }

    /// Advances both clocks by the whole seconds of `by`.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
        self.monotonic.fetch_add(by.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.monotonic.load(Ordering::SeqCst))
    }
}

/// A cryptographically secure random number generator.
pub trait Randomness: Send + Sync + 'static {
    /// Fills `into` with unpredictable bytes.
    ///
    /// # Errors
    /// The generator failed. The content of `into` must not be used then.
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host gave no random bytes")]
pub struct NoRandomness;

/// The random number generator of aws-lc, seeded by the host.
#[derive(Default)]
pub struct SystemRandomness(SystemRandom);

impl Randomness for SystemRandomness {
    fn fill(&self, into: &mut [u8]) -> Result<(), NoRandomness> {
        self.0.fill(into).map_err(|_| NoRandomness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_also_after_2038() {
        assert_eq!(UnixTime::from_seconds(2_208_988_800).to_string(), "2040-01-01T00:00:00Z");
        assert_eq!(UnixTime::from_seconds(0).plus(Duration::from_millis(1999)).seconds(), 1);
    }
}
