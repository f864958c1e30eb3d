//! The identity token with which Salesforce Enhanced Chat verifies a user (Salesforce Help, "Set Up
//! Token-Based User Verification"). Fin calls it `salesforce_identity_token`.
//!
//! Header: `alg`, `typ`, `kid`. Body: `iss`, `sub`, `exp`, `iat`, `aud` where configured, and extra claims.

use std::sync::Arc;
use std::time::Duration;

use super::cache_scope::CacheScope;
use super::claims::{Claims, write_json};
use super::invalid_field::InvalidField;
use super::jws::{KeysetSigner, encode_fixed_claims, write_time_claims};
use super::lifetime::Lifetime;
use super::minted::{MintError, MintedToken};
use super::signer::Signer;
use super::subject::Subject;
use crate::clock::UnixTime;
use crate::config::{self, KeyId, MessagingConfig, ProfileKind, ProfileName, SubjectPattern};
use crate::json::Members;
use crate::keys::Keyset;

/// An `[identity.NAME]` profile, ready to mint identity tokens.
pub struct IdentityProfile {
    pub(crate) name: ProfileName,
    pub(crate) issuer: String,
    /// The messaging channel at which its tokens can be exchanged.
    pub messaging: Option<MessagingConfig>,
    /// The scope of its access tokens' cache keys, for all its subjects. As for [`OauthProfile`](super::OauthProfile), the
    /// signing key isn't part of it.
    pub(crate) cache_scope: CacheScope,
    keyset_signer: KeysetSigner,
    /// `{"iss":…,"aud":…,`
    fixed_claims: Vec<u8>,
    ttl: Duration,
    max_ttl: Duration,
    claims: Vec<String>,
    subjects: Option<SubjectPattern>,
}

impl IdentityProfile {
    pub(super) fn new(profile: &config::IdentityConfig, keyset: Arc<Keyset>) -> Self {
        let name = ProfileName::new(ProfileKind::Identity, profile.name.clone());
        let channel = profile.messaging.as_ref();
        let cache_scope = CacheScope::from_parts([
            b"messaging",
            name.as_str().as_bytes(),
            profile.issuer.as_str().as_bytes(),
            profile.audience.as_deref().unwrap_or_default().as_bytes(),
            channel.map_or("", |channel| channel.scrt_url.as_str()).as_bytes(),
            channel.map_or("", |channel| channel.org_id.as_str()).as_bytes(),
            channel.map_or("", |channel| channel.es_developer_name.as_str()).as_bytes(),
        ]);
        Self {
            name,
            cache_scope,
            issuer: profile.issuer.as_str().to_owned(),
            messaging: profile.messaging.clone(),
            keyset_signer: KeysetSigner::new(keyset),
            fixed_claims: encode_fixed_claims(&[
                ("iss", Some(profile.issuer.as_str())),
                ("aud", profile.audience.as_deref()),
            ]),
            ttl: profile.ttl,
            max_ttl: profile.max_ttl,
            claims: profile.claims.clone(),
            subjects: profile.subjects.clone(),
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

    /// Whether the profile's `subjects` pattern matches. A profile without a pattern matches every subject.
    pub(crate) fn matches_subject(&self, subject: &Subject) -> bool {
        self.subjects.as_ref().is_none_or(|pattern| pattern.matches(subject.as_str()))
    }

    /// The lifetime of a token when the request names none.
    pub const fn default_lifetime(&self) -> Lifetime {
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
    pub fn claims(&self, requested: Members) -> Result<Claims, InvalidField> {
        Claims::validate(requested, &self.claims)
    }

    /// Mints an identity token.
    ///
    /// # Errors
    /// No key signs at `now`, the request was shed, or signing failed.
    pub async fn mint(
        &self,
        subject: &Subject,
        lifetime: Lifetime,
        claims: &Claims,
        now: UnixTime,
        signer: &Signer,
    ) -> Result<MintedToken, MintError> {
        let expires_at = now.plus(lifetime.0);
        let mut payload = Vec::with_capacity(self.fixed_claims.len() + subject.as_str().len() + 128);
        payload.extend_from_slice(&self.fixed_claims);
        payload.extend_from_slice(b"\"sub\":");
        write_json(&mut payload, subject.as_str());
        payload.push(b',');
        write_time_claims(&mut payload, now, expires_at);
        claims.write(&mut payload);
        payload.push(b'}');
        let (token, kid) = self.keyset_signer.sign(&payload, now, expires_at, signer).await?;
        Ok(MintedToken { token, kid: Some(kid.to_string()), issued_at: now, expires_at })
    }
}
