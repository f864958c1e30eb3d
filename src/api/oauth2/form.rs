//! The form body of the token endpoint (RFC 6749, appendix B). It is parsed as strictly as the JSON bodies of the other endpoints:
//! each parameter at most once, no unknown one, and valid UTF-8.
//!
//! RFC 6749, section 3.2, says that unknown parameters are ignored. Here they are refused on purpose: a misspelt parameter would
//! change the meaning of a request without a word.

use percent_encoding::percent_decode;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::super::ApiError;
use crate::tokens::InvalidField;

/// The longest name of a parameter that an error repeats, in bytes. API keys are longer, and have digits.
const MAX_QUOTED_NAME: usize = 32;

/// The largest number of parameters. No grant has that many.
const MAX_PARAMETERS: usize = 32;

/// The parameters of a form. Each accessor removes a parameter. Every value is a [`SecretString`], because some are secrets.
pub(super) struct FormFields(Vec<(String, SecretString)>);

impl FormFields {
    /// Parses a form. Parameters without a value count as omitted (RFC 6749, section 3.2).
    ///
    /// # Errors
    /// A parameter is given twice, or is no percent-encoded UTF-8, or there are more than 32.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut parameters = Vec::new();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(parts.next().unwrap_or_default())?.as_str().to_owned();
            let value = SecretString::from(decode(parts.next().unwrap_or_default())?.as_str());
            if parameters.len() == MAX_PARAMETERS {
                return Err(ApiError::Malformed("send fewer parameters: there are more than 32"));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(invalid_parameter(&name, "is given twice"));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Rejects parameters that aren't in `known`.
    pub(super) fn allow_only(self, known: &[&str]) -> Result<Self, ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, _)) => {
                let known = known.join(", ");
                let message = format!("isn't a parameter of this grant; its parameters are {known}");
                Err(invalid_parameter(name, &message))
            }
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(other, value)| other == name && !value.expose_secret().is_empty())
    }

    pub(super) fn secret(&mut self, name: &str) -> Option<SecretString> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(at).1).filter(|value| !value.expose_secret().is_empty())
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.secret(name).map(|value| value.expose_secret().to_owned())
    }

    /// Takes a parameter that must be there.
    pub(super) fn required(&mut self, name: &'static str) -> Result<SecretString, ApiError> {
        self.secret(name).ok_or_else(|| InvalidField::new(name, "is missing").into())
    }

    /// Takes a parameter that must have one of these values.
    pub(super) fn required_one_of(&mut self, name: &'static str, values: &[&str]) -> Result<(), ApiError> {
        let value = self.secret(name);
        let fits = value.is_some_and(|value| values.contains(&value.expose_secret()));
        fits.then_some(())
            .ok_or_else(|| InvalidField::new(name, format!("must be {}", values.join(" or "))).into())
    }

    /// Like [`required_one_of`](Self::required_one_of), but the parameter may be missing.
    pub(super) fn optional_one_of(&mut self, name: &'static str, values: &[&str]) -> Result<(), ApiError> {
        if self.contains(name) { self.required_one_of(name, values) } else { Ok(()) }
    }
}

/// Decodes a name or a value: `+` is a space, and `%` begins two hexadecimal digits.
///
/// # Errors
/// A `%` begins no digits, or the result isn't UTF-8.
pub(super) fn decode(encoded: &[u8]) -> Result<Zeroizing<String>, ApiError> {
    const NOT_A_FORM: ApiError = ApiError::Malformed(
        "send the parameters percent-encoded, in UTF-8: write `%` as %25, and a byte as `%` with two hexadecimal digits",
    );
    let is_escape =
        |rest: &[u8]| matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    let mut escapes = encoded.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if !escapes.all(|(at, _)| is_escape(&encoded[at + 1..])) {
        return Err(NOT_A_FORM);
    }
    let mut decoded = Zeroizing::new(Vec::with_capacity(encoded.len()));
    // In this order, because an encoded `+` is no space.
    for part in encoded.split_inclusive(|byte| *byte == b'+') {
        let (text, plus) = part.strip_suffix(b"+").map_or((part, None), |text| (text, Some(b' ')));
        decoded.extend(percent_decode(text).chain(plus));
    }
    String::from_utf8(std::mem::take(&mut *decoded)).map(Zeroizing::new).map_err(|_| NOT_A_FORM)
}

/// The error for a parameter. It has no name that may be a misplaced secret.
fn invalid_parameter(name: &str, message: &str) -> ApiError {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if (1..=MAX_QUOTED_NAME).contains(&name.len()) && name.bytes().all(is_letter) {
        return InvalidField::new(name, message).into();
    }
    ApiError::Malformed(
        "remove or rename a parameter: it is unknown or given twice. Its name isn't shown, because it may be a secret",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(body: &str) -> Option<Vec<(String, String)>> {
        let form = FormFields::parse(body.as_bytes()).ok()?;
        Some(form.0.into_iter().map(|(name, value)| (name, value.expose_secret().to_owned())).collect())
    }

    #[test]
    fn a_malformed_form_is_rejected() {
        for body in [
            "a=1&a=2",
            "a=1&a=",
            "a&a=1",
            "a=1&%61=2",
            "a=%",
            "a=%4",
            "a=%4g",
            "a=%zz",
            "%=1",
            "a=%ff",
            "a=%c3%28",
            "a=%ed%a0%80",
            "%ff=1",
        ] {
            assert_eq!(texts(body), None, "{body}");
        }
    }

    #[test]
    fn a_parameter_without_a_value_counts_as_omitted() {
        let mut form = FormFields::parse(b"a=&b&c=1&&").expect("a form");
        assert!(form.contains("c") && !form.contains("a") && !form.contains("b"));
        assert!(form.secret("a").is_none() && form.secret("c").is_some() && form.secret("c").is_none());
        assert_eq!(texts(""), Some(Vec::new()));
    }

    #[test]
    fn an_error_repeats_no_name_that_may_be_a_secret() {
        for (name, is_quoted) in [("scopes", true), ("client_Secret", true), ("tm_AbC9", false), ("", false)]
        {
            let error = FormFields::parse(format!("{name}=1&{name}=2").as_bytes()).err();
            let is_shown =
                matches!(&error, Some(ApiError::InvalidField(invalid_field)) if invalid_field.field == name);
            assert_eq!(is_shown, is_quoted, "{name}");
            assert!(is_quoted || matches!(error, Some(ApiError::Malformed(_))), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_another_encoder_writes_is_read_back(
            pairs in prop::collection::btree_map("[a-z_ +%&=é]{1,8}", ".{1,20}", 0..6),
        ) {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(&pairs);
            prop_assert_eq!(texts(&form.finish()), Some(pairs.into_iter().collect()));
        }
    }
}
