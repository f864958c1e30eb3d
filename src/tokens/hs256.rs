//! Tokens that are signed with a shared secret (HS256): the user as a string, `exp`, `iat`, and extra claims. One kind is
//! Intercom's user JWT (Intercom Help, "Authenticating users in the Messenger with JWTs"), signed with the Messenger API Secret.

use std::time::Duration;

use aws_lc_rs::hmac;
use secrecy::ExposeSecret as _;

use super::claims::{Claims, write_json};
use super::invalid_field::InvalidField;
use super::jws::{append_signature, encode_header, signing_input, write_time_claims};
use super::lifetime::Lifetime;
use super::minted::MintedToken;
use super::subject::Subject;
use crate::clock::UnixTime;
use crate::config::{self, Hs256Kind, Name, ProfileKind, ProfileName};
use crate::json::Members;

/// A profile of an HS256 kind, ready to mint tokens.
pub struct Hs256Profile {
    pub(crate) name: ProfileName,
    /// The claim that names the user.
    user_claim: &'static str,
    header: String,
    key: hmac::Key,
    ttl: Duration,
    max_ttl: Duration,
    claims: Vec<String>,
}

impl Hs256Profile {
    pub(super) fn new(kind: Hs256Kind, name: &Name, profile: &config::Hs256Config) -> Self {
        Self {
            name: ProfileName::new(ProfileKind::Hs256(kind), name.clone()),
            user_claim: kind.facts().user_claim,
            header: encode_header(jsonwebtoken::Algorithm::HS256, None),
            key: hmac::Key::new(hmac::HMAC_SHA256, profile.secret.expose_secret().as_bytes()),
            ttl: profile.ttl,
            max_ttl: profile.max_ttl,
            claims: profile.claims.clone(),
        }
    }

    /// The lifetime of a token when the request names none.
    pub(crate) const fn default_lifetime(&self) -> Lifetime {
        Lifetime(self.ttl)
    }

    /// Validates a requested `ttl`, in seconds; `None` means the default.
    ///
    /// # Errors
    /// The `ttl` is out of bounds.
    pub(crate) fn lifetime(&self, requested: Option<u64>) -> Result<Lifetime, InvalidField> {
        Lifetime::validate(requested, self.ttl, self.max_ttl)
    }

    /// Validates requested claims against those that the profile lists.
    ///
    /// # Errors
    /// Names the first claim that the profile doesn't list.
    pub(crate) fn claims(&self, requested: Members) -> Result<Claims, InvalidField> {
        Claims::validate(requested, &self.claims)
    }

    /// Mints a token. It takes about a microsecond, so it doesn't go through the signing queue.
    pub(crate) fn mint(
        &self,
        user_id: &Subject,
        lifetime: Lifetime,
        claims: &Claims,
        now: UnixTime,
    ) -> MintedToken {
        let expires_at = now.plus(lifetime.0);
        let mut payload = Vec::with_capacity(user_id.as_str().len() + 128);
        payload.push(b'{');
        write_json(&mut payload, self.user_claim);
        payload.push(b':');
        write_json(&mut payload, user_id.as_str());
        payload.push(b',');
        write_time_claims(&mut payload, now, expires_at);
        claims.write(&mut payload);
        payload.push(b'}');
        let mut token = signing_input(&self.header, &payload, 32);
        let tag = hmac::sign(&self.key, token.as_bytes());
        append_signature(&mut token, tag.as_ref());
        MintedToken { token: std::mem::take(&mut *token).into(), kid: None, issued_at: now, expires_at }
    }
}
