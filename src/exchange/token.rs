//! An access token as it is kept and handed out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use moka::Expiry;
use prometheus::IntCounter;
use secrecy::{ExposeSecret as _, SecretString};

use super::deps::ClockReading;
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::hash::sha256;

/// No access token is kept longer, whatever Salesforce claims of its life: `access_token_ttl` has the same bound.
pub(super) const MAX_TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// What an answer that counts gives.
pub(super) struct ObtainedToken {
    pub secret: SecretString,
    pub metadata: TokenMetadata,
    /// As far as the answer says.
    pub reported_expiry: ReportedExpiry,
}

/// What is said of a token's end: the sooner of the two, or the rule of the job where neither is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReportedExpiry {
    pub expires_at: Option<UnixTime>,
    pub expires_in: Option<Duration>,
}

/// The SHA-256 of a token: it tells one token from another, and nothing else of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash(pub [u8; 32]);

impl TokenHash {
    pub fn of(secret: &SecretString) -> Self {
        Self(sha256(secret.expose_secret().as_bytes()))
    }
}

/// An access token and what came with it.
pub struct AccessToken {
    pub secret: SecretString,
    /// Of the token, for the audit line of each time that it is handed out.
    pub sha256: [u8; 32],
    pub metadata: TokenMetadata,
    /// The key that signed what it was exchanged for.
    pub kid: KeyId,
    pub obtained_at: UnixTime,
    pub expires_at: UnixTime,
    /// Salesforce said nothing of its life.
    pub(super) is_default_lifetime: bool,
    /// What was left of its life when this value was made.
    remaining: Duration,
    /// The steady clock's view of `expires_at`.
    expires_monotonic: Duration,
    renew_at: UnixTime,
    renew_monotonic: Duration,
    /// Another replica was told that Salesforce refuses it: it serves only until there is a better one.
    rejected: AtomicBool,
    /// Counts each time that it was there already. Looked up at the first of them.
    pub(super) hits: OnceLock<IntCounter>,
}

#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub enum TokenMetadata {
    Oauth {
        instance_url: String,
        api_instance_url: Option<String>,
        token_format: Option<String>,
        scope: Option<String>,
        id: Option<String>,
    },
    Messaging {
        last_event_id: String,
        subject: String,
    },
}

impl AccessToken {
    /// A token that was obtained then and lives for `remaining` from now on; with a moment for its renewal that differs a
    /// little from the others'.
    pub(super) fn new(
        obtained: ObtainedToken,
        kid: KeyId,
        obtained_at: UnixTime,
        remaining: Duration,
        moment: &ClockReading,
    ) -> Self {
        let ClockReading { now, monotonic, fraction } = *moment;
        let age = Duration::from_secs(u64::try_from(obtained_at.seconds_until(now)).unwrap_or(0));
        let renew_after =
            age.saturating_add(remaining).mul_f64(0.1_f64.mul_add(fraction, 0.65)).saturating_sub(age);
        Self {
            sha256: TokenHash::of(&obtained.secret).0,
            secret: obtained.secret,
            metadata: obtained.metadata,
            kid,
            obtained_at,
            expires_at: now.plus(remaining),
            is_default_lifetime: obtained.reported_expiry == ReportedExpiry::default(),
            remaining,
            expires_monotonic: monotonic.saturating_add(remaining),
            renew_at: now.plus(renew_after),
            renew_monotonic: monotonic.saturating_add(renew_after),
            rejected: AtomicBool::new(false),
            hits: OnceLock::new(),
        }
    }

    pub(super) fn is_live(&self, now: UnixTime, monotonic: Duration) -> bool {
        now < self.expires_at && monotonic < self.expires_monotonic
    }

    pub(super) fn needs_refresh(&self, now: UnixTime, monotonic: Duration) -> bool {
        now >= self.renew_at || monotonic >= self.renew_monotonic
    }

    /// Whole seconds that are left of its life by the clock that says less.
    pub fn expires_in(&self, now: UnixTime, monotonic: Duration) -> i64 {
        let by_monotonic = i64::try_from(self.expires_monotonic.saturating_sub(monotonic).as_secs());
        now.seconds_until(self.expires_at).min(by_monotonic.unwrap_or(i64::MAX)).max(0)
    }

    pub(super) const fn hash(&self) -> TokenHash {
        TokenHash(self.sha256)
    }

    pub(super) fn mark_rejected(&self) {
        self.rejected.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_marked_rejected(&self) -> bool {
        self.rejected.load(Ordering::Relaxed)
    }

    /// What it costs to keep, in bytes.
    pub(super) fn weight(&self) -> u32 {
        let metadata = match &self.metadata {
            TokenMetadata::Oauth { instance_url, api_instance_url, token_format, scope, id } => {
                let optional = [api_instance_url, token_format, scope, id];
                instance_url.len() + optional.into_iter().flatten().map(String::len).sum::<usize>()
            }
            TokenMetadata::Messaging { last_event_id, subject } => last_event_id.len() + subject.len(),
        };
        u32::try_from(self.secret.expose_secret().len() + metadata + 400).unwrap_or(u32::MAX)
    }
}

/// Lets a token leave the cache at its end, so that dead ones push no live one out.
pub(super) struct TokenExpiry;

impl<K> Expiry<K, Arc<AccessToken>> for TokenExpiry {
    fn expire_after_create(&self, _: &K, token: &Arc<AccessToken>, _: Instant) -> Option<Duration> {
        Some(token.remaining)
    }

    fn expire_after_update(
        &self,
        _: &K,
        token: &Arc<AccessToken>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.remaining)
    }
}

/// A token as it is handed out.
#[derive(Clone)]
pub struct ServedToken {
    pub token: Arc<AccessToken>,
    /// Whether it was there before this request, here or in the shared cache.
    pub cached: bool,
    /// Whether it is the very one that the caller has called rejected.
    pub rejected_token_kept: bool,
}
