//! Runs the checks and summarizes their results.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::catalogue::{CHECKS, SIGNATURE_CHECKS};
use super::check_spec::CheckSpec;
use super::checks::incoming;
use super::finding::{CheckOutcome, Finding, Judgement, Observation, Report, SkippedCheck, SkippedItem};
use super::input::CheckInput;
use super::purpose::InferredPurpose;

/// A summary names at most this number of items.
const MAX_NAMED_ITEMS: usize = 8;

/// A summary lists at most this number of reasons: more than the checks give without any input.
const MAX_LISTED_REASONS: usize = 64;

/// Runs every check on `input`. For each item, a check reports only its worst observations. A check without observations
/// is reported as skipped, with the reason.
pub fn run_checks(input: &CheckInput<'_>) -> Report {
    let comparisons = incoming::compare_tokens(input);
    let mut report = Report { comparisons, findings: Vec::new(), skipped: Vec::new() };
    for spec in &CHECKS {
        run(spec, input, &mut report);
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    for finding in &report.findings {
        let next = places.len();
        places.entry(finding.about.clone()).or_insert(next);
    }
    report.findings.sort_by_key(|finding| places.get(&finding.about).copied());
    report
}

fn run(spec: &'static CheckSpec, input: &CheckInput<'_>, report: &mut Report) {
    let mut seen = Vec::new();
    let mut worst: BTreeMap<String, CheckOutcome> = BTreeMap::new();
    let mut skipped = Vec::new();
    for observation in (spec.run)(input) {
        match observation {
            Observation::Judged(one) => {
                let worst_so_far = worst.entry(one.about.clone()).or_insert(one.outcome);
                *worst_so_far = (*worst_so_far).max(one.outcome);
                seen.push(one);
            }
            Observation::Skipped(SkippedItem { about, reason }) => {
                skipped.push(SkippedCheck { check: spec.id, about: Some(about), reason });
            }
        }
    }
    if seen.is_empty() && skipped.is_empty() {
        let reason = spec.requires.missing_reason(input).to_owned();
        skipped.push(SkippedCheck { check: spec.id, about: None, reason });
    }
    report.skipped.extend(skipped);
    seen.retain(|one| worst.get(&one.about) == Some(&one.outcome));
    report.findings.extend(seen.into_iter().map(
        |Judgement { outcome, about, message, advice, question }| Finding {
            check: spec.id,
            outcome,
            about,
            seen: message,
            question: question.unwrap_or(spec.question),
            fix: (outcome != CheckOutcome::Pass).then(|| advice.unwrap_or_else(|| spec.fix.to_owned())),
        },
    ));
}

/// The overall outcome of a report, and one line of text.
pub struct ReportSummary {
    pub outcome: CheckOutcome,
    pub(crate) text: String,
}

impl Report {
    /// The worst outcome of the findings; a failure if there are none.
    pub(crate) fn worst(&self) -> CheckOutcome {
        self.findings.iter().map(|finding| finding.outcome).max().unwrap_or(CheckOutcome::Fail)
    }

    /// Summarizes the report. A pass names the examined items, and every summary lists the skipped checks.
    pub fn summary(&self) -> ReportSummary {
        let count = |outcome| self.findings.iter().filter(|finding| finding.outcome == outcome).count();
        let (faults, warnings, passed) =
            (count(CheckOutcome::Fail), count(CheckOutcome::Warn), count(CheckOutcome::Pass));
        let passed = format!("{} pass", pluralize(passed, "check"));
        let outcome = self.worst();
        // "All is well" needs every check to have judged every item that it applies to.
        let is_whole = self.skipped.iter().all(|skipped| skipped.about.is_none());
        let text = match outcome {
            CheckOutcome::Fail if self.findings.is_empty() => "can't say: nothing was looked at".to_owned(),
            CheckOutcome::Fail if warnings == 0 => {
                format!("{} to fix; {passed}", pluralize(faults, "fault"))
            }
            CheckOutcome::Fail => {
                format!(
                    "{} to fix and {}; {passed}",
                    pluralize(faults, "fault"),
                    pluralize(warnings, "warning")
                )
            }
            CheckOutcome::Warn => format!("no fault, {}; {passed}", pluralize(warnings, "warning")),
            CheckOutcome::Pass if is_whole => format!("all is well with {}: {passed}", self.examined_items()),
            CheckOutcome::Pass => format!("no fault was found in {}: {passed}", self.examined_items()),
        };
        ReportSummary { outcome, text: format!("{text}{}", self.describe_skipped()) }
    }

    /// The labels of the examined items.
    fn examined_items(&self) -> String {
        let mut seen = HashSet::new();
        let about = self.findings.iter().map(|finding| finding.about.as_str());
        let examined_items: Vec<&str> = about.filter(|about| seen.insert(*about)).collect();
        let named = examined_items.iter().take(MAX_NAMED_ITEMS).copied().collect::<Vec<_>>().join(", ");
        match examined_items.len().saturating_sub(MAX_NAMED_ITEMS) {
            0 => named,
            more => format!("{named} and {more} more"),
        }
    }

    /// The skipped checks, grouped by reason. Empty if there are none.
    pub(crate) fn describe_skipped(&self) -> String {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for skipped in &self.skipped {
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
        let more = match reasons.len().saturating_sub(MAX_LISTED_REASONS) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let listed = |(reason, checks): &(String, Vec<&str>)| match checks.as_slice() {
            [check] => format!("{check} ({reason})"),
            checks => format!("{} checks ({reason})", checks.len()),
        };
        let reasons = reasons.iter().take(MAX_LISTED_REASONS).map(listed).collect::<Vec<_>>().join(", ");
        format!(". Not looked at: {reasons}{more}")
    }
}

/// Runs the checks, and keeps the findings about the first supplied token and the keys supplied for it. Faults of the
/// configuration are left out.
///
/// The outcome is a failure unless the signature of the token was checked.
pub fn verify_token(input: &CheckInput<'_>) -> (Report, ReportSummary) {
    let mut report = run_checks(input);
    let Some(token) = input.given.tokens.first() else {
        let text = "can't say: there is no token".to_owned();
        return (report, ReportSummary { outcome: CheckOutcome::Fail, text });
    };
    let given: HashSet<&str> = input.given.labels_relevant_to(token).into_iter().collect();
    report.findings.retain(|finding| given.contains(&finding.about.as_str()));
    report.skipped.retain(|skipped| skipped.about.as_ref() == Some(&token.about));
    let InferredPurpose { purpose, why, .. } = input.infer_purpose(token);
    let who = purpose.relying_party();
    let judged_as = format!(". Taken for {}: {why}", purpose.description());
    let is_signature = |check: &str| SIGNATURE_CHECKS.contains(&check);
    let checked = report.findings.iter().any(|finding| is_signature(finding.check));
    let unchecked = report.skipped.iter().find(|skipped| is_signature(skipped.check));
    let worst = report.worst();
    let text = match worst {
        CheckOutcome::Fail => format!("{who} would not accept this token"),
        _ if !checked => {
            let reason = unchecked.map_or("its signature was not checked", |skipped| skipped.reason.as_str());
            let text = format!("can't say: no check failed, but {reason}{judged_as}");
            return (report, ReportSummary { outcome: CheckOutcome::Fail, text });
        }
        CheckOutcome::Warn => format!("{who} would accept this token; mind the warnings"),
        CheckOutcome::Pass => format!("{who} would accept this token"),
    };
    let passed: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.outcome == CheckOutcome::Pass)
        .map(|finding| finding.check)
        .collect();
    let passed =
        if worst == CheckOutcome::Fail { String::new() } else { format!(". Passed: {}", passed.join(", ")) };
    let text = format!("{text}{judged_as}{passed}{}", report.describe_skipped());
    (report, ReportSummary { outcome: worst, text })
}

fn pluralize(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
