//! How often tokenmint may log in: far below Salesforce's limits, so that a bug here never locks a user out
//! of every integration for an hour.
//!
//! Logins of the last window are counted in a small file for each user, so that neither a crash loop nor a
//! second replica on the host outruns the budget. The file holds times and nothing else; its name is a hash.
//! Where no file can be kept, memory alone counts, and the log says so.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::clock::UnixTime;
use crate::hash::sha256;

/// So many requests in so long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub requests: usize,
    pub window: Duration,
}

/// How much of an allowance is used, or how long until there is some again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Taken {
    Within { used: f64 },
    Exhausted { retry_after: Duration },
}

pub(super) struct Budget {
    /// Where the files are, if they can be.
    directory: Option<PathBuf>,
    remembered: Mutex<HashMap<String, Vec<i64>>>,
}

impl Budget {
    /// Keeps its files in `directory`, which must be ours alone.
    pub fn new(directory: Option<&Path>) -> Self {
        let usable = directory.filter(|directory| match private_directory(directory) {
            Ok(()) => true,
            Err(reason) => {
                let directory = directory.display();
                tracing::warn!(%directory, reason, "the login budget is kept in memory only: a restart forgets it");
                false
            }
        });
        Self { directory: usable.map(Path::to_path_buf), remembered: Mutex::default() }
    }

    /// Counts one more request of `who`, unless that would be too many. Blocks on a small file.
    pub fn take(&self, who: &str, allowance: Allowance, now: UnixTime) -> Taken {
        let name = HEXLOWER.encode(&sha256(who.as_bytes())[..16]);
        let window = i64::try_from(allowance.window.as_secs()).unwrap_or(i64::MAX);
        let now = now.seconds();
        let mut remembered = self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let times = remembered.entry(name.clone()).or_default();
        let path = self.directory.as_ref().map(|directory| directory.join(&name));
        if let Some(path) = &path {
            *times = read(path).unwrap_or_else(|| std::mem::take(times));
        }
        // A time in the future is one from before the clock was set back.
        times.retain(|time| (now - window + 1..=now).contains(time));
        if times.len() >= allowance.requests {
            let oldest = times.iter().min().copied().unwrap_or(now);
            let wait = u64::try_from(oldest + window - now).unwrap_or(1).max(1);
            return Taken::Exhausted { retry_after: Duration::from_secs(wait) };
        }
        times.push(now);
        if let Some(path) = &path {
            record(path, times, now);
        }
        #[expect(clippy::cast_precision_loss, reason = "thousands at most")]
        let used = times.len() as f64 / allowance.requests as f64;
        Taken::Within { used }
    }
}

fn private_directory(directory: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| error.to_string())?;
    let metadata = fs::symlink_metadata(directory).map_err(|error| error.to_string())?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if metadata.is_dir() && ours {
        Ok(())
    } else {
        Err("others may write there; it must be ours, mode 700".to_owned())
    }
}

fn read(path: &Path) -> Option<Vec<i64>> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Adds a line; writes the file anew once it is mostly past.
fn record(path: &Path, times: &[i64], now: i64) {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    let mostly_past = fs::metadata(path).is_ok_and(|file| file.len() > 64 << 10);
    let written = if mostly_past {
        let all = times.iter().fold(String::new(), |text, time| text + &format!("{time}\n"));
        options.write(true).truncate(true).open(path).and_then(|mut file| file.write_all(all.as_bytes()))
    } else {
        options.append(true).open(path).and_then(|mut file| file.write_all(format!("{now}\n").as_bytes()))
    };
    if let Err(error) = written {
        tracing::warn!(%error, "a login can't be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURLY: Allowance = Allowance { requests: 3, window: Duration::from_hours(1) };

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(1_000_000 + seconds)
    }

    #[test]
    fn a_crash_loop_and_a_second_replica_share_one_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let start = || Budget::new(Some(&directory));
        // Each login is the first of its process.
        for n in 0..3 {
            assert!(matches!(start().take("user", HOURLY, at(n * 5)), Taken::Within { .. }), "{n}");
        }
        let exhausted = Taken::Exhausted { retry_after: Duration::from_secs(3585) };
        assert_eq!(start().take("user", HOURLY, at(15)), exhausted);
        assert!(matches!(start().take("other", HOURLY, at(15)), Taken::Within { .. }));
        assert!(matches!(start().take("user", HOURLY, at(3600)), Taken::Within { .. }));
    }

    #[test]
    fn without_a_place_for_files_memory_counts() {
        let budget = Budget::new(None);
        for _ in 0..3 {
            budget.take("user", HOURLY, at(0));
        }
        assert!(matches!(budget.take("user", HOURLY, at(0)), Taken::Exhausted { .. }));
        // The clock was set back: what lies in the future doesn't count.
        assert!(matches!(budget.take("user", HOURLY, at(-10)), Taken::Within { .. }));
    }
}
