//! The token cache that replicas share, on Redis or Valkey (`[cache.redis]`), behind each replica's own memory.
//!
//! - One exchange per key across replicas, by a lock with a deadline; the others wait for its token, or are told why there
//!   is none.
//! - What lies there is encrypted and bound to its place ([`seal`]), and what is read there is judged as Salesforce's own
//!   answer is ([`entry`]). Anything else there is nothing.
//! - That a token was rejected is told to each other replica, which learns it at its next look.
//! - The store is a convenience: when it fails or is late, requests go on without it ([`redis`]).

mod entry;
mod redis;
mod seal;
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

use super::job::{CacheKey, Job};
use super::login_budget::{Spend, Taken};
use super::negative_cache::{CachedFailure, ToldFailure};
use super::token::{AccessToken, TokenHash};
use super::tools::Tools;
use super::upstream::LONGEST_EXCHANGE;
use crate::config::RedisConfig;
use crate::hash::sha256;
use entry::Useless;
use redis::RedisStore;
use seal::{Bound, Seal};
use store::{
    Claim, Claimed, Counted, FROM_THE_FIRST, LONGEST_ENTRY, MOST_MESSAGES, Names, Released, SharedStore,
    Trouble,
};

/// A lock outlives the longest exchange of its holder by so much.
const LOCK_MARGIN: Duration = Duration::from_millis(500);
const LONGEST_LOCK: Duration = LONGEST_EXCHANGE.saturating_add(LOCK_MARGIN);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);
/// Between two looks at what others have dropped, and at whether the store is back.
const LOOK: Duration = Duration::from_millis(500);

/// A token that was dropped, and whose.
type Dropped = (CacheKey, TokenHash);

pub struct SharedCache {
    seal: Seal,
    store: Box<dyn SharedStore>,
    /// None of these is taken again, wherever it still lies.
    dropped: Cache<TokenHash, ()>,
    /// Those that the others don't know of yet. Held for a look only.
    untold: Mutex<VecDeque<Dropped>>,
    /// There is something to tell.
    wake: Notify,
    tools: Tools,
}

/// Who exchanges.
pub enum Turn {
    /// Somebody has: here is the token.
    Theirs(AccessToken),
    /// Somebody has tried: here is why there is none.
    TheirFailure(ToldFailure),
    /// This replica; with the lock, where the store was asked.
    Ours(Option<Lock>),
    /// Another replica, which didn't end in time.
    Late,
}

/// By the name of its owner.
pub struct Lock(String);

/// Where the look behind the requests has got to: the last message that was read.
pub struct Progress(String);

impl Default for Progress {
    fn default() -> Self {
        Self(FROM_THE_FIRST.to_owned())
    }
}

impl SharedCache {
    /// # Errors
    /// What is said of `redis` can't be.
    pub fn on_redis(redis: &RedisConfig, tools: &Tools) -> Result<Self, RedisError> {
        use secrecy::ExposeSecret as _;
        let store = RedisStore::new(redis, tools.metrics.shared_cache_up.with_label_values(&["redis"]))?;
        Ok(Self::new(redis.key.expose_secret(), Box::new(store), tools))
    }

    pub fn new(key: &[u8; 32], store: Box<dyn SharedStore>, tools: &Tools) -> Self {
        // The oldest go first: moka's own choice would be not to take new ones.
        let dropped =
            Cache::builder().max_capacity(MOST_MESSAGES as u64).eviction_policy(EvictionPolicy::lru());
        Self {
            seal: Seal::new(key),
            store,
            dropped: dropped.build(),
            untold: Mutex::default(),
            wake: Notify::new(),
            tools: tools.clone(),
        }
    }

    /// Another replica's token for `key`, if it is better than `held` and isn't `replaced`, its failure, if that `stands`, or
    /// the turn to exchange. Waits until `deadline`.
    pub async fn turn(
        &self,
        key: &CacheKey,
        job: &Job,
        held: Option<&AccessToken>,
        replaced: Option<TokenHash>,
        stands: &(dyn Fn(&ToldFailure) -> bool + Sync),
        deadline: Instant,
    ) -> Turn {
        let Ok(owner) = self.tools.unique() else { return Turn::Ours(None) };
        let names = self.names(key);
        let (mut pause, mut waited) = (FIRST_PAUSE, false);
        let (mut refused, mut refused_failure) = (Vec::new(), Vec::new());
        loop {
            let claim = Claim {
                names: &names,
                owner: &owner,
                lock_for: LONGEST_LOCK,
                refused: &refused,
                refused_failure: &refused_failure,
            };
            match self.store.claim(claim).await {
                Err(trouble) => {
                    self.count(word(trouble));
                    // A store that was asked may have done what it didn't answer.
                    return Turn::Ours((trouble == Trouble::Failed).then_some(Lock(owner)));
                }
                Ok(Claimed::Locked) => {
                    if refused.is_empty() {
                        self.count("miss");
                    }
                    return Turn::Ours(Some(Lock(owner)));
                }
                Ok(Claimed::Entry(entry, left)) => {
                    match self.judge(key, job, held, replaced, &entry, left) {
                        Ok(token) => {
                            self.count(if waited { "waited" } else { "hit" });
                            return Turn::Theirs(token);
                        }
                        Err(result) => self.count(result),
                    }
                    refused = entry;
                }
                Ok(Claimed::Failure(failure, left)) => {
                    if let Some(told) = self.judge_failure(key, &failure, left).filter(stands) {
                        self.count("failure");
                        return Turn::TheirFailure(told);
                    }
                    refused_failure = failure;
                }
                Ok(Claimed::Busy) => {
                    waited = true;
                    let pause_now = pause.mul_f64(self.tools.chance().mul_add(0.4, 0.8));
                    if Instant::now() + pause_now >= deadline {
                        self.count("gave_up");
                        return Turn::Late;
                    }
                    tokio::time::sleep(pause_now).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// The token of an entry; else the word that counts it.
    fn judge(
        &self,
        key: &CacheKey,
        job: &Job,
        held: Option<&AccessToken>,
        replaced: Option<TokenHash>,
        entry: &[u8],
        left: Option<Duration>,
    ) -> Result<AccessToken, &'static str> {
        let plain =
            (entry.len() <= LONGEST_ENTRY).then(|| self.seal.open(Bound::Token(key), entry)).flatten();
        let plain = plain.ok_or("refused")?;
        let moment = self.tools.moment();
        let token = entry::read(&plain, job, left, &moment).map_err(|useless| match useless {
            Useless::Unfit => "refused",
            Useless::Stale => "stale",
        })?;
        // Where the held one was refused, any other is better.
        let worse = replaced.is_none() && held.is_some_and(|held| held.expires_at >= token.expires_at);
        let hash = token.hash();
        if worse || replaced == Some(hash) || self.was_dropped(hash) { Err("stale") } else { Ok(token) }
    }

    fn judge_failure(&self, key: &CacheKey, failure: &[u8], left: Option<Duration>) -> Option<ToldFailure> {
        let plain = self.seal.open(Bound::Failure(key), failure)?;
        entry::read_failure(&plain, left, &self.tools.moment()).filter(|told| !told.left.is_zero())
    }

    /// Keeps a token for all, and gives the lock back.
    pub async fn keep(self: &Arc<Self>, key: &CacheKey, token: &AccessToken, lock: Option<Lock>) {
        let now = self.tools.clock.now();
        let left = Duration::from_secs(u64::try_from(now.seconds_until(token.expires_at)).unwrap_or(0));
        let entry = self.seal.seal(Bound::Token(key), &entry::write(token), &*self.tools.randomness);
        match entry {
            Ok(entry) if !left.is_zero() => self.release(key, lock, Released::Entry(entry, left)).await,
            _ => self.release(key, lock, Released::Nothing).await,
        }
    }

    /// Gives the lock back without a token, and tells those who wait why, where that is so for them too.
    pub async fn fail(self: &Arc<Self>, key: &CacheKey, failure: Option<&CachedFailure>, lock: Option<Lock>) {
        if lock.is_none() {
            return;
        }
        let told = failure.and_then(|failure| {
            let plain = entry::write_failure(failure, self.tools.clock.now())?;
            let sealed = self.seal.seal(Bound::Failure(key), &plain, &*self.tools.randomness).ok()?;
            Some((sealed, failure.wait()))
        });
        match told {
            Some((failure, left)) => self.release(key, lock, Released::Failure(failure, left)).await,
            None => self.release(key, lock, Released::Nothing).await,
        }
    }

    /// Where the store can't be asked now, it is told behind the request once it answers, for as long as the others may wait
    /// for the lock.
    async fn release(self: &Arc<Self>, key: &CacheKey, lock: Option<Lock>, released: Released) {
        let names = self.names(key);
        let owner = lock.map(|Lock(owner)| owner);
        let is_told = self.store.release(&names, owner.as_deref(), &released).await.is_ok();
        // Without a lock nobody waits.
        if is_told || owner.is_none() {
            return;
        }
        let (shared, began) = (self.clone(), Instant::now());
        tokio::spawn(async move {
            while began.elapsed() < LONGEST_LOCK {
                tokio::time::sleep(LOOK).await;
                let released = released.after(began.elapsed());
                if shared.store.release(&names, owner.as_deref(), &released).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Counts one more request by all replicas. `None` where the store can't be asked.
    pub async fn spend(&self, spend: &Spend) -> Option<Taken> {
        let allowance = spend.allowance;
        let name = budget_name(&spend.who);
        let counted = self.store.spend(&name, &spend.id, allowance.requests, allowance.window).await.ok()?;
        Some(match counted {
            Counted::Within(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Taken::Within { used: super::login_budget::share(count, allowance) }
            }
            Counted::Exhausted(retry_after) => Taken::Exhausted { retry_after },
        })
    }

    pub async fn give_back(&self, spend: &Spend) {
        // If that fails, one request fewer may be sent in this window.
        let _ = self.store.give_back(&budget_name(&spend.who), &spend.id).await;
    }

    /// Takes that token from no one any more, and has the others know, once.
    pub fn drop_everywhere(&self, key: &CacheKey, token: TokenHash) {
        if self.was_dropped(token) {
            return;
        }
        self.dropped.insert(token, ());
        let mut untold = self.untold();
        if untold.len() >= MOST_MESSAGES {
            untold.pop_front();
        }
        untold.push_back((*key, token));
        drop(untold);
        self.wake.notify_one();
    }

    pub fn was_dropped(&self, token: TokenHash) -> bool {
        self.dropped.contains_key(&token)
    }

    /// Until the next look is due.
    pub async fn pause(&self) {
        let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
    }

    /// Tells and reads what was dropped. `drop` is told of each of the others'.
    pub async fn look(&self, progress: &mut Progress, drop: impl Fn(&CacheKey, TokenHash)) {
        let sealed = |dropped: &Dropped| {
            let (key, TokenHash(hash)) = dropped;
            let plain = [key.as_bytes().as_slice(), hash].concat();
            let sealed = self.seal.seal(Bound::Drop, &plain, &*self.tools.randomness).ok()?;
            Some((*dropped, sealed))
        };
        let untold = self.untold().clone();
        let (telling, tell): (HashSet<Dropped>, Vec<Vec<u8>>) = untold.iter().filter_map(sealed).unzip();
        let name = format!("{}:dropped", self.seal.prefix());
        let Ok(news) = self.store.synchronize(&name, &tell, &progress.0).await else { return };
        self.untold().retain(|dropped| !telling.contains(dropped));
        progress.0 = news.seen;
        for message in news.messages {
            let Some(plain) = self.seal.open(Bound::Drop, &message) else { continue };
            let Some((key, hash)) = plain.split_first_chunk() else { continue };
            let Ok(hash) = <[u8; 32]>::try_from(hash) else { continue };
            self.dropped.insert(TokenHash(hash), ());
            drop(&CacheKey::from_bytes(*key), TokenHash(hash));
        }
    }

    fn names(&self, key: &CacheKey) -> Names {
        let (prefix, name) = (self.seal.prefix(), self.seal.name(key));
        let of = |kind| format!("{prefix}:{kind}:{name}");
        Names { token: of("token"), lock: of("lock"), failure: of("failure") }
    }

    fn untold(&self) -> MutexGuard<'_, VecDeque<Dropped>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: &str) {
        self.tools.metrics.shared_cache_requests.with_label_values(&[result]).inc();
    }
}

/// Under whichever key the replicas encrypt: the limit is Salesforce's.
fn budget_name(who: &str) -> String {
    format!("tokenmint:budget:{}", HEXLOWER.encode(&sha256(who.as_bytes())[..16]))
}

const fn word(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Away => "away",
        Trouble::Failed => "failed",
    }
}
