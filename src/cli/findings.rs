//! Prints the doctor's findings for people, for programs (JSON), or for code scanners (SARIF 2.1.0).

use std::cmp::Reverse;
use std::io::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::{line_width, print_json, print_stderr, record_stdout_result};
use crate::doctor::{
    self, CHECKS, CheckOutcome, CheckSpec, ComparedClaim, Finding, Report, ReportSummary, SkippedCheck,
    TokenComparison,
};

/// The output format of findings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputFormat {
    /// `all` includes the checks that passed.
    Text {
        all: bool,
    },
    Json,
    Sarif,
}

const PASS_STYLE: Style = AnsiColor::Green.on_default();
const WARN_STYLE: Style = AnsiColor::Yellow.on_default();
const FAIL_STYLE: Style = AnsiColor::Red.on_default().bold();
const HEADING_STYLE: Style = Style::new().bold();
const DIM_STYLE: Style = Style::new().dimmed();

/// Chooses colours for terminals only, and none if `TERM` is `dumb` or unset, except with `CLICOLOR_FORCE`. On its own,
/// anstream (which clap uses too) would write colours to such a terminal if `CI` is set.
pub(super) fn color_choice() -> clap::ColorChoice {
    if anstyle_query::term_supports_color() || anstyle_query::clicolor_force() {
        clap::ColorChoice::Auto
    } else {
        clap::ColorChoice::Never
    }
}

/// Writes formatted text to standard output, wrapped at [`line_width`]. Colours are used by [`color_choice`], and not with
/// `NO_COLOR`.
pub(super) struct TextReport {
    out: anstream::AutoStream<std::io::Stdout>,
    width: usize,
}

impl TextReport {
    pub(crate) fn new() -> Self {
        let out = std::io::stdout();
        let colour = match color_choice() {
            clap::ColorChoice::Never => anstream::ColorChoice::Never,
            _ => anstream::AutoStream::choice(&out),
        };
        Self { out: anstream::AutoStream::new(out, colour), width: line_width() }
    }

    pub(crate) fn line(&mut self, text: &str) {
        record_stdout_result(writeln!(self.out, "{text}"));
    }

    pub(crate) fn heading(&mut self, text: &str) {
        self.paragraph("", 0, HEADING_STYLE, text);
    }

    /// Wraps `text`. The first line follows `lead`; the others are indented by its width.
    fn paragraph(&mut self, lead: &str, lead_width: usize, style: Style, text: &str) {
        let indent = " ".repeat(lead_width);
        for (at, line) in textwrap::wrap(text, self.width.saturating_sub(lead_width)).iter().enumerate() {
            let before = if at == 0 { lead } else { &indent };
            self.line(&format!("{before}{style}{line}{style:#}"));
        }
    }

    /// Prints the source of the configuration.
    pub(crate) fn configuration(&mut self, source: Option<&str>) {
        let source =
            source.map_or_else(|| "none was read".to_owned(), |source| format!("read from {source}"));
        self.paragraph("", 0, DIM_STYLE, &format!("configuration: {source}"));
        self.line("");
    }

    /// Prints each token beside what the configuration requires of it.
    pub(crate) fn comparisons(&mut self, comparisons: &[TokenComparison]) {
        for TokenComparison { about, rules, claims } in comparisons {
            self.heading(&format!("{about} beside {rules}"));
            let shown = |claim: &ComparedClaim| {
                let value =
                    claim.token.as_ref().map(|value| serde_json::to_string(value).unwrap_or_default());
                value.map_or_else(|| "absent".to_owned(), |value| doctor::escape_and_truncate(&value))
            };
            let longest = claims.iter().map(|claim| claim.claim.chars().count()).max().unwrap_or_default();
            for claim in claims {
                let outcome = if claim.ok { CheckOutcome::Pass } else { CheckOutcome::Fail };
                let (symbol, style) = outcome_symbol(outcome);
                let name = doctor::escape_invisible(&claim.claim);
                let lead = format!("  {style}{symbol}{style:#} {name:longest$}  ");
                let required = doctor::escape_invisible(&claim.required);
                let date = claim.date.as_ref().map(|date| format!(" ({date})")).unwrap_or_default();
                let text = format!("{}{date}; required: {required}", shown(claim));
                self.paragraph(&lead, longest + 6, Style::new(), &text);
            }
            self.line("");
        }
    }

    /// Prints the findings, the worst first. Passed checks are only counted unless `all` is set.
    pub(crate) fn findings(&mut self, findings: &[Finding], all: bool) {
        let is_shown = |finding: &&Finding| all || finding.outcome != CheckOutcome::Pass;
        let mut shown: Vec<&Finding> = findings.iter().filter(is_shown).collect();
        shown.sort_by_key(|finding| Reverse(finding.outcome));
        let longest = shown.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        let mut about = "";
        for finding in &shown {
            if finding.about != about {
                if !about.is_empty() {
                    self.line("");
                }
                about = &finding.about;
                self.heading(about);
            }
            let (symbol, style) = outcome_symbol(finding.outcome);
            let check = format!("{:longest$}", finding.check);
            let lead = format!("  {style}{symbol}{style:#} {DIM_STYLE}{check}{DIM_STYLE:#}  ");
            let text_style = if finding.outcome == CheckOutcome::Pass { Style::new() } else { style };
            self.paragraph(&lead, longest + 6, text_style, &finding.seen);
            if let Some(fix) = &finding.fix {
                self.paragraph("      ", 6, DIM_STYLE, finding.question);
                self.paragraph("    → ", 6, Style::new(), fix);
            }
        }
        match findings.len() - shown.len() {
            0 => {}
            1 => self.paragraph("", 0, DIM_STYLE, "1 check passes: -v shows it"),
            passed => self.paragraph("", 0, DIM_STYLE, &format!("{passed} checks pass: -v shows them")),
        }
    }

    pub(crate) fn verdict(&mut self, outcome: CheckOutcome, text: &str) {
        let (symbol, style) = outcome_symbol(outcome);
        self.line("");
        self.paragraph(&format!("{style}{symbol}{style:#} "), 2, style, text);
    }
}

const fn outcome_symbol(outcome: CheckOutcome) -> (char, Style) {
    match outcome {
        CheckOutcome::Pass => ('✓', PASS_STYLE),
        CheckOutcome::Warn => ('!', WARN_STYLE),
        CheckOutcome::Fail => ('✗', FAIL_STYLE),
    }
}

/// Prints a report. `unread` has the reasons why files could not be examined; in the text output they go to standard error.
/// `configuration` describes the source of the configuration, and `file` is its path.
pub(super) fn print_report(
    format: OutputFormat,
    report: &Report,
    verdict: &ReportSummary,
    unread: &[String],
    configuration: Option<&str>,
    file: Option<&Path>,
) {
    match format {
        OutputFormat::Text { all } => {
            let mut page = TextReport::new();
            page.configuration(configuration);
            for reason in unread {
                print_stderr(&format!("tokenmint: {reason}"));
            }
            page.comparisons(&report.comparisons);
            page.findings(&report.findings, all);
            page.verdict(verdict.outcome, &verdict.text);
        }
        OutputFormat::Json => print_json(&json!({
            "ok": verdict.outcome != CheckOutcome::Fail,
            "verdict": verdict.text,
            "configuration": configuration,
            "comparisons": report.comparisons,
            "findings": report.findings,
            "not_looked_at": report.skipped,
            "unread": unread,
        })),
        OutputFormat::Sarif => print_json(&sarif(report, unread, file)),
    }
}

/// Converts a report to a SARIF log (OASIS, Static Analysis Results Interchange Format 2.1.0).
fn sarif(report: &Report, unread: &[String], config: Option<&Path>) -> Value {
    let rules: Vec<Value> = CHECKS.iter().map(sarif_rule).collect();
    let results = report.findings.iter().map(|finding| sarif_result(finding, config));
    let results: Vec<Value> = results.chain(report.skipped.iter().map(sarif_skipped)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "tokenmint doctor",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "invocations": [sarif_invocation(unread)],
            "results": results,
        }],
    })
}

/// Builds the SARIF log of a run that failed before it had a result.
pub(super) fn sarif_failure(reason: &str) -> Value {
    let report = Report { comparisons: Vec::new(), findings: Vec::new(), skipped: Vec::new() };
    sarif(&report, &[reason.to_owned()], None)
}

/// Describes whether the run could examine all files (SARIF 2.1.0, section 3.20).
fn sarif_invocation(unread: &[String]) -> Value {
    let notifications: Vec<Value> =
        unread.iter().map(|reason| json!({"level": "error", "message": {"text": reason}})).collect();
    json!({"executionSuccessful": unread.is_empty(), "toolExecutionNotifications": notifications})
}

fn sarif_rule(case: &CheckSpec) -> Value {
    json!({
        "id": case.id,
        "shortDescription": {"text": case.title},
        "fullDescription": {"text": format!("{}. What people see: {}.", case.question, case.symptom)},
        "help": {"text": case.fix},
        "properties": {"online": case.online, "source": case.source},
    })
}

fn sarif_result(finding: &Finding, config: Option<&Path>) -> Value {
    let (kind, level) = match finding.outcome {
        CheckOutcome::Pass => ("pass", "none"),
        CheckOutcome::Warn => ("fail", "warning"),
        CheckOutcome::Fail => ("fail", "error"),
    };
    let fix = finding.fix.as_ref().map(|fix| format!(" What to do: {fix}.")).unwrap_or_default();
    let mut location = json!({"logicalLocations": [{"fullyQualifiedName": finding.about}]});
    let file = finding.about.split(", `").next().map(Path::new).filter(|path| path.is_file());
    if let Some(uri) = file.or(config).and_then(path_to_uri) {
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

/// Converts a skipped check, so that nobody takes its absence for a pass.
fn sarif_skipped(skipped: &SkippedCheck) -> Value {
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

/// Converts a path to a URI reference (RFC 3986, section 4.1).
fn path_to_uri(path: &Path) -> Option<String> {
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
