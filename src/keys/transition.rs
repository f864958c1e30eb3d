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
    pub gone: Vec<(&'a KeyId, &'a Life)>,
}

pub struct AnnouncedKey<'a> {
    pub kid: &'a KeyId,
    pub material: Material,
    pub added: Option<UnixTime>,
    pub emergency: bool,
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
    /// Its files or its entry were removed, before its life was over.
    Removed,
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

    fn objection(
        &self,
        keyset: &AnnouncedKeyset<'_>,
        key: &AnnouncedKey<'_>,
        now: UnixTime,
    ) -> Option<(&'static str, String)> {
        let kid = key.kid;
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
                Fate::Gone(at) if at <= now && !key.emergency => {
                    let message = format!(
                        "`{kid}` was gone since {at} and would be published again, though verifiers have dropped it: remove its \
                         entry and files, or, knowingly, write `emergency = true` into its entry"
                    );
                    return Some((SCHEDULE_FILE, message));
                }
                Fate::Gone(_) | Fate::Removed | Fate::Published => {}
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
        if key.emergency {
            return None;
        }
        let first = key.life.next_signature(now)?;
        // It has signed already, or signs no sooner than it was to.
        let is_expected = |profile: &ProfileName| {
            record.and_then(|record| record.signs_from.get(profile)).is_some_and(|from| *from <= first)
        };
        // A new profile has no verifiers yet that could be surprised.
        let surprises = |profile: &&ProfileName| self.profiles.contains(*profile) && !is_expected(profile);
        keyset.used_by.iter().find(surprises)?;
        let seen = record.filter(|record| record.fate != Fate::Removed).map(|record| record.published_since);
        let since = [seen, key.added].into_iter().flatten().min().unwrap_or(now);
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
        let mut history = self.clone();
        history.profiles.extend(keysets.iter().flat_map(|keyset| keyset.used_by).cloned());
        let listed: BTreeSet<&KeyId> = keysets
            .iter()
            .flat_map(|keyset| {
                keyset.keys.iter().map(|key| key.kid).chain(keyset.gone.iter().map(|(kid, _)| *kid))
            })
            .collect();
        for (_, record) in history.keys.iter_mut().filter(|(kid, _)| !listed.contains(kid)) {
            if record.fate == Fate::Published {
                // Whoever fetches meanwhile drops it.
                record.fate = Fate::Removed;
                record.signs_from.clear();
            }
        }
        for keyset in keysets {
            for key in &keyset.keys {
                let record = history.record(key.kid, now);
                record.publish(key, keyset.used_by, now);
            }
            for (kid, life) in &keyset.gone {
                let record = history.record(kid, now);
                match (life.retired, life.published_until) {
                    (Some(_), _) => record.fate = Fate::Retired,
                    (None, Some(at)) if record.fate != Fate::Retired => record.fate = Fate::Gone(at),
                    (None, _) => {}
                }
            }
        }
        history
    }

    fn record(&mut self, kid: &KeyId, now: UnixTime) -> &mut Record {
        self.keys.entry(kid.clone()).or_insert_with(|| Record {
            material: None,
            fate: Fate::Removed,
            published_since: now,
            signs_from: BTreeMap::new(),
        })
    }
}

impl Record {
    fn publish(&mut self, key: &AnnouncedKey<'_>, used_by: &[ProfileName], now: UnixTime) {
        let added = key.added.unwrap_or(now).min(now);
        self.published_since =
            if self.fate == Fate::Removed { added } else { added.min(self.published_since) };
        self.fate = Fate::Published;
        self.material = Some(key.material);
        let Some(first) = key.life.turns.first() else { return };
        let first = first.from.unwrap_or(UnixTime::from_seconds(i64::MIN));
        for profile in used_by {
            // What it has signed stays; what it is to sign may be put off.
            let from = self.signs_from.entry(profile.clone()).or_insert(first);
            if *from > now {
                *from = first;
            }
        }
    }
}
