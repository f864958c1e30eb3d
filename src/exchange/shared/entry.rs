//! Serialization of tokens and failures for the shared cache. The token, URLs and session subject of an entry are
//! validated like a response of Salesforce; `token_format`, `scope` and `last_event_id` aren't. The
//! lifetime is at most [`MAX_TOKEN_LIFETIME`], and a default lifetime at most this replica's own.

use std::borrow::Cow;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::deps::ClockReading;
use super::super::errors;
use super::super::exchange_error::{ExchangeError, SalesforceError, TimeoutCause};
use super::super::negative_cache::{CachedFailure, MAX_RETRY_AFTER, SharedFailure};
use super::super::request::{TokenRequest, jwt_expiry};
use super::super::token::{AccessToken, MAX_TOKEN_LIFETIME, ObtainedToken, ReportedExpiry, TokenMetadata};
use crate::clock::UnixTime;
use crate::config::KeyId;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CachedEntry<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    about: Cow<'a, TokenMetadata>,
    kid: Cow<'a, str>,
    obtained_at: i64,
    expires_at: i64,
    /// Whether the lifetime is the default, because Salesforce reported none.
    assumed: bool,
}

/// Why an authentic entry was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryRejected {
    /// It isn't a valid response for this request.
    Invalid,
    /// It has expired, or its profile no longer has the key that signed for it.
    Stale,
}

pub(crate) fn serialize_token(token: &AccessToken) -> Zeroizing<Vec<u8>> {
    let entry = CachedEntry {
        token: token.secret.expose_secret().into(),
        about: Cow::Borrowed(&token.metadata),
        kid: token.kid.as_str().into(),
        obtained_at: token.obtained_at.seconds(),
        expires_at: token.expires_at.seconds(),
        assumed: token.is_default_lifetime,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(2 * token.weight() as usize));
    serde_json::to_writer(&mut *text, &entry).expect("strings can be written to memory");
    text
}

/// Parses a token and validates it for `token_request`. `left` is the remaining time in the store, if known.
pub(crate) fn parse_token(
    text: &[u8],
    token_request: &TokenRequest,
    left: Option<Duration>,
    reading: &ClockReading,
) -> Result<AccessToken, EntryRejected> {
    let entry: CachedEntry<'_> = serde_json::from_slice(text).map_err(|_| EntryRejected::Invalid)?;
    let kid = KeyId::parse(&entry.kid).map_err(|_| EntryRejected::Invalid)?;
    if !token_request.accepts(&entry.token, &entry.about) {
        return Err(EntryRejected::Invalid);
    }
    if !token_request.contains_kid(&kid) {
        return Err(EntryRejected::Stale);
    }
    let between = |from: UnixTime, to: UnixTime| {
        Duration::from_secs(u64::try_from(from.seconds_until(to)).unwrap_or(0))
    };
    let (obtained_at, claimed_end) =
        (UnixTime::from_seconds(entry.obtained_at), UnixTime::from_seconds(entry.expires_at));
    let mut life = between(obtained_at, claimed_end);
    if entry.assumed {
        life = life.min(token_request.default_lifetime());
    }
    // The writer's clock may be ahead.
    let obtained_at = obtained_at.min(reading.now);
    let end = obtained_at.plus(life).min(claimed_end);
    let end =
        jwt_expiry(&entry.token).map_err(|_| EntryRejected::Invalid)?.map_or(end, |expiry| expiry.min(end));
    let allowed = between(reading.now, end).min(MAX_TOKEN_LIFETIME);
    let left = left.map_or(allowed, |left| left.min(allowed));
    if left < Duration::from_secs(1) {
        return Err(EntryRejected::Stale);
    }
    let reported_expiry =
        ReportedExpiry { expires_in: Some(left).filter(|_| !entry.assumed), expires_at: None };
    let obtained = ObtainedToken {
        secret: SecretString::from(&*entry.token),
        metadata: entry.about.into_owned(),
        reported_expiry,
    };
    Ok(AccessToken::new(obtained, kid, obtained_at, left, reading))
}

/// A failure that concerns all replicas, serialized: an error response of Salesforce, an unusable response, an unverified
/// session, or a timeout.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum FailureRecord {
    Rejected { upstream: SalesforceError, meaning: String, asked: String },
    Unusable { status: u16, what: String, asked: String },
    Unverified { meaning: String },
    Timeout,
}

/// A failure with its time and its expiry by the wall clock, serialized.
#[derive(Serialize, Deserialize)]
struct SharedFailureRecord {
    failure: FailureRecord,
    kid: Option<String>,
    at: i64,
    until: i64,
}

/// Serializes a failure that happened at `now`; `None` if it doesn't concern other replicas.
pub(crate) fn serialize_failure(failed: &CachedFailure, now: UnixTime) -> Option<Vec<u8>> {
    let failure = match failed.error.clone() {
        ExchangeError::Rejected { upstream, diagnosis, request_summary, .. } => {
            FailureRecord::Rejected { upstream, meaning: diagnosis.id.to_owned(), asked: request_summary }
        }
        ExchangeError::Unusable { status, what, request_summary, .. } => {
            FailureRecord::Unusable { status, what, asked: request_summary }
        }
        ExchangeError::Unverified { diagnosis } => {
            FailureRecord::Unverified { meaning: diagnosis.id.to_owned() }
        }
        ExchangeError::Timeout { waited_for: TimeoutCause::Salesforce, .. } => FailureRecord::Timeout,
        _ => return None,
    };
    let kid = failed.kid.as_ref().map(|kid| kid.as_str().to_owned());
    let record =
        SharedFailureRecord { failure, kid, at: now.seconds(), until: now.plus(failed.ttl()).seconds() };
    Some(serde_json::to_vec(&record).expect("strings can be written to memory"))
}

/// Parses a failure; `None` if it is invalid or has expired. `left` is the remaining time in the store, if known.
pub(crate) fn parse_failure(
    text: &[u8],
    left: Option<Duration>,
    reading: &ClockReading,
) -> Option<SharedFailure> {
    let SharedFailureRecord { failure, kid, at, until } = serde_json::from_slice(text).ok()?;
    let kid = kid.map(|kid| KeyId::parse(&kid)).transpose().ok()?;
    let age = UnixTime::from_seconds(at).seconds_until(reading.now);
    let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
    let claimed = u64::try_from(reading.now.seconds_until(UnixTime::from_seconds(until))).ok()?;
    let claimed = Duration::from_secs(claimed).min(MAX_RETRY_AFTER);
    let remaining = left.map_or(claimed, |left| left.min(claimed));
    let retry_after = Some(remaining);
    let error = match failure {
        FailureRecord::Rejected { upstream, meaning, asked } => {
            let diagnosis = errors::by_id(&meaning)?;
            ExchangeError::Rejected { upstream, diagnosis, request_summary: asked, retry_after }
        }
        FailureRecord::Unusable { status, what, asked } => {
            ExchangeError::Unusable { status, what, request_summary: asked, retry_after }
        }
        FailureRecord::Unverified { meaning } => {
            ExchangeError::Unverified { diagnosis: errors::by_id(&meaning)? }
        }
        FailureRecord::Timeout => {
            ExchangeError::Timeout { waited_for: TimeoutCause::Salesforce, retry_after }
        }
    };
    Some(SharedFailure { error, kid, at: reading.monotonic.saturating_sub(age), remaining })
}
