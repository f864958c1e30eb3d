//! Runs the checks and sums up how they ended.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::case::Case;
use super::cases::{CASES, SIGNATURES};
use super::finding::{Finding, NotLookedAt, Observation, Outcome, Report, Seen, Skipped};
use super::known::Known;
use super::purpose::Taken;

/// Things that a verdict names one by one.
const NAMED: usize = 8;

/// Reasons that a verdict names: more than the checks can give where they have nothing to look at.
const REASONS: usize = 64;

/// Runs every check on what is known. Of one thing a check says the worst alone. A check that sees nothing says why.
pub fn examine(known: &Known<'_>) -> Report {
    let mut report = Report { findings: Vec::new(), not_looked_at: Vec::new() };
    for case in &CASES {
        run(case, known, &mut report);
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    for finding in &report.findings {
        let next = places.len();
        places.entry(finding.about.clone()).or_insert(next);
    }
    report.findings.sort_by_key(|finding| places.get(&finding.about).copied());
    report
}

fn run(case: &'static Case, known: &Known<'_>, report: &mut Report) {
    let mut seen = Vec::new();
    let mut worst: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut skipped = Vec::new();
    for observation in (case.check)(known) {
        match observation {
            Observation::Seen(one) => {
                let known = worst.entry(one.about.clone()).or_insert(one.outcome);
                *known = (*known).max(one.outcome);
                seen.push(one);
            }
            Observation::NotLookedAt(NotLookedAt { about, reason }) => {
                skipped.push(Skipped { check: case.id, about: Some(about), reason });
            }
        }
    }
    if seen.is_empty() && skipped.is_empty() {
        let reason = case.needs.missing(known).to_owned();
        skipped.push(Skipped { check: case.id, about: None, reason });
    }
    report.not_looked_at.extend(skipped);
    seen.retain(|one| worst.get(&one.about) == Some(&one.outcome));
    report.findings.extend(seen.into_iter().map(|Seen { outcome, about, what, advice }| Finding {
        check: case.id,
        outcome,
        about,
        seen: what,
        answers: case.answers,
        fix: (outcome != Outcome::Pass).then(|| advice.unwrap_or_else(|| case.fix.to_owned())),
    }));
}

/// How a report ends, in one line.
pub struct Verdict {
    pub outcome: Outcome,
    pub text: String,
}

impl Report {
    /// The worst of its findings. Where nothing was looked at, nothing can be said.
    pub fn worst(&self) -> Outcome {
        self.findings.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::Fail)
    }

    /// The verdict on all of it. One that says well says of what, and every one says what wasn't looked at.
    pub fn verdict(&self) -> Verdict {
        let count = |outcome| self.findings.iter().filter(|finding| finding.outcome == outcome).count();
        let (faults, warnings, passed) = (count(Outcome::Fail), count(Outcome::Warn), count(Outcome::Pass));
        let passed = format!("{} pass", counted(passed, "check"));
        let outcome = self.worst();
        // A thing that is there and that some check couldn't judge isn't called well.
        let is_whole = self.not_looked_at.iter().all(|skipped| skipped.about.is_none());
        let text = match outcome {
            Outcome::Fail if self.findings.is_empty() => "can't say: nothing was looked at".to_owned(),
            Outcome::Fail if warnings == 0 => format!("{} to mend; {passed}", counted(faults, "fault")),
            Outcome::Fail => {
                format!("{} to mend and {}; {passed}", counted(faults, "fault"), counted(warnings, "warning"))
            }
            Outcome::Warn => format!("no fault, {}; {passed}", counted(warnings, "warning")),
            Outcome::Pass if is_whole => format!("all is well with {}: {passed}", self.things()),
            Outcome::Pass => format!("no fault was found in {}: {passed}", self.things()),
        };
        Verdict { outcome, text: format!("{text}{}", self.skipped()) }
    }

    /// What was looked at, by name.
    fn things(&self) -> String {
        let mut seen = HashSet::new();
        let about = self.findings.iter().map(|finding| finding.about.as_str());
        let things: Vec<&str> = about.filter(|about| seen.insert(*about)).collect();
        let named = things.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        match things.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named} and {more} more"),
        }
    }

    /// What wasn't looked at, by reason; empty where all was.
    pub fn skipped(&self) -> String {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for skipped in &self.not_looked_at {
            let reason = match &skipped.about {
                Some(about) => format!("{about}: {}", skipped.reason),
                None => skipped.reason.clone(),
            };
            let place = *places.entry(reason.clone()).or_insert(reasons.len());
            match reasons.get_mut(place) {
                Some((_, checks)) => checks.push(skipped.check),
                None => reasons.push((reason, vec![skipped.check])),
            }
        }
        if reasons.is_empty() {
            return String::new();
        }
        let more = match reasons.len().saturating_sub(REASONS) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let listed = |(reason, checks): &(String, Vec<&str>)| match checks.as_slice() {
            [check] => format!("{check} ({reason})"),
            checks => format!("{} checks ({reason})", checks.len()),
        };
        let reasons = reasons.iter().take(REASONS).map(listed).collect::<Vec<_>>().join(", ");
        format!(". Not looked at: {reasons}{more}")
    }
}

/// Judges the one token that was given, and the keys that were given to judge it by; what is wrong with the configuration is
/// left out. A token whose signature nobody checked is never called good.
pub fn verify(known: &Known<'_>) -> (Report, Verdict) {
    let mut report = examine(known);
    let Some(token) = known.given.tokens.first() else {
        let text = "can't say: there is no token".to_owned();
        return (report, Verdict { outcome: Outcome::Fail, text });
    };
    let given: HashSet<&str> = known.given.names_for(token).into_iter().collect();
    report.findings.retain(|finding| given.contains(&finding.about.as_str()));
    report.not_looked_at.retain(|skipped| skipped.about.as_ref() == Some(&token.about));
    let Taken { purpose, why, .. } = known.taken(token);
    let who = purpose.relying_party();
    let judged_as = format!(". Taken for {}: {why}", purpose.name());
    let is_signature = |check: &str| SIGNATURES.contains(&check);
    let checked = report.findings.iter().any(|finding| is_signature(finding.check));
    let unchecked = report.not_looked_at.iter().find(|skipped| is_signature(skipped.check));
    let worst = report.worst();
    let text = match worst {
        Outcome::Fail => format!("{who} would not take this token"),
        _ if !checked => {
            let reason = unchecked.map_or("its signature was not checked", |skipped| skipped.reason.as_str());
            let text = format!("can't say: nothing speaks against it, but {reason}{judged_as}");
            return (report, Verdict { outcome: Outcome::Fail, text });
        }
        Outcome::Warn => format!("{who} would take this token; mind the warnings"),
        Outcome::Pass => format!("{who} would take this token"),
    };
    let well: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Pass)
        .map(|finding| finding.check)
        .collect();
    let well = if worst == Outcome::Fail { String::new() } else { format!(". Well: {}", well.join(", ")) };
    let text = format!("{text}{judged_as}{well}{}", report.skipped());
    (report, Verdict { outcome: worst, text })
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
