//! Circuit breaker: when to leave a host of Salesforce alone. After three failures in a row nothing more is exchanged
//! there, but for one trial a minute. Meanwhile a bare GET, which is no login, finds out within seconds that the host is
//! back, and a trial is made at once: where the GET is answered and logins fail, that is one each ten seconds.
//!
//! Where all three were one asker's, a profile's or a user's, the fault may be its own: only that asker is kept waiting, until
//! another's exchange fails too.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::job::CacheKey;

const FAILURES: u32 = 3;
/// Between two trials: in half an hour in which nothing answers there are fewer than forty requests.
const TRIAL_EVERY: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// What may be done now.
pub enum Admission<'a> {
    Go(Permit<'a>),
    /// Not now; ask the host whether it is back, where `probe`.
    Wait {
        retry_after: Duration,
        probe: bool,
    },
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    /// Whose failures all of them were, if they were one asker's.
    sole: Option<CacheKey>,
    /// Open until then, if it is open.
    next_trial: Option<Duration>,
    next_probe: Duration,
    recovered_at: Duration,
}

/// One circuit a host. Times are steady ones.
#[derive(Default)]
pub struct CircuitBreaker(Mutex<HashMap<String, Circuit>>);

/// One request that may be sent. Dropped without a word of what came of it, it is another's.
pub struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    host: String,
    asker: CacheKey,
    /// When it was taken, where the circuit is open.
    trial: Option<Duration>,
}

impl CircuitBreaker {
    fn with<T>(&self, host: &str, act: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !circuits.contains_key(host) {
            circuits.insert(host.to_owned(), Circuit::default());
        }
        act(circuits.get_mut(host).expect("it was just put there"))
    }

    /// Asks for one exchange.
    pub fn admit(&self, host: &str, asker: CacheKey, now: Duration) -> Admission<'_> {
        let permit = |trial| Admission::Go(Permit { breaker: self, host: host.to_owned(), asker, trial });
        self.with(host, |circuit| match circuit.next_trial {
            None => permit(None),
            Some(_) if circuit.sole.is_some_and(|sole| sole != asker) => permit(None),
            Some(trial) if trial <= now => {
                // This one is the trial; the others go on waiting.
                circuit.next_trial = Some(now + TRIAL_EVERY);
                permit(Some(now))
            }
            Some(trial) => {
                let probe = circuit.next_probe <= now;
                if probe {
                    circuit.next_probe = now + PROBE_EVERY;
                }
                Admission::Wait { retry_after: PROBE_EVERY.min(trial.saturating_sub(now)), probe }
            }
        })
    }

    /// The host answers again: the next exchange is a trial, and what failed before it is forgotten.
    pub fn is_back(&self, host: &str, now: Duration) {
        self.with(host, |circuit| {
            if circuit.next_trial.is_some() {
                circuit.next_trial = Some(now);
                circuit.recovered_at = now;
            }
        });
    }

    /// Whether a failure at `when` was before the host came back.
    pub fn is_past(&self, host: &str, when: Duration) -> bool {
        self.with(host, |circuit| circuit.recovered_at > when)
    }
}

impl Permit<'_> {
    /// The host has answered, whatever it said.
    pub fn answered(mut self) {
        self.trial = None;
        self.breaker.with(&self.host, |circuit| {
            circuit.failures = 0;
            circuit.next_trial = None;
        });
    }

    pub fn failed(mut self, now: Duration) {
        self.trial = None;
        self.breaker.with(&self.host, |circuit| {
            let is_sole = circuit.failures == 0 || circuit.sole == Some(self.asker);
            circuit.sole = is_sole.then_some(self.asker);
            circuit.failures = circuit.failures.saturating_add(1);
            if circuit.failures >= FAILURES {
                circuit.next_trial = Some(now + TRIAL_EVERY);
                circuit.next_probe = now + PROBE_EVERY;
            }
        });
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let Some(taken) = self.trial else { return };
        self.breaker.with(&self.host, |circuit| {
            if circuit.next_trial == Some(taken + TRIAL_EVERY) {
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

    const fn asker(n: u8) -> CacheKey {
        CacheKey::from_bytes([n; 32])
    }

    fn go<'a>(breaker: &'a CircuitBreaker, host: &str, now: Duration) -> Option<Permit<'a>> {
        match breaker.admit(host, asker(0), now) {
            Admission::Go(permit) => Some(permit),
            Admission::Wait { .. } => None,
        }
    }

    fn wait(breaker: &CircuitBreaker, now: Duration) -> Option<(Duration, bool)> {
        wait_as(breaker, 0, now)
    }

    fn wait_as(breaker: &CircuitBreaker, n: u8, now: Duration) -> Option<(Duration, bool)> {
        match breaker.admit("h", asker(n), now) {
            Admission::Go(_) => None,
            Admission::Wait { retry_after, probe } => Some((retry_after, probe)),
        }
    }

    #[test]
    fn three_failures_open_it_and_a_probe_lets_one_trial_through() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            go(&breaker, "h", s(n)).expect("closed").failed(s(n));
        }
        assert_eq!(wait(&breaker, s(4)), Some((s(10), false)));
        assert_eq!(wait(&breaker, s(13)), Some((s(10), true)));
        assert_eq!(wait(&breaker, s(13)), Some((s(10), false)));
        assert!(go(&breaker, "other", s(13)).is_some());
        breaker.is_back("h", s(14));
        assert!(breaker.is_past("h", s(3)) && !breaker.is_past("h", s(14)));
        let trial = go(&breaker, "h", s(15)).expect("a trial");
        assert!(go(&breaker, "h", s(15)).is_none(), "one trial at a time");
        trial.answered();
        assert!(go(&breaker, "h", s(16)).is_some());
    }

    #[test]
    fn one_asker_s_failures_keep_no_other_waiting_until_another_s_fails_too() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            go(&breaker, "h", s(n)).expect("closed").failed(s(n));
        }
        let as_other = |now| match breaker.admit("h", asker(1), now) {
            Admission::Go(permit) => Some(permit),
            Admission::Wait { .. } => None,
        };
        assert!(wait(&breaker, s(4)).is_some());
        as_other(s(4)).expect("another's").answered();
        go(&breaker, "h", s(5)).expect("the host answers").failed(s(5));
        for n in 6..=7 {
            go(&breaker, "h", s(n)).expect("closed").failed(s(n));
        }
        as_other(s(8)).expect("another's").failed(s(8));
        for n in 0..=2 {
            assert!(wait_as(&breaker, n, s(9)).is_some(), "{n}");
        }
    }

    /// What ends before anything is sent, as with a budget that is used up, says nothing of the host.
    #[test]
    fn a_trial_that_was_not_made_is_the_next_one_s() {
        let breaker = CircuitBreaker::default();
        for n in 1..=3 {
            go(&breaker, "h", s(n)).expect("closed").failed(s(n));
        }
        drop(go(&breaker, "h", s(63)).expect("a trial"));
        go(&breaker, "h", s(64)).expect("the trial of another").answered();
        assert!(go(&breaker, "h", s(64)).is_some());
    }

    #[test]
    fn half_an_hour_of_outage_is_fewer_than_forty_requests() {
        let breaker = CircuitBreaker::default();
        let mut requests = 0;
        for second in 0..1800 {
            if let Some(permit) = go(&breaker, "h", s(second)) {
                requests += 1;
                permit.failed(s(second));
            }
        }
        assert!(requests <= 40, "{requests}");
    }
}
