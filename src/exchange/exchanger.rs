//! The exchanger: who waits, who asks Salesforce, and what is kept.
//!
//! One request walks through [`Exchanger::serve`]: a kept token, a remembered failure, or an exchange that is begun or
//! joined. One exchange walks through [`Inner::obtain`]: another replica's token or the lock, and then
//! [`ExchangeClient::exchange`].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use secrecy::SecretString;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::circuit_breaker::CircuitBreaker;
use super::client::{ExchangeClient, outcome};
use super::error::{ExchangeError, WaitedFor};
use super::job::{self, CacheKey, Job};
use super::login_budget::{Allowance, LoginBudget};
use super::negative_cache::{CachedFailure, NegativeCache, SHORTEST_WAIT, ToldFailure};
use super::rejection_limit::{REJECTIONS, RejectionLimit};
use super::shared::store::SharedStore;
use super::shared::{Progress, SharedCache, Turn};
use super::single_flight::{InFlight, Joined, Landing, SingleFlight};
use super::token::{AccessToken, ByLife, Served, TokenHash};
use super::tools::Tools;
use super::upstream::{LONGEST_EXCHANGE, Network, Transport};
use crate::config::{KeyId, ProfileName, RateLimit, RedisConfig};
use crate::metrics::Metrics;
use crate::tokens::{Claims, IdentityProfile, OauthProfile, Profiles, Subject};
use crate::traces::Trace;

/// Requests for one key whose outcome may not be theirs: of an exchange that began before what they know.
const ROUNDS: usize = 3;
/// Other replicas are told of a token that isn't held here so often; it costs them a look.
const TELLS: RateLimit = RateLimit { requests: 1, window: Duration::from_secs(1), burst: 10 };

pub(super) type Outcome = Result<Served, ExchangeError>;

/// Exchanges tokens and keeps what it got. Cloned cheaply; all clones are one.
#[derive(Clone)]
pub struct Exchanger(Arc<Inner>);

struct Inner {
    client: Arc<ExchangeClient>,
    tokens: Cache<CacheKey, Arc<AccessToken>>,
    failures: NegativeCache,
    flights: Arc<SingleFlight<CacheKey, Outcome>>,
    rejections: RejectionLimit,
    tells: RejectionLimit,
    shared: Option<Arc<SharedCache>>,
    tools: Tools,
}

/// How a token is asked for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The token that Salesforce has just refused.
    pub rejected: Option<&'a SecretString>,
    /// When the request must be answered.
    pub deadline: Instant,
    pub trace: &'a Trace,
}

/// What an asker finds.
enum Found {
    Token(Arc<AccessToken>),
    Failure(ExchangeError),
    Flight { flight: InFlight<Outcome>, begun: bool },
}

/// What is to be done for an asker while no exchange is under way.
enum Decision {
    Settled(Found),
    /// Exchange, and take any token but this one.
    Exchange(Option<TokenHash>),
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
        redis: Option<&RedisConfig>,
    ) -> Result<Self, NoClient> {
        let shared = redis.map(|redis| SharedCache::on_redis(redis, &tools)).transpose()?;
        Ok(Self::of(tools, memory, state, Box::new(Network::default()), shared))
    }

    /// The same by another way to Salesforce and another store, whose entries `key` encrypts. Must be called in a Tokio
    /// runtime where there is a store.
    pub fn with(
        tools: Tools,
        memory: u64,
        state: Option<&Path>,
        transport: Box<dyn Transport>,
        store: Option<(&[u8; 32], Box<dyn SharedStore>)>,
    ) -> Self {
        let shared = store.map(|(key, store)| SharedCache::new(key, store, &tools));
        Self::of(tools, memory, state, transport, shared)
    }

    fn of(
        tools: Tools,
        memory: u64,
        state: Option<&Path>,
        transport: Box<dyn Transport>,
        shared: Option<SharedCache>,
    ) -> Self {
        let weigh = |_: &CacheKey, token: &Arc<AccessToken>| token.weight();
        // The least recently used goes first: moka's own choice would be not to take new ones.
        let tokens =
            Cache::builder().max_capacity(memory).weigher(weigh).eviction_policy(EvictionPolicy::lru());
        let shared = shared.map(Arc::new);
        let budget = LoginBudget::new(state, tools.metrics.login_budget_write_failures.clone());
        let client = ExchangeClient {
            transport,
            circuits: CircuitBreaker::default(),
            budget: Arc::new(budget),
            disk: Arc::new(Semaphore::new(1)),
            shared: shared.clone(),
            tools: tools.clone(),
        };
        let inner = Arc::new(Inner {
            client: Arc::new(client),
            tokens: tokens.expire_after(ByLife).build(),
            failures: NegativeCache::default(),
            flights: Arc::default(),
            rejections: RejectionLimit::new(REJECTIONS),
            tells: RejectionLimit::new(TELLS),
            shared,
            tools,
        });
        if inner.shared.is_some() {
            tokio::spawn(attend(Arc::downgrade(&inner), inner.tools.metrics.clone()));
        }
        Self(inner)
    }

    /// Makes ready what the first exchange needs, on a thread where that holds up nobody.
    pub fn prepare(&self) {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || inner.client.transport.prepare());
    }

    /// Leaves the login budget on the disk, for the next process; gives up on one that hangs.
    pub async fn finish(&self) {
        self.0.client.flush_budget().await;
    }

    /// The access token of `profile`'s user.
    ///
    /// # Errors
    /// Salesforce's no, or that it can't be asked now.
    pub async fn oauth(&self, profile: &Arc<OauthProfile>, ask: Ask<'_>) -> Result<Served, ExchangeError> {
        self.serve(Job::Oauth(profile.clone()), ask).await
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
        ask: Ask<'_>,
    ) -> Result<Served, ExchangeError> {
        self.serve(Job::Messaging { profile: profile.clone(), subject, claims }, ask).await
    }

    /// Frees the memory of tokens that were got with one of `kids`, which no profile has any more. Says how many there were. Nobody would be handed one of them anyway: that follows from the profile at each request.
    pub fn withdraw(&self, kids: &BTreeSet<KeyId>) -> usize {
        let tokens = &self.0.tokens;
        let theirs = tokens.iter().filter(|(_, token)| kids.contains(&token.kid));
        theirs.map(|(key, _)| tokens.invalidate(&*key)).count()
    }

    /// Sets the metrics that follow from the state and the clock rather than from an event.
    pub fn refresh_metrics(&self, profiles: &Profiles) {
        let Inner { tokens, client, tools, .. } = &*self.0;
        tokens.run_pending_tasks();
        tools.metrics.cache_entries.set(i64::try_from(tokens.entry_count()).unwrap_or(i64::MAX));
        let (now, steady) = (tools.clock.now(), tools.clock.steady());
        let show = |name: &ProfileName, (who, allowance): (String, Allowance)| {
            if let Some(used) = client.budget.used(&who, allowance, now, steady) {
                tools.metrics.login_budget_used.with_label_values(&[name.as_str()]).set(used);
            }
        };
        for profile in profiles.oauth.values() {
            show(&profile.name, job::login_allowance(profile));
        }
        for profile in profiles.identity.values() {
            if let Some(channel) = &profile.messaging {
                show(&profile.name, job::messaging_allowance(channel));
            }
        }
        let oauth = profiles.oauth.values().map(|profile| profile.name.as_str());
        let known = oauth.chain(profiles.identity.values().map(|profile| profile.name.as_str())).collect();
        tools.metrics.forget_other_profiles(&known);
    }

    async fn serve(&self, job: Job, ask: Ask<'_>) -> Outcome {
        let inner = &self.0;
        let key = job.cache_key();
        let rejected = ask.rejected.map(TokenHash::of);
        let metrics = &inner.tools.metrics;
        let requests =
            |result: &str| metrics.cache_requests.with_label_values(&[job.profile().as_str(), result]);
        for round in 0..ROUNDS {
            let (flight, begun) = match inner.find(&key, &job, rejected, ask) {
                Found::Token(token) => {
                    token.hits.get_or_init(|| requests("hit")).inc();
                    if let Some(other) = rejected.filter(|rejected| *rejected != token.hash()) {
                        inner.tell(&key, other);
                    }
                    return Ok(served(token, true, rejected));
                }
                Found::Failure(error) => {
                    requests("failure").inc();
                    return Err(error);
                }
                Found::Flight { flight, begun } => (flight, begun),
            };
            requests(if begun { "miss" } else { "coalesced" }).inc();
            let error = match timeout_at(ask.deadline, flight.outcome()).await {
                Ok(Some(Ok(Served { token, cached, .. }))) => {
                    // Who came in the middle of an exchange may know more than it: that a token like its own is rejected. One
                    // that has begun since knows the same, and Salesforce gives the same token again.
                    let knows_less = round == 0 && !begun && rejected == Some(token.hash());
                    // Meanwhile a reload may have taken its key away, or the clock was set.
                    if knows_less || !inner.is_alive(&token, &job) {
                        continue;
                    }
                    return Ok(served(token, cached, rejected));
                }
                Ok(Some(Err(error))) => error,
                Ok(None) => ExchangeError::Interrupted,
                Err(_) => {
                    let retry_after = Some(SHORTEST_WAIT);
                    ExchangeError::Timeout { waited_for: WaitedFor::Exchange, retry_after }
                }
            };
            return match inner.live(&key, &job) {
                Some(token) if inner.serves_despite(&token, rejected, &error, &job) => {
                    Ok(served(token, true, rejected))
                }
                _ => Err(error),
            };
        }
        Err(ExchangeError::Interrupted)
    }
}

fn served(token: Arc<AccessToken>, cached: bool, rejected: Option<TokenHash>) -> Served {
    let rejected_token_kept = rejected == Some(token.hash());
    Served { token, cached, rejected_token_kept }
}

/// Whether a token is to be replaced before it is handed out: the asker says so, or another replica has.
fn is_refused(token: &AccessToken, rejected: Option<TokenHash>) -> bool {
    token.is_refused() || rejected == Some(token.hash())
}

impl Inner {
    /// The kept token of that key, unless its life is over or its key isn't the profile's any more.
    fn live(&self, key: &CacheKey, job: &Job) -> Option<Arc<AccessToken>> {
        self.tokens.get(key).filter(|token| self.is_alive(token, job))
    }

    /// Whether a token may be handed out: by its life, and by the keys that the profile has now.
    fn is_alive(&self, token: &AccessToken, job: &Job) -> bool {
        token.lives(self.tools.clock.now(), self.tools.clock.steady()) && job.knows(&token.kid)
    }

    /// The failure that stands for an answer now.
    fn remembered(&self, key: &CacheKey, job: &Job) -> Option<ExchangeError> {
        let (error, failure) = self.failures.get(key, self.tools.clock.steady())?;
        self.stands(job, &error, failure.kid.as_ref(), failure.at).then_some(error)
    }

    /// Whether a failure says what would come of an exchange now: its host hasn't come back since, and the key that signed is
    /// still the one that signs.
    fn stands(&self, job: &Job, error: &ExchangeError, kid: Option<&KeyId>, at: Duration) -> bool {
        let is_back = error.blames_host() && self.client.circuits.is_past(&job.origin(), at);
        let hinges_on_key = error.is_permanent() || matches!(error, ExchangeError::Mint(_));
        let signs = job.signing_kid(self.tools.clock.now()).ok();
        !is_back && (!hinges_on_key || kid == signs)
    }

    /// A token, a failure that stands, or the exchange that will bring one; begun here if there is none.
    fn find(self: &Arc<Self>, key: &CacheKey, job: &Job, rejected: Option<TokenHash>, ask: Ask<'_>) -> Found {
        if let Some(token) = self.live(key, job)
            && !is_refused(&token, rejected)
        {
            if token.wants_renewal(self.tools.clock.now(), self.tools.clock.steady()) {
                self.renew_behind(key, job, ask.trace);
            }
            return Found::Token(token);
        }
        let mut replaced = None;
        let joined = self.flights.join(*key, || match self.decide(key, job, rejected) {
            Decision::Settled(found) => Some(found),
            Decision::Exchange(but) => {
                replaced = but;
                None
            }
        });
        match joined {
            Joined::Settled(found) => found,
            Joined::Waiting(flight) => Found::Flight { flight, begun: false },
            Joined::Begun(flight, landing) => {
                self.begin(landing, *key, job.clone(), replaced, ask.deadline, ask.trace.clone());
                Found::Flight { flight, begun: true }
            }
        }
    }

    /// Called under the lock of the single flight, so it sees what the last exchange has left.
    fn decide(&self, key: &CacheKey, job: &Job, rejected: Option<TokenHash>) -> Decision {
        let believed = || self.rejections.allows(key, self.tools.clock.steady());
        let failure = self.remembered(key, job);
        let Some(token) = self.live(key, job) else {
            return failure.map_or_else(
                // What other replicas have may be the very token that was rejected.
                || Decision::Exchange(rejected.filter(|_| self.shared.is_some() && believed())),
                |error| Decision::Settled(Found::Failure(error)),
            );
        };
        match failure {
            _ if !is_refused(&token, rejected) => Decision::Settled(Found::Token(token)),
            Some(error) if self.serves_despite(&token, rejected, &error, job) => {
                Decision::Settled(Found::Token(token))
            }
            Some(error) => Decision::Settled(Found::Failure(error)),
            // Where another replica has replaced it, there is a better one.
            None if token.is_refused() || believed() => Decision::Exchange(Some(token.hash())),
            None => {
                self.count_kept(job, "pace");
                Decision::Settled(Found::Token(token))
            }
        }
    }

    /// Whether a kept token is handed out although it couldn't be replaced. Whoever has just called it rejected is told
    /// why, but where it is our own budget: then Salesforce may be well, and the token good.
    fn serves_despite(
        &self,
        token: &AccessToken,
        rejected: Option<TokenHash>,
        error: &ExchangeError,
        job: &Job,
    ) -> bool {
        let budget = matches!(error, ExchangeError::BudgetUsedUp { .. });
        let serves = rejected != Some(token.hash()) || budget;
        if serves && is_refused(token, rejected) {
            self.count_kept(job, if budget { "budget" } else { "failure" });
        }
        serves
    }

    fn count_kept(&self, job: &Job, reason: &str) {
        self.tools.metrics.rejected_tokens_kept.with_label_values(&[job.profile().as_str(), reason]).inc();
    }

    /// Has other replicas know that a token was rejected which isn't the one held here.
    fn tell(&self, key: &CacheKey, rejected: TokenHash) {
        if let Some(shared) = &self.shared
            && !shared.was_dropped(rejected)
            && self.tells.allows(key, self.tools.clock.steady())
        {
            shared.drop_everywhere(key, rejected);
        }
    }

    /// Renews a token that serves, if nobody does.
    fn renew_behind(self: &Arc<Self>, key: &CacheKey, job: &Job, trace: &Trace) {
        let joined = self.flights.join(*key, || {
            let (now, steady) = (self.tools.clock.now(), self.tools.clock.steady());
            let is_renewed = self.live(key, job).is_some_and(|token| !token.wants_renewal(now, steady));
            (is_renewed || self.remembered(key, job).is_some()).then_some(())
        });
        if let Joined::Begun(_, landing) = joined {
            self.begin(landing, *key, job.clone(), None, Instant::now() + LONGEST_EXCHANGE, trace.clone());
        }
    }

    /// Starts an exchange in a task of its own, which no caller's going away ends. It stands in the trace of the request
    /// that began it, whoever waits for it; and it has the time of a whole exchange, however little that request has left.
    fn begin(
        self: &Arc<Self>,
        landing: Landing<CacheKey, Outcome>,
        key: CacheKey,
        job: Job,
        replaced: Option<TokenHash>,
        deadline: Instant,
        trace: Trace,
    ) {
        let inner = self.clone();
        let deadline = deadline.max(Instant::now() + LONGEST_EXCHANGE);
        tokio::spawn(async move {
            let _counted = CountPanic(&inner.tools.metrics);
            landing.land(inner.obtain(&key, &job, replaced, deadline, &trace).await);
        });
    }

    /// Another replica's token, or one of our own.
    async fn obtain(
        self: &Arc<Self>,
        key: &CacheKey,
        job: &Job,
        replaced: Option<TokenHash>,
        deadline: Instant,
        trace: &Trace,
    ) -> Outcome {
        let Some(shared) = &self.shared else {
            let exchanged = self.exchange(key, job, trace).await;
            return exchanged.map(fresh).map_err(|failure| failure.error.clone());
        };
        let held = self.live(key, job);
        let stands = |told: &ToldFailure| self.stands(job, &told.error, told.kid.as_ref(), told.at);
        let outcome = match shared.turn(key, job, held.as_deref(), replaced, &stands, deadline).await {
            Turn::Theirs(token) => {
                let token = Arc::new(token);
                self.keep(key, &token);
                // Somebody may have rejected it just now.
                if shared.was_dropped(token.hash()) {
                    token.refuse();
                }
                Ok(Served { token, cached: true, rejected_token_kept: false })
            }
            Turn::TheirFailure(told) => {
                let error = told.error.clone();
                self.failures.insert_told(key, told, self.tools.clock.steady());
                Err(error)
            }
            Turn::Late => {
                let retry_after = Some(SHORTEST_WAIT);
                Err(ExchangeError::Timeout { waited_for: WaitedFor::Replica, retry_after })
            }
            Turn::Ours(lock) => match self.exchange(key, job, trace).await {
                Ok(token) => {
                    shared.keep(key, &token, lock).await;
                    Ok(fresh(token))
                }
                Err(failure) => {
                    shared.fail(key, Some(&failure), lock).await;
                    Err(failure.error.clone())
                }
            },
        };
        if let (Ok(served), Some(replaced)) = (&outcome, replaced)
            && served.token.hash() != replaced
        {
            shared.drop_everywhere(key, replaced);
        }
        outcome
    }

    async fn exchange(
        self: &Arc<Self>,
        key: &CacheKey,
        job: &Job,
        trace: &Trace,
    ) -> Result<Arc<AccessToken>, Arc<CachedFailure>> {
        let kid = job.signing_kid(self.tools.clock.now()).ok().cloned();
        let exchanged = self.client.exchange(job, trace).await;
        let profile = job.profile().as_str();
        let (outcome, trace_id) = (outcome(&exchanged), trace.trace_id());
        match exchanged {
            Ok(token) => {
                let token = Arc::new(token);
                let expires_at = token.expires_at.seconds();
                tracing::info!(target: "tokenmint::audit", trace_id, profile, outcome, expires_at, "exchanged");
                self.keep(key, &token);
                Ok(token)
            }
            Err(error) => {
                tracing::warn!(target: "tokenmint::audit", trace_id, profile, outcome, %error, "exchange failed");
                if !error.was_sent() {
                    self.tools.metrics.exchanges_not_sent.with_label_values(&[profile, outcome]).inc();
                }
                let (steady, chance) = (self.tools.clock.steady(), self.tools.chance());
                Err(self.failures.insert(key, error, kid, steady, chance))
            }
        }
    }

    fn keep(&self, key: &CacheKey, token: &Arc<AccessToken>) {
        self.failures.forget(key);
        self.tokens.insert(*key, token.clone());
    }
}

const fn fresh(token: Arc<AccessToken>) -> Served {
    Served { token, cached: false, rejected_token_kept: false }
}

/// Tells other replicas what was dropped here, and marks what they say, for as long as the exchanger is there.
async fn attend(inner: Weak<Inner>, metrics: Arc<Metrics>) {
    let _counted = CountPanic(&metrics);
    let mut progress = Progress::default();
    while let Some(inner) = inner.upgrade() {
        let Some(shared) = &inner.shared else { return };
        let drop = |key: &CacheKey, hash: TokenHash| {
            if let Some(held) = inner.tokens.get(key).filter(|held| held.hash() == hash) {
                held.refuse();
            }
        };
        shared.look(&mut progress, drop).await;
        shared.pause().await;
    }
}

/// Counts a panic of the task that it lives in: no request is at the other end to count it.
struct CountPanic<'a>(&'a Metrics);

impl Drop for CountPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}
