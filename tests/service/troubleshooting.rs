//! The tables of checks in the documentation are generated from the code.

use std::fmt::Write as _;

use tokenmint::doctor::{CHECKS, EvidenceSource};
use tokenmint::exchange::errors::{self, ErrorClass};

use crate::pages::compare_or_write;

fn checks() -> String {
    let mut table =
        "| what people see | check | the question | what to do | source |\n|---|---|---|---|---|\n"
            .to_owned();
    for case in &CHECKS {
        let source = match case.source {
            EvidenceSource::Doc => "doc",
            EvidenceSource::Field => "field",
            EvidenceSource::Rfc => "rfc",
            EvidenceSource::Own => "own",
        };
        let online = if case.online { " (`--online`)" } else { "" };
        let row = [case.symptom, &format!("`{}`{online}", case.id), case.question, case.fix, source];
        write_row(&mut table, &row);
    }
    table
}

fn answers() -> String {
    let mut table =
        "| from | Salesforce says | why | what to do | again |\n|---|---|---|---|---|\n".to_owned();
    for (from, words, diagnosis) in errors::known_errors() {
        let again = match diagnosis.class {
            ErrorClass::Permanent => "never",
            ErrorClass::Transient => "soon",
            ErrorClass::Limited => "later",
        };
        write_row(&mut table, &[from, &format!("`{words}`"), diagnosis.cause, diagnosis.fix, again]);
    }
    table
}

fn write_row(table: &mut String, cells: &[&str]) {
    for cell in cells {
        write!(table, "| {} ", cell.replace('|', "\\|")).expect("memory");
    }
    table.push_str("|\n");
}

#[test]
fn the_troubleshooting_tables_are_those_of_the_checks() {
    compare_or_write("docs/troubleshooting.md", &[("checks", checks()), ("answers", answers())]);
}
