//! Revokes retired keys in the ring that is in force, by `keyset.toml` alone.
//!
//! A leaked key must go even if something else is wrong: a broken configuration, a setting that needs a restart, a new key that is
//! rejected. So this step needs only the ring and the retirement marks in `keyset.toml`, and no check can reject it. The reload
//! that follows applies or rejects the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::schedule::RetirementMark;
use super::{KeyRing, KeyState, KeyValidity, Keyset, KeysetKey, ModulusHash, RotationRules, ScheduleEntry};
use crate::clock::UnixTime;
use crate::config::{KeyId, Name};

impl KeyRing {
    /// Returns the ring without the keys that `marks` retire and the keys that are gone at `now`. `None` if it has no
    /// such keys.
    #[must_use]
    pub(crate) fn without_retired(
        &self,
        marks: &BTreeMap<Name, Vec<RetirementMark>>,
        now: UnixTime,
    ) -> Option<Self> {
        let none = Vec::new();
        let marks = &self.with_marks_for_copies(marks, now);
        let mut changed = false;
        let keysets = self.keysets.iter().map(|(name, keyset)| {
            let new = keyset.without_retired(marks.get(name).unwrap_or(&none), now);
            changed |= new.is_some();
            (name.clone(), new.map_or_else(|| keyset.clone(), Arc::new))
        });
        let keysets: BTreeMap<_, _> = keysets.collect();
        changed.then(|| Self::new(keysets, self.warnings.clone(), Some(self), now))
    }

    /// Adds marks for copies of retired keys under other ids: the holder of a leaked key can sign with its copies' ids too.
    fn with_marks_for_copies(
        &self,
        marks: &BTreeMap<Name, Vec<RetirementMark>>,
        now: UnixTime,
    ) -> BTreeMap<Name, Vec<RetirementMark>> {
        let mut marks = marks.clone();
        let is_retired = |name: &Name, kid: &KeyId| {
            marks
                .get(name)
                .is_some_and(|marks| marks.iter().any(|mark| mark.kid == *kid && mark.retired.is_some()))
        };
        let retired = self.keys().filter(|(keyset, key)| is_retired(&keyset.name, &key.kid));
        let retired: BTreeSet<ModulusHash> = retired.map(|(_, key)| key.public().modulus_hash()).collect();
        if !retired.is_empty() {
            for (keyset, key) in self.keys().filter(|(_, key)| retired.contains(&key.public().modulus_hash()))
            {
                let mark = RetirementMark { kid: key.kid.clone(), retired: Some(now), emergency_from: None };
                marks.entry(keyset.name.clone()).or_default().push(mark);
            }
        }
        marks
    }
}

impl Keyset {
    fn without_retired(&self, marks: &[RetirementMark], now: UnixTime) -> Option<Self> {
        let open: Vec<_> = self.keys.iter().map(|key| &key.validity).collect();
        let gone: Vec<_> = self.gone.iter().collect();
        let validities = self.rules.validities_after_retirement(&open, &gone, marks, now);
        // Keys that were opened beside one that wasn't are in memory too.
        let is_retired = |kid: &KeyId| marks.iter().any(|mark| mark.kid == *kid && mark.retired.is_some());
        let mut unopened = self.unopened.clone();
        let opened = unopened
            .iter_mut()
            .flat_map(|unopened| unopened.opened.extract_if(.., |key| is_retired(&key.kid)));
        let has_dropped = opened.count() > 0;
        let unchanged = || open.iter().chain(&gone).map(|validity| (*validity).clone()).collect();
        let validities = validities.or_else(|| has_dropped.then(unchanged))?;
        let mut new = Self {
            keys: Vec::new(),
            gone: Vec::new(),
            name: self.name.clone(),
            used_by: self.used_by.clone(),
            unopened,
            ..*self
        };
        for validity in validities {
            let kid = validity.entry.kid.clone();
            let key = self.keys.iter().find(|key| key.kid == kid);
            if let Some(key) = key.filter(|_| validity.state(now) != KeyState::Gone) {
                new.keys.push(KeysetKey { validity, ..key.clone() });
                continue;
            }
            // A key that was gone stays gone, whatever the other keys' signing periods become.
            let before = self.gone.iter().find(|gone| gone.entry.kid == kid);
            let validity = before.filter(|_| validity.entry.retired.is_none()).cloned().unwrap_or(validity);
            new.gone.push(validity);
        }
        Some(new)
    }
}

impl RotationRules {
    /// Computes the validities of a keyset's keys at `now`, after the retirements of `marks`, in order of `sign_from`.
    /// `open` are its opened keys, `gone` the others. `None` if `marks` retire no open key, and no open key is gone at
    /// `now`.
    pub fn validities_after_retirement(
        &self,
        open: &[&KeyValidity],
        gone: &[&KeyValidity],
        marks: &[RetirementMark],
        now: UnixTime,
    ) -> Option<Vec<KeyValidity>> {
        // If a key is listed twice, one entry that retires it is enough.
        let mark = |kid: &KeyId| {
            let mut found = marks.iter().filter(|mark| mark.kid == *kid);
            let first = found.next();
            first
                .filter(|mark| mark.retired.is_some())
                .or_else(|| found.find(|mark| mark.retired.is_some()))
                .or(first)
        };
        let is_retired = |kid: &KeyId| mark(kid).is_some_and(|mark| mark.retired.is_some());
        if !open
            .iter()
            .any(|validity| is_retired(&validity.entry.kid) || validity.state(now) == KeyState::Gone)
        {
            return None;
        }
        let retires = open.iter().any(|validity| is_retired(&validity.entry.kid));
        let entry = |validity: &&KeyValidity| {
            let mut entry = validity.entry.clone();
            let mark = mark(&entry.kid);
            // The command that retires a key may promote another in its place.
            if let Some(from) = mark.and_then(|mark| mark.emergency_from).filter(|_| retires) {
                (entry.sign_from, entry.emergency) = (Some(from), true);
            }
            entry.retired = entry.retired.or_else(|| mark?.retired);
            entry
        };
        let mut entries: Vec<ScheduleEntry> = gone.iter().chain(open).map(entry).collect();
        entries.sort_by(ScheduleEntry::cmp_by_start);
        Some(self.validities(&entries, now))
    }
}
