//! What a caller may use, resolved at load: a request picks from it, and gets at a profile only once it is authorized.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prometheus::IntCounter;
use thiserror::Error;

use super::violation::Violation;
use crate::config::{self, Hs256Kind, Kind, Name, Policy, ProfileName};
use crate::json::Members;
use crate::metrics::Metrics;
use crate::tokens::{Claims, Hs256Profile, IdentityProfile, Lifetime, OauthProfile, Objection, Subject};

/// The profiles, or bundles, of one kind that a caller may use.
pub struct Grants<G> {
    kind: Kind,
    by_name: BTreeMap<Name, G>,
    /// Those that it may not, and is let use while its policy is tried.
    audited: BTreeMap<Name, G>,
}

/// What one page load needs. A bundle opens no door of its own: each of its profiles must be allowed too.
pub struct BundleGrant {
    name: ProfileName,
    entries: Vec<(Name, Entry)>,
    /// Profiles of the bundle that the caller may not use.
    closed: Vec<ProfileName>,
    /// Whether the policy names the bundle and all of its profiles.
    allowed: bool,
}

pub enum Entry {
    Identity(Grant<IdentityProfile>),
    Hs256(Grant<Hs256Profile>),
}

impl BundleGrant {
    /// # Errors
    /// The caller may not use one of its profiles.
    pub fn entries(&self) -> Result<&[(Name, Entry)], Denied> {
        match self.closed.first() {
            None => Ok(&self.entries),
            Some(closed) => Err(Denied::Entry(closed.to_string())),
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
    /// Counts what was minted under it.
    minted: IntCounter,
    /// Whether the policy names it; else it is let through while the policy is tried.
    allowed: bool,
}

impl Grant<IdentityProfile> {
    /// # Errors
    /// As [`IdentityProfile::lifetime`].
    pub fn lifetime(&self, asked: Option<u64>) -> Result<Lifetime, Objection> {
        self.profile.lifetime(asked)
    }

    /// # Errors
    /// As [`IdentityProfile::claims`].
    pub fn claims(&self, asked: Members) -> Result<Claims, Objection> {
        self.profile.claims(asked)
    }
}

impl Grant<Hs256Profile> {
    /// # Errors
    /// As [`Hs256Profile::lifetime`].
    pub fn lifetime(&self, asked: Option<u64>) -> Result<Lifetime, Objection> {
        self.profile.lifetime(asked)
    }

    /// # Errors
    /// As [`Hs256Profile::claims`].
    pub fn claims(&self, asked: Members) -> Result<Claims, Objection> {
        self.profile.claims(asked)
    }
}

/// What a request can be authorized for.
pub trait Permission {
    fn name(&self) -> &ProfileName;
    /// Whether the policy names it.
    fn is_allowed(&self) -> bool;
    /// Whether the profile, whoever asks, speaks of such subjects.
    fn covers(&self, subject: &Subject) -> bool;
}

/// A profile as far as the policy is concerned.
pub trait Profile {
    fn name(&self) -> &ProfileName;
    fn covers(&self, subject: &Subject) -> bool;
}

impl Profile for IdentityProfile {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    fn covers(&self, subject: &Subject) -> bool {
        Self::covers(self, subject)
    }
}

impl Profile for Hs256Profile {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    fn covers(&self, _: &Subject) -> bool {
        true
    }
}

impl Profile for OauthProfile {
    fn name(&self) -> &ProfileName {
        &self.name
    }

    /// It speaks of its one integration user.
    fn covers(&self, _: &Subject) -> bool {
        false
    }
}

impl<P: Profile> Permission for Grant<P> {
    fn name(&self) -> &ProfileName {
        self.profile.name()
    }

    fn is_allowed(&self) -> bool {
        self.allowed
    }

    fn covers(&self, subject: &Subject) -> bool {
        self.profile.covers(subject)
    }
}

impl Entry {
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

    fn covers(&self, subject: &Subject) -> bool {
        self.closed.is_empty() && self.entries.iter().all(|(_, entry)| entry.permission().covers(subject))
    }
}

/// The proof that the policy lets a request through.
pub struct Authorized<'a, G> {
    pub(super) grant: &'a G,
    /// What says no, where the policy is only tried.
    pub let_through: Option<Violation>,
}

impl<G: Permission> Authorized<'_, G> {
    pub fn name(&self) -> &ProfileName {
        self.grant.name()
    }
}

impl<P> Authorized<'_, Grant<P>> {
    pub const fn profile(&self) -> &Arc<P> {
        &self.grant.profile
    }

    /// Counts a token that leaves.
    pub fn count(&self) {
        self.grant.minted.inc();
    }
}

impl<'a> Authorized<'a, BundleGrant> {
    /// Its entries, each as authorized as the bundle.
    pub fn entries(&self) -> impl Iterator<Item = (&'a Name, AuthorizedEntry<'a>)> {
        self.grant.entries.iter().map(|(name, entry)| {
            let entry = match entry {
                Entry::Identity(grant) => AuthorizedEntry::Identity(Authorized { grant, let_through: None }),
                Entry::Hs256(grant) => AuthorizedEntry::Hs256(Authorized { grant, let_through: None }),
            };
            (name, entry)
        })
    }
}

pub enum AuthorizedEntry<'a> {
    Identity(Authorized<'a, Grant<IdentityProfile>>),
    Hs256(Authorized<'a, Grant<Hs256Profile>>),
}

/// What the policy says no to. The messages name only what the caller itself is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    #[error("name a profile: this caller may use {0}")]
    Ambiguous(String),
    #[error("must be a name, as in the configuration")]
    NotAName,
    #[error("this endpoint takes profiles `{0}.NAME` only")]
    WrongKind(&'static str),
    #[error("this caller may not use that profile; it may use {0} (`allow` in its configuration)")]
    Profile(String),
    #[error("this caller may not use that profile (`allow` in its configuration)")]
    NotAllowed,
    #[error("this caller may not use `{0}`, which the bundle needs (`allow` in its configuration)")]
    Entry(String),
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
        kind: Kind,
        caller: &config::Caller,
        profiles: &BTreeMap<Name, Arc<P>>,
        metrics: &Metrics,
    ) -> Self {
        let grant = |name: &Name, profile: &Arc<P>, allowed| {
            let full = ProfileName::new(kind, name.clone()).to_string();
            let minted = metrics.tokens_minted.with_label_values(&[&full, caller.name.as_str()]);
            (name.clone(), Grant { profile: profile.clone(), minted, allowed })
        };
        let allowed = allowed(caller, kind);
        let tried = caller.policy == Policy::Audit && kind != Kind::Oauth;
        let others = profiles.iter().filter(|(name, _)| tried && !allowed.contains(name));
        let audited = others.map(|(name, profile)| grant(name, profile, false)).collect();
        let profile = |name: &Name| {
            let profile = profiles.get(name);
            grant(name, profile.expect("a validated configuration allows only profiles that it has"), true)
        };
        Self { kind, by_name: allowed.into_iter().map(profile).collect(), audited }
    }
}

/// The names of the profiles of that kind that a caller's policy names.
fn allowed(caller: &config::Caller, kind: Kind) -> BTreeSet<&Name> {
    caller.allow.iter().filter(|allowed| allowed.kind == kind).map(|allowed| &allowed.name).collect()
}

impl Grants<BundleGrant> {
    pub(super) fn of_bundles(
        caller: &config::Caller,
        bundles: &BTreeMap<Name, config::Bundle>,
        identity: &Grants<Grant<IdentityProfile>>,
        hs256: &BTreeMap<Hs256Kind, Grants<Grant<Hs256Profile>>>,
    ) -> Self {
        let named = allowed(caller, Kind::Bundle);
        let grant = |(name, bundle): (&Name, &config::Bundle)| {
            let (mut entries, mut closed) = (Vec::new(), Vec::new());
            let mut allowed = named.contains(name);
            for (entry, profile) in &bundle.entries {
                let found = match profile.kind {
                    Kind::Identity => identity.get(&profile.name).cloned().map(Entry::Identity),
                    Kind::Hs256(kind) => {
                        let grants = hs256.get(&kind);
                        grants.and_then(|grants| grants.get(&profile.name)).cloned().map(Entry::Hs256)
                    }
                    Kind::Oauth | Kind::Bundle => None,
                };
                if let Some(grant) = found {
                    allowed &= grant.permission().is_allowed();
                    entries.push((entry.clone(), grant));
                } else {
                    allowed = false;
                    closed.push(profile.clone());
                }
            }
            let full = ProfileName::new(Kind::Bundle, name.clone());
            (name.clone(), BundleGrant { name: full, entries, closed, allowed })
        };
        let (by_name, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            bundles.iter().map(grant).partition(|(name, _)| named.contains(name));
        let audited = if caller.policy == Policy::Audit { others } else { BTreeMap::new() };
        Self { kind: Kind::Bundle, by_name, audited }
    }
}

impl<G> Grants<G> {
    /// The profile that a request names, `web` or `identity.web`; the only one there is where it names none.
    ///
    /// # Errors
    /// None is allowed, several are, or that one isn't.
    pub fn choose(&self, requested: Option<&str>) -> Result<&G, Denied> {
        let Some(requested) = requested else {
            // A rule that is tried takes nothing from who names no profile.
            let none_is_allowed = self.by_name.is_empty();
            let mut grants = if none_is_allowed { &self.audited } else { &self.by_name }.values();
            return match (grants.next(), grants.next()) {
                (Some(grant), None) => Ok(grant),
                _ if none_is_allowed => Err(Denied::Profile(self.listed())),
                _ => Err(Denied::Ambiguous(self.listed())),
            };
        };
        let name = match requested.split_once('.') {
            None => requested,
            Some((section, name)) if section == self.kind.section() => name,
            Some(_) => return Err(Denied::WrongKind(self.kind.section())),
        };
        let name = Name::parse(name).map_err(|_| Denied::NotAName)?;
        self.get(&name).ok_or_else(|| Denied::Profile(self.listed()))
    }

    fn get(&self, name: &Name) -> Option<&G> {
        self.by_name.get(name).or_else(|| self.audited.get(name))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &G> {
        self.by_name.values().chain(self.audited.values())
    }

    fn listed(&self) -> String {
        let section = self.kind.section();
        if self.by_name.is_empty() {
            return format!("no `{section}.` profile");
        }
        self.by_name.keys().map(|name| format!("`{section}.{name}`")).collect::<Vec<_>>().join(", ")
    }
}
