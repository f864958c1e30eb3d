//! Parses single values of the configuration: text, durations, sizes, numbers and lists.

use std::time::Duration;

use icu_properties::CodePointSetData;
use icu_properties::props::{DefaultIgnorableCodePoint, QuotationMark};
use toml::de::DeValue;
use zeroize::Zeroizing;

use super::source::{ConfigNode, ConfigValue};

/// Detects what a shell, an editor or `docker --env-file` left around the value of the setting `name`, and says what to do. No
/// setting needs such a value, and in a claim it would end up in tokens unchanged.
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

/// Whether the text is `export NAME=value`, or `NAME=value` with the setting's name or a name in capitals with `_`. Other names
/// can be part of a value, for example in the issuer `CN=Acme`. Base64 has `=` only at its end.
fn starts_with_assignment(name: &str, text: &str) -> bool {
    // These variables hold assignments.
    let holds_assignments = name.starts_with("OTEL_") || name == "RUST_LOG";
    if text.strip_prefix("export ").is_some_and(|exported| exported.contains('=')) {
        return true;
    }
    text.split_once('=').is_some_and(|(left, value)| {
        let variable = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let is_variable = left.contains('_') && left.bytes().all(variable);
        value.bytes().any(|b| b != b'=')
            && (is_variable && !holds_assignments || left.eq_ignore_ascii_case(name))
    })
}

/// Splits `["a", "b"]` or `a,b`.
pub(crate) fn split_untyped_list(value: &str) -> Result<Vec<Zeroizing<String>>, String> {
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
