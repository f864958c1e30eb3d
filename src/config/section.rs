//! Reads one table of the configuration field by field. It collects all problems, and unknown keys are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::diagnostics::{Diagnostics, join_path};
use super::path::UnverifiedPath;
use super::schema::{KeySchema, Presence, TableSchema, ValueKind};
use super::source::{ConfigNode, ConfigValue, ValueOrigin, WarningCode, read_file};
use super::values::{parse_string, paste_artifact, split_untyped_list};

/// A parser of one value. Its error says what the value must be and never repeats the value.
pub(crate) trait ParseFn<T>: Fn(&ConfigNode) -> Result<T, String> {}

impl<T, F: Fn(&ConfigNode) -> Result<T, String>> ParseFn<T> for F {}

/// The table of a section that isn't in the file.
static NO_KEYS: BTreeMap<String, ConfigNode> = BTreeMap::new();

pub(crate) struct Section<'a> {
    path: String,
    origin: ValueOrigin,
    table: &'a BTreeMap<String, ConfigNode>,
    schema: &'static TableSchema,
    diagnostics: &'a Diagnostics,
}

impl<'a> Section<'a> {
    /// Returns `None` and reports a problem if `node` isn't a table.
    pub(crate) fn from_node(
        path: &str,
        node: &'a ConfigNode,
        schema: &'static TableSchema,
        diagnostics: &'a Diagnostics,
    ) -> Option<Self> {
        let ConfigValue::Table(table) = &node.value else {
            diagnostics.problem(path, &node.origin, format!("must be a table, `[{path}]`"));
            return None;
        };
        Some(Self { path: path.to_owned(), origin: node.origin.clone(), table, schema, diagnostics })
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

    /// Whether the value is an empty list, or blank text from the environment.
    pub(crate) fn is_empty_list(&self, name: &str) -> bool {
        match self.table.get(name).map(|node| &node.value) {
            Some(ConfigValue::List(items)) => items.is_empty(),
            Some(ConfigValue::Untyped(text)) => text.trim().is_empty(),
            _ => false,
        }
    }

    /// Returns the key's schema. A key without one can't be read.
    fn key(&self, name: &str) -> Option<&'static KeySchema> {
        let key = self.schema.key(name);
        debug_assert!(key.is_some(), "the schema of [{}] has no key `{name}`", self.path);
        key
    }

    fn node(&self, name: &'static str) -> Option<&'a ConfigNode> {
        self.key(name)?;
        let mut requested_keys = self.diagnostics.requested_keys.borrow_mut();
        if let Some(known) = requested_keys.entry(self.path.clone()).or_insert_with(|| Some(BTreeSet::new()))
        {
            known.insert(name);
        }
        self.table.get(name)
    }

    /// Keeps a key that isn't read here from being reported as unknown.
    pub(crate) fn accept(&self, name: &'static str) {
        self.node(name);
    }

    /// Allows any key in this table.
    fn allow_any_key(&self) {
        self.diagnostics.requested_keys.borrow_mut().insert(self.path.clone(), None);
    }

    /// Returns the parsed value; `None` if it is absent or invalid. An invalid value is reported.
    pub(crate) fn optional<T>(&self, name: &'static str, parse: impl ParseFn<T>) -> Option<T> {
        let node = self.node(name)?;
        let leftover = match &node.value {
            ConfigValue::Text(text) | ConfigValue::Untyped(text) => paste_artifact(name, text),
            _ => None,
        };
        let parsed = leftover.map_or_else(|| parse(node), Err);
        parsed.map_err(|message| self.problem(name, adapt_example(node, message))).ok()
    }

    /// Like [`optional`](Self::optional), but an absent value is reported too.
    pub(crate) fn required<T>(&self, name: &'static str, parse: impl ParseFn<T>, what: &str) -> Option<T> {
        if self.node(name).is_none() {
            self.problem(name, format!("is missing: {what}"));
        }
        self.optional(name, parse)
    }

    /// Returns the parsed value; the default of the schema if it is absent or invalid. An invalid value is reported.
    pub(crate) fn or_default<T>(&self, name: &'static str, parse: impl ParseFn<T>) -> T {
        let default = || match self.key(name) {
            Some(KeySchema { presence: Presence::Default(written), .. }) => {
                let text = Zeroizing::new(written.trim_matches('"').to_owned());
                parse(&ConfigNode { origin: self.origin.clone(), value: ConfigValue::Untyped(text) })
            }
            _ => Err("has no default".to_owned()),
        };
        self.optional(name, &parse)
            .unwrap_or_else(|| default().expect("each default is valid: a test reads all"))
    }

    fn kind(&self, name: &str) -> &'static ValueKind {
        self.key(name).map_or(&ValueKind::Flag, |key| &key.kind)
    }

    /// Returns a duration within the bounds of the schema.
    pub(crate) fn duration(&self, name: &'static str) -> Option<Duration> {
        self.optional(name, |node: &ConfigNode| self.parse_duration(name, node))
    }

    /// Like [`duration`](Self::duration), with the default of the schema.
    pub(crate) fn duration_or_default(&self, name: &'static str) -> Duration {
        self.or_default(name, |node: &ConfigNode| self.parse_duration(name, node))
    }

    fn parse_duration(&self, name: &str, node: &ConfigNode) -> Result<Duration, String> {
        let key = self.key(name).ok_or("has no schema")?;
        let Presence::Default(example) = key.presence else { return key.kind.parse_duration(node, "\"1h\"") };
        key.kind.parse_duration(node, example)
    }

    /// Returns a number within the bounds of the schema.
    pub(crate) fn count(&self, name: &'static str) -> Option<usize> {
        self.optional(name, |node: &ConfigNode| self.kind(name).parse_count(node))
    }

    /// Like [`count`](Self::count), with the default of the schema.
    pub(crate) fn count_or_default(&self, name: &'static str) -> usize {
        self.or_default(name, |node: &ConfigNode| self.kind(name).parse_count(node))
    }

    /// Returns a number of bytes within the bounds of the schema, by default the default of the schema.
    pub(crate) fn size_or_default(&self, name: &'static str) -> usize {
        self.or_default(name, |node: &ConfigNode| self.kind(name).parse_size(node))
    }

    /// Returns one of the choices of the schema, by default the default of the schema. The message about another text ends with
    /// `reason`.
    pub(crate) fn choice_or_default(&self, name: &'static str, reason: &str) -> &'static str {
        self.or_default(name, |node: &ConfigNode| self.kind(name).parse_choice(node, reason))
    }

    /// Returns one of the choices of the schema; `None` if it is absent or invalid. An invalid value is reported.
    pub(crate) fn choice(&self, name: &'static str) -> Option<&'static str> {
        self.optional(name, |node: &ConfigNode| self.kind(name).parse_choice(node, ""))
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

    /// Parses each entry of a list like [`list`](Self::list), for an entry of this table with a user-chosen name.
    pub(crate) fn list_of<T>(
        &self,
        name: &str,
        node: &ConfigNode,
        parse: fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.items_of(name, node, parse).into_iter().map(|(_, item)| item).collect()
    }

    fn items<T>(&self, name: &'static str, parse: fn(&str) -> Result<T, String>) -> Vec<(ValueOrigin, T)> {
        self.node(name).map(|node| self.items_of(name, node, parse)).unwrap_or_default()
    }

    fn items_of<T>(
        &self,
        name: &str,
        node: &ConfigNode,
        parse: fn(&str) -> Result<T, String>,
    ) -> Vec<(ValueOrigin, T)> {
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
                let message =
                    format!("must be a list of strings, like [\"a\", \"b\"], not {}", other.type_name());
                self.problem(name, message);
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
        if let ConfigValue::Text(text) | ConfigValue::Untyped(text) = &self.node(name)?.value
            && text.contains("-----BEGIN ")
        {
            let inline = name.strip_suffix("_file").filter(|inline| self.schema.key(inline).is_some());
            let advice = inline.map(|inline| format!(", or set `{inline}`")).unwrap_or_default();
            self.problem(name, format!("holds PEM text instead of a path: name its file{advice}"));
            return None;
        }
        let written = self.optional(name, parse_string)?;
        if written.is_empty() {
            self.problem(name, "must not be empty: give a path");
            return None;
        }
        let path = UnverifiedPath::new(self.diagnostics.base.join(written.as_str()), &self.origin_of(name));
        if written.starts_with(['~', '$']) && !path.exists() {
            self.problem(name, "begins with `~` or `$`, which tokenmint doesn't expand: write the path out");
            return None;
        }
        Some(path)
    }

    /// Returns PEM text without checking it for stray characters: the PEM parser handles text around the block.
    pub(crate) fn pem(&self, name: &'static str) -> Option<SecretString> {
        let pem = parse_string(self.node(name)?).map_err(|message| self.problem(name, message)).ok()?;
        let may_be_path = !pem.is_empty() && !pem.contains('\n');
        if may_be_path && self.diagnostics.base.join(pem.as_str()).is_file() {
            self.problem(name, format!("holds the path of a file instead of PEM text: set `{name}_file`"));
            return None;
        }
        Some(SecretString::from(pem.as_str()))
    }

    /// Returns a secret given as `name`, or in a file as `name_file`. Giving both is an error. One trailing newline
    /// of the file is removed.
    pub(crate) fn secret(&self, name: &'static str, name_file: &'static str) -> Option<SecretString> {
        let inline = self.optional(name, parse_string);
        let is_in_file = self.node(name_file).is_some();
        if self.has(name) && is_in_file {
            self.problem(name, format!("is given twice: remove `{name}` or `{name_file}`"));
            return None;
        }
        if is_in_file { self.secret_from_file(name_file) } else { self.non_empty_secret(name, &inline?) }
    }

    /// Returns the secret in the file that `name_file` names. One trailing newline of the file is removed.
    pub(crate) fn secret_from_file(&self, name_file: &'static str) -> Option<SecretString> {
        let path = self.path(name_file)?;
        let content = read_secret_file(name_file.trim_end_matches("_file"), &path);
        self.diagnostics.files.borrow_mut().push(path.as_path().to_path_buf());
        let secret = content.map_err(|message| self.problem(name_file, message)).ok()?;
        self.non_empty_secret(name_file, &secret)
    }

    fn non_empty_secret(&self, name: &str, secret: &str) -> Option<SecretString> {
        if secret.is_empty() {
            self.problem(name, "is empty");
            return None;
        }
        Some(SecretString::from(secret))
    }

    /// Returns a table inside this one.
    pub(crate) fn section(&self, name: &'static str) -> Option<Self> {
        Section::from_node(&self.field(name), self.node(name)?, self.inner_schema(name)?, self.diagnostics)
    }

    /// Like [`section`](Self::section), but returns an empty section if the table is absent.
    pub(crate) fn section_or_empty(&self, name: &'static str) -> Option<Self> {
        if self.node(name).is_some() {
            return self.section(name);
        }
        let (origin, schema) = (self.origin.clone(), self.inner_schema(name)?);
        Some(Section {
            path: self.field(name),
            origin,
            table: &NO_KEYS,
            schema,
            diagnostics: self.diagnostics,
        })
    }

    /// Returns the schema of the table `name` inside this one.
    fn inner_schema(&self, name: &str) -> Option<&'static TableSchema> {
        match self.key(name)?.kind {
            ValueKind::Table(schema) | ValueKind::Tables(schema) => Some(schema),
            _ => None,
        }
    }

    /// Returns the tables inside this one, which have user-chosen names.
    pub(crate) fn sections(&self) -> Vec<(&'a str, Self)> {
        self.allow_any_key();
        let Some(KeySchema { kind: ValueKind::Table(schema), .. }) = self.schema.named else {
            debug_assert!(false, "[{}] has no named tables in its schema", self.path);
            return Vec::new();
        };
        self.table
            .iter()
            .filter_map(|(name, node)| {
                Section::from_node(&self.field(name), node, schema, self.diagnostics)
                    .map(|section| (name.as_str(), section))
            })
            .collect()
    }

    /// Returns the entries of this table, which have user-chosen names.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a ConfigNode)> {
        debug_assert!(self.schema.named.is_some(), "[{}] has no named entries in its schema", self.path);
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
        let Some(schema) = self.inner_schema(name) else { return Vec::new() };
        match self.node(name).map(|node| &node.value) {
            None => Vec::new(),
            Some(ConfigValue::List(items)) => items
                .iter()
                .filter_map(|item| Section::from_node(&self.field(name), item, schema, self.diagnostics))
                .collect(),
            Some(_) => {
                self.problem(name, format!("must be written as [[{name}]]"));
                Vec::new()
            }
        }
    }
}

/// Removes the quotes of the examples in a message about a value from the environment, where quotes would be part of the value.
/// The quotes of the items of a list stay.
fn adapt_example(node: &ConfigNode, message: String) -> String {
    match node.value {
        ConfigValue::Untyped(_) if !message.contains("[\"") => message.replace('"', ""),
        _ => message,
    }
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
