//! Takes retired keys out of the ring that is in force, by `keyset.toml` alone.
//!
//! A leaked key must go whatever else is wrong: a broken configuration, a setting that waits for a restart, a new key that
//! is refused. So this step needs nothing but the ring and the marks in `keyset.toml`, and nothing can refuse it. The reload
//! that follows takes over the rest, or refuses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::schedule::Mark;
use super::{Entry, Key, KeyRing, Keyset, Life, Past, State};
use crate::clock::UnixTime;
use crate::config::{KeyId, Name};

impl KeyRing {
    /// The ring without the keys that `marks` retire and without those whose life is over at `now`; `None` where it has none
    /// of them.
    #[must_use]
    pub fn without_gone(&self, marks: &BTreeMap<Name, Vec<Mark>>, now: UnixTime) -> Option<Self> {
        let none = Vec::new();
        let mut changed = false;
        let keysets = self.keysets.iter().map(|(name, keyset)| {
            let new = keyset.without_gone(marks.get(name).unwrap_or(&none), now);
            changed |= new.is_some();
            (name.clone(), new.map_or_else(|| keyset.clone(), Arc::new))
        });
        let keysets: BTreeMap<_, _> = keysets.collect();
        changed.then(|| Self::new(keysets, self.warnings.clone(), Some(self), now))
    }
}

impl Keyset {
    fn without_gone(&self, marks: &[Mark], now: UnixTime) -> Option<Self> {
        let mark = |kid: &KeyId| marks.iter().find(|mark| mark.kid == *kid);
        let is_retired = |key: &Key| mark(&key.kid).is_some_and(|mark| mark.retired.is_some());
        let goes = |key: &Key| is_retired(key) || key.life.state(now) == State::Gone;
        if !self.keys.iter().any(goes) {
            return None;
        }
        let retires = self.keys.iter().any(is_retired);
        let entry = |kid: &KeyId, life: &Life| {
            let mark = mark(kid);
            // Where a key is retired, another may be let forward for it.
            let emergency_from = mark.and_then(|mark| mark.emergency_from).filter(|_| retires);
            Entry {
                sign_from: emergency_from.or(life.sign_from),
                retired: life.retired.or_else(|| mark?.retired),
                ..Entry::sole(kid.clone())
            }
        };
        let mut entries: Vec<Entry> = self.past.iter().map(|past| entry(&past.kid, &past.life)).collect();
        entries.extend(self.keys.iter().map(|key| entry(&key.kid, &key.life)));
        entries.sort_by_key(|entry| entry.sign_from);
        let lives = self.rules.lives(&entries, now);
        let mut new = Self {
            keys: Vec::new(),
            past: Vec::new(),
            name: self.name.clone(),
            used_by: self.used_by.clone(),
            ..*self
        };
        for (entry, life) in entries.into_iter().zip(lives) {
            let key = self.keys.iter().find(|key| key.kid == entry.kid);
            match key.filter(|_| life.state(now) != State::Gone) {
                Some(key) => {
                    let emergency = key.emergency || key.life.sign_from != life.sign_from;
                    new.keys.push(Key { life, emergency, ..key.clone() });
                }
                None => new.past.push(Past { kid: entry.kid, life }),
            }
        }
        Some(new)
    }
}
