//! The JSON Schema of `tokenmint.toml` (draft 2020-12), for editors and CI.

use serde_json::{Map, Value, json};

use super::{KeySchema, NO_LIMIT, Presence, ROOT, Rule, TableSchema, TextForm, ValueKind};

/// A duration in the syntax of the `humantime` crate: numbers with units.
const DURATION: &str = "^\\s*([0-9]+(\\.[0-9]+)?\\s*(nanos|nsec|ns|usec|us|\u{b5}s|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|\
    hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y)\\s*)+$";
const SIZE: &str = "^[0-9]+\\s*(B|KiB|MiB)?$";
/// The highest user id; the kernel reserves the next one.
const HIGHEST_USER_ID: u32 = u32::MAX - 1;

/// Builds the schema of a complete file, without overrides from the environment.
///
/// It can't express everything that the parser checks, for example the bounds of durations and references to names.
pub(crate) fn json_schema() -> Value {
    let Value::Object(mut schema) = table(&ROOT) else { return Value::Null };
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("tokenmint.toml"));
    Value::Object(schema)
}

fn table(table: &TableSchema) -> Value {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("description".to_owned(), json!(without_links(table.about)));
    if let Some(named) = table.named {
        schema.insert("propertyNames".to_owned(), json!({ "pattern": table.names.pattern }));
        schema.insert("additionalProperties".to_owned(), key(named));
        if matches!(named.presence, Presence::Conditional(_)) {
            schema.insert("minProperties".to_owned(), json!(1));
        }
        return Value::Object(schema);
    }
    let properties = table.keys.iter().map(|entry| (entry.name.to_owned(), key(entry)));
    schema.insert("properties".to_owned(), properties.collect());
    schema.insert("additionalProperties".to_owned(), json!(false));
    let required = table.keys.iter().filter(|key| matches!(key.presence, Presence::Required));
    let required: Vec<&str> = required.map(|key| key.name).collect();
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    if !table.rules.is_empty() {
        schema.insert("allOf".to_owned(), table.rules.iter().map(rule).collect());
    }
    Value::Object(schema)
}

fn key(key: &KeySchema) -> Value {
    let mut schema = match &key.kind {
        ValueKind::Table(inner) => return table(inner),
        ValueKind::Tables(inner) => json!({ "type": "array", "items": table(inner) }),
        ValueKind::Text(form) => text(*form),
        ValueKind::List(form) => json!({ "type": "array", "items": text(*form) }),
        ValueKind::Choice(choices) => json!({ "enum": choices }),
        ValueKind::Duration { .. } => json!({ "type": "string", "pattern": DURATION }),
        ValueKind::Size { min, max, .. } => {
            let mut number = json!({ "type": "integer", "minimum": min });
            if let Some(max) = max {
                number["maximum"] = json!(max);
            }
            json!({ "anyOf": [number, { "type": "string", "pattern": SIZE }] })
        }
        ValueKind::Count { max, .. } => {
            let mut number = json!({ "type": "integer", "minimum": 1 });
            if let Some(max) = max {
                number["maximum"] = json!(max);
            }
            number
        }
        ValueKind::UserId => json!({ "type": "integer", "minimum": 0, "maximum": HIGHEST_USER_ID }),
        ValueKind::Flag => json!({ "type": "boolean" }),
        ValueKind::Moment => json!({ "type": "string", "format": "date-time" }),
        // Any value. Dates in TOML have no type of their own in JSON.
        ValueKind::ClaimValue => json!({}),
    };
    schema["description"] = json!(without_links(key.meaning));
    if let Presence::Default(written) = key.presence {
        // These TOML values are written like JSON.
        schema["default"] = serde_json::from_str(written).unwrap_or(Value::Null);
    }
    schema
}

fn text(form: TextForm) -> Value {
    let mut schema = json!({ "type": "string" });
    if !form.pattern.is_empty() {
        schema["pattern"] = json!(form.pattern);
    }
    if form.longest < NO_LIMIT {
        schema["maxLength"] = json!(form.longest);
    }
    schema
}

fn rule(rule: &Rule) -> Value {
    let each =
        |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({ "required": [name] })).collect() };
    match rule {
        Rule::ExactlyOne(names) => json!({ "oneOf": each(names) }),
        Rule::AtLeastOne(names) => json!({ "anyOf": each(names) }),
        Rule::AtMostOne(names) => json!({ "not": { "required": names } }),
        Rule::Needs(one, other) => json!({ "dependentRequired": { (*one): [other] } }),
        Rule::Excludes(one, other) => json!({ "not": { "required": [one, other] } }),
    }
}

/// Replaces the links of Markdown by their text.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        match link.split_once("](").and_then(|(label, after)| Some((label, after.split_once(')')?.1))) {
            Some((label, after)) if !label.contains(['[', '\n']) => {
                plain.push_str(label);
                rest = after;
            }
            _ => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain.push_str(rest);
    plain
}
