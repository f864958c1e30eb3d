//! Who may ask, and for what.
//!
//! - A caller is found by the SHA-256 of its API key, compared in constant time with those of all callers; or,
//!   where none is sent, by what its connection says of it.
//! - What a caller may use is resolved at load: a request only picks from it.
//! - Nothing is minted for a profile or a subject that the policy doesn't name.

mod credentials;
mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use thiserror::Error;

use credentials::Credentials;
pub use credentials::Peer;
pub use pace::{Bucket, Guard, TooOften};

use crate::config::{self, Config, Kind, Name, Pace, ProfileName, SubjectPattern};
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
    pace: Option<Pace>,
    bucket: Bucket,
}

/// The profiles, or bundles, of one kind that a caller may use.
pub struct Grants<G> {
    kind: Kind,
    by_name: BTreeMap<Name, G>,
}

/// What one page load needs. A bundle opens no door of its own: each of its profiles must be allowed too.
pub struct BundleGrant {
    pub name: ProfileName,
    entries: Vec<(Name, Entry)>,
    /// Profiles of the bundle that the caller may not use.
    closed: Vec<ProfileName>,
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

    /// Who is granted what, in the words of the metrics.
    pub fn granted(&self) -> BTreeSet<(String, String)> {
        let granted = self.callers.iter().flat_map(|caller| {
            let identity = caller.identity.by_name.values().map(|grant| &grant.profile.name);
            let oauth = caller.oauth.by_name.values().map(|grant| &grant.profile.name);
            let intercom = caller.intercom.by_name.values().map(|grant| &grant.profile.name);
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

    /// # Errors
    /// The caller, or the profile, doesn't speak of such subjects.
    pub fn may_name(&self, subject: &Subject, profile: Option<&IdentityProfile>) -> Result<(), Denied> {
        let caller_may = self.subjects.as_ref().is_none_or(|pattern| pattern.matches(subject.as_str()));
        if caller_may && profile.is_none_or(|profile| profile.covers(subject)) {
            Ok(())
        } else {
            Err(Denied::Subject)
        }
    }
}

impl<P> Clone for Grant<P> {
    fn clone(&self) -> Self {
        Self { profile: self.profile.clone(), minted: self.minted.clone() }
    }
}

impl<P> Grants<Grant<P>> {
    fn new(
        kind: Kind,
        caller: &config::Caller,
        profiles: &BTreeMap<Name, Arc<P>>,
        metrics: &Metrics,
    ) -> Self {
        let grant = |allowed: &ProfileName| {
            let profile = profiles.get(&allowed.name);
            let profile =
                profile.expect("a validated configuration allows only profiles that it has").clone();
            let labels = [&allowed.to_string(), caller.name.as_str()];
            (
                allowed.name.clone(),
                Grant { profile, minted: metrics.tokens_minted.with_label_values(&labels) },
            )
        };
        let by_name = caller.allow.iter().filter(|allowed| allowed.kind == kind).map(grant).collect();
        Self { kind, by_name }
    }
}

impl Grants<BundleGrant> {
    fn of_bundles(
        caller: &config::Caller,
        bundles: &BTreeMap<Name, config::Bundle>,
        identity: &Grants<Grant<IdentityProfile>>,
        intercom: &Grants<Grant<IntercomProfile>>,
    ) -> Self {
        let grant = |allowed: &ProfileName| {
            let bundle = bundles.get(&allowed.name);
            let bundle = bundle.expect("a validated configuration allows only bundles that it has");
            let (mut entries, mut closed) = (Vec::new(), Vec::new());
            for (entry, profile) in &bundle.entries {
                let found = match profile.kind {
                    Kind::Identity => identity.by_name.get(&profile.name).cloned().map(Entry::Identity),
                    Kind::Intercom => intercom.by_name.get(&profile.name).cloned().map(Entry::Intercom),
                    Kind::Oauth | Kind::Bundle => None,
                };
                match found {
                    Some(grant) => entries.push((entry.clone(), grant)),
                    None => closed.push(profile.clone()),
                }
            }
            (allowed.name.clone(), BundleGrant { name: allowed.clone(), entries, closed })
        };
        let by_name = caller.allow.iter().filter(|allowed| allowed.kind == Kind::Bundle).map(grant).collect();
        Self { kind: Kind::Bundle, by_name }
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
        self.by_name.get(&name).ok_or_else(|| Denied::Profile(self.listed()))
    }

    fn listed(&self) -> String {
        let section = self.kind.section();
        if self.by_name.is_empty() {
            return format!("no `{section}.` profile");
        }
        self.by_name.keys().map(|name| format!("`{section}.{name}`")).collect::<Vec<_>>().join(", ")
    }
}
