//! Circuit breaker: when to leave a host of Salesforce alone. After three failures in a row nothing more is exchanged
//! there, but for one trial a minute. Meanwhile a bare GET, which is no login, finds out within seconds that the host is
//! back, and a trial is made at once: where the GET is answered and logins fail, that is one each ten seconds.
//!
//! Where all three were one asker's, a profile's or a user's, the fault may be its own: only that asker is kept waiting, until
//! another's exchange fails too.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::request::CacheKey;

const FAILURE_THRESHOLD: u32 = 3;
/// Between two trials: in half an hour in which nothing answers there are fewer than forty requests.
const TRIAL_INTERVAL: Duration = Duration::from_mins(1);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// What may be done now.
pub enum CircuitCheck<'a> {
    Allowed(CircuitPermit<'a>),
    /// Not now; ask the host whether it is back, where `probe`.
    Open {
        retry_after: Duration,
        probe: bool,
    },
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    /// Whose failures all of them were, if they were one asker's.
    sole_key: Option<CacheKey>,
    /// Open until then, if it is open.
    next_trial: Option<Duration>,
    next_probe: Duration,
    recovered_at: Duration,
}

/// One circuit a host. Times are steady ones.
#[derive(Default)]
pub struct CircuitBreaker(Mutex<HashMap<String, Circuit>>);

/// One request that may be sent. Dropped without a word of what came of it, it is another's.
pub struct CircuitPermit<'a> {
    breaker: &'a CircuitBreaker,
    host: String,
    cache_key: CacheKey,
    /// When it was taken, where the circuit is open.
    trial: Option<Duration>,
}

impl CircuitBreaker {
    fn with_circuit<T>(&self, host: &str, act: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !circuits.contains_key(host) {
            circuits.insert(host.to_owned(), Circuit::default());
        }
        act(circuits.get_mut(host).expect("it was just put there"))
    }

    /// Asks for one exchange.
    pub fn check(&self, host: &str, cache_key: CacheKey, now: Duration) -> CircuitCheck<'_> {
        let permit = |trial| {
            CircuitCheck::Allowed(CircuitPermit { breaker: self, host: host.to_owned(), cache_key, trial })
        };
        self.with_circuit(host, |circuit| match circuit.next_trial {
            None => permit(None),
            Some(_) if circuit.sole_key.is_some_and(|sole_key| sole_key != cache_key) => permit(None),
            Some(trial) if trial <= now => {
                // This one is the trial; the others go on waiting.
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

    /// The host answers again: the next exchange is a trial, and what failed before it is forgotten.
    pub fn record_recovery(&self, host: &str, now: Duration) {
        self.with_circuit(host, |circuit| {
            if circuit.next_trial.is_some() {
                circuit.next_trial = Some(now);
                circuit.recovered_at = now;
            }
        });
    }

    /// Whether a failure at `when` was before the host came back.
    pub fn has_recovered_since(&self, host: &str, when: Duration) -> bool {
        self.with_circuit(host, |circuit| circuit.recovered_at > when)
    }
}

impl CircuitPermit<'_> {
    /// The host has answered, whatever it said.
    pub fn record_answer(mut self) {
        self.trial = None;
        self.breaker.with_circuit(&self.host, |circuit| {
            circuit.failures = 0;
            circuit.next_trial = None;
        });
    }

    pub fn record_failure(mut self, now: Duration) {
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
        allowed_for_other(s(4)).expect("another's").record_answer();
        allowed(&breaker, "h", s(5)).expect("the host answers").record_failure(s(5));
        for n in 6..=7 {
            allowed(&breaker, "h", s(n)).expect("closed").record_failure(s(n));
        }
        allowed_for_other(s(8)).expect("another's").record_failure(s(8));
        for n in 0..=2 {
            assert!(open_for(&breaker, n, s(9)).is_some(), "{n}");
        }
    }

    /// What ends before anything is sent, as with a budget that is used up, says nothing of the host.
    #[test]
    fn an_unused_trial_goes_to_the_next_request() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            allowed(&breaker, "h", s(n)).expect("closed").record_failure(s(n));
        }
        drop(allowed(&breaker, "h", s(63)).expect("a trial"));
        allowed(&breaker, "h", s(64)).expect("the trial of another").record_answer();
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
