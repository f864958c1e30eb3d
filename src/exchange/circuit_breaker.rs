//! Circuit breaker for each Salesforce host.
//!
//! [`FAILURE_THRESHOLD`] consecutive failures open the circuit. While it is open, one trial exchange is allowed per
//! [`TRIAL_INTERVAL`] (half-open state). A request that is turned away also triggers a health probe, at most one per
//! [`PROBE_INTERVAL`]: a bare GET, which isn't a login. If the probe succeeds, the next request is a trial at once. A
//! host that answers probes but fails logins therefore gets one trial per [`PROBE_INTERVAL`].
//!
//! If all failures have the same cache key, its profile or user may be the cause. Then the circuit is open for that key
//! alone, until an exchange for another key fails too. An answer that isn't a host failure
//! ([`is_host_failure`](super::ExchangeError::is_host_failure)) closes the circuit for all keys.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::request::CacheKey;

const FAILURE_THRESHOLD: u32 = 3;
/// Minimum time between two trials, unless a health probe succeeds. Half an hour without any answer causes at most forty
/// exchanges for one cache key.
const TRIAL_INTERVAL: Duration = Duration::from_mins(1);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Result of [`CircuitBreaker::check`].
pub(crate) enum CircuitCheck<'a> {
    Allowed(CircuitPermit<'a>),
    /// No exchange now. If `probe` is set, the caller must send a health probe.
    Open {
        retry_after: Duration,
        probe: bool,
    },
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    /// The cache key of all consecutive failures, if they have the same one.
    sole_key: Option<CacheKey>,
    /// When the next trial is allowed; `None` while the circuit is closed.
    next_trial: Option<Duration>,
    next_probe: Duration,
    recovered_at: Duration,
}

/// The circuits, by host. All times are from the monotonic clock.
#[derive(Default)]
pub(crate) struct CircuitBreaker(Mutex<HashMap<String, Circuit>>);

/// Permission to send one request. Dropping the permit of a trial without recording a result allows the next request to
/// be the trial.
pub(crate) struct CircuitPermit<'a> {
    breaker: &'a CircuitBreaker,
    host: String,
    cache_key: CacheKey,
    /// If this is a trial: when it was taken.
    trial: Option<Duration>,
}

impl CircuitBreaker {
    fn with_circuit<T>(&self, host: &str, act: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !circuits.contains_key(host) {
            circuits.insert(host.to_owned(), Circuit::default());
        }
        act(circuits.get_mut(host).expect("inserted above"))
    }

    /// Checks whether an exchange for `cache_key` with `host` is allowed.
    pub(crate) fn check(&self, host: &str, cache_key: CacheKey, now: Duration) -> CircuitCheck<'_> {
        let permit = |trial| {
            CircuitCheck::Allowed(CircuitPermit { breaker: self, host: host.to_owned(), cache_key, trial })
        };
        self.with_circuit(host, |circuit| match circuit.next_trial {
            None => permit(None),
            Some(_) if circuit.sole_key.is_some_and(|sole_key| sole_key != cache_key) => permit(None),
            Some(trial) if trial <= now => {
                // This request is the trial; the circuit stays open for the others.
                circuit.next_trial = Some(now + TRIAL_INTERVAL);
                permit(Some(now))
            }
            Some(trial) => {
                let probe = circuit.next_probe <= now;
                if probe {
                    circuit.next_probe = now + PROBE_INTERVAL;
                }
                CircuitCheck::Open { retry_after: PROBE_INTERVAL.min(trial.saturating_sub(now)), probe }
            }
        })
    }

    /// Records a successful health probe: the next exchange is a trial, and earlier cached failures of the host don't apply.
    /// Has no effect while the circuit is closed.
    pub(crate) fn record_recovery(&self, host: &str, now: Duration) {
        self.with_circuit(host, |circuit| {
            if circuit.next_trial.is_some() {
                circuit.next_trial = Some(now);
                circuit.recovered_at = now;
            }
        });
    }

    /// Whether a health probe has succeeded after a failure at `when`.
    pub(crate) fn has_recovered_since(&self, host: &str, when: Duration) -> bool {
        self.with_circuit(host, |circuit| circuit.recovered_at > when)
    }
}

impl CircuitPermit<'_> {
    /// Closes the circuit: the host has answered, even if with a refusal.
    pub(crate) fn record_answer(mut self) {
        self.trial = None;
        self.breaker.with_circuit(&self.host, |circuit| {
            circuit.failures = 0;
            circuit.next_trial = None;
        });
    }

    /// Counts a failure at `now`; opens the circuit at the threshold.
    pub(crate) fn record_failure(mut self, now: Duration) {
        self.trial = None;
        self.breaker.with_circuit(&self.host, |circuit| {
            let is_sole_key = circuit.failures == 0 || circuit.sole_key == Some(self.cache_key);
            circuit.sole_key = is_sole_key.then_some(self.cache_key);
            circuit.failures = circuit.failures.saturating_add(1);
            if circuit.failures >= FAILURE_THRESHOLD {
                circuit.next_trial = Some(now + TRIAL_INTERVAL);
                circuit.next_probe = now + PROBE_INTERVAL;
            }
        });
    }
}

impl Drop for CircuitPermit<'_> {
    fn drop(&mut self) {
        let Some(taken) = self.trial else { return };
        self.breaker.with_circuit(&self.host, |circuit| {
            if circuit.next_trial == Some(taken + TRIAL_INTERVAL) {
                circuit.next_trial = Some(taken);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn cache_key(n: u8) -> CacheKey {
        CacheKey::from_bytes([n; 32])
    }

    fn allowed<'a>(breaker: &'a CircuitBreaker, host: &str, now: Duration) -> Option<CircuitPermit<'a>> {
        match breaker.check(host, cache_key(0), now) {
            CircuitCheck::Allowed(permit) => Some(permit),
            CircuitCheck::Open { .. } => None,
        }
    }

    fn open(breaker: &CircuitBreaker, now: Duration) -> Option<(Duration, bool)> {
        open_for(breaker, 0, now)
    }

    fn open_for(breaker: &CircuitBreaker, n: u8, now: Duration) -> Option<(Duration, bool)> {
        match breaker.check("h", cache_key(n), now) {
            CircuitCheck::Allowed(_) => None,
            CircuitCheck::Open { retry_after, probe } => Some((retry_after, probe)),
        }
    }

    #[test]
    fn three_failures_open_the_circuit_and_a_successful_probe_allows_one_trial() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            allowed(&breaker, "h", s(n)).expect("closed").record_failure(s(n));
        }
        assert_eq!(open(&breaker, s(4)), Some((s(10), false)));
        assert_eq!(open(&breaker, s(13)), Some((s(10), true)));
        assert_eq!(open(&breaker, s(13)), Some((s(10), false)));
        assert!(allowed(&breaker, "other", s(13)).is_some());
        breaker.record_recovery("h", s(14));
        assert!(breaker.has_recovered_since("h", s(3)) && !breaker.has_recovered_since("h", s(14)));
        let trial = allowed(&breaker, "h", s(15)).expect("a trial");
        assert!(allowed(&breaker, "h", s(15)).is_none(), "one trial at a time");
        trial.record_answer();
        assert!(allowed(&breaker, "h", s(16)).is_some());
    }

    #[test]
    fn failures_of_one_cache_key_block_no_other_until_another_fails_too() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            allowed(&breaker, "h", s(n)).expect("closed").record_failure(s(n));
        }
        let allowed_for_other = |now| match breaker.check("h", cache_key(1), now) {
            CircuitCheck::Allowed(permit) => Some(permit),
            CircuitCheck::Open { .. } => None,
        };
        assert!(open(&breaker, s(4)).is_some());
        allowed_for_other(s(4)).expect("allowed for another key").record_answer();
        allowed(&breaker, "h", s(5)).expect("the host answers").record_failure(s(5));
        for n in 6..=7 {
            allowed(&breaker, "h", s(n)).expect("closed").record_failure(s(n));
        }
        allowed_for_other(s(8)).expect("allowed for another key").record_failure(s(8));
        for n in 0..=2 {
            assert!(open_for(&breaker, n, s(9)).is_some(), "{n}");
        }
    }

    /// For example, the login rate limit can stop a trial before anything is sent. That says nothing about the host.
    #[test]
    fn an_unused_trial_goes_to_the_next_request() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            allowed(&breaker, "h", s(n)).expect("closed").record_failure(s(n));
        }
        drop(allowed(&breaker, "h", s(63)).expect("a trial"));
        allowed(&breaker, "h", s(64)).expect("another trial").record_answer();
        assert!(allowed(&breaker, "h", s(64)).is_some());
    }

    #[test]
    fn half_an_hour_of_outage_causes_at_most_forty_requests() {
        let breaker = CircuitBreaker::default();
        let mut requests = 0;
        for second in 0..1800 {
            if let Some(permit) = allowed(&breaker, "h", s(second)) {
                requests += 1;
                permit.record_failure(s(second));
            }
        }
        assert!(requests <= 40, "{requests}");
    }
}
