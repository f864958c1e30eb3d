//! How a check of one thing ends.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Pass,
    Warn,
    Fail,
}

/// What one check saw in one thing, or why it could not look at it.
pub enum Observation {
    Seen(Seen),
    NotLookedAt(NotLookedAt),
}

pub type Observations = Vec<Observation>;

pub struct Seen {
    pub outcome: Outcome,
    /// The thing: a file, a profile, an address.
    pub about: String,
    /// Never a secret.
    pub what: String,
    /// In place of what the case says in general.
    pub advice: Option<String>,
}

pub struct NotLookedAt {
    pub about: String,
    pub reason: String,
}

impl Observation {
    pub fn new(outcome: Outcome, about: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Seen(Seen { outcome, about: about.into(), what: what.into(), advice: None })
    }

    pub fn pass(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Outcome::Pass, about, what)
    }

    pub fn warn(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Outcome::Warn, about, what)
    }

    pub fn fail(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Outcome::Fail, about, what)
    }

    /// The thing is there, and what it would have to be compared with isn't.
    pub fn not_looked_at(about: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::NotLookedAt(NotLookedAt { about: about.into(), reason: reason.into() })
    }

    /// A failure that names every fault; a pass where there is none.
    pub fn of_faults(about: impl Into<String>, faults: &[String], pass: impl Into<String>) -> Self {
        if faults.is_empty() { Self::pass(about, pass) } else { Self::fail(about, faults.join("; ")) }
    }

    pub const fn passes(&self) -> bool {
        matches!(self, Self::Seen(Seen { outcome: Outcome::Pass, .. }))
    }

    pub fn at_most(mut self, outcome: Outcome) -> Self {
        if let Self::Seen(seen) = &mut self {
            seen.outcome = seen.outcome.min(outcome);
        }
        self
    }

    pub fn advising(mut self, text: impl Into<String>) -> Self {
        if let Self::Seen(seen) = &mut self {
            seen.advice = Some(text.into());
        }
        self
    }
}

/// What a check saw, with what its case says of it.
#[derive(Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub outcome: Outcome,
    pub about: String,
    pub seen: String,
    /// The question of Salesforce's page, or the report, that it answers.
    pub answers: &'static str,
    /// What to do; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// A check that could not look.
#[derive(Serialize)]
pub struct Skipped {
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
    pub not_looked_at: Vec<Skipped>,
}
