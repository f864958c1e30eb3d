//! [`StoreConnection`]: the session of a running service with one store, and the limits of what it asks for.
//!
//! - The first signature logs in. From half of the life of its token on, the session is renewed in the background, and serves until its
//!   end. A session that the store refuses is replaced.
//! - Requests that need a session at the same time share one login. It is a task of its own, so it goes on if they all go away.
//! - The token of a replaced session is given up once no request uses it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::error::StoreError;
use super::sessions::{connect, record_request};
use super::store::{BoxFuture, Store};
use crate::config::StoreConfig;
use crate::metrics::Metrics;
use crate::signing_queue::{Acquired, Permit, SigningQueue};
use crate::token_bucket::TokenBucket;

/// How long a signature may wait for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after a failed renewal another is tried.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// When the token of a replaced session is given up: longer than any request takes.
const LOG_OUT_DELAY: Duration = Duration::from_secs(10);

type Login = Shared<BoxFuture<'static, Result<Arc<dyn Store>, StoreError>>>;

/// A store, as the requests of a running service use it.
pub(crate) struct StoreConnection {
    pub(super) config: Arc<StoreConfig>,
    metrics: Arc<Metrics>,
    started: Instant,
    queue: Arc<SigningQueue<(), ()>>,
    bucket: TokenBucket,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    /// The login that is under way or has just ended, and when it began.
    login: Option<(Login, Duration)>,
    /// No renewal begins before.
    next_renewal: Duration,
}

/// A session that serves.
struct Session {
    store: Arc<dyn Store>,
    /// `None` if it doesn't end by itself.
    renew_at: Option<Duration>,
    ends_at: Option<Duration>,
}

/// The limits of the store don't allow a signature in time.
pub(super) struct LimitExceeded;

impl StoreConnection {
    pub(crate) fn new(config: Arc<StoreConfig>, metrics: Arc<Metrics>) -> Self {
        // No more can be signed while they wait.
        let capacity = usize::try_from(config.signature_rate.requests).unwrap_or(usize::MAX);
        let depth = metrics.store_queue_depth.with_label_values(&[config.name.as_str()]);
        let queue = SigningQueue::new(config.concurrent_signatures, capacity, QUEUE_TIMEOUT, depth);
        Self {
            config,
            metrics,
            started: Instant::now(),
            queue,
            bucket: TokenBucket::default(),
            state: Mutex::default(),
        }
    }

    pub(crate) const fn config(&self) -> &Arc<StoreConfig> {
        &self.config
    }

    /// The monotonic time since it was made.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until the limits allow another request. The permit ends with it.
    pub(super) async fn acquire(&self) -> Result<Permit<(), ()>, LimitExceeded> {
        let deadline = Instant::now() + QUEUE_TIMEOUT;
        // The queue itself notices only with the next free permit that a wait was too long.
        let Ok(Ok(Acquired::Permit(permit, ()))) =
            tokio::time::timeout_at(deadline, self.queue.acquire(())).await
        else {
            return Err(LimitExceeded);
        };
        loop {
            match self.bucket.try_acquire(self.config.signature_rate, self.now()) {
                Ok(()) => return Ok(permit),
                Err(wait) if Instant::now() + wait > deadline => return Err(LimitExceeded),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Whether the limits allow another request now, with the same permit.
    pub(super) fn allows_retry(&self) -> bool {
        self.bucket.try_acquire(self.config.signature_rate, self.now()).is_ok()
    }

    /// Returns the session, by a login if there is none.
    pub(super) async fn session(&self) -> Result<Arc<dyn Store>, StoreError> {
        let login = {
            let now = self.now();
            let mut state = self.state();
            state.take_over_login(now);
            match &state.session {
                Some(session) => {
                    let store = session.store.clone();
                    let is_due = session.renew_at.is_some_and(|renew_at| now >= renew_at);
                    if is_due && now >= state.next_renewal {
                        drop(self.log_in(&mut state, now));
                    }
                    return Ok(store);
                }
                None => self.log_in(&mut state, now),
            }
        };
        login.await
    }

    /// Ends a session that the store has refused. The next request logs in.
    pub(super) fn forget(&self, refused: &Arc<dyn Store>) {
        let mut state = self.state();
        state.take_over_login(self.now());
        if let Some(session) = state.session.take_if(|session| Arc::ptr_eq(&session.store, refused)) {
            session.give_up(LOG_OUT_DELAY);
        }
    }

    /// Ends the session, at the end of the process.
    pub(crate) async fn log_out(&self) {
        let session = {
            let mut state = self.state();
            state.take_over_login(self.now());
            state.session.take()
        };
        if let Some(session) = session {
            session.store.log_out().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the login that is under way. Begins one if there is none.
    fn log_in(&self, state: &mut State, now: Duration) -> Login {
        if let Some((login, _)) = &state.login {
            return login.clone();
        }
        let (config, metrics) = (self.config.clone(), self.metrics.clone());
        let runtime = Handle::current();
        // It reads files and parses certificates, so it mustn't run on a thread of the runtime.
        let connected = tokio::task::spawn_blocking(move || {
            let begin = Instant::now();
            let connected = runtime.block_on(connect(&config));
            if config.needs_login() {
                record_request(&metrics, &config, "login", begin.elapsed(), connected.as_ref().err());
            }
            connected
        });
        let ended: BoxFuture<'static, _> = Box::pin(async move {
            connected
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("the login was given up".to_owned())))
        });
        let login = ended.shared();
        state.login = Some((login.clone(), now));
        // It ends even if everybody who waits for it goes away.
        tokio::spawn(login.clone().map(|_| ()));
        login
    }

    /// Records a signature that took that long, and ended with `error` or well.
    pub(super) fn record_signature(&self, took: Duration, error: Option<&StoreError>) {
        record_request(&self.metrics, &self.config, "sign", took, error);
    }
}

impl Session {
    /// Ends it after `delay`: requests may use it still.
    fn give_up(self, delay: Duration) {
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            self.store.log_out().await;
        });
    }
}

/// After a reload that replaced it.
impl Drop for StoreConnection {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = state.session.take() {
            session.give_up(Duration::ZERO);
        }
    }
}

impl State {
    /// Replaces the session if a login has ended well, and drops a session that has ended.
    fn take_over_login(&mut self, now: Duration) {
        if let Some((login, began)) = &self.login
            && let Some(ended) = login.peek()
        {
            match ended {
                Ok(store) => {
                    let lifetime = store.lifetime();
                    let replaced = self.session.replace(Session {
                        store: store.clone(),
                        renew_at: lifetime.map(|lifetime| *began + lifetime.renew_after),
                        ends_at: lifetime.map(|lifetime| *began + lifetime.ends_after),
                    });
                    if let Some(replaced) = replaced {
                        replaced.give_up(LOG_OUT_DELAY);
                    }
                }
                Err(_) => self.next_renewal = now + RENEWAL_PAUSE,
            }
            self.login = None;
        }
        self.session.take_if(|session| session.ends_at.is_some_and(|ends_at| now >= ends_at));
    }
}
