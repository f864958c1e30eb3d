//! [`Diagnostics`]: the problems, warnings and unknown keys that are found while the configuration is read.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::source::{ConfigNode, ConfigValue, Problem, ValueOrigin, WarningCode};

/// The problems and warnings found while reading the configuration.
pub(crate) struct Diagnostics {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Secret files that were read, or that could not be read.
    pub(super) files: RefCell<Vec<PathBuf>>,
    /// The keys that were requested in each table, by the table's path. `None` allows any key, for example in `[callers]`, whose
    /// keys are the callers' names.
    pub(super) requested_keys: RefCell<BTreeMap<String, Option<BTreeSet<&'static str>>>>,
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

    /// Reports each unknown key in the tables that were read. A key is known if it was requested, so this must be called after
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

    pub(crate) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    pub(crate) fn add(&self, problems: Vec<Problem>) {
        self.problems.borrow_mut().extend(problems);
    }

    /// Returns the problems, the warnings, and the files.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Vec<PathBuf>) {
        (self.problems.into_inner(), self.warnings.into_inner(), self.files.into_inner())
    }
}

pub(super) fn join_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Suggests a known key for an unknown one. If none is similar, lists them all.
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
