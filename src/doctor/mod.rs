//! Checks, each a pure function from what is known to what it finds: the configuration, the keys, a token, a
//! JWK that somebody uploaded, the answers of one request. Knows nothing of printing.
//!
//! - The catalogue of [`CASES`] is the one place that says which faults there are, what people see of each, who
//!   asks about it and what to do; the docs' troubleshooting table is made from it.
//! - A check that has nothing to look at finds nothing.
//! - One fault is one finding: a check leaves to the others what is theirs.
//! - No finding repeats a secret or a token.

mod answers;
mod cases;
mod certificate;
mod checks;
mod jwk;
mod material;
mod token;

use std::collections::BTreeMap;

use serde::Serialize;

pub use answers::{Answer, Fetched, ask, fetch};
pub use cases::{CASES, Case, Source};
pub use certificate::GivenCertificate;
pub use checks::{dated, difference, span};
pub use jwk::JwkDocument;
pub use material::{GivenKey, Material, Numbers, UNKNOWN, recognise};
pub use token::{Parts, Purpose, UnverifiedToken};

use crate::clock::UnixTime;
use crate::config::{Config, Problem};
use crate::keys::KeyRing;

/// All that the checks look at.
pub struct Known<'a> {
    pub now: UnixTime,
    pub config: Option<&'a Config>,
    pub ring: Option<&'a KeyRing>,
    /// Why there is no configuration or ring, though there should be.
    pub problems: &'a [Problem],
    /// What is odd about them.
    pub warnings: Vec<&'a Problem>,
    /// The issuer that Setup has, as somebody read it there.
    pub issuer: Option<&'a str>,
    pub keys: Vec<GivenKey>,
    pub certificates: Vec<GivenCertificate>,
    pub jwks: Vec<JwkDocument>,
    pub tokens: Vec<UnverifiedToken>,
    pub answers: Vec<Answer>,
}

impl Known<'_> {
    /// Nothing but the time.
    pub const fn nothing(now: UnixTime) -> Self {
        Self {
            now,
            config: None,
            ring: None,
            problems: &[],
            warnings: Vec::new(),
            issuer: None,
            keys: Vec::new(),
            certificates: Vec::new(),
            jwks: Vec::new(),
            tokens: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub fn add(&mut self, material: Material) {
        match material {
            Material::Key(key) => self.keys.push(key),
            Material::Certificate(certificate) => self.certificates.push(certificate),
            Material::Jwk(document) => self.jwks.push(document),
            Material::Token(token) => self.tokens.push(token),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Pass,
    Warn,
    Fail,
}

/// What one check saw in one thing.
pub struct Observation {
    pub outcome: Outcome,
    /// The thing: a file, a profile, an address.
    pub about: String,
    /// Never a secret.
    pub seen: String,
    /// In place of what the case says in general.
    pub advice: Option<String>,
}

impl Observation {
    fn new(outcome: Outcome, about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { outcome, about: about.into(), seen: seen.into(), advice: None }
    }

    fn pass(about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Pass, about, seen)
    }

    fn warn(about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Warn, about, seen)
    }

    fn fail(about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Fail, about, seen)
    }

    fn advising(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// An observation, with what its case says of it.
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

/// Runs every check on what is known. Of one thing a check says the worst alone. The findings come by thing, in the
/// order of the catalogue.
pub fn examine(known: &Known<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = CASES.iter().flat_map(|case| findings(case, known)).collect();
    let mut things: Vec<String> = Vec::new();
    for finding in &findings {
        if !things.contains(&finding.about) {
            things.push(finding.about.clone());
        }
    }
    findings.sort_by_key(|finding| things.iter().position(|thing| *thing == finding.about));
    findings
}

fn findings<'a>(case: &'static Case, known: &'a Known<'_>) -> impl Iterator<Item = Finding> + use<'a> {
    let mut worst: BTreeMap<String, Outcome> = BTreeMap::new();
    let observations = (case.check)(known);
    for Observation { about, outcome, .. } in &observations {
        let known = worst.entry(about.clone()).or_insert(*outcome);
        *known = (*known).max(*outcome);
    }
    let observations =
        observations.into_iter().filter(move |seen| worst.get(&seen.about) == Some(&seen.outcome));
    observations.map(|Observation { outcome, about, seen, advice }| Finding {
        check: case.id,
        outcome,
        about,
        seen,
        answers: case.answers,
        fix: (outcome != Outcome::Pass).then(|| advice.unwrap_or_else(|| case.fix.to_owned())),
    })
}

/// How the findings end, in one line.
pub fn verdict(findings: &[Finding]) -> (Outcome, String) {
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (faults, warnings, passed) = (count(Outcome::Fail), count(Outcome::Warn), count(Outcome::Pass));
    let worst = findings.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::Pass);
    let verdict = match worst {
        Outcome::Fail if warnings == 0 => {
            format!("{} to mend; {passed} checks pass", counted(faults, "fault"))
        }
        Outcome::Fail => format!(
            "{} to mend and {}; {passed} checks pass",
            counted(faults, "fault"),
            counted(warnings, "warning")
        ),
        Outcome::Warn => format!("no fault, {}; {passed} checks pass", counted(warnings, "warning")),
        Outcome::Pass => format!("all is well: {passed} checks pass"),
    };
    (worst, verdict)
}

/// Somebody else's text, fit for a terminal and a log: short, and printable.
pub fn printable(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
