//! Takes over changed files while the service runs.
//!
//! - SIGHUP, a change of what the files hold, and a key whose life is over each lead to a reload.
//! - The whole new state is built and checked beside the old one, then put in its place in one step; requests that
//!   have begun end on the old one. Whatever is wrong, the old one stays entirely: one line in the log, one count.
//! - What was read is in force only if the files were the same before and after: a key and a certificate of two
//!   different moments never meet.
//! - Signals that come while it works become one more reload, and reloads keep a distance from each other: a storm of
//!   them costs little.
//! - A retirement is none of this: `retirement` takes a key away whatever a reload says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::listen::TlsInForce;
use super::tls::{self, Chains};
use super::watch::{Fingerprint, Watched};
use super::{Loaded, retirement, rooms, supervisor};
use crate::callers::Rule;
use crate::config::{Config, Environment, Invalid, KeyId, Problem};
use crate::http::{LookReport, Rooms, Service};
use crate::jwks::Client;
use crate::keys::State;
use crate::metrics::Metrics;

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// A look that took long is followed by a longer pause, by this factor, up to `LONGEST_PAUSE`.
const POLL_SHARE: u32 = 20;
/// However long looking takes, a change is seen in time for a command that waits for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A look that takes longer is reported: a mount may hang.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);
/// How often what was refused is tried again though no file has changed: a date comes, a clock is put right.
const RETRY: Duration = Duration::from_secs(10);
/// Between two reloads.
const DISTANCE: Duration = Duration::from_millis(200);
/// How often files that change while they are read are read again before the next look.
const TRIES: usize = 5;

/// Where a configuration comes from.
#[derive(Clone)]
pub struct Source {
    pub file: Option<PathBuf>,
    pub environment: Environment,
}

impl Source {
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> Result<Config, Invalid> {
        Config::load(self.file.as_deref(), &self.environment)
    }
}

/// What a reload replaces, and what it must leave as it is.
#[derive(Clone)]
pub(super) struct InForce {
    pub service: Arc<Service>,
    pub tls: Option<TlsInForce>,
    pub public_tls: Option<TlsInForce>,
    pub chains: Chains,
    /// What was last read, whatever came of it.
    pub files: Watched,
    /// What that held then.
    pub read: Fingerprint,
}

pub struct Reloader {
    source: Source,
    in_force: InForce,
    /// What was wrong at the last reload that was refused, so that it is told once.
    refused: Vec<Problem>,
    /// When the files were last read, by the steady clock.
    tried: Duration,
}

enum Refused {
    /// The files changed while they were read, or a key was retired meanwhile.
    Unsteady,
    Wrong(Vec<Problem>),
}

/// Why the files are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A signal.
    Request,
    /// They have changed.
    Change,
    /// Time alone: the clock was set back, to the life of a key that isn't open any more, or what was refused may not be wrong
    /// any more.
    Clock,
}

impl Reloader {
    pub(super) const fn new(source: Source, in_force: InForce) -> Self {
        Self { source, in_force, refused: Vec::new(), tried: Duration::ZERO }
    }

    /// Reloads whenever `asked`, and whenever there is reason to, until `asked` is closed.
    pub async fn run(self, mut asked: mpsc::Receiver<()>) {
        let mut reloader = self;
        let mut pause = POLL;
        loop {
            let by_request = tokio::select! {
                request = asked.recv() => match request {
                    Some(()) => true,
                    None => return,
                },
                () = tokio::time::sleep(pause) => false,
            };
            // Parsing keys takes its time, and that is not the workers'.
            let mut looking = tokio::task::spawn_blocking(move || {
                let took = reloader.look(by_request);
                (reloader, took)
            });
            let looked = if let Ok(looked) = tokio::time::timeout(LOOK_DEADLINE, &mut looking).await {
                looked
            } else {
                tracing::error!(
                    "the look at the files has not ended after {} s, perhaps because a mount hangs: until it ends, nothing \
                     but retirements is taken over",
                    LOOK_DEADLINE.as_secs()
                );
                looking.await
            };
            let Ok((returned, took)) = looked else {
                tracing::error!("reloading has ended by a panic, a bug: restart to take over changed files");
                return;
            };
            reloader = returned;
            // Of the look alone: a reload that took long was needed, and the next may be.
            pause = (took * POLL_SHARE).clamp(POLL, LONGEST_PAUSE);
            if by_request {
                tokio::time::sleep(DISTANCE).await;
            }
        }
    }

    /// Looks at the files, and reloads if `by_request` or where they have changed. Returns how long the look took, the
    /// reload left out.
    fn look(&mut self, by_request: bool) -> Duration {
        let service = self.in_force.service.clone();
        let began_at = service.clock.now();
        let begin = service.clock.steady();
        service.rooms.load().ring.prepare(began_at);
        let has_reason = self.has_reason();
        let took = service.clock.steady().saturating_sub(begin);
        let mut is_steady = true;
        let reason = if by_request { Some(Reason::Request) } else { has_reason };
        if let Some(reason) = reason {
            supervisor::reloading();
            is_steady = self.reload_for(reason);
            supervisor::ready();
        }
        service.metrics.config_looked_at.set(service.clock.now().seconds());
        // Of files that change while they are read nothing can be said yet.
        if is_steady {
            let problems = self.refused.clone();
            let in_force = problems.is_empty();
            service.last_look.store(Arc::new(LookReport { began_at: Some(began_at), in_force, problems }));
        }
        took
    }

    fn has_reason(&self) -> Option<Reason> {
        let InForce { service, files, read, .. } = &self.in_force;
        if files.fingerprint() != *read {
            return Some(Reason::Change);
        }
        let lacks_a_key = service.rooms.load().ring.lacks_a_key(service.clock.now());
        let may_be_right =
            !self.refused.is_empty() && service.clock.steady().saturating_sub(self.tried) >= RETRY;
        (lacks_a_key || may_be_right).then_some(Reason::Clock)
    }

    /// Builds everything anew and puts it in force, or leaves all as it is.
    pub fn reload(&mut self) {
        self.look(true);
    }

    /// Returns false where the files change while they are read.
    fn reload_for(&mut self, reason: Reason) -> bool {
        let service = self.in_force.service.clone();
        self.tried = service.clock.steady();
        // First, and whatever becomes of the rest.
        retirement::take_away_now(&service);
        let metrics = &service.metrics;
        match self.replace() {
            Ok(()) => {
                self.refused = Vec::new();
                metrics.config_reloads.inc();
                metrics.config_current.set(1);
                metrics.config_loaded_at.set(service.clock.now().seconds());
                true
            }
            // The next look finds them changed again.
            Err(Refused::Unsteady) => {
                tracing::debug!("the files change while they are read");
                false
            }
            Err(Refused::Wrong(problems)) => {
                // By the clock alone it is tried at each look, and told once.
                if reason != Reason::Clock || self.refused.is_empty() {
                    metrics.config_reload_failures.inc();
                    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    tracing::error!(
                        problems = told.join("; "),
                        "the changed configuration is refused, and the one before stays in force"
                    );
                }
                metrics.config_current.set(0);
                self.refused = problems;
                true
            }
        }
    }

    fn replace(&mut self) -> Result<(), Refused> {
        for _ in 0..TRIES {
            let before = self.in_force.files.fingerprint();
            let base = self.in_force.service.rooms.load_full();
            let (files, built) = self.read(&base);
            if files == self.in_force.files && files.fingerprint() == before {
                self.in_force.read = before;
                let loaded = built.map_err(Refused::Wrong)?;
                if self.swap(&base, loaded) {
                    return Ok(());
                }
                continue;
            }
            self.in_force.files = files;
        }
        // What was read is not in force: the next look reads it again.
        self.in_force.read = Fingerprint::of_nothing();
        Err(Refused::Unsteady)
    }

    fn read(&self, base: &Rooms) -> (Watched, Result<Loaded, Vec<Problem>>) {
        let config = match self.source.load() {
            Ok(config) => config,
            Err(invalid) => return (Watched::of_invalid(&invalid), Err(invalid.problems)),
        };
        let files = Watched::of(&config);
        let mut refused = config.settled_differences(&base.config);
        refused.extend(config.emptied(&base.config));
        if !refused.is_empty() {
            return (files, Err(refused));
        }
        let loaded = Loaded::after(config, Some(&base.ring), &*self.in_force.service.clock);
        let loaded = loaded.and_then(|loaded| {
            let worse = tls::worse_than(&self.in_force.chains, [&loaded.tls, &loaded.public_tls]);
            if worse.is_empty() { Ok(loaded) } else { Err(worse) }
        });
        (files, loaded)
    }

    /// Puts `loaded` in the place of `base`, unless that isn't in force any more.
    fn swap(&mut self, base: &Arc<Rooms>, loaded: Loaded) -> bool {
        let warnings: Vec<Problem> = loaded.warnings().cloned().collect();
        let Loaded { config, ring, tls, public_tls, .. } = loaded;
        self.in_force.chains = tls::chains([&tls, &public_tls]);
        let service = &self.in_force.service;
        let now = service.clock.now();
        let new = Arc::new(rooms(Arc::new(config), ring, &service.metrics, now, Some(&base.callers)));
        if !put_in_place(service, base, &new) {
            return false;
        }
        for (in_force, new) in [(&self.in_force.tls, tls), (&self.in_force.public_tls, public_tls)] {
            if let (Some(in_force), Some(new)) = (in_force, new) {
                in_force.store(new.config);
            }
        }
        for warning in warnings {
            tracing::warn!(field = warning.field, source = warning.source, "{}", warning.message);
        }
        let kids = |rooms: &Rooms| rooms.ring.keys().map(|(_, key)| key.kid.clone()).collect::<BTreeSet<_>>();
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
pub(super) fn put_in_place(service: &Service, base: &Arc<Rooms>, new: &Arc<Rooms>) -> bool {
    let before = service.rooms.compare_and_swap(base, new.clone());
    if !Arc::ptr_eq(&before, base) {
        return false;
    }
    let now = service.clock.now();
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
    let dropped = service.exchanger.withdraw(&withdrawn);
    if dropped > 0 {
        tracing::info!(dropped, "access tokens that were got with a withdrawn key are dropped");
    }
    forget(base, new, &service.metrics);
    true
}

/// Takes away the series of what isn't there any more, so that no number of reloads fills the metrics.
fn forget(old: &Rooms, new: &Rooms, metrics: &Metrics) {
    let clients = || Client::ALL.iter().map(|client| client.as_str());
    for (keyset, key) in old.ring.keys().filter(|(_, key)| new.ring.find(key.kid.as_str()).is_none()) {
        let labels = [keyset.name.as_str(), key.kid.as_str()];
        for gauge in [&metrics.certificate_remaining, &metrics.key_starts_signing, &metrics.key_stops_signing]
        {
            let _ = gauge.remove_label_values(&labels);
        }
        let _ = metrics.live_tokens.remove_label_values(&labels);
        for client in clients() {
            let _ = metrics.key_fetched_at.remove_label_values(&[labels[0], labels[1], client]);
        }
    }
    for name in old.ring.keysets.keys().filter(|name| !new.ring.keysets.contains_key(*name)) {
        for client in clients() {
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
