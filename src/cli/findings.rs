//! What the doctor found, for a person, a program, or a code scanner (SARIF 2.1.0).

use std::cmp::Reverse;
use std::io::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::{say_json, width, wrote};
use crate::doctor::{CHECKS, CheckOutcome, CheckSpec, Finding, Report, ReportSummary, SkippedCheck};

/// How findings are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `all` shows the checks that passed too.
    Text {
        all: bool,
    },
    Json,
    Sarif,
}

const GOOD: Style = AnsiColor::Green.on_default();
const ODD: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const THING: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// Whether a command may write in colour where its output is a terminal: not where `TERM` is `dumb` or unset. anstream, which
/// clap uses too, writes colours to such a terminal where `CI` is set.
pub(super) fn color_choice() -> clap::ColorChoice {
    if anstyle_query::term_supports_color() || anstyle_query::clicolor_force() {
        clap::ColorChoice::Auto
    } else {
        clap::ColorChoice::Never
    }
}

/// A page of text on standard output: colour on a terminal only, and neither with `NO_COLOR` nor on a dumb one; lines no
/// longer than it is wide.
pub(super) struct Page {
    out: anstream::AutoStream<std::io::Stdout>,
    width: usize,
}

impl Page {
    pub fn new() -> Self {
        let out = std::io::stdout();
        let colour = match color_choice() {
            clap::ColorChoice::Never => anstream::ColorChoice::Never,
            _ => anstream::AutoStream::choice(&out),
        };
        Self { out: anstream::AutoStream::new(out, colour), width: width() }
    }

    pub fn line(&mut self, text: &str) {
        wrote(writeln!(self.out, "{text}"));
    }

    pub fn heading(&mut self, text: &str) {
        self.paragraph("", 0, THING, text);
    }

    /// `text` in lines, the first behind `lead`, the others below it.
    fn paragraph(&mut self, lead: &str, lead_width: usize, style: Style, text: &str) {
        let indent = " ".repeat(lead_width);
        for (at, line) in textwrap::wrap(text, self.width.saturating_sub(lead_width)).iter().enumerate() {
            let before = if at == 0 { lead } else { &indent };
            self.line(&format!("{before}{style}{line}{style:#}"));
        }
    }

    /// Names what the configuration was read from.
    pub fn configuration(&mut self, source: Option<&str>) {
        let source =
            source.map_or_else(|| "none was read".to_owned(), |source| format!("read from {source}"));
        self.paragraph("", 0, FAINT, &format!("configuration: {source}"));
        self.line("");
    }

    /// The worst first. Those that passed are only counted, unless `all` are wanted.
    pub fn findings(&mut self, findings: &[Finding], all: bool) {
        let is_shown = |finding: &&Finding| all || finding.outcome != CheckOutcome::Pass;
        let mut shown: Vec<&Finding> = findings.iter().filter(is_shown).collect();
        shown.sort_by_key(|finding| Reverse(finding.outcome));
        let longest = shown.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        let mut thing = "";
        for finding in &shown {
            if finding.about != thing {
                if !thing.is_empty() {
                    self.line("");
                }
                thing = &finding.about;
                self.heading(thing);
            }
            let (symbol, style) = mark(finding.outcome);
            let check = format!("{:longest$}", finding.check);
            let lead = format!("  {style}{symbol}{style:#} {FAINT}{check}{FAINT:#}  ");
            let seen = if finding.outcome == CheckOutcome::Pass { Style::new() } else { style };
            self.paragraph(&lead, longest + 6, seen, &finding.seen);
            if let Some(fix) = &finding.fix {
                self.paragraph("      ", 6, FAINT, finding.question);
                self.paragraph("    → ", 6, Style::new(), fix);
            }
        }
        match findings.len() - shown.len() {
            0 => {}
            1 => self.paragraph("", 0, FAINT, "1 check passes: -v shows it"),
            passed => self.paragraph("", 0, FAINT, &format!("{passed} checks pass: -v shows them")),
        }
    }

    pub fn verdict(&mut self, outcome: CheckOutcome, text: &str) {
        let (symbol, style) = mark(outcome);
        self.line("");
        self.paragraph(&format!("{style}{symbol}{style:#} "), 2, style, text);
    }
}

const fn mark(outcome: CheckOutcome) -> (char, Style) {
    match outcome {
        CheckOutcome::Pass => ('✓', GOOD),
        CheckOutcome::Warn => ('!', ODD),
        CheckOutcome::Fail => ('✗', BAD),
    }
}

/// `configuration` is what was read as one, `file` its file.
pub(super) fn print(
    form: Form,
    report: &Report,
    verdict: &ReportSummary,
    configuration: Option<&str>,
    file: Option<&Path>,
) {
    match form {
        Form::Text { all } => {
            let mut page = Page::new();
            page.configuration(configuration);
            page.findings(&report.findings, all);
            page.verdict(verdict.outcome, &verdict.text);
        }
        Form::Json => say_json(&json!({
            "ok": verdict.outcome != CheckOutcome::Fail,
            "verdict": verdict.text,
            "configuration": configuration,
            "findings": report.findings,
            "not_looked_at": report.skipped,
        })),
        Form::Sarif => say_json(&sarif(report, file)),
    }
}

/// The same as a SARIF log (OASIS, Static Analysis Results Interchange Format 2.1.0).
fn sarif(report: &Report, config: Option<&Path>) -> Value {
    let rules: Vec<Value> = CHECKS.iter().map(rule).collect();
    let results = report.findings.iter().map(|finding| result(finding, config));
    let results: Vec<Value> = results.chain(report.skipped.iter().map(skipped)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "tokenmint doctor",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": results,
        }],
    })
}

fn rule(case: &CheckSpec) -> Value {
    json!({
        "id": case.id,
        "shortDescription": {"text": case.title},
        "fullDescription": {"text": format!("{}. What people see: {}.", case.question, case.symptom)},
        "help": {"text": case.fix},
        "properties": {"online": case.online, "source": case.source},
    })
}

fn result(finding: &Finding, config: Option<&Path>) -> Value {
    let (kind, level) = match finding.outcome {
        CheckOutcome::Pass => ("pass", "none"),
        CheckOutcome::Warn => ("fail", "warning"),
        CheckOutcome::Fail => ("fail", "error"),
    };
    let fix = finding.fix.as_ref().map(|fix| format!(" What to do: {fix}.")).unwrap_or_default();
    let mut location = json!({"logicalLocations": [{"fullyQualifiedName": finding.about}]});
    let file = finding.about.split(", `").next().map(Path::new).filter(|path| path.is_file());
    if let Some(uri) = file.or(config).and_then(uri) {
        location["physicalLocation"] = json!({"artifactLocation": {"uri": uri}});
    }
    json!({
        "ruleId": finding.check,
        "ruleIndex": rule_index(finding.check),
        "kind": kind,
        "level": level,
        "message": {"text": format!("{}: {}.{fix}", finding.about, finding.seen)},
        "locations": [location],
    })
}

/// A check that could not look has a result too, so that no one takes its silence for a pass.
fn skipped(skipped: &SkippedCheck) -> Value {
    let about = skipped.about.as_ref().map(|about| format!("{about}: ")).unwrap_or_default();
    json!({
        "ruleId": skipped.check,
        "ruleIndex": rule_index(skipped.check),
        "kind": "notApplicable",
        "level": "none",
        "message": {"text": format!("{about}not looked at: {}.", skipped.reason)},
    })
}

fn rule_index(check: &str) -> Option<usize> {
    CHECKS.iter().position(|case| case.id == check)
}

/// A path as a URI reference (RFC 3986, section 4.1).
fn uri(path: &Path) -> Option<String> {
    if path.is_absolute() {
        return url::Url::from_file_path(path).ok().map(String::from);
    }
    let encoded = path.to_str()?.bytes().map(|byte| match byte {
        b'/' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    Some(encoded.collect())
}
