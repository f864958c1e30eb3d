//! When to leave a host of Salesforce alone: after three failures in a row nothing more is exchanged there,
//! but for one trial a minute. Meanwhile a bare GET, which is no login, finds out within seconds that the
//! host is back.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

const FAILURES: u32 = 3;
/// Between two trials: in half an hour of outage there are fewer than forty requests.
const TRIAL_EVERY: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Go,
    /// Not now; ask the host whether it is back, where `probe`.
    Wait {
        retry_after: Duration,
        probe: bool,
    },
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    /// Open until then, if it is open.
    next_trial: Option<Duration>,
    next_probe: Duration,
    recovered_at: Duration,
}

/// One circuit a host. Times are steady ones.
#[derive(Default)]
pub(super) struct Circuits(Mutex<HashMap<String, Circuit>>);

impl Circuits {
    fn with<T>(&self, origin: &str, act: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuits = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !circuits.contains_key(origin) {
            circuits.insert(origin.to_owned(), Circuit::default());
        }
        act(circuits.get_mut(origin).expect("it was just put there"))
    }

    /// Asks for one exchange.
    pub fn admit(&self, origin: &str, now: Duration) -> Admission {
        self.with(origin, |circuit| match circuit.next_trial {
            None => Admission::Go,
            Some(trial) if trial <= now => {
                // This one is the trial; the others go on waiting.
                circuit.next_trial = Some(now + TRIAL_EVERY);
                Admission::Go
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

    /// The host answered an exchange, whatever it said.
    pub fn answered(&self, origin: &str) {
        self.with(origin, |circuit| {
            circuit.failures = 0;
            circuit.next_trial = None;
        });
    }

    pub fn failed(&self, origin: &str, now: Duration) {
        self.with(origin, |circuit| {
            circuit.failures = circuit.failures.saturating_add(1);
            if circuit.failures >= FAILURES {
                circuit.next_trial = Some(now + TRIAL_EVERY);
                circuit.next_probe = now + PROBE_EVERY;
            }
        });
    }

    /// The host answers again: the next exchange is a trial, and what failed before it is forgotten.
    pub fn is_back(&self, origin: &str, now: Duration) {
        self.with(origin, |circuit| {
            if circuit.next_trial.is_some() {
                circuit.next_trial = Some(now);
                circuit.recovered_at = now;
            }
        });
    }

    /// Whether a failure at `when` was before the host came back.
    pub fn is_past(&self, origin: &str, when: Duration) -> bool {
        self.with(origin, |circuit| circuit.recovered_at > when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn three_failures_open_it_and_a_probe_lets_one_trial_through() {
        let circuits = Circuits::default();
        for n in 1..=3 {
            assert_eq!(circuits.admit("h", s(n)), Admission::Go);
            circuits.failed("h", s(n));
        }
        assert_eq!(circuits.admit("h", s(4)), Admission::Wait { retry_after: s(10), probe: false });
        assert_eq!(circuits.admit("h", s(13)), Admission::Wait { retry_after: s(10), probe: true });
        assert_eq!(circuits.admit("h", s(13)), Admission::Wait { retry_after: s(10), probe: false });
        assert_eq!(circuits.admit("other", s(13)), Admission::Go);
        circuits.is_back("h", s(14));
        assert!(circuits.is_past("h", s(3)) && !circuits.is_past("h", s(14)));
        assert_eq!(circuits.admit("h", s(15)), Admission::Go);
        assert!(matches!(circuits.admit("h", s(15)), Admission::Wait { .. }), "one trial at a time");
        circuits.answered("h");
        assert_eq!(circuits.admit("h", s(16)), Admission::Go);
    }

    #[test]
    fn half_an_hour_of_outage_is_fewer_than_forty_requests() {
        let circuits = Circuits::default();
        let mut requests = 0;
        for second in 0..1800 {
            if circuits.admit("h", s(second)) == Admission::Go {
                requests += 1;
                circuits.failed("h", s(second));
            }
        }
        assert!(requests <= 40, "{requests}");
    }
}
