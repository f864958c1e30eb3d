//! The schema of the configuration: every section and key, with its type, bounds, default and meaning.
//!
//! [`Section`](super::section::Section) reads a key only if the schema of its table has it, and takes bounds and defaults from
//! here. The reference pages and the JSON Schema are made from the same tables.

mod callers;
mod issuers;
mod json;
mod keysets;
mod profiles;
mod server;
mod stores;

use std::time::Duration;

use super::source::ConfigNode;
use super::values::{self, parse_byte_count, parse_count, parse_string, parse_subsecond_duration};

pub(crate) use json::json_schema;
pub use keysets::SCHEDULE;

/// A table of the configuration.
pub struct TableSchema {
    /// The purpose of the table, in sentences of Markdown.
    pub about: &'static str,
    pub keys: &'static [KeySchema],
    /// The schema of entries with user-chosen names, for example of each `[callers.NAME]`. Its `name` is a placeholder.
    pub named: Option<&'static KeySchema>,
    /// The form of those names.
    names: TextForm,
    pub rules: &'static [Rule],
}

/// One key of a table.
pub struct KeySchema {
    pub name: &'static str,
    pub kind: ValueKind,
    pub presence: Presence,
    /// The effect of the key, in sentences of Markdown.
    pub meaning: &'static str,
}

/// The type of a value, with its bounds.
pub enum ValueKind {
    Table(&'static TableSchema),
    /// An array of tables, written as `[[name]]`.
    Tables(&'static TableSchema),
    Text(TextForm),
    List(TextForm),
    Choice(&'static [&'static str]),
    /// A duration as text, for example `"90s"`. It must be whole seconds, unless `min` is less than a second.
    Duration {
        min: &'static str,
        max: &'static str,
    },
    /// A number of bytes, or text with a unit. `reason` ends the message about a value out of bounds.
    Size {
        min: usize,
        max: Option<usize>,
        reason: &'static str,
    },
    /// A whole number, at least 1. `reason` ends the message about a value above `max`.
    Count {
        max: Option<usize>,
        reason: &'static str,
    },
    /// The id of a Unix user.
    UserId,
    Flag,
    /// A date with time and offset, in TOML's own type or as text.
    Moment,
    /// The value of a claim: any value of TOML but a date.
    ClaimValue,
}

/// The form of a text.
#[derive(Clone, Copy)]
pub struct TextForm {
    /// Its name for people.
    pub label: &'static str,
    /// A regular expression (ECMA 262) that each accepted text matches.
    pub pattern: &'static str,
    /// The longest text, in characters.
    pub longest: usize,
}

/// Whether a key must be given, and what holds without it.
pub enum Presence {
    Required,
    /// One of several keys is needed, or one excludes another. The text says which.
    Conditional(&'static str),
    /// The default, written as in TOML.
    Default(&'static str),
    /// A default that depends on other settings or on the host, in words.
    Derived(&'static str),
    /// The feature is off without the key.
    Absent,
}

/// A rule about several keys of one table.
pub enum Rule {
    ExactlyOne(&'static [&'static str]),
    AtLeastOne(&'static [&'static str]),
    AtMostOne(&'static [&'static str]),
    /// The first key needs the second.
    Needs(&'static str, &'static str),
    /// The first key excludes the second.
    Excludes(&'static str, &'static str),
}

impl TableSchema {
    const fn new(about: &'static str, keys: &'static [KeySchema]) -> Self {
        Self { about, keys, named: None, names: NAME, rules: &[] }
    }

    /// A table whose keys are user-chosen names.
    const fn of_named(about: &'static str, named: &'static KeySchema) -> Self {
        Self { about, keys: &[], named: Some(named), names: NAME, rules: &[] }
    }

    const fn with_names(self, names: TextForm) -> Self {
        Self { names, ..self }
    }

    const fn with_rules(self, rules: &'static [Rule]) -> Self {
        Self { rules, ..self }
    }

    pub fn key(&self, name: &str) -> Option<&'static KeySchema> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn key(name: &'static str, kind: ValueKind, presence: Presence, meaning: &'static str) -> KeySchema {
    KeySchema { name, kind, presence, meaning }
}

const fn table(name: &'static str, table: &'static TableSchema) -> KeySchema {
    key(name, ValueKind::Table(table), Presence::Absent, "")
}

const fn text(label: &'static str, pattern: &'static str, longest: usize) -> TextForm {
    TextForm { label, pattern, longest }
}

/// Any text without white space at its ends.
const fn plain(longest: usize) -> TextForm {
    text("text", r"^\S([\s\S]*\S)?$", longest)
}

const LONGEST_URL: usize = 2048;
/// Secrets, paths and patterns have no limit of their own; the file has.
const NO_LIMIT: usize = 1 << 20;

const NAME: TextForm = text("name", "^[A-Za-z0-9_-]{1,64}$", 64);
const SECRET: TextForm = text("secret", r"^\S([\s\S]*\S)?$", NO_LIMIT);
const PATH: TextForm = text("path", r"^\S([\s\S]*\S)?$", NO_LIMIT);
const PEM: TextForm = text("PEM text", "[\\s\\S]", NO_LIMIT);
const REGEX: TextForm = text("regular expression", "", NO_LIMIT);
const HTTPS_URL: TextForm =
    text("https URL", r"^(https://|http://(localhost|[^/?#]*\.localhost|127\.|\[::1\]))[^#]*$", LONGEST_URL);
const HTTPS_ORIGIN: TextForm = text(
    "https URL without a path",
    r"^(https://[^/?#]+|http://(localhost|[^/?#]*\.localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?)/?$",
    LONGEST_URL,
);

/// The whole file, `tokenmint.toml`.
pub static ROOT: TableSchema = TableSchema::new(
    "The configuration of tokenmint.",
    &[
        table("server", &server::SERVER),
        table("cache", &server::CACHE),
        table("keysets", &keysets::KEYSETS),
        table("identity", &profiles::IDENTITY_PROFILES),
        table("oauth", &profiles::OAUTH_PROFILES),
        table("intercom", &profiles::INTERCOM_PROFILES),
        table("hs256", &profiles::HS256_PROFILES),
        table("bundles", &profiles::BUNDLES),
        table("callers", &callers::CALLERS),
        table("issuers", &issuers::ISSUERS),
        table("stores", &stores::STORES),
    ],
);

impl ValueKind {
    /// Parses a duration and checks its bounds.
    ///
    /// # Errors
    /// Another kind of value, or a duration out of bounds.
    pub(super) fn parse_duration(&self, node: &ConfigNode, example: &str) -> Result<Duration, String> {
        let Self::Duration { min, max } = self else { return Err("isn't a duration".to_owned()) };
        let bound = |text: &str| humantime::parse_duration(text).map_err(|error| error.to_string());
        let range = bound(min)?..=bound(max)?;
        if *range.start() < Duration::from_secs(1) {
            let duration = parse_subsecond_duration(node).ok().filter(|duration| range.contains(duration));
            return duration
                .ok_or_else(|| format!("must be a duration between {min} and {max}, for example {example}"));
        }
        let duration = values::parse_duration(node)?;
        if range.contains(&duration) { Ok(duration) } else { Err(format!("must be between {min} and {max}")) }
    }

    /// Parses a number of bytes and checks its bounds.
    ///
    /// # Errors
    /// Another kind of value, or a size out of bounds.
    pub(super) fn parse_size(&self, node: &ConfigNode) -> Result<usize, String> {
        let Self::Size { min, max, reason } = self else { return Err("isn't a size".to_owned()) };
        let size = parse_byte_count(node)?;
        match max {
            Some(max) if !(*min..=*max).contains(&size) => {
                Err(format!("must be between {} and {}{reason}", format_size(*min), format_size(*max)))
            }
            None if size < *min => Err(format!("must be at least {}{reason}", format_size(*min))),
            _ => Ok(size),
        }
    }

    /// Parses a whole number of at least 1 and checks its upper bound.
    ///
    /// # Errors
    /// Another kind of value, or a number out of bounds.
    pub(super) fn parse_count(&self, node: &ConfigNode) -> Result<usize, String> {
        let Self::Count { max, reason } = self else { return Err("isn't a number".to_owned()) };
        let count = parse_count(node)?;
        match max {
            Some(max) if count > *max => Err(format!("must be at most {max}{reason}")),
            _ => Ok(count),
        }
    }

    /// Parses one of the choices. The message about another text lists them, and ends with `reason`.
    ///
    /// # Errors
    /// Another value.
    pub(super) fn parse_choice(&self, node: &ConfigNode, reason: &str) -> Result<&'static str, String> {
        let Self::Choice(choices) = self else { return Err("isn't a choice".to_owned()) };
        let written = parse_string(node)?;
        let found = choices.iter().find(|choice| **choice == written.as_str());
        found.copied().ok_or_else(|| {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
            let (last, first) = quoted.split_last().expect("a choice has a value at least");
            let before = if first.is_empty() { String::new() } else { format!("{} or ", first.join(", ")) };
            format!("must be {before}{last}{reason}")
        })
    }
}

/// Writes a number of bytes with the largest unit that divides it.
pub fn format_size(bytes: usize) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}

/// A table and its path, for example `server.limits`. An array of tables has the path `[key]`.
pub struct PlacedTable {
    pub path: String,
    pub schema: &'static TableSchema,
}

/// Lists every table that has keys of its own, in the order of the schema.
pub fn tables(root: &'static TableSchema) -> Vec<PlacedTable> {
    fn below(path: &str, schema: &'static TableSchema, found: &mut Vec<PlacedTable>) {
        let is_leaf = |key: &&KeySchema| !matches!(key.kind, ValueKind::Table(_) | ValueKind::Tables(_));
        let entries = || schema.keys.iter().chain(schema.named);
        if entries().any(|key| is_leaf(&key)) {
            found.push(PlacedTable { path: path.to_owned(), schema });
        }
        for key in entries() {
            let inner = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            match key.kind {
                ValueKind::Table(table) => below(&inner, table, found),
                ValueKind::Tables(table) => below(&format!("[{inner}]"), table, found),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    below("", root, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_PUBLISH_LEAD, DEFAULT_RETIRE_MARGIN, ProfileKind};

    fn key_of(table: &str, key: &str) -> &'static KeySchema {
        let tables = tables(&ROOT);
        let table = tables.iter().find(|placed| placed.path == table).expect("a table");
        table.schema.key(key).expect("a key")
    }

    /// Commands that read no configuration use these constants.
    #[test]
    fn the_constants_are_the_defaults_of_the_schema() {
        for (name, constant) in
            [("publish_lead", DEFAULT_PUBLISH_LEAD), ("retire_margin", DEFAULT_RETIRE_MARGIN)]
        {
            let written = match key_of("keysets.NAME", name).presence {
                Presence::Default(written) => written.trim_matches('"'),
                _ => "none",
            };
            assert_eq!(humantime::parse_duration(written), Ok(constant), "{name}");
        }
    }

    #[test]
    fn each_kind_of_profile_has_a_section_and_can_be_allowed() {
        let pattern = match key_of("callers.NAME", "allow").kind {
            ValueKind::List(form) => regex::Regex::new(form.pattern).expect("a pattern"),
            _ => unreachable!("a list"),
        };
        for kind in ProfileKind::ALL {
            assert!(ROOT.key(kind.section()).is_some());
            assert!(pattern.is_match(&format!("{}.web", kind.section())));
        }
    }
}
