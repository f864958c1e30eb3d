//! Reads the configuration's sources, a TOML file and environment variables, into one tree. Each value in the tree
//! has its origin. Other files of `config` give the settings their meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;

use serde::Serialize;
use toml::de::{DeTable, DeValue};
use zeroize::{Zeroize as _, Zeroizing};

use crate::files::{MAX_FILE_SIZE, OpenedFile};

/// The prefix of variables that override a setting; their names also contain `__`.
pub(crate) const OVERRIDE_PREFIX: &str = "TOKENMINT_";

/// The variable that names the configuration file if the command line doesn't.
pub(crate) const CONFIG_VARIABLE: &str = "TOKENMINT_CONFIG";

/// The process environment. It is passed in, so that tests needn't change the real one.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Names of variables that tokenmint would use, but whose name or value isn't UTF-8.
    unreadable: BTreeSet<String>,
}

impl Environment {
    pub const fn new() -> Self {
        Self { variables: BTreeMap::new(), unreadable: BTreeSet::new() }
    }

    /// Whether any variable overrides a setting.
    pub(crate) fn has_overrides(&self) -> bool {
        self.keys().chain(&self.unreadable).any(|variable| override_path(variable).is_some())
    }
}

impl Deref for Environment {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.variables
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect(), unreadable: BTreeSet::new() }
    }
}

/// Collects all variables. For those that aren't UTF-8, it keeps only the names that tokenmint would use, to report them.
/// It drops the others.
impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let mut environment = Self::new();
        for (name, value) in variables {
            let shown = name.to_string_lossy().into_owned();
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => _ = environment.variables.insert(name, value),
                _ if is_recognized_variable(&shown) => _ = environment.unreadable.insert(shown),
                _ => {}
            }
        }
        environment
    }
}

const IS_UTF16: &str = "it contains NUL characters, or is UTF-16 text: save it as UTF-8";

/// Reads a text file that may contain secrets. The buffer is zeroized when it is dropped.
pub(crate) fn read_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut bytes =
        OpenedFile::open(path).and_then(|file| file.read(MAX_FILE_SIZE)).map_err(io::Error::from)?;
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        let mut bytes = error.into_bytes();
        let is_utf16 = matches!(bytes.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
        bytes.zeroize();
        let message = if is_utf16 { IS_UTF16 } else { "it isn't UTF-8 text" };
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// The source of a problem with the whole configuration, or with a setting whose place isn't known.
pub(crate) const CONFIGURATION: &str = "the configuration";

/// The place where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueOrigin {
    File { name: String, line: usize },
    Variable(String),
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line } => write!(f, "{name} line {line}"),
            Self::Variable(name) => write!(f, "environment {name}"),
        }
    }
}

/// An error or a warning: its field, where the field was written, and what to do. It never contains a secret's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub field: String,
    pub source: String,
    pub message: String,
    /// Identifies a warning, independent of its message; `None` for an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<WarningCode>,
}

/// The subject of a warning. Programs and the doctor identify warnings by this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WarningCode {
    /// A caller may use no profile.
    AllowsNothing,
    /// The `audience` of an OAuth profile can't be one that Salesforce accepts.
    Audience,
    CallerCredential,
    CertificateDates,
    /// A certificate file has an unusual form or contains more than one certificate.
    CertificateForm,
    /// A certificate of the clients' authority isn't valid now.
    ClientAuthority,
    /// `consumer_key` doesn't have the form of a consumer key.
    ConsumerKey,
    EmergencyKey,
    IgnoredFile,
    IssuerSlash,
    /// A private key has an unusual form.
    KeyForm,
    ListenerCertificate,
    /// The certificate of the public listener doesn't name the host of `url`.
    ListenerHost,
    NoCaller,
    NoKeySigns,
    /// One key signs identity tokens and assertions.
    OneKeyForTwoKinds,
    PolicyAudit,
    PublishLead,
    RetiredWithoutDate,
    ScrtUrl,
    StateDirectory,
    /// A store doesn't answer, so the keys that it seals aren't open.
    StoreUnavailable,
    TokenUrl,
    UnlistedKey,
    UnreachableBundle,
    UnreadVariable,
    /// A private key of a sealed keyset lies in the clear.
    UnsealedKey,
    /// No caller refers to an issuer.
    UnusedIssuer,
    /// No keyset refers to a store.
    UnusedStore,
    /// A store signs identity tokens, so each page load waits for it.
    RemoteIdentity,
}

impl Problem {
    pub(crate) fn new(
        field: impl Into<String>,
        source: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), source: source.to_string(), message: message.into(), code: None }
    }

    pub(crate) fn warning(
        code: WarningCode,
        field: impl Into<String>,
        source: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self { code: Some(code), ..Self::new(field, source, message) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field.as_str(), self.source.as_str()) {
            ("", source) => write!(f, "{source}: {}", self.message),
            (field, source) => write!(f, "{field} ({source}): {}", self.message),
        }
    }
}

pub(crate) struct ConfigNode {
    pub(crate) origin: ValueOrigin,
    pub(crate) value: ConfigValue,
}

/// A value and its type. `Untyped` comes from the environment, where everything is text; the setting's parser
/// decides its type.
pub(crate) enum ConfigValue {
    Table(BTreeMap<String, ConfigNode>),
    List(Vec<ConfigNode>),
    Text(Zeroizing<String>),
    Untyped(Zeroizing<String>),
    Integer(i64),
    Boolean(bool),
    /// A decimal number, or an integer outside of `i64`, in decimal digits without a plus sign. `inf` and `nan` are possible.
    Float(String),
    Datetime(String),
}

impl ConfigValue {
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) | Self::Untyped(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::Float(_) => "a decimal number",
            Self::Datetime(_) => "a date",
        }
    }
}

/// Parses TOML. `name` is what messages call the file.
pub(crate) fn parse_toml(name: &str, text: &str) -> Result<ConfigNode, Vec<Problem>> {
    // UTF-16 without a byte order mark is valid UTF-8 if its characters are ASCII. Each NUL would be an error of its own.
    if text.contains('\0') {
        let message = format!("isn't TOML: {IS_UTF16}");
        return Err(vec![Problem::new("", name, message)]);
    }
    let lines = LineIndex::new(name, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let value = convert_table(table.get_ref(), &lines);
        return Ok(ConfigNode { origin: lines.origin(0), value });
    }
    // Only the parser's own message: its `Display` quotes the line, which may contain a secret.
    let problem = |error: &toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        Problem::new("", lines.origin(at), format!("isn't TOML: {}", error.message()))
    };
    Err(errors.iter().map(problem).collect())
}

/// Parses the valid parts of a text that may contain TOML errors.
pub(crate) fn parse_toml_lossy(name: &str, text: &str) -> ConfigNode {
    let lines = LineIndex::new(name, text);
    let (table, _) = DeTable::parse_recoverable(text);
    ConfigNode { origin: lines.origin(0), value: convert_table(table.get_ref(), &lines) }
}

/// Converts byte offsets to line numbers.
struct LineIndex<'a> {
    name: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    fn new(name: &'a str, text: &str) -> Self {
        Self { name, starts: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    fn origin(&self, offset: usize) -> ValueOrigin {
        let line = self.starts.partition_point(|&end| end < offset) + 1;
        ValueOrigin::File { name: self.name.to_owned(), line }
    }
}

fn convert_table(table: &DeTable<'_>, lines: &LineIndex<'_>) -> ConfigValue {
    let entry = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| {
        let node = ConfigNode {
            origin: lines.origin(key.span().start),
            value: convert_value(value.get_ref(), lines),
        };
        (key.get_ref().to_string(), node)
    };
    ConfigValue::Table(table.iter().map(entry).collect())
}

fn convert_value(value: &DeValue<'_>, lines: &LineIndex<'_>) -> ConfigValue {
    match value {
        DeValue::String(text) => ConfigValue::Text(Zeroizing::new(text.to_string())),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
            .map_or_else(|_| large_integer(digits.as_str(), digits.radix()), ConfigValue::Integer),
        DeValue::Float(digits) => ConfigValue::Float(without_plus(digits.as_str())),
        DeValue::Boolean(flag) => ConfigValue::Boolean(*flag),
        DeValue::Datetime(moment) => ConfigValue::Datetime(moment.to_string()),
        DeValue::Array(items) => ConfigValue::List(
            items
                .iter()
                .map(|item| ConfigNode {
                    origin: lines.origin(item.span().start),
                    value: convert_value(item.get_ref(), lines),
                })
                .collect(),
        ),
        DeValue::Table(table) => convert_table(table, lines),
    }
}

/// Converts an integer outside of `i64`. TOML's other bases than ten have no sign.
fn large_integer(digits: &str, radix: u32) -> ConfigValue {
    let decimal = match radix {
        10 => Some(without_plus(digits)),
        _ => u128::from_str_radix(digits, radix).ok().map(|number| number.to_string()),
    };
    ConfigValue::Float(decimal.unwrap_or_else(|| "inf".to_owned()))
}

fn without_plus(digits: &str) -> String {
    digits.strip_prefix('+').unwrap_or(digits).to_owned()
}

/// Applies the overrides of the environment to the tree.
///
/// A segment matches an existing key regardless of case, and `_` matches `-`. A segment without a match becomes a
/// new key in lower case.
pub(crate) fn apply_environment(
    root: &mut ConfigNode,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) {
    for variable in &environment.unreadable {
        let field = override_path(variable).unwrap_or_default().join(".").to_lowercase();
        problems.push(Problem::new(field, ValueOrigin::Variable(variable.clone()), "isn't UTF-8 text"));
    }
    let mut named: BTreeMap<String, &str> = BTreeMap::new();
    for (variable, text) in &**environment {
        let Some(path) = override_path(variable) else { continue };
        if let Some(other) = named.insert(normalize_case(variable), variable) {
            let field = path.join(".").to_lowercase();
            let message = format!("sets the same value as {other}: remove one of them");
            problems.push(Problem::new(field, ValueOrigin::Variable(variable.clone()), message));
            continue;
        }
        if let Err(message) = set_override(root, &path, variable, text) {
            let field = path.join(".").to_lowercase();
            problems.push(Problem::new(field, ValueOrigin::Variable(variable.clone()), message));
        }
    }
}

/// Whether the variable is an override or is used in another way.
fn is_recognized_variable(variable: &str) -> bool {
    override_path(variable).is_some() || is_non_setting_variable(variable)
}

/// Whether the variable is used but doesn't override a setting.
pub(crate) fn is_non_setting_variable(variable: &str) -> bool {
    [CONFIG_VARIABLE, "RUST_LOG"].contains(&variable) || variable.starts_with("OTEL_")
}

/// Splits the name of an override into its levels. A name without `__` is no override: Kubernetes sets variables
/// like `TOKENMINT_SERVICE_HOST` for a service of this name.
pub(crate) fn override_path(variable: &str) -> Option<Vec<&str>> {
    let path = variable.strip_prefix(OVERRIDE_PREFIX)?;
    path.contains("__").then(|| path.split("__").collect())
}

fn set_override(root: &mut ConfigNode, path: &[&str], variable: &str, text: &str) -> Result<(), String> {
    let mut node = root;
    for segment in path {
        if segment.is_empty() {
            return Err("a level is empty: write TOKENMINT_SECTION__NAME__FIELD".to_owned());
        }
        let ConfigValue::Table(table) = &mut node.value else {
            return Err("overrides part of a value that isn't a table".to_owned());
        };
        let same: Vec<String> =
            table.keys().filter(|key| names_same_setting(key, segment)).cloned().collect();
        let key = match same.as_slice() {
            [] => segment.to_ascii_lowercase(),
            [one] => one.clone(),
            [one, two, ..] => {
                return Err(format!("could mean both `{one}` and `{two}`; set it in the file instead"));
            }
        };
        node = table.entry(key).or_insert_with(|| ConfigNode {
            origin: ValueOrigin::Variable(variable.to_owned()),
            value: ConfigValue::Table(BTreeMap::new()),
        });
    }
    if let ConfigValue::Table(table) = &node.value
        && !table.is_empty()
    {
        return Err("is a section: name one of its fields after another `__`".to_owned());
    }
    *node = ConfigNode {
        origin: ValueOrigin::Variable(variable.to_owned()),
        value: ConfigValue::Untyped(Zeroizing::new(text.to_owned())),
    };
    Ok(())
}

fn names_same_setting(key: &str, segment: &str) -> bool {
    normalize_case(key) == normalize_case(segment)
}

/// Normalizes a name, so that spellings of the same setting compare equal.
fn normalize_case(name: &str) -> String {
    name.replace('-', "_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_names_the_line_without_quoting_it() {
        let text = "[intercom.fin]\nsecret = \"hush-hush\n";
        let problems = parse_toml("tokenmint.toml", text).err().expect("broken");
        assert_eq!(problems[0].source, "tokenmint.toml line 2");
        assert!(!problems[0].to_string().contains("hush"));
    }

    #[test]
    fn variables_set_by_kubernetes_are_not_overrides() {
        assert_eq!(override_path("TOKENMINT_SERVICE_HOST"), None);
        assert_eq!(override_path("TOKENMINT_SERVER__LISTEN"), Some(vec!["SERVER", "LISTEN"]));
    }
}
