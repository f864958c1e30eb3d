//! Computes which key signs and which keys are published, from a schedule, the rules and the clock alone. The service and
//! the commands all use it.
//!
//! - The key with the latest `sign_from` that has passed signs.
//! - If that key was retired, the latest earlier signer that verifiers know at the time of the retirement takes over. They know a
//!   key that has been published for the lead, or signed without the lead in an emergency, and hasn't left the JWKS.
//! - Otherwise no key signs until the next `sign_from`.
//!
//! The result depends on nothing else, so all replicas agree.

use std::time::Duration;

use super::schedule::ScheduleEntry;
use crate::clock::UnixTime;

/// The state of a key at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published so that verifiers know it before it signs.
    Pending,
    /// Published, and signs.
    Signing,
    /// Published while tokens that it signed may be valid.
    Retiring,
    /// Neither published nor signing.
    Gone,
}

/// A period in which a key signs. `None` means no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningPeriod {
    pub(crate) from: Option<UnixTime>,
    pub until: Option<UnixTime>,
}

impl SigningPeriod {
    fn has_begun(&self, now: UnixTime) -> bool {
        self.from.is_none_or(|from| from <= now)
    }

    fn has_ended(&self, now: UnixTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// When one key signs and until when it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValidity {
    /// The key's entry in the schedule. A `retired` in the future is set to the time of the computation: the retirement has happened
    /// all the same.
    pub entry: ScheduleEntry,
    /// The periods in which it signs, in order. It gets another one if it takes over from a retired key.
    pub signing_periods: Vec<SigningPeriod>,
    /// When it leaves the JWKS: [`RotationRules::longest_life`] and [`RotationRules::retire_margin`] after its last signing
    /// period, or at its retirement if that is earlier. `None` while no end is known.
    pub(crate) published_until: Option<UnixTime>,
}

impl KeyValidity {
    pub fn state(&self, now: UnixTime) -> KeyState {
        if self.entry.retired.is_some() || self.published_until.is_some_and(|until| until <= now) {
            KeyState::Gone
        } else if self.signing_periods.iter().any(|period| period.has_begun(now) && !period.has_ended(now)) {
            KeyState::Signing
        } else if self.has_signed(now) {
            KeyState::Retiring
        } else {
            KeyState::Pending
        }
    }

    /// Whether its first signing period has begun.
    pub(crate) fn has_signed(&self, now: UnixTime) -> bool {
        self.signing_periods.first().is_some_and(|period| period.has_begun(now))
    }

    /// The beginning of its first signing period, or its `sign_from` if it has none.
    pub(crate) fn signs_from(&self) -> Option<UnixTime> {
        self.signing_periods.first().map_or(self.entry.sign_from, |period| period.from)
    }

    /// The end of the signing period at `now`, or of the next one, or of the last one if all have ended.
    pub(crate) fn signs_until(&self, now: UnixTime) -> Option<UnixTime> {
        self.signing_periods
            .iter()
            .find(|period| !period.has_ended(now))
            .or_else(|| self.signing_periods.last())?
            .until
    }

    /// The first time from `now` on at which it signs.
    pub(crate) fn next_signing_time(&self, now: UnixTime) -> Option<UnixTime> {
        let period = self.signing_periods.iter().find(|period| !period.has_ended(now))?;
        Some(period.from.map_or(now, |from| from.max(now)))
    }

    /// The next time after `now` at which its state may change.
    pub fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let signing_periods = self.signing_periods.iter().flat_map(|period| [period.from, period.until]);
        signing_periods.chain([self.published_until]).flatten().filter(|change| *change > now).min()
    }
}

/// The durations that govern rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationRules {
    /// A key is published for at least this long before it signs, except in an emergency. Without an `added` date, only a
    /// reload of a running service checks that.
    pub publish_lead: Duration,
    /// The longest lifetime of a token that the keys may have signed.
    pub longest_life: Duration,
    /// A key stays published for this long beyond the expiry of the last token that it may have signed, unless it is retired.
    pub retire_margin: Duration,
}

impl RotationRules {
    /// The time at which a key whose signing period ended at `until` leaves the JWKS.
    fn leaves_jwks_at(&self, until: UnixTime) -> UnixTime {
        until.plus(self.longest_life).plus(self.retire_margin)
    }

    /// Computes the validity of each of `entries` at `now`. They must be in order of `sign_from`.
    pub fn validities(&self, entries: &[ScheduleEntry], now: UnixTime) -> Vec<KeyValidity> {
        // A retirement with a date in the future, by another clock, has happened all the same.
        let retired = |entry: &ScheduleEntry| entry.retired.map(|at| at.min(now));
        let mut events: Vec<(Option<UnixTime>, TimelineEvent)> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let never_signs = match (entry.sign_from, retired(entry)) {
                (Some(from), Some(retired)) => retired <= from,
                (None, retired) => retired.is_some(),
                (Some(_), None) => false,
            };
            if !never_signs {
                events.push((entry.sign_from, TimelineEvent::Start(index)));
                events.extend(retired(entry).map(|at| (Some(at), TimelineEvent::Retirement(index))));
            }
        }
        // At the same time, starts come before retirements. Among starts, a key that isn't retired comes last, so that it takes over.
        events.sort_by_key(|(at, event)| match event {
            TimelineEvent::Start(index) => (*at, false, entries[*index].retired.is_none()),
            TimelineEvent::Retirement(_) => (*at, true, true),
        });

        let mut signing_periods: Vec<Vec<SigningPeriod>> = vec![Vec::new(); entries.len()];
        let mut current: Option<usize> = None;
        for (at, event) in events {
            let next = match event {
                TimelineEvent::Start(index) => Some(index),
                TimelineEvent::Retirement(index) if current == Some(index) => {
                    at.and_then(|at| self.successor(entries, &signing_periods, index, at, now))
                }
                TimelineEvent::Retirement(_) => continue,
            };
            if let Some(period) = current.and_then(|index| signing_periods[index].last_mut()) {
                period.until = at;
            }
            if let Some(index) = next {
                signing_periods[index].push(SigningPeriod { from: at, until: None });
            }
            current = next;
        }
        let validities = entries.iter().zip(signing_periods).map(|(entry, mut signing_periods)| {
            signing_periods.retain(|period| period.until.is_none() || period.from < period.until);
            let published_until = signing_periods
                .last()
                .and_then(|period| period.until)
                .map(|until| self.leaves_jwks_at(until));
            let retired = retired(entry);
            KeyValidity {
                entry: ScheduleEntry { retired, ..entry.clone() },
                signing_periods,
                published_until: [published_until, retired].into_iter().flatten().min(),
            }
        });
        validities.collect()
    }

    /// Chooses the key that signs after the key `gone` was retired at `at`: the latest earlier signer that verifiers know.
    fn successor(
        &self,
        entries: &[ScheduleEntry],
        signing_periods: &[Vec<SigningPeriod>],
        gone: usize,
        at: UnixTime,
        now: UnixTime,
    ) -> Option<usize> {
        let ended = |index: usize| signing_periods[index].last().and_then(|period| period.until);
        (0..entries.len())
            .filter(|index| {
                *index != gone && entries[*index].retired.is_none_or(|retired| retired.min(now) > at)
            })
            .filter(|index| self.is_known_to_verifiers(&entries[*index], at))
            .filter(|index| ended(*index).is_some_and(|until| at < self.leaves_jwks_at(until)))
            .max_by_key(|index| ended(*index))
    }

    /// Whether verifiers know a published key at `at`. They may not know one that was listed late, with a signing period in the past.
    fn is_known_to_verifiers(&self, entry: &ScheduleEntry, at: UnixTime) -> bool {
        let since = entry.added.or(entry.sign_from);
        entry.emergency || since.is_none_or(|since| since.plus(self.publish_lead) <= at)
    }
}

#[derive(Clone, Copy)]
enum TimelineEvent {
    Start(usize),
    Retirement(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyId;

    const RULES: RotationRules = RotationRules {
        publish_lead: Duration::from_hours(24),
        longest_life: Duration::from_mins(1),
        retire_margin: Duration::from_hours(1),
    };
    const MONTH: i64 = 30 * 86_400;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn entries(listed: &[(&str, i64, Option<i64>)]) -> Vec<ScheduleEntry> {
        let entry = |(kid, from, retired): &(&str, i64, Option<i64>)| ScheduleEntry {
            sign_from: Some(at(*from)),
            retired: retired.map(at),
            ..ScheduleEntry::without_dates(KeyId::parse(kid).expect("an id"))
        };
        listed.iter().map(entry).collect()
    }

    /// The states of `listed` at `now`, one letter for each key.
    fn states(listed: &[(&str, i64, Option<i64>)], now: i64) -> String {
        let validities = RULES.validities(&entries(listed), at(now));
        let letter = |validity: &KeyValidity| match validity.state(at(now)) {
            KeyState::Pending => 'p',
            KeyState::Signing => 'S',
            KeyState::Retiring => 'r',
            KeyState::Gone => '-',
        };
        validities.iter().map(letter).collect()
    }

    #[test]
    fn a_key_is_pending_then_signs_then_retires_then_is_gone() {
        let two = [("a", 10, None), ("b", 1_000_000, None)];
        // One second earlier and a verifier could meet a live token whose key is gone.
        let last = 1_000_000 + 60 + 3600;
        for (now, expected) in
            [(9, "pp"), (10, "Sp"), (999_999, "Sp"), (1_000_000, "rS"), (last - 1, "rS"), (last, "-S")]
        {
            assert_eq!(states(&two, now), expected, "at {now}");
        }
        assert_eq!(RULES.validities(&entries(&two), at(0))[0].next_change(at(10)), Some(at(1_000_000)));
    }

    /// Each row: a schedule of three keys, one or two of them retired, and the states of the keys.
    #[test]
    fn a_former_signer_takes_over_only_if_verifiers_know_it() {
        let now = 2 * MONTH;
        let (soon, recent) = (2 * MONTH + 86_400, 2 * MONTH - 60);
        for (listed, expected) in [
            // `a` left the JWKS a month ago: it doesn't come back.
            ([("a", 0, None), ("b", MONTH, Some(now)), ("c", soon, None)], "--p"),
            // `a` is still retiring, so verifiers know it.
            ([("a", 0, None), ("b", recent, Some(now)), ("c", soon, None)], "S-p"),
            // `b` was retired a day ago, when `a` was gone already.
            ([("a", 0, None), ("b", MONTH, Some(now - 86_400)), ("c", soon, None)], "--p"),
            // `c` was retired while it waited: nothing changes for the others.
            ([("a", 0, None), ("b", MONTH, None), ("c", soon, Some(now))], "-S-"),
            // `a` was retired after its signing period.
            ([("a", 0, Some(now)), ("b", recent, None), ("c", soon, None)], "-Sp"),
            // Both keys that verifiers know were retired.
            ([("a", 0, Some(now)), ("b", recent, Some(now)), ("c", soon, None)], "--p"),
            // `b` was retired by a clock that is ahead.
            ([("a", 0, None), ("b", recent, Some(now + 3600)), ("c", soon, None)], "S-p"),
            // `b` was retired by a clock that is ahead, and `c` after it: `b` doesn't take over.
            ([("a", 0, None), ("b", recent, Some(now + 3600)), ("c", recent + 30, Some(now))], "S--"),
            // `a` was listed a minute ago, as if it had signed before `b`: no verifier can be sure to know it.
            ([("a", now - 60, None), ("b", now - 30, Some(now)), ("c", soon, None)], "r-p"),
            // `c` was promoted in the same second.
            ([("a", 0, None), ("b", MONTH, Some(now)), ("c", now, None)], "--S"),
        ] {
            assert_eq!(states(&listed, now), expected, "{listed:?}");
        }
    }

    #[test]
    fn a_key_that_took_over_again_stays_published_for_its_last_tokens() {
        let listed = [("a", 0, None), ("b", MONTH, Some(MONTH + 1_000)), ("c", 2 * MONTH, None)];
        let validity = &RULES.validities(&entries(&listed), at(3 * MONTH))[0];
        assert_eq!(validity.signing_periods.len(), 2);
        assert_eq!(validity.published_until, Some(at(2 * MONTH + 60 + 3600)));
    }
}
