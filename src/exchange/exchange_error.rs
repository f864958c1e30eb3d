//! [`ExchangeError`]: why an exchange gave no access token.

use std::time::Duration;

use thiserror::Error;

use super::errors::{Diagnosis, ErrorClass};
use crate::tokens::MintError;

/// The error response of Salesforce, with its texts truncated and without control characters.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SalesforceError {
    pub status: u16,
    pub(crate) error: Option<String>,
    pub(crate) error_description: Option<String>,
}

/// The operation that a request was waiting for when it timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutCause {
    /// The request to Salesforce.
    Salesforce,
    /// Another replica, which holds the lock of this exchange.
    Replica,
    /// An exchange that continues in the background.
    Exchange,
}

impl TimeoutCause {
    const fn message(self) -> &'static str {
        match self {
            Self::Salesforce => "Salesforce did not answer in time",
            Self::Replica => {
                "another replica is exchanging this token and did not finish in time; retry after Retry-After"
            }
            Self::Exchange => {
                "the exchange did not finish within server.limits.request_timeout: Salesforce, or another replica that exchanges \
                 the same token, has not answered; it continues in the background, so retry after Retry-After"
            }
        }
    }
}

/// Why an exchange gave no access token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// Salesforce answered with an error.
    #[error("{}: {} ({request_summary})", diagnosis.cause, diagnosis.fix)]
    Rejected {
        upstream: SalesforceError,
        diagnosis: &'static Diagnosis,
        request_summary: String,
        retry_after: Option<Duration>,
    },
    /// The response was neither a valid token response nor a valid error response.
    #[error("Salesforce answered {status} with {what} ({request_summary})")]
    Unusable { status: u16, what: String, request_summary: String, retry_after: Option<Duration> },
    #[error("{}: {}", diagnosis.cause, diagnosis.fix)]
    Unverified { diagnosis: &'static Diagnosis },
    /// There was no complete, valid response. If `sent` is false, no byte of the request was sent.
    #[error("Salesforce {}{reason}", if *sent { "was reached, but " } else { "can't be reached: " })]
    Unreachable { reason: &'static str, sent: bool, retry_after: Option<Duration> },
    /// The host's circuit breaker is open.
    #[error(
        "{host} failed repeatedly, so tokenmint sends it no requests for a moment and retries by itself: check \
         status.salesforce.com, and the log for the errors of earlier exchanges"
    )]
    CircuitOpen { host: String, retry_after: Duration },
    #[error(
        "tokenmint's own budget of requests for {profile} is used up, which prevents a lockout by Salesforce: find the caller \
         that asks so often"
    )]
    LoginRateLimited { profile: String, retry_after: Duration },
    #[error("{}", waited_for.message())]
    Timeout { waited_for: TimeoutCause, retry_after: Option<Duration> },
    #[error(
        "the request to Salesforce was given up before it was finished: its time was used up, or an internal task ended; the \
         next request retries it"
    )]
    Interrupted,
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl ExchangeError {
    /// The value of the label `outcome` in metrics, logs and spans.
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

    /// When to retry; `None` if no time is known.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
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

    /// Sets the time to retry, on the variants that store one.
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

    /// Whether the error is assumed to persist until somebody changes the configuration, here or in Salesforce.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Rejected { diagnosis, .. } => diagnosis.class == ErrorClass::Permanent,
            Self::Unusable { status, .. } => *status < 500 && *status != 429,
            Self::Unverified { .. } => true,
            _ => false,
        }
    }

    /// Whether the request was sent to Salesforce, and so counts against its limits.
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

    /// Whether the circuit breaker counts this as a failure of the host. A complete response below 500 isn't one, nor is an
    /// error that names a known permanent cause, whatever its status.
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
