//! Who may ask, and for what.
//!
//! - A caller is found by the SHA-256 of its API key, in a time that says nothing of how near a guess came; or, where
//!   none is sent, by what its connection says of it.
//! - What a caller may use is resolved at load: a request only picks from it.
//! - Nothing is minted for a profile or a subject that the policy doesn't name. Where the policy is to be tried
//!   first (`audit`), what the caller's own settings say no to is let through and counted; what its profile says of
//!   subjects holds all the same, and an integration user's login is never let through.

mod credentials;
mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use thiserror::Error;

use credentials::Credentials;
pub use credentials::Peer;
pub use pace::{Bucket, Budget, Guard, TooOften};

use crate::config::{self, Config, Kind, Name, Pace, Policy, ProfileName, SubjectPattern};
use crate::metrics::Metrics;
use crate::tokens::{IdentityProfile, IntercomProfile, OauthProfile, Profiles, Subject};

pub struct Callers {
    credentials: Credentials,
    callers: Vec<Arc<Caller>>,
}

pub struct Caller {
    pub name: Name,
    pub identity: Grants<Grant<IdentityProfile>>,
    pub oauth: Grants<Grant<OauthProfile>>,
    pub intercom: Grants<Grant<IntercomProfile>>,
    pub bundles: Grants<BundleGrant>,
    subjects: Option<SubjectPattern>,
    budget: Option<Budget>,
    policy: Policy,
    /// Counts those whom the budget refused.
    pub subjects_refused: IntCounter,
    /// Counts what was let through, by [`Rule`].
    would_refuse: [IntCounter; 3],
    pace: Option<Pace>,
    bucket: Bucket,
}

/// What a caller's own settings can say no to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `allow`
    Profile,
    /// `subjects`
    Subject,
    /// `subjects_per_minute`
    Budget,
}

impl Rule {
    pub const ALL: [Self; 3] = [Self::Profile, Self::Subject, Self::Budget];

    /// The value of the label `rule`: the setting's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "allow",
            Self::Subject => "subjects",
            Self::Budget => "subjects_per_minute",
        }
    }
}

/// The profiles, or bundles, of one kind that a caller may use.
pub struct Grants<G> {
    kind: Kind,
    by_name: BTreeMap<Name, G>,
    /// Those that it may not, and is let use while its policy is tried.
    audited: BTreeMap<Name, G>,
}

/// What one page load needs. A bundle opens no door of its own: each of its profiles must be allowed too.
pub struct BundleGrant {
    pub name: ProfileName,
    entries: Vec<(Name, Entry)>,
    /// Profiles of the bundle that the caller may not use.
    closed: Vec<ProfileName>,
    /// Whether the policy names the bundle and all of its profiles.
    pub allowed: bool,
}

pub enum Entry {
    Identity(Grant<IdentityProfile>),
    Intercom(Grant<IntercomProfile>),
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

pub struct Grant<P> {
    pub profile: Arc<P>,
    /// Counts what was minted under it.
    pub minted: IntCounter,
    /// Whether the policy names it; else it is let through while the policy is tried.
    pub allowed: bool,
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
    #[error("this caller may not use `{0}`, which the bundle needs (`allow` in its configuration)")]
    Entry(String),
    #[error("this caller may not have a token for that subject (`subjects` of the profile or of the caller)")]
    Subject,
}

impl Callers {
    /// # Panics
    /// Where `profiles` were not made from the same configuration.
    pub fn new(config: &Config, profiles: &Profiles, metrics: &Metrics) -> Self {
        let caller = |caller| Arc::new(Caller::new(caller, &config.bundles, profiles, metrics));
        Self {
            credentials: Credentials::of(config.callers.values()),
            callers: config.callers.values().map(caller).collect(),
        }
    }

    pub fn names(&self) -> BTreeSet<&Name> {
        self.callers.iter().map(|caller| &caller.name).collect()
    }

    /// Who is granted what, in the words of the metrics.
    pub fn granted(&self) -> BTreeSet<(String, String)> {
        let granted = self.callers.iter().flat_map(|caller| {
            let identity = caller.identity.all().map(|grant| &grant.profile.name);
            let oauth = caller.oauth.all().map(|grant| &grant.profile.name);
            let intercom = caller.intercom.all().map(|grant| &grant.profile.name);
            let profiles = identity.chain(oauth).chain(intercom);
            profiles.map(|profile| (caller.name.to_string(), profile.to_string()))
        });
        granted.collect()
    }

    /// The caller who has this API key.
    pub fn by_api_key(&self, api_key: &[u8]) -> Option<&Arc<Caller>> {
        self.credentials.by_api_key(api_key).map(|owner| &self.callers[owner as usize])
    }

    /// The caller at the other end of a connection.
    pub fn by_peer(&self, peer: &Peer) -> Option<&Arc<Caller>> {
        self.credentials.by_peer(peer).map(|owner| &self.callers[owner as usize])
    }
}

impl Caller {
    fn new(
        caller: &config::Caller,
        bundles: &BTreeMap<Name, config::Bundle>,
        profiles: &Profiles,
        metrics: &Metrics,
    ) -> Self {
        let identity = Grants::new(Kind::Identity, caller, &profiles.identity, metrics);
        let intercom = Grants::new(Kind::Intercom, caller, &profiles.intercom, metrics);
        Self {
            name: caller.name.clone(),
            bundles: Grants::of_bundles(caller, bundles, &identity, &intercom),
            oauth: Grants::new(Kind::Oauth, caller, &profiles.oauth, metrics),
            identity,
            intercom,
            subjects: caller.subjects.clone(),
            budget: caller.subjects_per_minute.map(Budget::new),
            policy: caller.policy,
            subjects_refused: metrics.subjects_refused.with_label_values(&[caller.name.as_str()]),
            would_refuse: Rule::ALL
                .map(|rule| metrics.would_refuse.with_label_values(&[caller.name.as_str(), rule.as_str()])),
            pace: caller.pace,
            bucket: Bucket::default(),
        }
    }

    /// Counts one more request against the caller's own rate, at the steady time `now`.
    ///
    /// # Errors
    /// It is exceeded; the time until it isn't.
    pub fn take_turn(&self, now: Duration) -> Result<(), Duration> {
        self.pace.map_or(Ok(()), |pace| self.bucket.take(pace, now))
    }

    /// Whether its own settings let it speak of such subjects.
    pub fn may_name(&self, subject: &Subject) -> bool {
        self.subjects.as_ref().is_none_or(|pattern| pattern.matches(subject.as_str()))
    }

    /// Counts `subject` against its budget of different ones, at the steady time `now`.
    ///
    /// # Errors
    /// It is one too many in this minute.
    pub fn spend(&self, subject: &Subject, now: Duration) -> Result<(), TooOften> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(subject, now))
    }

    /// Whether what `rule` says no to is let through; if so it is counted.
    pub fn lets_through(&self, rule: Rule) -> bool {
        let audits = self.policy == Policy::Audit;
        if audits {
            self.would_refuse[rule as usize].inc();
        }
        audits
    }
}

impl<P> Clone for Grant<P> {
    fn clone(&self) -> Self {
        Self { profile: self.profile.clone(), minted: self.minted.clone(), allowed: self.allowed }
    }
}

impl<P> Grants<Grant<P>> {
    fn new(
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
    fn of_bundles(
        caller: &config::Caller,
        bundles: &BTreeMap<Name, config::Bundle>,
        identity: &Grants<Grant<IdentityProfile>>,
        intercom: &Grants<Grant<IntercomProfile>>,
    ) -> Self {
        let named = allowed(caller, Kind::Bundle);
        let grant = |(name, bundle): (&Name, &config::Bundle)| {
            let (mut entries, mut closed) = (Vec::new(), Vec::new());
            let mut allowed = named.contains(name);
            for (entry, profile) in &bundle.entries {
                let found = match profile.kind {
                    Kind::Identity => identity.get(&profile.name).cloned().map(Entry::Identity),
                    Kind::Intercom => intercom.get(&profile.name).cloned().map(Entry::Intercom),
                    Kind::Oauth | Kind::Bundle => None,
                };
                match found {
                    Some(grant) => {
                        allowed &= grant.allowed();
                        entries.push((entry.clone(), grant));
                    }
                    None => closed.push(profile.clone()),
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

impl Entry {
    const fn allowed(&self) -> bool {
        match self {
            Self::Identity(grant) => grant.allowed,
            Self::Intercom(grant) => grant.allowed,
        }
    }
}

impl<G> Grants<G> {
    /// The profile that a request names, `web` or `identity.web`; the only one there is where it names none.
    ///
    /// # Errors
    /// None is allowed, several are, or that one isn't.
    pub fn choose(&self, requested: Option<&str>) -> Result<&G, Denied> {
        let Some(requested) = requested else {
            let mut grants = self.by_name.values();
            return match (grants.next(), grants.next()) {
                (Some(grant), None) => Ok(grant),
                (None, _) => Err(Denied::Profile(self.listed())),
                (Some(_), Some(_)) => Err(Denied::Ambiguous(self.listed())),
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

    fn all(&self) -> impl Iterator<Item = &G> {
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
