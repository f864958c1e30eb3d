//! The token cache that replicas share, on Redis or Valkey (`[cache.redis]`), behind each replica's own memory.
//!
//! - One exchange per key across replicas, by a lock with a deadline; the others wait for its token, and go on by
//!   themselves when it doesn't come.
//! - What lies there is encrypted and bound to its place ([`seal`]), and what is read there is judged as Salesforce's own
//!   answer is ([`entry`]). Anything else there is nothing.
//! - A token that was rejected is dropped there at once, and from the memory of each other replica at its next look.
//! - Redis is a convenience: when it fails or is late, requests go on without it ([`link`]).

mod entry;
mod link;
mod seal;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, cmd};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::sync::Notify;

use super::budget::{Allowance, Taken};
use super::exchanger::Tools;
use super::job::{CacheKey, Job};
use super::{AccessToken, Moment, chance};
use crate::clock::{Clock, Randomness};
use crate::config::Redis;
use crate::hash::sha256;
use crate::metrics::Metrics;
use entry::Useless;
use link::{Link, Trouble};
use seal::{Bound, Seal};

/// Longer than an exchange may take, signing included: then somebody else may try.
const LOCK: Duration = Duration::from_secs(6);
/// How long the others wait for it.
const PATIENCE: Duration = Duration::from_secs(6);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);
/// Between two looks at what others have dropped, and at whether Redis is back.
const LOOK: Duration = Duration::from_millis(500);
/// No entry of ours is longer: a token of 12 KiB, and what came with it.
const LONGEST_ENTRY: usize = 64 << 10;
/// Dropped tokens that are known, and those that are still to be made known; each is 64 bytes.
const MOST_DROPPED: usize = 10_000;
/// Of those, so many are read at once.
const DROPS_AT_ONCE: usize = 500;
/// No access token lives longer (`access_token_ttl`).
const DROPS_KEPT: Duration = Duration::from_hours(24);

/// An entry that isn't the refused one; else the lock, if nobody has it. A lock that would outlive its deadline isn't
/// ours.
const CLAIM: &str = "
local entry = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[4])
if type(entry) == 'table' then entry = '' end
if entry ~= '' and entry ~= ARGV[3] then return {entry, redis.call('PTTL', KEYS[1]), 0} end
local left = redis.call('PTTL', KEYS[2])
if left == -1 or left > tonumber(ARGV[2]) then redis.call('DEL', KEYS[2]) end
return {'', 0, redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0}";

/// Keeps an entry, if there is one, and gives the lock back, if it is still the owner's.
const RELEASE: &str = "
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
if redis.pcall('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end";

/// An entry; nothing where somebody has put something else.
const LOOK_AT: &str = "
local entry = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[1])
return type(entry) == 'table' and '' or entry";

/// Removes that entry and no other, and tells the others.
const DROP: &str = "
if ARGV[1] ~= '' and redis.pcall('GETRANGE', KEYS[1], 0, -1) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'd', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])";

/// What was dropped since, as pairs of id and message.
const DROPS: &str = "
local flat = {}
for at, drop in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
  flat[2 * at - 1], flat[2 * at] = drop[1], drop[2][2]
end
return flat";

/// Counts one more request in a sliding window by Redis's clock: how many there are, or -1 and the milliseconds until
/// there may be one.
const SPEND: &str = "
local time = redis.call('TIME')
local now, window = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local count = redis.call('ZCARD', KEYS[1])
if count >= tonumber(ARGV[1]) then
  return {-1, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] + window - now}
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], window)
return {count + 1, 0}";

/// A token that was dropped: whose, and its SHA-256.
type Dropped = (CacheKey, [u8; 32]);

pub(super) struct SharedCache {
    seal: Seal,
    link: Link,
    /// By the SHA-256 of the token: none of these is taken again, wherever it still lies.
    dropped: Cache<[u8; 32], ()>,
    /// Those that the others don't know of yet. Held for a look only.
    untold: Mutex<VecDeque<Dropped>>,
    /// There is something to tell.
    wake: Notify,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    metrics: Arc<Metrics>,
}

/// Who exchanges.
pub(super) enum Turn {
    /// Somebody has: here is the token.
    Theirs(AccessToken),
    /// This replica; with the lock, unless Redis can't be asked.
    Ours(Option<Lock>),
}

/// By the name of its owner.
pub(super) struct Lock(String);

/// Where the look behind the requests has got to.
pub(super) struct Progress {
    /// Id of the last drop that was read.
    seen: String,
    connections: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { seen: FROM_THE_FIRST.to_owned(), connections: 0 }
    }
}

const FROM_THE_FIRST: &str = "0-0";

impl SharedCache {
    pub fn new(redis: &Redis, tools: &Tools) -> Result<Self, RedisError> {
        Ok(Self {
            seal: Seal::new(redis.key.expose_secret()),
            link: Link::new(redis, tools.metrics.shared_cache_up.with_label_values(&["redis"]))?,
            // The oldest go first: moka's own choice would be not to take new ones.
            dropped: Cache::builder()
                .max_capacity(MOST_DROPPED as u64)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            untold: Mutex::default(),
            wake: Notify::new(),
            clock: tools.clock.clone(),
            randomness: tools.randomness.clone(),
            metrics: tools.metrics.clone(),
        })
    }

    /// Another replica's token for `key`, if it is better than the one held here, or the turn to exchange.
    pub async fn turn(&self, key: &CacheKey, job: &Job, held: Option<&AccessToken>) -> Turn {
        let Ok(owner) = self.unique() else { return Turn::Ours(None) };
        let (token, lock) = self.names(key);
        let begin = Instant::now();
        let (mut pause, mut waited, mut refused) = (FIRST_PAUSE, false, Vec::new());
        while begin.elapsed() < PATIENCE {
            let mut claim = script(CLAIM, &[&token, &lock]);
            claim.arg(&owner).arg(milliseconds(LOCK)).arg(&refused).arg(LONGEST_ENTRY);
            let (entry, left, locked): (Vec<u8>, i64, bool) = match self.link.ask(&claim).await {
                Ok(claimed) => claimed,
                Err(trouble) => {
                    self.count(word(trouble));
                    return Turn::Ours(None);
                }
            };
            if locked {
                if refused.is_empty() {
                    self.count("miss");
                }
                return Turn::Ours(Some(Lock(owner)));
            }
            if !entry.is_empty() && entry != refused {
                match self.judge(key, job, held, &entry, left) {
                    Ok(token) => {
                        self.count(if waited { "waited" } else { "hit" });
                        return Turn::Theirs(token);
                    }
                    Err(result) => self.count(result),
                }
                refused = entry;
                continue;
            }
            waited = true;
            tokio::time::sleep(pause.mul_f64(chance(&*self.randomness).mul_add(0.4, 0.8))).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        self.count("gave_up");
        Turn::Ours(None)
    }

    /// The token of an entry; else the word that counts it.
    fn judge(
        &self,
        key: &CacheKey,
        job: &Job,
        held: Option<&AccessToken>,
        entry: &[u8],
        left: i64,
    ) -> Result<AccessToken, &'static str> {
        let plain =
            (entry.len() <= LONGEST_ENTRY).then(|| self.seal.open(Bound::Token(key), entry)).flatten();
        let plain = plain.ok_or("refused")?;
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        let moment = Moment::new(&*self.clock, &*self.randomness);
        let token = entry::read(&plain, job, left, &moment).map_err(|useless| match useless {
            Useless::Unfit => "refused",
            Useless::Stale => "stale",
        })?;
        let worse = held.is_some_and(|held| held.expires_at >= token.expires_at);
        if worse || self.was_dropped(&token.secret) { Err("stale") } else { Ok(token) }
    }

    /// Gives `token` to the others, and the lock back.
    pub async fn keep(&self, key: &CacheKey, token: &AccessToken, lock: Option<Lock>) {
        let left = token.expires_steady.saturating_sub(self.clock.steady());
        let sealed = self.seal.seal(Bound::Token(key), &entry::write(token), &*self.randomness);
        let entry = sealed.ok().filter(|entry| entry.len() <= LONGEST_ENTRY && !left.is_zero());
        self.release(key, lock, &entry.unwrap_or_default(), left).await;
    }

    /// Gives the lock back without a token.
    pub async fn give_up(&self, key: &CacheKey, lock: Option<Lock>) {
        if lock.is_some() {
            self.release(key, lock, &[], Duration::ZERO).await;
        }
    }

    async fn release(&self, key: &CacheKey, lock: Option<Lock>, entry: &[u8], left: Duration) {
        let (token, name) = self.names(key);
        let owner = lock.map(|Lock(owner)| owner).unwrap_or_default();
        let mut release = script(RELEASE, &[&token, &name]);
        release.arg(owner).arg(entry).arg(milliseconds(left));
        // If that fails, the others find the lock to be over, and exchange themselves.
        let _ = self.link.ask::<()>(&release).await;
    }

    /// Counts one more request of `who` by all replicas. `None` where Redis can't be asked.
    pub async fn spend(&self, who: &str, allowance: Allowance) -> Option<Taken> {
        // Under whichever key the replicas encrypt: the limit is Salesforce's.
        let name = format!("tokenmint:budget:{}", HEXLOWER.encode(&sha256(who.as_bytes())[..16]));
        let mut spend = script(SPEND, &[&name]);
        spend.arg(allowance.requests).arg(milliseconds(allowance.window)).arg(self.unique().ok()?);
        let (count, wait): (i64, u64) = self.link.ask(&spend).await.ok()?;
        Some(u32::try_from(count).map_or_else(
            |_| Taken::Exhausted { retry_after: Duration::from_millis(wait).max(Duration::from_secs(1)) },
            |count| {
                #[expect(clippy::cast_precision_loss, reason = "thousands at most")]
                let used = f64::from(count) / allowance.requests as f64;
                Taken::Within { used }
            },
        ))
    }

    /// Whether `secret` is the token that lies there for `key`.
    pub async fn holds(&self, key: &CacheKey, job: &Job, secret: &SecretString) -> bool {
        if self.was_dropped(secret) {
            return false;
        }
        let found: Result<Vec<u8>, Trouble> = self.link.ask(&self.look_at(key)).await;
        let token = found.ok().and_then(|entry| self.judge(key, job, None, &entry, -1).ok());
        token.is_some_and(|token| same(&token.secret, secret))
    }

    /// Takes `secret` from no one any more, and has the others know.
    pub fn drop_everywhere(&self, key: &CacheKey, secret: &SecretString) {
        let hash = hash(secret);
        self.dropped.insert(hash, ());
        let mut untold = self.untold();
        if untold.len() >= MOST_DROPPED {
            untold.pop_front();
        }
        untold.push_back((*key, hash));
        drop(untold);
        self.wake.notify_one();
    }

    pub fn was_dropped(&self, secret: &SecretString) -> bool {
        self.dropped.contains_key(&hash(secret))
    }

    /// Until the next look is due.
    pub async fn pause(&self) {
        let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
    }

    /// Tells and reads what was dropped, over a new connection if there is none. `drop` is told whose token, and its
    /// SHA-256.
    pub async fn look(&self, progress: &mut Progress, drop: impl Fn(&CacheKey, &[u8; 32])) {
        if let Some((number, mut connection)) = self.link.current() {
            if let Err(reason) = self.exchange_drops(&mut connection, progress, drop).await {
                self.link.lost(number, &reason);
            }
            return;
        }
        // It may be another server now, or the same with an older memory: all that it knows is read again before
        // anybody asks it.
        FROM_THE_FIRST.clone_into(&mut progress.seen);
        let connected = async {
            let mut connection = self.link.connect().await?;
            let mut write = cmd("SET");
            write.arg(format!("{}:probe", self.seal.prefix())).arg("").arg("PX").arg(1000);
            self.link.ask_on::<()>(&mut connection, &write).await?;
            self.exchange_drops(&mut connection, progress, drop).await?;
            Ok::<_, String>(connection)
        };
        match connected.await {
            Ok(connection) => {
                progress.connections += 1;
                self.link.is_up(progress.connections, connection);
            }
            Err(reason) => self.link.lost(0, &reason),
        }
    }

    async fn exchange_drops(
        &self,
        connection: &mut MultiplexedConnection,
        progress: &mut Progress,
        drop: impl Fn(&CacheKey, &[u8; 32]),
    ) -> Result<(), String> {
        loop {
            let next = self.untold().pop_front();
            let Some(dropped) = next else { break };
            if let Err(reason) = self.tell(connection, &dropped).await {
                self.untold().push_front(dropped);
                return Err(reason);
            }
        }
        loop {
            let mut read = script(DROPS, &[&self.drops_name()]);
            read.arg(&progress.seen).arg(DROPS_AT_ONCE);
            let drops: Vec<(String, Vec<u8>)> = self.link.ask_on(connection, &read).await?;
            let all = drops.len() < DROPS_AT_ONCE;
            for (id, message) in drops {
                progress.seen = id;
                let Some(plain) = self.seal.open(Bound::Drop, &message) else { continue };
                let Some((key, hash)) = plain.split_first_chunk() else { continue };
                let Ok(hash) = <[u8; 32]>::try_from(hash) else { continue };
                self.dropped.insert(hash, ());
                drop(&CacheKey::from_bytes(*key), &hash);
            }
            if all {
                return Ok(());
            }
        }
    }

    async fn tell(&self, connection: &mut MultiplexedConnection, dropped: &Dropped) -> Result<(), String> {
        let (key, hash) = dropped;
        let entry: Vec<u8> = self.link.ask_on(connection, &self.look_at(key)).await?;
        let is_it = self.seal.open(Bound::Token(key), &entry).is_some_and(|text| entry::is_of(&text, hash));
        let plain = [key.as_bytes().as_slice(), hash].concat();
        let message = self.seal.seal(Bound::Drop, &plain, &*self.randomness).map_err(|no| no.to_string())?;
        let mut tell = script(DROP, &[&self.names(key).0, &self.drops_name()]);
        tell.arg(if is_it { &entry[..] } else { &[] }).arg(message).arg(MOST_DROPPED);
        tell.arg(milliseconds(DROPS_KEPT));
        self.link.ask_on(connection, &tell).await
    }

    fn look_at(&self, key: &CacheKey) -> Cmd {
        let mut look = script(LOOK_AT, &[&self.names(key).0]);
        look.arg(LONGEST_ENTRY);
        look
    }

    /// Of the token of `key`, and of the lock on it.
    fn names(&self, key: &CacheKey) -> (String, String) {
        let (prefix, name) = (self.seal.prefix(), self.seal.name(key));
        (format!("{prefix}:token:{name}"), format!("{prefix}:lock:{name}"))
    }

    fn drops_name(&self) -> String {
        format!("{}:dropped", self.seal.prefix())
    }

    /// A name that nobody else has.
    fn unique(&self) -> Result<String, crate::clock::NoRandomness> {
        let mut bytes = [0; 16];
        self.randomness.fill(&mut bytes).map(|()| HEXLOWER.encode(&bytes))
    }

    fn untold(&self) -> MutexGuard<'_, VecDeque<Dropped>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: &str) {
        self.metrics.shared_cache_requests.with_label_values(&[result]).inc();
    }
}

/// `EVAL`, and not by hash: a Redis that was restarted knows no script.
fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(text).arg(keys.len()).arg(keys);
    eval
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const fn word(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Away => "away",
        Trouble::Failed => "failed",
    }
}

/// SHA-256.
pub(super) fn hash(secret: &SecretString) -> [u8; 32] {
    sha256(secret.expose_secret().as_bytes())
}

pub(super) fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret().as_bytes().ct_eq(other.expose_secret().as_bytes()).into()
}
