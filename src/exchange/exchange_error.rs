//! Why there is no access token.

use std::time::Duration;

use thiserror::Error;

use super::errors::{Diagnosis, ErrorClass};
use crate::tokens::MintError;

/// Salesforce's own words, shortened and printable.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SalesforceError {
    pub status: u16,
    pub error: Option<String>,
    pub error_description: Option<String>,
}

/// What a request waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutCause {
    Salesforce,
    /// Another replica, which holds the lock on the exchange.
    Replica,
    /// The end of an exchange that goes on behind the answer.
    Exchange,
}

impl TimeoutCause {
    const fn message(self) -> &'static str {
        match self {
            Self::Salesforce => "Salesforce did not answer in time",
            Self::Replica => {
                "another replica is exchanging this token and did not end in time; ask again as Retry-After says"
            }
            Self::Exchange => {
                "the exchange did not end within this request's time (server.limits.request_timeout): Salesforce, or another \
                 replica that exchanges the same token, has not answered; it goes on, so ask again as Retry-After says"
            }
        }
    }
}

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// Salesforce said no.
    #[error("{}: {} ({request_summary})", diagnosis.cause, diagnosis.fix)]
    Rejected {
        upstream: SalesforceError,
        diagnosis: &'static Diagnosis,
        request_summary: String,
        retry_after: Option<Duration>,
    },
    /// Whoever answered gave neither a token nor a refusal.
    #[error("Salesforce answered {status} with {what} ({request_summary})")]
    Unusable { status: u16, what: String, request_summary: String, retry_after: Option<Duration> },
    #[error("{}: {}", diagnosis.cause, diagnosis.fix)]
    Unverified { diagnosis: &'static Diagnosis },
    /// Nobody answered; where `sent` is false, nothing of the request has left.
    #[error("Salesforce can't be reached: {reason}")]
    Unreachable { reason: &'static str, sent: bool, retry_after: Option<Duration> },
    /// The circuit of the host is open.
    #[error(
        "{host} fails again and again, so it is left alone for a moment; it is asked again by itself: look at \
         status.salesforce.com, and at what the log says of the exchanges before"
    )]
    CircuitOpen { host: String, retry_after: Duration },
    #[error(
        "tokenmint's own budget of requests for {profile} is used up, so that Salesforce doesn't lock it out; find who \
         asks so often"
    )]
    LoginRateLimited { profile: String, retry_after: Duration },
    #[error("{}", waited_for.message())]
    Timeout { waited_for: TimeoutCause, retry_after: Option<Duration> },
    #[error("the exchange was interrupted")]
    Interrupted,
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl ExchangeError {
    /// The word for metrics, logs and spans.
    pub(super) fn outcome_label(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Unusable { .. } if self.is_permanent() => "rejected",
            Self::Unverified { .. } => "unverified",
            Self::Timeout { .. } => "timeout",
            Self::Unusable { .. } | Self::Unreachable { .. } | Self::Interrupted => "unavailable",
            Self::CircuitOpen { .. } => "circuit",
            Self::LoginRateLimited { .. } => "budget",
            Self::Mint(_) => "not_minted",
        }
    }

    /// When to ask again, where that can help.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. }
            | Self::Unusable { retry_after, .. }
            | Self::Unreachable { retry_after, .. }
            | Self::Timeout { retry_after, .. } => *retry_after,
            Self::CircuitOpen { retry_after, .. } | Self::LoginRateLimited { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::Interrupted => Some(Duration::from_secs(1)),
            Self::Unverified { .. } | Self::Mint(_) => None,
        }
    }

    /// The same, to be asked about again after `wait`.
    #[expect(clippy::missing_const_for_fn, reason = "an error can't be dropped in a constant")]
    pub(super) fn with_retry_after(mut self, wait: Duration) -> Self {
        match &mut self {
            Self::Rejected { retry_after, .. }
            | Self::Unusable { retry_after, .. }
            | Self::Unreachable { retry_after, .. }
            | Self::Timeout { retry_after, .. } => *retry_after = Some(wait),
            Self::CircuitOpen { retry_after, .. } | Self::LoginRateLimited { retry_after, .. } => {
                *retry_after = wait;
            }
            Self::Unverified { .. } | Self::Mint(_) | Self::Interrupted => {}
        }
        self
    }

    /// What stays wrong until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Rejected { diagnosis, .. } => diagnosis.class == ErrorClass::Permanent,
            Self::Unusable { status, .. } => *status < 500 && *status != 429,
            Self::Unverified { .. } => true,
            _ => false,
        }
    }

    /// Whether Salesforce was asked for a token.
    pub(super) const fn was_sent(&self) -> bool {
        match self {
            Self::Rejected { .. } | Self::Unusable { .. } | Self::Unverified { .. } => true,
            Self::Unreachable { sent, .. } => *sent,
            Self::Timeout { waited_for, .. } => matches!(waited_for, TimeoutCause::Salesforce),
            Self::CircuitOpen { .. } | Self::LoginRateLimited { .. } | Self::Interrupted | Self::Mint(_) => {
                false
            }
        }
    }

    /// Whether the host that was asked is in trouble. A whole answer below 500 means that it lives, and so does one that names
    /// what is wrong with the configuration.
    pub(super) const fn is_host_failure(&self) -> bool {
        match self {
            Self::Rejected { upstream, diagnosis, .. } => {
                upstream.status >= 500 && !matches!(diagnosis.class, ErrorClass::Permanent)
            }
            Self::Unusable { status, .. } => *status >= 500,
            Self::Unreachable { .. } => true,
            Self::Timeout { waited_for, .. } => matches!(waited_for, TimeoutCause::Salesforce),
            _ => false,
        }
    }
}
