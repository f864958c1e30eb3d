//! One line for each token that leaves: who got it, for whom, signed by which key. The subject is in it only
//! as a keyed hash, the token as its SHA-256, so that a line can be matched with a token but not be one.
//!
//! Where the audit is required, a token whose line the log doesn't take doesn't leave.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use secrecy::ExposeSecret as _;

use super::ApiError;
use super::request::AuthenticatedCaller;
use crate::config::{KeyId, ProfileName};
use crate::exchange::Served;
use crate::tokens::{Minted, Subject};

/// Where audit lines go, among the others.
pub const AUDIT_TARGET: &str = "tokenmint::audit";

/// Asks how many lines were dropped so far; a line is counted before the call that logs it returns.
pub type DroppedLineCounter = Arc<dyn Fn() -> u64 + Send + Sync>;

pub struct Audit {
    key: hmac::Key,
    /// Where the audit is required.
    dropped: Option<DroppedLineCounter>,
}

impl Audit {
    /// `key` keys the hash of subjects: the same key finds the same person's lines. With `required`, no token leaves
    /// without its line.
    pub fn new(key: &[u8], required: Option<DroppedLineCounter>) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), dropped: required }
    }

    /// Whether the log takes audit lines at all, which `RUST_LOG` can forbid.
    pub fn is_enabled() -> bool {
        tracing::enabled!(target: AUDIT_TARGET, tracing::Level::INFO)
    }

    /// Logs a line. A line of another that is dropped meanwhile counts as this one: too strict, and never too lax.
    fn log(&self, line: impl FnOnce()) -> Result<(), ApiError> {
        let Some(dropped) = &self.dropped else {
            line();
            return Ok(());
        };
        let before = dropped();
        line();
        if dropped() == before && Self::is_enabled() { Ok(()) } else { Err(ApiError::AuditUnavailable) }
    }

    /// The keyed hash by which a subject's lines are found.
    pub(super) fn subject_hmac(&self, subject: &Subject) -> Hex {
        Hex::of(&hmac::sign(&self.key, subject.as_str().as_bytes()).as_ref()[..16])
    }

    /// # Errors
    /// It must not leave: its line was not taken.
    pub(super) fn log_minted(
        &self,
        authenticated: &AuthenticatedCaller,
        profile: &ProfileName,
        minted: &Minted,
        subject: Option<&Subject>,
    ) -> Result<(), ApiError> {
        let token = digest(&SHA256, minted.token.expose_secret().as_bytes());
        let subject = subject.map(|subject| self.subject_hmac(subject));
        self.log(|| {
            tracing::info!(
                target: AUDIT_TARGET,
                request_id = authenticated.id.as_str(),
                trace_id = authenticated.id.trace_id(),
                caller = authenticated.caller.name.as_str(),
                credential = authenticated.credential,
                profile = profile.as_str(),
                kid = minted.kid.as_ref().map(KeyId::as_str),
                token_sha256 = Hex::of(token.as_ref()).as_str(),
                subject_hmac = subject.as_ref().map(Hex::as_str),
                expires_at = minted.expires_at.seconds(),
                "minted"
            );
        })
    }

    /// An access token that a caller is given, fresh or kept.
    ///
    /// # Errors
    /// As `log_minted`.
    pub(super) fn log_access_token(
        &self,
        authenticated: &AuthenticatedCaller,
        profile: &ProfileName,
        Served { token, cached, rejected_token_kept }: &Served,
        subject: Option<&Subject>,
    ) -> Result<(), ApiError> {
        let subject = subject.map(|subject| self.subject_hmac(subject));
        self.log(|| {
            tracing::info!(
                target: AUDIT_TARGET,
                request_id = authenticated.id.as_str(),
                trace_id = authenticated.id.trace_id(),
                caller = authenticated.caller.name.as_str(),
                credential = authenticated.credential,
                profile = profile.as_str(),
                token_sha256 = Hex::of(&token.sha256).as_str(),
                subject_hmac = subject.as_ref().map(Hex::as_str),
                cached,
                rejected_token_kept,
                expires_at = token.expires_at.seconds(),
                "handed out"
            );
        })
    }
}

/// Up to 32 bytes in hexadecimal digits, without a detour through the general formatter.
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
