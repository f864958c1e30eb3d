//! Redis or Valkey as the shared store, and whether it is worth asking.
//!
//! After one failure or one answer that is late nobody asks again until a look behind the requests has found that it
//! answers: whatever happens to Redis, a request waits for it once, and no longer than the configured time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, cmd,
};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::upstream::BoxFuture;
use super::store::{
    Claim, Claimed, Counted, FROM_THE_FIRST, LONGEST_ENTRY, LONGEST_MESSAGE, MOST_MESSAGES, Names, News,
    Released, SharedStore, Trouble,
};
use crate::config::RedisConfig;

/// To connect, and to read what others have left. Behind the requests there is time.
const CONNECT: Duration = Duration::from_secs(1);
/// No access token lives longer, so nobody needs to know longer that it was dropped.
const MESSAGES_KEPT: Duration = Duration::from_hours(24);

/// An entry or a failure that isn't the refused one; else the lock, if nobody has it. A lock that would outlive its
/// deadline isn't ours.
const CLAIM: &str = "
local function get(key)
  local text = redis.pcall('GETRANGE', key, 0, ARGV[5])
  return type(text) == 'table' and '' or text
end
for at, key in ipairs({KEYS[1], KEYS[3]}) do
  local found = get(key)
  if found ~= '' and found ~= ARGV[2 + at] then return {at, found, redis.call('PTTL', key)} end
end
local left = redis.call('PTTL', KEYS[2])
if left == -1 or left > tonumber(ARGV[2]) then redis.call('DEL', KEYS[2]) end
return {redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) and 3 or 0, '', 0}";

/// Keeps what there is to keep, and gives the lock back, if it is still the owner's.
const RELEASE: &str = "
local holder = redis.pcall('GET', KEYS[2])
local owned = holder == ARGV[1]
if not owned and (holder or redis.call('EXISTS', KEYS[1]) == 1) then return end
if ARGV[2] == 'entry' then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  redis.call('DEL', KEYS[3])
elseif ARGV[2] == 'failure' then
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
end
if owned then redis.call('DEL', KEYS[2]) end";

const TELL: &str = "
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'd', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])";

/// The last of the messages since, newest first: their ids, and what they say unless somebody else has put it there.
const NEWS: &str = "
local news = {}
for at, message in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '(' .. ARGV[1], 'COUNT', ARGV[2])) do
  local text = message[2][2]
  if at == 1 then news[1] = message[1] end
  if #text <= tonumber(ARGV[3]) then news[#news + 1] = text end
end
return news";

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

#[derive(Clone)]
enum State {
    /// Not known yet: whoever asks waits, as for an answer.
    Starting,
    /// With a number of its own, so that what failed before it came back doesn't count against it.
    Up(u64, MultiplexedConnection),
    Away,
}

pub struct RedisStore {
    client: Client,
    patience: Duration,
    state: watch::Sender<State>,
    connections: AtomicU64,
    last_reason: Mutex<String>,
    up: IntGauge,
}

impl RedisStore {
    /// Connects to nothing yet.
    pub fn new(redis: &RedisConfig, up: IntGauge) -> Result<Self, RedisError> {
        let (host, port) = (redis.url.host.clone(), redis.url.port);
        let address = if redis.url.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(redis.url.database));
        if let Some(user) = &redis.url.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &redis.password {
            settings = settings.set_password(password.expose_secret());
        }
        // Without it a small packet may wait for the acknowledgement of another, as long as all the time there is.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        up.set(0);
        let state = watch::Sender::new(State::Starting);
        let client = Client::open(info)?;
        let last_reason = Mutex::default();
        Ok(Self { client, patience: redis.timeout, state, connections: AtomicU64::new(0), last_reason, up })
    }

    /// Asks, if that makes sense now.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        let mut number = 0;
        let asked = timeout(self.patience, async {
            let mut states = self.state.subscribe();
            let known = states.wait_for(|state| !matches!(state, State::Starting)).await;
            let State::Up(its_number, mut connection) = known.map_err(|_| Trouble::Away)?.clone() else {
                return Err(Trouble::Away);
            };
            number = its_number;
            Ok(command.query_async(&mut connection).await)
        });
        match asked.await {
            Ok(Ok(answer)) => answer.map_err(|error| {
                self.lost(number, &error.to_string());
                Trouble::Failed
            }),
            Ok(Err(trouble)) => Err(trouble),
            Err(_) => {
                self.lost(number, &late(self.patience));
                Err(Trouble::Failed)
            }
        }
    }

    /// Asks on that connection, behind the requests.
    async fn ask_on<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
        patience: Duration,
    ) -> Result<T, String> {
        match timeout(patience, command.query_async(connection)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(late(patience)),
        }
    }

    /// The connection that requests use, and its number.
    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        match &*self.state.borrow() {
            State::Up(number, connection) => Some((*number, connection.clone())),
            State::Starting | State::Away => None,
        }
    }

    /// A new connection, which no request uses yet.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connected = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(CONNECT, connected).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {CONNECT:?}")),
        }
    }

    /// From now on requests use this connection.
    fn is_up(&self, number: u64, connection: MultiplexedConnection) {
        self.state.send_replace(State::Up(number, connection));
        self.up.set(1);
        tracing::info!("the shared cache answers");
    }

    /// From now on nobody asks, unless what failed is past already. The connection of the beginning is number 0.
    fn lost(&self, number: u64, reason: &str) {
        let changed = self.state.send_if_modified(|state| {
            let current = match state {
                State::Starting => number == 0,
                State::Up(current, _) => *current == number,
                State::Away => false,
            };
            if current {
                *state = State::Away;
            }
            current
        });
        if changed {
            self.up.set(0);
        }
        let mut last = self.last_reason.lock().unwrap_or_else(PoisonError::into_inner);
        // What keeps it away now may be another thing than what it began with: a password, a certificate.
        if changed || *last != reason {
            reason.clone_into(&mut last);
            tracing::warn!(
                reason,
                "the shared cache doesn't answer; until it does, this replica uses its own memory"
            );
        }
    }
}

impl RedisStore {
    /// Over the connection that requests use, or a new one that they use from then on.
    async fn exchange_messages(&self, name: &str, tell: &[Vec<u8>], seen: &str) -> Result<News, Trouble> {
        if let Some((number, mut connection)) = self.current() {
            let news = self.tell_and_read(&mut connection, name, tell, seen).await;
            return news.map_err(|reason| {
                self.lost(number, &reason);
                Trouble::Failed
            });
        }
        let connected = async {
            let mut connection = self.connect().await?;
            let mut write = cmd("SET");
            write.arg(format!("{name}:probe")).arg("").arg("PX").arg(1000);
            self.ask_on::<()>(&mut connection, &write, self.patience).await?;
            let news = self.tell_and_read(&mut connection, name, tell, FROM_THE_FIRST).await?;
            Ok::<_, String>((connection, news))
        };
        match connected.await {
            Ok((connection, news)) => {
                self.is_up(self.connections.fetch_add(1, Ordering::Relaxed) + 1, connection);
                Ok(news)
            }
            Err(reason) => {
                self.lost(0, &reason);
                Err(Trouble::Failed)
            }
        }
    }

    async fn tell_and_read(
        &self,
        connection: &mut MultiplexedConnection,
        name: &str,
        tell: &[Vec<u8>],
        seen: &str,
    ) -> Result<News, String> {
        for message in tell {
            let mut tell = script(TELL, &[name]);
            tell.arg(message).arg(MOST_MESSAGES).arg(milliseconds(MESSAGES_KEPT));
            self.ask_on::<()>(connection, &tell, CONNECT).await?;
        }
        let mut read = script(NEWS, &[name]);
        read.arg(seen).arg(MOST_MESSAGES).arg(LONGEST_MESSAGE);
        let mut messages: Vec<Vec<u8>> = self.ask_on(connection, &read, CONNECT).await?;
        if messages.is_empty() {
            return Ok(News { messages, seen: seen.to_owned() });
        }
        let last = messages.remove(0);
        messages.reverse();
        Ok(News { messages, seen: String::from_utf8(last).unwrap_or_else(|_| seen.to_owned()) })
    }
}

impl SharedStore for RedisStore {
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed, Trouble>> {
        Box::pin(async move {
            let Names { token, lock, failure } = claim.names;
            let mut ask = script(CLAIM, &[token, lock, failure]);
            ask.arg(claim.owner).arg(milliseconds(claim.lock_for));
            ask.arg(claim.refused).arg(claim.refused_failure).arg(LONGEST_ENTRY);
            let (what, found, left): (u8, Vec<u8>, i64) = self.ask(&ask).await?;
            let left = u64::try_from(left).ok().map(Duration::from_millis);
            Ok(match what {
                1 => Claimed::Entry(found, left),
                2 => Claimed::Failure(found, left),
                3 => Claimed::Locked,
                _ => Claimed::Busy,
            })
        })
    }

    fn release<'a>(
        &'a self,
        names: &'a Names,
        owner: Option<&'a str>,
        released: &'a Released,
    ) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            let Names { token, lock, failure } = names;
            let (what, content, left) = match released {
                Released::Entry(entry, left) => ("entry", entry.as_slice(), *left),
                Released::Failure(failure, left) => ("failure", failure.as_slice(), *left),
                Released::Nothing => ("", [].as_slice(), Duration::ZERO),
            };
            let mut release = script(RELEASE, &[token, lock, failure]);
            release.arg(owner.unwrap_or_default()).arg(what).arg(content).arg(milliseconds(left));
            self.ask(&release).await
        })
    }

    fn spend<'a>(
        &'a self,
        name: &'a str,
        id: &'a str,
        most: usize,
        window: Duration,
    ) -> BoxFuture<'a, Result<Counted, Trouble>> {
        Box::pin(async move {
            let mut spend = script(SPEND, &[name]);
            spend.arg(most).arg(milliseconds(window)).arg(id);
            let (count, wait): (i64, u64) = self.ask(&spend).await?;
            let exhausted = || Counted::Exhausted(Duration::from_millis(wait).max(Duration::from_secs(1)));
            Ok(u64::try_from(count).map_or_else(|_| exhausted(), Counted::Within))
        })
    }

    fn give_back<'a>(&'a self, name: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            let mut give_back = cmd("ZREM");
            give_back.arg(name).arg(id);
            self.ask(&give_back).await
        })
    }

    fn synchronize<'a>(
        &'a self,
        name: &'a str,
        tell: &'a [Vec<u8>],
        seen: &'a str,
    ) -> BoxFuture<'a, Result<News, Trouble>> {
        Box::pin(self.exchange_messages(name, tell, seen))
    }
}

fn late(patience: Duration) -> String {
    format!("no answer within {patience:?}")
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
