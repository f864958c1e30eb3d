//! Who may ask, and for what.
//!
//! - A caller is found by the SHA-256 of its API key, compared in constant time with those of all callers.
//! - What a caller may use is resolved at load: a request only picks from it.
//! - Nothing is minted for a profile or a subject that the policy doesn't name.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use prometheus::IntCounter;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use thiserror::Error;

use crate::config::{self, Kind, Name, ProfileName, SubjectPattern};
use crate::metrics::Metrics;
use crate::tokens::{IdentityProfile, IntercomProfile, OauthProfile, Profiles, Subject};

pub struct Callers {
    /// SHA-256 of an API key, and whose it is.
    keys: Vec<([u8; 32], u32)>,
    callers: Vec<Arc<Caller>>,
}

pub struct Caller {
    pub name: Name,
    pub identity: Grants<IdentityProfile>,
    pub oauth: Grants<OauthProfile>,
    pub intercom: Grants<IntercomProfile>,
    subjects: Option<SubjectPattern>,
}

/// The profiles of one kind that a caller may use.
pub struct Grants<P> {
    kind: Kind,
    by_name: BTreeMap<Name, Grant<P>>,
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
    #[error("`profile` must be the name of a profile")]
    NotAName,
    #[error("this endpoint takes profiles `{0}.NAME` only")]
    WrongKind(&'static str),
    #[error("this caller may not use that profile; it may use {0} (`allow` in its configuration)")]
    Profile(String),
    #[error("this caller may not have a token for that subject (`subjects` of the profile or of the caller)")]
    Subject,
}

impl Callers {
    /// # Panics
    /// Where `profiles` were not made from the same configuration.
    pub fn new(callers: &BTreeMap<Name, config::Caller>, profiles: &Profiles, metrics: &Metrics) -> Self {
        let mut keys = Vec::new();
        let callers: Vec<Arc<Caller>> = callers
            .values()
            .zip(0..)
            .map(|(caller, owner)| {
                keys.extend(caller.api_key_sha256.iter().map(|digest| (*digest, owner)));
                Arc::new(Caller::new(caller, profiles, metrics))
            })
            .collect();
        Self { keys, callers }
    }

    /// The caller who has this API key. Takes as long for a wrong key as for a right one, whosever it is.
    pub fn authenticate(&self, api_key: &[u8]) -> Option<&Arc<Caller>> {
        let presented = digest(&SHA256, api_key);
        let mut found = Choice::from(0);
        let mut owner = 0_u32;
        for (known, whose) in &self.keys {
            let same = known.ct_eq(presented.as_ref());
            owner.conditional_assign(whose, same);
            found |= same;
        }
        bool::from(found).then(|| &self.callers[owner as usize])
    }
}

impl Caller {
    fn new(caller: &config::Caller, profiles: &Profiles, metrics: &Metrics) -> Self {
        Self {
            name: caller.name.clone(),
            identity: Grants::new(Kind::Identity, caller, &profiles.identity, metrics),
            oauth: Grants::new(Kind::Oauth, caller, &profiles.oauth, metrics),
            intercom: Grants::new(Kind::Intercom, caller, &profiles.intercom, metrics),
            subjects: caller.subjects.clone(),
        }
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

impl<P> Grants<P> {
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

    /// The profile that a request names, `web` or `identity.web`; the only one there is where it names none.
    ///
    /// # Errors
    /// None is allowed, several are, or that one isn't.
    pub fn choose(&self, requested: Option<&str>) -> Result<&Grant<P>, Denied> {
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
