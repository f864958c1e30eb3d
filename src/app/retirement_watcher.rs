//! Key revocation: removes retired keys from the running service within seconds, independently of reloads.
//!
//! A task polls the `keyset.toml` of each key directory and reads nothing else. So an invalid configuration or a slow
//! reload can't delay it. A hanging mount of another directory delays a round by at most `READ_DEADLINE`. The task also
//! removes keys whose publication has ended by the clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use super::build_snapshot;
use super::reload::activate_snapshot;
use crate::api::AppState;
use crate::config::{KeysetSource, Name};
use crate::keys::{RetirementMark, SCHEDULE_FILE, key_file, retirement_marks};

/// The pause between two reads of each `keyset.toml`. A retired key is gone at most five seconds after its file was
/// written, unless reading that file hangs.
const RETIREMENT_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long one round waits for directories that hang.
const READ_DEADLINE: Duration = Duration::from_millis(500);

/// Polls for retirements until the future is dropped.
pub(crate) async fn run(state: Arc<AppState>) {
    // At most one read of each file by this task runs at a time; `apply_now` reads too. A read that hangs is kept and awaited
    // again in the next round.
    let mut reading: BTreeMap<Name, JoinHandle<Vec<RetirementMark>>> = BTreeMap::new();
    loop {
        tokio::time::sleep(RETIREMENT_POLL_INTERVAL).await;
        for (name, path) in schedule_files(&state) {
            // Usually there is no entry, because the previous read has ended.
            reading.entry(name).or_insert_with(|| spawn_blocking(move || read_marks(&path)));
        }
        // All reads of a round share one deadline.
        let deadline = Instant::now() + READ_DEADLINE;
        let mut found = BTreeMap::new();
        for (name, read) in &mut reading {
            if let Ok(ended) = timeout_at(deadline, read).await {
                found.insert(name.clone(), ended.unwrap_or_default());
            }
        }
        reading.retain(|name, _| !found.contains_key(name));
        apply_retirements(&state, &found);
    }
}

/// Reads all schedules now, and removes the keys that they retire and the keys whose publication has ended.
pub(super) fn apply_now(state: &AppState) {
    let found = schedule_files(state).into_iter().map(|(name, path)| (name, read_marks(&path))).collect();
    apply_retirements(state, &found);
}

/// Removes the keys that `found` retires, and keys whose publication has ended, from the current snapshot. Tries again if a
/// reload replaces the snapshot meanwhile.
fn apply_retirements(state: &AppState, found: &BTreeMap<Name, Vec<RetirementMark>>) {
    loop {
        let base = state.snapshot.load_full();
        let now = state.clock.now();
        let Some(ring) = base.ring.without_retired(found, now) else { return };
        let gone = base.ring.keys().filter(|(_, key)| ring.find(key.kid.as_str()).is_none());
        let gone = gone.map(|(_, key)| key.kid.as_str()).collect::<Vec<_>>().join(" ");
        let new = Arc::new(build_snapshot(
            base.config.clone(),
            ring,
            base.issuers.clone(),
            &state.metrics,
            now,
            Some(&base.callers),
        ));
        if activate_snapshot(state, &base, &new) {
            tracing::info!(keys_gone = gone, "removed keys that are retired or whose publication has ended");
            return;
        }
    }
}

/// The `keyset.toml` of each keyset in the configuration in force that has a key directory.
fn schedule_files(state: &AppState) -> Vec<(Name, PathBuf)> {
    let snapshot = state.snapshot.load();
    let schedule = |keyset: &crate::config::KeysetConfig| match &keyset.keys {
        KeysetSource::Directory(directory) => {
            Some((keyset.name.clone(), directory.as_path().join(SCHEDULE_FILE)))
        }
        KeysetSource::File { .. } | KeysetSource::Text { .. } => None,
    };
    snapshot.config.keysets.values().filter_map(schedule).collect()
}

/// Reads the marks of a schedule: which keys are retired, and which sign in an emergency.
///
/// Retirements are accepted from any readable file, even if it isn't TOML. Which key signs instead is accepted only from a file
/// that no other user can change.
fn read_marks(path: &std::path::Path) -> Vec<RetirementMark> {
    let bytes = key_file::read_schedule_bytes(path).ok().flatten().unwrap_or_default();
    let is_ours = key_file::read_schedule(path).is_ok();
    let found = retirement_marks(&String::from_utf8_lossy(&bytes));
    found
        .into_iter()
        .map(|mark| RetirementMark { emergency_from: mark.emergency_from.filter(|_| is_ours), ..mark })
        .collect()
}
