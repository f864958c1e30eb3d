//! `tokenmint serve`: runs the service.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{CliContext, CliError, print_stderr};
use crate::app::discovery::DiscoverySocket;
use crate::app::host;
use crate::app::logging::{self, Log, LogOutput};
use crate::app::reload::ConfigSource;
use crate::app::{self, App, LoadedConfig, systemd};
use crate::config::AuditLogMode;
use crate::traces::TraceExporter;

/// The longest time from the signal to the end of the process, even if log lines wait for a slow reader. Process managers
/// commonly kill after ten seconds.
const STOP_DEADLINE: Duration = Duration::from_millis(9_500);
/// The time for the last log lines of a service that failed to start.
const STARTUP_FAILURE_LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Run the service
#[derive(Args)]
#[command(after_help = "Example: tokenmint serve --config /etc/tokenmint/tokenmint.toml")]
pub(super) struct ServeCommand {}

impl ServeCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        // From here on, SIGHUP doesn't kill the process. An early SIGHUP is remembered.
        let hangup = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGHUP, hangup.clone()).map_err(CliError::failed)?;
        // This comes before any key is read.
        host::harden().map_err(CliError::failed)?;
        let loaded = context.load()?;
        let reload = ReloadTrigger { source: context.source(), hangup };
        run(loaded, Some(reload), context, LogOutput::Stdout, |_| Ok(()))
    }
}

/// The source of reloads. Without one, the service doesn't reload.
pub(super) struct ReloadTrigger {
    source: ConfigSource,
    /// Set by each SIGHUP. Read once, for a SIGHUP that arrived before the service could reload.
    hangup: Arc<AtomicBool>,
}

/// Runs `loaded` until a signal stops it. `started` is called once the sockets are bound.
pub(super) fn run(
    loaded: LoadedConfig,
    reload: Option<ReloadTrigger>,
    context: &CliContext<'_>,
    output: LogOutput,
    started: impl FnOnce(&App) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let log = Log::start(output, context.environment.get("RUST_LOG").map(String::as_str));
    let log = log.map_err(CliError::failed)?;
    logging::log_panics();
    let audit = loaded.config.server.audit;
    let runtime = app::runtime().map_err(CliError::failed)?;
    let stopped = OnceLock::new();
    let done = run_until_stopped(loaded, reload, context, started, (&log, &runtime), &stopped);
    let deadline = stopped
        .get()
        .map_or_else(|| Instant::now() + STARTUP_FAILURE_LOG_TIMEOUT, |stop| *stop + STOP_DEADLINE);
    // The runtime keeps running, because a second signal also ends this wait.
    let lost = log.finish(deadline);
    runtime.shutdown_background();
    if lost.lines == 0 {
        return done;
    }
    let lines = format!("{lost} (docs/operate/runbooks.md, \"The log has gaps\")");
    if audit == AuditLogMode::Required && lost.unwritten > 0 && done.is_ok() {
        return Err(CliError::Failed(lines));
    }
    print_stderr(&format!("tokenmint: {lines}"));
    done
}

/// Runs the app from start to drain. `stopped` is set to the time of the signal.
fn run_until_stopped(
    loaded: LoadedConfig,
    reload: Option<ReloadTrigger>,
    context: &CliContext<'_>,
    started: impl FnOnce(&App) -> Result<(), CliError>,
    (log, runtime): (&Log, &Runtime),
    stopped: &OnceLock<Instant>,
) -> Result<(), CliError> {
    for concern in host::warnings().filter(|_| reload.is_some()) {
        tracing::warn!("{concern}");
    }
    for warning in loaded.warnings() {
        tracing::warn!(field = warning.field, source = warning.source, "{}", warning.message);
    }
    // The exporter starts and finishes outside the runtime: its client blocks a thread of its own.
    let traces = TraceExporter::start(context.environment, context.clock_and_rng.randomness.clone());
    let done = runtime.block_on(async {
        // They are registered before the sockets are bound: the default action of these signals kills the process.
        let mut signals = Signals::listen().map_err(CliError::failed)?;
        let app = App::bind(loaded, context.clock_and_rng.clone(), log.dropped_lines());
        let app = app.await.map_err(CliError::failed)?;
        for (listener, scheme, address) in app.addresses() {
            tracing::info!(listener, scheme, %address, "listens");
        }
        started(&app)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
        systemd::notify_ready();
        tokio::spawn(systemd::feed_watchdog());
        tokio::spawn(app.fetch_issuer_keys());
        let mut second = Signals::listen().map_err(CliError::failed)?;
        let (force, stop_waiting_for_log) = (CancellationToken::new(), log.stop_waiting());
        let forced = force.clone();
        tokio::spawn(async move {
            second.wait_for_second_stop().await;
            forced.cancel();
            stop_waiting_for_log();
        });
        // One waiting request is enough; later ones would do the same.
        let (request_reload, reload_requests) = mpsc::channel(1);
        if let Some(ReloadTrigger { source, hangup }) = reload {
            match DiscoverySocket::bind(&app, &source) {
                Ok(socket) => _ = tokio::spawn(socket.run()),
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "`tokenmint keys` and `check --running` can't find this service by its socket: they try the \
                         address of its configuration"
                    );
                }
            }
            if hangup.load(Ordering::Acquire) {
                let _ = request_reload.try_send(());
            }
            tokio::spawn(app.reloader(source).run(reload_requests));
            let retirements = app.watch_retirements();
            tokio::spawn(async move {
                let ended = tokio::spawn(retirements).await;
                tracing::error!(
                    error = ended.err().map(|error| error.to_string()),
                    "the check for retired keys has ended, which is a bug: restart, and report it"
                );
            });
        }
        let stop = async {
            signals.wait_for_stop(request_reload).await;
            let _ = stopped.set(Instant::now());
        };
        app.run(stop, force.cancelled()).await.map_err(CliError::failed)
    });
    traces.finish();
    if done.is_ok() {
        tracing::info!("stopped");
    }
    done
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT. Until then, SIGHUP requests a reload.
    async fn wait_for_stop(&mut self, reload: mpsc::Sender<()>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return tracing::info!(signal = "SIGTERM", "stopping"),
                _ = self.interrupt.recv() => return tracing::info!(signal = "SIGINT", "stopping"),
                _ = self.hangup.recv() => {
                    let _ = reload.try_send(());
                }
            }
        }
    }

    /// Waits for the second stop signal, which skips the drain.
    async fn wait_for_second_stop(&mut self) {
        for _ in 0..2 {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }
    }
}
