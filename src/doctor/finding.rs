//! How a check of one thing ends.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    Pass,
    Warn,
    Fail,
}

/// What one check saw in one thing, or why it could not look at it.
pub enum Observation {
    Judged(Judgement),
    Skipped(SkippedItem),
}

pub type Observations = Vec<Observation>;

pub struct Judgement {
    pub outcome: CheckOutcome,
    /// The thing: a file, a profile, an address.
    pub about: String,
    /// Never a secret.
    pub message: String,
    /// In place of what the case says in general.
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

    /// The thing is there, and what it would have to be compared with isn't.
    pub fn skipped(about: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Skipped(SkippedItem { about: about.into(), reason: reason.into() })
    }

    /// A failure that names every fault; a pass where there is none.
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

/// What a check saw, with what its case says of it.
#[derive(Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub outcome: CheckOutcome,
    pub about: String,
    pub seen: String,
    /// The question of Salesforce's page, or the report, that it answers.
    #[serde(rename = "answers")]
    pub question: &'static str,
    /// What to do; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// A check that could not look.
#[derive(Serialize)]
pub struct SkippedCheck {
    pub check: &'static str,
    /// Nothing where there is no thing that it could have looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub reason: String,
}

/// How all checks ended.
pub struct Report {
    /// By thing, in the order of the catalogue.
    pub findings: Vec<Finding>,
    pub skipped: Vec<SkippedCheck>,
}
