//! [`CircuitBreaker`]: after repeated failures, asks a store for a signature of that key only from time to time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::error::StoreError;

/// The consecutive failures that open the circuit.
const FAILURE_THRESHOLD: u32 = 3;
/// The time between two attempts while the circuit is open.
const TRIAL_INTERVAL: Duration = Duration::from_secs(5);

/// The circuit breaker of one key. All times are from the monotonic clock.
#[derive(Default)]
pub(super) struct CircuitBreaker(Mutex<Circuit>);

#[derive(Default)]
struct Circuit {
    failures: u32,
    /// The last failure and the time of the next attempt, while the circuit is open.
    open: Option<(StoreError, Duration)>,
}

/// No request is sent now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CircuitOpen {
    /// The last failure.
    pub(super) cause: StoreError,
    pub(super) retry_after: Duration,
}

impl CircuitBreaker {
    fn with<T>(&self, act: impl FnOnce(&mut Circuit) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request may be sent at `now`. Takes no attempt.
    pub(super) fn check(&self, now: Duration) -> Result<(), CircuitOpen> {
        self.with(|circuit| circuit.check(now))
    }

    /// Takes an attempt. While the circuit is open, there is one for each [`TRIAL_INTERVAL`].
    pub(super) fn begin(&self, now: Duration) -> Result<(), CircuitOpen> {
        self.with(|circuit| {
            circuit.check(now)?;
            if let Some((_, next)) = &mut circuit.open {
                *next = now + TRIAL_INTERVAL;
            }
            Ok(())
        })
    }

    /// Records a success. Returns whether it closed the circuit.
    pub(super) fn record_success(&self) -> bool {
        self.with(|circuit| std::mem::take(circuit).open.is_some())
    }

    /// Records a failure at `now`. Returns whether it opened the circuit.
    pub(super) fn record_failure(&self, cause: StoreError, now: Duration) -> bool {
        self.with(|circuit| {
            circuit.failures = circuit.failures.saturating_add(1);
            if circuit.failures < FAILURE_THRESHOLD {
                return false;
            }
            circuit.open.replace((cause, now + TRIAL_INTERVAL)).is_none()
        })
    }
}

impl Circuit {
    fn check(&self, now: Duration) -> Result<(), CircuitOpen> {
        match &self.open {
            Some((cause, next)) if now < *next => {
                Err(CircuitOpen { cause: cause.clone(), retry_after: next.saturating_sub(now) })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn three_failures_in_a_row_leave_one_attempt_each_five_seconds_until_one_succeeds() {
        let breaker = CircuitBreaker::default();
        let fail = |now| breaker.record_failure(StoreError::WrongSignature, now);
        assert!(!fail(s(0)) && !fail(s(0)));
        assert!(!breaker.record_success());
        assert!(!fail(s(1)) && !fail(s(1)) && fail(s(1)) && !fail(s(1)));
        let open = CircuitOpen { cause: StoreError::WrongSignature, retry_after: s(1) };
        assert_eq!(breaker.begin(s(5)), Err(open));
        assert_eq!((breaker.check(s(6)), breaker.check(s(6)), breaker.begin(s(6))), (Ok(()), Ok(()), Ok(())));
        assert!(breaker.begin(s(6)).is_err(), "one attempt");
        assert!(!fail(s(7)));
        assert!(breaker.begin(s(11)).is_err() && breaker.begin(s(12)).is_ok());
        assert!(breaker.record_success());
        assert_eq!(breaker.begin(s(12)), Ok(()));
    }

    #[test]
    fn half_an_hour_of_outage_causes_an_attempt_each_five_seconds() {
        let breaker = CircuitBreaker::default();
        let mut attempts = 0;
        for tenth in 0..18_000 {
            let now = Duration::from_millis(100 * tenth);
            if breaker.begin(now).is_ok() {
                attempts += 1;
                breaker.record_failure(StoreError::Unavailable(String::new()), now);
            }
        }
        assert!((361..=363).contains(&attempts), "{attempts}");
    }
}
