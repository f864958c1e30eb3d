//! The end user that a token speaks of.

use super::Objection;

/// What broken front ends send in place of a user.
const NOBODY: [&str; 7] = ["null", "undefined", "anonymous", "none", "nil", "nan", "[object Object]"];

/// 1 to 200 characters that name one person: Salesforce keys the conversation on it, so it is taken as it is
/// or not at all. Never trimmed, folded or normalised.
///
/// `MessagingEndUser.MessagingPlatformKey` holds it behind a prefix, in 255 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// `field` is what the request calls it.
    ///
    /// # Errors
    /// Says what a subject may be, under that field's name.
    pub fn parse(field: &str, text: String) -> Result<Self, Objection> {
        let wrong = |message: &str| Err(Objection::new(field, message));
        if text.is_empty() {
            return wrong("is empty; give the id of the signed-in user, or mint no token for a visitor");
        }
        if text.chars().count() > 200 {
            return wrong("is longer than 200 characters; use a stable id of the user");
        }
        if text.chars().any(|c| c.is_control() || is_invisible(c)) {
            return wrong("holds control or invisible characters");
        }
        if text.trim() != text {
            return wrong("begins or ends with a space; the same user would become another");
        }
        if NOBODY.iter().any(|nobody| nobody.eq_ignore_ascii_case(&text)) {
            return wrong("names nobody; mint no token for a visitor who isn't signed in");
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that make two different subjects look the same: soft hyphens, fillers, zero-width and
/// bidirectional marks, line separators, tags.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_subject_is_never_altered(text in "\\PC{0,300}") {
            if let Ok(subject) = Subject::parse("sub", text.clone()) {
                prop_assert_eq!(subject.as_str(), text);
            }
        }

        #[test]
        fn what_is_taken_keeps_every_rule(text in any::<String>()) {
            if Subject::parse("sub", text.clone()).is_ok() {
                prop_assert!((1..=200).contains(&text.chars().count()));
                prop_assert_eq!(text.trim(), &text);
                prop_assert!(!text.chars().any(|c| c.is_control() || is_invisible(c)));
            }
        }

        #[test]
        fn a_character_that_nobody_sees_spoils_it_wherever_it_stands(
            text in "[a-z]{1,20}",
            at in 0..21_usize,
            hidden in r"[\x00-\x1f\x7f-\u{9f}\u{ad}\u{200b}-\u{200f}\u{202a}-\u{202e}\u{2066}-\u{2069}\u{feff}\u{e0000}-\u{e007f}]",
        ) {
            let mut spoilt = text.clone();
            spoilt.insert_str(at.min(text.len()), &hidden);
            prop_assert!(Subject::parse("sub", spoilt).is_err());
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let long = "é".repeat(201);
        for text in
            ["", "null", "Undefined", "ANONYMOUS", " a", "a\u{a0}", "a\u{0}b", "a\u{202e}b", "a\r\nb", &long]
        {
            assert!(Subject::parse("sub", text.to_owned()).is_err(), "{text:?}");
        }
        for text in ["a", "user@example.com", "0", "Jürgen Groß", "null-1", &"é".repeat(200)] {
            assert!(Subject::parse("sub", text.to_owned()).is_ok(), "{text:?}");
        }
    }
}
