//! An access token as it is kept and handed out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use moka::Expiry;
use prometheus::IntCounter;
use secrecy::{ExposeSecret as _, SecretString};

use super::tools::Moment;
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::hash::sha256;

/// No access token is kept longer, whatever Salesforce claims of its life: `access_token_ttl` has the same bound.
pub(super) const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// What an answer that counts gives.
pub(super) struct Obtained {
    pub secret: SecretString,
    pub about: About,
    /// As far as the answer says.
    pub life: Life,
}

/// What is said of a token's end: the sooner of the two, or the rule of the job where neither is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    pub until: Option<UnixTime>,
    pub lasts: Option<Duration>,
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
    pub about: About,
    /// The key that signed what it was exchanged for.
    pub kid: KeyId,
    pub obtained_at: UnixTime,
    pub expires_at: UnixTime,
    /// Salesforce said nothing of its life.
    pub(super) assumed: bool,
    /// What was left of its life when this value was made.
    left: Duration,
    /// The monotonic clock's view of `expires_at`.
    expires_steady: Duration,
    renew_at: UnixTime,
    renew_steady: Duration,
    /// Another replica was told that Salesforce refuses it: it serves only until there is a better one.
    refused: AtomicBool,
    /// Counts each time that it was there already. Looked up at the first of them.
    pub(super) hits: OnceLock<IntCounter>,
}

#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub enum About {
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
    /// A token that was obtained then and lives for `left` from now on; with a moment for its renewal that differs a
    /// little from the others'.
    pub(super) fn new(
        obtained: Obtained,
        kid: KeyId,
        obtained_at: UnixTime,
        left: Duration,
        moment: &Moment,
    ) -> Self {
        let Moment { now, steady, chance } = *moment;
        let age = Duration::from_secs(u64::try_from(obtained_at.seconds_until(now)).unwrap_or(0));
        let renew_after = age.saturating_add(left).mul_f64(0.1_f64.mul_add(chance, 0.65)).saturating_sub(age);
        Self {
            sha256: TokenHash::of(&obtained.secret).0,
            secret: obtained.secret,
            about: obtained.about,
            kid,
            obtained_at,
            expires_at: now.plus(left),
            assumed: obtained.life == Life::default(),
            left,
            expires_steady: steady.saturating_add(left),
            renew_at: now.plus(renew_after),
            renew_steady: steady.saturating_add(renew_after),
            refused: AtomicBool::new(false),
            hits: OnceLock::new(),
        }
    }

    pub(super) fn lives(&self, now: UnixTime, steady: Duration) -> bool {
        now < self.expires_at && steady < self.expires_steady
    }

    pub(super) fn wants_renewal(&self, now: UnixTime, steady: Duration) -> bool {
        now >= self.renew_at || steady >= self.renew_steady
    }

    /// Whole seconds that are left of its life by the clock that says less.
    pub fn expires_in(&self, now: UnixTime, steady: Duration) -> i64 {
        let by_steady = i64::try_from(self.expires_steady.saturating_sub(steady).as_secs());
        now.seconds_until(self.expires_at).min(by_steady.unwrap_or(i64::MAX)).max(0)
    }

    pub(super) const fn hash(&self) -> TokenHash {
        TokenHash(self.sha256)
    }

    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// What it costs to keep, in bytes.
    pub(super) fn weight(&self) -> u32 {
        let about = match &self.about {
            About::Oauth { instance_url, api_instance_url, token_format, scope, id } => {
                let optional = [api_instance_url, token_format, scope, id];
                instance_url.len() + optional.into_iter().flatten().map(String::len).sum::<usize>()
            }
            About::Messaging { last_event_id, subject } => last_event_id.len() + subject.len(),
        };
        u32::try_from(self.secret.expose_secret().len() + about + 400).unwrap_or(u32::MAX)
    }
}

/// Lets a token leave the cache at its end, so that dead ones push no live one out.
pub(super) struct ByLife;

impl<K> Expiry<K, Arc<AccessToken>> for ByLife {
    fn expire_after_create(&self, _: &K, token: &Arc<AccessToken>, _: Instant) -> Option<Duration> {
        Some(token.left)
    }

    fn expire_after_update(
        &self,
        _: &K,
        token: &Arc<AccessToken>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.left)
    }
}

/// A token as it is handed out.
#[derive(Clone)]
pub struct Served {
    pub token: Arc<AccessToken>,
    /// Whether it was there before this request, here or in the shared cache.
    pub cached: bool,
    /// Whether it is the very one that the caller has called rejected.
    pub rejected_token_kept: bool,
}
