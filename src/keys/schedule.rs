//! `keyset.toml`: what it says of each key, and the edits that commands make.
//!
//! A retired key keeps its place: [`Rules::lives`](super::Rules::lives) says from all entries together what each key is.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::UnixTime;
use crate::config::section::{Diagnostics, Section, parse_string};
use crate::config::source::{self, ConfigNode, ConfigValue};
use crate::config::{KeyId, Problem};

/// The name of the schedule beside the keys.
pub const FILE: &str = "keyset.toml";

/// When a key signs. With one key and no schedule, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kid: KeyId,
    pub sign_from: Option<UnixTime>,
    /// Since when it has been published, as its writer says.
    pub added: Option<UnixTime>,
    /// It signs before verifiers can be sure to know it, knowingly.
    pub emergency: bool,
    /// When it was taken away. From the moment that this is read, whatever the date, it neither signs nor is published;
    /// the date says which other key took over.
    pub retired: Option<UnixTime>,
}

impl Entry {
    /// A key that needs no schedule.
    pub const fn sole(kid: KeyId) -> Self {
        Self { kid, sign_from: None, added: None, emergency: false, retired: None }
    }

    /// By `sign_from`; of one moment, by key id, wherever each stands in the file.
    pub fn in_order(&self, other: &Self) -> Ordering {
        (self.sign_from, &self.kid).cmp(&(other.sign_from, &other.kid))
    }
}

/// A `keyset.toml`, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// In order of `sign_from`, retired keys among them: what they did is history, which later edits don't change.
    pub entries: Vec<Entry>,
    /// What is allowed, but probably not meant: field and message.
    pub warnings: Vec<(&'static str, String)>,
}

impl Schedule {
    /// The schedule of a key that is alone and needs none.
    pub fn of_sole(kid: KeyId) -> Self {
        Self { entries: vec![Entry::sole(kid)], warnings: Vec::new() }
    }

    pub fn entry(&self, kid: &KeyId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kid == *kid)
    }

    /// The first moment from `now` on at which no key starts to sign: two commands may come within one second.
    pub fn free_moment(&self, now: UnixTime) -> UnixTime {
        let mut moment = now;
        while self.entries.iter().any(|entry| entry.sign_from == Some(moment)) {
            moment = moment.plus(Duration::from_secs(1));
        }
        moment
    }

    /// What it says after `change`.
    #[must_use]
    pub fn after(&self, change: &Change) -> Self {
        let mut entries = self.entries.clone();
        match change {
            Change::Add(entry) => entries.push(entry.clone()),
            Change::Retire { kid, at } => {
                for entry in entries.iter_mut().filter(|entry| entry.kid == *kid) {
                    entry.retired = Some(*at);
                }
            }
            Change::Promote { kid, at } => {
                for entry in entries.iter_mut().filter(|entry| entry.kid == *kid) {
                    entry.sign_from = Some(*at);
                    entry.emergency = true;
                }
            }
        }
        entries.sort_by(Entry::in_order);
        Self { entries, warnings: Vec::new() }
    }
}

/// An edit of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more key.
    Add(Entry),
    /// Takes a key away.
    Retire { kid: KeyId, at: UnixTime },
    /// Lets a key sign from `at` on, knowing that verifiers may not know it yet.
    Promote { kid: KeyId, at: UnixTime },
}

/// What a line of `keyset.toml` says of a retirement, read without regard to any mistake around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub kid: KeyId,
    pub retired: Option<UnixTime>,
    /// The `sign_from` of an entry with `emergency = true`.
    pub emergency_from: Option<UnixTime>,
}

/// Finds retirements in `keyset.toml`. Everything else may be wrong with it, but that it must be TOML.
pub fn marks(document: &str) -> Vec<Mark> {
    let Ok(root) = source::parse_toml(FILE, document) else { return Vec::new() };
    let ConfigValue::Table(root) = &root.value else { return Vec::new() };
    let Some(ConfigValue::List(keys)) = root.get("key").map(|node| &node.value) else { return Vec::new() };
    let tables = keys.iter().filter_map(|node| match &node.value {
        ConfigValue::Table(table) => Some(table),
        _ => None,
    });
    tables
        .filter_map(|table| {
            let sign_from = table.get("sign_from").and_then(|node| moment(node).ok());
            let emergency = table.get("emergency").and_then(|node| flag(node).ok()).unwrap_or_default();
            Some(Mark {
                kid: KeyId::parse(&parse_string(table.get("kid")?).ok()?).ok()?,
                // What can't be read as a date, or gives none, is a retirement all the same: now.
                retired: table.get("retired").and_then(|node| match retirement(node) {
                    Ok(None) => None,
                    Ok(Some(Retirement::At(at))) => Some(at),
                    Ok(Some(Retirement::Undated)) | Err(_) => Some(UnixTime::from_seconds(i64::MAX)),
                }),
                emergency_from: sign_from.filter(|_| emergency),
            })
        })
        .collect()
}

/// Reads `keyset.toml`. A key that says when it was `added` signs `publish_lead` later at the earliest.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(name: &str, text: &str, publish_lead: Duration) -> Result<Schedule, Vec<Problem>> {
    let root = source::parse_toml(name, text)?;
    let findings = Diagnostics::new(PathBuf::new());
    let mut warnings = Vec::new();
    let mut entries: Vec<Entry> = Section::from_node("", &root, &findings)
        .map(|root| {
            let keys = root.tables("key");
            keys.iter().filter_map(|key| entry(key, publish_lead, &mut warnings)).collect()
        })
        .unwrap_or_default();
    findings.report_unknown_keys(&root);
    let (mut problems, ..) = findings.into_parts();
    problems.extend(clashes(name, &entries));
    if entries.is_empty() && problems.is_empty() {
        problems.push(Problem::new(
            "key",
            name,
            "lists no key: write a [[key]] for each, with kid and sign_from",
        ));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    entries.sort_by(Entry::in_order);
    Ok(Schedule { entries, warnings })
}

fn entry(
    section: &Section<'_>,
    publish_lead: Duration,
    warnings: &mut Vec<(&'static str, String)>,
) -> Option<Entry> {
    let kid =
        section.required("kid", |node| KeyId::parse(&parse_string(node)?), "the name of the KID.key file");
    let sign_from = section.optional("sign_from", moment);
    let added = section.optional("added", moment);
    let emergency = section.optional("emergency", flag).unwrap_or_default();
    let retirement = section.optional("retired", retirement);
    let retired = retirement.flatten().map(|retirement| retirement.date(sign_from));
    if retired.is_none() && !section.has("sign_from") {
        section.problem("sign_from", "is missing: when it starts to sign, for example 2026-12-01T00:00:00Z");
    }
    let kid = kid?;
    if retired.is_none() || section.has("sign_from") {
        let sign_from = sign_from?;
        if let Some(added) = added.filter(|added| sign_from < added.plus(publish_lead) && !emergency) {
            let message = format!(
                "comes before verifiers know the key: added {added}, it may sign from {} on (`publish_lead` later). If it \
                 must sign sooner, say `emergency = true`: until they fetch the keys anew, its tokens fail",
                added.plus(publish_lead)
            );
            section.problem("sign_from", message);
            return None;
        }
    }
    if retirement == Some(Some(Retirement::Undated)) {
        let message = format!(
            "of `{kid}` gives no date, so the key before it takes its turn back: write when it was taken away, for \
             example retired = 2026-11-30T12:00:00Z"
        );
        warnings.push(("key.retired", message));
    }
    Some(Entry { kid, sign_from, added, emergency, retired })
}

fn clashes(name: &str, entries: &[Entry]) -> Vec<Problem> {
    let mut kids = BTreeSet::new();
    let mut starts = BTreeSet::new();
    let mut problems = Vec::new();
    for entry in entries {
        if !kids.insert(&entry.kid) {
            problems.push(Problem::new("key.kid", name, format!("`{}` is listed twice", entry.kid)));
        }
        if entry.retired.is_none() && !starts.insert(entry.sign_from) {
            let message = format!("`{}` signs from the same moment as another key", entry.kid);
            problems.push(Problem::new("key.sign_from", name, message));
        }
    }
    problems
}

/// What `retired = …` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retirement {
    At(UnixTime),
    /// `true`, as tokenmint 0.1 wrote it.
    Undated,
}

impl Retirement {
    /// Without a date the key counts as taken away before its turn began.
    fn date(self, sign_from: Option<UnixTime>) -> UnixTime {
        match self {
            Self::At(at) => at,
            Self::Undated => sign_from.unwrap_or(UnixTime::from_seconds(i64::MIN)),
        }
    }
}

fn retirement(node: &ConfigNode) -> Result<Option<Retirement>, String> {
    match &node.value {
        ConfigValue::Boolean(retired) => Ok(retired.then_some(Retirement::Undated)),
        _ => moment(node).map(|at| Some(Retirement::At(at))),
    }
}

fn flag(node: &ConfigNode) -> Result<bool, String> {
    match &node.value {
        ConfigValue::Boolean(flag) => Ok(*flag),
        _ => Err("must be true or false".to_owned()),
    }
}

fn moment(node: &ConfigNode) -> Result<UnixTime, String> {
    const FORM: &str = "must be a date with time and zone, for example 2026-12-01T00:00:00Z";
    let written = match &node.value {
        ConfigValue::Datetime(written) => written.clone(),
        ConfigValue::Text(written) => written.to_string(),
        _ => return Err(FORM.to_owned()),
    };
    OffsetDateTime::parse(&written, &Rfc3339).map(UnixTime::from).map_err(|_| FORM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_hours(24);

    #[test]
    fn a_start_before_the_lead_is_refused_with_the_date_that_works() {
        let schedule =
            "[[key]]\nkid = \"a\"\nadded = 2026-11-28T00:00:00Z\nsign_from = 2026-11-28T12:00:00Z\n";
        let problems = parse("keyset.toml", schedule, LEAD).expect_err("too soon");
        assert!(problems[0].message.contains("2026-11-29T00:00:00Z"), "{problems:?}");
        let knowingly = format!("{schedule}emergency = true\n");
        assert!(parse("keyset.toml", &knowingly, LEAD).expect("allowed").entries[0].emergency);
    }

    #[test]
    fn a_retired_key_keeps_its_place_and_one_without_a_date_is_warned_of() {
        let schedule = "[[key]]\nkid = \"b\"\nsign_from = 2026-11-29T00:00:00Z\nretired = 2026-11-30T00:00:00Z\n\
                        [[key]]\nkid = \"a\"\nsign_from = 2026-11-28T00:00:00Z\n\
                        [[key]]\nkid = \"c\"\nretired = true\n";
        let Schedule { entries, warnings } = parse("keyset.toml", schedule, LEAD).expect("valid");
        assert_eq!(entries.iter().map(|entry| entry.kid.as_str()).collect::<Vec<_>>(), ["c", "a", "b"]);
        assert_eq!(entries[2].retired.map(|at| at.to_string()).as_deref(), Some("2026-11-30T00:00:00Z"));
        assert!(warnings[0].1.contains("`c` gives no date"), "{warnings:?}");
    }

    #[test]
    fn a_retirement_is_found_whatever_else_is_wrong() {
        let broken = "nobody = \"knows\"\n[[key]]\nkid = \"a\"\nretired = 2026-11-30T00:00:00Z\nsign_from = 7\n\
                      [[key]]\nkid = \"a\"\n[[key]]\nkid = 7\n";
        assert!(parse("keyset.toml", broken, LEAD).is_err());
        let found = marks(broken);
        assert_eq!((found.len(), found[0].kid.as_str()), (2, "a"));
        assert!(found[0].retired.is_some() && found[1].retired.is_none());
        let inline = marks("key = [{ kid = \"a\", retired = true }]");
        assert!(inline[0].retired.is_some());
    }
}
