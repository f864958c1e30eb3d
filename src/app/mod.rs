//! Builds the service from a `Config`, runs it, and shuts it down.
//!
//! - Start: all files are loaded and checked before a socket is bound.
//! - While it runs, [`reload`] takes over changed files, and `retirement_watcher` removes retired keys.
//! - Graceful shutdown: the service becomes unready and keeps answering for `DRAIN_NOTICE`, so that load balancers notice.
//!   Then it finishes open requests for at most `DRAIN_TIMEOUT`, whatever clients do. A second signal ends it at once.

#[cfg(test)]
mod captured_log;
mod charged_body;
mod connections;
pub(crate) mod discovery;
mod fingerprint;
pub(crate) mod host;
mod http_server;
pub mod json_lines;
mod listener;
mod loaded_config;
pub(crate) mod logging;
pub mod reload;
mod request_scanner;
mod retirement_watcher;
pub(crate) mod systemd;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{
    AppState, Audit, ConfigSnapshot, DroppedLineCounter, ReloadReport, RequestMetrics, RouteGroup, router,
};
use crate::callers::{Callers, SubjectRateLimiter};
use crate::clock::{Clock, NoRandomness, Randomness, SystemClock, SystemRandomness, UnixTime};
use crate::config::{AuditLogMode, Config, ListenAddress, Name, Problem, WarningCode};
use crate::exchange::{self, Exchanger, ExchangerBuildError, ExchangerDeps};
use crate::issuers::{Issuers, LoadedIssuerKeys};
use crate::jwks::PublishedJwks;
use crate::keys::{BatchLibrary, BatchLibraryError, BatchSigner, KeyRing};
use crate::metrics::Metrics;
use crate::tokens::{Profiles, Signer};
pub use http_server::{ListenerDeps, serve_stream};
use listener::Listener;
pub use loaded_config::LoadedConfig;
pub(crate) use loaded_config::key_problems;
use reload::{ConfigSource, ReloadTarget, Reloader};
use systemd::InheritedSockets;
use tls::ServerTls;

/// How long the service keeps accepting connections after it became unready, so that load balancers notice.
const DRAIN_NOTICE: Duration = Duration::from_secs(1);
/// How long open requests may take after `DRAIN_NOTICE` before they are cut off. Both together are less than the ten seconds
/// that `docker stop` allows by default.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7);

/// How often the service looks for issuers whose keys are due to be fetched. Also the longest time after a reload until it
/// fetches the keys of a new issuer, unless a request needs them earlier.
const ISSUER_KEYS_INTERVAL: Duration = Duration::from_secs(1);

/// The clock and the random number generator of a service.
#[derive(Clone)]
pub struct ClockAndRng {
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
}

impl ClockAndRng {
    /// The host's clock and random number generator.
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock::default()), randomness: Arc::new(SystemRandomness::default()) }
    }
}

/// Starts batch signing with `library`. Logs its version, or why it can't be used.
fn start_batch_signing(
    library: Option<Result<BatchLibrary, BatchLibraryError>>,
    randomness: &Arc<dyn Randomness>,
    metrics: &Metrics,
) -> Option<BatchSigner> {
    match library? {
        Ok(library) => {
            tracing::info!(
                library = library.version(),
                "signs in batches with each key that passes the self-test"
            );
            Some(BatchSigner::new(library, randomness.clone(), metrics))
        }
        Err(reason) => {
            tracing::info!(%reason, "signs one at a time: `library` of [server.signing] can't be used");
            None
        }
    }
}

/// The service with its sockets bound, before it accepts connections.
pub struct App {
    state: Arc<AppState>,
    listeners: Vec<(Listener, &'static [RouteGroup])>,
    target: ReloadTarget,
}

/// Why the service can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can't listen on {listen} ([{section}] listen): {error}")]
    Bind { section: &'static str, listen: ListenAddress, error: io::Error },
    #[error("the sockets that systemd passed can't be used (LISTEN_FDS): {0}")]
    Inherited(io::Error),
    #[error("can't create the socket by which commands on this host find this service: {0}")]
    Discovery(io::Error),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error(transparent)]
    Client(#[from] ExchangerBuildError),
}

impl App {
    /// Builds the service and binds its sockets.
    ///
    /// # Errors
    /// A socket can't be bound, systemd passed an unusable one, the host gives no randomness, or `[cache.redis]` makes no valid
    /// client.
    pub async fn bind(
        loaded: LoadedConfig,
        clock_and_rng: ClockAndRng,
        dropped_lines: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let LoadedConfig { config, ring, tls, public_tls, batch, issuer_keys, files, fingerprint, metrics } =
            loaded;
        let chains = tls::certificate_chains([&tls, &public_tls]);
        let replaceable = |tls: Option<ServerTls>| tls.map(|tls| Arc::new(ArcSwap::new(tls.config)));
        let (tls, public_tls) = (replaceable(tls), replaceable(public_tls));
        let server = &config.server;
        let all: &[RouteGroup] = match &server.ops {
            None => &[RouteGroup::Minting, RouteGroup::Public, RouteGroup::Ops],
            Some(_) => &[RouteGroup::Minting, RouteGroup::Public],
        };
        let mut wanted = vec![("minting", "server", &server.listen, tls.clone(), all)];
        if let Some(public) = &server.public {
            wanted.push((
                "public",
                "server.public",
                &public.listen,
                public_tls.clone(),
                &[RouteGroup::Public],
            ));
        }
        if let Some(listen) = &server.ops {
            wanted.push(("ops", "server.ops", listen, None, &[RouteGroup::Ops]));
        }
        let mut listeners = Vec::new();
        let mut inherited = InheritedSockets::inherited(wanted.len() == 1).map_err(StartError::Inherited)?;
        for (name, section, listen, tls, groups) in wanted {
            let failed = |error| StartError::Bind { section, listen: listen.clone(), error };
            let sockets = inherited.take(name);
            if sockets.is_empty() {
                listeners.push((Listener::bind(name, listen, tls).await.map_err(failed)?, groups));
                continue;
            }
            for socket in sockets {
                listeners
                    .push((Listener::from_inherited(name, socket, tls.clone()).map_err(failed)?, groups));
            }
        }
        for name in inherited.unclaimed() {
            tracing::warn!(
                name,
                "systemd passed a socket that belongs to no listener: name it minting, public or ops, and configure that listener"
            );
        }
        let config = Arc::new(config);
        let state =
            build_state(&config, ring, issuer_keys, batch, clock_and_rng, metrics, Arc::new(dropped_lines))?;
        let state = Arc::new(state);
        let exchanges = config.identity.values().any(|profile| profile.messaging.is_some());
        if exchanges || !config.oauth.is_empty() {
            state.exchanger.warm_up_transport();
        }
        let target = ReloadTarget { state: state.clone(), tls, public_tls, chains, files, fingerprint };
        Ok(Self { state, listeners, target })
    }

    /// The name, scheme and address of each listener.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, &'static str, ListenAddress)> {
        self.listeners.iter().map(|(listener, _)| (listener.name, listener.scheme(), listener.address()))
    }

    pub const fn state(&self) -> &Arc<AppState> {
        &self.state
    }

    /// Removes keys that are retired or whose publication has ended. Runs until the future is dropped.
    pub(crate) fn watch_retirements(&self) -> impl Future<Output = ()> + Send + use<> {
        retirement_watcher::run(self.state.clone())
    }

    /// Fetches the keys of issuers when they are due, so that a request seldom waits for them. Runs until the future is dropped.
    pub(crate) fn fetch_issuer_keys(&self) -> impl Future<Output = ()> + Send + use<> {
        let state = self.state.clone();
        async move {
            loop {
                state.snapshot.load().issuers.fetch_due_keys();
                tokio::time::sleep(ISSUER_KEYS_INTERVAL).await;
            }
        }
    }

    /// Creates the reloader, which takes over changes of `source`.
    pub fn reloader(&self, source: ConfigSource) -> Reloader {
        Reloader::new(source, self.target.clone())
    }

    /// Serves requests until `stop` resolves, then drains open requests for at most `DRAIN_TIMEOUT`. Stops draining when
    /// `force` resolves.
    ///
    /// # Errors
    /// A listener ended unexpectedly. Open requests are drained in the same way then.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        force: impl Future<Output = ()>,
    ) -> Result<(), ListenerFailed> {
        let Self { state, listeners, .. } = self;
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let max_by_descriptors = host::max_connections_per_listener(listeners.len());
        let connections = state.limits.connections.min(max_by_descriptors);
        if connections < state.limits.connections {
            tracing::warn!(
                connections,
                "the limit of open files allows fewer connections than server.limits.connections: raise it (ulimit -n)"
            );
        }
        let mut listener_tasks = JoinSet::new();
        for (listener, groups) in listeners {
            let deps = ListenerDeps {
                groups,
                router: router(&state, groups),
                metrics: state.metrics.clone(),
                clock: state.clock.clone(),
            };
            listener_tasks.spawn(listener.run(deps, connections, tasks.clone(), closing.clone()));
        }
        let outcome = until_stopped(stop, &mut listener_tasks).await;
        systemd::notify_stopping();
        state.draining.store(true, Ordering::Release);
        let drained = async {
            tokio::time::sleep(DRAIN_NOTICE).await;
            closing.cancel();
            let ended = async {
                // Waits for the listeners too: each removes the file of its Unix socket at its end.
                while listener_tasks.join_next().await.is_some() {}
                tasks.close();
                tasks.wait().await;
            };
            if tokio::time::timeout(DRAIN_TIMEOUT, ended).await.is_err() {
                tracing::warn!(
                    connections = tasks.len(),
                    "closed connections whose requests did not finish in time"
                );
            }
        };
        tokio::select! {
            () = drained => {}
            () = force => closing.cancel(),
        }
        state.exchanger.shut_down().await;
        state.snapshot.load_full().ring.log_out_of_stores().await;
        outcome
    }
}

/// A listener ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("a listener ended unexpectedly: {0}; this is a bug in tokenmint: report it, and restart the service")]
pub struct ListenerFailed(String);

/// Waits for `stop`, or for the first listener that ends earlier, which only a panic causes. Then the service exits and its
/// supervisor can restart it, instead of running without that listener.
async fn until_stopped(
    stop: impl Future<Output = ()>,
    listeners: &mut JoinSet<()>,
) -> Result<(), ListenerFailed> {
    let ended = tokio::select! {
        () = stop => return Ok(()),
        Some(ended) = listeners.join_next() => ended,
    };
    let failed =
        ListenerFailed(ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string()));
    tracing::error!("{failed}");
    Err(failed)
}

/// Builds everything that all requests share.
fn build_state(
    config: &Arc<Config>,
    ring: KeyRing,
    issuer_keys: BTreeMap<Name, LoadedIssuerKeys>,
    library: Option<Result<BatchLibrary, BatchLibraryError>>,
    clock_and_rng: ClockAndRng,
    metrics: Arc<Metrics>,
    dropped_lines: DroppedLineCounter,
) -> Result<AppState, StartError> {
    let ClockAndRng { clock, randomness } = clock_and_rng;
    let now = clock.now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let required = (config.server.audit == AuditLogMode::Required).then(|| dropped_lines.clone());
    let audit = if let Some(key) = &config.server.audit_key {
        Audit::new(key.expose_secret().as_bytes(), required)
    } else {
        let mut key = [0; 32];
        randomness.fill(&mut key)?;
        Audit::new(&key, required)
    };
    let batch = start_batch_signing(library, &randomness, &metrics);
    metrics.config_current.set(i64::from(ring.unopened_keys().next().is_none()));
    metrics.config_loaded_at.set(now.seconds());
    let issuers = Arc::new(Issuers::new(config, issuer_keys, &clock, &metrics, None));
    let snapshot = build_snapshot(config.clone(), ring, issuers, &metrics, now, None);
    let signer = Arc::new(Signer::new(cores, config.server.limits.signing_queue, batch, &metrics));
    let deps = ExchangerDeps {
        signer: signer.clone(),
        clock: clock.clone(),
        randomness: randomness.clone(),
        metrics: metrics.clone(),
    };
    let state_directory = state_directory(config);
    let exchanger = Exchanger::new(
        deps,
        config.server.limits.token_cache as u64,
        Some(&state_directory),
        config.cache.redis.as_ref(),
    )?;
    let subject_rate_limiter = SubjectRateLimiter::new(config.server.limits.remint_rate, &*randomness)?;
    Ok(AppState {
        snapshot: ArcSwap::from_pointee(snapshot),
        signer,
        exchanger,
        subject_rate_limiter,
        clock,
        randomness,
        metrics,
        request_metrics: RequestMetrics::default(),
        audit,
        limits: config.server.limits.clone(),
        draining: AtomicBool::new(false),
        last_reload_check: ArcSwap::from_pointee(ReloadReport::default()),
        dropped_lines,
    })
}

/// Builds the part of the state that follows from the configuration. `previous` are the callers whose rate limits go on.
fn build_snapshot(
    config: Arc<Config>,
    ring: KeyRing,
    issuers: Arc<Issuers>,
    metrics: &Metrics,
    now: UnixTime,
    previous: Option<&Callers>,
) -> ConfigSnapshot {
    let profiles = Profiles::new(&config, &ring);
    ConfigSnapshot {
        callers: Callers::with_previous(&config, &profiles, &issuers, metrics, previous),
        published: PublishedJwks::new(&ring, metrics, now),
        profiles,
        issuers,
        ring,
        config,
    }
}

/// The directory of the login budget. The default depends only on the user and `TMPDIR`, so that restarts and other replicas
/// of the same user on this host share the budget.
pub(crate) fn state_directory(config: &Config) -> PathBuf {
    let default = || std::env::temp_dir().join(format!("tokenmint-{}", rustix::process::geteuid().as_raw()));
    let configured = config.server.state_directory.as_ref();
    configured.map_or_else(default, |path| path.as_path().to_path_buf())
}

/// Warns of a configured directory of the login budget that the service won't use: it isn't a directory, or others may access it.
pub(crate) fn shared_state_directory(config: &Config) -> Option<Problem> {
    let configured = config.server.state_directory.as_ref()?;
    let reason = exchange::reject_shared_directory(configured.as_path()).err()?;
    let message = format!("the login budget is kept in memory only, and a restart forgets it: {reason}");
    let field = "server.state_directory";
    let source = config.origin(field).map(ToString::to_string).unwrap_or_default();
    Some(Problem::warning(WarningCode::StateDirectory, field, source, message))
}

/// Creates the multi-threaded tokio runtime of the service. It polls its sockets after each task, so that health checks and
/// JWKS are answered between two signatures.
///
/// # Errors
/// The threads can't be created.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_panics_stops_the_service_with_an_error() {
        let mut listeners = JoinSet::new();
        listeners.spawn(std::future::pending());
        listeners.spawn(async { std::iter::empty().next().expect("a bug") });
        let ended = until_stopped(std::future::pending(), &mut listeners).await;
        assert!(ended.is_err_and(|failed| failed.to_string().contains("a bug")));
        assert!(until_stopped(std::future::ready(()), &mut listeners).await.is_ok());
    }
}
