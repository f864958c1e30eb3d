//! A read-through cache of access tokens, with stale-while-revalidate and single-flight.
//!
//! [`ReadThroughCache::lookup`] gives a cached token, a cached failure, or the exchange in flight. It starts an exchange if
//! there is none of these. [`ReadThroughCache::fetch_token`] does the work of the one in flight: it takes another replica's
//! token or failure from the shared cache, or else acquires the lock and calls [`ExchangeClient::exchange`]. Without a shared
//! cache it only calls that.

use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use secrecy::SecretString;
use tokio::time::Instant;

use super::client::{ExchangeClient, outcome_label};
use super::deps::ExchangerDeps;
use super::exchange_error::{ExchangeError, TimeoutCause};
use super::login_rate_limit::RequestReason;
use super::negative_cache::{CachedFailure, MIN_RETRY_AFTER, NegativeCache, SharedFailure};
use super::rejection_limit::{REJECTION_RATE, RejectionLimit};
use super::request::{CacheKey, TokenRequest};
use super::shared::{LockResult, MessageCursor, SharedCache};
use super::single_flight::{InFlight, InFlightGuard, Joined, SingleFlight};
use super::token::{AccessToken, ServedToken, TokenExpiry, TokenHash};
use super::upstream::{MAX_EXCHANGE_TIME, SessionState};
use crate::config::{KeyId, RateLimit};
use crate::metrics::Metrics;
use crate::traces::Trace;

/// How often, per cache key, a rejected token that isn't in this replica's cache is announced to the others.
const ANNOUNCEMENT_RATE: RateLimit = RateLimit { requests: 1, window: Duration::from_secs(1), burst: 10 };

pub(super) type Outcome = Result<ServedToken, ExchangeError>;

/// The cached tokens and failures, the exchanges in flight, and the client that makes exchanges.
pub(super) struct ReadThroughCache {
    pub(super) client: Arc<ExchangeClient>,
    pub(super) tokens: Cache<CacheKey, Arc<AccessToken>>,
    failures: NegativeCache,
    in_flight: Arc<SingleFlight<CacheKey, Outcome>>,
    rejection_limit: RejectionLimit,
    announcement_limit: RejectionLimit,
    /// The checks of sessions in flight.
    pub(super) session_checks: Arc<SingleFlight<TokenHash, SessionState>>,
    shared: Option<Arc<SharedCache>>,
    pub(super) deps: ExchangerDeps,
}

/// The options of one request for a token.
#[derive(Clone, Copy)]
pub struct FetchOptions<'a> {
    /// The token that Salesforce has just rejected, according to the caller.
    pub rejected: Option<&'a SecretString>,
    /// When to stop waiting. The exchange itself continues in the background.
    pub deadline: Instant,
    pub trace: &'a Trace,
}

/// Result of [`ReadThroughCache::lookup`].
pub(super) enum Lookup {
    Token(Arc<AccessToken>),
    Failure(ExchangeError),
    InFlight { in_flight: InFlight<Outcome>, is_leader: bool },
}

/// The decision of [`ReadThroughCache::decide`] for a request, if no exchange is in flight.
enum Decision {
    Resolved(Lookup),
    /// Start an exchange. A shared token with this hash isn't accepted.
    Exchange(Option<TokenHash>),
}

/// A failed exchange. The failure is cached, unless the login rate limit had no share left for a reported token: that token
/// is kept, and its renewal must not wait.
struct ExchangeFailure {
    error: ExchangeError,
    cached: Option<Arc<CachedFailure>>,
}

/// Whether a token is replaced before it is served, if possible: this request reports it as rejected, or an announcement did.
fn needs_replacement(token: &AccessToken, rejected: Option<TokenHash>) -> bool {
    token.is_marked_rejected() || rejected == Some(token.hash())
}

impl ReadThroughCache {
    /// Creates an empty cache for up to `cache_bytes` bytes of tokens. With `shared`, starts a task that exchanges
    /// announcements with other replicas.
    pub(super) fn new(
        client: ExchangeClient,
        cache_bytes: u64,
        shared: Option<Arc<SharedCache>>,
        deps: ExchangerDeps,
    ) -> Arc<Self> {
        let weigh = |_: &CacheKey, token: &Arc<AccessToken>| token.weight();
        // moka's default policy, TinyLFU, may refuse new entries instead of evicting old ones.
        let tokens =
            Cache::builder().max_capacity(cache_bytes).weigher(weigh).eviction_policy(EvictionPolicy::lru());
        let cache = Arc::new(Self {
            client: Arc::new(client),
            tokens: tokens.expire_after(TokenExpiry).build(),
            failures: NegativeCache::default(),
            in_flight: Arc::default(),
            rejection_limit: RejectionLimit::new(REJECTION_RATE),
            announcement_limit: RejectionLimit::new(ANNOUNCEMENT_RATE),
            session_checks: Arc::default(),
            shared,
            deps,
        });
        if cache.shared.is_some() {
            tokio::spawn(sync_with_replicas(Arc::downgrade(&cache), cache.deps.metrics.clone()));
        }
        cache
    }

    /// Returns the cached token, unless it has expired or its profile no longer has the key that signed for it.
    pub(super) fn live_token(
        &self,
        key: &CacheKey,
        token_request: &TokenRequest,
    ) -> Option<Arc<AccessToken>> {
        self.tokens.get(key).filter(|token| self.is_usable(token, token_request))
    }

    /// Whether a token may be served: it hasn't expired, and the profile still has the key that signed for it.
    pub(super) fn is_usable(&self, token: &AccessToken, token_request: &TokenRequest) -> bool {
        token.is_live(self.deps.clock.now(), self.deps.clock.monotonic())
            && token_request.contains_kid(&token.kid)
    }

    /// Returns the cached failure, if it still applies.
    fn cached_failure(&self, key: &CacheKey, token_request: &TokenRequest) -> Option<ExchangeError> {
        let (error, failure) = self.failures.get(key, self.deps.clock.monotonic())?;
        self.still_applies(token_request, &error, failure.kid.as_ref(), failure.at).then_some(error)
    }

    /// Whether an earlier failure predicts the result of an exchange now. A failure of the host stops applying when a
    /// health probe has succeeded since. A permanent or minting error stops applying when another key signs.
    fn still_applies(
        &self,
        token_request: &TokenRequest,
        error: &ExchangeError,
        kid: Option<&KeyId>,
        at: Duration,
    ) -> bool {
        let is_back =
            error.is_host_failure() && self.client.circuits.has_recovered_since(&token_request.origin(), at);
        let depends_on_key = error.is_permanent() || matches!(error, ExchangeError::Mint(_));
        let signs = token_request.signing_kid(self.deps.clock.now()).ok();
        !is_back && (!depends_on_key || kid == signs)
    }

    /// Returns the cached token, the cached failure, or the exchange in flight. Starts an exchange if there is none of these,
    /// and a refresh in the background if the token is due for it.
    pub(super) fn lookup(
        self: &Arc<Self>,
        key: &CacheKey,
        token_request: &TokenRequest,
        rejected: Option<TokenHash>,
        options: FetchOptions<'_>,
    ) -> Lookup {
        if let Some(token) = self.live_token(key, token_request)
            && !needs_replacement(&token, rejected)
        {
            if token.needs_refresh(self.deps.clock.now(), self.deps.clock.monotonic()) {
                self.refresh_in_background(key, token_request, options.trace);
            }
            return Lookup::Token(token);
        }
        let mut replaced = None;
        let joined = self.in_flight.join(*key, || match self.decide(key, token_request, rejected) {
            Decision::Resolved(found) => Some(found),
            Decision::Exchange(but) => {
                replaced = but;
                None
            }
        });
        match joined {
            Joined::Resolved(found) => found,
            Joined::Follower(in_flight) => Lookup::InFlight { in_flight, is_leader: false },
            Joined::Leader(in_flight, guard) => {
                self.spawn_exchange(
                    guard,
                    *key,
                    token_request.clone(),
                    replaced,
                    options.deadline,
                    options.trace.clone(),
                );
                Lookup::InFlight { in_flight, is_leader: true }
            }
        }
    }

    /// Decides what to do if no exchange is in flight. Called under the single-flight lock, so it sees the result of
    /// the last exchange.
    fn decide(&self, key: &CacheKey, token_request: &TokenRequest, rejected: Option<TokenHash>) -> Decision {
        let rejection_allowed = || self.rejection_limit.allows(key, self.deps.clock.monotonic());
        let failure = self.cached_failure(key, token_request);
        let Some(token) = self.live_token(key, token_request) else {
            return failure.map_or_else(
                // The shared cache may still hold the rejected token.
                || Decision::Exchange(rejected.filter(|_| self.shared.is_some() && rejection_allowed())),
                |error| Decision::Resolved(Lookup::Failure(error)),
            );
        };
        match failure {
            _ if !needs_replacement(&token, rejected) => Decision::Resolved(Lookup::Token(token)),
            Some(error) if self.serves_stale_after(&token, rejected, &error, token_request) => {
                Decision::Resolved(Lookup::Token(token))
            }
            Some(error) => Decision::Resolved(Lookup::Failure(error)),
            // Announced as rejected, so the shared cache probably has a replacement: the rate limit doesn't apply.
            None if token.is_marked_rejected() || rejection_allowed() => {
                Decision::Exchange(Some(token.hash()))
            }
            None => {
                // The value of the label for `rejection_limit`.
                self.count_kept_rejected(token_request, "pace");
                Decision::Resolved(Lookup::Token(token))
            }
        }
    }

    /// Whether the cached token is served after a failed exchange. A request that reports this token as rejected gets the
    /// error instead. The exception is tokenmint's own login rate limit: then the token may well be valid. Counts a token
    /// that is served although it needs a replacement.
    pub(super) fn serves_stale_after(
        &self,
        token: &AccessToken,
        rejected: Option<TokenHash>,
        error: &ExchangeError,
        token_request: &TokenRequest,
    ) -> bool {
        let is_login_rate_limited = matches!(error, ExchangeError::LoginRateLimited { .. });
        let serves = rejected != Some(token.hash()) || is_login_rate_limited;
        if serves && needs_replacement(token, rejected) {
            self.count_kept_rejected(token_request, if is_login_rate_limited { "budget" } else { "failure" });
        }
        serves
    }

    fn count_kept_rejected(&self, token_request: &TokenRequest, reason: &str) {
        self.deps
            .metrics
            .rejected_tokens_kept
            .with_label_values(&[token_request.profile().as_str(), reason])
            .inc();
    }

    /// Announces a rejected token that isn't in this replica's cache to the other replicas, within [`ANNOUNCEMENT_RATE`].
    pub(super) fn announce_rejected(&self, key: &CacheKey, rejected: TokenHash) {
        if let Some(shared) = &self.shared
            && !shared.was_rejected(rejected)
            && self.announcement_limit.allows(key, self.deps.clock.monotonic())
        {
            shared.announce_rejected(key, rejected);
        }
    }

    /// Starts a refresh of a token that is still served, unless an exchange is in flight or has refreshed it, or a failure is
    /// cached.
    fn refresh_in_background(self: &Arc<Self>, key: &CacheKey, token_request: &TokenRequest, trace: &Trace) {
        let joined = self.in_flight.join(*key, || {
            let (now, monotonic) = (self.deps.clock.now(), self.deps.clock.monotonic());
            let is_refreshed =
                self.live_token(key, token_request).is_some_and(|token| !token.needs_refresh(now, monotonic));
            (is_refreshed || self.cached_failure(key, token_request).is_some()).then_some(())
        });
        if let Joined::Leader(_, guard) = joined {
            self.spawn_exchange(
                guard,
                *key,
                token_request.clone(),
                None,
                Instant::now() + MAX_EXCHANGE_TIME,
                trace.clone(),
            );
        }
    }

    /// Starts an exchange in its own task, so that no disconnect cancels it. It belongs to the trace of the request
    /// that started it. It waits for another replica's exchange until `deadline`, and for at least [`MAX_EXCHANGE_TIME`] even
    /// if that request has less time left.
    fn spawn_exchange(
        self: &Arc<Self>,
        guard: InFlightGuard<CacheKey, Outcome>,
        key: CacheKey,
        token_request: TokenRequest,
        replaced: Option<TokenHash>,
        deadline: Instant,
        trace: Trace,
    ) {
        let cache = self.clone();
        let deadline = deadline.max(Instant::now() + MAX_EXCHANGE_TIME);
        tokio::spawn(async move {
            let _counted = PanicCounter(&cache.deps.metrics);
            guard.complete(cache.fetch_token(&key, &token_request, replaced, deadline, &trace).await);
        });
    }

    /// Gets a token from the shared cache or from an exchange, and stores the result. Announces the token `replaced` as
    /// rejected if another one came.
    async fn fetch_token(
        self: &Arc<Self>,
        key: &CacheKey,
        token_request: &TokenRequest,
        replaced: Option<TokenHash>,
        deadline: Instant,
        trace: &Trace,
    ) -> Outcome {
        let held = self.live_token(key, token_request);
        // Without a token, the exchange is needed whether one was reported or not.
        let is_report = replaced.is_some() && held.is_some();
        let reason = if is_report { RequestReason::Reported } else { RequestReason::Needed };
        let Some(shared) = &self.shared else {
            let exchanged = self.exchange(key, token_request, reason, trace).await;
            return exchanged.map(fresh_token).map_err(|failure| failure.error);
        };
        let still_applies = |shared_failure: &SharedFailure| {
            self.still_applies(
                token_request,
                &shared_failure.error,
                shared_failure.kid.as_ref(),
                shared_failure.at,
            )
        };
        let outcome = match shared
            .fetch_or_lock(key, token_request, held.as_deref(), replaced, &still_applies, deadline)
            .await
        {
            LockResult::Token(token) => {
                let token = Arc::new(token);
                self.store_token(key, &token);
                // It may have been reported as rejected in the meantime.
                if shared.was_rejected(token.hash()) {
                    token.mark_rejected();
                }
                Ok(ServedToken { token, cached: true, rejected_token_kept: false })
            }
            LockResult::Failure(shared_failure) => {
                let error = shared_failure.error.clone();
                self.failures.insert_shared(key, shared_failure, self.deps.clock.monotonic());
                Err(error)
            }
            LockResult::TimedOut => {
                let retry_after = Some(MIN_RETRY_AFTER);
                Err(ExchangeError::Timeout { waited_for: TimeoutCause::Replica, retry_after })
            }
            LockResult::Exchange(lock) => match self.exchange(key, token_request, reason, trace).await {
                Ok(token) => {
                    shared.publish_token(key, &token, lock).await;
                    Ok(fresh_token(token))
                }
                Err(failure) => {
                    shared.publish_failure(key, failure.cached.as_deref(), lock).await;
                    Err(failure.error)
                }
            },
        };
        if let (Ok(served), Some(replaced)) = (&outcome, replaced)
            && served.token.hash() != replaced
        {
            shared.announce_rejected(key, replaced);
        }
        outcome
    }

    async fn exchange(
        self: &Arc<Self>,
        key: &CacheKey,
        token_request: &TokenRequest,
        reason: RequestReason,
        trace: &Trace,
    ) -> Result<Arc<AccessToken>, ExchangeFailure> {
        let kid = token_request.signing_kid(self.deps.clock.now()).ok().cloned();
        let exchanged = self.client.exchange(token_request, reason, trace).await;
        let profile = token_request.profile().as_str();
        let (outcome, trace_id) = (outcome_label(&exchanged), trace.trace_id());
        match exchanged {
            Ok(token) => {
                let token = Arc::new(token);
                let expires_at = token.expires_at.seconds();
                tracing::info!(target: "tokenmint::audit", trace_id, profile, outcome, expires_at, "exchanged");
                self.store_token(key, &token);
                Ok(token)
            }
            Err(error)
                if reason == RequestReason::Reported
                    && matches!(error, ExchangeError::LoginRateLimited { .. }) =>
            {
                Err(ExchangeFailure { error, cached: None })
            }
            Err(error) => {
                tracing::warn!(target: "tokenmint::audit", trace_id, profile, outcome, %error, "exchange failed");
                if !error.was_sent() {
                    self.deps.metrics.exchanges_not_sent.with_label_values(&[profile, outcome]).inc();
                }
                let (monotonic, fraction) = (self.deps.clock.monotonic(), self.deps.random_fraction());
                let cached = self.failures.insert(key, error, kid, monotonic, fraction);
                Err(ExchangeFailure { error: cached.error.clone(), cached: Some(cached) })
            }
        }
    }

    fn store_token(&self, key: &CacheKey, token: &Arc<AccessToken>) {
        self.failures.remove(key);
        self.tokens.insert(*key, token.clone());
    }
}

const fn fresh_token(token: Arc<AccessToken>) -> ServedToken {
    ServedToken { token, cached: false, rejected_token_kept: false }
}

/// Exchanges announcements of rejected tokens with other replicas in the background, until the exchanger is dropped. This
/// is also the health check of the shared store.
async fn sync_with_replicas(cache: Weak<ReadThroughCache>, metrics: Arc<Metrics>) {
    let _counted = PanicCounter(&metrics);
    let mut cursor = MessageCursor::default();
    while let Some(cache) = cache.upgrade() {
        let Some(shared) = &cache.shared else { return };
        let mark_rejected = |key: &CacheKey, hash: TokenHash| {
            if let Some(held) = cache.tokens.get(key).filter(|held| held.hash() == hash) {
                held.mark_rejected();
            }
        };
        shared.sync_rejected(&mut cursor, mark_rejected).await;
        shared.wait_for_sync().await;
    }
}

/// Counts a panic of the task that owns it. Background tasks run outside `CatchPanicLayer`, which counts panics of handlers.
pub(super) struct PanicCounter<'a>(pub(super) &'a Metrics);

impl Drop for PanicCounter<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}
