//! The audit log: one line for each token that a caller gets, with the caller and, if there is one, the subject.
//!
//! A line names the key that signed if the token's header does (`kid`). The same target also has the lines `exchanged` and
//! `exchange failed` of the exchanger, and `would be refused` of callers in audit mode.
//!
//! If a `subject_token` proves the subject, the line names the issuer that says so.
//!
//! The subject appears as an HMAC and the token as its SHA-256. So a line can be matched with a token, but reveals neither token
//! nor subject. If the audit is required, a request whose line the log drops or excludes fails, and the token isn't returned.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use secrecy::ExposeSecret as _;

use super::ApiError;
use super::request::AuthenticatedCaller;
use crate::callers::RequestedSubject;
use crate::config::{Name, ProfileName};
use crate::exchange::ServedToken;
use crate::tokens::{MintedToken, Subject};

/// The `tracing` target of audit lines.
pub(crate) const AUDIT_TARGET: &str = "tokenmint::audit";

/// Returns the number of log lines dropped so far. A dropped line is counted before the call that logs it returns.
pub(crate) type DroppedLineCounter = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Logs an event with the fields that each line of a token begins with, and then `fields`.
macro_rules! info_of_token {
    ($authenticated:ident, $profile:ident, $($fields:tt)+) => {
        tracing::info!(
            target: AUDIT_TARGET,
            request_id = $authenticated.scope.id(),
            trace_id = $authenticated.scope.trace_id(),
            caller = $authenticated.caller.name.as_str(),
            credential = $authenticated.credential.as_str(),
            profile = $profile.as_str(),
            $($fields)+
        )
    };
}

/// Writes audit lines.
pub(crate) struct Audit {
    key: hmac::Key,
    /// Set if the audit is required.
    dropped: Option<DroppedLineCounter>,
}

impl Audit {
    /// `key` is the HMAC key for subjects: with the same key, a subject has the same HMAC in all lines. `required` is set if no
    /// token may be returned without its audit line.
    pub(crate) fn new(key: &[u8], required: Option<DroppedLineCounter>) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), dropped: required }
    }

    /// Whether the log accepts audit lines at all; `RUST_LOG` can exclude them.
    pub(crate) fn is_enabled() -> bool {
        tracing::enabled!(target: AUDIT_TARGET, tracing::Level::INFO)
    }

    /// Logs a line by calling `line`.
    ///
    /// A line that another thread drops at the same time counts as a failure too. So a request may fail needlessly, but no
    /// dropped line is missed.
    ///
    /// # Errors
    /// The audit is required, and a line was dropped or audit lines are excluded.
    fn log(&self, line: impl FnOnce()) -> Result<(), ApiError> {
        let Some(dropped) = &self.dropped else {
            line();
            return Ok(());
        };
        let before = dropped();
        line();
        if dropped() == before && Self::is_enabled() { Ok(()) } else { Err(ApiError::AuditUnavailable) }
    }

    /// The first 16 bytes of the subject's HMAC-SHA-256, in hexadecimal.
    pub(super) fn subject_hmac(&self, subject: &Subject) -> Hex {
        Hex::of(&hmac::sign(&self.key, subject.as_str().as_bytes()).as_ref()[..16])
    }

    /// Logs a newly minted token.
    ///
    /// # Errors
    /// The audit is required, and the line was dropped or excluded. The token must not be returned then.
    pub(super) fn log_minted(
        &self,
        authenticated: &AuthenticatedCaller,
        profile: &ProfileName,
        minted: &MintedToken,
        requested: Option<&RequestedSubject>,
    ) -> Result<(), ApiError> {
        let token = digest(&SHA256, minted.token.expose_secret().as_bytes());
        let subject = requested.map(|requested| self.subject_hmac(&requested.subject));
        self.log(|| {
            info_of_token!(
                authenticated,
                profile,
                kid = minted.kid.as_deref(),
                token_sha256 = Hex::of(token.as_ref()).as_str(),
                subject_hmac = subject.as_ref().map(Hex::as_str),
                subject_issuer = requested.and_then(RequestedSubject::proven_by).map(Name::as_str),
                expires_at = minted.expires_at.seconds(),
                "minted"
            );
        })
    }

    /// Logs an access token that a caller gets, whether new or cached.
    ///
    /// # Errors
    /// The audit is required, and the line was dropped or excluded. The token must not be returned then.
    pub(super) fn log_access_token(
        &self,
        authenticated: &AuthenticatedCaller,
        profile: &ProfileName,
        ServedToken { token, cached, rejected_token_kept }: &ServedToken,
        requested: Option<&RequestedSubject>,
    ) -> Result<(), ApiError> {
        let subject = requested.map(|requested| self.subject_hmac(&requested.subject));
        self.log(|| {
            info_of_token!(
                authenticated,
                profile,
                token_sha256 = Hex::of(&token.sha256).as_str(),
                subject_hmac = subject.as_ref().map(Hex::as_str),
                subject_issuer = requested.and_then(RequestedSubject::proven_by).map(Name::as_str),
                cached,
                rejected_token_kept,
                expires_at = token.expires_at.seconds(),
                "handed out"
            );
        })
    }
}

/// Up to 32 bytes in hexadecimal, in a buffer on the stack.
pub(super) struct Hex {
    text: [u8; 64],
    length: usize,
}

impl Hex {
    fn of(bytes: &[u8]) -> Self {
        let mut text = [0; 64];
        let length = 2 * bytes.len();
        HEXLOWER.encode_mut(bytes, &mut text[..length]);
        Self { text, length }
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length]).expect("hexadecimal digits are ASCII")
    }
}
