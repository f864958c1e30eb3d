//! The results of checks: observations, findings and the report.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    Pass,
    Warn,
    Fail,
}

/// The result of one check for one item, or the reason why the item was skipped.
pub enum Observation {
    Judged(Judgement),
    Skipped(SkippedItem),
}

pub type Observations = Vec<Observation>;

pub struct Judgement {
    pub outcome: CheckOutcome,
    /// The label of the item: a file, a profile, an address.
    pub about: String,
    /// Never holds a secret.
    pub message: String,
    /// Replaces the general `fix` of the check.
    pub advice: Option<String>,
}

pub struct SkippedItem {
    pub about: String,
    pub reason: String,
}

impl Observation {
    pub fn new(outcome: CheckOutcome, about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Judged(Judgement { outcome, about: about.into(), message: message.into(), advice: None })
    }

    pub fn pass(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(CheckOutcome::Pass, about, message)
    }

    pub fn warn(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(CheckOutcome::Warn, about, message)
    }

    pub fn fail(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(CheckOutcome::Fail, about, message)
    }

    /// The item is there, but the check can't judge it: for example, there is nothing to compare it with.
    pub fn skipped(about: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Skipped(SkippedItem { about: about.into(), reason: reason.into() })
    }

    /// A failure that lists every fault, or a pass if there is none.
    pub fn from_faults(about: impl Into<String>, faults: &[String], pass: impl Into<String>) -> Self {
        if faults.is_empty() { Self::pass(about, pass) } else { Self::fail(about, faults.join("; ")) }
    }

    pub const fn is_pass(&self) -> bool {
        matches!(self, Self::Judged(Judgement { outcome: CheckOutcome::Pass, .. }))
    }

    pub fn capped_at(mut self, outcome: CheckOutcome) -> Self {
        if let Self::Judged(seen) = &mut self {
            seen.outcome = seen.outcome.min(outcome);
        }
        self
    }

    pub fn with_advice(mut self, text: impl Into<String>) -> Self {
        if let Self::Judged(seen) = &mut self {
            seen.advice = Some(text.into());
        }
        self
    }
}

/// An observation with the texts of its check.
#[derive(Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub outcome: CheckOutcome,
    pub about: String,
    pub seen: String,
    /// The question that the check answers.
    #[serde(rename = "answers")]
    pub question: &'static str,
    /// How to fix it; `None` for a pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// A check that was skipped, as a whole or for one item.
#[derive(Serialize)]
pub struct SkippedCheck {
    pub check: &'static str,
    /// `None` if there was no item that the check applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub reason: String,
}

/// The results of all checks.
pub struct Report {
    /// Grouped by item. Within an item, in the order of the catalogue.
    pub findings: Vec<Finding>,
    pub skipped: Vec<SkippedCheck>,
}
