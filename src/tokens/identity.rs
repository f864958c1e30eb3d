//! The identity token with which Salesforce Enhanced Chat verifies a user (Salesforce Help, "Set Up
//! Token-Based User Verification"); Fin calls it `salesforce_identity_token`.
//!
//! Header `alg`, `typ`, `kid`; body `iss`, `sub`, `exp`, `iat`, `aud` where configured, and extra claims.

use std::sync::Arc;
use std::time::Duration;

use super::claims::{Claims, write_json};
use super::jws::{Template, open_payload, write_times};
use super::lifetime::Lifetime;
use super::minted::{MintError, Minted};
use super::objection::Objection;
use super::owner::Owner;
use super::signer::Signer;
use super::subject::Subject;
use crate::clock::UnixTime;
use crate::config::{self, KeyId, MessagingConfig, ProfileKind, ProfileName, SubjectPattern};
use crate::json::Members;
use crate::keys::Keyset;

pub struct IdentityProfile {
    pub name: ProfileName,
    pub issuer: String,
    pub audience: Option<String>,
    /// Where its tokens can be exchanged.
    pub messaging: Option<MessagingConfig>,
    /// Of the access tokens of all its subjects; as an [`OauthProfile`](super::OauthProfile)'s.
    pub owner: Owner,
    template: Template,
    /// `{"iss":…,"aud":…,`
    opening: Vec<u8>,
    ttl: Duration,
    max_ttl: Duration,
    claims: Vec<String>,
    subjects: Option<SubjectPattern>,
}

impl IdentityProfile {
    pub(super) fn new(profile: &config::IdentityConfig, keyset: Arc<Keyset>) -> Self {
        let name = ProfileName::new(ProfileKind::Identity, profile.name.clone());
        let channel = profile.messaging.as_ref();
        let owner = Owner::of([
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
            owner,
            issuer: profile.issuer.as_str().to_owned(),
            audience: profile.audience.clone(),
            messaging: profile.messaging.clone(),
            template: Template::new(keyset),
            opening: open_payload(&[
                ("iss", Some(profile.issuer.as_str())),
                ("aud", profile.audience.as_deref()),
            ]),
            ttl: profile.ttl,
            max_ttl: profile.max_ttl,
            claims: profile.claims.clone(),
            subjects: profile.subjects.clone(),
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

    /// Whether it speaks of such subjects at all.
    pub fn covers(&self, subject: &Subject) -> bool {
        self.subjects.as_ref().is_none_or(|pattern| pattern.matches(subject.as_str()))
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

    /// # Errors
    /// No key signs now, or the signer is overloaded.
    pub async fn mint(
        &self,
        subject: &Subject,
        lifetime: Lifetime,
        claims: &Claims,
        now: UnixTime,
        signer: &Signer,
    ) -> Result<Minted, MintError> {
        let expires_at = now.plus(lifetime.0);
        let mut payload = Vec::with_capacity(self.opening.len() + subject.as_str().len() + 128);
        payload.extend_from_slice(&self.opening);
        payload.extend_from_slice(b"\"sub\":");
        write_json(&mut payload, subject.as_str());
        payload.push(b',');
        write_times(&mut payload, now, expires_at);
        claims.write(&mut payload);
        payload.push(b'}');
        let (token, kid) = self.template.sign(&payload, now, expires_at, signer).await?;
        Ok(Minted { token, kid: Some(kid), issued_at: now, expires_at })
    }
}
