//! Builds the rooms out of a `Config`, runs them, and stops.
//!
//! Start: everything is loaded and checked before a port opens. Changed files are taken over by [`reload`]. End: on SIGTERM or SIGINT it is no longer
//! ready, goes on answering for a moment so that load balancers notice, finishes what it has, and is gone
//! within ten seconds whatever clients do; a second signal ends it at once.

mod connections;
pub mod discovery;
pub mod host;
pub mod json_lines;
mod listen;
pub mod logging;
pub mod reload;
mod request_scanner;
mod retirement;
pub mod supervisor;
pub mod tls;
mod watch;

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

use crate::callers::{Callers, Guard};
use crate::clock::{Clock, NoRandomness, Randomness, SystemClock, SystemRandomness, UnixTime};
use crate::config::{self, AuditMode, Config, KeysetConfig, ListenAddress, Name, Problem};
use crate::exchange::{Exchanger, NoClient, Tools};
use crate::http::{Audit, DroppedLines, ListenerKind, LookReport, Rooms, Service, Tallies, router};
use crate::jwks::Published;
use crate::keys::{Batch, BatchLibrary, KeyRing, Unavailable};
use crate::metrics::Metrics;
use crate::tokens::{Profiles, Signer};
use listen::Listener;
pub use listen::{Served, answer};
use reload::{InForce, Reloader, Source};
use supervisor::Sockets;
use tls::ServerTls;
use watch::{Fingerprint, Watched};

/// Load balancers see that it isn't ready before connections are refused.
const NOTICE: Duration = Duration::from_secs(1);
/// What is still open then is cut off: with the notice, less than ten seconds in all.
const DRAIN: Duration = Duration::from_secs(7);

/// The time and chance that the house runs on.
#[derive(Clone)]
pub struct Ambient {
    pub clock: Arc<dyn Clock>,
    pub randomness: Arc<dyn Randomness>,
}

impl Ambient {
    /// Those of this host.
    pub fn of_this_host() -> Self {
        Self { clock: Arc::new(SystemClock::default()), randomness: Arc::new(SystemRandomness::default()) }
    }
}

/// A configuration with everything that it names loaded and checked.
pub struct Loaded {
    pub config: Config,
    pub ring: KeyRing,
    tls: Option<ServerTls>,
    public_tls: Option<ServerTls>,
    /// For the start; what runs has one or will never.
    batch: Option<Result<BatchLibrary, Unavailable>>,
    files: Watched,
    /// What they held before they were read.
    read: Fingerprint,
}

impl Loaded {
    /// Opens every file that `config` names.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn new(config: Config, clock: &dyn Clock) -> Result<Self, Vec<Problem>> {
        Self::after(config, None, clock)
    }

    /// As `new`, to take the place of what runs with `previous`.
    ///
    /// # Errors
    /// As `new`, and what must not change while verifiers know that ring.
    pub fn after(
        mut config: Config,
        previous: Option<&KeyRing>,
        clock: &dyn Clock,
    ) -> Result<Self, Vec<Problem>> {
        let files = Watched::of(&config);
        let read = files.fingerprint();
        let mut problems = Vec::new();
        let server_tls = config.server.tls.as_ref().map(|tls| tls::load("server", tls, clock.now()));
        let public = config.server.public.as_ref().and_then(|public| public.tls.as_ref());
        let public_tls = public.map(|tls| tls::load("server.public", tls, clock.now()));
        let mut usable = |tls: Option<Result<_, Problem>>| {
            tls.and_then(|loaded| loaded.map_err(|problem| problems.push(problem)).ok())
        };
        let (tls, public_tls) = (usable(server_tls), usable(public_tls));
        config
            .warnings
            .extend([&tls, &public_tls].into_iter().flatten().flat_map(ServerTls::warnings).cloned());
        let first = previous.is_none();
        let batch = first
            .then(|| batch_library(&config.server.signing))
            .and_then(|library| library.map_err(|problem| problems.push(problem)).ok().flatten());
        match KeyRing::load(&config.keysets, clock.now(), previous) {
            Ok(ring) if problems.is_empty() => Ok(Self { config, ring, tls, public_tls, batch, files, read }),
            Ok(_) => Err(problems),
            Err(more) => Err(problems.into_iter().chain(more).collect()),
        }
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.config.warnings.iter().chain(&self.ring.warnings)
    }
}

/// What signs several at a time, or why nothing does; `None` where no library is named, or batches are switched off.
fn batch_library(
    signing: &config::SigningConfig,
) -> Result<Option<Result<BatchLibrary, Unavailable>>, Problem> {
    let Some(file) = signing.library.as_ref().filter(|_| signing.batch != config::BatchMode::Off) else {
        return Ok(None);
    };
    // The loader's words have the path in them.
    let library = if file.exists() { BatchLibrary::open(file.as_path()) } else { Err(Unavailable::Missing) };
    if let (Err(reason), config::BatchMode::Required) = (&library, signing.batch) {
        let message = format!(
            "can't be used: {reason}; `batch` needs Intel's libcrypto_mb.so.13 and a CPU with AVX-512 IFMA: see \
             docs/signing.md, or set it to auto"
        );
        return Err(Problem::new("server.signing.library", file, message));
    }
    Ok(Some(library))
}

/// What signs in batches from now on. One line of the log says what it is, or why it isn't.
fn batch(
    library: Option<Result<BatchLibrary, Unavailable>>,
    randomness: &Arc<dyn Randomness>,
    metrics: &Metrics,
) -> Option<Batch> {
    match library? {
        Ok(library) => {
            tracing::info!(library = library.version(), "signs in batches, once a key has stood its trial");
            Some(Batch::new(library, randomness.clone(), metrics))
        }
        Err(reason) => {
            tracing::info!(%reason, "signs one at a time: `library` of [server.signing] can't be used");
            None
        }
    }
}

/// What is wrong with the keys of a configuration that is wrong itself.
pub fn key_problems(keysets: &BTreeMap<Name, KeysetConfig>, clock: &dyn Clock) -> Vec<Problem> {
    KeyRing::load(keysets, clock.now(), None).err().unwrap_or_default()
}

/// The service with its sockets bound, not yet answering.
pub struct App {
    service: Arc<Service>,
    listeners: Vec<(Listener, &'static [ListenerKind])>,
    in_force: InForce,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can't listen on {listen} ([{section}] listen): {error}")]
    Bind { section: &'static str, listen: ListenAddress, error: io::Error },
    #[error("the sockets that the supervisor handed over can't be used (LISTEN_FDS): {0}")]
    Inherited(io::Error),
    #[error("can't make the socket by which commands on this host find this service: {0}")]
    Discovery(io::Error),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error(transparent)]
    Client(#[from] NoClient),
}

impl App {
    /// Builds the rooms and binds the sockets.
    ///
    /// # Errors
    /// A socket can't be bound.
    pub async fn bind(
        loaded: Loaded,
        ambient: Ambient,
        dropped_lines: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let Loaded { config, ring, tls, public_tls, batch, files, read } = loaded;
        let chains = tls::chains([&tls, &public_tls]);
        let replaceable = |tls: Option<ServerTls>| tls.map(|tls| Arc::new(ArcSwap::new(tls.config)));
        let (tls, public_tls) = (replaceable(tls), replaceable(public_tls));
        let server = &config.server;
        let all: &[ListenerKind] = match &server.ops {
            None => &[ListenerKind::Minting, ListenerKind::Public, ListenerKind::Ops],
            Some(_) => &[ListenerKind::Minting, ListenerKind::Public],
        };
        let mut wanted = vec![("minting", "server", &server.listen, tls.clone(), all)];
        if let Some(public) = &server.public {
            wanted.push((
                "public",
                "server.public",
                &public.listen,
                public_tls.clone(),
                &[ListenerKind::Public],
            ));
        }
        if let Some(listen) = &server.ops {
            wanted.push(("ops", "server.ops", listen, None, &[ListenerKind::Ops]));
        }
        let mut listeners = Vec::new();
        let mut inherited = Sockets::inherited(wanted.len() == 1).map_err(StartError::Inherited)?;
        for (name, section, listen, tls, kinds) in wanted {
            let failed = |error| StartError::Bind { section, listen: listen.clone(), error };
            let sockets = inherited.take(name);
            if sockets.is_empty() {
                listeners.push((Listener::bind(name, listen, tls).await.map_err(failed)?, kinds));
                continue;
            }
            for socket in sockets {
                listeners.push((Listener::adopt(name, socket, tls.clone()).map_err(failed)?, kinds));
            }
        }
        for name in inherited.left() {
            tracing::warn!(
                name,
                "a socket was handed over that no listener takes: call it minting, public or ops, and configure that"
            );
        }
        let config = Arc::new(config);
        let service = Arc::new(service(&config, ring, batch, ambient, Arc::new(dropped_lines))?);
        let exchanges = config.identity.values().any(|profile| profile.messaging.is_some());
        if exchanges || !config.oauth.is_empty() {
            service.exchanger.prepare();
        }
        let in_force = InForce { service: service.clone(), tls, public_tls, chains, files, read };
        Ok(Self { service, listeners, in_force })
    }

    /// Name, scheme and address of each listener.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, &'static str, ListenAddress)> {
        self.listeners.iter().map(|(listener, _)| (listener.name, listener.scheme(), listener.address()))
    }

    pub const fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Takes retired keys away, for as long as it runs.
    pub fn retirements(&self) -> impl Future<Output = ()> + Send + use<> {
        retirement::run(self.service.clone())
    }

    /// Takes over what changes at `source`, for as long as it runs.
    pub fn reloader(&self, source: Source) -> Reloader {
        Reloader::new(source, self.in_force.clone())
    }

    /// Answers until `stop` ends, then drains. `hurry` ends the drain early.
    ///
    /// # Errors
    /// A listener ended by itself, and what still ran was drained.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), ListenerFailed> {
        let Self { service, listeners, .. } = self;
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let room = host::room_for_connections(listeners.len());
        let connections = service.limits.connections.min(room);
        if connections < service.limits.connections {
            tracing::warn!(
                connections,
                "the host gives fewer descriptors than server.limits.connections needs: raise its limit (ulimit -n)"
            );
        }
        let mut running = JoinSet::new();
        for (listener, kinds) in listeners {
            let served = Served {
                kinds,
                router: router(&service, kinds),
                metrics: service.metrics.clone(),
                clock: service.clock.clone(),
            };
            running.spawn(listener.run(served, connections, tasks.clone(), closing.clone()));
        }
        let outcome = until_stopped(stop, &mut running).await;
        supervisor::stopping();
        service.draining.store(true, Ordering::Release);
        let drained = async {
            tokio::time::sleep(NOTICE).await;
            closing.cancel();
            let ended = async {
                // A Unix socket's file goes with its listener.
                while running.join_next().await.is_some() {}
                tasks.close();
                tasks.wait().await;
            };
            if tokio::time::timeout(DRAIN, ended).await.is_err() {
                tracing::warn!(connections = tasks.len(), "cut off clients that did not finish in time");
            }
        };
        tokio::select! {
            () = drained => {}
            () = hurry => closing.cancel(),
        }
        service.exchanger.finish().await;
        outcome
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "a listener ended by itself: {0}; this is a bug of tokenmint's, so report it, and start the service again"
)]
pub struct ListenerFailed(String);

/// Waits for `stop`. A listener that ends before, which only a panic does, ends the service: a supervisor starts it again, and
/// nobody waits on a port that answers no more.
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

fn service(
    config: &Arc<Config>,
    ring: KeyRing,
    library: Option<Result<BatchLibrary, Unavailable>>,
    ambient: Ambient,
    dropped_lines: DroppedLines,
) -> Result<Service, StartError> {
    let Ambient { clock, randomness } = ambient;
    let metrics = Arc::new(Metrics::new());
    let now = clock.now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let required = (config.server.audit == AuditMode::Required).then(|| dropped_lines.clone());
    let audit = if let Some(key) = &config.server.audit_key {
        Audit::new(key.expose_secret().as_bytes(), required)
    } else {
        let mut key = [0; 32];
        randomness.fill(&mut key)?;
        Audit::new(&key, required)
    };
    let batch = batch(library, &randomness, &metrics);
    metrics.config_current.set(1);
    metrics.config_loaded_at.set(now.seconds());
    let rooms = rooms(config.clone(), ring, &metrics, now, None);
    let signer = Arc::new(Signer::new(cores, config.server.limits.signing_queue, batch, &metrics));
    let tools = Tools {
        signer: signer.clone(),
        clock: clock.clone(),
        randomness: randomness.clone(),
        metrics: metrics.clone(),
    };
    let state = state_directory(config);
    let exchanger = Exchanger::new(
        tools,
        config.server.limits.token_cache as u64,
        Some(&state),
        config.cache.redis.as_ref(),
    )?;
    let guard = Guard::new(config.server.limits.remint_rate, &*randomness)?;
    Ok(Service {
        rooms: ArcSwap::from_pointee(rooms),
        signer,
        exchanger,
        guard,
        clock,
        randomness,
        metrics,
        tallies: Tallies::default(),
        audit,
        limits: config.server.limits.clone(),
        draining: AtomicBool::new(false),
        last_look: ArcSwap::from_pointee(LookReport::default()),
        dropped_lines,
    })
}

fn rooms(
    config: Arc<Config>,
    ring: KeyRing,
    metrics: &Metrics,
    now: UnixTime,
    previous: Option<&Callers>,
) -> Rooms {
    let profiles = Profiles::new(&config, &ring);
    Rooms {
        callers: Callers::after(&config, &profiles, metrics, previous),
        published: Published::new(&ring, metrics, now),
        profiles,
        ring,
        config,
    }
}

/// Where the login budget is kept: by default of this user on this host, so that restarts and replicas beside each
/// other share it.
pub fn state_directory(config: &Config) -> PathBuf {
    let default = || std::env::temp_dir().join(format!("tokenmint-{}", rustix::process::geteuid().as_raw()));
    let configured = config.server.state_directory.as_ref();
    configured.map_or_else(default, |path| path.as_path().to_path_buf())
}

/// The runtime that the service is measured on: after each task it looks at its sockets, so that health and
/// JWKS are answered between two signatures.
///
/// # Errors
/// The host gives no threads.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_panics_ends_the_service_with_a_failure() {
        let mut listeners = JoinSet::new();
        listeners.spawn(std::future::pending());
        listeners.spawn(async { std::iter::empty().next().expect("a bug") });
        let ended = until_stopped(std::future::pending(), &mut listeners).await;
        assert!(ended.is_err_and(|failed| failed.to_string().contains("a bug")));
        assert!(until_stopped(std::future::ready(()), &mut listeners).await.is_ok());
    }
}
