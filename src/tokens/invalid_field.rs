//! A validation error of a request, with the field at fault.

use thiserror::Error;

/// The most characters of a field's name that an error message shows.
const MAX_FIELD_CHARS: usize = 64;

/// A field of a request with a missing or invalid value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct InvalidField {
    pub(crate) field: String,
    /// Says what the field must be, without repeating its value.
    pub(crate) message: String,
}

impl InvalidField {
    /// `field` may come from the request itself, so it is cut to `MAX_FIELD_CHARS`.
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut field = field.into();
        if let Some((end, _)) = field.char_indices().nth(MAX_FIELD_CHARS) {
            field.truncate(end);
            field.push('…');
        }
        Self { field, message: message.into() }
    }
}
