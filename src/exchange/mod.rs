//! Salesforce as a client sees it: the two exchanges, what its errors mean, and the cache in front.
//!
//! - One exchange per key, however many ask. It runs by itself: whoever hangs up neither cancels nor repeats it.
//! - A hit never waits: from 70 % of its life on a token is renewed behind the answer, and if that fails, the
//!   old one serves until it really expires.
//! - A token lives until the earlier of the wall clock and a steady one says that it is over, so that no
//!   correction of the host's time prolongs it.
//! - Failures are remembered, hosts in trouble left alone, logins budgeted: nothing here can be made to ask
//!   Salesforce as often as callers ask us.
//! - Replicas may share what they keep (`shared`); each goes on alone when they can't.
//! - Nothing is kept that was got with a key that has been taken away since.
//! - Nothing is kept of an answer that isn't whole, verified and in Salesforce's own domains.
//! - Who may ask is decided before, on every request; a hit is no permission.

mod attempt;
mod budget;
mod circuit;
mod exchanger;
mod job;
pub mod meaning;
mod shared;
mod upstream;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use prometheus::IntCounter;
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use crate::clock::{Clock, Randomness, UnixTime};
use crate::config::KeyId;
use crate::tokens::MintError;
pub use exchanger::{Exchanger, NoClient, Tools};
use job::{Life, Obtained};
use meaning::Meaning;
use upstream::Fault;
pub use upstream::{Seen, look};

/// An access token and what came with it.
pub struct AccessToken {
    pub secret: SecretString,
    /// Of the token, for the audit line of each time that it is handed out.
    pub sha256: [u8; 32],
    pub about: About,
    /// The key that signed what it was exchanged for.
    pub kid: KeyId,
    pub obtained_at: UnixTime,
    pub expires_at: UnixTime,
    /// Salesforce said nothing of its life.
    assumed: bool,
    /// The steady clock's view of the same.
    expires_steady: Duration,
    renew_at: UnixTime,
    renew_steady: Duration,
    /// Counts each time that it was there already. Looked up at the first of them.
    hits: OnceLock<IntCounter>,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub enum About {
    Oauth { instance_url: String, scope: Option<String>, id: Option<String> },
    Messaging { last_event_id: String, subject: String },
}

/// When something is looked at, by both clocks, and a number between 0 and 1.
struct Moment {
    now: UnixTime,
    steady: Duration,
    chance: f64,
}

impl Moment {
    fn new(clock: &dyn Clock, randomness: &dyn Randomness) -> Self {
        Self { now: clock.now(), steady: clock.steady(), chance: chance(randomness) }
    }
}

/// Between 0 and 1; without randomness just in between, as only spreading depends on it.
fn chance(randomness: &dyn Randomness) -> f64 {
    let mut byte = [0];
    randomness.fill(&mut byte).map_or(0.5, |()| f64::from(byte[0]) / 255.0)
}

impl AccessToken {
    /// A token that was obtained then and lives for `left` from now on; with a moment for its renewal that differs a
    /// little from the others'.
    fn new(obtained: Obtained, kid: KeyId, obtained_at: UnixTime, left: Duration, moment: &Moment) -> Self {
        let Moment { now, steady, chance } = *moment;
        let age = Duration::from_secs(u64::try_from(obtained_at.seconds_until(now)).unwrap_or(0));
        let renew_after = age.saturating_add(left).mul_f64(0.1_f64.mul_add(chance, 0.65)).saturating_sub(age);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, obtained.secret.expose_secret().as_bytes()).as_ref());
        Self {
            secret: obtained.secret,
            sha256,
            about: obtained.about,
            kid,
            obtained_at,
            expires_at: now.plus(left),
            assumed: obtained.life == Life::Unsaid,
            expires_steady: steady.saturating_add(left),
            renew_at: now.plus(renew_after),
            renew_steady: steady.saturating_add(renew_after),
            hits: OnceLock::new(),
        }
    }

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
#[derive(Clone)]
pub struct Served {
    pub token: Arc<AccessToken>,
    /// Whether it was there before this request, here or in the shared cache.
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
