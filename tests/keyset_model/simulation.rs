//! The simulated system: files, clock, two operators and three replicas, and the events that happen to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tokenmint::clock::UnixTime;
use tokenmint::config::KeyId;
use tokenmint::keys::rotation::{Successor, next_kid};
use tokenmint::keys::{
    ModulusHash, RetirementMark, RotationRules, SCHEDULE_FILE, Schedule, ScheduleChange, ScheduleDocument,
    ScheduleEntry, parse_schedule, retirement_marks,
};

use super::Counts;
use super::oracle::Noted;
use super::process::Process;

pub const RULES: RotationRules = RotationRules {
    publish_lead: Duration::from_secs(1000),
    longest_life: Duration::from_mins(5),
    retire_margin: Duration::from_secs(100),
};
/// The cache lifetime of the JWKS: a quarter of the lead.
pub const MAX_AGE: i64 = 250;
/// How long a command waits for the service, and the promise of a retirement.
const TAKEOVER: i64 = 5;
const POLL: i64 = 2;
const BEGIN: i64 = 1_796_083_200;

#[derive(Clone, Debug)]
pub enum Step {
    Wait(i64),
    Look(usize),
    Restart(usize),
    /// The directory is copied to the replica that has its own.
    Bring,
    Run(usize, Command),
    Continue(usize),
    Edit(Edit),
    Configuration {
        replica: usize,
        broken: bool,
    },
    SetClockBack {
        replica: usize,
        seconds: i64,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Command {
    Rotate { emergency: bool, ahead: Option<i64> },
    Retire(usize),
}

/// A change by hand, without the lock.
#[derive(Clone, Debug)]
pub enum Edit {
    Retire { key: usize, ahead: i64 },
    Unretire(usize),
    Remove(usize),
    PutBack,
    Add { added: Option<i64>, ahead: i64, emergency: bool },
    Twin(usize),
    Move { key: usize, ahead: i64 },
    Emergency(usize),
    NewMaterial(usize),
    RemoveFile(usize),
    Spoil(Spoiled),
    Inline(bool),
    Access { schedule: bool, readable: bool },
    AllReadable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoiled {
    No,
    NoToml,
    UnknownField,
}

/// One version of `keyset.toml`, and its intended entries.
pub struct Version {
    pub text: String,
    pub marks: Vec<RetirementMark>,
    pub schedule: Option<Schedule>,
    pub noted: Vec<Noted>,
    pub is_toml: bool,
}

impl Version {
    fn new(text: String, noted: Vec<Noted>) -> Rc<Self> {
        let marks = retirement_marks(&text);
        let schedule = parse_schedule(SCHEDULE_FILE, &text, RULES.publish_lead).ok();
        let is_toml = ScheduleDocument::parse(SCHEDULE_FILE, &text).is_ok();
        Rc::new(Self { text, marks, schedule, noted, is_toml })
    }
}

#[derive(Clone)]
pub struct Directory {
    pub version: Rc<Version>,
    /// Whether the service may read `keyset.toml`.
    pub readable: bool,
    pub keys: BTreeMap<KeyId, KeyFile>,
    /// Another with each change.
    pub edition: u64,
}

#[derive(Clone, Copy)]
pub struct KeyFile {
    pub material: ModulusHash,
    pub readable: bool,
}

struct Replica {
    process: Option<Process>,
    /// `None`: the shared one.
    copy: Option<Directory>,
    clock_offset: i64,
    config_broken: bool,
}

enum Stage {
    Idle,
    /// Makes a key, without the lock. `before` is the version that was read before.
    Making {
        work: Work,
        before: Rc<Version>,
    },
    /// Has read `keyset.toml`.
    Holding {
        work: Work,
        before: Rc<Version>,
    },
    /// Waits until the service on this host has applied the change.
    Waiting {
        wish: Wish,
        until: i64,
        has_failed: bool,
    },
}

#[derive(Clone)]
enum Work {
    Rotate {
        emergency: bool,
        ahead: Option<i64>,
    },
    Retire(KeyId),
    /// Makes a key for the retired one.
    Replace(KeyId),
}

#[derive(Clone)]
enum Wish {
    Publish { kid: KeyId, sign_from: UnixTime, edition: u64 },
    Retire { kid: KeyId, successor: Option<KeyId> },
}

struct Promise {
    wish: Wish,
    at: i64,
    process: u64,
}

pub struct Simulation {
    now: i64,
    /// When all processes last polled their files.
    looked_at: i64,
    /// When the shared files last changed.
    changed_at: i64,
    shared: Directory,
    replicas: Vec<Replica>,
    operators: [Stage; 2],
    lock: Option<usize>,
    /// Whether commands take the lock and compare before they write.
    locks: bool,
    spoiled: Spoiled,
    inline: bool,
    removed: Vec<Noted>,
    made: u32,
    numbers: u64,
    promises: Vec<Promise>,
}

type Checked = Result<(), String>;

impl Simulation {
    pub fn new(locks: bool) -> Self {
        let kid = KeyId::parse("k1").expect("an id");
        let noted = Noted {
            kid: kid.clone(),
            sign_from: UnixTime::from_seconds(BEGIN - 10_000),
            added: None,
            emergency: false,
            retired: None,
        };
        let noted = vec![noted];
        let shared = Directory {
            version: Version::new(written(&noted, Spoiled::No, false), noted),
            readable: true,
            keys: BTreeMap::from([(kid, KeyFile { material: [1; 32], readable: true })]),
            edition: 1,
        };
        let replica = |clock_offset, copy: Option<&Directory>| Replica {
            process: None,
            copy: copy.cloned(),
            clock_offset,
            config_broken: false,
        };
        let replicas = vec![replica(0, None), replica(-3, None), replica(2, Some(&shared))];
        let mut simulation = Self {
            now: BEGIN,
            looked_at: BEGIN,
            changed_at: BEGIN,
            shared,
            replicas,
            operators: [Stage::Idle, Stage::Idle],
            lock: None,
            locks,
            spoiled: Spoiled::No,
            inline: false,
            removed: Vec::new(),
            made: 1,
            numbers: 0,
            promises: Vec::new(),
        };
        (0..3).for_each(|replica| simulation.start(replica));
        simulation
    }

    pub fn step(&mut self, step: &Step, counts: &mut Counts) -> Checked {
        counts.steps += 1;
        match step {
            Step::Wait(seconds) => self.wait(*seconds, counts)?,
            Step::Look(replica) => self.look(*replica, counts),
            Step::Restart(replica) => {
                counts.restarts += 1;
                self.start(*replica);
            }
            Step::Bring => self.replicas[2].copy = Some(self.shared.clone()),
            Step::Run(operator, command) => self.run(*operator, *command, counts),
            Step::Continue(operator) => self.go_on(*operator, counts)?,
            Step::Edit(edit) => self.edit(edit),
            Step::Configuration { replica, broken } => self.replicas[*replica].config_broken = *broken,
            Step::SetClockBack { replica, seconds } => {
                let replica = &mut self.replicas[*replica];
                replica.clock_offset -= seconds;
                replica.process.iter_mut().for_each(Process::clock_is_set_back);
            }
        }
        self.check(counts)
    }

    fn clock_of(&self, replica: usize) -> UnixTime {
        UnixTime::from_seconds(self.now + self.replicas[replica].clock_offset)
    }

    fn start(&mut self, replica: usize) {
        self.numbers += 1;
        let now = self.clock_of(replica);
        let Replica { copy, config_broken, .. } = &self.replicas[replica];
        let directory = copy.as_ref().unwrap_or(&self.shared);
        self.replicas[replica].process = Process::start(self.numbers, directory, now, *config_broken);
    }

    fn look(&mut self, replica: usize, counts: &mut Counts) {
        let now = self.clock_of(replica);
        let Replica { process, copy, config_broken, .. } = &mut self.replicas[replica];
        let directory = copy.as_ref().unwrap_or(&self.shared);
        if let Some(process) = process {
            process.look(directory, now, *config_broken, counts);
        }
    }

    fn look_all(&mut self, counts: &mut Counts) -> Checked {
        self.looked_at = self.now;
        (0..3).for_each(|replica| self.look(replica, counts));
        self.check(counts)?;
        for operator in 0..2 {
            self.confirm(operator, counts);
        }
        Ok(())
    }

    /// Lets time pass. Each process polls its files in its interval.
    fn wait(&mut self, seconds: i64, counts: &mut Counts) -> Checked {
        let end = self.now + seconds;
        let look = self.looked_at + POLL;
        if (self.now + 1..=end).contains(&look) {
            self.now = look;
            self.look_all(counts)?;
        }
        for _ in 0..12 {
            if end < self.looked_at + POLL {
                break;
            }
            let next = self.next_change().filter(|next| *next <= end).unwrap_or(end);
            let begin = self.now;
            for moment in [next - 1, next].into_iter().filter(|moment| *moment > begin) {
                self.now = moment;
                self.check(counts)?;
            }
            self.look_all(counts)?;
        }
        self.now = end;
        if end >= self.looked_at + POLL { self.look_all(counts) } else { Ok(()) }
    }

    fn next_change(&self) -> Option<i64> {
        let of = |replica: &Replica| {
            let now = UnixTime::from_seconds(self.now + replica.clock_offset);
            let keys = replica.process.iter().flat_map(|process| &process.keys);
            keys.filter_map(|key| key.validity.next_change(now))
                .min()
                .map(|at| at.seconds() - replica.clock_offset)
        };
        self.replicas.iter().filter_map(of).min()
    }

    fn check(&mut self, counts: &mut Counts) -> Checked {
        for replica in 0..3 {
            let now = self.clock_of(replica);
            if let Some(process) = &mut self.replicas[replica].process {
                process.check(now, counts).map_err(|problem| format!("replica {replica}: {problem}"))?;
            }
        }
        let Self { promises, replicas, shared, now, changed_at, .. } = self;
        // Whether no other key was to sign since.
        let is_last = |from: UnixTime, clock: UnixTime| {
            shared.version.noted.iter().all(|entry| entry.sign_from <= from || entry.sign_from > clock)
        };
        for Promise { wish, at, process: number } in promises.iter() {
            match wish {
                Wish::Retire { kid, .. }
                    if *now >= *at.max(changed_at) + TAKEOVER
                        && shared.readable
                        && shared.version.is_toml =>
                {
                    for replica in replicas.iter().filter(|replica| replica.copy.is_none()) {
                        let clock = UnixTime::from_seconds(*now + replica.clock_offset);
                        if replica.process.as_ref().is_some_and(|process| process.publishes(kid, clock)) {
                            return Err(format!("3: a command has retired {kid}, and it is published"));
                        }
                        counts.invariant_3 += 1;
                    }
                }
                Wish::Publish { kid, sign_from, edition }
                    if *edition == shared.edition && sign_from.seconds() <= *now =>
                {
                    let clock = UnixTime::from_seconds(*now + replicas[0].clock_offset);
                    let process = replicas[0].process.as_ref();
                    if let Some(process) =
                        process.filter(|process| process.number == *number && *sign_from <= clock)
                    {
                        if is_last(*sign_from, clock)
                            && !process.is_set_back()
                            && process.signing(clock).is_none_or(|key| key.kid != *kid)
                        {
                            return Err(format!("3: {kid} was to sign, and doesn't"));
                        }
                        counts.invariant_3 += 1;
                    }
                }
                Wish::Retire { .. } | Wish::Publish { .. } => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, text: String, noted: Vec<Noted>) {
        let edition = self.shared.edition + 1;
        self.changed_at = self.now;
        self.shared = Directory { version: Version::new(text, noted), edition, ..self.shared.clone() };
    }

    // Operators, as src/cli/keys and src/keys/directory.rs do it.

    fn run(&mut self, operator: usize, command: Command, counts: &mut Counts) {
        if !matches!(self.operators[operator], Stage::Idle) {
            return;
        }
        counts.commands += 1;
        let before = self.shared.version.clone();
        match command {
            Command::Rotate { emergency, ahead } => {
                let work = Work::Rotate { emergency, ahead };
                // Refused before a key is made.
                if self.is_locked() || self.changes(&work, &before).is_none() {
                    return;
                }
                self.operators[operator] = Stage::Making { work, before };
            }
            Command::Retire(key) => {
                let kid = pick(&before.noted, key).map(|entry| entry.kid.clone());
                let listed = kid.filter(|kid| before.marks.iter().any(|mark| mark.kid == *kid));
                let Some(kid) = listed else { return };
                if !self.is_locked() {
                    self.lock = Some(operator);
                    self.operators[operator] = Stage::Holding { work: Work::Retire(kid), before };
                }
            }
        }
    }

    const fn is_locked(&self) -> bool {
        self.locks && self.lock.is_some()
    }

    fn go_on(&mut self, operator: usize, counts: &mut Counts) -> Checked {
        match std::mem::replace(&mut self.operators[operator], Stage::Idle) {
            Stage::Idle => {}
            Stage::Making { work, before } if self.is_locked() => {
                self.operators[operator] = Stage::Making { work, before };
            }
            Stage::Making { work, before } => {
                self.lock = Some(operator);
                let before = if self.locks { self.shared.version.clone() } else { before };
                self.operators[operator] = Stage::Holding { work, before };
            }
            Stage::Holding { work, before } => {
                self.lock = None;
                self.operators[operator] = self.put(work, &before, counts)?;
            }
            waiting @ Stage::Waiting { .. } => {
                self.operators[operator] = waiting;
                self.look(0, counts);
                self.confirm(operator, counts);
            }
        }
        Ok(())
    }

    /// The change of `work` to `before`, and the key that signs after it.
    fn changes(&self, work: &Work, before: &Version) -> Option<(Vec<ScheduleChange>, Option<Successor>)> {
        let now = UnixTime::from_seconds(self.now);
        let schedule = before.schedule.as_ref();
        match work {
            Work::Rotate { emergency, ahead } => {
                let schedule = schedule?;
                let kid = free_kid(&schedule.entries.last()?.kid, schedule)?;
                let sign_from = ahead.map(|ahead| UnixTime::from_seconds(self.now + ahead));
                let entry = RULES.plan_next_key(schedule, kid, sign_from, *emergency, now).ok()?;
                Some((vec![ScheduleChange::Add(entry)], None))
            }
            Work::Retire(kid) => Some(match schedule {
                Some(schedule) => {
                    let (changes, successor) = RULES.plan_retirement(schedule, kid, now);
                    (changes, Some(successor))
                }
                None => (vec![ScheduleChange::Retire { kid: kid.clone(), at: now }], None),
            }),
            Work::Replace(kid) => {
                let kid = free_kid(kid, schedule?)?;
                let entry = ScheduleEntry {
                    sign_from: Some(now),
                    added: Some(now),
                    emergency: true,
                    ..ScheduleEntry::without_dates(kid)
                };
                Some((vec![ScheduleChange::Add(entry)], None))
            }
        }
    }

    /// Writes the change of `work`, or fails.
    fn put(&mut self, work: Work, before: &Rc<Version>, counts: &mut Counts) -> Result<Stage, String> {
        let Some((changes, successor)) = self.changes(&work, before) else { return Ok(Stage::Idle) };
        if self.locks && !Rc::ptr_eq(before, &self.shared.version) && before.text != self.shared.version.text
        {
            counts.changed_meanwhile += 1;
            return Ok(Stage::Idle);
        }
        let Ok(mut document) = ScheduleDocument::parse(SCHEDULE_FILE, &before.text) else {
            return Ok(self.append_retirement(work, before));
        };
        for change in &changes {
            document.apply(change);
        }
        let now_says = document.schedule(RULES.publish_lead).ok();
        let wanted = before.schedule.as_ref().map(|before| {
            changes.iter().fold(before.clone(), |schedule, change| schedule.with_change(change))
        });
        match (&wanted, &now_says) {
            (Some(wanted), Some(now_says)) if wanted.entries == now_says.entries => {}
            (Some(_), None) => return Ok(Stage::Idle),
            (Some(_), Some(_)) => {
                return Err(format!("the edit is refused as not what was wanted: {}", document.text()));
            }
            (None, _) => {}
        }
        let mut noted = self.shared.version.noted.clone();
        for change in &changes {
            note(&mut noted, change);
        }
        if let Some(ScheduleChange::Add(entry)) = changes.first() {
            let beside = self.shared.keys.values().next().map(|file| file.readable);
            if self.shared.keys.contains_key(&entry.kid) {
                return Ok(Stage::Idle);
            }
            let material = self.new_material();
            // It gets owner and mode of the files beside it.
            self.shared
                .keys
                .insert(entry.kid.clone(), KeyFile { material, readable: beside.unwrap_or(true) });
        }
        self.write(document.text(), noted);
        self.says_what_was_meant()?;
        let until = self.now + TAKEOVER;
        let has_failed = wanted.is_none();
        Ok(match (work, successor) {
            (Work::Retire(kid), Some(Successor::New)) => {
                // The retirement is written, and the command goes on with another key.
                self.promises.push(Promise {
                    wish: Wish::Retire { kid: kid.clone(), successor: None },
                    at: self.now,
                    process: 0,
                });
                Stage::Making { work: Work::Replace(kid), before: self.shared.version.clone() }
            }
            (Work::Retire(kid), successor) => {
                let successor = match successor {
                    Some(Successor::Same(kid) | Successor::Former(kid) | Successor::Pending(kid)) => {
                        Some(kid)
                    }
                    _ => None,
                };
                Stage::Waiting { wish: Wish::Retire { kid, successor }, until, has_failed }
            }
            (Work::Rotate { .. } | Work::Replace(_), _) => match changes.into_iter().next() {
                Some(ScheduleChange::Add(ScheduleEntry { kid, sign_from: Some(sign_from), .. })) => {
                    let wish = Wish::Publish { kid, sign_from, edition: self.shared.edition };
                    Stage::Waiting { wish, until, has_failed }
                }
                _ => Stage::Idle,
            },
        })
    }

    /// Retires a key by an entry at the end of a `keyset.toml` that isn't TOML. The command ends with 64.
    fn append_retirement(&mut self, work: Work, before: &Version) -> Stage {
        let Work::Retire(kid) = work else { return Stage::Idle };
        let at = UnixTime::from_seconds(self.now);
        let mut noted = self.shared.version.noted.clone();
        note(&mut noted, &ScheduleChange::Retire { kid: kid.clone(), at });
        self.write(format!("{}\n[[key]]\nkid = \"{kid}\"\nretired = {at}\n", before.text), noted);
        Stage::Waiting {
            wish: Wish::Retire { kid, successor: None },
            until: self.now + TAKEOVER,
            has_failed: true,
        }
    }

    /// Whether `keyset.toml` has all changes of its writers, in their order.
    fn says_what_was_meant(&self) -> Checked {
        let version = &self.shared.version;
        let Some(schedule) = &version.schedule else { return Ok(()) };
        let says = |entry: &ScheduleEntry| Noted {
            kid: entry.kid.clone(),
            sign_from: entry.sign_from.unwrap_or(UnixTime::from_seconds(0)),
            added: entry.added,
            emergency: entry.emergency,
            retired: entry.retired,
        };
        let mut said: Vec<Noted> = schedule.entries.iter().map(says).collect();
        let mut meant = version.noted.clone();
        said.sort_by(|one, other| one.kid.cmp(&other.kid));
        meant.sort_by(|one, other| one.kid.cmp(&other.kid));
        if said == meant {
            Ok(())
        } else {
            Err(format!("3: a command was undone: {said:?} instead of {meant:?}"))
        }
    }

    /// Ends a command with 0 if its change is applied, or with 1 if its time is over.
    fn confirm(&mut self, operator: usize, counts: &mut Counts) {
        let Stage::Waiting { wish, until, has_failed } = &self.operators[operator] else { return };
        let clock = self.clock_of(0);
        let process = self.replicas[0].process.as_ref();
        let is_done = process.is_none_or(|process| match wish {
            Wish::Publish { kid, sign_from, .. } => {
                let signs = process.signing(clock).is_some_and(|key| key.kid == *kid);
                process.publishes(kid, clock) && (sign_from.seconds() > self.now || signs)
            }
            Wish::Retire { kid, successor } => {
                let signing = process.signing(clock).map(|key| &key.kid);
                !process.publishes(kid, clock) && successor.as_ref().is_none_or(|kid| signing == Some(kid))
            }
        });
        // A hand edit may have undone the change before the command saw that it was applied.
        let noted = &self.shared.version.noted;
        let is_undone = matches!(wish, Wish::Retire { kid, .. }
            if !noted.iter().any(|entry| entry.kid == *kid && entry.retired.is_some()));
        if is_done && !has_failed {
            counts.ended_with_0 += 1;
            let process = process.map_or(0, |process| process.number);
            if !is_undone {
                self.promises.push(Promise { wish: wish.clone(), at: self.now, process });
            }
        } else if self.now < *until {
            return;
        } else {
            counts.ended_with_1 += 1;
        }
        self.operators[operator] = Stage::Idle;
    }

    fn new_material(&mut self) -> ModulusHash {
        self.made += 1;
        let mut material = [0; 32];
        material[..4].copy_from_slice(&self.made.to_be_bytes());
        material
    }

    fn edit(&mut self, edit: &Edit) {
        let at = |ahead: i64| UnixTime::from_seconds(self.now + ahead);
        let mut noted = self.shared.version.noted.clone();
        let mut keys = self.shared.keys.clone();
        let index = |key: usize| if noted.is_empty() { None } else { Some(key % noted.len()) };
        let is_free = |noted: &[Noted], from: UnixTime| noted.iter().all(|entry| entry.sign_from != from);
        let mut touched = None;
        match edit {
            Edit::Retire { key, ahead } => {
                let Some(index) = index(*key) else { return };
                noted[index].retired = Some(at(*ahead));
            }
            Edit::Unretire(key) => {
                let Some(index) = index(*key) else { return };
                noted[index].retired = None;
                touched = Some(noted[index].kid.clone());
            }
            Edit::Remove(key) => {
                let Some(index) = index(*key).filter(|_| noted.len() > 1) else { return };
                let entry = noted.remove(index);
                touched = Some(entry.kid.clone());
                self.removed.push(entry);
            }
            Edit::PutBack => {
                let Some(entry) = self.removed.pop() else { return };
                if noted.iter().any(|other| other.kid == entry.kid) || !is_free(&noted, entry.sign_from) {
                    return;
                }
                touched = Some(entry.kid.clone());
                noted.push(entry);
            }
            Edit::Add { added, ahead, emergency } => {
                let kid = KeyId::parse(&format!("hand{}", self.made)).expect("an id");
                if !is_free(&noted, at(*ahead)) {
                    return;
                }
                let added = added.map(at);
                noted.push(Noted {
                    kid: kid.clone(),
                    sign_from: at(*ahead),
                    added,
                    emergency: *emergency,
                    retired: None,
                });
                let material = self.new_material();
                keys.insert(kid, KeyFile { material, readable: true });
            }
            Edit::Twin(key) => {
                let Some(file) = index(*key).and_then(|index| keys.get(&noted[index].kid).copied()) else {
                    return;
                };
                let kid = KeyId::parse(&format!("twin{}", self.made)).expect("an id");
                self.made += 1;
                let now = UnixTime::from_seconds(self.now);
                let sign_from = now.plus(RULES.publish_lead);
                if !is_free(&noted, sign_from) {
                    return;
                }
                noted.push(Noted {
                    kid: kid.clone(),
                    sign_from,
                    added: Some(now),
                    emergency: false,
                    retired: None,
                });
                keys.insert(kid, file);
            }
            Edit::Move { key, ahead } => {
                let Some(index) = index(*key).filter(|_| is_free(&noted, at(*ahead))) else { return };
                noted[index].sign_from = at(*ahead);
            }
            Edit::Emergency(key) => {
                let Some(index) = index(*key) else { return };
                noted[index].emergency = true;
            }
            Edit::NewMaterial(key) => {
                let Some(index) = index(*key) else { return };
                let material = self.new_material();
                keys.insert(noted[index].kid.clone(), KeyFile { material, readable: true });
            }
            Edit::RemoveFile(key) => {
                let Some(index) = index(*key) else { return };
                keys.remove(&noted[index].kid);
            }
            Edit::Spoil(how) => self.spoiled = *how,
            Edit::Inline(inline) => self.inline = *inline,
            Edit::Access { schedule: true, readable } => self.shared.readable = *readable,
            Edit::Access { schedule: false, readable } => {
                keys.values_mut().take(1).for_each(|file| file.readable = *readable);
            }
            Edit::AllReadable => {
                self.shared.readable = true;
                for file in keys.values_mut() {
                    file.readable = true;
                }
                self.spoiled = Spoiled::No;
            }
        }
        self.promises.retain(|promise| match &promise.wish {
            Wish::Retire { kid, .. } => Some(kid) != touched.as_ref(),
            Wish::Publish { .. } => true,
        });
        noted.sort_by_key(|entry| entry.sign_from);
        self.shared.keys = keys;
        let text = written(&noted, self.spoiled, self.inline);
        self.write(text, noted);
    }
}

fn pick(noted: &[Noted], index: usize) -> Option<&Noted> {
    noted.get(index.checked_rem(noted.len())?)
}

fn free_kid(last: &KeyId, schedule: &Schedule) -> Option<KeyId> {
    std::iter::successors(next_kid(last), next_kid).find(|kid| schedule.entry(kid).is_none())
}

fn note(noted: &mut Vec<Noted>, change: &ScheduleChange) {
    match change {
        ScheduleChange::Add(entry) => noted.push(Noted {
            kid: entry.kid.clone(),
            sign_from: entry.sign_from.expect("commands give a date"),
            added: entry.added,
            emergency: entry.emergency,
            retired: None,
        }),
        ScheduleChange::Retire { kid, at } => {
            noted.iter_mut().filter(|entry| entry.kid == *kid).for_each(|entry| entry.retired = Some(*at));
        }
        ScheduleChange::Promote { kid, at } => {
            for entry in noted.iter_mut().filter(|entry| entry.kid == *kid) {
                (entry.sign_from, entry.emergency) = (*at, true);
            }
        }
    }
    noted.sort_by_key(|entry| entry.sign_from);
}

/// `keyset.toml` in the forms that people write.
fn written(noted: &[Noted], spoiled: Spoiled, inline: bool) -> String {
    let fields = |entry: &Noted| {
        let mut fields = vec![format!("kid = \"{}\"", entry.kid), format!("sign_from = {}", entry.sign_from)];
        fields.extend(entry.added.map(|at| format!("added = {at}")));
        fields.extend(entry.retired.map(|at| format!("retired = {at}")));
        fields.extend(entry.emergency.then(|| "emergency = true".to_owned()));
        fields
    };
    let mut text = match spoiled {
        Spoiled::No => "# ours\n".to_owned(),
        Spoiled::NoToml => "<<<<<<< ours\n".to_owned(),
        Spoiled::UnknownField => "nobody = \"knows\"\n".to_owned(),
    };
    if inline {
        let keys: Vec<String> =
            noted.iter().map(|entry| format!("{{ {} }}", fields(entry).join(", "))).collect();
        let _ = writeln!(text, "key = [{}]", keys.join(", "));
    } else {
        for entry in noted {
            let _ = writeln!(text, "[[key]]\n{}", fields(entry).join("\n"));
        }
    }
    text
}
