//! Tokens that are signed with a shared secret (HS256): the user as a string, `exp`, `iat`, and extra claims. One kind is
//! Intercom's user JWT (Intercom Help, "Authenticating users in the Messenger with JWTs"), with the Messenger API Secret.

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
use crate::config::{self, Hs256Kind, Kind, Name, ProfileName};
use crate::json::Members;

pub struct Hs256Profile {
    pub name: ProfileName,
    /// The claim that names the user.
    user_claim: &'static str,
    head: String,
    key: hmac::Key,
    ttl: Duration,
    max_ttl: Duration,
    claims: Vec<String>,
}

impl Hs256Profile {
    pub(super) fn new(kind: Hs256Kind, name: &Name, profile: &config::Hs256) -> Self {
        Self {
            name: ProfileName::new(Kind::Hs256(kind), name.clone()),
            user_claim: kind.facts().user_claim,
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
        payload.push(b'{');
        write_json(&mut payload, self.user_claim);
        payload.push(b':');
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
