//! Redis or Valkey as the shared store, with a circuit breaker of its own. Salesforce's is in `exchange::circuit_breaker`.
//!
//! After one error or timeout, Redis is marked unavailable and requests skip it until a background health check
//! succeeds. A request waits for an unresponsive Redis at most once, up to the configured timeout.

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
    ExchangeResult, LockOutcome, LockRequest, MAX_ENTRY_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGES, Messages,
    STREAM_START, SharedStore, SharedStoreError, StoreKeys, WindowCount,
};
use crate::config::RedisConfig;

/// Timeout to connect and to exchange messages, in the background.
const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the stream is kept after the last announcement: the maximum lifetime of an access token.
const MESSAGE_TTL: Duration = Duration::from_hours(24);

/// Returns the entry or failure that isn't the rejected one, or else acquires the lock if it is free. A lock without
/// expiry, or with a longer one than ours have, wasn't set by tokenmint and is deleted.
const TRY_LOCK_SCRIPT: &str = "
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

/// Stores the result and releases the lock, as [`SharedStore::release`] says.
const RELEASE_SCRIPT: &str = "
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

/// Appends a message to the stream, which then lives for another [`MESSAGE_TTL`].
const PUBLISH_SCRIPT: &str = "
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'd', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])";

/// Returns the id of the newest message, then the payloads after the cursor, newest first. Skips those that are too
/// long to be ours.
const READ_SCRIPT: &str = "
local news = {}
for at, message in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '(' .. ARGV[1], 'COUNT', ARGV[2])) do
  local text = message[2][2]
  if at == 1 then news[1] = message[1] end
  if #text <= tonumber(ARGV[3]) then news[#news + 1] = text end
end
return news";

/// Counts a request in a sliding window by Redis's clock. Returns the count, or -1 and the milliseconds until the
/// oldest one leaves the window.
const COUNT_SCRIPT: &str = "
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
enum ConnectionState {
    /// The first connection isn't established yet. Requests wait for it, up to their timeout.
    Starting,
    /// With its generation, so that late errors of an older connection don't mark a newer one as down.
    Up(u64, MultiplexedConnection),
    Down,
}

/// A Redis or Valkey server as a [`SharedStore`].
pub(crate) struct RedisStore {
    client: Client,
    request_timeout: Duration,
    state: watch::Sender<ConnectionState>,
    generations: AtomicU64,
    last_error: Mutex<String>,
    up: IntGauge,
}

impl RedisStore {
    /// Creates the store without connecting.
    pub(crate) fn new(redis: &RedisConfig, up: IntGauge) -> Result<Self, RedisError> {
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
        // Nagle's algorithm can delay a small packet until the previous one is acknowledged, beyond our timeout.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        up.set(0);
        let state = watch::Sender::new(ConnectionState::Starting);
        let client = Client::open(info)?;
        let last_error = Mutex::default();
        Ok(Self {
            client,
            request_timeout: redis.timeout,
            state,
            generations: AtomicU64::new(0),
            last_error,
            up,
        })
    }

    /// Sends a command, unless Redis is marked unavailable.
    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, SharedStoreError> {
        let mut generation = 0;
        let asked = timeout(self.request_timeout, async {
            let mut states = self.state.subscribe();
            let known = states.wait_for(|state| !matches!(state, ConnectionState::Starting)).await;
            let ConnectionState::Up(current_generation, mut connection) =
                known.map_err(|_| SharedStoreError::NotTried)?.clone()
            else {
                return Err(SharedStoreError::NotTried);
            };
            generation = current_generation;
            Ok(command.query_async(&mut connection).await)
        });
        match asked.await {
            Ok(Ok(answer)) => answer.map_err(|error| {
                self.mark_down(generation, &error.to_string());
                SharedStoreError::Failed
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.mark_down(generation, &timeout_message(self.request_timeout));
                Err(SharedStoreError::Failed)
            }
        }
    }

    /// Sends a command of the background sync over a given connection. The caller marks Redis unavailable after an error.
    async fn query_on<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
        time_limit: Duration,
    ) -> Result<T, String> {
        match timeout(time_limit, command.query_async(connection)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(timeout_message(time_limit)),
        }
    }

    /// Returns the connection that requests use, and its generation.
    fn current_connection(&self) -> Option<(u64, MultiplexedConnection)> {
        match &*self.state.borrow() {
            ConnectionState::Up(generation, connection) => Some((*generation, connection.clone())),
            ConnectionState::Starting | ConnectionState::Down => None,
        }
    }

    /// Opens a new connection. Requests don't use it before [`mark_up`](Self::mark_up).
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
            .set_response_timeout(None);
        let connected = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(REDIS_CONNECT_TIMEOUT, connected).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {REDIS_CONNECT_TIMEOUT:?}")),
        }
    }

    /// Makes requests use this connection.
    fn mark_up(&self, generation: u64, connection: MultiplexedConnection) {
        self.state.send_replace(ConnectionState::Up(generation, connection));
        self.up.set(1);
        tracing::info!("the shared cache answers");
    }

    /// Marks Redis unavailable, unless the error is of an older generation. Before the first connection, the generation
    /// is 0.
    fn mark_down(&self, generation: u64, reason: &str) {
        let changed = self.state.send_if_modified(|state| {
            let current = match state {
                ConnectionState::Starting => generation == 0,
                ConnectionState::Up(current, _) => *current == generation,
                ConnectionState::Down => false,
            };
            if current {
                *state = ConnectionState::Down;
            }
            current
        });
        if changed {
            self.up.set(0);
        }
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        // Log a new reason as well: for example, a wrong password after a refused connection.
        if changed || *last != reason {
            reason.clone_into(&mut last);
            tracing::warn!(
                reason,
                "the shared cache ([cache.redis]) can't be used: until it answers, this replica uses its own memory"
            );
        }
    }

    /// Publishes and reads messages over the current connection. Without one, opens a new connection and tests it with
    /// a write; requests use it from then on.
    async fn sync_over_connection(
        &self,
        name: &str,
        payloads: &[Vec<u8>],
        cursor: &str,
    ) -> Result<Messages, SharedStoreError> {
        if let Some((generation, mut connection)) = self.current_connection() {
            let messages = self.publish_and_read(&mut connection, name, payloads, cursor).await;
            return messages.map_err(|reason| {
                self.mark_down(generation, &reason);
                SharedStoreError::Failed
            });
        }
        let connected = async {
            let mut connection = self.connect().await?;
            let mut write = cmd("SET");
            write.arg(format!("{name}:probe")).arg("").arg("PX").arg(1000);
            self.query_on::<()>(&mut connection, &write, self.request_timeout).await?;
            let messages = self.publish_and_read(&mut connection, name, payloads, STREAM_START).await?;
            Ok::<_, String>((connection, messages))
        };
        match connected.await {
            Ok((connection, messages)) => {
                self.mark_up(self.generations.fetch_add(1, Ordering::Relaxed) + 1, connection);
                Ok(messages)
            }
            Err(reason) => {
                self.mark_down(0, &reason);
                Err(SharedStoreError::Failed)
            }
        }
    }

    async fn publish_and_read(
        &self,
        connection: &mut MultiplexedConnection,
        name: &str,
        payloads: &[Vec<u8>],
        cursor: &str,
    ) -> Result<Messages, String> {
        for message in payloads {
            let mut publish = script(PUBLISH_SCRIPT, &[name]);
            publish.arg(message).arg(MAX_MESSAGES).arg(milliseconds(MESSAGE_TTL));
            self.query_on::<()>(connection, &publish, REDIS_CONNECT_TIMEOUT).await?;
        }
        let mut read = script(READ_SCRIPT, &[name]);
        read.arg(cursor).arg(MAX_MESSAGES).arg(MAX_MESSAGE_BYTES);
        let mut messages: Vec<Vec<u8>> = self.query_on(connection, &read, REDIS_CONNECT_TIMEOUT).await?;
        if messages.is_empty() {
            return Ok(Messages { payloads: messages, cursor: cursor.to_owned() });
        }
        let last = messages.remove(0);
        messages.reverse();
        Ok(Messages {
            payloads: messages,
            cursor: String::from_utf8(last).unwrap_or_else(|_| cursor.to_owned()),
        })
    }
}

impl SharedStore for RedisStore {
    fn try_lock<'a>(
        &'a self,
        request: LockRequest<'a>,
    ) -> BoxFuture<'a, Result<LockOutcome, SharedStoreError>> {
        Box::pin(async move {
            let StoreKeys { token, lock, failure } = request.keys;
            let mut command = script(TRY_LOCK_SCRIPT, &[token, lock, failure]);
            command.arg(request.owner).arg(milliseconds(request.lock_ttl));
            command.arg(request.rejected_entry).arg(request.rejected_failure).arg(MAX_ENTRY_BYTES);
            let (what, found, left): (u8, Vec<u8>, i64) = self.query(&command).await?;
            let left = u64::try_from(left).ok().map(Duration::from_millis);
            Ok(match what {
                1 => LockOutcome::Entry(found, left),
                2 => LockOutcome::Failure(found, left),
                3 => LockOutcome::Locked,
                _ => LockOutcome::Busy,
            })
        })
    }

    fn release<'a>(
        &'a self,
        keys: &'a StoreKeys,
        owner: Option<&'a str>,
        result: &'a ExchangeResult,
    ) -> BoxFuture<'a, Result<(), SharedStoreError>> {
        Box::pin(async move {
            let StoreKeys { token, lock, failure } = keys;
            let (what, content, left) = match result {
                ExchangeResult::Entry(entry, left) => ("entry", entry.as_slice(), *left),
                ExchangeResult::Failure(failure, left) => ("failure", failure.as_slice(), *left),
                ExchangeResult::Nothing => ("", [].as_slice(), Duration::ZERO),
            };
            let mut release = script(RELEASE_SCRIPT, &[token, lock, failure]);
            release.arg(owner.unwrap_or_default()).arg(what).arg(content).arg(milliseconds(left));
            self.query(&release).await
        })
    }

    fn count_request<'a>(
        &'a self,
        name: &'a str,
        id: &'a str,
        limit: usize,
        window: Duration,
    ) -> BoxFuture<'a, Result<WindowCount, SharedStoreError>> {
        Box::pin(async move {
            let mut count = script(COUNT_SCRIPT, &[name]);
            count.arg(limit).arg(milliseconds(window)).arg(id);
            let (count, wait): (i64, u64) = self.query(&count).await?;
            let exhausted =
                || WindowCount::Exhausted(Duration::from_millis(wait).max(Duration::from_secs(1)));
            Ok(u64::try_from(count).map_or_else(|_| exhausted(), WindowCount::Allowed))
        })
    }

    fn refund<'a>(&'a self, name: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), SharedStoreError>> {
        Box::pin(async move {
            let mut refund = cmd("ZREM");
            refund.arg(name).arg(id);
            self.query(&refund).await
        })
    }

    fn sync_messages<'a>(
        &'a self,
        name: &'a str,
        payloads: &'a [Vec<u8>],
        cursor: &'a str,
    ) -> BoxFuture<'a, Result<Messages, SharedStoreError>> {
        Box::pin(self.sync_over_connection(name, payloads, cursor))
    }
}

fn timeout_message(time_limit: Duration) -> String {
    format!("no answer within {time_limit:?}")
}

/// Builds an `EVAL` command. `EVALSHA` would fail after a restart of Redis, which forgets its scripts.
fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut eval = cmd("EVAL");
    eval.arg(text).arg(keys.len()).arg(keys);
    eval
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
