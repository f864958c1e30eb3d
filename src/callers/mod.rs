//! Who may ask, and for what: authentication and authorization.
//!
//! - A caller is found by the SHA-256 of its API key, in a time that says nothing of how near a guess came; or, where
//!   none is sent, by what its connection says of it.
//! - What a caller may use is resolved at load: a request only picks from it.
//! - [`Caller::authorize`] is the one gate. It is closed by default, and only its answer, [`Authorized`], leads from a
//!   grant to the profile that mints: a handler that doesn't ask doesn't compile.
//! - Nothing is minted for a profile or a subject that the policy doesn't name. Where the policy is to be tried
//!   first (`audit`), what the caller's own settings say no to is let through and counted; what its profile says of
//!   subjects holds all the same, and an integration user's login is never let through.

mod credentials;
mod grants;
mod pace;
mod violation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use credentials::Credentials;
pub use credentials::Peer;
pub use grants::{
    Authorized, AuthorizedEntry, BundleGrant, Denied, Entry, Grant, Grants, Permission, Profile,
};
pub use pace::{Bucket, Budget, Guard, TooOften};
pub use violation::{Rule, Violation};

use crate::config::{self, Config, Hs256Kind, Kind, Name, Pace, Policy, SubjectPattern};
use crate::metrics::Metrics;
use crate::tokens::{Hs256Profile, IdentityProfile, OauthProfile, Profiles, Subject};

pub struct Callers {
    credentials: Credentials,
    callers: Vec<Arc<Caller>>,
}

pub struct Caller {
    pub name: Name,
    pub identity: Grants<Grant<IdentityProfile>>,
    pub oauth: Grants<Grant<OauthProfile>>,
    pub hs256: BTreeMap<Hs256Kind, Grants<Grant<Hs256Profile>>>,
    pub bundles: Grants<BundleGrant>,
    subjects: Option<SubjectPattern>,
    /// How many different subjects in a minute, and those that were. A reload carries the latter over.
    budget: Option<(u32, Arc<Budget>)>,
    policy: Policy,
    /// Counts those whom the budget refused.
    pub subjects_refused: IntCounter,
    /// Counts what was let through, by [`Rule`].
    would_refuse: Vec<IntCounter>,
    /// Its own rate, and what it has used of it. A reload carries the latter over where the rate is the same.
    pace: Option<(Pace, Arc<Bucket>)>,
}

impl Callers {
    /// # Panics
    /// Where `profiles` were not made from the same configuration.
    pub fn new(config: &Config, profiles: &Profiles, metrics: &Metrics) -> Self {
        Self::after(config, profiles, metrics, None)
    }

    /// As `new`, to take the place of `previous`: its callers go on with what they have used of their limits.
    ///
    /// # Panics
    /// As `new`.
    pub fn after(config: &Config, profiles: &Profiles, metrics: &Metrics, previous: Option<&Self>) -> Self {
        let previous: BTreeMap<&Name, &Arc<Caller>> = previous
            .into_iter()
            .flat_map(|previous| &previous.callers)
            .map(|caller| (&caller.name, caller))
            .collect();
        let caller = |caller: &config::Caller| {
            let previous = previous.get(&caller.name).map(|previous| &***previous);
            Arc::new(Caller::new(caller, &config.bundles, profiles, metrics, previous))
        };
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
            let hs256 = caller.hs256.values().flat_map(Grants::all).map(|grant| &grant.profile.name);
            let profiles = identity.chain(oauth).chain(hs256);
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
        previous: Option<&Self>,
    ) -> Self {
        // What is owed to another rate says nothing of this one.
        let bucket = |pace: Pace| {
            let (before, bucket) = previous?.pace.as_ref()?;
            (*before == pace).then(|| bucket.clone())
        };
        let budget = || previous.and_then(|previous| Some(previous.budget.as_ref()?.1.clone()));
        let identity = Grants::new(Kind::Identity, caller, &profiles.identity, metrics);
        let of_kind = |(kind, profiles): (&Hs256Kind, _)| {
            (*kind, Grants::new(Kind::Hs256(*kind), caller, profiles, metrics))
        };
        let hs256 = profiles.hs256.iter().map(of_kind).collect();
        Self {
            name: caller.name.clone(),
            bundles: Grants::of_bundles(caller, bundles, &identity, &hs256),
            oauth: Grants::new(Kind::Oauth, caller, &profiles.oauth, metrics),
            identity,
            hs256,
            subjects: caller.subjects.clone(),
            budget: caller.subjects_per_minute.map(|most| (most, budget().unwrap_or_default())),
            policy: caller.policy,
            subjects_refused: metrics.subjects_refused.with_label_values(&[caller.name.as_str()]),
            would_refuse: Rule::ALL
                .iter()
                .map(|rule| metrics.would_refuse.with_label_values(&[caller.name.as_str(), rule.as_str()]))
                .collect(),
            pace: caller.pace.map(|pace| (pace, bucket(pace).unwrap_or_default())),
        }
    }

    /// Counts one more request against the caller's own rate, at the steady time `now`.
    ///
    /// # Errors
    /// It is exceeded; the time until it isn't.
    pub fn take_turn(&self, now: Duration) -> Result<(), Duration> {
        self.pace.as_ref().map_or(Ok(()), |(pace, bucket)| bucket.take(*pace, now))
    }

    /// Whether its own settings let it speak of such subjects.
    pub fn may_name(&self, subject: &Subject) -> bool {
        self.subjects.as_ref().is_none_or(|pattern| pattern.matches(subject.as_str()))
    }

    /// Whether it may have what `grant` gives, for `subject` where that speaks of one, at the steady time `now`. Counts
    /// `subject` against its budget of different ones.
    ///
    /// # Errors
    /// The first rule that says no, unless the policy is only tried.
    pub fn authorize<'a, G: Permission>(
        &self,
        grant: &'a G,
        subject: Option<&Subject>,
        now: Duration,
    ) -> Result<Authorized<'a, G>, Violation> {
        let Some(violation) = self.violation(grant, subject, now) else {
            return Ok(Authorized { grant, let_through: None });
        };
        // Without a subject it is the login of an integration user, and never let through.
        let tried = self.policy == Policy::Audit && subject.is_some();
        let Some(rule) = violation.rule().filter(|_| tried) else { return Err(violation) };
        self.would_refuse[rule as usize].inc();
        Ok(Authorized { grant, let_through: Some(violation) })
    }

    fn violation(
        &self,
        grant: &impl Permission,
        subject: Option<&Subject>,
        now: Duration,
    ) -> Option<Violation> {
        if subject.is_some_and(|subject| !grant.covers(subject)) {
            return Some(Violation::ProfileSubjects);
        }
        if !grant.is_allowed() {
            return Some(Violation::Allow);
        }
        let subject = subject?;
        if !self.may_name(subject) {
            return Some(Violation::Subjects);
        }
        let (most, budget) = self.budget.as_ref()?;
        budget.admit(subject, *most, now).err().map(Violation::Budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProfileName;

    struct Fake {
        name: ProfileName,
        allowed: bool,
        covers: bool,
    }

    impl Permission for Fake {
        fn name(&self) -> &ProfileName {
            &self.name
        }

        fn is_allowed(&self) -> bool {
            self.allowed
        }

        fn covers(&self, _: &Subject) -> bool {
            self.covers
        }
    }

    fn caller(policy: Policy, metrics: &Metrics) -> Caller {
        let caller = config::Caller {
            name: Name::parse("one").expect("a name"),
            api_key_sha256: Vec::new(),
            client_san: Vec::new(),
            peer_uid: None,
            allow: Vec::new(),
            subjects: Some(SubjectPattern::parse("user-[0-9]").expect("a pattern")),
            subjects_per_minute: Some(1),
            policy,
            pace: None,
        };
        let profiles = Profiles { identity: BTreeMap::new(), oauth: BTreeMap::new(), hs256: BTreeMap::new() };
        Caller::new(&caller, &BTreeMap::new(), &profiles, metrics, None)
    }

    /// Every mix of what the rules can say, under both policies.
    #[test]
    fn the_gate_opens_only_where_each_rule_says_yes_or_the_policy_is_tried() {
        let subject = |text: &str| Subject::parse("sub", text.to_owned()).expect("a subject");
        let truths = [false, true];
        for policy in [Policy::Enforce, Policy::Audit] {
            for (allowed, covers) in truths.into_iter().flat_map(|a| truths.map(|b| (a, b))) {
                let name = ProfileName::new(Kind::Identity, Name::parse("web").expect("a name"));
                let fake = Fake { name, allowed, covers };
                for (named, budget) in truths.into_iter().flat_map(|a| truths.map(|b| (a, b))) {
                    let metrics = Metrics::new();
                    let caller = caller(policy, &metrics);
                    let now = Duration::from_secs(7);
                    if !budget {
                        let spent = Fake { name: fake.name.clone(), allowed: true, covers: true };
                        assert!(caller.authorize(&spent, Some(&subject("user-0")), now).is_ok());
                    }
                    let asked = subject(if named { "user-1" } else { "guest" });
                    let got = caller.authorize(&fake, Some(&asked), now);
                    let first = match (covers, allowed, named, budget) {
                        (false, ..) => Some((Violation::ProfileSubjects, None)),
                        (_, false, ..) => Some((Violation::Allow, Some(Rule::Profile))),
                        (_, _, false, _) => Some((Violation::Subjects, Some(Rule::Subject))),
                        (.., false) => {
                            let too_often = TooOften { retry_after: Duration::from_mins(1), begins: true };
                            Some((Violation::Budget(too_often), Some(Rule::Budget)))
                        }
                        _ => None,
                    };
                    let tried = policy == Policy::Audit;
                    let context = format!("{policy:?} {covers} {allowed} {named} {budget}");
                    match (first, got) {
                        (Some((violation, rule)), Err(no)) => {
                            assert!(!tried || rule.is_none(), "{context}");
                            assert_eq!(no, violation, "{context}");
                        }
                        (first, got) => {
                            let let_through = got.ok().map(|yes| yes.let_through);
                            assert_eq!(let_through, Some(first.map(|(violation, _)| violation)), "{context}");
                            let rule = first.and_then(|(_, rule)| rule);
                            assert!(first.is_none() || (tried && rule.is_some()), "{context}");
                            let counted = rule.map_or(0, |rule| caller.would_refuse[rule as usize].get());
                            assert_eq!(counted, u64::from(first.is_some()), "{context}");
                        }
                    }
                }
                // The login of an integration user speaks of no subject, and is never let through.
                let login = caller(policy, &Metrics::new()).authorize(&fake, None, Duration::ZERO).is_ok();
                assert_eq!(login, allowed, "{policy:?}");
            }
        }
    }
}
