//! Text formatting shared by the checks, `metadata` and the command line: durations, dates, escaping, and the difference
//! between two texts that look alike.

use crate::clock::UnixTime;

/// The absolute value of `seconds` in words, rounded down, for example `3 hours`.
pub(crate) fn format_duration(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds / 60, "minute"),
        7_200..=172_799 => (seconds / 3_600, "hour"),
        172_800..=63_071_999 => (seconds / 86_400, "day"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `when`, and its distance from `now` in words.
pub(crate) fn relative_date(when: UnixTime, now: UnixTime) -> String {
    match now.seconds_until(when) {
        ahead @ 0.. => format!("{when}, in {}", format_duration(ahead)),
        past => format!("{when}, {} ago", format_duration(past)),
    }
}

/// Makes untrusted text safe for a terminal and a log: escapes at most 80 characters by [`escape_invisible`], and replaces
/// the rest by `…`.
pub(crate) fn escape_and_truncate(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 80;
    let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    escape_invisible(&shown) + more
}

/// Escapes the characters that Rust's debug format escapes, except quotes and backslashes: control characters, combining marks
/// and most invisible characters (`\u{200b}`). The length isn't limited.
pub(crate) fn escape_invisible(text: &str) -> String {
    let is_syntax = |c: char| matches!(c, '"' | '\'' | '\\');
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if is_syntax(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
        shown
    })
}

/// Names in backquotes, with commas between them.
pub(crate) fn backquoted_list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// A configured user name for a message. Text that hasn't the form `NAME@HOST.DOMAIN` isn't shown: it may be a password in
/// the wrong place.
pub(crate) fn shown_user_name(name: &str) -> &str {
    let is_user = |user: &str| !user.is_empty() && !user.contains(|c: char| c.is_whitespace() || c == '=');
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-');
    let is_shown = name
        .split_once('@')
        .is_some_and(|(user, domain)| is_user(user) && domain.contains('.') && domain.chars().all(fits));
    if is_shown { name } else { "not shown, because it may be a secret" }
}

type Normalizer = fn(&str) -> String;

/// Differences that a person overlooks in an issuer or a key id: the name of each, and a function that removes it.
const LOOKALIKE_RULES: &[(&str, Normalizer)] = &[
    ("white space", |text| text.chars().filter(|c| !c.is_whitespace()).collect()),
    ("invisible characters", |text| {
        text.chars().filter(|c| c.is_whitespace() || !is_invisible_char(*c)).collect()
    }),
    ("the `https://` before it", |text| {
        let scheme = ["https://", "http://"].iter().find_map(|scheme| {
            text.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(str::len)
        });
        text[scheme.unwrap_or(0)..].to_owned()
    }),
    ("upper and lower case", str::to_lowercase),
    ("a slash at the end", |text| text.trim_end_matches('/').to_owned()),
];

/// Whether this is a non-ASCII character that Rust's debug format escapes, for example a joiner, a direction mark or a byte
/// order mark.
pub(crate) fn is_invisible_char(c: char) -> bool {
    !c.is_ascii() && c.escape_debug().len() > 1
}

/// Names every overlooked difference between two issuers or key ids that look alike. `None` if they are equal, or differ in
/// another way too.
pub(crate) fn lookalike_difference(one: &str, other: &str) -> Option<String> {
    let without = |text: &str, left_in: Option<usize>| {
        let all = LOOKALIKE_RULES.iter().enumerate().filter(|(at, _)| Some(*at) != left_in);
        all.fold(text.to_owned(), |text, (_, (_, strip))| strip(&text))
    };
    if one == other || without(one, None) != without(other, None) {
        return None;
    }
    let differs = |at: &usize| without(one, Some(*at)) != without(other, Some(*at));
    let names: Vec<&str> =
        (0..LOOKALIKE_RULES.len()).filter(differs).map(|at| LOOKALIKE_RULES[at].0).collect();
    Some(names.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_escaped() {
        for (text, shown) in [
            ("O'Néill \"日本\" \\", "O'Néill \"日本\" \\"),
            ("a\u{200b}b\u{202e}c", "a\\u{200b}b\\u{202e}c"),
            ("\u{1b}[31m\u{9b}31m\u{7f}\n", "\\u{1b}[31m\\u{9b}31m\\u{7f}\\n"),
        ] {
            assert_eq!(escape_and_truncate(text), shown);
        }
        assert_eq!(escape_and_truncate(&"é".repeat(100)), "é".repeat(80) + "…");
    }

    #[test]
    fn every_overlooked_difference_is_named() {
        let setup = "https://acme.example";
        for (iss, seen) in [
            (setup, None),
            ("https://other.example", None),
            ("https://acme.example/", Some("a slash at the end")),
            ("https://ACME.example", Some("upper and lower case")),
            ("acme.example", Some("the `https://` before it")),
            ("http://acme.example", Some("the `https://` before it")),
            ("https://acme.example\n", Some("white space")),
            ("https://acme\u{200b}.example", Some("invisible characters")),
            ("\u{feff}https://acme.example/", Some("invisible characters and a slash at the end")),
            ("acme.example/", Some("the `https://` before it and a slash at the end")),
            ("https://ACME.example/", Some("upper and lower case and a slash at the end")),
            (
                " HTTP://Acme.example/ ",
                Some(
                    "white space and the `https://` before it and upper and lower case and a slash at the end",
                ),
            ),
        ] {
            assert_eq!(lookalike_difference(iss, setup).as_deref(), seen, "{iss:?}");
            assert_eq!(lookalike_difference(setup, iss).as_deref(), seen, "{iss:?}");
        }
    }
}
