//! The cache of access tokens and the exchanges behind it: who waits, who asks Salesforce, and what is kept.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use secrecy::SecretString;
use thiserror::Error;
use tokio::sync::watch;

use super::budget::Budget;
use super::circuit::Circuits;
use super::job::{self, CacheKey, Job};
use super::meaning::Class;
use super::shared::{self, Progress, SharedCache};
use super::{AccessToken, ExchangeError, Served, chance, upstream};
use crate::clock::{Clock, Randomness};
use crate::config::{KeyId, Redis};
use crate::metrics::Metrics;
use crate::tokens::{Claims, IdentityProfile, OauthProfile, Signer, Subject};
use crate::traces::Trace;

/// A permanent refusal is remembered for so long: each failed login counts against the address.
const PERMANENT: Duration = Duration::from_mins(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(45);
/// Salesforce's `Retry-After`, as far as it is believed.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// Remembered failures; each is small.
const MOST_FAILURES: u64 = 100_000;

/// A failure that answers for Salesforce until it is over.
pub(super) struct Remembered {
    error: ExchangeError,
    at: Duration,
    until: Duration,
    /// Failures in a row.
    streak: u32,
}

pub(super) type Outcome = Result<Served, ExchangeError>;
type Flight = watch::Receiver<Option<Outcome>>;

/// Exchanges tokens and keeps what it got. Cloned cheaply; all clones are one.
#[derive(Clone)]
pub struct Exchanger(Arc<Inner>);

pub(super) struct Inner {
    /// Made when it is first needed: reading the host's certificate authorities takes milliseconds that starting needn't wait for.
    pub(super) client: LazyLock<reqwest::Client>,
    pub(super) tokens: Cache<CacheKey, Arc<AccessToken>>,
    pub(super) failures: Cache<CacheKey, Arc<Remembered>>,
    /// What is being exchanged now. Held for a look only, never across an await.
    flights: Mutex<HashMap<CacheKey, Flight>>,
    pub(super) circuits: Circuits,
    pub(super) budget: Budget,
    pub(super) shared: Option<SharedCache>,
    /// Keys that were taken away while tokens got with them may come in.
    pub(super) withdrawn: ArcSwap<BTreeSet<KeyId>>,
    pub(super) signer: Arc<Signer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) randomness: Arc<dyn Randomness>,
    pub(super) metrics: Arc<Metrics>,
}

/// What an asker finds.
enum Found {
    Token(Arc<AccessToken>),
    Failure(ExchangeError),
    Flight { flight: Flight, begun: bool },
}

/// What the exchanger works with.
pub struct Tools {
    pub signer: Arc<Signer>,
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, Error)]
pub enum NoClient {
    #[error("the client of [cache.redis] can't be made: {0}")]
    Redis(#[from] redis::RedisError),
}

impl Exchanger {
    /// Keeps tokens of at most `memory` bytes, the login budget in `state` where that can be, and shares both with
    /// other replicas where there is a `redis`; then it must be called in a Tokio runtime.
    ///
    /// # Errors
    /// What is said of `redis` can't be.
    pub fn new(
        tools: Tools,
        memory: u64,
        state: Option<&Path>,
        redis: Option<&Redis>,
    ) -> Result<Self, NoClient> {
        let shared = redis.map(|redis| SharedCache::new(redis, &tools)).transpose()?;
        let Tools { signer, clock, randomness, metrics } = tools;
        let weigh = |_: &CacheKey, token: &Arc<AccessToken>| token.weight();
        let inner = Arc::new(Inner {
            client: LazyLock::new(upstream::client),
            tokens: Cache::builder().max_capacity(memory).weigher(weigh).build(),
            failures: Cache::builder().max_capacity(MOST_FAILURES).build(),
            flights: Mutex::default(),
            circuits: Circuits::default(),
            budget: Budget::new(state),
            shared,
            withdrawn: ArcSwap::default(),
            signer,
            clock,
            randomness,
            metrics,
        });
        if inner.shared.is_some() {
            tokio::spawn(attend(Arc::downgrade(&inner)));
        }
        Ok(Self(inner))
    }

    /// Makes ready what the first exchange needs, on a thread where that holds up nobody.
    pub fn prepare(&self) {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || _ = LazyLock::force(&inner.client));
    }

    /// The access token of `profile`'s user. `rejected` is one that Salesforce has just refused.
    ///
    /// # Errors
    /// Salesforce's no, or that it can't be asked now.
    pub async fn oauth(
        &self,
        profile: &Arc<OauthProfile>,
        rejected: Option<&SecretString>,
        trace: &Trace,
    ) -> Result<Served, ExchangeError> {
        self.serve(Job::Oauth(profile.clone()), rejected, trace).await
    }

    /// The messaging access token of `subject`. `profile` must have `[messaging]`.
    ///
    /// # Errors
    /// Salesforce's no, a session that isn't the user's, or that it can't be asked now.
    pub async fn messaging(
        &self,
        profile: &Arc<IdentityProfile>,
        subject: Subject,
        claims: Claims,
        rejected: Option<&SecretString>,
        trace: &Trace,
    ) -> Result<Served, ExchangeError> {
        self.serve(Job::Messaging { profile: profile.clone(), subject, claims }, rejected, trace).await
    }

    /// Drops the tokens that were got with one of `kids`, also those still on their way. Says how many were kept.
    pub fn withdraw(&self, kids: BTreeSet<KeyId>) -> usize {
        let tokens = &self.0.tokens;
        self.0.withdrawn.store(Arc::new(kids));
        let kids = self.0.withdrawn.load();
        let theirs = tokens.iter().filter(|(_, token)| kids.contains(&token.kid));
        theirs.map(|(key, _)| tokens.invalidate(&*key)).count()
    }

    /// Tokens that are kept now.
    pub fn entries(&self) -> u64 {
        self.0.tokens.run_pending_tasks();
        self.0.tokens.entry_count()
    }

    async fn serve(
        &self,
        job: Job,
        rejected: Option<&SecretString>,
        trace: &Trace,
    ) -> Result<Served, ExchangeError> {
        let inner = &self.0;
        let key = job.cache_key();
        if let Some(rejected) = rejected {
            inner.reject(&key, &job, rejected).await;
        }
        let profile = job.profile().as_str();
        let requests = |result: &str| inner.metrics.cache_requests.with_label_values(&[profile, result]);
        let (mut flight, begun) = match inner.find(&key, &job, trace) {
            Found::Token(token) => {
                token.hits.get_or_init(|| requests("hit")).inc();
                inner.renew_behind(&key, &job, &token, trace);
                return Ok(Served { token, cached: true });
            }
            Found::Failure(error) => {
                requests("failure").inc();
                return Err(error);
            }
            Found::Flight { flight, begun } => (flight, begun),
        };
        requests(if begun { "miss" } else { "coalesced" }).inc();
        let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(interrupted()))
    }
}

pub(super) fn interrupted() -> ExchangeError {
    let reason = "the exchange was interrupted".to_owned();
    ExchangeError::Unavailable { reason, retry_after: Some(SHORTEST_WAIT) }
}

impl Inner {
    pub(super) fn live(&self, key: &CacheKey) -> Option<Arc<AccessToken>> {
        let token = self.tokens.get(key)?;
        token.lives(self.clock.now(), self.clock.steady()).then_some(token)
    }

    /// The failure that stands for an answer now, unless its host has come back since.
    fn remembered(&self, key: &CacheKey, job: &Job) -> Option<ExchangeError> {
        let failure = self.failures.get(key)?;
        let now = self.clock.steady();
        let over = failure.until <= now
            || (!job::is_permanent(&failure.error) && self.circuits.is_past(&job.origin(), failure.at));
        (!over).then(|| failure.error.clone().waiting(failure.until.saturating_sub(now).max(SHORTEST_WAIT)))
    }

    /// Drops the token that was refused, here and everywhere; a fresher one that somebody else has fetched stays.
    async fn reject(&self, key: &CacheKey, job: &Job, rejected: &SecretString) {
        let was_here = self.drop_held(key, |held| shared::same(held, rejected));
        let Some(shared) = &self.shared else { return };
        if was_here || (self.live(key).is_none() && shared.holds(key, job, rejected).await) {
            shared.drop_everywhere(key, rejected);
        }
    }

    /// Drops the token that is held for `key`, if it is the one meant.
    fn drop_held(&self, key: &CacheKey, is_meant: impl Fn(&SecretString) -> bool) -> bool {
        let _flights = self.flights();
        let drops = self.tokens.get(key).is_some_and(|held| is_meant(&held.secret));
        if drops {
            self.tokens.invalidate(key);
        }
        drops
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<CacheKey, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token, a failure that stands, or the flight that will bring one; begun here if there is none.
    fn find(self: &Arc<Self>, key: &CacheKey, job: &Job, trace: &Trace) -> Found {
        if let Some(token) = self.live(key) {
            return Found::Token(token);
        }
        let mut flights = self.flights();
        // Looked at again under the lock: a flight lands before it leaves the list.
        if let Some(flight) = flights.get(key) {
            return Found::Flight { flight: flight.clone(), begun: false };
        }
        if let Some(token) = self.live(key) {
            return Found::Token(token);
        }
        if let Some(error) = self.remembered(key, job) {
            return Found::Failure(error);
        }
        let flight = self.begin(&mut flights, *key, job.clone(), trace.clone());
        Found::Flight { flight, begun: true }
    }

    /// Renews a token that serves, if it is time and nobody does.
    fn renew_behind(self: &Arc<Self>, key: &CacheKey, job: &Job, token: &AccessToken, trace: &Trace) {
        if !token.wants_renewal(self.clock.now(), self.clock.steady()) {
            return;
        }
        let mut flights = self.flights();
        if !flights.contains_key(key) && self.remembered(key, job).is_none() {
            self.begin(&mut flights, *key, job.clone(), trace.clone());
        }
    }

    /// Starts an exchange in a task of its own, which no caller's going away ends. It stands in the trace of the request
    /// that began it, whoever waits for it.
    fn begin(
        self: &Arc<Self>,
        flights: &mut HashMap<CacheKey, Flight>,
        key: CacheKey,
        job: Job,
        trace: Trace,
    ) -> Flight {
        let (sender, flight) = watch::channel(None);
        flights.insert(key, flight.clone());
        let inner = self.clone();
        tokio::spawn(async move {
            // Leaves the list also if the task panics, so that the next asker begins anew.
            let landing = Landing { inner: &inner, key };
            let outcome = inner.obtain(&key, &job, &trace).await;
            drop(landing);
            let _ = sender.send(Some(outcome));
        });
        flight
    }

    /// Keeps a failure for as long as asking again makes no sense; the failure with that time.
    pub(super) fn remember(&self, key: &CacheKey, error: ExchangeError) -> ExchangeError {
        let streak = self.failures.get(key).map_or(1, |before| before.streak.saturating_add(1));
        let asked_to_wait = error.retry_after().map(|wait| wait.clamp(SHORTEST_WAIT, LONGEST_WAIT));
        let wait = match &error {
            ExchangeError::Mint(_) => return error,
            ExchangeError::Rejected { meaning, .. } if meaning.class == Class::Limited => {
                // A user that Salesforce has stopped stays stopped for the hour.
                let stopped = meaning.cause.contains("logged in");
                asked_to_wait.unwrap_or(if stopped { LONGEST_WAIT } else { PERMANENT })
            }
            error if job::is_permanent(error) => PERMANENT,
            _ => asked_to_wait.unwrap_or_else(|| self.backoff(streak)),
        };
        let at = self.clock.steady();
        let error = error.waiting(wait);
        let remembered = Remembered { error: error.clone(), at, until: at + wait, streak };
        self.failures.insert(*key, Arc::new(remembered));
        error
    }

    /// 1 s, 2 s, 4 s … 45 s, each by a fifth more or less.
    fn backoff(&self, streak: u32) -> Duration {
        let doubled = FIRST_BACKOFF.saturating_mul(1_u32.checked_shl(streak - 1).unwrap_or(u32::MAX));
        doubled.min(LONGEST_BACKOFF).mul_f64(0.4_f64.mul_add(chance(&*self.randomness), 0.8))
    }
}

/// Tells other replicas what was dropped here, and drops what they say, for as long as the exchanger is there.
async fn attend(inner: Weak<Inner>) {
    let mut progress = Progress::default();
    while let Some(inner) = inner.upgrade() {
        let Some(shared) = &inner.shared else { return };
        let drop = |key: &CacheKey, hash: &[u8; 32]| {
            inner.drop_held(key, |held| shared::hash(held) == *hash);
        };
        shared.look(&mut progress, drop).await;
        shared.pause().await;
    }
}

/// Takes a flight off the list when it has landed, or crashed.
struct Landing<'a> {
    inner: &'a Inner,
    key: CacheKey,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.key);
        // No request is at the other end of this task to count it.
        if std::thread::panicking() {
            self.inner.metrics.panics.inc();
        }
    }
}
