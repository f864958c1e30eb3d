//! What comes next in a keyset, and what that does to verifiers: pure functions from a schedule to another, and to dates.

use std::time::Duration;

use thiserror::Error;

use super::schedule::{Change, Entry, Schedule};
use super::timeline::{Rules, State};
use crate::clock::UnixTime;
use crate::config::KeyId;

/// From an hour's lead on, dates are given in whole minutes: they are read by people.
const LONG_LEAD: Duration = Duration::from_hours(1);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoRotation {
    #[error(
        "`{kid}` is on its way already and signs from {sign_from}; one rotation at a time, or --emergency"
    )]
    UnderWay { kid: KeyId, sign_from: UnixTime },
    #[error(
        "--sign-from must be {earliest} or later, `publish_lead` from now, so that verifiers know the key before it signs; or say --emergency"
    )]
    TooSoon { earliest: UnixTime },
    #[error("--sign-from has passed: it is {now}")]
    Past { now: UnixTime },
    #[error("`{0}` is taken: a key id stays with its key")]
    Taken(KeyId),
}

/// Who signs after a key was retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Successor {
    /// As before: it wasn't the one that signs.
    Same(KeyId),
    /// One that signed before, and that verifiers know.
    Former(KeyId),
    /// One that was published and waited for its turn.
    Pending(KeyId),
    /// None signed before, and none signs now.
    Nobody,
    /// None is left; another must be made.
    New,
}

impl Rules {
    /// The key that signs at `now`.
    pub fn signing<'a>(&self, schedule: &'a Schedule, now: UnixTime) -> Option<&'a KeyId> {
        self.states(schedule, now)
            .into_iter()
            .find(|(_, state)| *state == State::Signing)
            .map(|(entry, _)| &entry.kid)
    }

    fn states<'a>(&self, schedule: &'a Schedule, now: UnixTime) -> Vec<(&'a Entry, State)> {
        let lives = self.lives(&schedule.entries, now);
        schedule.entries.iter().zip(lives).map(|(entry, life)| (entry, life.state(now))).collect()
    }

    /// The entry of the next key, published from `now` on.
    ///
    /// # Errors
    /// It would take verifiers by surprise, or another key already waits for its turn.
    pub fn next(
        &self,
        schedule: &Schedule,
        kid: KeyId,
        sign_from: Option<UnixTime>,
        emergency: bool,
        now: UnixTime,
    ) -> Result<Entry, NoRotation> {
        if schedule.entry(&kid).is_some() {
            return Err(NoRotation::Taken(kid));
        }
        let states = self.states(schedule, now);
        let waiting = states.into_iter().find(|(_, state)| *state == State::Pending).map(|(entry, _)| entry);
        if let Some(Entry { kid, sign_from: Some(sign_from), .. }) = waiting.filter(|_| !emergency) {
            return Err(NoRotation::UnderWay { kid: kid.clone(), sign_from: *sign_from });
        }
        let earliest = self.earliest(now);
        let sign_from = match sign_from {
            Some(chosen) if chosen < earliest && !emergency => return Err(NoRotation::TooSoon { earliest }),
            // A turn that is over already would never come.
            Some(chosen) if chosen < now => return Err(NoRotation::Past { now }),
            Some(chosen) => chosen,
            None if emergency => schedule.free_moment(now),
            None => earliest,
        };
        Ok(Entry {
            kid,
            sign_from: Some(sign_from),
            added: Some(now),
            emergency: emergency && sign_from < earliest,
            retired: None,
        })
    }

    fn earliest(&self, now: UnixTime) -> UnixTime {
        let exact = now.plus(self.publish_lead);
        if self.publish_lead < LONG_LEAD {
            return exact;
        }
        UnixTime::from_seconds((exact.seconds() + 59).div_euclid(60) * 60)
    }

    /// What retiring `kid` at `now` takes, and who signs then. A key that verifiers know goes before one that they don't.
    /// Where `kid` is retired already, the changes are those that an interrupted retirement left undone.
    pub fn retire(&self, schedule: &Schedule, kid: &KeyId, now: UnixTime) -> (Vec<Change>, Successor) {
        let retired = schedule.entry(kid).and_then(|entry| entry.retired);
        let is_retired = retired.is_some();
        let mut changes = Vec::new();
        // A date ahead, by another host's clock or a slip, is put right.
        if retired.is_none_or(|at| at > now) {
            changes.push(Change::Retire { kid: kid.clone(), at: now });
        }
        let before = self.signing(schedule, now);
        let after = changes.iter().fold(schedule.clone(), |schedule, change| schedule.after(change));
        let successor = match self.signing(&after, now) {
            Some(signing) if before == Some(signing) => Successor::Same(signing.clone()),
            Some(signing) => Successor::Former(signing.clone()),
            None if before != Some(kid) && !is_retired => Successor::Nobody,
            None => {
                let states = self.states(&after, now);
                let pending = states.into_iter().find(|(_, state)| *state == State::Pending);
                let Some(next) = pending.map(|(entry, _)| entry.kid.clone()) else {
                    return (changes, Successor::New);
                };
                changes.push(Change::Promote { kid: next.clone(), at: schedule.free_moment(now) });
                Successor::Pending(next)
            }
        };
        (changes, successor)
    }
}

/// The id after `kid`: its number at the end, one higher. `None` where it has none.
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

    const RULES: Rules = Rules {
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
        let entry =
            |(name, from): &(&str, i64)| Entry { sign_from: Some(at(*from)), ..Entry::sole(kid(name)) };
        Schedule { entries: entries.iter().map(entry).collect(), warnings: Vec::new() }
    }

    #[test]
    fn the_next_key_signs_a_lead_later_on_a_whole_minute() {
        let entry = RULES.next(&schedule(&[("a", 0)]), kid("b"), None, false, at(30)).expect("a rotation");
        assert_eq!(
            (entry.added, entry.sign_from, entry.emergency),
            (Some(at(30)), Some(at(DAY + 60)), false)
        );
        let soon = RULES.next(&schedule(&[("a", 0)]), kid("b"), Some(at(DAY)), false, at(30));
        assert_eq!(soon, Err(NoRotation::TooSoon { earliest: at(DAY + 60) }));
        let past = RULES.next(&schedule(&[("a", 0)]), kid("b"), Some(at(20)), true, at(30));
        assert_eq!(past, Err(NoRotation::Past { now: at(30) }));
        let now = RULES.next(&schedule(&[("a", 0)]), kid("b"), None, true, at(30)).expect("in an emergency");
        assert_eq!((now.sign_from, now.emergency), (Some(at(30)), true));
    }

    #[test]
    fn a_rotation_under_way_and_a_taken_id_stand_in_the_way() {
        let waiting = schedule(&[("a", 0), ("b", DAY)]);
        let next = |name: &str, emergency| RULES.next(&waiting, kid(name), None, emergency, at(30));
        assert_eq!(next("c", false), Err(NoRotation::UnderWay { kid: kid("b"), sign_from: at(DAY) }));
        assert!(next("c", true).is_ok());
        assert_eq!(next("a", true), Err(NoRotation::Taken(kid("a"))));
    }

    #[test]
    fn whoever_verifiers_know_follows_a_retired_key() {
        let now = at(10 * DAY);
        let successor = |entries: &[(&str, i64)], gone: &str| {
            let schedule = schedule(entries);
            let (changes, successor) = RULES.retire(&schedule, &kid(gone), now);
            let after = changes.iter().fold(schedule, |schedule, change| schedule.after(change));
            let signs = match &successor {
                Successor::Same(kid) | Successor::Former(kid) | Successor::Pending(kid) => Some(kid),
                Successor::Nobody | Successor::New => None,
            };
            assert_eq!(RULES.signing(&after, now), signs, "the changes do what is said");
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
    fn an_id_counts_on() {
        let next = |text: &str| next_kid(&kid(text)).map(|kid| kid.to_string());
        assert_eq!(next("WebAppKey1").as_deref(), Some("WebAppKey2"));
        assert_eq!(next("key-09").as_deref(), Some("key-10"));
        assert_eq!(next("web"), None);
    }
}
