//! The assertion of the OAuth 2.0 JWT bearer flow (RFC 7523, section 3; Salesforce Help, "OAuth 2.0 JWT Bearer
//! Flow for Server-to-Server Integration").
//!
//! Header: `alg`, `typ`, `kid`. Body: `iss` (consumer key), `sub` (user name), `aud`, `exp`, `iat`, `jti`.
//! Replay protection: each assertion has a random 128-bit `jti`; Salesforce rejects a second use.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::cache_scope::CacheScope;
use super::jws::{KeysetSigner, encode_fixed_claims, write_time_claims};
use super::minted::{MintError, MintedToken};
use super::signer::Signer;
use crate::clock::{Randomness, UnixTime};
use crate::config::{self, HttpsOrLoopbackUrl, KeyId, ProfileKind, ProfileName};
use crate::keys::Keyset;

/// RFC 7523, section 2.1.
pub(crate) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// An `[oauth.NAME]` profile, ready to mint assertions.
pub struct OauthProfile {
    pub(crate) name: ProfileName,
    pub username: String,
    pub(crate) audience: String,
    pub token_url: HttpsOrLoopbackUrl,
    /// The scope of its access tokens' cache keys. The signing key isn't part of it: a token outlives its key's signing
    /// period, and a rotation must not make every caller exchange anew at once.
    pub(crate) cache_scope: CacheScope,
    /// The assumed lifetime of an access token when Salesforce's response states none.
    pub(crate) access_token_ttl: Duration,
    /// This service's share of Salesforce's login limit for one user.
    pub(crate) logins_per_hour: usize,
    /// How old the last check of a cached token's session may be at the token endpoint.
    pub(crate) check_session: Option<Duration>,
    keyset_signer: KeysetSigner,
    /// `{"iss":…,"sub":…,"aud":…,`
    fixed_claims: Vec<u8>,
    assertion_ttl: Duration,
}

/// A minted assertion and the token endpoint to send it to.
pub(crate) struct Assertion<'a> {
    pub(crate) minted: MintedToken,
    pub(crate) token_endpoint: &'a str,
}

impl OauthProfile {
    pub(super) fn new(profile: &config::OauthConfig, keyset: Arc<Keyset>) -> Self {
        let name = ProfileName::new(ProfileKind::Oauth, profile.name.clone());
        let cache_scope = CacheScope::from_parts([
            b"oauth",
            name.as_str().as_bytes(),
            profile.consumer_key.as_bytes(),
            profile.audience.as_str().as_bytes(),
            profile.token_url.as_str().as_bytes(),
            profile.username.as_bytes(),
        ]);
        Self {
            name,
            cache_scope,
            username: profile.username.clone(),
            audience: profile.audience.as_str().to_owned(),
            token_url: profile.token_url.clone(),
            access_token_ttl: profile.access_token_ttl,
            logins_per_hour: profile.logins_per_hour,
            check_session: profile.check_session,
            keyset_signer: KeysetSigner::new(keyset),
            fixed_claims: encode_fixed_claims(&[
                ("iss", Some(&profile.consumer_key)),
                ("sub", Some(&profile.username)),
                ("aud", Some(profile.audience.as_str())),
            ]),
            assertion_ttl: profile.assertion_ttl,
        }
    }

    /// Returns the id of the key that signs at `now`.
    ///
    /// # Errors
    /// No key signs at `now`.
    pub(crate) fn signing_kid(&self, now: UnixTime) -> Result<&KeyId, MintError> {
        self.keyset_signer.signing_kid(now)
    }

    /// Whether its keyset has a key of that id, expired keys included and retired keys excluded.
    pub(crate) fn contains_kid(&self, kid: &KeyId) -> bool {
        self.keyset_signer.contains_kid(kid)
    }

    /// Mints an assertion, with a random `jti` of 128 bits.
    ///
    /// # Errors
    /// No key signs at `now`, the request was shed, signing failed, or the host gives no randomness.
    pub(crate) async fn mint(
        &self,
        now: UnixTime,
        randomness: &dyn Randomness,
        signer: &Signer,
    ) -> Result<Assertion<'_>, MintError> {
        let expires_at = now.plus(self.assertion_ttl);
        let mut random = [0; 16];
        randomness.fill(&mut random)?;
        let mut jti = [0; 22];
        URL_SAFE_NO_PAD.encode_slice(random, &mut jti).expect("16 bytes make 22 characters");

        let mut payload = Vec::with_capacity(self.fixed_claims.len() + 96);
        payload.extend_from_slice(&self.fixed_claims);
        write_time_claims(&mut payload, now, expires_at);
        payload.extend_from_slice(b",\"jti\":\"");
        payload.extend_from_slice(&jti);
        payload.extend_from_slice(b"\"}");
        let (token, kid) = self.keyset_signer.sign(&payload, now, expires_at, signer).await?;
        let minted = MintedToken { token, kid: Some(kid.to_string()), issued_at: now, expires_at };
        Ok(Assertion { minted, token_endpoint: self.token_url.as_str() })
    }
}
