//! Reads one table of the configuration field by field. It collects all problems, and unknown keys are errors.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use icu_properties::CodePointSetData;
use icu_properties::props::{DefaultIgnorableCodePoint, QuotationMark};
use secrecy::SecretString;
use toml::de::DeValue;
use zeroize::Zeroizing;

use super::path::UnverifiedPath;
use super::source::{ConfigNode, ConfigValue, Problem, ValueOrigin, WarningCode, read_file};

/// The problems and warnings found while reading the configuration.
pub(crate) struct Diagnostics {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Secret files that were read, or that could not be read.
    files: RefCell<Vec<PathBuf>>,
    /// The keys that were requested in each table, by the table's path. `None` allows any key, for example in `[callers]`, whose
    /// keys are the callers' names.
    requested_keys: RefCell<BTreeMap<String, Option<BTreeSet<&'static str>>>>,
    /// The folder of the configuration file; relative paths start here.
    pub(crate) base: PathBuf,
}

impl Diagnostics {
    pub(crate) const fn new(base: PathBuf) -> Self {
        Self {
            problems: RefCell::new(Vec::new()),
            warnings: RefCell::new(Vec::new()),
            files: RefCell::new(Vec::new()),
            requested_keys: RefCell::new(BTreeMap::new()),
            base,
        }
    }

    /// Reports each key below `root` that was never requested: its name or its table is wrong. Call it after
    /// everything was read.
    pub(crate) fn report_unknown_keys(&self, root: &ConfigNode) {
        self.report_unknown_keys_below("", root);
    }

    fn report_unknown_keys_below(&self, path: &str, node: &ConfigNode) {
        let requested_keys = self.requested_keys.borrow();
        match &node.value {
            ConfigValue::List(items) => {
                for item in items {
                    self.report_unknown_keys_below(path, item);
                }
            }
            ConfigValue::Table(table) => {
                let Some(known) = requested_keys.get(path) else { return };
                for (name, node) in table {
                    let field = join_path(path, name);
                    match known {
                        Some(known) if !known.contains(name.as_str()) => {
                            self.problem(
                                field,
                                &node.origin,
                                format!("unknown key{}", suggest_key(name, known)),
                            );
                        }
                        _ => self.report_unknown_keys_below(&field, node),
                    }
                }
            }
            _ => {}
        }
    }

    pub(crate) fn problem(&self, field: impl Into<String>, origin: &ValueOrigin, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem::new(field, origin, message));
    }

    pub(crate) fn warn(
        &self,
        code: WarningCode,
        field: impl Into<String>,
        origin: &ValueOrigin,
        message: impl Into<String>,
    ) {
        self.warnings.borrow_mut().push(Problem::warning(code, field, origin, message));
    }

    pub(crate) fn add(&self, problems: Vec<Problem>) {
        self.problems.borrow_mut().extend(problems);
    }

    /// Returns the problems, the warnings, and the files.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Vec<PathBuf>) {
        (self.problems.into_inner(), self.warnings.into_inner(), self.files.into_inner())
    }
}

/// A parser of one value. Its error says what the value must be and never repeats the value.
pub(crate) type ParseFn<T> = fn(&ConfigNode) -> Result<T, String>;

pub(crate) struct Section<'a> {
    path: String,
    origin: ValueOrigin,
    table: &'a BTreeMap<String, ConfigNode>,
    diagnostics: &'a Diagnostics,
}

impl<'a> Section<'a> {
    /// Returns `None` and reports a problem if `node` isn't a table.
    pub(crate) fn from_node(path: &str, node: &'a ConfigNode, diagnostics: &'a Diagnostics) -> Option<Self> {
        let ConfigValue::Table(table) = &node.value else {
            diagnostics.problem(path, &node.origin, format!("must be a table, `[{path}]`"));
            return None;
        };
        Some(Self { path: path.to_owned(), origin: node.origin.clone(), table, diagnostics })
    }

    pub(crate) const fn diagnostics(&self) -> &'a Diagnostics {
        self.diagnostics
    }

    pub(crate) fn field(&self, name: &str) -> String {
        join_path(&self.path, name)
    }

    pub(crate) fn origin_of(&self, name: &str) -> ValueOrigin {
        self.table.get(name).map_or_else(|| self.origin.clone(), |node| node.origin.clone())
    }

    pub(crate) fn problem(&self, name: &str, message: impl Into<String>) {
        self.diagnostics.problem(self.field(name), &self.origin_of(name), message);
    }

    pub(crate) fn warn(&self, code: WarningCode, name: &str, message: impl Into<String>) {
        self.diagnostics.warn(code, self.field(name), &self.origin_of(name), message);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Whether the value is an empty list.
    pub(crate) fn is_empty_list(&self, name: &str) -> bool {
        match self.table.get(name).map(|node| &node.value) {
            Some(ConfigValue::List(items)) => items.is_empty(),
            Some(ConfigValue::Untyped(text)) => text.trim().is_empty(),
            _ => false,
        }
    }

    fn node(&self, name: &'static str) -> Option<&'a ConfigNode> {
        let mut requested_keys = self.diagnostics.requested_keys.borrow_mut();
        if let Some(known) = requested_keys.entry(self.path.clone()).or_insert_with(|| Some(BTreeSet::new()))
        {
            known.insert(name);
        }
        self.table.get(name)
    }

    /// Allows any key in this table.
    fn allow_any_key(&self) {
        self.diagnostics.requested_keys.borrow_mut().insert(self.path.clone(), None);
    }

    /// Returns the parsed value; `None` if it is absent or invalid. An invalid value is reported.
    pub(crate) fn optional<T>(&self, name: &'static str, parse: ParseFn<T>) -> Option<T> {
        let node = self.node(name)?;
        let leftover = match &node.value {
            ConfigValue::Text(text) | ConfigValue::Untyped(text) => paste_artifact(name, text),
            _ => None,
        };
        leftover.map_or_else(|| parse(node), Err).map_err(|message| self.problem(name, message)).ok()
    }

    /// Like [`optional`](Self::optional), but an absent value is reported too.
    pub(crate) fn required<T>(&self, name: &'static str, parse: ParseFn<T>, what: &str) -> Option<T> {
        if self.node(name).is_none() {
            self.problem(name, format!("is missing: {what}"));
        }
        self.optional(name, parse)
    }

    /// Parses each entry of a list: `["a", "b"]` or, in the environment, `a,b`. An invalid entry is reported with
    /// its own line.
    pub(crate) fn list<T>(&self, name: &'static str, parse: fn(&str) -> Result<T, String>) -> Vec<T> {
        self.items(name, parse).into_iter().map(|(_, item)| item).collect()
    }

    /// Like [`list`](Self::list), but reports duplicate entries.
    pub(crate) fn set<T: PartialEq>(
        &self,
        name: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut set = Vec::new();
        for (origin, item) in self.items(name, parse) {
            if set.contains(&item) {
                self.diagnostics.problem(self.field(name), &origin, "lists the same entry twice: remove one");
            } else {
                set.push(item);
            }
        }
        set
    }

    fn items<T>(&self, name: &'static str, parse: fn(&str) -> Result<T, String>) -> Vec<(ValueOrigin, T)> {
        let Some(node) = self.node(name) else { return Vec::new() };
        let texts: Vec<(&ValueOrigin, Result<Zeroizing<String>, String>)> = match &node.value {
            ConfigValue::List(items) => items.iter().map(|item| (&item.origin, parse_string(item))).collect(),
            ConfigValue::Untyped(value) => {
                let items = paste_artifact(name, value).map_or_else(|| split_untyped_list(value), Err);
                items.map_or_else(
                    |message| vec![(&node.origin, Err(message))],
                    |items| items.into_iter().map(|item| (&node.origin, Ok(item))).collect(),
                )
            }
            other => {
                self.problem(name, format!("must be a list of strings, not {}", other.type_name()));
                Vec::new()
            }
        };
        let parse_item = |(origin, text): (&ValueOrigin, Result<Zeroizing<String>, String>)| {
            let parsed = text.and_then(|text| paste_artifact(name, &text).map_or_else(|| parse(&text), Err));
            let noted =
                parsed.map_err(|message| self.diagnostics.problem(self.field(name), origin, message)).ok();
            noted.map(|item| (origin.clone(), item))
        };
        texts.into_iter().filter_map(parse_item).collect()
    }

    /// Returns a path. A relative path starts at the folder of the configuration file.
    pub(crate) fn path(&self, name: &'static str) -> Option<UnverifiedPath> {
        let written = self.optional(name, parse_string)?;
        if written.is_empty() {
            self.problem(name, "must not be empty: give a path");
            return None;
        }
        Some(UnverifiedPath::new(self.diagnostics.base.join(written.as_str()), &self.origin_of(name)))
    }

    /// Returns PEM text without checking it for stray characters: the PEM parser handles text around the block.
    pub(crate) fn pem(&self, name: &'static str) -> Option<SecretString> {
        let pem = parse_string(self.node(name)?).map_err(|message| self.problem(name, message));
        pem.ok().map(|text| SecretString::from(text.as_str()))
    }

    /// Returns a secret given as `name`, or in a file as `name_file`. Giving both is an error. One trailing newline
    /// of the file is removed.
    pub(crate) fn secret(&self, name: &'static str, name_file: &'static str) -> Option<SecretString> {
        let inline = self.optional(name, parse_string);
        let file = self.path(name_file);
        if self.has(name) && self.has(name_file) {
            self.problem(name, format!("is given twice: remove `{name}` or `{name_file}`"));
            return None;
        }
        let secret = match file {
            None => inline?,
            Some(path) => {
                let content = read_secret_file(name, &path);
                self.diagnostics.files.borrow_mut().push(path.as_path().to_path_buf());
                content.map_err(|message| self.problem(name_file, message)).ok()?
            }
        };
        if secret.is_empty() {
            self.problem(if self.has(name) { name } else { name_file }, "is empty");
            return None;
        }
        Some(SecretString::from(secret.as_str()))
    }

    /// Returns a table inside this one.
    pub(crate) fn section(&self, name: &'static str) -> Option<Self> {
        Section::from_node(&self.field(name), self.node(name)?, self.diagnostics)
    }

    /// Returns the tables inside this one, which have user-chosen names.
    pub(crate) fn sections(&self) -> Vec<(&'a str, Self)> {
        self.allow_any_key();
        self.table
            .iter()
            .filter_map(|(name, node)| {
                Section::from_node(&self.field(name), node, self.diagnostics)
                    .map(|section| (name.as_str(), section))
            })
            .collect()
    }

    /// Returns the entries of this table, which have user-chosen names.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a ConfigNode)> {
        self.allow_any_key();
        self.table.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Returns the keys in the table `name`, valid or not.
    pub(crate) fn names_in(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let table = match self.table.get(name).map(|node| &node.value) {
            Some(ConfigValue::Table(table)) => Some(table),
            _ => None,
        };
        table.into_iter().flat_map(|table| table.keys().map(String::as_str))
    }

    /// Returns the tables of the array `name`, for example `[[key]]`.
    pub(crate) fn tables(&self, name: &'static str) -> Vec<Self> {
        match self.node(name).map(|node| &node.value) {
            None => Vec::new(),
            Some(ConfigValue::List(items)) => items
                .iter()
                .filter_map(|item| Section::from_node(&self.field(name), item, self.diagnostics))
                .collect(),
            Some(_) => {
                self.problem(name, format!("must be written as [[{name}]]"));
                Vec::new()
            }
        }
    }
}

fn join_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Suggests a known key for an unknown one.
fn suggest_key(name: &str, known: &BTreeSet<&'static str>) -> String {
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, _)| *distance <= 2)
        .min();
    match near {
        Some((_, known)) => format!("; did you mean `{known}`?"),
        None => format!("; known here: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
    }
}

/// Detects what a shell, an editor or `docker --env-file` left around the value of the setting `name`. No setting
/// needs such a value, and it would end up in tokens unchanged.
pub(crate) fn paste_artifact(name: &str, text: &str) -> Option<String> {
    let at_an_end = |is: fn(char) -> bool| text.starts_with(is) || text.ends_with(is);
    let message = if at_an_end(|c| c == '\u{feff}') {
        "begins or ends with a byte order mark: save it as UTF-8 without one"
    } else if at_an_end(char::is_whitespace) {
        "begins or ends with white space: remove it"
    } else if at_an_end(|c| CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)) {
        "begins or ends with an invisible character: remove it"
    } else if at_an_end(|c| {
        matches!(c, '`' | '\u{b4}') || CodePointSetData::new::<QuotationMark>().contains(c)
    }) {
        "begins or ends with a quote that would be part of the value: remove it (docker --env-file keeps quotes)"
    } else if starts_with_assignment(name, text) {
        "begins with a name and `=`: give the value alone"
    } else if text.contains('\0') {
        "contains a NUL character: save it as UTF-8 text (it may be UTF-16)"
    } else {
        return None;
    };
    Some(message.to_owned())
}

/// Whether the text is `export NAME=value`, or `NAME=value` with the setting's name or a name that looks like a
/// variable. Base64 has `=` only at its end.
fn starts_with_assignment(name: &str, text: &str) -> bool {
    if text.strip_prefix("export ").is_some_and(|exported| exported.contains('=')) {
        return true;
    }
    text.split_once('=').is_some_and(|(left, value)| {
        let variable = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let is_variable = left.contains('_') && left.bytes().all(variable);
        value.bytes().any(|b| b != b'=') && (is_variable || left.eq_ignore_ascii_case(name))
    })
}

fn read_secret_file(name: &str, path: &UnverifiedPath) -> Result<Zeroizing<String>, String> {
    let mut content = read_file(path.as_path()).map_err(|error| {
        if path.exists() {
            return format!("can't be read: {error}");
        }
        format!(
            "names no file that can be read ({error}). The value isn't shown, because it may be the secret \
        itself: write the secret into a file"
        )
    })?;
    if content.ends_with('\n') {
        content.pop();
        if content.ends_with('\r') {
            content.pop();
        }
    }
    paste_artifact(name, &content).map_or(Ok(content), Err)
}

/// Splits `["a", "b"]` or `a,b`.
fn split_untyped_list(value: &str) -> Result<Vec<Zeroizing<String>>, String> {
    let own = |text: &str| Zeroizing::new(text.to_owned());
    if !value.starts_with('[') {
        return Ok(value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(own).collect());
    }
    let parsed = DeValue::parse(value).ok();
    let items = parsed.as_ref().and_then(|parsed| parsed.get_ref().as_array());
    let texts: Option<Vec<_>> =
        items.and_then(|items| items.iter().map(|item| item.get_ref().as_str().map(own)).collect());
    texts.ok_or_else(|| r#"must be a list of strings, ["a", "b"] or a,b"#.to_owned())
}

pub(crate) fn parse_string(node: &ConfigNode) -> Result<Zeroizing<String>, String> {
    match &node.value {
        ConfigValue::Text(text) | ConfigValue::Untyped(text) => Ok(text.clone()),
        other => Err(format!("must be a string, not {}", other.type_name())),
    }
}

/// Parses a duration in whole seconds: `"90s"`, `"1h"`, `"24h"`.
pub(crate) fn parse_duration(node: &ConfigNode) -> Result<Duration, String> {
    parse_whole_seconds(&parse_string(node).map_err(|_| DURATION_EXPECTED.to_owned())?)
}

const DURATION_EXPECTED: &str = r#"must be a duration, for example "90s", "55m" or "24h""#;

/// Like [`parse_duration`], from text.
pub(crate) fn parse_whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| DURATION_EXPECTED.to_owned())?;
    if duration.subsec_nanos() == 0 { Ok(duration) } else { Err("must be whole seconds".to_owned()) }
}

/// Parses a duration that may be shorter than a second: `"50ms"`.
pub(crate) fn parse_subsecond_duration(node: &ConfigNode) -> Result<Duration, ()> {
    humantime::parse_duration(&parse_string(node).map_err(drop)?).map_err(drop)
}

/// Parses a number of bytes: `16384` or `"16 KiB"`.
pub(crate) fn parse_byte_count(node: &ConfigNode) -> Result<usize, String> {
    const SIZE_EXPECTED: &str = r#"must be a size, for example "16 KiB""#;
    if let ConfigValue::Integer(bytes) = node.value {
        return usize::try_from(bytes).map_err(|_| SIZE_EXPECTED.to_owned());
    }
    let text = parse_string(node).map_err(|_| SIZE_EXPECTED.to_owned())?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err(format!("{SIZE_EXPECTED}; units are B, KiB and MiB")),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| SIZE_EXPECTED.to_owned())
}

/// Parses `true` or `false`.
pub(crate) fn parse_bool(node: &ConfigNode) -> Result<bool, String> {
    match &node.value {
        ConfigValue::Boolean(flag) => Ok(*flag),
        ConfigValue::Untyped(text) => text.parse().map_err(|_| "must be true or false".to_owned()),
        _ => Err("must be true or false".to_owned()),
    }
}

pub(crate) fn parse_count(node: &ConfigNode) -> Result<usize, String> {
    const COUNT_EXPECTED: &str = "must be a whole number, at least 1";
    let number = match &node.value {
        ConfigValue::Integer(number) => usize::try_from(*number).ok(),
        ConfigValue::Untyped(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|number| *number > 0).ok_or_else(|| COUNT_EXPECTED.to_owned())
}
