//! What each key of a keyset is at a moment: the one function from a schedule and the clock to who signs and what is
//! published. The service, `keys list`, `keys rotate --plan`, `keys retire` and `check` all ask it.
//!
//! The key that signs is the one with the latest `sign_from` that has passed. Where it was retired, the key that signed
//! before it takes over, if verifiers know that key at the moment of the retirement: it has been published for the lead, or
//! signed knowingly without, and hasn't left the JWKS. Otherwise none signs until the next `sign_from`. Everything follows from the files and the clock, so that all replicas agree.

use std::time::Duration;

use super::schedule::ScheduleEntry;
use crate::clock::UnixTime;

/// What becomes of a key as time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, so that verifiers know it before it signs.
    Pending,
    Signing,
    /// Published while tokens that it signed may live.
    Retiring,
    /// Neither.
    Gone,
}

/// A time in which a key signs; open at an end that is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningPeriod {
    pub from: Option<UnixTime>,
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

/// The life of one key within its keyset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValidity {
    /// The key's entry in the schedule. Its `retired` is at most the moment for which the life was computed: a retirement whose
    /// date lies ahead has happened all the same.
    pub entry: ScheduleEntry,
    /// When it signs, in order. A second turn comes where the key after it was retired.
    pub signing_periods: Vec<SigningPeriod>,
    /// The margin included; `None` while no end is known.
    pub published_until: Option<UnixTime>,
}

impl KeyValidity {
    pub fn state(&self, now: UnixTime) -> KeyState {
        if self.entry.retired.is_some() || self.published_until.is_some_and(|until| until <= now) {
            KeyState::Gone
        } else if self.signing_periods.iter().any(|turn| turn.has_begun(now) && !turn.has_ended(now)) {
            KeyState::Signing
        } else if self.has_signed(now) {
            KeyState::Retiring
        } else {
            KeyState::Pending
        }
    }

    /// Whether its first turn has begun.
    pub fn has_signed(&self, now: UnixTime) -> bool {
        self.signing_periods.first().is_some_and(|turn| turn.has_begun(now))
    }

    /// When it first signs.
    pub fn signs_from(&self) -> Option<UnixTime> {
        self.signing_periods.first().map_or(self.entry.sign_from, |turn| turn.from)
    }

    /// When the turn that runs at `now`, or the next one, ends.
    pub fn signs_until(&self, now: UnixTime) -> Option<UnixTime> {
        self.signing_periods
            .iter()
            .find(|turn| !turn.has_ended(now))
            .or_else(|| self.signing_periods.last())?
            .until
    }

    /// The first moment from `now` on at which it signs.
    pub fn next_signing_time(&self, now: UnixTime) -> Option<UnixTime> {
        let turn = self.signing_periods.iter().find(|turn| !turn.has_ended(now))?;
        Some(turn.from.map_or(now, |from| from.max(now)))
    }

    /// When its state changes next.
    pub fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let signing_periods = self.signing_periods.iter().flat_map(|turn| [turn.from, turn.until]);
        signing_periods.chain([self.published_until]).flatten().filter(|change| *change > now).min()
    }
}

/// How long verifiers need a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationRules {
    /// A key is published for at least this long before it signs.
    pub publish_lead: Duration,
    /// The longest life of a token that the keys may have signed.
    pub longest_life: Duration,
    /// A key stays published for this long beyond the last token that it may have signed.
    pub retire_margin: Duration,
}

impl RotationRules {
    /// When a key whose turn ended at `until` leaves the JWKS.
    fn leaves_jwks_at(&self, until: UnixTime) -> UnixTime {
        until.plus(self.longest_life).plus(self.retire_margin)
    }

    /// The lives of `entries`, which are in order of `sign_from`, at `now`.
    pub fn validities(&self, entries: &[ScheduleEntry], now: UnixTime) -> Vec<KeyValidity> {
        // A retirement whose date lies ahead, by a clock that differs, has happened all the same.
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
        // Of one moment, a start comes before a retirement, and that of a key that stays comes last: it takes over.
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
            if let Some(turn) = current.and_then(|index| signing_periods[index].last_mut()) {
                turn.until = at;
            }
            if let Some(index) = next {
                signing_periods[index].push(SigningPeriod { from: at, until: None });
            }
            current = next;
        }
        let validities = entries.iter().zip(signing_periods).map(|(entry, mut signing_periods)| {
            signing_periods.retain(|turn| turn.until.is_none() || turn.from < turn.until);
            let published_until =
                signing_periods.last().and_then(|turn| turn.until).map(|until| self.leaves_jwks_at(until));
            let retired = retired(entry);
            KeyValidity {
                entry: ScheduleEntry { retired, ..entry.clone() },
                signing_periods,
                published_until: [published_until, retired].into_iter().flatten().min(),
            }
        });
        validities.collect()
    }

    /// Who signs once the key `gone` was retired at `at`: the last of those that signed before and that verifiers know.
    fn successor(
        &self,
        entries: &[ScheduleEntry],
        signing_periods: &[Vec<SigningPeriod>],
        gone: usize,
        at: UnixTime,
        now: UnixTime,
    ) -> Option<usize> {
        let ended = |index: usize| signing_periods[index].last().and_then(|turn| turn.until);
        (0..entries.len())
            .filter(|index| {
                *index != gone && entries[*index].retired.is_none_or(|retired| retired.min(now) > at)
            })
            .filter(|index| self.is_known(&entries[*index], at))
            .filter(|index| ended(*index).is_some_and(|until| at < self.leaves_jwks_at(until)))
            .max_by_key(|index| ended(*index))
    }

    /// Whether a key that is published may sign at `at` without a surprise. One that was listed late, with a turn in the past,
    /// may not.
    fn is_known(&self, entry: &ScheduleEntry, at: UnixTime) -> bool {
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

    /// The states of `listed` at `now`, in a word.
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

    /// Three entries: `a` signed for a month, `b` for another, `c` waits. Each row retires some.
    #[test]
    fn a_retirement_changes_nothing_that_was_before_it() {
        let now = 2 * MONTH;
        let (soon, recent) = (2 * MONTH + 86_400, 2 * MONTH - 60);
        for (listed, expected) in [
            // `a` left the JWKS a month ago: it doesn't come back.
            ([("a", 0, None), ("b", MONTH, Some(now)), ("c", soon, None)], "--p"),
            // `a` retires still, so verifiers know it.
            ([("a", 0, None), ("b", recent, Some(now)), ("c", soon, None)], "S-p"),
            // Retired a while ago, at a moment at which `a` was gone.
            ([("a", 0, None), ("b", MONTH, Some(now - 86_400)), ("c", soon, None)], "--p"),
            // Retired while it waited: nothing changes for the others.
            ([("a", 0, None), ("b", MONTH, None), ("c", soon, Some(now))], "-S-"),
            // Retired after its turn.
            ([("a", 0, Some(now)), ("b", recent, None), ("c", soon, None)], "-Sp"),
            // Both of those that verifiers know.
            ([("a", 0, Some(now)), ("b", recent, Some(now)), ("c", soon, None)], "--p"),
            // By a clock that is ahead.
            ([("a", 0, None), ("b", recent, Some(now + 3600)), ("c", soon, None)], "S-p"),
            // One by a clock that is ahead, and the one after it: it doesn't take over.
            ([("a", 0, None), ("b", recent, Some(now + 3600)), ("c", recent + 30, Some(now))], "S--"),
            // `a` was listed a minute ago, as if it had signed before `b`: no verifier can be sure to know it.
            ([("a", now - 60, None), ("b", now - 30, Some(now)), ("c", soon, None)], "r-p"),
            // `c` was let forward in the same second.
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
