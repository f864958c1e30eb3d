//! The schema of the configuration is what the parser accepts, and `keys.example` has every key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokenmint::config::schema::{KeySchema, Presence, ROOT, SCHEDULE, TableSchema, ValueKind, tables};
use tokenmint::config::{Config, Environment, Problem};
use tokenmint::keys::parse_schedule;

const UNKNOWN: &str = "an_unknown_key";

/// The problems of a configuration.
fn problems(text: &str) -> Vec<Problem> {
    let parsed = Config::parse("tokenmint.toml", text, PathBuf::new(), &Environment::new());
    parsed.err().map(|invalid| invalid.problems).unwrap_or_default()
}

/// The problems of one field.
fn problems_of(text: &str, field: &str) -> Vec<String> {
    let of_it = problems(text).into_iter().filter(|problem| problem.field == field);
    of_it.map(|problem| problem.message).collect()
}

/// The section of a table, with names in place of the placeholders.
fn section(path: &str) -> String {
    path.replace("NAME", "n")
}

/// A configuration with one key. `rate` is there for `burst`, which needs it, and `kind` for the keys of one kind of store.
fn with_key(path: &str, key: &str, value: &str) -> (String, String) {
    let section = section(path);
    let needed = match (path, key) {
        (_, "burst") => "rate = 1\n".to_owned(),
        ("stores.NAME", key) if key != "kind" => format!("kind = \"{}\"\n", kind_of_store(key)),
        _ => String::new(),
    };
    (format!("[{section}]\n{needed}{key} = {value}\n"), format!("{section}.{key}"))
}

/// The first kind of store that accepts the key.
fn kind_of_store(key: &str) -> &'static str {
    let tables = tables(&ROOT);
    let table = tables.iter().find(|table| table.path == "stores.NAME").expect("a table");
    let Some(ValueKind::Choice(kinds)) = table.schema.key("kind").map(|kind| &kind.kind) else {
        panic!("`kind` is a choice")
    };
    let accepts = |kind: &str| {
        let text = format!("[stores.n]\nkind = \"{kind}\"\n{key} = 1\n");
        !problems_of(&text, &format!("stores.n.{key}"))
            .iter()
            .any(|message| message.starts_with("is for stores"))
    };
    kinds.iter().find(|kind| accepts(kind)).expect("a kind of store has the key")
}

/// Each key of `tokenmint.toml` that isn't a table, with the path of its table.
fn keys() -> Vec<(String, &'static KeySchema)> {
    let all = tables(&ROOT).into_iter().flat_map(|table| {
        let keys = table.schema.keys.iter().chain(table.schema.named);
        keys.map(|key| (table.path.clone(), key)).collect::<Vec<_>>()
    });
    all.filter(|(_, key)| !matches!(key.kind, ValueKind::Table(_) | ValueKind::Tables(_))).collect()
}

/// The keys that the parser knows, from its message about an unknown one.
fn known_keys(problems: &[Problem], field: &str) -> Vec<String> {
    let of_it = problems.iter().find(|problem| problem.field == field);
    let message = &of_it.unwrap_or_else(|| panic!("{field} is accepted")).message;
    let (_, list) = message.split_once("known here: ").unwrap_or_else(|| panic!("{field}: {message}"));
    list.split(", ").map(str::to_owned).collect()
}

fn names(schema: &TableSchema) -> Vec<String> {
    let names: BTreeSet<&str> = schema.keys.iter().map(|key| key.name).collect();
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_parser_reads_the_keys_of_the_schema_and_no_others() {
    assert_eq!(known_keys(&problems(&format!("{UNKNOWN} = 1\n")), UNKNOWN), names(&ROOT));
    for table in tables(&ROOT).iter().filter(|table| table.schema.named.is_none()) {
        let (text, field) = with_key(&table.path, UNKNOWN, "1");
        assert_eq!(known_keys(&problems(&text), &field), names(table.schema), "{}", table.path);
    }
    let [key] = tables(&SCHEDULE).try_into().ok().expect("one table");
    let text = format!("[[key]]\n{UNKNOWN} = 1\n");
    let refused = parse_schedule("keyset.toml", &text, Duration::ZERO).expect_err("an unknown key");
    assert_eq!(known_keys(&refused, &format!("key.{UNKNOWN}")), names(key.schema));
}

#[test]
fn a_value_of_another_type_is_refused() {
    for (path, key) in keys() {
        let wrong = match key.kind {
            ValueKind::Count { .. } | ValueKind::UserId | ValueKind::Flag => "\"x\"",
            ValueKind::Size { .. } => "true",
            ValueKind::ClaimValue => "1979-05-27",
            _ => "1",
        };
        let name = if key.name == "ENTRY" { "entry" } else { key.name };
        let (text, field) = with_key(&path, name, wrong);
        assert!(!problems_of(&text, &field).is_empty(), "{text}");
    }
}

/// Values at the bounds of the schema, and values beyond them.
fn bounds(kind: &ValueKind) -> (Vec<String>, Vec<String>) {
    let words = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    match kind {
        ValueKind::Duration { min, max } => {
            let parse = |text: &str| humantime::parse_duration(text).expect("a duration");
            let (min, max) = (parse(min), parse(max));
            let step = if min.subsec_nanos() > 0 { Duration::from_micros(1) } else { Duration::from_secs(1) };
            let text = |duration: Duration| format!("\"{}\"", humantime::format_duration(duration));
            let below = min.checked_sub(step).map(text);
            (
                vec![text(min), text(max)],
                below.into_iter().chain([text(max + step), "\"soon\"".to_owned()]).collect(),
            )
        }
        ValueKind::Size { min, max, .. } => {
            let above = max.map(|max| (max + 1).to_string());
            let inside = [Some(*min), *max].into_iter().flatten().map(|size| size.to_string());
            (inside.collect(), std::iter::once((min - 1).to_string()).chain(above).collect())
        }
        ValueKind::Count { max, .. } => {
            let above = max.map(|max| (max + 1).to_string());
            let inside = [Some(1), *max].into_iter().flatten().map(|count| count.to_string());
            (inside.collect(), std::iter::once("0".to_owned()).chain(above).collect())
        }
        ValueKind::UserId => (words(&["0", "4294967294"]), words(&["-1", "4294967295"])),
        ValueKind::Flag => (words(&["true", "false"]), words(&["0"])),
        ValueKind::Choice(choices) => {
            (choices.iter().map(|choice| format!("\"{choice}\"")).collect(), words(&["\"\"", "\"x\""]))
        }
        // Only these texts have a limit that the parser checks by itself.
        ValueKind::Text(form) if form.label == "text" => {
            let text = |length: usize| format!("\"{}\"", "a".repeat(length));
            (vec![text(1), text(form.longest)], vec![text(0), text(form.longest + 1)])
        }
        _ => (Vec::new(), Vec::new()),
    }
}

#[test]
fn the_bounds_and_defaults_of_the_schema_are_the_parsers() {
    let mut checked = 0;
    for (path, key) in keys() {
        let (mut accepted, refused) = bounds(&key.kind);
        if let Presence::Default(written) = key.presence {
            accepted.push(written.to_owned());
        }
        for value in accepted {
            let (text, field) = with_key(&path, key.name, &value);
            assert_eq!(problems_of(&text, &field), Vec::<String>::new(), "{text}");
            checked += 1;
        }
        for value in refused {
            let (text, field) = with_key(&path, key.name, &value);
            assert_eq!(problems_of(&text, &field).len(), 1, "{text}");
        }
    }
    assert!(checked > 80, "{checked}");
    let config = Config::parse("tokenmint.toml", "", PathBuf::new(), &Environment::new());
    let listen = config.ok().expect("defaults").server.listen.to_string();
    let server = ROOT.key("server").map(|key| &key.kind);
    let Some(ValueKind::Table(server)) = server else { panic!("[server] is a table") };
    let written = server.key("listen").map(|key| &key.presence);
    assert!(matches!(written, Some(Presence::Default(written)) if *written == format!("\"{listen}\"")));
}

/// The keys that `keys.example/tokenmint.toml` sets, disabled or not, by table. Each has its line and the line before.
fn example() -> BTreeMap<(String, String), (String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys.example/tokenmint.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let mut found = BTreeMap::new();
    let mut table = String::new();
    let mut before = "";
    for line in text.lines() {
        let setting = line.strip_prefix('#').unwrap_or(line);
        if let Some(header) = setting.strip_prefix('[').and_then(|header| header.strip_suffix(']')) {
            let mut parts: Vec<&str> = header.split('.').collect();
            if !["server", "cache"].contains(&parts[0]) {
                parts[1] = "NAME";
            }
            table = parts.join(".");
        } else if let Some((key, _)) = setting.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            let (table, key) = match key {
                _ if table == "bundles.NAME" => (table.clone(), "ENTRY"),
                // An inline table.
                "jwt_claims" | "fixed_claims" => (format!("{table}.{key}"), "CLAIM"),
                _ => (table.clone(), key),
            };
            found.entry((table, key.to_owned())).or_insert_with(|| (line.to_owned(), before.to_owned()));
        }
        before = line;
    }
    assert!(!text.contains("not used yet"));
    found
}

#[test]
fn the_example_has_every_key_and_shows_the_defaults() {
    let example = example();
    let keys = keys();
    let known: BTreeSet<(String, String)> =
        keys.iter().map(|(table, key)| (table.clone(), key.name.to_owned())).collect();
    let listed: BTreeSet<(String, String)> = example.keys().cloned().collect();
    assert_eq!(listed, known);
    for (table, key) in keys {
        let (line, before) = &example[&(table.clone(), key.name.to_owned())];
        let Presence::Default(default) = key.presence else { continue };
        // A line that is in force may show another value, and so may a line with a comment that names the default.
        let shows = line.starts_with('#') && !line.contains("Default: ") && !before.contains("Default: ");
        assert!(!shows || line.contains(&format!(" = {default}")), "{table}: {line}");
    }
}
