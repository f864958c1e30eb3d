//! Reads one table of the configuration field by field, notes all that is wrong with it, and lets nothing
//! pass that nobody asked for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use toml::de::DeValue;
use zeroize::Zeroizing;

use super::source::{Node, Origin, Problem, Value};

/// What was read along the way: everything that is wrong, and what is allowed but unwise.
pub(crate) struct Findings {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Files that were looked into, whether they could be read or not.
    files: RefCell<Vec<PathBuf>>,
    /// Relative paths start here: the folder of the configuration file.
    pub base: PathBuf,
}

impl Findings {
    pub const fn new(base: PathBuf) -> Self {
        Self {
            problems: RefCell::new(Vec::new()),
            warnings: RefCell::new(Vec::new()),
            files: RefCell::new(Vec::new()),
            base,
        }
    }

    pub fn problem(&self, field: impl Into<String>, origin: &Origin, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem::new(field, origin, message));
    }

    pub fn warn(&self, field: impl Into<String>, origin: &Origin, message: impl Into<String>) {
        self.warnings.borrow_mut().push(Problem::new(field, origin, message));
    }

    pub fn add(&self, problems: Vec<Problem>) {
        self.problems.borrow_mut().extend(problems);
    }

    /// Problems, warnings, and the files that were looked into.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Vec<PathBuf>) {
        (self.problems.into_inner(), self.warnings.into_inner(), self.files.into_inner())
    }
}

/// A parser of one value. Its message says what the value should be and never repeats it.
pub(crate) type Parse<T> = fn(&Node) -> Result<T, String>;

pub(crate) struct Section<'a> {
    path: String,
    origin: Origin,
    table: &'a BTreeMap<String, Node>,
    asked: RefCell<BTreeSet<&'static str>>,
    /// Names of its own choosing, as in `[callers.NAME]`: no key is unknown.
    open: Cell<bool>,
    findings: &'a Findings,
}

impl<'a> Section<'a> {
    /// `None`, and a problem, where `node` isn't a table.
    pub fn of(path: &str, node: &'a Node, findings: &'a Findings) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            findings.problem(path, &node.origin, format!("must be a table, `[{path}]`"));
            return None;
        };
        Some(Self {
            path: path.to_owned(),
            origin: node.origin.clone(),
            table,
            asked: RefCell::default(),
            open: Cell::new(false),
            findings,
        })
    }

    pub const fn findings(&self) -> &'a Findings {
        self.findings
    }

    pub fn field(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn origin_of(&self, name: &str) -> Origin {
        self.table.get(name).map_or_else(|| self.origin.clone(), |node| node.origin.clone())
    }

    pub fn problem(&self, name: &str, message: impl Into<String>) {
        self.findings.problem(self.field(name), &self.origin_of(name), message);
    }

    pub fn warn(&self, name: &str, message: impl Into<String>) {
        self.findings.warn(self.field(name), &self.origin_of(name), message);
    }

    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    fn node(&self, name: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().insert(name);
        self.table.get(name)
    }

    /// The value, or `None` where it is absent or wrong; wrong is noted.
    pub fn optional<T>(&self, name: &'static str, parse: Parse<T>) -> Option<T> {
        let node = self.node(name)?;
        parse(node).map_err(|message| self.problem(name, message)).ok()
    }

    /// As `optional`; absent is noted too.
    pub fn required<T>(&self, name: &'static str, parse: Parse<T>, what: &str) -> Option<T> {
        if self.node(name).is_none() {
            self.problem(name, format!("is missing: {what}"));
        }
        self.optional(name, parse)
    }

    /// A list, from `["a", "b"]` or, in the environment, `a,b`. Each wrong entry is noted at its own line.
    pub fn list<T>(&self, name: &'static str, parse: fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(node) = self.node(name) else { return Vec::new() };
        let parse_item = |origin: &Origin, text: &str| {
            parse(text).map_err(|message| self.findings.problem(self.field(name), origin, message)).ok()
        };
        match &node.value {
            Value::List(items) => items
                .iter()
                .filter_map(|item| {
                    text(item)
                        .map_err(|message| self.findings.problem(self.field(name), &item.origin, message))
                        .ok()
                        .and_then(|value| parse_item(&item.origin, &value))
                })
                .collect(),
            Value::Untyped(value) => {
                untyped_list(value).iter().filter_map(|item| parse_item(&node.origin, item)).collect()
            }
            other => {
                self.problem(name, format!("must be a list of strings, not {}", other.type_name()));
                Vec::new()
            }
        }
    }

    /// A path, made absolute from the folder of the configuration file.
    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        let written = self.optional(name, text)?;
        if written.is_empty() {
            self.problem(name, "must not be empty: give a path");
            return None;
        }
        Some(self.findings.base.join(written.as_str()))
    }

    /// A secret given as `name` or, in a file, as `name_file`; both at once is wrong. One trailing newline of
    /// the file is not part of the secret.
    pub fn secret(&self, name: &'static str, name_file: &'static str) -> Option<SecretString> {
        let inline = self.optional(name, text);
        let file = self.path(name_file);
        if self.has(name) && self.has(name_file) {
            self.problem(name, format!("is given twice: remove `{name}` or `{name_file}`"));
            return None;
        }
        let secret = match file {
            None => inline?,
            Some(path) => {
                let content = read_secret(&path, &self.findings.base);
                self.findings.files.borrow_mut().push(path);
                content.map_err(|message| self.problem(name_file, message)).ok()?
            }
        };
        if secret.is_empty() {
            self.problem(if self.has(name) { name } else { name_file }, "is empty");
            return None;
        }
        Some(SecretString::from(secret.as_str()))
    }

    /// A table inside this one.
    pub fn section(&self, name: &'static str) -> Option<Self> {
        Section::of(&self.field(name), self.node(name)?, self.findings)
    }

    /// The tables inside this one, whose names their writer chose.
    pub fn sections(&self) -> Vec<(&'a str, Self)> {
        self.open.set(true);
        self.table
            .iter()
            .filter_map(|(name, node)| {
                Section::of(&self.field(name), node, self.findings).map(|section| (name.as_str(), section))
            })
            .collect()
    }

    /// The entries of this table, whose names their writer chose.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Node)> {
        self.open.set(true);
        self.table.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// The list of tables under `name`, as in `[[key]]`.
    pub fn tables(&self, name: &'static str) -> Vec<Self> {
        match self.node(name).map(|node| &node.value) {
            None => Vec::new(),
            Some(Value::List(items)) => {
                items.iter().filter_map(|item| Section::of(&self.field(name), item, self.findings)).collect()
            }
            Some(_) => {
                self.problem(name, format!("must be written as [[{name}]]"));
                Vec::new()
            }
        }
    }
}

/// A field that nobody asked for is a mistake: in the name, or in the place.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        if self.open.get() {
            return;
        }
        let asked = self.asked.borrow();
        for (name, node) in self.table {
            if asked.contains(name.as_str()) {
                continue;
            }
            let near = asked
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, name), known))
                .filter(|(distance, _)| *distance <= 2)
                .min();
            let hint = match near {
                Some((_, known)) => format!("; did you mean `{known}`?"),
                None => format!("; known here: {}", asked.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.findings.problem(self.field(name), &node.origin, format!("unknown key{hint}"));
        }
    }
}

/// Whether what should name a file looks like what the file should hold: long, and with no mark of a name or path.
fn may_be_a_secret(written: &Path) -> bool {
    let text = written.to_string_lossy();
    written.is_relative() && text.len() >= 20 && !text.contains('.')
}

fn read_secret(path: &Path, base: &Path) -> Result<Zeroizing<String>, String> {
    let mut content = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        if may_be_a_secret(path.strip_prefix(base).unwrap_or(path)) {
            return format!(
                "names no file that can be read ({error}), and isn't shown, as it may be the secret itself: that goes into a file"
            );
        }
        format!("can't read {}: {error}", path.display())
    })?;
    if content.ends_with('\n') {
        content.pop();
        if content.ends_with('\r') {
            content.pop();
        }
    }
    Ok(content)
}

/// `["a", "b"]` or `a,b`.
fn untyped_list(value: &str) -> Vec<String> {
    if let Ok(parsed) = DeValue::parse(value)
        && let DeValue::Array(items) = parsed.get_ref()
    {
        return items.iter().filter_map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
    }
    value.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

pub(crate) fn text(node: &Node) -> Result<Zeroizing<String>, String> {
    match &node.value {
        Value::Text(text) | Value::Untyped(text) => Ok(text.clone()),
        other => Err(format!("must be a string, not {}", other.type_name())),
    }
}

/// `"90s"`, `"1h"`, `"24h"`; whole seconds.
pub(crate) fn duration(node: &Node) -> Result<Duration, String> {
    let duration =
        brief_duration(node).map_err(|()| r#"must be a duration, as "90s", "55m" or "24h""#.to_owned())?;
    if duration.subsec_nanos() == 0 { Ok(duration) } else { Err("must be whole seconds".to_owned()) }
}

/// `"50ms"` too.
pub(crate) fn brief_duration(node: &Node) -> Result<Duration, ()> {
    humantime::parse_duration(&text(node).map_err(drop)?).map_err(drop)
}

/// `16384` or `"16 KiB"`.
pub(crate) fn byte_count(node: &Node) -> Result<usize, String> {
    const FORM: &str = r#"must be a size, as "16 KiB""#;
    if let Value::Integer(bytes) = node.value {
        return usize::try_from(bytes).map_err(|_| FORM.to_owned());
    }
    let text = text(node).map_err(|_| FORM.to_owned())?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err(format!("{FORM}; units are B, KiB and MiB")),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| FORM.to_owned())
}

pub(crate) fn count(node: &Node) -> Result<usize, String> {
    const FORM: &str = "must be a whole number, at least 1";
    let number = match &node.value {
        Value::Integer(number) => usize::try_from(*number).ok(),
        Value::Untyped(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|number| *number > 0).ok_or_else(|| FORM.to_owned())
}
