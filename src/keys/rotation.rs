//! Key rotation: plans rotations and retirements. It has pure functions from a schedule to changes of it, without reading
//! a clock or a file.

use std::time::Duration;

use thiserror::Error;

use super::schedule::{Schedule, ScheduleChange, ScheduleEntry};
use super::timeline::{KeyState, RotationRules};
use crate::clock::UnixTime;
use crate::config::KeyId;

/// With at least this lead, the earliest `sign_from` is a whole minute, for people to read.
const WHOLE_MINUTES_FROM_LEAD: Duration = Duration::from_hours(1);

/// The reasons why a rotation can't be planned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RotationError {
    #[error(
        "`{kid}` is already waiting to sign, from {sign_from} on; one rotation at a time, or --emergency"
    )]
    UnderWay { kid: KeyId, sign_from: UnixTime },
    #[error(
        "--sign-from must be {earliest} or later, `publish_lead` from now, so that verifiers know the key before it signs; or say --emergency"
    )]
    TooSoon { earliest: UnixTime },
    #[error("--sign-from has passed: it is {now}")]
    InThePast { now: UnixTime },
    #[error("`{0}` is taken: a key id stays with its key")]
    KidTaken(KeyId),
}

/// The key that signs after a retirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Successor {
    /// The same key as before: the retired key wasn't signing, or was retired before.
    Same(KeyId),
    /// A key that signed earlier, and that verifiers know.
    Former(KeyId),
    /// A key that was published and waited to sign.
    Pending(KeyId),
    /// No key: none signed before either.
    Nobody,
    /// No key is left that could sign, so a new one must be made.
    New,
}

impl RotationRules {
    /// Returns the id of the key that signs at `now`.
    pub(crate) fn signing_kid<'a>(&self, schedule: &'a Schedule, now: UnixTime) -> Option<&'a KeyId> {
        self.states(schedule, now)
            .into_iter()
            .find(|(_, state)| *state == KeyState::Signing)
            .map(|(entry, _)| &entry.kid)
    }

    fn states<'a>(&self, schedule: &'a Schedule, now: UnixTime) -> Vec<(&'a ScheduleEntry, KeyState)> {
        let validities = self.validities(&schedule.entries, now);
        schedule
            .entries
            .iter()
            .zip(validities)
            .map(|(entry, validity)| (entry, validity.state(now)))
            .collect()
    }

    /// Plans the entry of the next key, published from `now` on.
    ///
    /// # Errors
    /// The key id is in use, another key already waits to sign, or the chosen `sign_from` is too early. `emergency` allows a second
    /// waiting key and any `sign_from` from `now` on.
    pub fn plan_next_key(
        &self,
        schedule: &Schedule,
        kid: KeyId,
        sign_from: Option<UnixTime>,
        emergency: bool,
        now: UnixTime,
    ) -> Result<ScheduleEntry, RotationError> {
        if schedule.entry(&kid).is_some() {
            return Err(RotationError::KidTaken(kid));
        }
        let states = self.states(schedule, now);
        let waiting =
            states.into_iter().find(|(_, state)| *state == KeyState::Pending).map(|(entry, _)| entry);
        if let Some(ScheduleEntry { kid, sign_from: Some(sign_from), .. }) = waiting.filter(|_| !emergency) {
            return Err(RotationError::UnderWay { kid: kid.clone(), sign_from: *sign_from });
        }
        let earliest = self.earliest_sign_from(now);
        let sign_from = match sign_from {
            Some(chosen) if chosen < earliest && !emergency => {
                return Err(RotationError::TooSoon { earliest });
            }
            // Even in an emergency, a key can't begin to sign in the past.
            Some(chosen) if chosen < now => return Err(RotationError::InThePast { now }),
            Some(chosen) => chosen,
            None if emergency => schedule.first_free_second(now),
            None => earliest,
        };
        Ok(ScheduleEntry {
            kid,
            sign_from: Some(sign_from),
            added: Some(now),
            emergency: emergency && sign_from < earliest,
            retired: None,
            remote: None,
        })
    }

    /// The earliest `sign_from` of a key that is published from `now` on.
    fn earliest_sign_from(&self, now: UnixTime) -> UnixTime {
        let exact = now.plus(self.publish_lead);
        if self.publish_lead < WHOLE_MINUTES_FROM_LEAD {
            return exact;
        }
        UnixTime::from_seconds((exact.seconds() + 59).div_euclid(60) * 60)
    }

    /// Plans the changes that retire `kid` at `now`, and says which key signs then. A key that verifiers know is preferred.
    /// If `kid` is retired already, the changes are the rest of an interrupted retirement.
    pub fn plan_retirement(
        &self,
        schedule: &Schedule,
        kid: &KeyId,
        now: UnixTime,
    ) -> (Vec<ScheduleChange>, Successor) {
        let retired = schedule.entry(kid).and_then(|entry| entry.retired);
        let is_retired = retired.is_some();
        let mut changes = Vec::new();
        // A date in the future, from another host's clock or by mistake, is corrected.
        if retired.is_none_or(|at| at > now) {
            changes.push(ScheduleChange::Retire { kid: kid.clone(), at: now });
        }
        let before = self.signing_kid(schedule, now);
        let after = changes.iter().fold(schedule.clone(), |schedule, change| schedule.with_change(change));
        let successor = match self.signing_kid(&after, now) {
            Some(signing) if before == Some(signing) => Successor::Same(signing.clone()),
            Some(signing) => Successor::Former(signing.clone()),
            None if before != Some(kid) && !is_retired => Successor::Nobody,
            None => {
                let states = self.states(&after, now);
                let pending = states.into_iter().find(|(_, state)| *state == KeyState::Pending);
                let Some(next) = pending.map(|(entry, _)| entry.kid.clone()) else {
                    return (changes, Successor::New);
                };
                changes
                    .push(ScheduleChange::Promote { kid: next.clone(), at: schedule.first_free_second(now) });
                Successor::Pending(next)
            }
        };
        (changes, successor)
    }
}

/// The key id after `kid`, with the number at its end increased by one. `None` if it doesn't end with a number.
pub fn next_kid(kid: &KeyId) -> Option<KeyId> {
    let text = kid.as_str();
    let digits = text.len() - text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (stem, number) = text.split_at(text.len() - digits);
    let next = number.parse::<u64>().ok()?.checked_add(1)?;
    KeyId::parse(&format!("{stem}{next:0digits$}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: RotationRules = RotationRules {
        publish_lead: Duration::from_hours(24),
        longest_life: Duration::from_hours(1),
        retire_margin: Duration::from_hours(1),
    };

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn kid(text: &str) -> KeyId {
        KeyId::parse(text).expect("an id")
    }

    fn schedule(entries: &[(&str, i64)]) -> Schedule {
        let entry = |(name, from): &(&str, i64)| ScheduleEntry {
            sign_from: Some(at(*from)),
            ..ScheduleEntry::without_dates(kid(name))
        };
        Schedule { entries: entries.iter().map(entry).collect(), ..Schedule::default() }
    }

    #[test]
    fn the_next_key_signs_a_lead_later_on_a_whole_minute() {
        let entry =
            RULES.plan_next_key(&schedule(&[("a", 0)]), kid("b"), None, false, at(30)).expect("a rotation");
        assert_eq!(
            (entry.added, entry.sign_from, entry.emergency),
            (Some(at(30)), Some(at(DAY + 60)), false)
        );
        let soon = RULES.plan_next_key(&schedule(&[("a", 0)]), kid("b"), Some(at(DAY)), false, at(30));
        assert_eq!(soon, Err(RotationError::TooSoon { earliest: at(DAY + 60) }));
        let past = RULES.plan_next_key(&schedule(&[("a", 0)]), kid("b"), Some(at(20)), true, at(30));
        assert_eq!(past, Err(RotationError::InThePast { now: at(30) }));
        let now = RULES
            .plan_next_key(&schedule(&[("a", 0)]), kid("b"), None, true, at(30))
            .expect("in an emergency");
        assert_eq!((now.sign_from, now.emergency), (Some(at(30)), true));
    }

    #[test]
    fn a_rotation_under_way_and_a_taken_kid_are_rejected() {
        let waiting = schedule(&[("a", 0), ("b", DAY)]);
        let next = |name: &str, emergency| RULES.plan_next_key(&waiting, kid(name), None, emergency, at(30));
        assert_eq!(next("c", false), Err(RotationError::UnderWay { kid: kid("b"), sign_from: at(DAY) }));
        assert!(next("c", true).is_ok());
        assert_eq!(next("a", true), Err(RotationError::KidTaken(kid("a"))));
    }

    #[test]
    fn a_key_that_verifiers_know_succeeds_a_retired_key() {
        let now = at(10 * DAY);
        let successor = |entries: &[(&str, i64)], gone: &str| {
            let schedule = schedule(entries);
            let (changes, successor) = RULES.plan_retirement(&schedule, &kid(gone), now);
            let after = changes.iter().fold(schedule, |schedule, change| schedule.with_change(change));
            let signs = match &successor {
                Successor::Same(kid) | Successor::Former(kid) | Successor::Pending(kid) => Some(kid),
                Successor::Nobody | Successor::New => None,
            };
            assert_eq!(RULES.signing_kid(&after, now), signs, "the changes do what is said");
            successor
        };
        let recent = 10 * DAY - 60;
        assert_eq!(successor(&[("a", 0), ("b", recent)], "a"), Successor::Same(kid("b")));
        assert_eq!(successor(&[("a", 0), ("b", recent), ("c", 11 * DAY)], "b"), Successor::Former(kid("a")));
        // `a` has left the JWKS long ago; `c` is in it.
        assert_eq!(successor(&[("a", 0), ("b", DAY), ("c", 11 * DAY)], "b"), Successor::Pending(kid("c")));
        assert_eq!(successor(&[("a", 0), ("b", DAY)], "b"), Successor::New);
        assert_eq!(successor(&[("a", 11 * DAY), ("b", 12 * DAY)], "a"), Successor::Nobody);
    }

    #[test]
    fn the_next_kid_counts_up() {
        let next = |text: &str| next_kid(&kid(text)).map(|kid| kid.to_string());
        assert_eq!(next("WebAppKey1").as_deref(), Some("WebAppKey2"));
        assert_eq!(next("key-09").as_deref(), Some("key-10"));
        assert_eq!(next("web"), None);
    }
}
