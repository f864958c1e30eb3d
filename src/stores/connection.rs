//! [`StoreConnection`]: the session of a running service with one store, and the limits of what it asks for.
//!
//! - The first signature logs in. At half of the life of its token, the session is replaced by another; while no login succeeds, the old
//!   one serves until its end. A session that the store refuses is replaced once per request.
//! - Callers that need a session at the same time share one login. A caller that goes away doesn't end it for the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use tokio::time::Instant;

use super::error::StoreError;
use super::sessions::{connect, record_request};
use super::store::{BoxFuture, SessionLifetime, Store};
use crate::config::StoreConfig;
use crate::metrics::Metrics;
use crate::signing_queue::{Acquired, Permit, SigningQueue};
use crate::token_bucket::TokenBucket;

/// How long a signature may wait for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after a failed login another is tried, while the old session still serves.
const LOGIN_PAUSE: Duration = Duration::from_secs(5);

type Connecting = Shared<BoxFuture<'static, Result<Arc<dyn Store>, StoreError>>>;

/// A session, or the login that makes it.
struct Session {
    connecting: Connecting,
    began: Duration,
    /// The session that this one replaces.
    previous: Option<UsableSession>,
}

/// A session, and when it ends.
#[derive(Clone)]
struct UsableSession {
    store: Arc<dyn Store>,
    ends_at: Duration,
}

impl Session {
    /// Whether it needn't be replaced yet, at `now`. `refused` is the session that the store refused, if it refused one.
    fn serves(&self, now: Duration, refused: Option<&Arc<dyn Store>>) -> bool {
        match self.connecting.peek() {
            None => true,
            Some(Ok(store)) => {
                let is_due = |lifetime: SessionLifetime| now >= self.began + lifetime.renew_after;
                !is_same(store, refused) && !store.lifetime().is_some_and(is_due)
            }
            Some(Err(_)) => {
                now < self.began + LOGIN_PAUSE && self.usable_until_its_end(now, refused).is_some()
            }
        }
    }

    /// The session that serves while another login hasn't succeeded.
    fn usable_until_its_end(&self, now: Duration, refused: Option<&Arc<dyn Store>>) -> Option<UsableSession> {
        let session = match self.connecting.peek()? {
            Ok(store) => {
                let ends_at = self.began + store.lifetime()?.ends_after;
                UsableSession { store: store.clone(), ends_at }
            }
            Err(_) => self.previous.clone()?,
        };
        (now < session.ends_at && !is_same(&session.store, refused)).then_some(session)
    }
}

fn is_same(store: &Arc<dyn Store>, refused: Option<&Arc<dyn Store>>) -> bool {
    refused.is_some_and(|refused| Arc::ptr_eq(refused, store))
}

/// A store, as the requests of a running service use it.
pub(crate) struct StoreConnection {
    pub(super) config: Arc<StoreConfig>,
    metrics: Arc<Metrics>,
    started: Instant,
    queue: Arc<SigningQueue<(), ()>>,
    bucket: TokenBucket,
    session: Mutex<Option<Arc<Session>>>,
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
            session: Mutex::new(None),
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
        let deadline = self.now() + QUEUE_TIMEOUT;
        let Ok(Acquired::Permit(permit, ())) = self.queue.acquire(()).await else {
            return Err(LimitExceeded);
        };
        loop {
            match self.bucket.try_acquire(self.config.signature_rate, self.now()) {
                Ok(()) => return Ok(permit),
                Err(wait) if self.now() + wait > deadline => return Err(LimitExceeded),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Whether the limits allow another request now, with the same permit.
    pub(super) fn allows_retry(&self) -> bool {
        self.bucket.try_acquire(self.config.signature_rate, self.now()).is_ok()
    }

    /// Returns a session, by a login if there is none or the store refused `refused`.
    pub(super) async fn session(
        &self,
        refused: Option<&Arc<dyn Store>>,
    ) -> Result<Arc<dyn Store>, StoreError> {
        let session = self.current(refused);
        match session.connecting.clone().await {
            Ok(store) => Ok(store),
            Err(error) => {
                session.usable_until_its_end(self.now(), refused).map(|session| session.store).ok_or(error)
            }
        }
    }

    /// The session, or a new one if it must be replaced.
    fn current(&self, refused: Option<&Arc<dyn Store>>) -> Arc<Session> {
        let now = self.now();
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(session) if session.serves(now, refused) => session.clone(),
            replaced => {
                let previous =
                    replaced.as_ref().and_then(|session| session.usable_until_its_end(now, refused));
                let session = Arc::new(self.begin(previous, now));
                *current = Some(session.clone());
                session
            }
        }
    }

    /// Begins to log in.
    fn begin(&self, previous: Option<UsableSession>, now: Duration) -> Session {
        let (config, metrics) = (self.config.clone(), self.metrics.clone());
        let connecting: BoxFuture<'static, _> = Box::pin(async move {
            let begin = Instant::now();
            let connected = connect(&config).await;
            if config.needs_login() {
                record_request(&metrics, &config, "login", begin.elapsed(), connected.as_ref().err());
            }
            connected
        });
        Session { connecting: connecting.shared(), began: now, previous }
    }

    /// Records a signature that took that long, and ended with `error` or well.
    pub(super) fn record_signature(&self, took: Duration, error: Option<&StoreError>) {
        record_request(&self.metrics, &self.config, "sign", took, error);
    }
}
