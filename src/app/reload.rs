//! Takes over changed files while the service runs.
//!
//! - SIGHUP, a change of what the files hold, and a key whose life is over each lead to a reload.
//! - The whole new state is built and checked beside the old one, then put in its place in one step; requests that
//!   have begun end on the old one. Whatever is wrong, the old one stays entirely: one line in the log, one count.
//! - What was read is in force only if the files were the same before and after: a key and a certificate of two
//!   different moments never meet.
//! - Signals that come while it works become one more reload, and reloads keep a distance from each other: a storm of
//!   them costs little.
//! - A retirement is none of this: `retirement_watcher` takes a key away whatever a reload says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::fingerprint::{Fingerprint, WatchedFiles};
use super::listener::SharedTlsConfig;
use super::tls::{self, CertificateChains};
use super::{LoadedConfig, build_snapshot, retirement_watcher, systemd};
use crate::api::{AppState, ConfigSnapshot, ReloadReport};
use crate::callers::Rule;
use crate::config::{Config, Environment, Invalid, KeyId, Problem};
use crate::jwks::Client;
use crate::keys::State;
use crate::metrics::Metrics;

/// How often the files are looked at.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// A look that took long is followed by a longer pause, by this factor, up to `MAX_POLL_INTERVAL`.
const POLL_PAUSE_FACTOR: u32 = 20;
/// However long check takes, a change is seen in time for a command that waits for it.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(3);
/// A look that takes longer is reported: a mount may hang.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often what was refused is tried again though no file has changed: a date comes, a clock is put right.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Between two reloads.
const MIN_RELOAD_INTERVAL: Duration = Duration::from_millis(200);
/// How often files that change while they are read are read again before the next look.
const READ_ATTEMPTS: usize = 5;

/// Where a configuration comes from.
#[derive(Clone)]
pub struct ConfigSource {
    pub file: Option<PathBuf>,
    pub environment: Environment,
}

impl ConfigSource {
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> Result<Config, Invalid> {
        Config::load(self.file.as_deref(), &self.environment)
    }
}

/// What a reload replaces, and what it must leave as it is.
#[derive(Clone)]
pub(super) struct ReloadTarget {
    pub state: Arc<AppState>,
    pub tls: Option<SharedTlsConfig>,
    pub public_tls: Option<SharedTlsConfig>,
    pub chains: CertificateChains,
    /// What was last read, whatever came of it.
    pub files: WatchedFiles,
    /// What that held then.
    pub fingerprint: Fingerprint,
}

pub struct Reloader {
    source: ConfigSource,
    target: ReloadTarget,
    /// What was wrong at the last reload that was refused, so that it is told once.
    last_problems: Vec<Problem>,
    /// When the files were last read, by the monotonic clock.
    last_attempt: Duration,
}

enum ReloadError {
    /// The files changed while they were read, or a key was retired meanwhile.
    FilesChanging,
    Invalid(Vec<Problem>),
}

/// Why the files are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReloadReason {
    /// A signal.
    Signal,
    /// They have changed.
    Change,
    /// Time alone: the clock was set back, to the life of a key that isn't open any more, or what was refused may not be wrong
    /// any more.
    Clock,
}

impl Reloader {
    pub(super) const fn new(source: ConfigSource, target: ReloadTarget) -> Self {
        Self { source, target, last_problems: Vec::new(), last_attempt: Duration::ZERO }
    }

    /// Reloads whenever `asked`, and whenever there is reason to, until `asked` is closed.
    pub async fn run(self, mut asked: mpsc::Receiver<()>) {
        let mut reloader = self;
        let mut pause = FILE_POLL_INTERVAL;
        loop {
            let by_request = tokio::select! {
                request = asked.recv() => match request {
                    Some(()) => true,
                    None => return,
                },
                () = tokio::time::sleep(pause) => false,
            };
            // Parsing keys takes its time, and that is not the workers'.
            let mut check = tokio::task::spawn_blocking(move || {
                let took = reloader.check_files(by_request);
                (reloader, took)
            });
            let checked = if let Ok(checked) = tokio::time::timeout(CHECK_TIMEOUT, &mut check).await {
                checked
            } else {
                tracing::error!(
                    "the look at the files has not ended after {} s, perhaps because a mount hangs: until it ends, nothing \
                     but retirements is taken over",
                    CHECK_TIMEOUT.as_secs()
                );
                check.await
            };
            let Ok((returned, took)) = checked else {
                tracing::error!("reloading has ended by a panic, a bug: restart to take over changed files");
                return;
            };
            reloader = returned;
            // Of the look alone: a reload that took long was needed, and the next may be.
            pause = (took * POLL_PAUSE_FACTOR).clamp(FILE_POLL_INTERVAL, MAX_POLL_INTERVAL);
            if by_request {
                tokio::time::sleep(MIN_RELOAD_INTERVAL).await;
            }
        }
    }

    /// Looks at the files, and reloads if `by_request` or where they have changed. Returns how long the look took, the
    /// reload left out.
    fn check_files(&mut self, by_request: bool) -> Duration {
        let state = self.target.state.clone();
        let began_at = state.clock.now();
        let begin = state.clock.monotonic();
        state.snapshot.load().ring.prepare(began_at);
        let reload_reason = self.reload_reason();
        let took = state.clock.monotonic().saturating_sub(begin);
        let mut is_stable = true;
        let reason = if by_request { Some(ReloadReason::Signal) } else { reload_reason };
        if let Some(reason) = reason {
            systemd::notify_reloading();
            is_stable = self.reload_for(reason);
            systemd::notify_ready();
        }
        state.metrics.config_looked_at.set(state.clock.now().seconds());
        // Of files that change while they are read nothing can be said yet.
        if is_stable {
            let problems = self.last_problems.clone();
            let in_force = problems.is_empty();
            state.last_reload_check.store(Arc::new(ReloadReport {
                began_at: Some(began_at),
                in_force,
                problems,
            }));
        }
        took
    }

    fn reload_reason(&self) -> Option<ReloadReason> {
        let ReloadTarget { state, files, fingerprint, .. } = &self.target;
        if files.fingerprint() != *fingerprint {
            return Some(ReloadReason::Change);
        }
        let lacks_a_key = state.snapshot.load().ring.lacks_a_key(state.clock.now());
        let may_be_right = !self.last_problems.is_empty()
            && state.clock.monotonic().saturating_sub(self.last_attempt) >= RETRY_INTERVAL;
        (lacks_a_key || may_be_right).then_some(ReloadReason::Clock)
    }

    /// Builds everything anew and puts it in force, or leaves all as it is.
    pub fn reload(&mut self) {
        self.check_files(true);
    }

    /// Returns false where the files change while they are read.
    fn reload_for(&mut self, reason: ReloadReason) -> bool {
        let state = self.target.state.clone();
        self.last_attempt = state.clock.monotonic();
        // First, and whatever becomes of the rest.
        retirement_watcher::apply_now(&state);
        let metrics = &state.metrics;
        match self.try_reload() {
            Ok(()) => {
                self.last_problems = Vec::new();
                metrics.config_reloads.inc();
                metrics.config_current.set(1);
                metrics.config_loaded_at.set(state.clock.now().seconds());
                true
            }
            // The next look finds them changed again.
            Err(ReloadError::FilesChanging) => {
                tracing::debug!("the files change while they are read");
                false
            }
            Err(ReloadError::Invalid(problems)) => {
                // By the clock alone it is tried at each look, and told once.
                if reason != ReloadReason::Clock || self.last_problems.is_empty() {
                    metrics.config_reload_failures.inc();
                    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    tracing::error!(
                        problems = told.join("; "),
                        "the changed configuration is refused, and the one before stays in force"
                    );
                }
                metrics.config_current.set(0);
                self.last_problems = problems;
                true
            }
        }
    }

    fn try_reload(&mut self) -> Result<(), ReloadError> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.target.files.fingerprint();
            let base = self.target.state.snapshot.load_full();
            let (files, built) = self.read(&base);
            if files == self.target.files && files.fingerprint() == before {
                self.target.fingerprint = before;
                let loaded = built.map_err(ReloadError::Invalid)?;
                if self.activate(&base, loaded) {
                    return Ok(());
                }
                continue;
            }
            self.target.files = files;
        }
        // What was read is not in force: the next look reads it again.
        self.target.fingerprint = Fingerprint::of_nothing();
        Err(ReloadError::FilesChanging)
    }

    fn read(&self, base: &ConfigSnapshot) -> (WatchedFiles, Result<LoadedConfig, Vec<Problem>>) {
        let config = match self.source.load() {
            Ok(config) => config,
            Err(invalid) => return (WatchedFiles::of_invalid(&invalid), Err(invalid.problems)),
        };
        let files = WatchedFiles::of(&config);
        let mut refused = config.settled_differences(&base.config);
        refused.extend(config.emptied(&base.config));
        if !refused.is_empty() {
            return (files, Err(refused));
        }
        let loaded = LoadedConfig::replacing(config, Some(&base.ring), &*self.target.state.clock);
        let loaded = loaded.and_then(|loaded| {
            let worse = tls::newly_invalid_chains(&self.target.chains, [&loaded.tls, &loaded.public_tls]);
            if worse.is_empty() { Ok(loaded) } else { Err(worse) }
        });
        (files, loaded)
    }

    /// Puts `loaded` in the place of `base`, unless that isn't in force any more.
    fn activate(&mut self, base: &Arc<ConfigSnapshot>, loaded: LoadedConfig) -> bool {
        let warnings: Vec<Problem> = loaded.warnings().cloned().collect();
        let LoadedConfig { config, ring, tls, public_tls, .. } = loaded;
        self.target.chains = tls::certificate_chains([&tls, &public_tls]);
        let state = &self.target.state;
        let now = state.clock.now();
        let new = Arc::new(build_snapshot(Arc::new(config), ring, &state.metrics, now, Some(&base.callers)));
        if !activate_snapshot(state, base, &new) {
            return false;
        }
        for (in_force, new) in [(&self.target.tls, tls), (&self.target.public_tls, public_tls)] {
            if let (Some(in_force), Some(new)) = (in_force, new) {
                in_force.store(new.config);
            }
        }
        for warning in warnings {
            tracing::warn!(field = warning.field, source = warning.source, "{}", warning.message);
        }
        let kids = |snapshot: &ConfigSnapshot| {
            snapshot.ring.keys().map(|(_, key)| key.kid.clone()).collect::<BTreeSet<_>>()
        };
        let (had, has) = (kids(base), kids(&new));
        let listed = |kids: Vec<&KeyId>| kids.iter().map(|kid| kid.as_str()).collect::<Vec<_>>().join(" ");
        tracing::info!(
            keys_added = listed(has.difference(&had).collect()),
            keys_gone = listed(had.difference(&has).collect()),
            "reloaded"
        );
        true
    }
}

/// Puts `new` in the place of `base`, if that is in force, and lets go of what only `base` had: of a reload and a retirement
/// at the same time, the second begins anew.
pub(super) fn activate_snapshot(
    state: &AppState,
    base: &Arc<ConfigSnapshot>,
    new: &Arc<ConfigSnapshot>,
) -> bool {
    let before = state.snapshot.compare_and_swap(base, new.clone());
    if !Arc::ptr_eq(&before, base) {
        return false;
    }
    let now = state.clock.now();
    let has = |kid: &KeyId| new.ring.find(kid.as_str()).is_some();
    // A key that is there no more, though its life was not over, was taken away.
    let withdrawn: BTreeSet<KeyId> = base
        .ring
        .keys()
        .filter(|(_, key)| !has(&key.kid) && key.life.state(now) != State::Gone)
        .inspect(|(keyset, key)| {
            let live_tokens = key.usage.live(now);
            tracing::warn!(
                keyset = %keyset.name, kid = %key.kid, live_tokens,
                "a key was taken away before its time: tokens that it signed fail from now on"
            );
        })
        .map(|(_, key)| key.kid.clone())
        .collect();
    let dropped = state.exchanger.withdraw(&withdrawn);
    if dropped > 0 {
        tracing::info!(dropped, "access tokens that were got with a withdrawn key are dropped");
    }
    remove_stale_metrics(base, new, &state.metrics);
    true
}

/// Takes away the series of what isn't there any more, so that no number of reloads fills the metrics.
fn remove_stale_metrics(old: &ConfigSnapshot, new: &ConfigSnapshot, metrics: &Metrics) {
    let clients = Client::ALL.map(Client::as_str);
    for (keyset, key) in old.ring.keys().filter(|(_, key)| new.ring.find(key.kid.as_str()).is_none()) {
        let labels = [keyset.name.as_str(), key.kid.as_str()];
        for gauge in [&metrics.certificate_remaining, &metrics.key_starts_signing, &metrics.key_stops_signing]
        {
            let _ = gauge.remove_label_values(&labels);
        }
        let _ = metrics.live_tokens.remove_label_values(&labels);
        for client in clients {
            let _ = metrics.key_fetched_at.remove_label_values(&[labels[0], labels[1], client]);
        }
    }
    for name in old.ring.keysets.keys().filter(|name| !new.ring.keysets.contains_key(*name)) {
        for client in clients {
            let _ = metrics.jwks_fetches.remove_label_values(&[name.as_str(), client]);
        }
    }
    for caller in old.callers.names().difference(&new.callers.names()) {
        let _ = metrics.subjects_refused.remove_label_values(&[caller.as_str()]);
        for rule in Rule::ALL {
            let _ = metrics.would_refuse.remove_label_values(&[caller.as_str(), rule.as_str()]);
        }
    }
    let kept = new.callers.granted();
    for (caller, profile) in old.callers.granted().difference(&kept) {
        let _ = metrics.tokens_minted.remove_label_values(&[profile.as_str(), caller.as_str()]);
    }
}
