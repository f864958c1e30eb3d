//! One line for each token that leaves: who got it, for whom, signed by which key. The subject is in it only
//! as a keyed hash, the token as its SHA-256, so that a line can be matched with a token but not be one.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use secrecy::ExposeSecret as _;

use super::request::Asker;
use crate::config::ProfileName;
use crate::exchange::Served;
use crate::tokens::{Minted, Subject};

pub struct Audit(hmac::Key);

impl Audit {
    /// `key` keys the hash of subjects: the same key finds the same person's lines.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The keyed hash by which a subject's lines are found.
    pub(super) fn hash(&self, subject: &Subject) -> String {
        Hex(&hmac::sign(&self.0, subject.as_str().as_bytes()).as_ref()[..16]).to_string()
    }

    pub(super) fn minted(
        &self,
        asker: &Asker,
        profile: &ProfileName,
        minted: &Minted,
        subject: Option<&Subject>,
    ) {
        let token = digest(&SHA256, minted.token.expose_secret().as_bytes());
        let subject = subject.map(|subject| self.hash(subject));
        tracing::info!(
            target: "tokenmint::audit",
            request_id = asker.id.as_str(),
            caller = asker.caller.name.as_str(),
            credential = asker.credential,
            %profile,
            kid = minted.kid.as_ref().map(tracing::field::display),
            token_sha256 = %Hex(token.as_ref()),
            subject_hmac = subject,
            expires_at = minted.expires_at.seconds(),
            "minted"
        );
    }

    /// An access token that a caller was given, fresh or kept.
    pub(super) fn handed_out(
        &self,
        asker: &Asker,
        profile: &ProfileName,
        Served { token, cached }: &Served,
        subject: Option<&Subject>,
    ) {
        let digest = digest(&SHA256, token.secret.expose_secret().as_bytes());
        let subject = subject.map(|subject| self.hash(subject));
        tracing::info!(
            target: "tokenmint::audit",
            request_id = asker.id.as_str(),
            caller = asker.caller.name.as_str(),
            credential = asker.credential,
            %profile,
            token_sha256 = %Hex(digest.as_ref()),
            subject_hmac = subject,
            cached,
            expires_at = token.expires_at.seconds(),
            "handed out"
        );
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
