//! A row of the tables in [`table`](super::table), its patterns, and the diagnosis that it gives.

use std::time::Duration;

/// Backoff after a rate limit if Salesforce sends no `Retry-After` and the row sets no other.
pub(super) const DEFAULT_RETRY_AFTER: Duration = Duration::from_mins(1);

/// Whether retrying can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Not until somebody changes the configuration. Repeated failed logins can get this host's address blocked.
    Permanent,
    /// Retrying soon can help.
    Transient,
    /// A rate limit of Salesforce is reached; retrying helps after a backoff.
    Limited,
}

/// The diagnosis of an error response or an unverified session: cause, fix, and when to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Stable identifier. Replicas exchange it through the shared cache.
    pub(crate) id: &'static str,
    pub class: ErrorClass,
    /// For [`ErrorClass::Limited`]: how long not to retry if Salesforce sends no `Retry-After`.
    pub(crate) backoff: Duration,
    pub cause: &'static str,
    pub fix: &'static str,
}

/// A row of the tables: matches an error response by its `error` code, and by words of its description or its code. `""`
/// matches anything.
pub(super) struct KnownError {
    error: &'static str,
    description: &'static str,
    /// Whether it is a guess by a single word. Guesses don't apply to statuses from 500 on: messages of server errors
    /// contain such words with other meanings.
    pub(super) is_guess: bool,
    pub(super) diagnosis: Diagnosis,
}

pub(super) const fn known_error(
    id: &'static str,
    error: &'static str,
    description: &'static str,
    class: ErrorClass,
    cause: &'static str,
    fix: &'static str,
) -> KnownError {
    KnownError {
        error,
        description,
        is_guess: false,
        diagnosis: Diagnosis { id, class, backoff: DEFAULT_RETRY_AFTER, cause, fix },
    }
}

impl KnownError {
    pub(super) const fn with_backoff(mut self, backoff: Duration) -> Self {
        self.diagnosis.backoff = backoff;
        self
    }

    pub(super) const fn guessed(mut self) -> Self {
        self.is_guess = true;
        self
    }

    /// The non-empty patterns of the row.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &'static str> {
        [self.error, self.description].into_iter().filter(|words| !words.is_empty())
    }

    /// Whether the row matches. Both arguments must be in lower case.
    pub(super) fn matches(&self, error: &str, description: &str) -> bool {
        let by_code = self.error.is_empty() || self.error == error;
        let by_words = self.description.is_empty()
            || contains_words(description, self.description)
            || contains_words(error, self.description);
        by_code && by_words
    }
}

/// Whether `text` contains `words` as whole words.
fn contains_words(text: &str, words: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(words)
        .any(|(at, _)| !text[..at].ends_with(inside) && !text[at + words.len()..].starts_with(inside))
}
