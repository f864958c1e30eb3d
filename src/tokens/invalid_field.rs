//! Why a request gets no token, by the field at fault.

use thiserror::Error;

/// Characters of a field's name that a refusal shows.
const MAX_FIELD_CHARS: usize = 64;

/// Something in a request that no token is minted for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {message}")]
pub struct InvalidField {
    pub field: String,
    /// Says what the field should be; doesn't repeat it.
    pub message: String,
}

impl InvalidField {
    /// `field` may be a name that the request made up: of an endless one only the beginning is kept.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut field = field.into();
        if let Some((end, _)) = field.char_indices().nth(MAX_FIELD_CHARS) {
            field.truncate(end);
            field.push('…');
        }
        Self { field, message: message.into() }
    }
}
