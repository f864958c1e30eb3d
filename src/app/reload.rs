//! Takes over changed files while the service runs.
//!
//! - SIGHUP, a change of what the files hold, and a key whose life is over each lead to a reload.
//! - The whole new state is built and checked beside the old one, then put in its place in one step; requests that
//!   have begun end on the old one. Whatever is wrong, the old one stays entirely: one line in the log, one count.
//! - What was read is in force only if the files were the same before and after: a key and a certificate of two
//!   different moments never meet.
//! - Signals that come while it works become one more reload, and reloads keep a distance from each other: a storm of
//!   them costs little.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::listen::TlsInForce;
use super::watch::{Fingerprint, Watched};
use super::{Loaded, rooms, supervisor};
use crate::callers::Rule;
use crate::config::{Cache, Config, Environment, Invalid, KeyId, Problem, Server};
use crate::http::{Rooms, Service};
use crate::keys::State;
use crate::metrics::{Client, Metrics};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// Looking takes at most this share of a core: a thousand keys are looked at less often than three.
const POLL_SHARE: u32 = 20;
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
    pub server: Arc<Server>,
    pub cache: Arc<Cache>,
    pub tls: Option<TlsInForce>,
    pub public_tls: Option<TlsInForce>,
    /// What was last read, whatever came of it.
    pub files: Watched,
    /// What that held then.
    pub read: Fingerprint,
}

pub struct Reloader {
    source: Source,
    in_force: InForce,
}

enum Refused {
    /// The files changed while they were read.
    Unsteady,
    Wrong(Vec<Problem>),
}

impl Reloader {
    pub(super) const fn new(source: Source, in_force: InForce) -> Self {
        Self { source, in_force }
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
            let worked = tokio::task::spawn_blocking(move || {
                let begin = Instant::now();
                if by_request || reloader.has_reason() {
                    supervisor::reloading();
                    reloader.reload();
                    supervisor::ready();
                }
                (reloader, begin.elapsed())
            });
            let Ok((returned, took)) = worked.await else {
                tracing::error!("reloading has ended by a panic, a bug: restart to take over changed files");
                return;
            };
            reloader = returned;
            pause = POLL.max(took * POLL_SHARE);
            if by_request {
                tokio::time::sleep(DISTANCE).await;
            }
        }
    }

    fn has_reason(&self) -> bool {
        let InForce { service, files, read, .. } = &self.in_force;
        files.fingerprint() != *read || service.rooms.load().ring.is_outdated(service.clock.now())
    }

    /// Builds everything anew and puts it in force, or leaves all as it is.
    pub fn reload(&mut self) {
        let service = self.in_force.service.clone();
        let metrics = &service.metrics;
        match self.build() {
            Ok(loaded) => {
                self.swap(loaded);
                metrics.config_reloads.inc();
                metrics.config_current.set(1);
                metrics.config_loaded_at.set(service.clock.now().seconds());
            }
            // The next look finds them changed again.
            Err(Refused::Unsteady) => tracing::debug!("the files change while they are read"),
            Err(Refused::Wrong(problems)) => {
                metrics.config_reload_failures.inc();
                metrics.config_current.set(0);
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                tracing::error!(
                    problems = problems.join("; "),
                    "the changed configuration is refused, and the one before stays in force"
                );
            }
        }
    }

    fn build(&mut self) -> Result<Loaded, Refused> {
        for _ in 0..TRIES {
            let before = self.in_force.files.fingerprint();
            let (files, built) = self.read();
            if files == self.in_force.files && files.fingerprint() == before {
                self.in_force.read = before;
                return built.map_err(Refused::Wrong);
            }
            self.in_force.files = files;
        }
        Err(Refused::Unsteady)
    }

    fn read(&self) -> (Watched, Result<Loaded, Vec<Problem>>) {
        let config = match self.source.load() {
            Ok(config) => config,
            Err(invalid) => return (Watched::of_invalid(&invalid), Err(invalid.problems)),
        };
        let files = Watched::of(&config);
        let settled: Vec<Problem> = config
            .server
            .settled_differences(&self.in_force.server)
            .into_iter()
            .chain(config.cache.settled_differences(&self.in_force.cache))
            .map(|field| {
                let message = "can't change while the service runs: put it back, or restart";
                Problem::new(field, "the configuration", message)
            })
            .collect();
        if !settled.is_empty() {
            return (files, Err(settled));
        }
        let service = &self.in_force.service;
        (files, Loaded::after(config, Some(&service.rooms.load().ring), &*service.clock))
    }

    fn swap(&self, loaded: Loaded) {
        for warning in loaded.warnings() {
            tracing::warn!(field = warning.field, source = warning.source, "{}", warning.message);
        }
        let Loaded { config, ring, tls, public_tls, .. } = loaded;
        let service = &self.in_force.service;
        let now = service.clock.now();
        for (in_force, new) in [(&self.in_force.tls, tls), (&self.in_force.public_tls, public_tls)] {
            if let (Some(in_force), Some(new)) = (in_force, new) {
                in_force.store(new);
            }
        }
        let old = service.rooms.swap(Arc::new(rooms(&config, ring, &service.metrics, now)));
        let new = service.rooms.load();

        let kids = |rooms: &Rooms| rooms.ring.keys().map(|(_, key)| key.kid.clone()).collect::<BTreeSet<_>>();
        let (had, has) = (kids(&old), kids(&new));
        // A key that is there no more, though its life was not over, was taken away.
        let withdrawn: BTreeSet<KeyId> = old
            .ring
            .keys()
            .filter(|(_, key)| !has.contains(&key.kid) && key.life.state(now) != State::Gone)
            .inspect(|(keyset, key)| {
                let live_tokens = key.usage.live(now);
                tracing::warn!(
                    keyset = %keyset.name, kid = %key.kid, live_tokens,
                    "a key was taken away before its time: tokens that it signed fail from now on"
                );
            })
            .map(|(_, key)| key.kid.clone())
            .collect();
        let access_tokens_dropped = service.exchanger.withdraw(&withdrawn);
        forget(&old, &new, &service.metrics);
        let listed = |kids: Vec<&KeyId>| kids.iter().map(|kid| kid.as_str()).collect::<Vec<_>>().join(" ");
        tracing::info!(
            keys_added = listed(has.difference(&had).collect()),
            keys_gone = listed(had.difference(&has).collect()),
            access_tokens_dropped,
            "reloaded"
        );
    }
}

/// Takes away the series of what isn't there any more, so that no number of reloads fills the metrics.
fn forget(old: &Rooms, new: &Rooms, metrics: &Metrics) {
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
