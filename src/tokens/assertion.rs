//! The assertion of the OAuth 2.0 JWT bearer flow (RFC 7523, section 3; Salesforce Help, "OAuth 2.0 JWT Bearer
//! Flow for Server-to-Server Integration").
//!
//! Header `alg`, `typ`, `kid`; body `iss` (consumer key), `sub` (user name), `aud`, `exp`, `iat`, and a fresh
//! `jti` each time, since Salesforce refuses one that it has seen.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::jws::{Template, open_payload, write_times};
use super::minted::{MintError, Minted};
use super::owner::Owner;
use super::signer::Signer;
use crate::clock::{Randomness, UnixTime};
use crate::config::{self, HttpsUrl, KeyId, ProfileKind, ProfileName};
use crate::keys::Keyset;

/// RFC 7523, section 2.1.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

pub struct OauthProfile {
    pub name: ProfileName,
    pub consumer_key: String,
    pub username: String,
    pub audience: String,
    pub token_url: HttpsUrl,
    /// Of its access tokens. Which key signs is no part of it: a token outlives the turn of its key, and a rotation
    /// doesn't send everybody to Salesforce at once.
    pub owner: Owner,
    /// The life of an access token of which Salesforce says nothing.
    pub access_token_ttl: Duration,
    /// Our share of Salesforce's limit for a user.
    pub logins_per_hour: usize,
    template: Template,
    /// `{"iss":…,"sub":…,"aud":…,`
    opening: Vec<u8>,
    assertion_ttl: Duration,
}

/// A minted assertion and where it goes.
pub struct Assertion<'a> {
    pub minted: Minted,
    pub token_endpoint: &'a str,
}

impl OauthProfile {
    pub(super) fn new(profile: &config::OauthConfig, keyset: Arc<Keyset>) -> Self {
        let name = ProfileName::new(ProfileKind::Oauth, profile.name.clone());
        let owner = Owner::of([
            b"oauth",
            name.as_str().as_bytes(),
            profile.consumer_key.as_bytes(),
            profile.audience.as_str().as_bytes(),
            profile.token_url.as_str().as_bytes(),
            profile.username.as_bytes(),
        ]);
        Self {
            name,
            owner,
            consumer_key: profile.consumer_key.clone(),
            username: profile.username.clone(),
            audience: profile.audience.as_str().to_owned(),
            token_url: profile.token_url.clone(),
            access_token_ttl: profile.access_token_ttl,
            logins_per_hour: profile.logins_per_hour,
            template: Template::new(keyset),
            opening: open_payload(&[
                ("iss", Some(&profile.consumer_key)),
                ("sub", Some(&profile.username)),
                ("aud", Some(profile.audience.as_str())),
            ]),
            assertion_ttl: profile.assertion_ttl,
        }
    }

    /// The key that signs at `now`.
    ///
    /// # Errors
    /// None does yet.
    pub fn signing_kid(&self, now: UnixTime) -> Result<&KeyId, MintError> {
        self.template.signing_kid(now)
    }

    /// Whether that key is one of its keyset, or was until its life was over; a retired one is none.
    pub fn knows(&self, kid: &KeyId) -> bool {
        self.template.knows(kid)
    }

    /// # Errors
    /// No key signs now, the signer is overloaded, or there is no randomness for a `jti`.
    pub async fn mint(
        &self,
        now: UnixTime,
        randomness: &dyn Randomness,
        signer: &Signer,
    ) -> Result<Assertion<'_>, MintError> {
        let expires_at = now.plus(self.assertion_ttl);
        let mut unique = [0; 16];
        randomness.fill(&mut unique)?;
        let mut jti = [0; 22];
        URL_SAFE_NO_PAD.encode_slice(unique, &mut jti).expect("16 bytes make 22 characters");

        let mut payload = Vec::with_capacity(self.opening.len() + 96);
        payload.extend_from_slice(&self.opening);
        write_times(&mut payload, now, expires_at);
        payload.extend_from_slice(b",\"jti\":\"");
        payload.extend_from_slice(&jti);
        payload.extend_from_slice(b"\"}");
        let (token, kid) = self.template.sign(&payload, now, expires_at, signer).await?;
        let minted = Minted { token, kid: Some(kid), issued_at: now, expires_at };
        Ok(Assertion { minted, token_endpoint: self.token_url.as_str() })
    }
}
