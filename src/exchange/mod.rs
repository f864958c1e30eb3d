//! Salesforce as a client sees it: the two exchanges, what its errors mean, and the cache in front.
//!
//! - One exchange per key, however many ask. It runs by itself: whoever hangs up neither cancels nor repeats it.
//! - A hit never waits: from 70 % of its life on a token is renewed behind the answer, and if that fails, the
//!   old one serves until it really expires.
//! - A token lives until the earlier of the wall clock and a steady one says that it is over, so that no
//!   correction of the host's time prolongs it.
//! - Failures are remembered, hosts in trouble left alone, logins budgeted: nothing here can be made to ask
//!   Salesforce as often as callers ask us.
//! - Nothing is kept that was got with a key that has been taken away since.
//! - Nothing is kept of an answer that isn't whole, verified and in Salesforce's own domains.
//! - Who may ask is decided before, on every request; a hit is no permission.

mod budget;
mod circuit;
mod exchanger;
mod job;
pub mod meaning;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::tokens::MintError;
pub use exchanger::{Exchanger, NoClient, Tools};
use meaning::Meaning;
use upstream::Fault;
pub use upstream::{Seen, look};

/// An access token and what came with it.
pub struct AccessToken {
    pub secret: SecretString,
    pub about: About,
    /// The key that signed what it was exchanged for.
    pub kid: KeyId,
    pub obtained_at: UnixTime,
    pub expires_at: UnixTime,
    /// The steady clock's view of the same.
    expires_steady: Duration,
    renew_at: UnixTime,
    renew_steady: Duration,
}

pub enum About {
    Oauth { instance_url: String, scope: Option<String>, id: Option<String> },
    Messaging { last_event_id: String, subject: String },
}

impl AccessToken {
    fn lives(&self, now: UnixTime, steady: Duration) -> bool {
        now < self.expires_at && steady < self.expires_steady
    }

    fn wants_renewal(&self, now: UnixTime, steady: Duration) -> bool {
        now >= self.renew_at || steady >= self.renew_steady
    }

    /// What it costs to keep, in bytes.
    fn weight(&self) -> u32 {
        let about = match &self.about {
            About::Oauth { instance_url, scope, id } => {
                instance_url.len() + [scope, id].into_iter().flatten().map(String::len).sum::<usize>()
            }
            About::Messaging { last_event_id, subject } => last_event_id.len() + subject.len(),
        };
        u32::try_from(self.secret.expose_secret().len() + about + 400).unwrap_or(u32::MAX)
    }
}

/// A token as it is handed out.
pub struct Served {
    pub token: Arc<AccessToken>,
    /// Whether it was there before this request.
    pub cached: bool,
}

/// Salesforce's own words, shortened and printable.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Upstream {
    pub status: u16,
    pub error: Option<String>,
    pub error_description: Option<String>,
}

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// Salesforce said no.
    #[error("{}: {} ({asked})", meaning.cause, meaning.fix)]
    Rejected { upstream: Upstream, meaning: &'static Meaning, asked: String, retry_after: Option<Duration> },
    #[error("{}: {}", meaning.cause, meaning.fix)]
    Unverified { meaning: &'static Meaning },
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Option<Duration> },
    #[error("Salesforce did not answer in time")]
    Timeout { retry_after: Option<Duration> },
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl ExchangeError {
    /// The word for metrics.
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Unverified { .. } => "unverified",
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::Mint(_) => "not_minted",
        }
    }

    /// When to ask again, where that can help.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. }
            | Self::Unavailable { retry_after, .. }
            | Self::Timeout { retry_after } => *retry_after,
            Self::Unverified { .. } | Self::Mint(_) => None,
        }
    }

    fn waiting(self, wait: Duration) -> Self {
        let retry_after = Some(wait);
        match self {
            Self::Rejected { upstream, meaning, asked, .. } => {
                Self::Rejected { upstream, meaning, asked, retry_after }
            }
            Self::Unavailable { reason, .. } => Self::Unavailable { reason, retry_after },
            Self::Timeout { .. } => Self::Timeout { retry_after },
            other @ (Self::Unverified { .. } | Self::Mint(_)) => other,
        }
    }
}

impl From<Fault> for ExchangeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Timeout => Self::Timeout { retry_after: None },
            Fault::Unusable { retry_after, .. } => {
                Self::Unavailable { reason: fault.to_string(), retry_after }
            }
            Fault::Unreachable(_) => Self::Unavailable { reason: fault.to_string(), retry_after: None },
        }
    }
}
