//! The subject of a token: the end user that it identifies. Validation rejects placeholders, templates and invisible
//! characters, with which different users could become one.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

use super::invalid_field::InvalidField;

/// Placeholders that broken front ends send instead of a user's id, compared without regard to ASCII case. JavaScript, Java,
/// Python, Ruby, Go and C print most of them for a missing value, and JavaScript the last two for an object. `anonymous` and
/// Spring Security's `anonymousUser` stand for a visitor.
const PLACEHOLDERS: &[&str] = &[
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
/// Begin and end of an unexpanded template expression: Handlebars, JavaScript, ERB.
const TEMPLATE_DELIMITERS: &[(&str, &str)] = &[("{{", "}}"), ("${", "}"), ("<%", "%>")];
/// JavaScript's `NaN`, compared with its case: a person may be called Nan.
const NOT_A_NUMBER: &str = "NaN";

/// The id of one person, 1 to 200 characters. Salesforce finds the user's conversations by it, so it is either used unchanged
/// or rejected: never trimmed, case-folded or normalized.
///
/// Salesforce stores it behind a prefix in `MessagingEndUser.MessagingPlatformKey`, which has 255 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// Validates a subject; `field` is its name in the request.
    ///
    /// # Errors
    /// Says what is wrong with it, under that field's name.
    pub fn parse(field: &str, text: String) -> Result<Self, InvalidField> {
        let invalid = |message: &str| Err(InvalidField::new(field, message));
        if text.is_empty() {
            return invalid("is empty; give the id of the signed-in user, or mint no token for a visitor");
        }
        if text.chars().count() > 200 {
            return invalid("is longer than 200 characters; use a stable id of the user");
        }
        if text.chars().any(is_invisible) {
            return invalid("holds control, invisible or unassigned characters");
        }
        if text.trim() != text {
            return invalid("begins or ends with a space; the same user would become another");
        }
        if text == NOT_A_NUMBER
            || PLACEHOLDERS.iter().any(|placeholder| placeholder.eq_ignore_ascii_case(&text))
        {
            return invalid("names nobody; mint no token for a visitor who isn't signed in");
        }
        if TEMPLATE_DELIMITERS.iter().any(|(begin, end)| text.starts_with(begin) && text.ends_with(end)) {
            return invalid("is a template that nobody has filled in; every user would be the same person");
        }
        Ok(Self(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `c` is invisible or unassigned, by Unicode's own classes: two subjects that differ in it alone can look the same.
fn is_invisible(c: char) -> bool {
    /// BRAILLE PATTERN BLANK is a symbol by its class, and looks like a space.
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

        /// The pattern's classes come from another Unicode library than the one that `is_invisible` uses.
        #[test]
        fn an_invisible_character_anywhere_is_rejected(
            text in "[a-z]{1,20}",
            at in 0..21_usize,
            hidden in r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\x{2800}\x{378}\x{fffe}\x{10ffff}]",
        ) {
            let mut subject = text.clone();
            subject.insert_str(at.min(text.len()), &hidden);
            prop_assert!(Subject::parse("sub", subject).is_err());
        }

        #[test]
        fn an_accepted_subject_has_1_to_200_characters_and_no_space_at_either_end(text in any::<String>()) {
            if Subject::parse("sub", text.clone()).is_ok() {
                prop_assert!((1..=200).contains(&text.chars().count()));
                prop_assert_eq!(text.trim(), &text);
            }
        }
    }

    #[test]
    fn placeholders_and_unexpanded_templates_are_rejected() {
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

    #[test]
    fn invisible_characters_of_every_kind_are_rejected() {
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
            let error = Subject::parse("sub", format!("us{hidden}er")).err();
            assert!(error.is_some_and(|error| error.message.contains("invisible")), "{hidden:?}");
        }
    }
}
