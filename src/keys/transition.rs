//! What a reload may not do to verifiers: let a key sign that they have never met, bring a key back that was gone, or give
//! a key id to another key.
//!
//! The rule goes by profile and key id over all keysets, since a verifier trusts an issuer and not the name of a
//! directory. [`History`] remembers what this process has published, from its start on. After a restart the files alone
//! count: nothing is known then of what verifiers have fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::SCHEDULE_FILE;
use super::timeline::Life;
use crate::clock::UnixTime;
use crate::config::{KeyId, Name, Problem, ProfileName};

/// SHA-256 of a public modulus: the same for the same key, whatever its name.
pub type Material = [u8; 32];

/// A keyset as verifiers see it.
pub struct AnnouncedKeyset<'a> {
    pub name: &'a Name,
    pub used_by: &'a [ProfileName],
    pub publish_lead: Duration,
    pub keys: Vec<AnnouncedKey<'a>>,
    /// Keys that are listed and neither sign nor are published.
    pub gone: Vec<&'a Life>,
}

pub struct AnnouncedKey<'a> {
    pub material: Material,
    pub life: &'a Life,
}

/// What this process has published so far.
#[derive(Clone, Default)]
pub struct History {
    keys: BTreeMap<KeyId, Record>,
    /// Those that some keyset has served.
    profiles: BTreeSet<ProfileName>,
}

#[derive(Clone)]
struct Record {
    /// `None` where the key was gone before this process could open it.
    material: Option<Material>,
    fate: Fate,
    published_since: UnixTime,
    /// When it first signed, or is to sign, for each profile.
    signs_from: BTreeMap<ProfileName, UnixTime>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Published,
    /// Its entry was removed then, before its life was over; `None` where it was never published.
    Removed(Option<UnixTime>),
    /// Its life was over then.
    Gone(UnixTime),
    /// `keyset.toml` said so.
    Retired,
}

impl History {
    /// What is wrong with putting `keysets` in force at `now`.
    pub fn check(&self, keysets: &[AnnouncedKeyset<'_>], now: UnixTime) -> Vec<Problem> {
        let mut problems = Vec::new();
        for keyset in keysets {
            for key in &keyset.keys {
                if let Some((source, message)) = self.objection(keyset, key, now) {
                    problems.push(Problem::new(format!("keysets.{}", keyset.name), source, message));
                }
            }
        }
        problems
    }

    /// Whether this process has had the key of that id.
    pub fn knows(&self, kid: &KeyId) -> bool {
        self.keys.get(kid).is_some_and(|record| record.material.is_some())
    }

    fn objection(
        &self,
        keyset: &AnnouncedKeyset<'_>,
        key: &AnnouncedKey<'_>,
        now: UnixTime,
    ) -> Option<(&'static str, String)> {
        let kid = &key.life.entry.kid;
        let record = self.keys.get(kid);
        if let Some(record) = record {
            if record.material.is_some_and(|material| material != key.material) {
                let message = format!(
                    "`{kid}` is another key now; verifiers keep the old one under that id: give the new key an id of its own"
                );
                return Some(("keys", message));
            }
            match record.fate {
                Fate::Retired => {
                    let message = format!(
                        "`{kid}` was retired and would come back: a retired key may be in others' hands. Write `retired` into \
                         its entry again, with the date, and make another key with `tokenmint keys rotate`"
                    );
                    return Some((SCHEDULE_FILE, message));
                }
                // Where the clock was set back, its life isn't over yet.
                Fate::Gone(at) if at <= now && !key.life.entry.emergency => {
                    let message = format!(
                        "`{kid}` was gone since {at} and would be published again, though verifiers have dropped it: remove its \
                         entry and files, or, knowingly, write `emergency = true` into its entry"
                    );
                    return Some((SCHEDULE_FILE, message));
                }
                Fate::Gone(_) | Fate::Removed(_) | Fate::Published => {}
            }
        }
        // Another key of the same material is the one that was taken away.
        let twin = self.keys.iter().find(|(other, record)| {
            *other != kid && record.fate == Fate::Retired && record.material == Some(key.material)
        });
        if let Some((other, _)) = twin {
            let message = format!(
                "`{kid}` is the key that was retired as `{other}`: make another with `tokenmint keys rotate`"
            );
            return Some(("keys", message));
        }
        if key.life.entry.emergency {
            return None;
        }
        // A new key with a turn in the past counts as one that has signed: it could take over from the next that is retired.
        let first = match record {
            None => key.life.signs_from().unwrap_or(now),
            Some(_) => key.life.next_signature(now)?,
        };
        // It has signed already, or signs no sooner than it was to.
        let is_expected = |profile: &ProfileName| {
            record.and_then(|record| record.signs_from.get(profile)).is_some_and(|from| *from <= first)
        };
        // A new profile has no verifiers yet that could be surprised.
        let surprises = |profile: &&ProfileName| self.profiles.contains(*profile) && !is_expected(profile);
        keyset.used_by.iter().find(surprises)?;
        let added = key.life.entry.added;
        let since = record.map_or_else(|| added.unwrap_or(now), |record| record.since(added, now));
        let safe_from = since.plus(keyset.publish_lead);
        (first < safe_from).then(|| {
            let when = if first <= now { "at once".to_owned() } else { format!("from {first}") };
            let message = format!(
                "`{kid}` is new and would sign {when}, before verifiers know it. In {SCHEDULE_FILE} give it added = {now} and \
                 sign_from = {} or later, or, knowingly, `emergency = true`; `tokenmint keys rotate` writes such an entry",
                now.plus(keyset.publish_lead).max(safe_from)
            );
            (SCHEDULE_FILE, message)
        })
    }

    /// What has been published once `keysets` are in force at `now`.
    #[must_use]
    pub fn after(&self, keysets: &[AnnouncedKeyset<'_>], now: UnixTime) -> Self {
        // What was before the process is what the files say of it.
        let is_start = self.keys.is_empty();
        let mut history = self.clone();
        history.profiles.extend(keysets.iter().flat_map(|keyset| keyset.used_by).cloned());
        let listed: BTreeSet<&KeyId> = keysets
            .iter()
            .flat_map(|keyset| {
                keyset
                    .keys
                    .iter()
                    .map(|key| key.life)
                    .chain(keyset.gone.iter().copied())
                    .map(|life| &life.entry.kid)
            })
            .collect();
        for (_, record) in history.keys.iter_mut().filter(|(kid, _)| !listed.contains(kid)) {
            if record.fate == Fate::Published {
                // Whoever fetches meanwhile drops it.
                record.fate = Fate::Removed(Some(now));
                record.signs_from.clear();
            }
        }
        for keyset in keysets {
            for key in &keyset.keys {
                let record = history.record(&key.life.entry.kid, now);
                record.publish(key, keyset.used_by, now, is_start);
            }
            for life in &keyset.gone {
                let record = history.record(&life.entry.kid, now);
                record.fate = match (life.entry.retired, life.published_until, record.fate) {
                    (Some(_), ..) | (.., Fate::Retired) => Fate::Retired,
                    // Since the first moment: a later edit of dates doesn't make it less gone.
                    (None, Some(at), Fate::Gone(since)) if at <= now => Fate::Gone(since.min(at)),
                    (None, Some(at), _) if at <= now => Fate::Gone(at),
                    // A listed key that isn't open may live again by a schedule that is not in force yet.
                    (None, _, fate) => fate,
                };
            }
        }
        history
    }

    fn record(&mut self, kid: &KeyId, now: UnixTime) -> &mut Record {
        self.keys.entry(kid.clone()).or_insert_with(|| Record {
            material: None,
            fate: Fate::Removed(None),
            published_since: now,
            signs_from: BTreeMap::new(),
        })
    }
}

impl Record {
    /// Since when verifiers can know the key, whose entry says `added`.
    fn since(&self, added: Option<UnixTime>, now: UnixTime) -> UnixTime {
        match self.fate {
            // Whoever fetched in between dropped it, whatever `added` says of the time before.
            Fate::Removed(at) => added.filter(|added| at.is_none_or(|at| at <= *added)).unwrap_or(now),
            Fate::Published | Fate::Gone(_) | Fate::Retired => {
                added.map_or(self.published_since, |added| added.min(self.published_since))
            }
        }
    }

    fn publish(&mut self, key: &AnnouncedKey<'_>, used_by: &[ProfileName], now: UnixTime, is_start: bool) {
        self.published_since = self.since(key.life.entry.added, now).min(now);
        self.fate = Fate::Published;
        self.material = Some(key.material);
        let begun = key.life.turns.first().filter(|_| is_start);
        let begun = begun.map(|turn| turn.from.unwrap_or(UnixTime::from_seconds(i64::MIN)));
        let Some(first) = begun.or_else(|| key.life.next_signature(now)) else { return };
        for profile in used_by {
            // What it has signed stays; what it is to sign may be put off.
            let from = self.signs_from.entry(profile.clone()).or_insert(first);
            if *from > now {
                *from = first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProfileKind;
    use crate::keys::{Entry, Rules, State};

    const RULES: Rules = Rules {
        publish_lead: Duration::from_secs(1000),
        longest_life: Duration::from_mins(1),
        retire_margin: Duration::from_mins(1),
    };

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn entry(kid: &str, from: i64) -> Entry {
        Entry { sign_from: Some(at(from)), ..Entry::sole(KeyId::parse(kid).expect("an id")) }
    }

    /// Whether a process with that history takes `entries` at `now`, and its history if it does.
    fn take(history: &History, entries: &[Entry], now: i64) -> (bool, History) {
        let name = Name::parse("web").expect("a name");
        let profiles = [ProfileName::new(ProfileKind::Identity, name.clone())];
        let lives = RULES.lives(entries, at(now));
        assert!(lives.iter().all(|life| life.state(at(now)) != State::Gone));
        let keys = entries
            .iter()
            .zip(&lives)
            .map(|(entry, life)| AnnouncedKey { material: [entry.kid.as_str().as_bytes()[0]; 32], life });
        let keyset = [AnnouncedKeyset {
            name: &name,
            used_by: &profiles,
            publish_lead: RULES.publish_lead,
            keys: keys.collect(),
            gone: Vec::new(),
        }];
        (history.check(&keyset, at(now)).is_empty(), history.after(&keyset, at(now)))
    }

    /// A pending key that was out of the JWKS for a moment is new to whoever fetched in that moment.
    #[test]
    fn a_key_that_was_removed_is_not_published_since_its_old_added() {
        let added = |from, added| Entry { added: Some(at(added)), ..entry("b", from) };
        let a = entry("a", -5000);
        let both = [a.clone(), added(1000, 0)];
        let (_, history) = take(&History::default(), &both, 10);
        let (_, history) = take(&history, std::slice::from_ref(&a), 1000);
        assert!(!take(&history, &both, 1010).0, "at once, by its old date");
        let (is_taken, _) = take(&history, &[a, added(2005, 1005)], 1010);
        assert!(is_taken, "added since");
    }

    #[test]
    fn a_key_that_comes_with_its_turn_over_is_refused_unless_others_have_published_it() {
        let (a, b) = (entry("a", -5000), entry("b", -60));
        let urgent = Entry { emergency: true, ..entry("c", -10) };
        let (_, history) = take(&History::default(), std::slice::from_ref(&a), 0);
        assert!(!take(&history, &[a.clone(), b.clone(), urgent.clone()], 10).0, "it would count as known");
        let known = Entry { added: Some(at(-5000)), ..b };
        assert!(take(&history, &[a, known, urgent], 10).0);
    }
}
