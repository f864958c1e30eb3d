//! Grants: the profiles and bundles that each caller may use, resolved when the configuration is loaded. A request
//! selects a grant, and reaches its profile only after authorization.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prometheus::IntCounter;
use thiserror::Error;

use super::violation::Violation;
use crate::config::{self, Hs256Kind, Name, PolicyMode, ProfileKind, ProfileName};
use crate::json::Members;
use crate::metrics::Metrics;
use crate::tokens::{Claims, Hs256Profile, IdentityProfile, InvalidField, Lifetime, OauthProfile, Subject};

/// The profiles or bundles of one kind that a caller may use.
pub struct Grants<G> {
    kind: ProfileKind,
    by_name: BTreeMap<Name, G>,
    /// With `policy = "audit"`: the others of this kind, which `allow` doesn't contain. The caller can use them too. Otherwise,
    /// and for OAuth profiles, it is empty.
    audit_only: BTreeMap<Name, G>,
}

/// A bundle that a caller may use. This doesn't include its profiles: each must be allowed as well.
pub struct BundleGrant {
    name: ProfileName,
    entries: Vec<(Name, BundleEntryGrant)>,
    /// Profiles of the bundle that the caller may not use.
    denied_profiles: Vec<ProfileName>,
    /// Whether `allow` contains the bundle and all of its profiles.
    allowed: bool,
}

/// The grant for one entry of a bundle.
pub enum BundleEntryGrant {
    Identity(Grant<IdentityProfile>),
    Hs256(Grant<Hs256Profile>),
}

impl BundleGrant {
    pub(super) const fn name(&self) -> &ProfileName {
        &self.name
    }

    /// Returns the bundle's entries.
    ///
    /// # Errors
    /// The caller may not use one of its profiles.
    pub fn entries(&self) -> Result<&[(Name, BundleEntryGrant)], Denied> {
        match self.denied_profiles.first() {
            None => Ok(&self.entries),
            Some(profile) => Err(Denied::BundleEntry(profile.to_string())),
        }
    }
}

/// A profile that a caller may use, once a request for it is [authorized](super::Caller::authorize).
///
/// ```compile_fail,E0616
/// fn past_the_policy(grant: &tokenmint::callers::Grant<tokenmint::tokens::IdentityProfile>) {
///     let _ = &grant.profile;
/// }
/// ```
pub struct Grant<P> {
    pub(super) profile: Arc<P>,
    /// Counts the tokens that were minted with this profile and returned to this caller, access tokens excluded.
    minted: IntCounter,
    /// Whether `allow` contains it. If not, it is usable only while `policy = "audit"`.
    allowed: bool,
}

impl Grant<IdentityProfile> {
    /// Validates the requested lifetime.
    ///
    /// # Errors
    /// See [`IdentityProfile::lifetime`].
    pub(crate) fn lifetime(&self, asked: Option<u64>) -> Result<Lifetime, InvalidField> {
        self.profile.lifetime(asked)
    }

    /// Validates the requested extra claims.
    ///
    /// # Errors
    /// See [`IdentityProfile::claims`].
    pub(crate) fn claims(&self, asked: Members) -> Result<Claims, InvalidField> {
        self.profile.claims(asked)
    }
}

impl Grant<Hs256Profile> {
    /// Validates the requested lifetime.
    ///
    /// # Errors
    /// See [`Hs256Profile::lifetime`].
    pub(crate) fn lifetime(&self, asked: Option<u64>) -> Result<Lifetime, InvalidField> {
        self.profile.lifetime(asked)
    }

    /// Validates the requested extra claims.
    ///
    /// # Errors
    /// See [`Hs256Profile::claims`].
    pub(crate) fn claims(&self, asked: Members) -> Result<Claims, InvalidField> {
        self.profile.claims(asked)
    }
}

/// A grant that [`Caller::authorize`](super::Caller::authorize) can check.
pub trait Permission {
    fn name(&self) -> &ProfileName;
    /// Whether the caller's `allow` contains it; for a bundle, its profiles too.
    fn is_allowed(&self) -> bool;
    /// Whether the profile's own `subjects` allows this subject, for any caller. For a bundle: of each of its profiles.
    fn matches_subject(&self, subject: &Subject) -> bool;
}

/// The part of a profile that the policy needs.
pub(crate) trait PolicyProfile {
    fn name(&self) -> &ProfileName;
    fn matches_subject(&self, subject: &Subject) -> bool;
}

impl PolicyProfile for IdentityProfile {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    fn matches_subject(&self, subject: &Subject) -> bool {
        Self::matches_subject(self, subject)
    }
}

impl PolicyProfile for Hs256Profile {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    fn matches_subject(&self, _: &Subject) -> bool {
        true
    }
}

impl PolicyProfile for OauthProfile {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    /// Always false: the token is for the one integration user, so a request names no subject.
    fn matches_subject(&self, _: &Subject) -> bool {
        false
    }
}

impl<P: PolicyProfile> Permission for Grant<P> {
    fn name(&self) -> &ProfileName {
        self.profile.name()
    }

    fn is_allowed(&self) -> bool {
        self.allowed
    }

    fn matches_subject(&self, subject: &Subject) -> bool {
        self.profile.matches_subject(subject)
    }
}

impl BundleEntryGrant {
    fn permission(&self) -> &dyn Permission {
        match self {
            Self::Identity(grant) => grant,
            Self::Hs256(grant) => grant,
        }
    }
}

impl Permission for BundleGrant {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    fn is_allowed(&self) -> bool {
        self.allowed
    }

    fn matches_subject(&self, subject: &Subject) -> bool {
        self.denied_profiles.is_empty()
            && self.entries.iter().all(|(_, entry)| entry.permission().matches_subject(subject))
    }
}

/// Proof that the policy, or audit mode, allows a request. Only this gives access to the profile that mints.
pub(crate) struct Authorized<'a, G> {
    pub(super) grant: &'a G,
    /// The violation that would deny the request, if `policy = "audit"`.
    pub(crate) audit_violation: Option<Violation>,
}

impl<G: Permission> Authorized<'_, G> {
    pub(crate) fn name(&self) -> &ProfileName {
        self.grant.name()
    }
}

impl<P> Authorized<'_, Grant<P>> {
    pub(crate) const fn profile(&self) -> &Arc<P> {
        &self.grant.profile
    }

    /// Counts a minted token.
    pub(crate) fn count_minted(&self) {
        self.grant.minted.inc();
    }
}

impl<'a> Authorized<'a, BundleGrant> {
    /// Returns the bundle's entries. The authorization of the bundle covers them.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a Name, AuthorizedEntry<'a>)> {
        self.grant.entries.iter().map(|(name, entry)| {
            let entry = match entry {
                BundleEntryGrant::Identity(grant) => {
                    AuthorizedEntry::Identity(Authorized { grant, audit_violation: None })
                }
                BundleEntryGrant::Hs256(grant) => {
                    AuthorizedEntry::Hs256(Authorized { grant, audit_violation: None })
                }
            };
            (name, entry)
        })
    }
}

pub(crate) enum AuthorizedEntry<'a> {
    Identity(Authorized<'a, Grant<IdentityProfile>>),
    Hs256(Authorized<'a, Grant<Hs256Profile>>),
}

/// Why a request is denied. The messages name only profiles that the caller may use, or that its bundles contain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    #[error("name a profile: this caller may use {0}")]
    Ambiguous(String),
    #[error("the name of a profile or bundle has 1 to 64 letters, digits, `_` or `-`, for example `web`")]
    NotAName,
    #[error("this endpoint takes profiles `{0}.NAME` only")]
    WrongKind(&'static str),
    #[error("this caller may not use that profile; it may use {0} (`allow` in its configuration)")]
    Profile(String),
    #[error("this caller may not use that profile (`allow` in its configuration)")]
    NotAllowed,
    #[error("this caller may not use `{0}`, which the bundle needs (`allow` in its configuration)")]
    BundleEntry(String),
    #[error("this caller may not have a token for that subject (`subjects` of the profile or of the caller)")]
    Subject,
}

impl<P> Clone for Grant<P> {
    fn clone(&self) -> Self {
        Self { profile: self.profile.clone(), minted: self.minted.clone(), allowed: self.allowed }
    }
}

impl<P> Grants<Grant<P>> {
    pub(super) fn new(
        kind: ProfileKind,
        caller: &config::CallerConfig,
        profiles: &BTreeMap<Name, Arc<P>>,
        metrics: &Metrics,
    ) -> Self {
        let grant = |name: &Name, profile: &Arc<P>, allowed| {
            let full = ProfileName::new(kind, name.clone()).to_string();
            let minted = metrics.tokens_minted.with_label_values(&[&full, caller.name.as_str()]);
            (name.clone(), Grant { profile: profile.clone(), minted, allowed })
        };
        let allowed = allowed(caller, kind);
        let is_audited = caller.policy == PolicyMode::Audit && kind != ProfileKind::Oauth;
        let others = profiles.iter().filter(|(name, _)| is_audited && !allowed.contains(name));
        let audit_only = others.map(|(name, profile)| grant(name, profile, false)).collect();
        let profile = |name: &Name| {
            let profile = profiles.get(name);
            grant(name, profile.expect("a validated configuration allows only profiles that it has"), true)
        };
        Self { kind, by_name: allowed.into_iter().map(profile).collect(), audit_only }
    }
}

/// Returns the names of this kind in the caller's `allow`.
fn allowed(caller: &config::CallerConfig, kind: ProfileKind) -> BTreeSet<&Name> {
    caller.allow.iter().filter(|allowed| allowed.kind == kind).map(|allowed| &allowed.bare_name).collect()
}

impl Grants<BundleGrant> {
    pub(super) fn for_bundles(
        caller: &config::CallerConfig,
        bundles: &BTreeMap<Name, config::BundleConfig>,
        identity: &Grants<Grant<IdentityProfile>>,
        hs256: &BTreeMap<Hs256Kind, Grants<Grant<Hs256Profile>>>,
    ) -> Self {
        let named = allowed(caller, ProfileKind::Bundle);
        let grant = |(name, bundle): (&Name, &config::BundleConfig)| {
            let (mut entries, mut denied_profiles) = (Vec::new(), Vec::new());
            let mut allowed = named.contains(name);
            for (entry, profile) in &bundle.entries {
                let found = match profile.kind {
                    ProfileKind::Identity => {
                        identity.get(&profile.bare_name).cloned().map(BundleEntryGrant::Identity)
                    }
                    ProfileKind::Hs256(kind) => {
                        let grants = hs256.get(&kind);
                        grants
                            .and_then(|grants| grants.get(&profile.bare_name))
                            .cloned()
                            .map(BundleEntryGrant::Hs256)
                    }
                    ProfileKind::Oauth | ProfileKind::Bundle => None,
                };
                if let Some(grant) = found {
                    allowed &= grant.permission().is_allowed();
                    entries.push((entry.clone(), grant));
                } else {
                    allowed = false;
                    denied_profiles.push(profile.clone());
                }
            }
            let full = ProfileName::new(ProfileKind::Bundle, name.clone());
            (name.clone(), BundleGrant { name: full, entries, denied_profiles, allowed })
        };
        let (by_name, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            bundles.iter().map(grant).partition(|(name, _)| named.contains(name));
        let audit_only = if caller.policy == PolicyMode::Audit { others } else { BTreeMap::new() };
        Self { kind: ProfileKind::Bundle, by_name, audit_only }
    }
}

impl<G> Grants<G> {
    /// Returns the grant for a requested profile or bundle, for example `web` or `identity.web`. Without a name, returns the only
    /// grant.
    ///
    /// # Errors
    /// The profile isn't allowed, the text isn't a name of this kind, or no name was given and there isn't exactly one grant.
    pub fn select(&self, requested: Option<&str>) -> Result<&G, Denied> {
        let Some(requested) = requested else {
            // Audit-only grants count here only if `allow` has none, so that `policy = "audit"` makes no request ambiguous.
            let none_is_allowed = self.by_name.is_empty();
            let mut grants = if none_is_allowed { &self.audit_only } else { &self.by_name }.values();
            return match (grants.next(), grants.next()) {
                (Some(grant), None) => Ok(grant),
                _ if none_is_allowed => Err(Denied::Profile(self.allowed_names())),
                _ => Err(Denied::Ambiguous(self.allowed_names())),
            };
        };
        let name = match requested.split_once('.') {
            None => requested,
            Some((section, name)) if section == self.kind.section() => name,
            Some(_) => return Err(Denied::WrongKind(self.kind.section())),
        };
        let name = Name::parse(name).map_err(|_| Denied::NotAName)?;
        self.get(&name).ok_or_else(|| Denied::Profile(self.allowed_names()))
    }

    fn get(&self, name: &Name) -> Option<&G> {
        self.by_name.get(name).or_else(|| self.audit_only.get(name))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &G> {
        self.by_name.values().chain(self.audit_only.values())
    }

    fn allowed_names(&self) -> String {
        let section = self.kind.section();
        if self.by_name.is_empty() {
            return format!("no `{section}.` profile");
        }
        self.by_name.keys().map(|name| format!("`{section}.{name}`")).collect::<Vec<_>>().join(", ")
    }
}
