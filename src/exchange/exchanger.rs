//! The cache of access tokens and the exchanges behind it: who waits, who asks Salesforce, and what is kept.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use tokio::sync::watch;

use super::budget::{Budget, Taken};
use super::circuit::{Admission, Circuits};
use super::job::{self, CacheKey, Job, Life, Obtained};
use super::meaning::Class;
use super::upstream::{self, Reply};
use super::{AccessToken, ExchangeError, Served};
use crate::clock::{Clock, Randomness, UnixTime};
use crate::config::KeyId;
use crate::metrics::Metrics;
use crate::tokens::{Claims, IdentityProfile, OauthProfile, Signer, Subject};

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
struct Remembered {
    error: ExchangeError,
    at: Duration,
    until: Duration,
    /// Failures in a row.
    streak: u32,
}

type Outcome = Result<Arc<AccessToken>, ExchangeError>;
type Flight = watch::Receiver<Option<Outcome>>;

/// Exchanges tokens and keeps what it got. Cloned cheaply; all clones are one.
#[derive(Clone)]
pub struct Exchanger(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    tokens: Cache<CacheKey, Arc<AccessToken>>,
    failures: Cache<CacheKey, Arc<Remembered>>,
    /// What is being exchanged now. Held for a look only, never across an await.
    flights: Mutex<HashMap<CacheKey, Flight>>,
    circuits: Circuits,
    budget: Budget,
    /// Keys that were taken away while tokens got with them may come in.
    withdrawn: ArcSwap<BTreeSet<KeyId>>,
    signer: Arc<Signer>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    metrics: Arc<Metrics>,
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
#[error("the HTTP client can't be made: {0}")]
pub struct NoClient(#[from] reqwest::Error);

impl Exchanger {
    /// Keeps tokens of at most `memory` bytes, and the login budget in `state` where that can be.
    ///
    /// # Errors
    /// The host's certificate authorities can't be read.
    pub fn new(tools: Tools, memory: u64, state: Option<&Path>) -> Result<Self, NoClient> {
        let Tools { signer, clock, randomness, metrics } = tools;
        let weigh = |_: &CacheKey, token: &Arc<AccessToken>| token.weight();
        Ok(Self(Arc::new(Inner {
            client: upstream::client()?,
            tokens: Cache::builder().max_capacity(memory).weigher(weigh).build(),
            failures: Cache::builder().max_capacity(MOST_FAILURES).build(),
            flights: Mutex::default(),
            circuits: Circuits::default(),
            budget: Budget::new(state),
            withdrawn: ArcSwap::default(),
            signer,
            clock,
            randomness,
            metrics,
        })))
    }

    /// The access token of `profile`'s user. `rejected` is one that Salesforce has just refused.
    ///
    /// # Errors
    /// Salesforce's no, or that it can't be asked now.
    pub async fn oauth(
        &self,
        profile: &Arc<OauthProfile>,
        rejected: Option<&SecretString>,
    ) -> Result<Served, ExchangeError> {
        self.serve(Job::Oauth(profile.clone()), rejected).await
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
    ) -> Result<Served, ExchangeError> {
        self.serve(Job::Messaging { profile: profile.clone(), subject, claims }, rejected).await
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

    async fn serve(&self, job: Job, rejected: Option<&SecretString>) -> Result<Served, ExchangeError> {
        let inner = &self.0;
        let key = job.cache_key();
        if let Some(rejected) = rejected {
            inner.drop_rejected(&key, rejected);
        }
        let profile = job.profile().to_string();
        let count = |result: &str| inner.metrics.cache_requests.with_label_values(&[&profile, result]).inc();
        let (mut flight, begun) = match inner.find(&key, &job) {
            Found::Token(token) => {
                count("hit");
                inner.renew_behind(&key, &job, &token);
                return Ok(Served { token, cached: true });
            }
            Found::Failure(error) => {
                count("failure");
                return Err(error);
            }
            Found::Flight { flight, begun } => (flight, begun),
        };
        count(if begun { "miss" } else { "coalesced" });
        let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        let token = outcome.unwrap_or_else(|| Err(interrupted()))?;
        Ok(Served { token, cached: false })
    }
}

fn interrupted() -> ExchangeError {
    let reason = "the exchange was interrupted".to_owned();
    ExchangeError::Unavailable { reason, retry_after: Some(SHORTEST_WAIT) }
}

impl Inner {
    fn live(&self, key: &CacheKey) -> Option<Arc<AccessToken>> {
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

    /// Only the token that was refused: a fresher one that somebody else has fetched stays.
    fn drop_rejected(&self, key: &CacheKey, rejected: &SecretString) {
        let is_it = |token: &Arc<AccessToken>| {
            let (kept, refused) = (token.secret.expose_secret(), rejected.expose_secret());
            bool::from(kept.as_bytes().ct_eq(refused.as_bytes()))
        };
        let _flights = self.flights();
        if self.tokens.get(key).as_ref().is_some_and(is_it) {
            self.tokens.invalidate(key);
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<CacheKey, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token, a failure that stands, or the flight that will bring one; begun here if there is none.
    fn find(self: &Arc<Self>, key: &CacheKey, job: &Job) -> Found {
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
        Found::Flight { flight: self.begin(&mut flights, *key, job.clone()), begun: true }
    }

    /// Renews a token that serves, if it is time and nobody does.
    fn renew_behind(self: &Arc<Self>, key: &CacheKey, job: &Job, token: &AccessToken) {
        if !token.wants_renewal(self.clock.now(), self.clock.steady()) {
            return;
        }
        let mut flights = self.flights();
        if !flights.contains_key(key) && self.remembered(key, job).is_none() {
            self.begin(&mut flights, *key, job.clone());
        }
    }

    /// Starts an exchange in a task of its own, which no caller's going away ends.
    fn begin(self: &Arc<Self>, flights: &mut HashMap<CacheKey, Flight>, key: CacheKey, job: Job) -> Flight {
        let (sender, flight) = watch::channel(None);
        flights.insert(key, flight.clone());
        let inner = self.clone();
        tokio::spawn(async move {
            // Leaves the list also if the task panics, so that the next asker begins anew.
            let landing = Landing { inner: &inner, key };
            let outcome = inner.exchange(&key, &job).await;
            drop(landing);
            let _ = sender.send(Some(outcome));
        });
        flight
    }

    async fn exchange(self: &Arc<Self>, key: &CacheKey, job: &Job) -> Outcome {
        let start = Instant::now();
        let exchanged = self.attempt(job).await;
        let profile = job.profile().to_string();
        let outcome = exchanged.as_ref().err().map_or("success", ExchangeError::outcome);
        self.metrics.exchanges.with_label_values(&[&profile, outcome]).inc();
        self.metrics.exchange_duration.with_label_values(&[&profile]).observe(start.elapsed().as_secs_f64());
        match exchanged {
            Ok(token) => {
                let token = Arc::new(token);
                let expires_at = token.expires_at.seconds();
                tracing::info!(target: "tokenmint::audit", profile, outcome, expires_at, "exchanged");
                self.failures.invalidate(key);
                if !self.withdrawn.load().contains(&token.kid) {
                    self.tokens.insert(*key, token.clone());
                }
                Ok(token)
            }
            Err(error) => {
                tracing::warn!(target: "tokenmint::audit", profile, outcome, %error, "exchange failed");
                Err(self.remember(key, error))
            }
        }
    }

    async fn attempt(self: &Arc<Self>, job: &Job) -> Result<AccessToken, ExchangeError> {
        self.admit(job)?;
        self.spend(job).await?;
        let now = self.clock.now();
        let kid = job.signing_kid(now)?.clone();
        let request = job.request(&self.client, now, &*self.randomness, &self.signer).await?;
        let reply = upstream::send(request).await;
        let read = match &reply {
            Ok(reply) => {
                self.watch_clock(now, reply);
                job.read(reply).and_then(|obtained| self.dated(obtained, kid))
            }
            Err(fault) => Err(ExchangeError::from(fault.clone())),
        };
        match &read {
            Err(ExchangeError::Unavailable { .. } | ExchangeError::Timeout { .. }) => self.failed(job),
            Err(ExchangeError::Rejected { meaning, .. }) if meaning.class == Class::Transient => {
                self.failed(job);
            }
            _ => self.circuits.answered(&job.origin()),
        }
        read
    }

    fn failed(&self, job: &Job) {
        self.circuits.failed(&job.origin(), self.clock.steady());
    }

    /// Asks the circuit of the host; finds out behind the answer whether a host in trouble is back.
    fn admit(self: &Arc<Self>, job: &Job) -> Result<(), ExchangeError> {
        match self.circuits.admit(&job.origin(), self.clock.steady()) {
            Admission::Go => Ok(()),
            Admission::Wait { retry_after, probe } => {
                if probe {
                    let (inner, address) = (self.clone(), job.address().clone());
                    tokio::spawn(async move {
                        if upstream::is_back(&inner.client, &address).await {
                            let origin = address.url().origin().ascii_serialization();
                            inner.circuits.is_back(&origin, inner.clock.steady());
                        }
                    });
                }
                let reason = format!("{} fails again and again; it is left alone for a moment", job.origin());
                Err(ExchangeError::Unavailable { reason, retry_after: Some(retry_after) })
            }
        }
    }

    /// Counts one more request against Salesforce's limits.
    async fn spend(self: &Arc<Self>, job: &Job) -> Result<(), ExchangeError> {
        let (who, allowance) = job.allowance();
        let (inner, now) = (self.clone(), self.clock.now());
        let taken = tokio::task::spawn_blocking(move || inner.budget.take(&who, allowance, now));
        let used = self.metrics.login_budget_used.with_label_values(&[&job.profile().to_string()]);
        match taken.await {
            Ok(Taken::Within { used: share }) => {
                used.set(share);
                Ok(())
            }
            Ok(Taken::Exhausted { retry_after }) => {
                used.set(1.0);
                let reason = format!(
                    "tokenmint's own budget of requests for {} is used up, so that Salesforce doesn't lock it out; find \
                     who asks so often",
                    job.profile()
                );
                Err(ExchangeError::Unavailable { reason, retry_after: Some(retry_after) })
            }
            Err(_) => Err(interrupted()),
        }
    }

    /// Salesforce's clock is looked at, never followed.
    fn watch_clock(&self, now: UnixTime, reply: &Reply) {
        if let Some(theirs) = reply.date {
            #[expect(clippy::cast_precision_loss, reason = "a skew is small")]
            self.metrics.clock_skew.set((now.seconds() - theirs) as f64);
        }
    }

    /// Gives a token its end, and a moment for its renewal that differs a little from the others'.
    fn dated(&self, obtained: Obtained, kid: KeyId) -> Result<AccessToken, ExchangeError> {
        let (now, steady) = (self.clock.now(), self.clock.steady());
        let life = match obtained.life {
            Life::For(life) => life,
            Life::Until(end) => Duration::from_secs(u64::try_from(now.seconds_until(end)).unwrap_or(0)),
        };
        if life.is_zero() {
            let reason =
                "Salesforce answered with a token that has expired already; compare the clocks".to_owned();
            return Err(ExchangeError::Unavailable { reason, retry_after: None });
        }
        let renew_after = life.mul_f64(0.1_f64.mul_add(self.chance(), 0.65));
        Ok(AccessToken {
            secret: obtained.secret,
            about: obtained.about,
            kid,
            obtained_at: now,
            expires_at: now.plus(life),
            // `expires_in` is theirs, and may be any number.
            expires_steady: steady.saturating_add(life),
            renew_at: now.plus(renew_after),
            renew_steady: steady.saturating_add(renew_after),
        })
    }

    /// Keeps a failure for as long as asking again makes no sense; the failure with that time.
    fn remember(&self, key: &CacheKey, error: ExchangeError) -> ExchangeError {
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
        doubled.min(LONGEST_BACKOFF).mul_f64(0.4_f64.mul_add(self.chance(), 0.8))
    }

    /// Between 0 and 1; without randomness just in between, as only spreading depends on it.
    fn chance(&self) -> f64 {
        let mut byte = [0];
        self.randomness.fill(&mut byte).map_or(0.5, |()| f64::from(byte[0]) / 255.0)
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
    }
}
