//! Which key of a keyset signs, and which are published: a pure function of the files and the clock, asked
//! anew on each use, so that all replicas agree and a process that was stopped wakes up right.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::UnixTime;
use crate::config::section::{Findings, Section, text};
use crate::config::source::{self, Node, Value};
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
}

impl Entry {
    /// A key that needs no schedule.
    pub const fn sole(kid: KeyId) -> Self {
        Self { kid, sign_from: None, added: None, emergency: false }
    }

    /// The same as far apart, added at `now`.
    #[must_use]
    pub fn delayed_to(self, now: UnixTime) -> Self {
        let delay = self.added.map_or(0, |added| added.seconds_until(now));
        let later = |moment: UnixTime| UnixTime::from_seconds(moment.seconds() + delay);
        Self { sign_from: self.sign_from.map(later), added: self.added.map(later), ..self }
    }
}

/// A `keyset.toml`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// In order of `sign_from`.
    pub entries: Vec<Entry>,
    /// Keys that may neither sign nor be published any more, whatever their dates.
    pub retired: Vec<KeyId>,
}

impl Schedule {
    pub fn names(&self, kid: &KeyId) -> bool {
        self.entries.iter().any(|entry| entry.kid == *kid) || self.retired.contains(kid)
    }
}

/// What becomes of a key as time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Published, so that verifiers know it before it signs.
    Pending,
    Signing,
    /// Published while tokens that it signed may live.
    Retiring,
    /// Neither.
    Gone,
}

/// The life of one key within its keyset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub signs_from: Option<UnixTime>,
    /// When the next key takes over.
    pub signs_until: Option<UnixTime>,
    pub published_until: Option<UnixTime>,
}

impl Life {
    pub fn state(&self, now: UnixTime) -> State {
        let passed = |moment: Option<UnixTime>| moment.is_some_and(|moment| moment <= now);
        if passed(self.published_until) {
            State::Gone
        } else if passed(self.signs_until) {
            State::Retiring
        } else if self.signs_from.is_none() || passed(self.signs_from) {
            State::Signing
        } else {
            State::Pending
        }
    }

    /// When its state changes next.
    pub fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        [self.signs_from, self.signs_until, self.published_until]
            .into_iter()
            .flatten()
            .filter(|change| *change > now)
            .min()
    }
}

/// The lives of `entries`, which are in order of `sign_from`. A key stays published for `margin` beyond the last
/// token that it may have signed.
pub fn lives(entries: &[Entry], longest_token_life: Duration, margin: Duration) -> Vec<Life> {
    let next = entries.iter().skip(1).map(|entry| entry.sign_from).chain([None]);
    entries
        .iter()
        .zip(next)
        .map(|(entry, signs_until)| Life {
            signs_from: entry.sign_from,
            signs_until,
            published_until: signs_until.map(|until| until.plus(longest_token_life).plus(margin)),
        })
        .collect()
}

/// Reads `keyset.toml`. A key that says when it was `added` signs `publish_lead` later at the earliest.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(name: &str, text: &str, publish_lead: Duration) -> Result<Schedule, Vec<Problem>> {
    let root = source::read_toml(name, text)?;
    let findings = Findings::new(PathBuf::new());
    let read: Vec<Read> = Section::of("", &root, &findings)
        .map(|root| root.tables("key").iter().filter_map(|key| entry(key, publish_lead)).collect())
        .unwrap_or_default();
    findings.unknown_keys(&root);
    let (mut problems, ..) = findings.into_parts();
    problems.extend(clashes(name, &read));
    if read.is_empty() && problems.is_empty() {
        problems.push(Problem::new(
            "key",
            name,
            "lists no key: write a [[key]] for each, with kid and sign_from",
        ));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut schedule = Schedule { entries: Vec::new(), retired: Vec::new() };
    for read in read {
        match read {
            Read::Scheduled(entry) => schedule.entries.push(entry),
            Read::Retired(kid) => schedule.retired.push(kid),
        }
    }
    schedule.entries.sort_by_key(|entry| entry.sign_from);
    Ok(schedule)
}

/// One `[[key]]`.
enum Read {
    Scheduled(Entry),
    Retired(KeyId),
}

fn entry(section: &Section<'_>, publish_lead: Duration) -> Option<Read> {
    let kid = section.required("kid", |node| KeyId::parse(&text(node)?), "the name of the KID.key file");
    let retired = section.optional("retired", flag).unwrap_or_default();
    let sign_from = section.optional("sign_from", moment);
    let added = section.optional("added", moment);
    let emergency = section.optional("emergency", flag).unwrap_or_default();
    if retired {
        return kid.map(Read::Retired);
    }
    if !section.has("sign_from") {
        section.problem("sign_from", "is missing: when it starts to sign, as 2026-12-01T00:00:00Z");
    }
    let (kid, sign_from) = (kid?, sign_from?);
    if let Some(added) = added.filter(|added| sign_from < added.plus(publish_lead) && !emergency) {
        let message = format!(
            "comes before verifiers know the key: added {added}, it may sign from {} on (`publish_lead` later). If it \
             must sign sooner, say `emergency = true`: until they fetch the keys anew, its tokens fail",
            added.plus(publish_lead)
        );
        section.problem("sign_from", message);
        return None;
    }
    Some(Read::Scheduled(Entry { kid, sign_from: Some(sign_from), added, emergency }))
}

fn clashes(name: &str, read: &[Read]) -> Vec<Problem> {
    let mut kids = BTreeSet::new();
    let mut starts = BTreeSet::new();
    let mut problems = Vec::new();
    for read in read {
        let (Read::Scheduled(Entry { kid, .. }) | Read::Retired(kid)) = read;
        if !kids.insert(kid) {
            problems.push(Problem::new("key.kid", name, format!("`{kid}` is listed twice")));
        }
        if let Read::Scheduled(entry) = read
            && !starts.insert(entry.sign_from)
        {
            let message = format!("`{}` signs from the same moment as another key", entry.kid);
            problems.push(Problem::new("key.sign_from", name, message));
        }
    }
    problems
}

fn flag(node: &Node) -> Result<bool, String> {
    match &node.value {
        Value::Boolean(flag) => Ok(*flag),
        _ => Err("must be true or false".to_owned()),
    }
}

fn moment(node: &Node) -> Result<UnixTime, String> {
    const FORM: &str = "must be a date with time and zone, as 2026-12-01T00:00:00Z";
    let written = match &node.value {
        Value::Moment(written) => written.clone(),
        Value::Text(written) => written.to_string(),
        _ => return Err(FORM.to_owned()),
    };
    OffsetDateTime::parse(&written, &Rfc3339).map(UnixTime::from).map_err(|_| FORM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_hours(24);

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    #[test]
    fn a_key_is_pending_then_signs_then_retires_then_is_gone() {
        let schedule = "[[key]]\nkid = \"b\"\nsign_from = 1970-01-12T13:46:40Z\n\
                        [[key]]\nkid = \"a\"\nsign_from = 1970-01-01T00:00:10Z\n";
        let entries = parse("keyset.toml", schedule, LEAD).expect("valid").entries;
        let lives = lives(&entries, Duration::from_mins(1), Duration::from_hours(1));
        let (first, second) = (lives[0], lives[1]);
        assert_eq!(entries[0].kid.as_str(), "a");
        assert_eq!([first.state(at(9)), first.state(at(10))], [State::Pending, State::Signing]);
        assert_eq!(
            [second.state(at(999_999)), second.state(at(1_000_000))],
            [State::Pending, State::Signing]
        );
        assert_eq!([first.state(at(999_999)), first.state(at(1_000_000))], [State::Signing, State::Retiring]);
        // One second earlier and a verifier could meet a live token whose key is gone.
        let last = 1_000_000 + 60 + 3600;
        assert_eq!([first.state(at(last - 1)), first.state(at(last))], [State::Retiring, State::Gone]);
        assert_eq!(first.next_change(at(10)), Some(at(1_000_000)));
    }

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
    fn a_retired_key_needs_no_dates_and_gives_its_turn_back() {
        let schedule = "[[key]]\nkid = \"a\"\nsign_from = 2026-11-28T00:00:00Z\n\
                        [[key]]\nkid = \"b\"\nsign_from = 2026-11-29T00:00:00Z\nretired = true\n\
                        [[key]]\nkid = \"c\"\nretired = true\n";
        let Schedule { entries, retired } = parse("keyset.toml", schedule, LEAD).expect("valid");
        assert_eq!(retired.iter().map(KeyId::as_str).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(lives(&entries, LEAD, LEAD)[0].signs_until, None);
    }
}
