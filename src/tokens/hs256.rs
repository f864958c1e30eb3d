//! Tokens that are signed with a shared secret (HS256): the user as a string, fixed claims, `iat`, `exp`, and extra claims. One
//! kind is Intercom's user JWT (Intercom Help, "Authenticating users in the Messenger with JWTs"), signed with the Messenger API
//! Secret. The other kind is for any relying party.

use std::time::Duration;

use aws_lc_rs::hmac;
use jsonwebtoken::{Algorithm, Header};
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
    /// The encoded header, with the dot behind it.
    header: String,
    /// The header's `kid`.
    kid: Option<String>,
    /// The payload before the user: `{"external_id":`.
    payload_start: Vec<u8>,
    /// The payload between the user and the times: `,"scope":"user",`.
    fixed_claims: Vec<u8>,
    key: hmac::Key,
    ttl: Duration,
    max_ttl: Duration,
    claims: Vec<String>,
}

impl Hs256Profile {
    pub(super) fn new(kind: Hs256Kind, name: &Name, profile: &config::Hs256Config) -> Self {
        let mut payload_start = vec![b'{'];
        write_json(&mut payload_start, &profile.subject_claim);
        payload_start.push(b':');
        let mut fixed_claims = vec![b','];
        for (name, value) in &profile.fixed_claims {
            write_json(&mut fixed_claims, name);
            fixed_claims.push(b':');
            write_json(&mut fixed_claims, value);
            fixed_claims.push(b',');
        }
        Self {
            name: ProfileName::new(ProfileKind::Hs256(kind), name.clone()),
            header: encode_header(&Header {
                kid: profile.kid.clone(),
                cty: profile.cty.clone(),
                ..Header::new(Algorithm::HS256)
            }),
            kid: profile.kid.clone(),
            payload_start,
            fixed_claims,
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
        user: &Subject,
        lifetime: Lifetime,
        claims: &Claims,
        now: UnixTime,
    ) -> MintedToken {
        let expires_at = now.plus(lifetime.0);
        let fixed_len = self.payload_start.len() + self.fixed_claims.len();
        let mut payload = Vec::with_capacity(fixed_len + user.as_str().len() + 128);
        payload.extend_from_slice(&self.payload_start);
        write_json(&mut payload, user.as_str());
        payload.extend_from_slice(&self.fixed_claims);
        write_time_claims(&mut payload, now, expires_at);
        claims.write(&mut payload);
        payload.push(b'}');
        let mut token = signing_input(&self.header, &payload, 32);
        let tag = hmac::sign(&self.key, token.as_bytes());
        append_signature(&mut token, tag.as_ref());
        MintedToken {
            token: std::mem::take(&mut *token).into(),
            kid: self.kid.clone(),
            issued_at: now,
            expires_at,
        }
    }
}
