//! The results of checks: observations, findings and the report.

use serde::Serialize;

use crate::json::Json;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    Pass,
    Warn,
    Fail,
}

/// The result of one check for one item, or the reason why the item was skipped.
pub(crate) enum Observation {
    Judged(Judgement),
    Skipped(SkippedItem),
}

pub(crate) type Observations = Vec<Observation>;

pub(crate) struct Judgement {
    pub(crate) outcome: CheckOutcome,
    /// The label of the item: a file, a profile, an address.
    pub(crate) about: String,
    /// Never holds a secret.
    pub(crate) message: String,
    /// Replaces the general `fix` of the check.
    pub(crate) advice: Option<String>,
    /// Replaces the general `question` of the check.
    pub(crate) question: Option<&'static str>,
}

pub(crate) struct SkippedItem {
    pub(crate) about: String,
    pub(crate) reason: String,
}

impl Observation {
    pub(crate) fn new(outcome: CheckOutcome, about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Judged(Judgement {
            outcome,
            about: about.into(),
            message: message.into(),
            advice: None,
            question: None,
        })
    }

    pub(crate) fn pass(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(CheckOutcome::Pass, about, message)
    }

    pub(crate) fn warn(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(CheckOutcome::Warn, about, message)
    }

    pub(crate) fn fail(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(CheckOutcome::Fail, about, message)
    }

    /// An item that is there, but that the check can't judge: for example, there is nothing to compare it with.
    pub(crate) fn skipped(about: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Skipped(SkippedItem { about: about.into(), reason: reason.into() })
    }

    /// A failure that lists every fault, or a pass if there is none.
    pub(crate) fn from_faults(about: impl Into<String>, faults: &[String], pass: impl Into<String>) -> Self {
        if faults.is_empty() { Self::pass(about, pass) } else { Self::fail(about, faults.join("; ")) }
    }

    pub(crate) const fn is_pass(&self) -> bool {
        matches!(self, Self::Judged(Judgement { outcome: CheckOutcome::Pass, .. }))
    }

    pub(crate) fn capped_at(mut self, outcome: CheckOutcome) -> Self {
        if let Self::Judged(seen) = &mut self {
            seen.outcome = seen.outcome.min(outcome);
        }
        self
    }

    pub(crate) const fn with_question(mut self, text: &'static str) -> Self {
        if let Self::Judged(seen) = &mut self {
            seen.question = Some(text);
        }
        self
    }

    pub(crate) fn with_advice(mut self, text: impl Into<String>) -> Self {
        if let Self::Judged(seen) = &mut self {
            seen.advice = Some(text.into());
        }
        self
    }
}

/// An observation with the texts of its check.
#[derive(Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) outcome: CheckOutcome,
    pub(crate) about: String,
    pub(crate) seen: String,
    /// The question that the check answers.
    #[serde(rename = "answers")]
    pub(crate) question: &'static str,
    /// How to fix it; `None` for a pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

/// A check that was skipped, as a whole or for one item.
#[derive(Serialize)]
pub(crate) struct SkippedCheck {
    pub(crate) check: &'static str,
    /// `None` if there was no item that the check applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    pub(crate) reason: String,
}

/// A token beside the rules of an issuer or of a caller, claim by claim.
#[derive(Serialize)]
pub(crate) struct TokenComparison {
    pub(crate) about: String,
    /// The section of the configuration, and the settings that are compared.
    pub(crate) rules: String,
    pub(crate) claims: Vec<ComparedClaim>,
}

/// A claim, or a member of the header, beside what the configuration requires.
#[derive(Serialize)]
pub(crate) struct ComparedClaim {
    pub(crate) claim: String,
    /// Its value; `None` if the token doesn't have it.
    pub(crate) token: Option<Json>,
    /// The value as a date, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) date: Option<String>,
    pub(crate) required: String,
    pub(crate) ok: bool,
}

/// The results of all checks.
pub struct Report {
    pub(crate) comparisons: Vec<TokenComparison>,
    /// Grouped by item. Within an item, in the order of the catalogue.
    pub(crate) findings: Vec<Finding>,
    pub(crate) skipped: Vec<SkippedCheck>,
}
