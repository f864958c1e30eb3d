//! Hot reload: takes over changed files while the service runs.
//!
//! - SIGHUP and a change of the files (content, owner or mode) each lead to a reload. So does a clock that was set back to a
//!   time for which a key is missing. A rejected reload is retried every `RETRY_INTERVAL`.
//! - A reload builds and checks a new [`ConfigSnapshot`] while the old one serves requests, then swaps them atomically.
//!   Requests that have loaded the old snapshot finish with it. If anything is wrong, the old one stays in force, and the
//!   problems are logged.
//! - A snapshot is accepted only if the files have the same fingerprint before and after they were read. So it never mixes
//!   files of two versions.
//! - Signals during a reload cause one more reload. After a reload by signal, a pause of `MIN_RELOAD_INTERVAL` follows.
//! - `retirement_watcher` removes retired keys independently of reloads.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::fingerprint::{Fingerprint, WatchedFiles};
use super::listener::SwappableTlsConfig;
use super::loaded_config::LoadedConfig;
use super::tls::{self, CertificateChains};
use super::{build_snapshot, retirement_watcher, systemd};
use crate::api::{AppState, ConfigSnapshot, ReloadReport};
use crate::clock::Randomness;
use crate::config::{Config, Environment, InvalidConfig, KeyId, Name, Problem};
use crate::issuers::Issuers;
use crate::jwks::ALL_KEYSETS;
use crate::keys::{KeyRing, KeyState};
use crate::metrics::LabelValues;

/// The usual pause between two checks of the files, and the shortest.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// After a slow check, the pause is this many times as long as the check took, up to `MAX_FILE_POLL_INTERVAL`.
const POLL_PAUSE_FACTOR: u32 = 20;
/// The longest pause between two checks. Commands that wait for a reload rely on it.
const MAX_FILE_POLL_INTERVAL: Duration = Duration::from_secs(3);
/// A check that takes longer, including its reload, is reported, because a mount may hang.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after a rejected reload it is tried again although no file has changed: a date may have come, or the clock may have
/// been corrected.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The pause after the first attempt to open a sealed key, doubled after each further one, and the longest pause. At random, a pause is
/// up to half as long.
const FIRST_OPEN_PAUSE: Duration = Duration::from_secs(2);
const MAX_OPEN_PAUSE: Duration = Duration::from_secs(20);
/// The pause after a reload by signal.
const MIN_RELOAD_INTERVAL: Duration = Duration::from_millis(200);
/// How many times files that change while they are read are read before giving up until the next check.
const READ_ATTEMPTS: usize = 5;

/// The source of a configuration: its file and the environment variables.
#[derive(Clone)]
pub struct ConfigSource {
    pub file: Option<PathBuf>,
    pub environment: Environment,
}

impl ConfigSource {
    /// Loads the configuration.
    ///
    /// # Errors
    /// Lists every problem of the configuration.
    pub fn load(&self) -> Result<Config, InvalidConfig> {
        Config::load(self.file.as_deref(), &self.environment)
    }
}

/// The parts of the running service that a reload replaces, and the files that they were loaded from.
#[derive(Clone)]
pub(super) struct ReloadTarget {
    pub(crate) state: Arc<AppState>,
    pub(crate) tls: Option<SwappableTlsConfig>,
    pub(crate) public_tls: Option<SwappableTlsConfig>,
    pub(crate) chains: CertificateChains,
    /// The files of the last reload, whether it was accepted or not.
    pub(crate) files: WatchedFiles,
    /// The fingerprint of `files` at that reload; [`Fingerprint::of_nothing`] if they changed while they were read.
    pub(crate) fingerprint: Fingerprint,
}

/// Polls the files and reloads them.
pub struct Reloader {
    source: ConfigSource,
    target: ReloadTarget,
    /// The problems of the last reload that was accepted or rejected; empty if it was accepted.
    last_problems: Vec<Problem>,
    /// The monotonic time of the last reload.
    last_attempt: Duration,
    open_attempts: OpenAttempts,
}

/// The attempts to open sealed keys that a store couldn't open, with backoff and jitter: many replicas must not ask a store again at the same
/// moment.
struct OpenAttempts {
    /// The number since all keys were open.
    count: u32,
    /// The monotonic time from which on the next one is due.
    due_at: Duration,
}

impl OpenAttempts {
    const NONE: Self = Self { count: 0, due_at: Duration::ZERO };

    /// Records an attempt, whatever its outcome.
    fn record(&mut self, now: Duration, randomness: &dyn Randomness) {
        self.count = self.count.saturating_add(1);
        let pause = FIRST_OPEN_PAUSE.saturating_mul(1 << (self.count - 1).min(8)).min(MAX_OPEN_PAUSE);
        // Without randomness, half of the pause.
        let mut random = [0];
        let _ = randomness.fill(&mut random);
        self.due_at = now + pause / 2 + pause * u32::from(random[0]) / 512;
    }
}

/// Why a reload was rejected.
enum ReloadError {
    /// The files changed while they were read, or a key was retired meanwhile.
    FilesChanging,
    Rejected(Vec<Problem>),
    /// No store has opened another key, and nothing else has changed.
    StillUnopened,
}

/// Why the files are loaded again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReloadReason {
    /// Somebody requested it, for example by SIGHUP.
    Signal,
    /// The files have changed.
    Change,
    /// Time has passed: the clock was set back to a time for which a key is missing, or a rejected reload is due for a retry.
    Clock,
    /// A sealed key isn't open, and its store may open it now.
    Unopened,
}

impl Reloader {
    pub(super) const fn new(source: ConfigSource, target: ReloadTarget) -> Self {
        Self {
            source,
            target,
            last_problems: Vec::new(),
            last_attempt: Duration::ZERO,
            open_attempts: OpenAttempts::NONE,
        }
    }

    /// Polls the files, and reloads them after a change or a message on `asked`. Returns when `asked` is closed, or when a reload
    /// panicked.
    pub(crate) async fn run(self, mut asked: mpsc::Receiver<()>) {
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
            // Runs on a blocking thread, because reading files and parsing keys would block a worker thread.
            let mut check = tokio::task::spawn_blocking(move || {
                let took = reloader.check_files(by_request);
                (reloader, took)
            });
            let checked = if let Ok(checked) = tokio::time::timeout(CHECK_TIMEOUT, &mut check).await {
                checked
            } else {
                tracing::error!(
                    "checking the files for changes has not ended after {} s, perhaps because a mount or a store of keys hangs: until it ends, \
                     only retirements are taken over",
                    CHECK_TIMEOUT.as_secs()
                );
                check.await
            };
            let Ok((returned, took)) = checked else {
                tracing::error!(
                    "reloading panicked, which is a bug: restart the service to take over changed files"
                );
                return;
            };
            reloader = returned;
            // Depends on the check only. A slow reload doesn't delay the next check.
            pause = (took * POLL_PAUSE_FACTOR).clamp(FILE_POLL_INTERVAL, MAX_FILE_POLL_INTERVAL);
            if by_request {
                tokio::time::sleep(MIN_RELOAD_INTERVAL).await;
            }
        }
    }

    /// Checks the files, and reloads them if there is a reason or `by_request`. Returns how long the check took, without the
    /// reload.
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
        // While files change, there is no result to report.
        if is_stable {
            let problems = [self.last_problems.clone(), self.unopened_problems()].concat();
            let in_force = problems.is_empty();
            state.last_reload_check.store(Arc::new(ReloadReport {
                began_at: Some(began_at),
                in_force,
                problems,
            }));
        }
        took
    }

    /// Returns the reason for a reload other than a request, if there is one.
    fn reload_reason(&self) -> Option<ReloadReason> {
        let ReloadTarget { state, files, fingerprint, .. } = &self.target;
        if files.fingerprint() != *fingerprint {
            return Some(ReloadReason::Change);
        }
        let ring = &state.snapshot.load().ring;
        let monotonic = state.clock.monotonic();
        let may_be_right =
            !self.last_problems.is_empty() && monotonic.saturating_sub(self.last_attempt) >= RETRY_INTERVAL;
        if ring.lacks_valid_key(state.clock.now()) || may_be_right {
            return Some(ReloadReason::Clock);
        }
        (ring.unopened_keys().next().is_some() && monotonic >= self.open_attempts.due_at)
            .then_some(ReloadReason::Unopened)
    }

    /// The problems of sealed keys that a store couldn't open in the last load. The rest of the files is in force.
    fn unopened_problems(&self) -> Vec<Problem> {
        let snapshot = self.target.state.snapshot.load();
        snapshot.ring.unopened_keys().map(|unopened| unopened.problem.clone()).collect()
    }

    /// Reloads now. If the reload is rejected, the configuration in force stays.
    pub fn reload(&mut self) {
        self.check_files(true);
    }

    /// Reloads and records the outcome in the log and the metrics. Returns `false` if the files changed while they were read, or
    /// a key was retired meanwhile.
    fn reload_for(&mut self, reason: ReloadReason) -> bool {
        let state = self.target.state.clone();
        let now = state.clock.monotonic();
        if reason == ReloadReason::Unopened {
            self.open_attempts.record(now, &*state.randomness);
        } else {
            self.last_attempt = now;
        }
        // Retirements take effect first, even if the rest is rejected.
        retirement_watcher::apply_now(&state);
        let metrics = &state.metrics;
        match self.try_reload(reason) {
            Ok(()) => {
                self.last_problems = Vec::new();
                metrics.config_reloads.inc();
                let is_complete = self.unopened_problems().is_empty();
                metrics.config_current.set(i64::from(is_complete));
                if is_complete {
                    self.open_attempts = OpenAttempts::NONE;
                }
                metrics.config_loaded_at.set(state.clock.now().seconds());
                true
            }
            Err(ReloadError::StillUnopened) => true,
            // The next check sees a changed fingerprint and tries again.
            Err(ReloadError::FilesChanging) => {
                tracing::debug!("the files change while they are read");
                false
            }
            Err(ReloadError::Rejected(problems)) => {
                // Retries by the clock are not logged and counted again.
                let is_retry = matches!(reason, ReloadReason::Clock | ReloadReason::Unopened);
                if !is_retry || self.last_problems.is_empty() {
                    metrics.config_reload_failures.inc();
                    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    tracing::error!(
                        problems = told.join("; "),
                        "the changed configuration is rejected, and the previous one stays in force"
                    );
                }
                metrics.config_current.set(0);
                self.last_problems = problems;
                true
            }
        }
    }

    /// Loads the files and activates the result.
    fn try_reload(&mut self, reason: ReloadReason) -> Result<(), ReloadError> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.target.files.fingerprint();
            let base = self.target.state.snapshot.load_full();
            let (files, built) = self.read(&base);
            if files == self.target.files && files.fingerprint() == before {
                let is_same_version = self.target.fingerprint == before;
                self.target.fingerprint = before;
                let loaded = built.map_err(ReloadError::Rejected)?;
                let is_unchanged = is_same_version && self.last_problems.is_empty();
                if reason == ReloadReason::Unopened && is_unchanged && has_same_keys(&loaded.ring, &base.ring)
                {
                    return Err(ReloadError::StillUnopened);
                }
                if self.activate(&base, loaded) {
                    return Ok(());
                }
                continue;
            }
            self.target.files = files;
        }
        // No files have this fingerprint, so the next check reloads them.
        self.target.fingerprint = Fingerprint::of_nothing();
        Err(ReloadError::FilesChanging)
    }

    /// Loads and checks the files, as a replacement of `base`.
    fn read(&self, base: &ConfigSnapshot) -> (WatchedFiles, Result<LoadedConfig, Vec<Problem>>) {
        let config = match self.source.load() {
            Ok(config) => config,
            Err(invalid) => return (WatchedFiles::of_invalid(&invalid), Err(invalid.problems)),
        };
        let files = WatchedFiles::of(&config);
        // An emptied file also changes other settings, so this problem comes first.
        let mut refused = config.emptied_sections(&base.config);
        refused.extend(config.restart_only_changes(&base.config));
        if !refused.is_empty() {
            return (files, Err(refused));
        }
        let loaded = LoadedConfig::replacing(
            config,
            Some(&base.ring),
            &*self.target.state.clock,
            self.target.state.metrics.clone(),
        );
        let loaded = loaded.and_then(|loaded| {
            let worse = tls::newly_invalid_chains(&self.target.chains, [&loaded.tls, &loaded.public_tls]);
            if worse.is_empty() { Ok(loaded) } else { Err(worse) }
        });
        (files, loaded)
    }

    /// Replaces `base` by `loaded`. Returns `false` if `base` isn't in force any more.
    fn activate(&mut self, base: &Arc<ConfigSnapshot>, loaded: LoadedConfig) -> bool {
        let warnings: Vec<Problem> = loaded.warnings().cloned().collect();
        let LoadedConfig { config, ring, tls, public_tls, issuer_keys, .. } = loaded;
        self.target.chains = tls::certificate_chains([&tls, &public_tls]);
        let state = &self.target.state;
        let now = state.clock.now();
        let issuers = Issuers::new(&config, issuer_keys, &state.clock, &state.metrics, Some(&base.issuers));
        let (config, issuers) = (Arc::new(config), Arc::new(issuers));
        let new = Arc::new(build_snapshot(config, ring, issuers, &state.metrics, now, Some(&base.callers)));
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

/// Whether the stores opened the same keys in both loads, and failed for the same reasons.
fn has_same_keys(loaded: &KeyRing, base: &KeyRing) -> bool {
    let problems =
        |ring: &KeyRing| ring.unopened_keys().map(|unopened| unopened.problem.clone()).collect::<Vec<_>>();
    let kids = |ring: &KeyRing| {
        let keys = ring.keys().map(|(_, key)| key);
        let opened = ring.unopened_keys().flat_map(|unopened| &unopened.opened);
        keys.chain(opened).map(|key| key.kid.clone()).collect::<Vec<_>>()
    };
    problems(loaded) == problems(base) && kids(loaded) == kids(base)
}

/// Replaces `base` by `new` with a compare-and-swap, and revokes the keys that only `base` has, unless their publication has
/// ended.
///
/// Returns `false` and changes nothing if `base` isn't in force any more. If a reload and a retirement run at the same time,
/// the second one must start again.
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
    // Keys that were removed before their publication ended.
    let revoked: BTreeSet<KeyId> = base
        .ring
        .keys()
        .filter(|(_, key)| !has(&key.kid) && key.validity.state(now) != KeyState::Gone)
        .inspect(|(keyset, key)| {
            let live_tokens = key.live_tokens.count(now);
            tracing::warn!(
                keyset = %keyset.name, kid = %key.kid, live_tokens,
                "key `{}` was removed while its tokens may still be valid: tokens that it signed fail from now on, up to \
                 {live_tokens} of them minted since the start",
                key.kid
            );
        })
        .map(|(_, key)| key.kid.clone())
        .collect();
    let dropped = state.exchanger.revoke_keys(&revoked);
    if dropped > 0 {
        tracing::info!(dropped, "dropped cached access tokens that were obtained with a removed key");
    }
    state.metrics.remove_stale_series(&label_values(base), &label_values(new));
    true
}

/// The label values that metrics of `snapshot` can have: callers, profiles, grants, keysets and keys.
fn label_values(snapshot: &ConfigSnapshot) -> LabelValues {
    let ConfigSnapshot { callers, ring, profiles, issuers, .. } = snapshot;
    let grants = callers.granted_profiles();
    let granted = grants.iter().map(|(_, profile)| profile.clone());
    LabelValues {
        callers: callers.names().into_iter().map(ToString::to_string).collect(),
        profiles: profiles.names().map(ToString::to_string).chain(granted).collect(),
        grants,
        keysets: ring.keysets.keys().map(Name::as_str).chain([ALL_KEYSETS]).map(str::to_owned).collect(),
        keys: ring.keys().map(|(keyset, key)| (keyset.name.to_string(), key.kid.to_string())).collect(),
        issuers: issuers.names().map(ToString::to_string).collect(),
    }
}
