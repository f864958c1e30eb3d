//! The end user that a token speaks of.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

use super::objection::Objection;

/// Placeholders that broken front ends send instead of a user's id, in any letter case: what JavaScript, Java, Python,
/// Ruby, Go and C print for a missing value, and the name that Spring Security gives to a visitor.
const NOBODY: &[&str] = &[
    "null",
    "(null)",
    "<null>",
    "undefined",
    "none",
    "nil",
    "<nil>",
    "#<nil>",
    "anonymous",
    "anonymousUser",
    "[object Object]",
    "[object Promise]",
];
/// Begin and end of a template that nobody has filled in: Handlebars, JavaScript, ERB.
const TEMPLATES: &[(&str, &str)] = &[("{{", "}}"), ("${", "}"), ("<%", "%>")];
/// JavaScript's, in its own letter case only: a person may be called Nan.
const NOT_A_NUMBER: &str = "NaN";

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
        if text.chars().any(is_invisible) {
            return wrong("holds control, invisible or unassigned characters");
        }
        if text.trim() != text {
            return wrong("begins or ends with a space; the same user would become another");
        }
        if text == NOT_A_NUMBER || NOBODY.iter().any(|nobody| nobody.eq_ignore_ascii_case(&text)) {
            return wrong("names nobody; mint no token for a visitor who isn't signed in");
        }
        if TEMPLATES.iter().any(|(begin, end)| text.starts_with(begin) && text.ends_with(end)) {
            return wrong("is a template that nobody has filled in; every user would be the same person");
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether two subjects that differ in `c` alone can look the same: it shows nothing, or nobody knows yet what it shows.
/// The classes are Unicode's own.
fn is_invisible(c: char) -> bool {
    /// BRAILLE PATTERN BLANK is a symbol to Unicode, and a blank to the eye.
    const BRAILLE_BLANK: char = '\u{2800}';
    let hidden = matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::Unassigned
    );
    hidden || c == BRAILLE_BLANK || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
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

        /// By the tables of another library than the one that decides.
        #[test]
        fn a_character_that_nobody_sees_spoils_it_wherever_it_stands(
            text in "[a-z]{1,20}",
            at in 0..21_usize,
            hidden in r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\x{2800}\x{378}\x{fffe}\x{10ffff}]",
        ) {
            let mut spoilt = text.clone();
            spoilt.insert_str(at.min(text.len()), &hidden);
            prop_assert!(Subject::parse("sub", spoilt).is_err());
        }

        #[test]
        fn what_is_taken_is_1_to_200_characters_without_space_at_an_end(text in any::<String>()) {
            if Subject::parse("sub", text.clone()).is_ok() {
                prop_assert!((1..=200).contains(&text.chars().count()));
                prop_assert_eq!(text.trim(), &text);
            }
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let long = "é".repeat(201);
        for text in [
            "",
            " a",
            "a\u{a0}",
            &long,
            "null",
            "Undefined",
            "ANONYMOUS",
            "anonymousUser",
            "(null)",
            "<null>",
            "<nil>",
            "#<nil>",
            "NaN",
            "[object Object]",
            "[object promise]",
            "{{user_id}}",
            "${user.id}",
            "<%= current_user.id %>",
        ] {
            assert!(Subject::parse("sub", text.to_owned()).is_err(), "{text:?}");
        }
        let most = "é".repeat(200);
        for text in [
            "a",
            "user@example.com",
            "0",
            "a {{b}} c",
            "Jürgen Groß",
            "Nan",
            "nan",
            "null-1",
            "नमस्ते",
            "王小明",
            "😀",
            &most,
        ] {
            assert!(Subject::parse("sub", text.to_owned()).is_ok(), "{text:?}");
        }
    }

    /// One of each kind that a list of our own once lacked.
    #[test]
    fn invisible_characters_of_every_kind_are_refused() {
        for hidden in [
            '\0',
            '\n',
            '\u{ad}',
            '\u{34f}',
            '\u{600}',
            '\u{61c}',
            '\u{17b4}',
            '\u{180b}',
            '\u{200b}',
            '\u{202e}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff0}',
            '\u{1bca0}',
            '\u{1d173}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{378}',
            '\u{ffff}',
            '\u{10ffff}',
        ] {
            let refused = Subject::parse("sub", format!("us{hidden}er")).err();
            assert!(refused.is_some_and(|refused| refused.message.contains("invisible")), "{hidden:?}");
        }
    }
}
