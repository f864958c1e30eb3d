//! Log format: each event is one line of JSON with `timestamp`, `level`, the event's fields in order, and `target`.
//!
//! Field values are escaped, so a value can't break the line. It formats into one buffer, because each token writes an audit
//! line and the JSON formatter of `tracing-subscriber` takes five times as many instructions.

use std::fmt;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The initial capacity of a line's buffer, in bytes. Most lines are shorter.
const TYPICAL_LENGTH: usize = 512;

/// The event formatter.
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut now = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut now))?;
        let mut line = JsonLine(Vec::with_capacity(TYPICAL_LENGTH));
        line.0.push(b'{');
        line.member("timestamp", &now);
        line.member("level", metadata.level().as_str());
        event.record(&mut line);
        line.member("target", metadata.target());
        line.0.extend_from_slice(b"}\n");
        let line = std::str::from_utf8(&line.0).map_err(|_| fmt::Error)?;
        writer.write_str(line)
    }
}

/// A JSON object that is being written.
struct JsonLine(Vec<u8>);

impl JsonLine {
    fn member<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        // Field names are identifiers of the source, so they need no escapes.
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        serde_json::to_writer(&mut self.0, value).expect("text and numbers can be written to memory");
    }
}

impl Visit for JsonLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field.name(), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field.name(), &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field.name(), &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::captured_log::CapturedLog;
    use super::*;

    #[test]
    fn every_event_is_one_line_of_valid_json() {
        let log = CapturedLog::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().event_format(JsonLines).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let absent: Option<&str> = None;
            tracing::info!(caller = "a\"b\r\n\u{1b}[31m", count = 7, seen = %"x\ny", absent, "two\nlines");
            tracing::warn!(yes = true, "second");
        });
        let text = log.text();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["caller"], "a\"b\r\n\u{1b}[31m");
        assert_eq!([&lines[0]["message"], &lines[0]["seen"]], ["two\nlines", "x\ny"]);
        assert_eq!((&lines[0]["count"], lines[0].get("absent")), (&serde_json::json!(7), None));
        assert_eq!(
            [&lines[1]["level"], &lines[1]["yes"]],
            [&serde_json::json!("WARN"), &serde_json::json!(true)]
        );
        assert!(lines[1]["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')));
        assert!(!text.contains('\u{1b}'), "terminal escapes are escaped");
    }
}
