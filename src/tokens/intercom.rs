//! Intercom's user JWT (Intercom Help, "Authenticating users in the Messenger with JWTs"): HS256 with the
//! Messenger API Secret; `user_id` as a string, `exp`, `iat`, and extra claims.

use std::time::Duration;

use aws_lc_rs::hmac;
use secrecy::ExposeSecret as _;

use super::claims::{Claims, write_json};
use super::jws::{begin, end, head, write_times};
use super::lifetime::Lifetime;
use super::minted::Minted;
use super::objection::Objection;
use super::subject::Subject;
use crate::clock::UnixTime;
use crate::config::{self, ProfileKind, ProfileName};
use crate::json::Members;

pub struct IntercomProfile {
    pub name: ProfileName,
    head: String,
    key: hmac::Key,
    ttl: Duration,
    max_ttl: Duration,
    claims: Vec<String>,
}

impl IntercomProfile {
    pub(super) fn new(profile: &config::IntercomConfig) -> Self {
        Self {
            name: ProfileName::new(ProfileKind::Intercom, profile.name.clone()),
            head: head(jsonwebtoken::Algorithm::HS256, None),
            key: hmac::Key::new(hmac::HMAC_SHA256, profile.secret.expose_secret().as_bytes()),
            ttl: profile.ttl,
            max_ttl: profile.max_ttl,
            claims: profile.claims.clone(),
        }
    }

    /// That of a token whose asker names none.
    pub const fn default_lifetime(&self) -> Lifetime {
        Lifetime(self.ttl)
    }

    /// # Errors
    /// A `ttl` out of bounds.
    pub fn lifetime(&self, asked: Option<u64>) -> Result<Lifetime, Objection> {
        Lifetime::choose(asked, self.ttl, self.max_ttl)
    }

    /// # Errors
    /// A claim that it doesn't list.
    pub fn claims(&self, asked: Members) -> Result<Claims, Objection> {
        Claims::choose(asked, &self.claims)
    }

    /// Costs a microsecond, so it waits for nobody.
    pub fn mint(&self, user_id: &Subject, lifetime: Lifetime, claims: &Claims, now: UnixTime) -> Minted {
        let expires_at = now.plus(lifetime.0);
        let mut payload = Vec::with_capacity(user_id.as_str().len() + 128);
        payload.extend_from_slice(b"{\"user_id\":");
        write_json(&mut payload, user_id.as_str());
        payload.push(b',');
        write_times(&mut payload, now, expires_at);
        claims.write(&mut payload);
        payload.push(b'}');
        let mut token = begin(&self.head, &payload, 32);
        let tag = hmac::sign(&self.key, token.as_bytes());
        end(&mut token, tag.as_ref());
        Minted { token: std::mem::take(&mut *token).into(), kid: None, issued_at: now, expires_at }
    }
}
