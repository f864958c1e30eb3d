//! Wording that checks, `metadata` and the command line share: lengths of time, dates, and in what two texts differ.

use crate::clock::UnixTime;

/// The length of `seconds` in words, for example `3 hours`.
pub fn span(seconds: i64) -> String {
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

/// `when`, with its distance from now in words.
pub fn dated(when: UnixTime, now: UnixTime) -> String {
    match now.seconds_until(when) {
        ahead @ 0.. => format!("{when}, in {}", span(ahead)),
        past => format!("{when}, {} ago", span(past)),
    }
}

/// Somebody else's text, fit for a terminal and a log: short, and each character that shows nothing, or does something to a
/// terminal, as its number.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let shown: String = text.chars().take(LONGEST).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    visible(&shown) + more
}

/// The same of any length.
pub fn visible(text: &str) -> String {
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
pub fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

type Strip = fn(&str) -> String;

/// What a person overlooks in an issuer or a key id, and a text without it.
const OVERLOOKED: &[(&str, Strip)] = &[
    ("white space", |text| text.chars().filter(|c| !c.is_whitespace()).collect()),
    ("invisible characters", |text| {
        text.chars().filter(|c| c.is_whitespace() || !is_invisible(*c)).collect()
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

/// Whether a character shows nothing, as its standard escape tells: joiners, marks of direction, a byte order mark.
pub fn is_invisible(c: char) -> bool {
    !c.is_ascii() && c.escape_debug().len() > 1
}

/// All in which two issuers, or two key ids, differ that a person takes for one. `None` where they are the same, or
/// differ in more than that.
pub fn difference(one: &str, other: &str) -> Option<String> {
    let without = |text: &str, left_in: Option<usize>| {
        let all = OVERLOOKED.iter().enumerate().filter(|(at, _)| Some(*at) != left_in);
        all.fold(text.to_owned(), |text, (_, (_, strip))| strip(&text))
    };
    if one == other || without(one, None) != without(other, None) {
        return None;
    }
    let differs = |at: &usize| without(one, Some(*at)) != without(other, Some(*at));
    let names: Vec<&str> = (0..OVERLOOKED.len()).filter(differs).map(|at| OVERLOOKED[at].0).collect();
    Some(names.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_something_to_a_terminal_or_shows_nothing_is_written_out() {
        for (text, shown) in [
            ("O'Néill \"日本\" \\", "O'Néill \"日本\" \\"),
            ("a\u{200b}b\u{202e}c", "a\\u{200b}b\\u{202e}c"),
            ("\u{1b}[31m\u{9b}31m\u{7f}\n", "\\u{1b}[31m\\u{9b}31m\\u{7f}\\n"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable(&"é".repeat(100)), "é".repeat(80) + "…");
    }

    #[test]
    fn a_difference_names_all_that_a_person_overlooks() {
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
            assert_eq!(difference(iss, setup).as_deref(), seen, "{iss:?}");
            assert_eq!(difference(setup, iss).as_deref(), seen, "{iss:?}");
        }
    }
}
