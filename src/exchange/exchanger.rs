//! The exchanger: gives access tokens to the API's handlers.
//!
//! [`Exchanger::get_token`] serves one request: from the cache, or by starting or joining an exchange. The
//! [`read_through_cache`](super::read_through_cache) decides which.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::circuit_breaker::CircuitBreaker;
use super::client::ExchangeClient;
use super::deps::ExchangerDeps;
use super::exchange_error::{ExchangeError, TimeoutCause};
use super::login_rate_limit::{LoginRateLimit, RequestQuota};
use super::negative_cache::MIN_RETRY_AFTER;
use super::read_through_cache::{FetchOptions, Lookup, Outcome, ReadThroughCache};
use super::request::{self, TokenRequest};
use super::shared::SharedCache;
use super::shared::store::SharedStore;
use super::token::{AccessToken, ServedToken, TokenHash};
use super::upstream::{HttpTransport, SessionState, Transport};
use crate::config::{KeyId, ProfileName, RedisConfig};
use crate::tokens::{Claims, IdentityProfile, OauthProfile, Profiles, Subject};

/// How many exchanges a request joins or starts before it gives up. It retries if the outcome doesn't fit: for example, if
/// the exchange began before the request reported that very token as rejected.
const MAX_ROUNDS: usize = 3;

/// Provides access tokens from its cache or by an exchange. Clones are cheap and share their state.
#[derive(Clone)]
pub struct Exchanger(Arc<ReadThroughCache>);

/// Why an [`Exchanger`] can't be created.
#[derive(Debug, Error)]
pub enum ExchangerBuildError {
    #[error("the client of [cache.redis] can't be made: {0}")]
    Redis(#[from] redis::RedisError),
}

impl Exchanger {
    /// Caches up to `cache_bytes` bytes of tokens and stores login counts in the directory `state_directory`, if given. With
    /// `redis`, shares both with other replicas, and must be called in a Tokio runtime.
    ///
    /// # Errors
    /// The settings of `redis` make no valid client.
    pub(crate) fn new(
        deps: ExchangerDeps,
        cache_bytes: u64,
        state_directory: Option<&Path>,
        redis: Option<&RedisConfig>,
    ) -> Result<Self, ExchangerBuildError> {
        let shared = redis.map(|redis| SharedCache::with_redis(redis, &deps)).transpose()?;
        let transport = Box::new(HttpTransport::new(deps.clock.clone()));
        Ok(Self::build(deps, cache_bytes, state_directory, transport, shared))
    }

    /// Like [`new`](Self::new), with another transport and another shared store, whose entries are encrypted with the
    /// key. With a store, must be called in a Tokio runtime.
    pub fn with_transport(
        deps: ExchangerDeps,
        cache_bytes: u64,
        state_directory: Option<&Path>,
        transport: Box<dyn Transport>,
        store: Option<(&[u8; 32], Box<dyn SharedStore>)>,
    ) -> Self {
        let shared = store.map(|(key, store)| SharedCache::new(key, store, &deps));
        Self::build(deps, cache_bytes, state_directory, transport, shared)
    }

    fn build(
        deps: ExchangerDeps,
        cache_bytes: u64,
        state_directory: Option<&Path>,
        transport: Box<dyn Transport>,
        shared: Option<SharedCache>,
    ) -> Self {
        let shared = shared.map(Arc::new);
        let login_limit =
            LoginRateLimit::new(state_directory, deps.metrics.login_budget_write_failures.clone());
        let client = ExchangeClient {
            transport,
            circuits: CircuitBreaker::default(),
            login_limit: Arc::new(login_limit),
            disk_permit: Arc::new(Semaphore::new(1)),
            shared: shared.clone(),
            deps: deps.clone(),
        };
        Self(ReadThroughCache::new(client, cache_bytes, shared, deps))
    }

    /// Initializes the transport on a blocking thread, so that the first exchange doesn't wait for it.
    pub(crate) fn warm_up_transport(&self) {
        let cache = self.0.clone();
        tokio::task::spawn_blocking(move || cache.client.transport.warm_up());
    }

    /// Writes the login counts to disk, for the next process. Gives up if the disk hangs.
    pub(crate) async fn shut_down(&self) {
        self.0.client.flush_login_counts().await;
    }

    /// Returns an access token for `profile`'s integration user.
    ///
    /// # Errors
    /// Salesforce refused, gave no usable response in time, or wasn't asked.
    pub async fn oauth_token(
        &self,
        profile: &Arc<OauthProfile>,
        options: FetchOptions<'_>,
    ) -> Result<ServedToken, ExchangeError> {
        self.get_token(TokenRequest::Oauth(profile.clone()), options).await
    }

    /// Like [`oauth_token`](Self::oauth_token), for clients that come back for a new token without saying that Salesforce
    /// rejected theirs. With `check_session`, a cached token whose session has ended is treated as rejected.
    ///
    /// # Errors
    /// Like [`oauth_token`](Self::oauth_token).
    pub async fn oauth_token_of_live_session(
        &self,
        profile: &Arc<OauthProfile>,
        options: FetchOptions<'_>,
    ) -> Result<ServedToken, ExchangeError> {
        let served = self.oauth_token(profile, options).await?;
        if let Some(interval) = profile.check_session.filter(|_| served.cached)
            && self.0.check_session(&profile.name, &served.token, interval, options.deadline).await
                == SessionState::Ended
        {
            let rejected = FetchOptions { rejected: Some(&served.token.secret), ..options };
            return self.oauth_token(profile, rejected).await;
        }
        Ok(served)
    }

    /// Returns a messaging access token for `subject`. `profile` must have `[messaging]`.
    ///
    /// # Errors
    /// Salesforce refused, gave no usable response in time, wasn't asked, or gave a session that isn't verified as that user's.
    pub async fn messaging_token(
        &self,
        profile: &Arc<IdentityProfile>,
        subject: Subject,
        claims: Claims,
        options: FetchOptions<'_>,
    ) -> Result<ServedToken, ExchangeError> {
        self.get_token(TokenRequest::Messaging { profile: profile.clone(), subject, claims }, options).await
    }

    /// Drops cached tokens that were obtained with one of `kids`, which no profile has any more, and returns their
    /// number. This only frees memory: each request checks the key against its profile, so such a token isn't served
    /// anyway.
    pub fn revoke_keys(&self, kids: &BTreeSet<KeyId>) -> usize {
        let tokens = &self.0.tokens;
        let revoked = tokens.iter().filter(|(_, token)| kids.contains(&token.kid));
        revoked.map(|(key, _)| tokens.invalidate(&*key)).count()
    }

    /// Updates the gauges of the token cache and the login rate limit, and drops the metrics of profiles that are gone.
    pub fn refresh_metrics(&self, profiles: &Profiles) {
        let ReadThroughCache { tokens, client, deps, .. } = &*self.0;
        tokens.run_pending_tasks();
        deps.metrics.cache_entries.set(i64::try_from(tokens.entry_count()).unwrap_or(i64::MAX));
        let (now, monotonic) = (deps.clock.now(), deps.clock.monotonic());
        let show = |name: &ProfileName, (account, quota): (String, RequestQuota)| {
            if let Some(used) = client.login_limit.usage(&account, quota, now, monotonic) {
                deps.metrics.login_budget_used.with_label_values(&[name.as_str()]).set(used);
            }
        };
        for profile in profiles.oauth.values() {
            show(&profile.name, request::login_quota(profile));
        }
        for profile in profiles.identity.values() {
            if let Some(channel) = &profile.messaging {
                show(&profile.name, request::messaging_quota(channel));
            }
        }
        let oauth = profiles.oauth.values().map(|profile| profile.name.as_str());
        let known = oauth.chain(profiles.identity.values().map(|profile| profile.name.as_str())).collect();
        deps.metrics.remove_series_of_other_profiles(&known);
    }

    async fn get_token(&self, token_request: TokenRequest, options: FetchOptions<'_>) -> Outcome {
        let cache = &self.0;
        let key = token_request.cache_key();
        let rejected = options.rejected.map(TokenHash::of);
        let metrics = &cache.deps.metrics;
        let requests = |result: &str| {
            metrics.cache_requests.with_label_values(&[token_request.profile().as_str(), result])
        };
        for round in 0..MAX_ROUNDS {
            let (in_flight, is_leader) = match cache.lookup(&key, &token_request, rejected, options) {
                Lookup::Token(token) => {
                    token.hits.get_or_init(|| requests("hit")).inc();
                    if let Some(other) = rejected.filter(|rejected| *rejected != token.hash()) {
                        cache.announce_rejected(&key, other);
                    }
                    return Ok(serve(token, true, rejected));
                }
                Lookup::Failure(error) => {
                    requests("failure").inc();
                    return Err(error);
                }
                Lookup::InFlight { in_flight, is_leader } => (in_flight, is_leader),
            };
            requests(if is_leader { "miss" } else { "coalesced" }).inc();
            let error = match timeout_at(options.deadline, in_flight.outcome()).await {
                Ok(Some(Ok(ServedToken { token, cached, .. }))) => {
                    // This request joined an exchange that began before, and got the very token that it reports as
                    // rejected. It tries once more. If the next exchange gives that token too, the token is served.
                    let is_outdated = round == 0 && !is_leader && rejected == Some(token.hash());
                    // A reload may have revoked the key in the meantime, or the clock was set.
                    if is_outdated || !cache.is_usable(&token, &token_request) {
                        continue;
                    }
                    return Ok(serve(token, cached, rejected));
                }
                Ok(Some(Err(error))) => error,
                Ok(None) => ExchangeError::Interrupted,
                Err(_) => {
                    let retry_after = Some(MIN_RETRY_AFTER);
                    ExchangeError::Timeout { waited_for: TimeoutCause::Exchange, retry_after }
                }
            };
            return match cache.live_token(&key, &token_request) {
                Some(token) if cache.serves_stale_after(&token, rejected, &error, &token_request) => {
                    Ok(serve(token, true, rejected))
                }
                _ => Err(error),
            };
        }
        Err(ExchangeError::Interrupted)
    }
}

fn serve(token: Arc<AccessToken>, cached: bool, rejected: Option<TokenHash>) -> ServedToken {
    let rejected_token_kept = rejected == Some(token.hash());
    ServedToken { token, cached, rejected_token_kept }
}
