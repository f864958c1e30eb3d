//! `keyset.toml`: the schedule of a keyset, and the changes that commands make to it.
//!
//! A retired key keeps its entry. [`RotationRules::validities`](super::RotationRules::validities) computes from all entries together what
//! each key does.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::UnixTime;
use crate::config::diagnostics::Diagnostics;
use crate::config::schema::SCHEDULE;
use crate::config::section::Section;
use crate::config::source::{self, ConfigNode, ConfigValue};
use crate::config::values::parse_string;
use crate::config::{KeyId, Problem, RemoteKeyName, ValueOrigin};

/// The file name of the schedule beside the keys.
pub const SCHEDULE_FILE: &str = "keyset.toml";

/// One key's entry in a schedule: when it signs. Without a `keyset.toml`, the only key has an entry without dates and always
/// signs. In `keyset.toml`, only a retired key may lack `sign_from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleEntry {
    pub kid: KeyId,
    pub sign_from: Option<UnixTime>,
    /// The time since which it has been published, by its writer's word.
    pub added: Option<UnixTime>,
    /// Allows it to sign before verifiers are sure to know it.
    pub emergency: bool,
    /// The time of its retirement. As soon as this is read, whatever the date, the key neither signs nor is published.
    /// The date decides which other key took over.
    pub retired: Option<UnixTime>,
    /// The key of a store that signs, in the place of a file.
    pub remote: Option<RemoteKeyName>,
}

impl ScheduleEntry {
    /// An entry without dates, for the only key of a keyset or to be completed.
    pub const fn without_dates(kid: KeyId) -> Self {
        Self { kid, sign_from: None, added: None, emergency: false, retired: None, remote: None }
    }

    /// Orders entries by `sign_from`, then by key id, whatever their order in the file.
    pub(crate) fn cmp_by_start(&self, other: &Self) -> Ordering {
        (self.sign_from, &self.kid).cmp(&(other.sign_from, &other.kid))
    }
}

/// A parsed `keyset.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// In order of `sign_from`, retired keys included: their past signing periods must stay as they were.
    pub entries: Vec<ScheduleEntry>,
    /// Likely mistakes that are allowed.
    pub(crate) warnings: Vec<ScheduleWarning>,
    /// Where each key's entry is written.
    pub(crate) origins: BTreeMap<KeyId, EntryOrigins>,
}

/// Where fields of an entry are written. A field that is missing has the place of the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryOrigins {
    pub(crate) kid: ValueOrigin,
    sign_from: ValueOrigin,
    pub(crate) retired: ValueOrigin,
    pub(crate) remote: ValueOrigin,
}

/// A likely mistake in a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleWarning {
    pub(crate) field: &'static str,
    pub(crate) origin: ValueOrigin,
    pub(crate) message: String,
}

impl Schedule {
    /// The schedule of a keyset with one key and no dates.
    pub(crate) fn for_single_key(kid: KeyId) -> Self {
        Self { entries: vec![ScheduleEntry::without_dates(kid)], ..Self::default() }
    }

    pub fn entry(&self, kid: &KeyId) -> Option<&ScheduleEntry> {
        self.entries.iter().find(|entry| entry.kid == *kid)
    }

    /// The first second from `now` on at which no key begins to sign: two commands may run within one second.
    pub(crate) fn first_free_second(&self, now: UnixTime) -> UnixTime {
        let mut moment = now;
        while self.entries.iter().any(|entry| entry.sign_from == Some(moment)) {
            moment = moment.plus(Duration::from_secs(1));
        }
        moment
    }

    /// Returns the schedule after `change`.
    #[must_use]
    pub fn with_change(&self, change: &ScheduleChange) -> Self {
        let mut entries = self.entries.clone();
        match change {
            ScheduleChange::Add(entry) => entries.push(entry.clone()),
            ScheduleChange::Retire { kid, at } => {
                for entry in entries.iter_mut().filter(|entry| entry.kid == *kid) {
                    entry.retired = Some(*at);
                }
            }
            ScheduleChange::Promote { kid, at } => {
                for entry in entries.iter_mut().filter(|entry| entry.kid == *kid) {
                    entry.sign_from = Some(*at);
                    entry.emergency = true;
                }
            }
        }
        entries.sort_by(ScheduleEntry::cmp_by_start);
        Self { entries, ..Self::default() }
    }
}

/// A change of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleChange {
    /// Adds a key.
    Add(ScheduleEntry),
    /// Retires a key.
    Retire { kid: KeyId, at: UnixTime },
    /// Lets a key sign from `at` on as an emergency, although verifiers may not know it yet.
    Promote { kid: KeyId, at: UnixTime },
}

/// The part of a `[[key]]` that concerns retirements, read even if the rest of `keyset.toml` is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetirementMark {
    pub kid: KeyId,
    pub retired: Option<UnixTime>,
    /// The `sign_from` of an entry with `emergency = true`.
    pub(crate) emergency_from: Option<UnixTime>,
}

/// Returns the mark of each `[[key]]` that has a valid `kid`, retired or not. `document` may be an invalid `keyset.toml`. If it
/// isn't TOML, its lines are read one by one.
pub fn retirement_marks(document: &str) -> Vec<RetirementMark> {
    let Ok(root) = source::parse_toml(SCHEDULE_FILE, document) else { return marks_by_line(document) };
    let ConfigValue::Table(root) = &root.value else { return Vec::new() };
    let Some(ConfigValue::List(keys)) = root.get("key").map(|node| &node.value) else { return Vec::new() };
    let tables = keys.iter().filter_map(|node| match &node.value {
        ConfigValue::Table(table) => Some(table),
        _ => None,
    });
    tables
        .filter_map(|table| {
            let sign_from = table.get("sign_from").and_then(|node| parse_datetime(node).ok());
            let emergency = table.get("emergency").and_then(|node| parse_flag(node).ok()).unwrap_or_default();
            Some(RetirementMark {
                kid: KeyId::parse(&parse_string(table.get("kid")?).ok()?).ok()?,
                retired: table.get("retired").and_then(retirement_date),
                emergency_from: sign_from.filter(|_| emergency),
            })
        })
        .collect()
}

/// The date of `retired = …`. Without a valid date it is a retirement all the same, as of now: later dates count as now.
fn retirement_date(node: &ConfigNode) -> Option<UnixTime> {
    match parse_retirement(node) {
        Ok(None) => None,
        Ok(Some(Retirement::At(at))) => Some(at),
        Ok(Some(Retirement::Undated)) | Err(_) => Some(UnixTime::from_seconds(i64::MAX)),
    }
}

/// The marks of a text that isn't TOML, for example one with the marks of a merge conflict. A `retired` line
/// belongs to the `kid` line before it, unless a line between them begins with `[`. Which key signs instead isn't read from such
/// a text.
fn marks_by_line(document: &str) -> Vec<RetirementMark> {
    let mut marks: Vec<RetirementMark> = Vec::new();
    let mut is_in_key = false;
    for line in document.lines().map(str::trim) {
        if line.starts_with('[') {
            is_in_key = false;
        }
        let Ok(root) = source::parse_toml(SCHEDULE_FILE, line) else { continue };
        let ConfigValue::Table(table) = &root.value else { continue };
        if let Some(kid) = table.get("kid").and_then(|node| KeyId::parse(&parse_string(node).ok()?).ok()) {
            is_in_key = true;
            marks.push(RetirementMark { kid, retired: None, emergency_from: None });
        }
        let retired = table.get("retired").and_then(retirement_date);
        if let Some(mark) = marks.last_mut().filter(|_| is_in_key) {
            mark.retired = mark.retired.or(retired);
        }
    }
    marks
}

/// Parses `keyset.toml`. A key with `added` may sign `publish_lead` later at the earliest, unless it is an emergency.
///
/// # Errors
/// Lists every problem.
pub fn parse_schedule(name: &str, text: &str, publish_lead: Duration) -> Result<Schedule, Vec<Problem>> {
    let root = source::parse_toml(name, text)?;
    let findings = Diagnostics::new(PathBuf::new());
    let mut warnings = Vec::new();
    let parsed: Vec<WrittenEntry> = Section::from_node("", &root, &SCHEDULE, &findings)
        .map(|root| {
            let keys = root.tables("key");
            keys.iter().filter_map(|key| parse_entry(key, publish_lead, &mut warnings)).collect()
        })
        .unwrap_or_default();
    findings.report_unknown_keys(&root);
    let (mut problems, ..) = findings.into_parts();
    problems.extend(find_conflicts(&parsed));
    if parsed.is_empty() && problems.is_empty() {
        problems.push(Problem::new(
            "key",
            name,
            "lists no key: write a [[key]] for each, with kid and sign_from",
        ));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let origins = parsed.iter().map(|written| (written.entry.kid.clone(), written.origins.clone())).collect();
    let mut entries: Vec<ScheduleEntry> = parsed.into_iter().map(|written| written.entry).collect();
    entries.sort_by(ScheduleEntry::cmp_by_start);
    Ok(Schedule { entries, warnings, origins })
}

struct WrittenEntry {
    entry: ScheduleEntry,
    origins: EntryOrigins,
}

fn parse_entry(
    section: &Section<'_>,
    publish_lead: Duration,
    warnings: &mut Vec<ScheduleWarning>,
) -> Option<WrittenEntry> {
    let kid =
        section.required("kid", |node| KeyId::parse(&parse_string(node)?), "the name of the KID.key file");
    let sign_from = section.optional("sign_from", parse_datetime);
    let added = section.optional("added", parse_datetime);
    let emergency = section.optional("emergency", parse_flag).unwrap_or_default();
    let retirement = section.optional("retired", parse_retirement);
    let remote = section.optional("remote", |node| RemoteKeyName::parse(&parse_string(node)?));
    let retired = retirement.flatten().map(|retirement| retirement.date(sign_from));
    if retired.is_none() && !section.has("sign_from") {
        section.problem("sign_from", "is missing: when it starts to sign, for example 2026-12-01T00:00:00Z");
    }
    let kid = kid?;
    if retired.is_none() || section.has("sign_from") {
        let sign_from = sign_from?;
        if let Some(added) = added.filter(|added| sign_from < added.plus(publish_lead) && !emergency) {
            let message = format!(
                "comes before verifiers know the key, which was added {added}: set it to {} or later, or set \
                 `emergency = true`; then its tokens fail until verifiers have fetched the keys",
                added.plus(publish_lead)
            );
            section.problem("sign_from", message);
            return None;
        }
    }
    if retirement == Some(Some(Retirement::Undated)) {
        let message = format!(
            "of `{kid}` gives no date, so the key before it signs again: write when it was retired, for \
             example retired = 2026-11-30T12:00:00Z"
        );
        let origin = section.origin_of("retired");
        warnings.push(ScheduleWarning { field: "key.retired", origin, message });
    }
    Some(WrittenEntry {
        entry: ScheduleEntry { kid, sign_from, added, emergency, retired, remote },
        origins: EntryOrigins {
            kid: section.origin_of("kid"),
            sign_from: section.origin_of("sign_from"),
            retired: section.origin_of("retired"),
            remote: section.origin_of("remote"),
        },
    })
}

fn find_conflicts(entries: &[WrittenEntry]) -> Vec<Problem> {
    let mut kids = BTreeSet::new();
    let mut starts = BTreeSet::new();
    let mut problems = Vec::new();
    for WrittenEntry { entry, origins } in entries {
        if !kids.insert(&entry.kid) {
            problems.push(Problem::new("key.kid", &origins.kid, format!("`{}` is listed twice", entry.kid)));
        }
        if entry.retired.is_none() && !starts.insert(entry.sign_from) {
            let message = format!("`{}` signs from the same moment as another key", entry.kid);
            problems.push(Problem::new("key.sign_from", &origins.sign_from, message));
        }
    }
    problems
}

/// The value of `retired = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retirement {
    At(UnixTime),
    /// `true`, as tokenmint 0.1 wrote it.
    Undated,
}

impl Retirement {
    /// The date of the retirement. Without one, the key counts as retired before it began to sign.
    fn date(self, sign_from: Option<UnixTime>) -> UnixTime {
        match self {
            Self::At(at) => at,
            Self::Undated => sign_from.unwrap_or(UnixTime::from_seconds(i64::MIN)),
        }
    }
}

fn parse_retirement(node: &ConfigNode) -> Result<Option<Retirement>, String> {
    match &node.value {
        ConfigValue::Boolean(retired) => Ok(retired.then_some(Retirement::Undated)),
        _ => parse_datetime(node).map(|at| Some(Retirement::At(at))),
    }
}

fn parse_flag(node: &ConfigNode) -> Result<bool, String> {
    match &node.value {
        ConfigValue::Boolean(flag) => Ok(*flag),
        _ => Err("must be true or false".to_owned()),
    }
}

fn parse_datetime(node: &ConfigNode) -> Result<UnixTime, String> {
    const DATETIME_FORM: &str = "must be a date with time and zone, for example 2026-12-01T00:00:00Z";
    let written = match &node.value {
        ConfigValue::Datetime(written) => written.clone(),
        ConfigValue::Text(written) => written.to_string(),
        _ => return Err(DATETIME_FORM.to_owned()),
    };
    OffsetDateTime::parse(&written, &Rfc3339).map(UnixTime::from).map_err(|_| DATETIME_FORM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_hours(24);

    #[test]
    fn a_sign_from_before_the_lead_is_rejected_with_the_earliest_date() {
        let schedule =
            "[[key]]\nkid = \"a\"\nadded = 2026-11-28T00:00:00Z\nsign_from = 2026-11-28T12:00:00Z\n";
        let problems = parse_schedule("keyset.toml", schedule, LEAD).expect_err("too soon");
        assert!(problems[0].message.contains("2026-11-29T00:00:00Z"), "{problems:?}");
        let knowingly = format!("{schedule}emergency = true\n");
        assert!(parse_schedule("keyset.toml", &knowingly, LEAD).expect("allowed").entries[0].emergency);
    }

    #[test]
    fn a_retired_key_keeps_its_entry_and_one_without_a_date_gets_a_warning() {
        let schedule = "[[key]]\nkid = \"b\"\nsign_from = 2026-11-29T00:00:00Z\nretired = 2026-11-30T00:00:00Z\n\
                        [[key]]\nkid = \"a\"\nsign_from = 2026-11-28T00:00:00Z\n\
                        [[key]]\nkid = \"c\"\nretired = true\n";
        let Schedule { entries, warnings, .. } =
            parse_schedule("keyset.toml", schedule, LEAD).expect("valid");
        assert_eq!(entries.iter().map(|entry| entry.kid.as_str()).collect::<Vec<_>>(), ["c", "a", "b"]);
        assert_eq!(entries[2].retired.map(|at| at.to_string()).as_deref(), Some("2026-11-30T00:00:00Z"));
        assert!(warnings[0].message.contains("`c` gives no date"), "{warnings:?}");
    }

    #[test]
    fn a_retirement_is_found_in_an_otherwise_invalid_file() {
        let broken = "nobody = \"knows\"\n[[key]]\nkid = \"a\"\nretired = 2026-11-30T00:00:00Z\nsign_from = 7\n\
                      [[key]]\nkid = \"a\"\n[[key]]\nkid = 7\n";
        assert!(parse_schedule("keyset.toml", broken, LEAD).is_err());
        let found = retirement_marks(broken);
        assert_eq!((found.len(), found[0].kid.as_str()), (2, "a"));
        assert!(found[0].retired.is_some() && found[1].retired.is_none());
        let inline = retirement_marks("key = [{ kid = \"a\", retired = true }]");
        assert!(inline[0].retired.is_some());
    }

    /// Each text isn't TOML, and retires `a` only.
    #[test]
    fn a_retirement_is_found_in_a_text_that_is_not_toml() {
        let entry = "[[key]]\nkid = \"a\"\nretired = 2026-11-30T00:00:00Z\n";
        let other = "[[key]]\nkid = \"b\"\nsign_from = 2026-11-29T00:00:00Z\n";
        for text in [
            format!("{other}]]\n{entry}"),
            format!("<<<<<<< HEAD\n{other}=======\n{entry}>>>>>>> x\n{other}"),
            format!("[[key]]\nki\n{entry}{other}"),
            format!("\u{fffd}\u{fffd}\0\0\n{entry}"),
            format!("[[key]]\nkid = \"b\n{entry}"),
            format!("key = [{{ kid = \"b\" }}]\n{entry}"),
            format!("{entry}[other]\nretired = true\n]]\n{other}[other]\nretired = true\n"),
            format!("{other}# kid = \"c\"\n# retired = true\n]]\n{entry}"),
        ] {
            assert!(source::parse_toml(SCHEDULE_FILE, &text).is_err(), "{text}");
            let marks = retirement_marks(&text);
            let retired = marks.iter().filter(|mark| mark.retired.is_some()).map(|mark| mark.kid.as_str());
            assert_eq!(retired.collect::<Vec<_>>(), ["a"], "{text}");
            assert!(marks.iter().all(|mark| mark.emergency_from.is_none()));
        }
    }
}
