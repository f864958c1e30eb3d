//! Generates the parts of the pages.

use std::fmt::Write as _;

use clap::{ArgAction, Command, CommandFactory as _};
use tokenmint::cli::{COMMON_EXIT_CODES, Cli, EXIT_CODES};
use tokenmint::config::schema::{
    KeySchema, PlacedTable, Presence, ROOT, SCHEDULE, TableSchema, ValueKind, format_size, tables,
};
use tokenmint::metrics::Metrics;

use crate::pages::compare_or_write;

const LINE_WIDTH: usize = 150;

/// The path of a key, for example `server.limits.body` or `[[key]] kid`.
fn key_path(table: &str, key: &str) -> String {
    match table {
        "" => key.to_owned(),
        array if array.starts_with('[') => format!("[{array}] {key}"),
        table => format!("{table}.{key}"),
    }
}

/// The type of a key, in words.
fn type_words(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Table(_) | ValueKind::Tables(_) => "table".to_owned(),
        ValueKind::Text(form) => form.label.to_owned(),
        ValueKind::List(form) => format!("list; each entry is a {}", form.label),
        ValueKind::Choice(choices) => {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("`\"{choice}\"`")).collect();
            let (last, first) = quoted.split_last().expect("choices");
            if first.is_empty() { last.clone() } else { format!("{} or {last}", first.join(", ")) }
        }
        ValueKind::Duration { min, max } => format!("duration, `{min}` to `{max}`"),
        ValueKind::Size { min, max: None, .. } => format!("size, at least `{}`", format_size(*min)),
        ValueKind::Size { min, max: Some(max), .. } => {
            format!("size, `{}` to `{}`", format_size(*min), format_size(*max))
        }
        ValueKind::Count { max: None, .. } => "number, at least 1".to_owned(),
        ValueKind::Count { max: Some(max), .. } => format!("number, 1 to {max}"),
        ValueKind::UserId => "number of a Unix user".to_owned(),
        ValueKind::Flag => "`true` or `false`".to_owned(),
        ValueKind::Moment => "date with time and offset".to_owned(),
        ValueKind::ClaimValue => "string, number, `true` or `false`, list or table".to_owned(),
    }
}

fn presence_words(presence: &Presence) -> String {
    match presence {
        Presence::Required => "- Required".to_owned(),
        Presence::Conditional(words) if words.starts_with("at most") => format!("- Optional: {words}"),
        Presence::Conditional(words) => format!("- Required: {words}"),
        Presence::Default(literal) => format!("- Default: `{literal}`"),
        Presence::Derived(words) => format!("- Default: {words}"),
        Presence::Absent => "- Default: none".to_owned(),
    }
}

fn write_key(page: &mut String, table: &str, key: &KeySchema) {
    let path = key_path(table, key.name);
    write!(
        page,
        "### `{path}`\n\n{}\n\n- Type: {}\n{}\n",
        key.meaning,
        type_words(&key.kind),
        presence_words(&key.presence)
    )
    .expect("memory");
    // Only settings of tokenmint.toml have a variable.
    if !path.starts_with('[') {
        let variable = path.replace('.', "__").to_uppercase();
        writeln!(page, "- Environment: `TOKENMINT_{variable}`").expect("memory");
    }
    page.push('\n');
}

fn sections(root: &'static TableSchema) -> String {
    let all = tables(root);
    let mut page = String::new();
    for (at, PlacedTable { path, schema }) in all.iter().enumerate() {
        writeln!(page, "## `[{path}]`\n\n{}\n", schema.about).expect("memory");
        if let Some(same) = all[..at].iter().find(|other| std::ptr::eq(other.schema, *schema)) {
            let anchor = same.path.replace('.', "");
            writeln!(page, "This section has the same keys as [`[{}]`](#{anchor}).\n", same.path)
                .expect("memory");
            continue;
        }
        for key in schema.keys.iter().chain(schema.named) {
            if !matches!(key.kind, ValueKind::Table(_) | ValueKind::Tables(_)) {
                write_key(&mut page, path, key);
            }
        }
    }
    wrapped(page.trim_end())
}

/// Ends a text of the command line's help as a sentence. What stands in brackets at its end becomes a sentence of its own.
fn as_sentence(text: &str) -> String {
    let text = text.trim().replace('<', "\\<");
    let notes_at = [" [env: ", " [default: "].iter().filter_map(|note| text.find(note)).min();
    let (text, notes) = text.split_at(notes_at.unwrap_or(text.len()));
    let mut sentences = text.to_owned();
    if !sentences.ends_with(['.', ':', '?']) && !sentences.is_empty() {
        sentences.push('.');
    }
    for note in notes.split(" [").filter(|note| !note.is_empty()) {
        let (name, value) = note.trim_end_matches(']').split_once(": ").expect("`[default: …]`");
        let name = if name == "env" { "Environment" } else { "Default" };
        write!(sentences, " {name}: {value}.").expect("memory");
    }
    sentences
}

/// Breaks the lines of the paragraphs and list items of Markdown, but not those of tables and blocks of code.
fn wrapped(page: &str) -> String {
    let mut in_code = false;
    let mut lines = String::new();
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        let indent = line.len() - line.trim_start().len();
        let item = if line.trim_start().starts_with("- ") { 2 } else { 0 };
        if in_code || line.starts_with(['|', '#']) || line.len() <= LINE_WIDTH {
            lines.push_str(line);
        } else {
            let next = " ".repeat(indent + item);
            let options = textwrap::Options::new(LINE_WIDTH)
                .subsequent_indent(&next)
                .break_words(false)
                .word_separator(textwrap::WordSeparator::AsciiSpace)
                .word_splitter(textwrap::WordSplitter::NoHyphenation);
            lines.push_str(&textwrap::fill(line, options));
        }
        lines.push('\n');
    }
    lines
}

fn write_arguments(page: &mut String, command: &Command) {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let known: Vec<_> =
        shown.filter(|argument| !["help", "version"].contains(&argument.get_id().as_str())).collect();
    for argument in &known {
        let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let values = argument.get_value_names().unwrap_or_default();
        let value = values.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
        let mut form = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
        match argument.get_long() {
            Some(long) if takes_value => write!(form, "--{long} {value}").expect("memory"),
            Some(long) => write!(form, "--{long}").expect("memory"),
            None => form.push_str(&value),
        }
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default().replace("\n\n", " ");
        write!(page, "- `{form}`: {}", as_sentence(&help)).expect("memory");
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if takes_value && !defaults.is_empty() {
            write!(page, " Default: `{}`.", defaults.join(",")).expect("memory");
        }
        page.push('\n');
        if takes_value && argument.get_id() != "shell" {
            for choice in argument.get_possible_values().iter().filter(|choice| !choice.is_hide_set()) {
                let help = choice.get_help().map(ToString::to_string).unwrap_or_default();
                let help = if help.is_empty() { String::new() } else { format!(": {}", as_sentence(&help)) };
                writeln!(page, "    - `{}`{help}", choice.get_name()).expect("memory");
            }
        }
    }
    if !known.is_empty() {
        page.push('\n');
    }
}

fn write_command(page: &mut String, command: &Command, path: &str) {
    if command.has_subcommands() {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            write_command(page, inner, format!("{path} {}", inner.get_name()).trim_start());
        }
        return;
    }
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<String> = about.split("\n\n").map(as_sentence).collect();
    let usage = command.clone().render_usage().to_string().replace("Usage: ", "");
    writeln!(page, "## `{path}`\n\n{}\n\n```text\n{}\n```\n", paragraphs.join("\n\n"), usage.trim())
        .expect("memory");
    write_arguments(page, command);
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples: Vec<&str> =
        examples.lines().map(|line| line.trim_start_matches("Example:").trim()).collect();
    writeln!(page, "For example:\n\n```console\n{}\n```\n", examples.join("\n").trim()).expect("memory");
    let (_, codes) = EXIT_CODES.iter().find(|(name, _)| *name == path).expect("exit codes of each command");
    writeln!(page, "Exit codes:\n\n{}", exit_codes(codes)).expect("memory");
}

fn exit_codes(codes: &[(i32, &str)]) -> String {
    codes.iter().fold(String::new(), |list, (code, meaning)| format!("{list}- {code}: {meaning}\n"))
}

fn commands() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = String::new();
    write_command(&mut page, &cli, "");
    wrapped(page.trim_end())
}

fn all_exit_codes() -> String {
    let mut table = "| command | code | meaning |\n|---|---|---|\n".to_owned();
    for (command, codes) in EXIT_CODES {
        for (code, meaning) in *codes {
            let anchor = command.replace(' ', "-");
            writeln!(table, "| [`{command}`](commands.md#{anchor}) | {code} | {meaning} |").expect("memory");
        }
    }
    table
}

fn metrics() -> String {
    let metrics = Metrics::new();
    let mut families: Vec<_> = metrics.descriptions.iter().collect();
    families.sort_by(|one, other| one.name.cmp(&other.name));
    let mut page = String::new();
    for family in families {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        writeln!(
            page,
            "### `{}`\n\n{}\n\n- Type: {}\n- Labels: {labels}\n",
            family.name, family.help, family.kind
        )
        .expect("memory");
    }
    wrapped(page.trim_end())
}

#[test]
fn the_pages_are_what_the_code_says() {
    let parts = [
        ("keys", sections(&ROOT)),
        ("schedule", sections(&SCHEDULE).replace("## `[[key]]`", "## `keyset.toml`")),
    ];
    compare_or_write("docs/reference/configuration.md", &parts);
    compare_or_write("docs/reference/commands.md", &[("commands", commands())]);
    compare_or_write(
        "docs/reference/exit-codes.md",
        &[("common", exit_codes(COMMON_EXIT_CODES)), ("commands", all_exit_codes())],
    );
    compare_or_write("docs/reference/metrics.md", &[("metrics", metrics())]);
}
