//! The tables of checks in the documentation are generated from the code.

use std::fmt::Write as _;
use std::path::Path;

use tokenmint::doctor::{CHECKS, EvidenceSource};
use tokenmint::exchange::errors::{self, ErrorClass};

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

/// Replaces the text between the comment that starts with `name` and the next end comment by `table`.
fn with_table(text: &str, name: &str, table: &str) -> String {
    let opening = text.find(&format!("<!-- {name}:")).expect("the table's beginning");
    let start = opening + text[opening..].find('\n').expect("a line") + 1;
    let end = start + text[start..].find("<!-- end -->").expect("the table's end");
    format!("{}\n{table}\n{}", &text[..start], &text[end..])
}

/// With `UPDATE_DOCS`, which `make docs` sets, writes the tables instead of comparing them.
#[test]
fn the_troubleshooting_tables_are_those_of_the_checks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let text = std::fs::read_to_string(&path).expect("the page");
    let made = with_table(&with_table(&text, "checks", &checks()), "answers", &answers());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).expect("writable");
    } else {
        assert!(text == made, "docs/troubleshooting.md is not what the checks say: run `make docs`");
    }
}
