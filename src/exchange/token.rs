//! Access tokens with their metadata, expiry and refresh time. The refresh is due at 65 to 75 % of the lifetime, with jitter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use prometheus::IntCounter;
use secrecy::{ExposeSecret as _, SecretString};

use super::deps::ClockReading;
use super::upstream::SessionState;
use crate::clock::UnixTime;
use crate::config::KeyId;
use crate::hash::sha256;

/// Maximum lifetime of a cached access token, whatever Salesforce reports. `access_token_ttl` has the same bound.
pub(super) const MAX_TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// The shortest time between a check of a session without a clear answer and the next.
pub(super) const UNCLEAR_PAUSE: Duration = Duration::from_secs(30);

/// The content of a valid token response.
pub(super) struct ObtainedToken {
    pub(crate) secret: SecretString,
    pub(crate) metadata: TokenMetadata,
    pub(crate) reported_expiry: ReportedExpiry,
}

/// The expiry that Salesforce reports: `exp` of the token, `expires_in` of the response, both, or neither. The earlier
/// one counts. If there is neither, [`TokenRequest::default_lifetime`](super::request::TokenRequest::default_lifetime)
/// applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReportedExpiry {
    pub(crate) expires_at: Option<UnixTime>,
    pub(crate) expires_in: Option<Duration>,
}

/// The SHA-256 of a token, to compare tokens without storing them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash(pub(crate) [u8; 32]);

impl TokenHash {
    pub(crate) fn of(secret: &SecretString) -> Self {
        Self(sha256(secret.expose_secret().as_bytes()))
    }
}

/// An access token with its metadata and expiry.
pub struct AccessToken {
    pub secret: SecretString,
    /// SHA-256 of the token, to compare it, and for the audit line of each response that contains it.
    pub sha256: [u8; 32],
    pub(crate) metadata: TokenMetadata,
    /// The key that signed the JWT that was exchanged for it.
    pub kid: KeyId,
    pub(crate) obtained_at: UnixTime,
    pub expires_at: UnixTime,
    /// Salesforce reported no expiry, so the default lifetime applies.
    pub(super) is_default_lifetime: bool,
    /// The remaining lifetime when this value was created: for a token of the shared cache, less than its whole lifetime.
    lifetime_at_creation: Duration,
    /// `expires_at` on the monotonic clock.
    expires_monotonic: Duration,
    refresh_at: UnixTime,
    refresh_monotonic: Duration,
    /// The replicas' announcements say that Salesforce rejects it. The next request starts an exchange for a replacement,
    /// unless a failure is cached.
    rejected: AtomicBool,
    /// The result of the last check of its session, and when it came on the monotonic clock. `None` before the first check.
    last_check: Mutex<Option<(SessionState, Duration)>>,
    /// Counts cache hits. Looked up at the first hit.
    pub(super) hits: OnceLock<IntCounter>,
}

/// The fields of a token response that callers get along with the token.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum TokenMetadata {
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
    /// Creates a token that expires `remaining` from now. Its refresh is due at 65 to 75 % of its whole lifetime, with
    /// jitter so that not all tokens are refreshed at once (thundering herd).
    pub(super) fn new(
        obtained: ObtainedToken,
        kid: KeyId,
        obtained_at: UnixTime,
        remaining: Duration,
        reading: &ClockReading,
    ) -> Self {
        let ClockReading { now, monotonic, fraction } = *reading;
        let age = Duration::from_secs(u64::try_from(obtained_at.seconds_until(now)).unwrap_or(0));
        let refresh_after =
            age.saturating_add(remaining).mul_f64(0.1_f64.mul_add(fraction, 0.65)).saturating_sub(age);
        Self {
            sha256: TokenHash::of(&obtained.secret).0,
            secret: obtained.secret,
            metadata: obtained.metadata,
            kid,
            obtained_at,
            expires_at: now.plus(remaining),
            is_default_lifetime: obtained.reported_expiry == ReportedExpiry::default(),
            lifetime_at_creation: remaining,
            expires_monotonic: monotonic.saturating_add(remaining),
            refresh_at: now.plus(refresh_after),
            refresh_monotonic: monotonic.saturating_add(refresh_after),
            rejected: AtomicBool::new(false),
            last_check: Mutex::new(None),
            hits: OnceLock::new(),
        }
    }

    pub(super) fn is_live(&self, now: UnixTime, monotonic: Duration) -> bool {
        now < self.expires_at && monotonic < self.expires_monotonic
    }

    /// Whether the background refresh is due.
    pub(super) fn needs_refresh(&self, now: UnixTime, monotonic: Duration) -> bool {
        now >= self.refresh_at || monotonic >= self.refresh_monotonic
    }

    /// Returns the remaining lifetime in whole seconds, by the clock that says less.
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

    /// Returns the state of its session, if a check or the login showed it within the last `interval`.
    pub(super) fn session_state(
        &self,
        interval: Duration,
        now: UnixTime,
        monotonic: Duration,
    ) -> Option<SessionState> {
        let last_check = *self.last_check.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((state, at)) = last_check {
            let pause = if state == SessionState::Unknown { interval.max(UNCLEAR_PAUSE) } else { interval };
            return (monotonic.saturating_sub(at) < pause).then_some(state);
        }
        // A token of the shared cache may be older than this object.
        let age = u64::try_from(self.obtained_at.seconds_until(now)).ok()?;
        (Duration::from_secs(age) < interval).then_some(SessionState::Live)
    }

    pub(super) fn record_check(&self, state: SessionState, monotonic: Duration) {
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = Some((state, monotonic));
    }

    /// Approximate memory use in bytes.
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

/// Evicts a token from the cache when it expires, so that expired tokens don't displace valid ones.
pub(super) struct TokenExpiry;

impl<K> Expiry<K, Arc<AccessToken>> for TokenExpiry {
    fn expire_after_create(&self, _: &K, token: &Arc<AccessToken>, _: Instant) -> Option<Duration> {
        Some(token.lifetime_at_creation)
    }

    fn expire_after_update(
        &self,
        _: &K,
        token: &Arc<AccessToken>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.lifetime_at_creation)
    }
}

/// A token that is served to a caller.
#[derive(Clone)]
pub struct ServedToken {
    pub token: Arc<AccessToken>,
    /// Whether it came from this replica's cache or the shared cache.
    pub cached: bool,
    /// Whether it is the same token that the caller reported as rejected.
    pub rejected_token_kept: bool,
}
