//! Authentication and authorization of callers.
//!
//! - A caller is authenticated by the SHA-256 of its API key, with a timing that reveals nothing useful about keys. Without
//!   an API key, it is authenticated by a JWT of its platform, or by its connection: client certificate or Unix user.
//! - The profiles that a caller may use are resolved when the configuration is loaded. A request selects one of them.
//! - [`Caller::authorize`] is the only way to mint with a profile, and denies by default. Its result, [`Authorized`], gives
//!   access to the profile. A handler that skips it doesn't compile.
//! - With `policy = "audit"`, requests that the caller's `allow`, `subjects`, `subjects_per_minute` or `subject_token` would deny
//!   are allowed, counted and logged. The caller's request rate, the `subjects` of a profile, and `allow` for OAuth profiles are enforced
//!   all the same.

mod credentials;
mod grants;
mod jwt;
mod rate_limit;
mod subject_token;
mod violation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use secrecy::SecretString;

use credentials::Credentials;
pub(crate) use credentials::Peer;
pub use grants::Permission;
pub(crate) use grants::{Authorized, AuthorizedEntry, BundleEntryGrant, BundleGrant, Denied, Grant, Grants};
use jwt::JwtCredentials;
pub(crate) use jwt::{JwtError, is_accepted_value};
pub(crate) use rate_limit::{DistinctSubjectLimit, RateLimited, SubjectRateLimiter};
pub(crate) use subject_token::{RequestedSubject, SubjectError, parse_subject};
use subject_token::{SubjectFields, SubjectTokenRule};
pub(crate) use violation::{PolicyRule, Violation};

use crate::clock::{Clock, UnixTime};
use crate::config::{self, Config, Hs256Kind, Name, PolicyMode, ProfileKind, RateLimit, SubjectPattern};
use crate::hash::sha256;
use crate::issuers::Issuers;
use crate::metrics::Metrics;
use crate::token_bucket::TokenBucket;
use crate::tokens::{Hs256Profile, IdentityProfile, OauthProfile, Profiles, Subject};

/// How a caller authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    ApiKey,
    Jwt,
    /// By a client certificate or a Unix user.
    Connection,
}

impl Credential {
    /// The value of `credential` in audit lines.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Connection => "connection",
        }
    }
}

/// All callers of a configuration, with their credentials.
pub struct Callers {
    credentials: Credentials,
    jwts: JwtCredentials,
    all: Vec<Arc<Caller>>,
}

/// The result of looking up a Bearer credential.
pub(crate) enum BearerLookup<'a> {
    /// How the caller authenticated, and the caller.
    Caller(Credential, &'a Arc<Caller>),
    /// A JWT that must be verified. The value is its SHA-256.
    UnverifiedJwt([u8; 32]),
    Unknown,
}

/// A caller with its grants, its policy and the state of its rate limits.
pub struct Caller {
    pub(crate) name: Name,
    pub identity: Grants<Grant<IdentityProfile>>,
    pub oauth: Grants<Grant<OauthProfile>>,
    pub hs256: BTreeMap<Hs256Kind, Grants<Grant<Hs256Profile>>>,
    pub bundles: Grants<BundleGrant>,
    subjects: Option<SubjectPattern>,
    subject_token: Option<SubjectTokenRule>,
    /// `subjects_per_minute` and its state. A reload keeps the state.
    subject_limit: Option<(u32, Arc<DistinctSubjectLimit>)>,
    policy: PolicyMode,
    /// Counts requests denied by `subjects_per_minute`, those that audit mode allowed not included.
    pub(crate) subjects_refused: IntCounter,
    /// Counts requests that only `policy = "audit"` allowed, by [`PolicyRule`].
    would_refuse: Vec<IntCounter>,
    /// The caller's request rate and its bucket. A reload keeps the bucket if the rate is the same.
    rate_limit: Option<(RateLimit, Arc<TokenBucket>)>,
}

impl Callers {
    /// Resolves the callers of a configuration.
    ///
    /// # Panics
    /// If `profiles` or `issuers` doesn't belong to the same configuration.
    pub fn new(config: &Config, profiles: &Profiles, issuers: &Issuers, metrics: &Metrics) -> Self {
        Self::with_previous(config, profiles, issuers, metrics, None)
    }

    /// Like [`new`](Self::new), but takes over the state of the rate limits from `previous`, for a reload.
    ///
    /// # Panics
    /// Like [`new`](Self::new).
    pub(crate) fn with_previous(
        config: &Config,
        profiles: &Profiles,
        issuers: &Issuers,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        let previous: BTreeMap<&Name, &Arc<Caller>> = previous
            .into_iter()
            .flat_map(|previous| &previous.all)
            .map(|caller| (&caller.name, caller))
            .collect();
        let caller = |caller: &config::CallerConfig| {
            let previous = previous.get(&caller.name).map(|previous| &***previous);
            Arc::new(Caller::new(caller, &config.bundles, profiles, issuers, metrics, previous))
        };
        Self {
            credentials: Credentials::of(config.callers.values()),
            jwts: JwtCredentials::new(config.callers.values(), issuers, metrics),
            all: config.callers.values().map(caller).collect(),
        }
    }

    pub(crate) fn names(&self) -> BTreeSet<&Name> {
        self.all.iter().map(|caller| &caller.name).collect()
    }

    /// Returns the pairs of caller and profile or bundle that are granted, audit-only grants included, as labels of metrics.
    pub(crate) fn granted_profiles(&self) -> BTreeSet<(String, String)> {
        let granted = self.all.iter().flat_map(|caller| {
            let identity = caller.identity.all().map(|grant| &grant.profile.name);
            let oauth = caller.oauth.all().map(|grant| &grant.profile.name);
            let hs256 = caller.hs256.values().flat_map(Grants::all).map(|grant| &grant.profile.name);
            let bundles = caller.bundles.all().map(BundleGrant::name);
            let profiles = identity.chain(oauth).chain(hs256).chain(bundles);
            profiles.map(|profile| (caller.name.to_string(), profile.to_string()))
        });
        granted.collect()
    }

    /// Finds the caller with this API key.
    pub fn by_api_key(&self, api_key: &[u8]) -> Option<&Arc<Caller>> {
        self.credentials.by_api_key_digest(&sha256(api_key)).map(|index| self.caller(index))
    }

    /// Finds the caller with this API key, or with this JWT if it was verified before.
    pub(crate) fn find_bearer(&self, credential: &[u8], now: UnixTime) -> BearerLookup<'_> {
        let digest = sha256(credential);
        if let Some(index) = self.credentials.by_api_key_digest(&digest) {
            return BearerLookup::Caller(Credential::ApiKey, self.caller(index));
        }
        match self.jwts.find_verified(&digest, now) {
            Some(index) => BearerLookup::Caller(Credential::Jwt, self.caller(index)),
            None if self.jwts.is_jwt(credential) => BearerLookup::UnverifiedJwt(digest),
            None => BearerLookup::Unknown,
        }
    }

    /// Verifies a JWT, and finds its caller. `digest` is its SHA-256.
    ///
    /// # Errors
    /// The JWT is refused, or its issuer's keys aren't available.
    pub(crate) async fn by_jwt(
        &self,
        jwt: &[u8],
        digest: [u8; 32],
        clock: &dyn Clock,
    ) -> Result<&Arc<Caller>, JwtError> {
        self.jwts.authenticate(jwt, digest, clock).await.map(|index| self.caller(index))
    }

    /// Whether a refused JWT of this issuer, or of none, may be logged at the monotonic time `now`.
    pub(crate) fn may_log_refused_jwt(&self, issuer: Option<&Name>, now: Duration) -> bool {
        self.jwts.may_log_refusal(issuer, now)
    }

    fn caller(&self, index: u32) -> &Arc<Caller> {
        &self.all[index as usize]
    }

    /// Finds the caller of a connection.
    pub(crate) fn by_peer(&self, peer: &Peer) -> Option<&Arc<Caller>> {
        self.credentials.by_peer(peer).map(|index| self.caller(index))
    }
}

impl Caller {
    fn new(
        caller: &config::CallerConfig,
        bundles: &BTreeMap<Name, config::BundleConfig>,
        profiles: &Profiles,
        issuers: &Issuers,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        // The state of a bucket depends on its rate, so a bucket with another rate isn't reused.
        let bucket = |rate: RateLimit| {
            let (before, bucket) = previous?.rate_limit.as_ref()?;
            (*before == rate).then(|| bucket.clone())
        };
        let previous_limit =
            || previous.and_then(|previous| Some(previous.subject_limit.as_ref()?.1.clone()));
        let identity = Grants::new(ProfileKind::Identity, caller, &profiles.identity, metrics);
        let of_kind = |(kind, profiles): (&Hs256Kind, _)| {
            (*kind, Grants::new(ProfileKind::Hs256(*kind), caller, profiles, metrics))
        };
        let hs256 = profiles.hs256.iter().map(of_kind).collect();
        Self {
            name: caller.name.clone(),
            bundles: Grants::for_bundles(caller, bundles, &identity, &hs256),
            oauth: Grants::new(ProfileKind::Oauth, caller, &profiles.oauth, metrics),
            identity,
            hs256,
            subjects: caller.subjects.clone(),
            subject_token: caller.subject_token.as_ref().map(|config| SubjectTokenRule::new(config, issuers)),
            subject_limit: caller
                .subjects_per_minute
                .map(|most| (most, previous_limit().unwrap_or_default())),
            policy: caller.policy,
            subjects_refused: metrics.subjects_refused.with_label_values(&[caller.name.as_str()]),
            would_refuse: PolicyRule::ALL
                .iter()
                .map(|rule| metrics.would_refuse.with_label_values(&[caller.name.as_str(), rule.as_str()]))
                .collect(),
            rate_limit: caller.rate_limit.map(|rate| (rate, bucket(rate).unwrap_or_default())),
        }
    }

    /// Counts a request against the caller's rate limit, at the monotonic time `now`.
    ///
    /// # Errors
    /// The limit is exceeded. The value is the time until the next request is allowed.
    pub(crate) fn check_rate_limit(&self, now: Duration) -> Result<(), Duration> {
        self.rate_limit.as_ref().map_or(Ok(()), |(rate, bucket)| bucket.try_acquire(*rate, now))
    }

    /// Whether the caller's `subjects` allows this subject.
    pub fn may_use_subject(&self, subject: &Subject) -> bool {
        self.subjects.as_ref().is_none_or(|pattern| pattern.matches(subject.as_str()))
    }

    /// Authorizes a request for `grant`, and for `subject` if there is one, at the monotonic time `now`. If no other rule denies
    /// it, counts `subject` against `subjects_per_minute`.
    ///
    /// # Errors
    /// The first rule that denies the request, unless `policy = "audit"` applies to it.
    pub(crate) fn authorize<'a, G: Permission>(
        &self,
        grant: &'a G,
        subject: Option<&Subject>,
        now: Duration,
    ) -> Result<Authorized<'a, G>, Violation> {
        let Some(violation) = self.find_violation(grant, subject, now) else {
            return Ok(Authorized { grant, audit_violation: None });
        };
        // A request without a subject is for an OAuth profile, to which `policy = "audit"` doesn't apply.
        let is_audited = self.policy == PolicyMode::Audit && subject.is_some();
        let Some(rule) = violation.rule().filter(|_| is_audited) else { return Err(violation) };
        self.would_refuse[rule as usize].inc();
        Ok(Authorized { grant, audit_violation: Some(violation) })
    }

    /// Finds the subject of a request: `named` is the value of its field `field`, `sub` or `user_id`, and `token` is its
    /// `subject_token`.
    ///
    /// # Errors
    /// A field is missing or invalid, the token is refused, or its issuer's keys aren't available.
    pub(crate) async fn resolve_subject(
        &self,
        field: &'static str,
        named: Option<String>,
        token: Option<&SecretString>,
        clock: &dyn Clock,
    ) -> Result<RequestedSubject, SubjectError> {
        let named = named.map(|named| Subject::parse(field, named)).transpose()?;
        let request = SubjectFields { field, named, token };
        match &self.subject_token {
            None => request.named_only(),
            Some(rule) => rule.resolve_subject(request, self.policy, clock).await,
        }
    }

    /// Counts a request that only audit mode allowed in spite of `subject_token`.
    pub(crate) fn count_subject_token_violation(&self) {
        self.would_refuse[PolicyRule::SubjectToken as usize].inc();
    }

    fn find_violation(
        &self,
        grant: &impl Permission,
        subject: Option<&Subject>,
        now: Duration,
    ) -> Option<Violation> {
        if subject.is_some_and(|subject| !grant.matches_subject(subject)) {
            return Some(Violation::ProfileSubjects);
        }
        if !grant.is_allowed() {
            return Some(Violation::Allow);
        }
        let subject = subject?;
        if !self.may_use_subject(subject) {
            return Some(Violation::Subjects);
        }
        let (most, limit) = self.subject_limit.as_ref()?;
        limit.check_subject_limit(subject, *most, now).err().map(Violation::SubjectLimit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProfileName;

    struct Fake {
        name: ProfileName,
        allowed: bool,
        matches_subject: bool,
    }

    impl Permission for Fake {
        fn name(&self) -> &ProfileName {
            &self.name
        }

        fn is_allowed(&self) -> bool {
            self.allowed
        }

        fn matches_subject(&self, _: &Subject) -> bool {
            self.matches_subject
        }
    }

    fn caller(policy: PolicyMode, metrics: &Metrics) -> Caller {
        let caller = config::CallerConfig {
            name: Name::parse("one").expect("a name"),
            api_key_sha256: Vec::new(),
            client_san: Vec::new(),
            peer_uid: None,
            jwt: None,
            subject_token: None,
            allow: Vec::new(),
            subjects: Some(SubjectPattern::parse("user-[0-9]").expect("a pattern")),
            subjects_per_minute: Some(1),
            policy,
            rate_limit: None,
        };
        let profiles = Profiles { identity: BTreeMap::new(), oauth: BTreeMap::new(), hs256: BTreeMap::new() };
        Caller::new(&caller, &BTreeMap::new(), &profiles, &Issuers::default(), metrics, None)
    }

    /// All combinations of the rules' results, with both policies.
    #[test]
    fn authorize_allows_only_when_every_rule_passes_or_the_policy_is_audited() {
        let subject = |text: &str| Subject::parse("sub", text.to_owned()).expect("a subject");
        let truths = [false, true];
        for policy in [PolicyMode::Enforce, PolicyMode::Audit] {
            for (allowed, matches_subject) in truths.into_iter().flat_map(|a| truths.map(|b| (a, b))) {
                let name = ProfileName::new(ProfileKind::Identity, Name::parse("web").expect("a name"));
                let fake = Fake { name, allowed, matches_subject };
                for (named, budget) in truths.into_iter().flat_map(|a| truths.map(|b| (a, b))) {
                    let metrics = Metrics::new();
                    let caller = caller(policy, &metrics);
                    let now = Duration::from_secs(7);
                    if !budget {
                        let spent = Fake { name: fake.name.clone(), allowed: true, matches_subject: true };
                        assert!(caller.authorize(&spent, Some(&subject("user-0")), now).is_ok());
                    }
                    let asked = subject(if named { "user-1" } else { "guest" });
                    let got = caller.authorize(&fake, Some(&asked), now);
                    let first = match (matches_subject, allowed, named, budget) {
                        (false, ..) => Some((Violation::ProfileSubjects, None)),
                        (_, false, ..) => Some((Violation::Allow, Some(PolicyRule::Profile))),
                        (_, _, false, _) => Some((Violation::Subjects, Some(PolicyRule::Subject))),
                        (.., false) => {
                            let too_often =
                                RateLimited { retry_after: Duration::from_mins(1), is_first: true };
                            Some((Violation::SubjectLimit(too_often), Some(PolicyRule::SubjectLimit)))
                        }
                        _ => None,
                    };
                    let is_audited = policy == PolicyMode::Audit;
                    let context = format!("{policy:?} {matches_subject} {allowed} {named} {budget}");
                    match (first, got) {
                        (Some((violation, rule)), Err(no)) => {
                            assert!(!is_audited || rule.is_none(), "{context}");
                            assert_eq!(no, violation, "{context}");
                        }
                        (first, got) => {
                            let audit_violation = got.ok().map(|yes| yes.audit_violation);
                            assert_eq!(
                                audit_violation,
                                Some(first.map(|(violation, _)| violation)),
                                "{context}"
                            );
                            let rule = first.and_then(|(_, rule)| rule);
                            assert!(first.is_none() || (is_audited && rule.is_some()), "{context}");
                            let counted = rule.map_or(0, |rule| caller.would_refuse[rule as usize].get());
                            assert_eq!(counted, u64::from(first.is_some()), "{context}");
                        }
                    }
                }
                // A request for an OAuth profile has no subject, and `allow` is enforced for it.
                let login = caller(policy, &Metrics::new()).authorize(&fake, None, Duration::ZERO).is_ok();
                assert_eq!(login, allowed, "{policy:?}");
            }
        }
    }
}
