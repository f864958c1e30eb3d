//! Records where settings were written (file and line, or variable), and their values if messages may show them. Messages about a later
//! change need both.

use std::collections::BTreeMap;

use super::source::{ConfigNode, ConfigValue, ValueOrigin};

/// The sections whose settings can be in a message about a change.
const SECTIONS: &[&str] = &["server", "cache", "keysets", "identity"];

/// The places of the settings, by field.
pub(crate) struct WrittenSettings {
    /// The name of the configuration file.
    name: String,
    settings: BTreeMap<String, WrittenSetting>,
}

struct WrittenSetting {
    origin: ValueOrigin,
    /// `None` if the value may be a secret or a path.
    text: Option<String>,
}

impl WrittenSettings {
    /// Collects the settings of `root`, whose values are valid. `name` is the configuration file's.
    pub(crate) fn of(name: &str, root: &ConfigNode) -> Self {
        let mut written = Self { name: name.to_owned(), settings: BTreeMap::new() };
        if let ConfigValue::Table(sections) = &root.value {
            for (section, node) in sections.iter().filter(|(name, _)| SECTIONS.contains(&name.as_str())) {
                written.add(section, node);
            }
        }
        written
    }

    fn add(&mut self, field: &str, node: &ConfigNode) {
        let text = shown_text(field, &node.value);
        self.settings.insert(field.to_owned(), WrittenSetting { origin: node.origin.clone(), text });
        if let ConfigValue::Table(table) = &node.value {
            for (name, node) in table {
                self.add(&format!("{field}.{name}"), node);
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where `field` is written.
    pub(crate) fn origin(&self, field: &str) -> Option<&ValueOrigin> {
        self.settings.get(field).map(|setting| &setting.origin)
    }

    /// Where `field` is written, or else its section, or else the name of the file.
    pub(crate) fn source(&self, field: &str) -> String {
        let mut sections = std::iter::successors(Some(field), |field| Some(field.rsplit_once('.')?.0));
        let origin = sections.find_map(|field| self.origin(field));
        origin.map_or_else(|| self.name.clone(), ToString::to_string)
    }

    /// The value of `field`, or "the default". `None` if it may not be shown.
    pub(crate) fn value(&self, field: &str) -> Option<&str> {
        match self.settings.get(field) {
            Some(setting) => setting.text.as_deref(),
            None => is_shown(field).then_some("the default"),
        }
    }
}

/// Whether the valid values of `field` can be neither a secret nor a path. An address may be the path of a socket.
fn is_shown(field: &str) -> bool {
    field.starts_with("server.limits.")
        || [
            "server.listen",
            "server.public.listen",
            "server.ops.listen",
            "server.audit",
            "server.signing.batch",
        ]
        .contains(&field)
}

fn shown_text(field: &str, value: &ConfigValue) -> Option<String> {
    let text = match value {
        ConfigValue::Text(text) | ConfigValue::Untyped(text) => text.to_string(),
        ConfigValue::Integer(number) => number.to_string(),
        _ => return None,
    };
    (is_shown(field) && !text.starts_with("unix:")).then_some(text)
}
