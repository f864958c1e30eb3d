//! Takes retired keys out of the ring that is in force, by `keyset.toml` alone.
//!
//! A leaked key must go whatever else is wrong: a broken configuration, a setting that waits for a restart, a new key that
//! is refused. So this step needs nothing but the ring and the marks in `keyset.toml`, and nothing can refuse it. The reload
//! that follows takes over the rest, or refuses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::schedule::Mark;
use super::{Entry, Key, KeyRing, Keyset, Life, Material, Rules, State};
use crate::clock::UnixTime;
use crate::config::{KeyId, Name};

impl KeyRing {
    /// The ring without the keys that `marks` retire and without those whose life is over at `now`; `None` where it has none
    /// of them.
    #[must_use]
    pub fn without_gone(&self, marks: &BTreeMap<Name, Vec<Mark>>, now: UnixTime) -> Option<Self> {
        let none = Vec::new();
        let marks = &self.with_copies(marks, now);
        let mut changed = false;
        let keysets = self.keysets.iter().map(|(name, keyset)| {
            let new = keyset.without_gone(marks.get(name).unwrap_or(&none), now);
            changed |= new.is_some();
            (name.clone(), new.map_or_else(|| keyset.clone(), Arc::new))
        });
        let keysets: BTreeMap<_, _> = keysets.collect();
        changed.then(|| Self::new(keysets, self.warnings.clone(), Some(self), now))
    }

    /// The marks, and those of keys that are the same as one that is retired under another id: who has that one has these.
    fn with_copies(&self, marks: &BTreeMap<Name, Vec<Mark>>, now: UnixTime) -> BTreeMap<Name, Vec<Mark>> {
        let mut marks = marks.clone();
        let is_retired = |name: &Name, kid: &KeyId| {
            marks
                .get(name)
                .is_some_and(|marks| marks.iter().any(|mark| mark.kid == *kid && mark.retired.is_some()))
        };
        let retired = self.keys().filter(|(keyset, key)| is_retired(&keyset.name, &key.kid));
        let retired: BTreeSet<Material> = retired.map(|(_, key)| key.private.public.material()).collect();
        if !retired.is_empty() {
            for (keyset, key) in
                self.keys().filter(|(_, key)| retired.contains(&key.private.public.material()))
            {
                let mark = Mark { kid: key.kid.clone(), retired: Some(now), emergency_from: None };
                marks.entry(keyset.name.clone()).or_default().push(mark);
            }
        }
        marks
    }
}

impl Keyset {
    fn without_gone(&self, marks: &[Mark], now: UnixTime) -> Option<Self> {
        let open: Vec<_> = self.keys.iter().map(|key| &key.life).collect();
        let past: Vec<_> = self.past.iter().collect();
        let lives = self.rules.without_gone(&open, &past, marks, now)?;
        let mut new = Self {
            keys: Vec::new(),
            past: Vec::new(),
            name: self.name.clone(),
            used_by: self.used_by.clone(),
            ..*self
        };
        for life in lives {
            let kid = life.entry.kid.clone();
            let key = self.keys.iter().find(|key| key.kid == kid);
            if let Some(key) = key.filter(|_| life.state(now) != State::Gone) {
                new.keys.push(Key { life, ..key.clone() });
                continue;
            }
            // A key that was gone stays so, whatever the turns of the others become.
            let before = self.past.iter().find(|past| past.entry.kid == kid);
            let life = before.filter(|_| life.entry.retired.is_none()).cloned().unwrap_or(life);
            new.past.push(life);
        }
        Some(new)
    }
}

impl Rules {
    /// The lives of all keys after a retirement step: of those that are `open`, without those that `marks` retire or whose
    /// life is over at `now`, and of those that are `past`. `None` where no open key goes.
    pub fn without_gone(
        &self,
        open: &[&Life],
        past: &[&Life],
        marks: &[Mark],
        now: UnixTime,
    ) -> Option<Vec<Life>> {
        // Of a key that is listed twice, any line that retires it counts.
        let mark = |kid: &KeyId| {
            let mut found = marks.iter().filter(|mark| mark.kid == *kid);
            let first = found.next();
            first
                .filter(|mark| mark.retired.is_some())
                .or_else(|| found.find(|mark| mark.retired.is_some()))
                .or(first)
        };
        let is_retired = |kid: &KeyId| mark(kid).is_some_and(|mark| mark.retired.is_some());
        if !open.iter().any(|life| is_retired(&life.entry.kid) || life.state(now) == State::Gone) {
            return None;
        }
        let retires = open.iter().any(|life| is_retired(&life.entry.kid));
        let entry = |life: &&Life| {
            let mut entry = life.entry.clone();
            let mark = mark(&entry.kid);
            // Where a key is retired, another may be let forward for it.
            if let Some(from) = mark.and_then(|mark| mark.emergency_from).filter(|_| retires) {
                (entry.sign_from, entry.emergency) = (Some(from), true);
            }
            entry.retired = entry.retired.or_else(|| mark?.retired);
            entry
        };
        let mut entries: Vec<Entry> = past.iter().chain(open).map(entry).collect();
        entries.sort_by(Entry::in_order);
        Some(self.lives(&entries, now))
    }
}
