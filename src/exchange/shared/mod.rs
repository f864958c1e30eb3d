//! Second-level token cache, shared by replicas through Redis or Valkey (`[cache.redis]`).
//!
//! - A distributed lock with an expiry makes one replica exchange per key. The others poll for its token, or its failure.
//!   A late exchange doesn't overwrite the result of a later one (fencing).
//! - Entries are encrypted and bound to their cache key ([`cipher`]). Decrypted entries are validated ([`entry`]).
//! - Login counts are plain sorted sets. Write access to the store can use up or reset the replicas' common limit; each
//!   replica's own limit stays.
//! - Rejected tokens are announced to the other replicas through a stream, which each reads every [`SYNC_INTERVAL`].
//! - Fail-open: if the store fails or is slow, requests proceed without it ([`redis`]).

mod cipher;
mod entry;
mod redis;
pub mod store;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::RedisError;
use data_encoding::HEXLOWER;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::deps::ExchangerDeps;
use super::login_rate_limit::{CountedRequest, QuotaCheck};
use super::negative_cache::{CachedFailure, SharedFailure};
use super::request::{CacheKey, TokenRequest};
use super::token::{AccessToken, TokenHash};
use super::upstream::MAX_EXCHANGE_TIME;
use crate::config::RedisConfig;
use crate::hash::sha256;
use cipher::{EntryCipher, EntryContext};
use entry::EntryRejected;
use redis::RedisStore;
use store::{
    ExchangeResult, LockOutcome, LockRequest, MAX_ENTRY_BYTES, MAX_MESSAGES, STREAM_START, SharedStore,
    SharedStoreError, StoreKeys, WindowCount,
};

/// How much longer than the longest exchange a lock lasts.
const LOCK_MARGIN: Duration = Duration::from_millis(500);
const LOCK_TTL: Duration = MAX_EXCHANGE_TIME.saturating_add(LOCK_MARGIN);
const MIN_LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);
const MAX_LOCK_POLL_INTERVAL: Duration = Duration::from_millis(160);
/// Interval at which announcements are read, and an unavailable store is checked.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);

/// A rejected token with its cache key.
type RejectedToken = (CacheKey, TokenHash);

/// The shared token cache of all replicas.
pub(crate) struct SharedCache {
    cipher: EntryCipher,
    store: Box<dyn SharedStore>,
    /// Tokens that aren't accepted from the store any more.
    rejected: Cache<TokenHash, ()>,
    /// Rejected tokens to announce to the other replicas. The lock is never held across an await.
    unannounced: Mutex<VecDeque<RejectedToken>>,
    /// Wakes the background sync when there is something to announce.
    wake: Notify,
    deps: ExchangerDeps,
}

/// Result of [`SharedCache::fetch_or_lock`].
pub(crate) enum LockResult {
    /// A valid token from the store, usually another replica's.
    Token(AccessToken),
    /// A failure from the store that still applies, usually another replica's.
    Failure(SharedFailure),
    /// This replica must exchange. `None`: without a lock, because the store is unavailable or no randomness is
    /// available. After a failed command, the lock may or may not be held.
    Exchange(Option<LockOwner>),
    /// Another replica holds the lock and didn't finish before the deadline.
    TimedOut,
}

/// The random id with which this replica holds a lock.
pub(crate) struct LockOwner(String);

/// The id of the last announcement that the background sync has read.
pub(crate) struct MessageCursor(String);

impl Default for MessageCursor {
    fn default() -> Self {
        Self(STREAM_START.to_owned())
    }
}

impl SharedCache {
    /// Creates a shared cache on Redis.
    ///
    /// # Errors
    /// The settings of `redis` make no valid client.
    pub(crate) fn with_redis(redis: &RedisConfig, deps: &ExchangerDeps) -> Result<Self, RedisError> {
        use secrecy::ExposeSecret as _;
        let store = RedisStore::new(redis, deps.metrics.shared_cache_up.with_label_values(&["redis"]))?;
        Ok(Self::new(redis.key.expose_secret(), Box::new(store), deps))
    }

    pub(crate) fn new(key: &[u8; 32], store: Box<dyn SharedStore>, deps: &ExchangerDeps) -> Self {
        // moka's default policy, TinyLFU, may refuse new entries instead of evicting old ones.
        let rejected =
            Cache::builder().max_capacity(MAX_MESSAGES as u64).eviction_policy(EvictionPolicy::lru());
        Self {
            cipher: EntryCipher::new(key),
            store,
            rejected: rejected.build(),
            unannounced: Mutex::default(),
            wake: Notify::new(),
            deps: deps.clone(),
        }
    }

    /// Gets a valid token or failure for `key` from the store, usually another replica's, or the lock to exchange. Polls
    /// until `deadline` while another replica holds the lock. A token must not have been rejected, and must expire later
    /// than `held` unless `replaced` is set. A failure must pass `still_applies`.
    pub(crate) async fn fetch_or_lock(
        &self,
        key: &CacheKey,
        token_request: &TokenRequest,
        held: Option<&AccessToken>,
        replaced: Option<TokenHash>,
        still_applies: &(dyn Fn(&SharedFailure) -> bool + Sync),
        deadline: Instant,
    ) -> LockResult {
        let Ok(owner) = self.deps.unique_id() else { return LockResult::Exchange(None) };
        let keys = self.store_keys(key);
        let (mut pause, mut waited) = (MIN_LOCK_POLL_INTERVAL, false);
        let (mut rejected_entry, mut rejected_failure) = (Vec::new(), Vec::new());
        loop {
            let request = LockRequest {
                keys: &keys,
                owner: &owner,
                lock_ttl: LOCK_TTL,
                rejected_entry: &rejected_entry,
                rejected_failure: &rejected_failure,
            };
            match self.store.try_lock(request).await {
                Err(error) => {
                    self.count(error_label(error));
                    // A failed command may have taken the lock all the same, so it must be released.
                    return LockResult::Exchange(
                        (error == SharedStoreError::Failed).then_some(LockOwner(owner)),
                    );
                }
                Ok(LockOutcome::Locked) => {
                    if rejected_entry.is_empty() {
                        self.count("miss");
                    }
                    return LockResult::Exchange(Some(LockOwner(owner)));
                }
                Ok(LockOutcome::Entry(entry, left)) => {
                    match self.validate(key, token_request, held, replaced, &entry, left) {
                        Ok(token) => {
                            self.count(if waited { "waited" } else { "hit" });
                            return LockResult::Token(token);
                        }
                        Err(result) => self.count(result),
                    }
                    rejected_entry = entry;
                }
                Ok(LockOutcome::Failure(failure, left)) => {
                    if let Some(shared_failure) =
                        self.validate_failure(key, &failure, left).filter(still_applies)
                    {
                        self.count("failure");
                        return LockResult::Failure(shared_failure);
                    }
                    rejected_failure = failure;
                }
                Ok(LockOutcome::Busy) => {
                    waited = true;
                    let pause_now = pause.mul_f64(self.deps.random_fraction().mul_add(0.4, 0.8));
                    if Instant::now() + pause_now >= deadline {
                        self.count("gave_up");
                        return LockResult::TimedOut;
                    }
                    tokio::time::sleep(pause_now).await;
                    pause = MAX_LOCK_POLL_INTERVAL.min(pause * 2);
                }
            }
        }
    }

    /// Decrypts and validates an entry. `Err` is the value of the label `result` that counts it.
    fn validate(
        &self,
        key: &CacheKey,
        token_request: &TokenRequest,
        held: Option<&AccessToken>,
        replaced: Option<TokenHash>,
        entry: &[u8],
        left: Option<Duration>,
    ) -> Result<AccessToken, &'static str> {
        let plaintext = (entry.len() <= MAX_ENTRY_BYTES)
            .then(|| self.cipher.decrypt(EntryContext::Token(key), entry))
            .flatten();
        let plaintext = plaintext.ok_or("refused")?;
        let reading = self.deps.clock_reading();
        let token =
            entry::parse_token(&plaintext, token_request, left, &reading).map_err(
                |rejection| match rejection {
                    EntryRejected::Invalid => "refused",
                    EntryRejected::Stale => "stale",
                },
            )?;
        // If the held token was rejected, any other is better.
        let is_no_better = replaced.is_none() && held.is_some_and(|held| held.expires_at >= token.expires_at);
        let hash = token.hash();
        if is_no_better || replaced == Some(hash) || self.was_rejected(hash) {
            Err("stale")
        } else {
            Ok(token)
        }
    }

    fn validate_failure(
        &self,
        key: &CacheKey,
        failure: &[u8],
        left: Option<Duration>,
    ) -> Option<SharedFailure> {
        let plaintext = self.cipher.decrypt(EntryContext::Failure(key), failure)?;
        entry::parse_failure(&plaintext, left, &self.deps.clock_reading())
            .filter(|shared_failure| !shared_failure.remaining.is_zero())
    }

    /// Stores a token for all replicas and releases the lock.
    pub(crate) async fn publish_token(
        self: &Arc<Self>,
        key: &CacheKey,
        token: &AccessToken,
        lock: Option<LockOwner>,
    ) {
        let now = self.deps.clock.now();
        let left = Duration::from_secs(u64::try_from(now.seconds_until(token.expires_at)).unwrap_or(0));
        let entry = self.cipher.encrypt(
            EntryContext::Token(key),
            &entry::serialize_token(token),
            &*self.deps.randomness,
        );
        match entry {
            Ok(entry) if !left.is_zero() => self.release(key, lock, ExchangeResult::Entry(entry, left)).await,
            _ => self.release(key, lock, ExchangeResult::Nothing).await,
        }
    }

    /// Releases the lock without a token, and stores the failure if it concerns other replicas. Does nothing without a lock.
    pub(crate) async fn publish_failure(
        self: &Arc<Self>,
        key: &CacheKey,
        failure: Option<&CachedFailure>,
        lock: Option<LockOwner>,
    ) {
        if lock.is_none() {
            return;
        }
        let shared_failure = failure.and_then(|failure| {
            let plaintext = entry::serialize_failure(failure, self.deps.clock.now())?;
            let entry =
                self.cipher.encrypt(EntryContext::Failure(key), &plaintext, &*self.deps.randomness).ok()?;
            Some((entry, failure.ttl()))
        });
        match shared_failure {
            Some((failure, left)) => self.release(key, lock, ExchangeResult::Failure(failure, left)).await,
            None => self.release(key, lock, ExchangeResult::Nothing).await,
        }
    }

    /// Stores the result and releases the lock. If this replica held the lock and the store failed, retries in the background
    /// every [`SYNC_INTERVAL`], for about [`LOCK_TTL`]: other replicas may wait for the result that long.
    async fn release(self: &Arc<Self>, key: &CacheKey, lock: Option<LockOwner>, result: ExchangeResult) {
        let keys = self.store_keys(key);
        let owner = lock.map(|LockOwner(owner)| owner);
        let is_released = self.store.release(&keys, owner.as_deref(), &result).await.is_ok();
        // Without a lock, no replica waits for this result.
        if is_released || owner.is_none() {
            return;
        }
        let (shared, began) = (self.clone(), Instant::now());
        tokio::spawn(async move {
            while began.elapsed() < LOCK_TTL {
                tokio::time::sleep(SYNC_INTERVAL).await;
                let result = result.after(began.elapsed());
                if shared.store.release(&keys, owner.as_deref(), &result).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Counts a request to Salesforce against its account's limit, over all replicas. `None` if the store is unavailable.
    pub(crate) async fn count_request(&self, request: &CountedRequest) -> Option<QuotaCheck> {
        let quota = request.quota;
        let name = login_limit_key(&request.account);
        let counted =
            self.store.count_request(&name, &request.id, request.limit(), quota.window).await.ok()?;
        Some(match counted {
            WindowCount::Allowed(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                QuotaCheck::Allowed { used: super::login_rate_limit::used_fraction(count, quota) }
            }
            WindowCount::Exhausted(retry_after) => QuotaCheck::Exhausted { retry_after },
        })
    }

    pub(crate) async fn refund(&self, request: &CountedRequest) {
        // If this fails, the request stays counted until the window ends.
        let _ = self.store.refund(&login_limit_key(&request.account), &request.id).await;
    }

    /// Stops accepting this token from the store, and queues an announcement to the other replicas, once.
    pub(crate) fn announce_rejected(&self, key: &CacheKey, token: TokenHash) {
        if self.was_rejected(token) {
            return;
        }
        self.rejected.insert(token, ());
        let mut unannounced = self.unannounced();
        if unannounced.len() >= MAX_MESSAGES {
            unannounced.pop_front();
        }
        unannounced.push_back((*key, token));
        drop(unannounced);
        self.wake.notify_one();
    }

    pub(crate) fn was_rejected(&self, token: TokenHash) -> bool {
        self.rejected.contains_key(&token)
    }

    /// Waits for [`SYNC_INTERVAL`], or until there is something to announce.
    pub(crate) async fn wait_for_sync(&self) {
        let _ = tokio::time::timeout(SYNC_INTERVAL, self.wake.notified()).await;
    }

    /// Publishes this replica's announcements and reads the new ones, its own included. Calls `mark_rejected` for each token
    /// that was announced.
    pub(crate) async fn sync_rejected(
        &self,
        cursor: &mut MessageCursor,
        mark_rejected: impl Fn(&CacheKey, TokenHash),
    ) {
        let encrypt = |rejected: &RejectedToken| {
            let (key, TokenHash(hash)) = rejected;
            let plaintext = [key.as_bytes().as_slice(), hash].concat();
            let entry =
                self.cipher.encrypt(EntryContext::Rejection, &plaintext, &*self.deps.randomness).ok()?;
            Some((*rejected, entry))
        };
        let unannounced = self.unannounced().clone();
        let (published, payloads): (HashSet<RejectedToken>, Vec<Vec<u8>>) =
            unannounced.iter().filter_map(encrypt).unzip();
        let name = format!("{}:dropped", self.cipher.prefix());
        let Ok(messages) = self.store.sync_messages(&name, &payloads, &cursor.0).await else { return };
        self.unannounced().retain(|rejected| !published.contains(rejected));
        cursor.0 = messages.cursor;
        for message in messages.payloads {
            let Some(plaintext) = self.cipher.decrypt(EntryContext::Rejection, &message) else { continue };
            let Some((key, hash)) = plaintext.split_first_chunk() else { continue };
            let Ok(hash) = <[u8; 32]>::try_from(hash) else { continue };
            self.rejected.insert(TokenHash(hash), ());
            mark_rejected(&CacheKey::from_bytes(*key), TokenHash(hash));
        }
    }

    fn store_keys(&self, key: &CacheKey) -> StoreKeys {
        let (prefix, name) = (self.cipher.prefix(), self.cipher.store_key(key));
        let of = |kind| format!("{prefix}:{kind}:{name}");
        StoreKeys { token: of("token"), lock: of("lock"), failure: of("failure") }
    }

    fn unannounced(&self) -> MutexGuard<'_, VecDeque<RejectedToken>> {
        self.unannounced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: &str) {
        self.deps.metrics.shared_cache_requests.with_label_values(&[result]).inc();
    }
}

/// The store key of a rate limit. It doesn't depend on the encryption key, because the limit is Salesforce's.
fn login_limit_key(account: &str) -> String {
    format!("tokenmint:budget:{}", HEXLOWER.encode(&sha256(account.as_bytes())[..16]))
}

const fn error_label(error: SharedStoreError) -> &'static str {
    match error {
        SharedStoreError::NotTried => "away",
        SharedStoreError::Failed => "failed",
    }
}
