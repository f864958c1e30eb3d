//! Takes retired keys away from a running service within seconds, whatever a reload says.
//!
//! A task of its own reads each key directory's `keyset.toml`, and nothing else, every two seconds. So neither a broken
//! configuration nor a slow reload nor another directory's hanging mount holds it up. Keys whose life is over by the clock
//! go the same way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use super::reload::put_in_place;
use super::rooms;
use crate::config::{KeysetSource, Name};
use crate::http::Service;
use crate::keys::{Mark, SCHEDULE_FILE, file, marks};

/// How often each `keyset.toml` is read. A retired key is gone five seconds after its file was written.
const POLL: Duration = Duration::from_secs(2);
/// How long the directories that answer wait for one that doesn't.
const READ_DEADLINE: Duration = Duration::from_millis(500);

/// Looks for retirements until the task is dropped.
pub async fn run(service: Arc<Service>) {
    // At most one read of each file: one that hangs is waited for, and not repeated.
    let mut reading: BTreeMap<Name, JoinHandle<Vec<Mark>>> = BTreeMap::new();
    loop {
        tokio::time::sleep(POLL).await;
        for (name, path) in schedules(&service) {
            // Mostly there is none: each has ended within the pause.
            reading.entry(name).or_insert_with(|| spawn_blocking(move || read(&path)));
        }
        // Those that hang have one deadline together.
        let deadline = Instant::now() + READ_DEADLINE;
        let mut found = BTreeMap::new();
        for (name, read) in &mut reading {
            if let Ok(ended) = timeout_at(deadline, read).await {
                found.insert(name.clone(), ended.unwrap_or_default());
            }
        }
        reading.retain(|name, _| !found.contains_key(name));
        take_away(&service, &found);
    }
}

/// Reads all schedules now and takes away what they retire.
pub(super) fn take_away_now(service: &Service) {
    let found = schedules(service).into_iter().map(|(name, path)| (name, read(&path))).collect();
    take_away(service, &found);
}

fn take_away(service: &Service, found: &BTreeMap<Name, Vec<Mark>>) {
    loop {
        let base = service.rooms.load_full();
        let now = service.clock.now();
        let Some(ring) = base.ring.without_gone(found, now) else { return };
        let gone = base.ring.keys().filter(|(_, key)| ring.find(key.kid.as_str()).is_none());
        let gone = gone.map(|(_, key)| key.kid.as_str()).collect::<Vec<_>>().join(" ");
        let new = Arc::new(rooms(base.config.clone(), ring, &service.metrics, now, Some(&base.callers)));
        if put_in_place(service, &base, &new) {
            tracing::info!(keys_gone = gone, "keys that are retired or whose life is over were taken away");
            return;
        }
    }
}

/// Where each keyset of the configuration in force has its `keyset.toml`.
fn schedules(service: &Service) -> Vec<(Name, PathBuf)> {
    let rooms = service.rooms.load();
    let schedule = |keyset: &crate::config::KeysetConfig| match &keyset.keys {
        KeysetSource::Directory(directory) => {
            Some((keyset.name.clone(), directory.as_path().join(SCHEDULE_FILE)))
        }
        KeysetSource::File { .. } | KeysetSource::Text { .. } => None,
    };
    rooms.config.keysets.values().filter_map(schedule).collect()
}

/// What a schedule retires, whoever may write it. Only from one that nobody else can change is taken which key signs instead.
fn read(path: &std::path::Path) -> Vec<Mark> {
    let text = file::read_schedule_of_anyone(path).ok().flatten();
    let is_ours = file::read_schedule(path).is_ok();
    let found = text.map(|text| marks(&text)).unwrap_or_default();
    found
        .into_iter()
        .map(|mark| Mark { emergency_from: mark.emergency_from.filter(|_| is_ours), ..mark })
        .collect()
}
