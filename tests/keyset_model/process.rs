//! A replica's process: the real schedule, timeline, retirement step and history, and the oracle's record beside
//! them.

use std::collections::{BTreeMap, BTreeSet};

use tokenmint::clock::UnixTime;
use tokenmint::config::{Algorithm, KeyId, Name, ProfileKind, ProfileName};
use tokenmint::keys::{
    KeyState, KeyValidity, ModulusHash, PublicationHistory, PublishedKey, PublishedKeyset,
};

use super::Counts;
use super::oracle::{Noted, expected};
use super::simulation::{Directory, MAX_AGE, RULES};

#[derive(Clone)]
pub struct Key {
    pub kid: KeyId,
    pub validity: KeyValidity,
    material: ModulusHash,
}

type Jwks = BTreeMap<KeyId, ModulusHash>;

pub struct Process {
    pub number: u64,
    pub keys: Vec<Key>,
    past: Vec<KeyValidity>,
    history: PublicationHistory,
    read: (u64, bool),
    notes: Notes,
}

/// The oracle's record of a process.
#[derive(Default)]
struct Notes {
    /// The entries in force, with the retirements that the process has read.
    in_force: Vec<Noted>,
    seen_retired: BTreeSet<KeyId>,
    gone: BTreeMap<KeyId, UnixTime>,
    fetched: Vec<(UnixTime, Jwks)>,
    last_signed: BTreeMap<KeyId, UnixTime>,
    published_since: BTreeMap<KeyId, UnixTime>,
    withdrawn_at: BTreeMap<KeyId, UnixTime>,
    /// The clock was set back, and no reload has come since.
    is_set_back: bool,
    /// The signing key that an accepted reload took away, though nobody retired it.
    lost_signer: Option<KeyId>,
}

impl Notes {
    /// A known gap: where other dates are written over those by which a key has signed, or are brought late, the key leaves
    /// the JWKS by the new ones, though its tokens live. Says of how many keys.
    fn forget_rewritten_turns(&mut self) -> u64 {
        let signed = self.last_signed.len();
        let in_force = &self.in_force;
        self.last_signed.retain(|kid, at| expected(in_force, *at).signing.as_ref() == Some(kid));
        (signed - self.last_signed.len()) as u64
    }
}

impl Process {
    /// `None` if the service doesn't start with these files.
    pub fn start(number: u64, directory: &Directory, now: UnixTime, config_broken: bool) -> Option<Self> {
        let (keys, past) = load(directory, now, config_broken)?;
        let mut process = Self {
            number,
            keys: Vec::new(),
            past: Vec::new(),
            history: PublicationHistory::default(),
            read: (directory.edition, config_broken),
            notes: Notes::default(),
        };
        process.take_over(keys, past, directory, now);
        Some(process)
    }

    pub fn signing(&self, now: UnixTime) -> Option<&Key> {
        self.keys.iter().find(|key| key.validity.state(now) == KeyState::Signing)
    }

    pub fn published(&self, now: UnixTime) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.validity.state(now) != KeyState::Gone)
    }

    pub fn publishes(&self, kid: &KeyId, now: UnixTime) -> bool {
        self.published(now).any(|key| key.kid == *kid)
    }

    /// Whether its clock was set back: a key that was gone by then isn't open until the next reload.
    pub const fn is_set_back(&self) -> bool {
        self.notes.is_set_back
    }

    pub fn clock_is_set_back(&mut self) {
        self.notes.is_set_back = true;
        self.notes.fetched.clear();
        self.notes.last_signed.clear();
        self.notes.published_since.clear();
    }

    pub fn look(&mut self, directory: &Directory, now: UnixTime, config_broken: bool, counts: &mut Counts) {
        self.retirement_step(directory, now, counts);
        let lacks_a_key = self.past.iter().any(|validity| validity.state(now) != KeyState::Gone);
        let fingerprint = (directory.edition, config_broken);
        if fingerprint == self.read && !lacks_a_key {
            return;
        }
        self.read = fingerprint;
        let signed = self.signing(now).map(|key| key.kid.clone());
        let loses_signer = signed.filter(|kid| loses_signing_key(&directory.version.noted, kid, now));
        counts.invariant_5 += u64::from(loses_signer.is_some());
        let taken = load(directory, now, config_broken).filter(|(keys, past)| {
            let in_force = [announced(&self.keys, &self.past)];
            let refused = !self.history.check_transition(&in_force, &[announced(keys, past)], now).is_empty();
            counts.refused_by_history += u64::from(refused);
            !refused
        });
        match taken {
            Some((keys, past)) => {
                counts.reloads += 1;
                self.notes.lost_signer = loses_signer;
                counts.rewritten += self.take_over(keys, past, directory, now);
            }
            None => counts.refused_reloads += 1,
        }
    }

    fn take_over(
        &mut self,
        keys: Vec<Key>,
        past: Vec<KeyValidity>,
        directory: &Directory,
        now: UnixTime,
    ) -> u64 {
        self.history = self.history.with_published(&[announced(&keys, &past)], now);
        (self.keys, self.past) = (keys, past);
        let mut listed_entries = directory.version.noted.clone();
        for entry in &mut listed_entries {
            entry.retired = entry.retired.map(|at| at.min(now));
        }
        let notes = &mut self.notes;
        let listed: BTreeSet<&KeyId> = listed_entries.iter().map(|entry| &entry.kid).collect();
        for entry in notes.in_force.iter().filter(|entry| !listed.contains(&entry.kid)) {
            notes.withdrawn_at.insert(entry.kid.clone(), now);
            notes.published_since.remove(&entry.kid);
            notes.last_signed.remove(&entry.kid);
        }
        let retired = listed_entries.iter().filter(|entry| entry.retired.is_some());
        notes.seen_retired.extend(retired.map(|entry| entry.kid.clone()));
        notes.in_force = listed_entries;
        let rewritten = notes.forget_rewritten_turns();
        if std::mem::take(&mut notes.is_set_back) {
            notes.fetched.clear();
        }
        rewritten
    }

    fn retirement_step(&mut self, directory: &Directory, now: UnixTime, counts: &mut Counts) {
        let none = Vec::new();
        let marks = if directory.readable { &directory.version.marks } else { &none };
        self.note_retirements(directory, now, counts);
        let open: Vec<_> = self.keys.iter().map(|key| &key.validity).collect();
        let past: Vec<_> = self.past.iter().collect();
        let Some(validities) = RULES.validities_after_retirement(&open, &past, marks, now) else { return };
        let (mut keys, mut past) = (Vec::new(), Vec::new());
        for validity in validities {
            let kid = validity.entry.kid.clone();
            match self.keys.iter().find(|key| key.kid == kid && validity.state(now) != KeyState::Gone) {
                Some(key) => keys.push(Key { validity, ..key.clone() }),
                None => past.push(validity),
            }
        }
        self.history = self.history.with_published(&[announced(&keys, &past)], now);
        (self.keys, self.past) = (keys, past);
    }

    /// What `directory` retires of the keys that are open.
    fn note_retirements(&mut self, directory: &Directory, now: UnixTime, counts: &mut Counts) {
        let version = &directory.version;
        // From a text that isn't TOML, only `retired` of a `[[key]]` is read.
        if !directory.readable || !version.is_toml && !version.text.contains("[[key]]") {
            return;
        }
        let written = |kid: &KeyId| directory.version.noted.iter().find(|entry| entry.kid == *kid);
        let is_open = |kid: &KeyId| self.keys.iter().any(|key| key.kid == *kid);
        let retires =
            self.keys.iter().filter(|key| written(&key.kid).is_some_and(|entry| entry.retired.is_some()));
        let retires: BTreeSet<KeyId> = retires.map(|key| key.kid.clone()).collect();
        let ends = self.keys.iter().any(|key| key.validity.state(now) == KeyState::Gone);
        if retires.is_empty() && !ends {
            return;
        }
        counts.keys_taken_away += retires.len() as u64;
        for entry in &mut self.notes.in_force {
            let Some(written) = written(&entry.kid) else { continue };
            entry.retired = entry.retired.or_else(|| written.retired.map(|at| at.min(now)));
            if !retires.is_empty() && written.emergency && version.is_toml {
                entry.sign_from = written.sign_from;
                entry.emergency |= is_open(&entry.kid);
            }
            if entry.retired.is_some() {
                self.notes.seen_retired.insert(entry.kid.clone());
            }
        }
        self.notes.in_force.sort_by_key(|entry| entry.sign_from);
        counts.rewritten += self.notes.forget_rewritten_turns();
    }

    /// Compares the process with the oracle.
    pub fn check(&mut self, now: UnixTime, counts: &mut Counts) -> Result<(), String> {
        let jwks: Jwks = self.published(now).map(|key| (key.kid.clone(), key.material)).collect();
        let signing = self.signing(now).cloned();
        let notes = &mut self.notes;
        if !notes.is_set_back {
            let mut expected = expected(&notes.in_force, now);
            // A removed key stays removed, even where a retirement with an earlier date would let it sign.
            let comes_back = |kid: &KeyId| !notes.gone.contains_key(kid) || jwks.contains_key(kid);
            expected.signing = expected.signing.filter(comes_back);
            expected.published.retain(comes_back);
            let published: BTreeSet<KeyId> = jwks.keys().cloned().collect();
            let signs = signing.as_ref().map(|key| key.kid.clone());
            if (&expected.signing, &expected.published) != (&signs, &published) {
                return Err(format!(
                    "signs {signs:?}, publishes {published:?}, and {expected:?} at {now}: {:?}",
                    notes.in_force
                ));
            }
            counts.agreed_with_oracle += 1;
            for entry in notes.in_force.iter().filter(|entry| !published.contains(&entry.kid)) {
                notes.gone.entry(entry.kid.clone()).or_insert(now);
            }
        }
        if let Some(kid) = notes.seen_retired.iter().find(|kid| jwks.contains_key(*kid)) {
            return Err(format!("1: {kid} was retired and is published"));
        }
        if let Some(kid) = &notes.lost_signer {
            return Err(format!("5: a reload took {kid} away, and no key signs at {now}"));
        }
        counts.invariant_1 += u64::from(!notes.seen_retired.is_empty());
        for key in self.keys.iter().filter(|key| jwks.contains_key(&key.kid)) {
            // Where the clock was set back, it isn't gone yet.
            if notes.gone.remove(&key.kid).is_some_and(|at| at <= now && !key.validity.entry.emergency) {
                return Err(format!("2: {} was gone and comes back", key.kid));
            }
            notes.published_since.entry(key.kid.clone()).or_insert(now);
        }
        counts.invariant_2 += u64::from(!notes.gone.is_empty());
        notes.fetched.retain(|(at, _)| now.seconds() - MAX_AGE <= at.seconds());
        if let Some(key) = &signing {
            let since = notes.published_since.get(&key.kid).copied().unwrap_or(now);
            let withdrawn = notes.withdrawn_at.get(&key.kid);
            // The schedule says that others have published it before this process did, and nothing shows that it is wrong.
            let is_claimed = (key.validity.entry.added)
                .is_some_and(|added| added < since && withdrawn.is_none_or(|at| *at <= added));
            // Somebody removed it and put it back, and then the signer was retired: most verifiers know it, and a new key none.
            let is_last_resort = withdrawn.is_some() && !notes.seen_retired.is_empty();
            let unknown = notes.fetched.iter().find(|(_, jwks)| jwks.get(&key.kid) != Some(&key.material));
            match unknown {
                Some((at, _)) if !key.validity.entry.emergency && !is_claimed && !is_last_resort => {
                    return Err(format!(
                        "4: {} signs at {now}, and a verifier that fetched at {at} lacks it",
                        key.kid
                    ));
                }
                Some(_) => counts.knowingly_unknown += 1,
                None => counts.invariant_4_signing += u64::from(!notes.fetched.is_empty()),
            }
            notes.last_signed.insert(key.kid.clone(), now);
        }
        for (kid, at) in &notes.last_signed {
            let may_live = now < at.plus(RULES.longest_life);
            if may_live && !jwks.contains_key(kid) && !notes.seen_retired.contains(kid) {
                return Err(format!("4: {kid} signed at {at} and isn't published at {now}"));
            }
            let is_former = signing.as_ref().is_none_or(|key| key.kid != *kid);
            counts.invariant_4_published += u64::from(may_live && is_former);
        }
        notes.fetched.push((now, jwks));
        Ok(())
    }
}

/// Whether no key of `entries` signs at `now`, though `signed` did and isn't retired, and no emergency follows.
fn loses_signing_key(entries: &[Noted], signed: &KeyId, now: UnixTime) -> bool {
    let is_retired = entries.iter().any(|entry| entry.kid == *signed && entry.retired.is_some());
    let pending = entries.iter().filter(|entry| entry.retired.is_none() && entry.sign_from > now);
    let next = pending.min_by_key(|entry| entry.sign_from);
    expected(entries, now).signing.is_none() && !is_retired && next.is_none_or(|entry| !entry.emergency)
}

fn load(directory: &Directory, now: UnixTime, config_broken: bool) -> Option<(Vec<Key>, Vec<KeyValidity>)> {
    let schedule = directory.version.schedule.as_ref().filter(|_| directory.readable && !config_broken)?;
    let validities = RULES.validities(&schedule.entries, now);
    let (mut keys, mut past) = (Vec::new(), Vec::new());
    let mut over = BTreeSet::new();
    for (entry, validity) in schedule.entries.iter().zip(validities) {
        if validity.state(now) == KeyState::Gone {
            over.insert(&entry.kid);
            past.push(validity);
        } else {
            let material = directory.keys.get(&entry.kid)?.material;
            keys.push(Key { kid: entry.kid.clone(), validity, material });
        }
    }
    let is_readable = directory.keys.iter().all(|(kid, file)| file.readable || over.contains(kid));
    (is_readable && !directory.keys.is_empty()).then_some((keys, past))
}

fn announced<'a>(keys: &'a [Key], past: &'a [KeyValidity]) -> PublishedKeyset<'a> {
    thread_local! {
        static NAMES: (&'static Name, &'static [ProfileName]) = {
            let name = Name::parse("web").expect("a name");
            let profile = ProfileName::new(ProfileKind::Identity, name.clone());
            (Box::leak(Box::new(name)), Box::leak(Box::new([profile])))
        };
    }
    let (name, used_by) = NAMES.with(|names| *names);
    let key = |key: &'a Key| PublishedKey { modulus_hash: key.material, validity: &key.validity };
    PublishedKeyset {
        name,
        used_by,
        algorithm: Algorithm::Rs256,
        publish_lead: RULES.publish_lead,
        keys: keys.iter().map(key).collect(),
        gone: past.iter().collect(),
    }
}
