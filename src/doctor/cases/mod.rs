//! The catalogue: every fault that the doctor knows, in the order in which a person would look.

mod keys;
mod online;
mod profiles;
mod published;
mod tokens;

use serde::Serialize;

use super::{Known, Observation};

/// One question, answered by one check.
#[derive(Clone, Copy, Serialize)]
pub struct Case {
    /// Stable: programs may look for it.
    pub id: &'static str,
    /// What holds where all is well.
    pub title: &'static str,
    /// What people see of the fault.
    pub sees: &'static str,
    /// The question of Salesforce's page that it answers, or the report that it explains.
    pub answers: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    pub source: Source,
    /// Whether it needs the answer of a request.
    pub online: bool,
    #[serde(skip)]
    pub check: fn(&Known<'_>) -> Vec<Observation>,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Salesforce's or Intercom's documentation.
    Doc,
    /// Reports of people who met it.
    Field,
    /// A standard.
    Rfc,
    /// tokenmint's own rule.
    Own,
}

const GROUPS: [&[Case]; 5] =
    [&profiles::CASES, &keys::CASES, &published::CASES, &tokens::CASES, &online::CASES];

pub static CASES: [Case; 50] = {
    let mut all = [profiles::CASES[0]; 50];
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut at = 0;
        while at < GROUPS[group].len() {
            all[count] = GROUPS[group][at];
            (count, at) = (count + 1, at + 1);
        }
        group += 1;
    }
    assert!(count == all.len(), "the catalogue has as many cases as its length says");
    all
};
