//! The connection to Redis, and whether it is worth asking.
//!
//! After one failure or one answer that is late nobody asks again until a look behind the requests has found that it
//! answers: whatever happens to Redis, a request waits for it once, and no longer than the configured time.

use std::time::Duration;

use prometheus::IntGauge;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError,
};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Redis;

/// Behind the requests there is time.
const CONNECT: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum State {
    /// Not known yet: whoever asks waits, as for an answer.
    Starting,
    /// With a number of its own, so that what failed before it came back doesn't count against it.
    Up(u64, MultiplexedConnection),
    Away,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It was not asked.
    Away,
    /// It was, in vain.
    Failed,
}

pub struct Link {
    client: Client,
    patience: Duration,
    state: watch::Sender<State>,
    up: IntGauge,
}

impl Link {
    /// Connects to nothing yet.
    pub fn new(redis: &Redis, up: IntGauge) -> Result<Self, RedisError> {
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
        Ok(Self { client: Client::open(info)?, patience: redis.timeout, state, up })
    }

    /// Asks, if that makes sense now.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
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
                self.lost(number, &self.late());
                Err(Trouble::Failed)
            }
        }
    }

    /// Asks on that connection, behind the requests.
    pub async fn ask_on<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
    ) -> Result<T, String> {
        match timeout(self.patience, command.query_async(connection)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> String {
        format!("no answer within {:?}", self.patience)
    }

    /// The connection that requests use, and its number.
    pub fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        match &*self.state.borrow() {
            State::Up(number, connection) => Some((*number, connection.clone())),
            State::Starting | State::Away => None,
        }
    }

    /// A new connection, which no request uses yet.
    pub async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connected = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(CONNECT, connected).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {CONNECT:?}")),
        }
    }

    /// From now on requests use this connection.
    pub fn is_up(&self, number: u64, connection: MultiplexedConnection) {
        self.state.send_replace(State::Up(number, connection));
        self.up.set(1);
        tracing::info!("the shared cache answers");
    }

    /// From now on nobody asks, unless what failed is past already. The connection of the beginning is number 0.
    pub fn lost(&self, number: u64, reason: &str) {
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
            tracing::warn!(
                reason,
                "the shared cache doesn't answer; until it does, this replica uses its own memory"
            );
        }
    }
}
