//! [`StoreConnection`]: the session of a running service with one store, and the limits of what it asks for.
//!
//! - The first signature logs in. At half of the life of its token, the session is replaced by another; while no login succeeds, the old
//!   one serves until its end. A session that the store refuses is replaced once per request.
//! - Callers that need a session at the same time share one login. A caller that goes away doesn't end it for the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use prometheus::IntGauge;
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
/// How long after a failed login another is tried, while the old session still serves.
const LOGIN_PAUSE: Duration = Duration::from_secs(5);

type Connecting = Shared<BoxFuture<'static, Result<Arc<dyn Store>, StoreError>>>;

/// A session, or the login that makes it.
pub(super) struct Session {
    connecting: Connecting,
    began: Duration,
    /// The session that this one replaces, until it ends.
    previous: Option<(Arc<dyn Store>, Duration)>,
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
        let queue = Self::queue(config.concurrent_signatures, capacity, depth);
        Self {
            config,
            metrics,
            started: Instant::now(),
            queue,
            bucket: TokenBucket::default(),
            session: Mutex::new(None),
        }
    }

    fn queue(concurrency: usize, capacity: usize, depth: IntGauge) -> Arc<SigningQueue<(), ()>> {
        SigningQueue::new(concurrency, capacity, QUEUE_TIMEOUT, depth)
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
            Err(error) => match &session.previous {
                Some((store, ends_at)) if self.now() < *ends_at => Ok(store.clone()),
                _ => Err(error),
            },
        }
    }

    /// The session, or a new one if it must be replaced.
    fn current(&self, refused: Option<&Arc<dyn Store>>) -> Arc<Session> {
        let now = self.now();
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut previous = None;
        if let Some(session) = &*current {
            match session.connecting.peek() {
                None => return session.clone(),
                Some(Ok(store)) => {
                    let is_refused = refused.is_some_and(|refused| Arc::ptr_eq(refused, store));
                    let Some(lifetime) = store.lifetime().filter(|_| !is_refused) else {
                        if is_refused {
                            return self.begin(&mut current, None, now);
                        }
                        return session.clone();
                    };
                    if now < session.began + lifetime.renew_after {
                        return session.clone();
                    }
                    previous = Some((store.clone(), session.began + lifetime.ends_after));
                }
                Some(Err(_)) => {
                    previous.clone_from(&session.previous);
                    if previous.is_some() && now < session.began + LOGIN_PAUSE {
                        return session.clone();
                    }
                }
            }
        }
        let previous = previous.filter(|(store, ends_at)| {
            now < *ends_at && refused.is_none_or(|refused| !Arc::ptr_eq(refused, store))
        });
        self.begin(&mut current, previous, now)
    }

    fn begin(
        &self,
        current: &mut Option<Arc<Session>>,
        previous: Option<(Arc<dyn Store>, Duration)>,
        now: Duration,
    ) -> Arc<Session> {
        let (config, metrics) = (self.config.clone(), self.metrics.clone());
        let connecting: BoxFuture<'static, _> = Box::pin(async move {
            let begin = Instant::now();
            let connected = connect(&config).await;
            if config.needs_login() {
                record_request(&metrics, &config, "login", begin.elapsed(), connected.as_ref().err());
            }
            connected
        });
        let session = Arc::new(Session { connecting: connecting.shared(), began: now, previous });
        *current = Some(session.clone());
        session
    }

    /// Records a signature that took that long, and ended with `error` or well.
    pub(super) fn record_signature(&self, took: Duration, error: Option<&StoreError>) {
        record_request(&self.metrics, &self.config, "sign", took, error);
    }
}
