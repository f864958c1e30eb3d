//! Rate limit of logins: far below Salesforce's own, so that a bug here never locks a user out of every integration for an
//! hour.
//!
//! Logins of the last window are counted in memory and in a small file for each user, so that neither a crash loop nor a
//! second replica on the host outruns the budget: what either has, counts. The file is written anew and renamed, under
//! a lock that all processes of this host take. Where it can't be read or written, memory alone counts, and a metric says
//! so. The file holds times and random ids; its name is a hash.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use prometheus::IntCounter;

use crate::clock::UnixTime;
use crate::hash::sha256;

/// How long to wait for another process that holds the lock: it writes a few kilobytes.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// So many requests in so long.
#[derive(Clone, Copy, Debug)]
pub struct RequestQuota {
    pub requests: usize,
    pub window: Duration,
}

/// How much of an allowance is used, or how long until there is some again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QuotaCheck {
    Allowed { used: f64 },
    Exhausted { retry_after: Duration },
}

/// One more request of `account`, under an id that nobody else has.
#[derive(Clone)]
pub struct CountedRequest {
    pub account: String,
    pub id: String,
    pub quota: RequestQuota,
}

#[derive(Default)]
struct LoginLog {
    /// This process's own, by id, at steady times: no step of the wall clock makes them fewer.
    own: HashMap<String, Duration>,
    /// All that the file had when it could last be read, and our own since then; by id, at wall times.
    known: BTreeMap<String, i64>,
    /// Those that were given back, as long as a file has them that couldn't be written.
    refunded: BTreeSet<String>,
    /// What the replicas that share a cache have used, and until when that may be so.
    shared: Option<(f64, Duration)>,
}

pub struct LoginRateLimit {
    /// Where the files are, if they can be.
    directory: Option<PathBuf>,
    /// Held while a file is read and written, so that nobody who looks at `logins` waits for a disk.
    files: Mutex<()>,
    logins: Mutex<HashMap<String, LoginLog>>,
    failed_writes: IntCounter,
}

impl LoginRateLimit {
    /// Keeps its files in `directory`, which must be ours alone.
    pub fn new(directory: Option<&Path>, failed_writes: IntCounter) -> Self {
        let usable = directory.filter(|directory| match ensure_private_directory(directory) {
            Ok(()) => true,
            Err(reason) => {
                // What should be a path may be a secret, and is shown only where it is one.
                let directory = if directory.exists() { directory } else { Path::new("state_directory") }.display();
                tracing::warn!(%directory, reason, "the login budget is kept in memory only: a restart forgets it");
                failed_writes.inc();
                false
            }
        });
        let directory = usable.map(Path::to_path_buf);
        Self { directory, files: Mutex::default(), logins: Mutex::default(), failed_writes }
    }

    /// Counts one more request, unless that would be too many. Blocks on a small file.
    pub fn try_acquire(&self, counted: &CountedRequest, now: UnixTime, monotonic: Duration) -> QuotaCheck {
        self.with_file(&counted.account, |file| self.count(file, counted, now, monotonic))
    }

    /// As [`try_acquire`](Self::spend), where the disk hangs.
    pub fn try_acquire_in_memory(
        &self,
        counted: &CountedRequest,
        now: UnixTime,
        monotonic: Duration,
    ) -> QuotaCheck {
        self.failed_writes.inc();
        self.count(None, counted, now, monotonic).0
    }

    /// Also what the file should have then.
    fn count(
        &self,
        file: Option<BTreeMap<String, i64>>,
        counted: &CountedRequest,
        now: UnixTime,
        monotonic: Duration,
    ) -> (QuotaCheck, Option<BTreeMap<String, i64>>) {
        let mut logins = self.logins();
        let logins = logins.entry(counted.account.clone()).or_default();
        logins.merge_file(file);
        let quota = counted.quota;
        let is_corrected = logins.expire(quota.window, now, monotonic);
        // A disk that hung may come to it after memory has counted.
        if !logins.known.contains_key(&counted.id) {
            if logins.known.len() >= quota.requests {
                let retry_after = logins.time_until_free(quota.window, now, monotonic);
                return (QuotaCheck::Exhausted { retry_after }, is_corrected.then(|| logins.known.clone()));
            }
            logins.own.insert(counted.id.clone(), monotonic);
            logins.known.insert(counted.id.clone(), now.seconds());
        }
        (QuotaCheck::Allowed { used: used_fraction(logins.known.len(), quota) }, Some(logins.known.clone()))
    }

    /// Writes what a disk didn't take when it was counted. Blocks on small files.
    pub fn flush(&self) {
        let known: Vec<String> = self.logins().keys().cloned().collect();
        for account in known {
            self.with_file(&account, |file| {
                let mut logins = self.logins();
                let logins = logins.entry(account.clone()).or_default();
                let known = file.clone().unwrap_or_default();
                logins.merge_file(file);
                ((), Some(logins.known.clone()).filter(|seen| *seen != known))
            });
        }
    }

    /// Takes back a request that was counted and never sent. Blocks on a small file.
    pub fn refund(&self, counted: &CountedRequest) {
        self.with_file(&counted.account, |file| {
            let mut logins = self.logins();
            let logins = logins.entry(counted.account.clone()).or_default();
            logins.refunded.insert(counted.id.clone());
            logins.merge_file(file);
            logins.own.remove(&counted.id);
            logins.known.remove(&counted.id);
            ((), Some(logins.known.clone()))
        });
    }

    /// Keeps what all replicas together have used, for the metric.
    pub fn record_shared_usage(&self, account: &str, used: f64, until: Duration) {
        self.logins().entry(account.to_owned()).or_default().shared = Some((used, until));
    }

    /// The used share at this time, as far as memory knows.
    pub fn usage(
        &self,
        account: &str,
        quota: RequestQuota,
        now: UnixTime,
        monotonic: Duration,
    ) -> Option<f64> {
        let mut logins = self.logins();
        let logins = logins.get_mut(account)?;
        logins.expire(quota.window, now, monotonic);
        let shared = logins.shared.filter(|(_, until)| monotonic < *until).map_or(0.0, |(used, _)| used);
        Some(used_fraction(logins.known.len(), quota).max(shared))
    }

    fn logins(&self) -> MutexGuard<'_, HashMap<String, LoginLog>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file of `account`, and writes what `act` leaves there, alone of all processes.
    fn with_file<T>(
        &self,
        account: &str,
        act: impl FnOnce(Option<BTreeMap<String, i64>>) -> (T, Option<BTreeMap<String, i64>>),
    ) -> T {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(directory) = &self.directory else { return act(None).0 };
        let path = directory.join(HEXLOWER.encode(&sha256(account.as_bytes())[..16]));
        let locked = acquire_lock(&path.with_extension("lock"));
        let known = match read_logins(&path) {
            Ok(known) => Some(known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.failed_writes.inc();
                tracing::warn!(%error, path = %path.display(), "logins of other processes can't be read: memory alone counts");
                None
            }
        };
        let (result, content) = act(known);
        let written = match (&locked, &content) {
            (_, None) => Ok(()),
            (Ok(_), Some(content)) => write_logins(&path, content),
            (Err(error), Some(_)) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if let Err(error) = written {
            self.failed_writes.inc();
            tracing::warn!(%error, "a login can't be recorded: memory alone counts it");
        }
        result
    }
}

impl LoginLog {
    /// The file's logins count, and our own, whether or not they could be written.
    fn merge_file(&mut self, file: Option<BTreeMap<String, i64>>) {
        let Some(mut file) = file else { return };
        // A file without them was written since.
        self.refunded.retain(|id| file.remove(id).is_some());
        for id in self.own.keys() {
            if let Some(time) = self.known.get(id) {
                file.entry(id.clone()).or_insert(*time);
            }
        }
        self.known = file;
    }

    /// Whether the time of one was mended that is too far ahead to end by itself.
    fn expire(&mut self, window: Duration, now: UnixTime, monotonic: Duration) -> bool {
        self.own.retain(|_, time| monotonic.saturating_sub(*time) < window);
        let (own, window, now) = (&self.own, seconds(window), now.seconds());
        // Another's in the future is one from before the clock was set back, and by how much isn't known: it counts as one of now.
        let mut is_corrected = false;
        for (_, time) in self.known.iter_mut().filter(|(id, time)| !own.contains_key(*id) && **time > now) {
            is_corrected |= *time > now + window;
            *time = now;
        }
        self.known.retain(|id, time| own.contains_key(id) || *time > now - window);
        is_corrected
    }

    /// Until the first of them is past.
    fn time_until_free(&self, window: Duration, now: UnixTime, monotonic: Duration) -> Duration {
        let wait = |(id, time): (&String, &i64)| match self.own.get(id) {
            Some(own) => (*own + window).saturating_sub(monotonic),
            None => Duration::from_secs(u64::try_from(time + seconds(window) - now.seconds()).unwrap_or(1)),
        };
        self.known.iter().map(wait).min().unwrap_or_default().max(Duration::from_secs(1))
    }
}

fn seconds(window: Duration) -> i64 {
    i64::try_from(window.as_secs()).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "thousands at most")]
pub fn used_fraction(count: usize, quota: RequestQuota) -> f64 {
    count as f64 / quota.requests as f64
}

fn ensure_private_directory(directory: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| error.to_string())?;
    let metadata = fs::symlink_metadata(directory).map_err(|error| error.to_string())?;
    if !metadata.is_dir() {
        return Err("something that is no directory is at this path".to_owned());
    }
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if ours {
        Ok(())
    } else {
        Err(format!(
            "it must be this process's own, of mode 700, and is user {}'s, of mode {:o}",
            metadata.uid(),
            metadata.mode() & 0o7777
        ))
    }
}

/// The lock of a file that is renamed can't be the file itself. It is given back when it is closed.
fn acquire_lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY_INTERVAL),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds its lock"))
}

/// A line is a time and an id. In files of earlier versions it is a time alone.
fn read_logins(path: &Path) -> io::Result<BTreeMap<String, i64>> {
    let text = fs::read_to_string(path)?;
    let login = |(number, line): (usize, &str)| {
        let (time, id) = line.split_once(' ').unwrap_or((line, ""));
        let id = if id.is_empty() { format!("#{number}") } else { id.to_owned() };
        Some((id, time.parse().ok()?))
    };
    Ok(text.lines().enumerate().filter_map(login).collect())
}

fn write_logins(path: &Path, logins: &BTreeMap<String, i64>) -> io::Result<()> {
    let text = logins.iter().fold(String::new(), |mut text, (id, time)| {
        let _ = writeln!(text, "{time} {id}");
        text
    });
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURLY: RequestQuota = RequestQuota { requests: 3, window: Duration::from_hours(1) };

    fn budget(directory: Option<&Path>) -> LoginRateLimit {
        LoginRateLimit::new(directory, IntCounter::new("failed", "Failed writes.").expect("a counter"))
    }

    fn request(account: &str, id: i64) -> CountedRequest {
        CountedRequest { account: account.to_owned(), id: format!("id{id}"), quota: HOURLY }
    }

    /// At so many seconds by both clocks.
    fn acquire_at(budget: &LoginRateLimit, account: &str, seconds: i64) -> QuotaCheck {
        let monotonic = Duration::from_secs(u64::try_from(seconds).expect("after the start"));
        budget.try_acquire(&request(account, seconds), UnixTime::from_seconds(1_000_000 + seconds), monotonic)
    }

    /// As NTP does, a few seconds before a restart.
    #[test]
    fn setting_the_clock_back_gives_a_restart_no_new_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let before = budget(Some(&directory));
        for second in [0, 1, 2] {
            assert!(matches!(acquire_at(&before, "a", 10 + second), QuotaCheck::Allowed { .. }));
        }
        let restarted = budget(Some(&directory));
        assert!(matches!(acquire_at(&restarted, "a", 5), QuotaCheck::Exhausted { .. }));
        assert!(
            matches!(acquire_at(&restarted, "a", 5 + 3_700), QuotaCheck::Allowed { .. }),
            "an hour later they are over"
        );
    }

    /// A host that ran a year ahead for a moment: its logins count for a window from when the clock is right again.
    #[test]
    fn a_clock_that_ran_ahead_blocks_logins_for_one_window_at_most() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        for second in [0, 1, 2] {
            acquire_at(&budget(Some(&directory)), "a", 365 * 86_400 + second);
        }
        assert!(matches!(acquire_at(&budget(Some(&directory)), "a", 10), QuotaCheck::Exhausted { .. }));
        assert!(matches!(acquire_at(&budget(Some(&directory)), "a", 10 + 3_700), QuotaCheck::Allowed { .. }));
    }

    #[test]
    fn a_crash_loop_and_a_second_replica_share_one_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let start = || budget(Some(&directory));
        // Each login is the first of its process.
        for n in 0..3 {
            assert!(matches!(acquire_at(&start(), "user", n * 5), QuotaCheck::Allowed { .. }), "{n}");
        }
        let exhausted = QuotaCheck::Exhausted { retry_after: Duration::from_secs(3585) };
        assert_eq!(acquire_at(&start(), "user", 15), exhausted);
        assert!(matches!(acquire_at(&start(), "other", 15), QuotaCheck::Allowed { .. }));
        assert!(matches!(acquire_at(&start(), "user", 3600), QuotaCheck::Allowed { .. }));
    }

    /// As where a disk was full for a while, or hung.
    #[test]
    fn flush_writes_the_logins_that_were_counted_in_memory_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (before, moment) = (budget(Some(&directory)), UnixTime::from_seconds(1_000_000));
        for id in [0, 1, 2] {
            let taken = before.try_acquire_in_memory(&request("user", id), moment, Duration::ZERO);
            assert!(matches!(taken, QuotaCheck::Allowed { .. }));
        }
        // A disk that hung and comes back counts none of them twice.
        assert!(matches!(
            before.try_acquire(&request("user", 1), moment, Duration::ZERO),
            QuotaCheck::Allowed { .. }
        ));
        before.flush();
        assert!(matches!(acquire_at(&budget(Some(&directory)), "user", 5), QuotaCheck::Exhausted { .. }));
    }

    #[test]
    fn without_a_state_directory_logins_are_counted_in_memory() {
        let budget = budget(None);
        for n in 0..3 {
            acquire_at(&budget, "user", n);
        }
        assert!(matches!(acquire_at(&budget, "user", 4), QuotaCheck::Exhausted { .. }));
        // A step of the wall clock makes none of our own logins undone.
        for wall in [0, 2_000_000] {
            let taken =
                budget.try_acquire(&request("user", 9), UnixTime::from_seconds(wall), Duration::from_secs(5));
            assert!(matches!(taken, QuotaCheck::Exhausted { .. }), "{wall}");
        }
    }

    /// It was never sent: a disk that is full then doesn't make it a login.
    #[test]
    fn a_refund_counts_although_it_could_not_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let budget = budget(Some(&directory));
        for id in [0, 1, 2] {
            acquire_at(&budget, "user", id);
        }
        let mut files = fs::read_dir(&directory).expect("a folder").map(|file| file.expect("a file").path());
        let file = files.find(|path| path.extension().is_none()).expect("a file");
        fs::create_dir(file.with_extension("new")).expect("in the way, even of root");
        budget.refund(&request("user", 2));
        assert_eq!(budget.failed_writes.get(), 1);
        assert!(matches!(acquire_at(&budget, "user", 3), QuotaCheck::Allowed { .. }));
        fs::remove_dir(file.with_extension("new")).expect("gone");
        assert!(matches!(acquire_at(&budget, "user", 4), QuotaCheck::Exhausted { .. }));
    }

    /// A disk that is full or read-only, and one that comes back: the file has what others did, memory what we did.
    #[test]
    fn logins_in_the_file_and_in_memory_are_added_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (one, other) = (budget(Some(&directory)), budget(Some(&directory)));
        acquire_at(&one, "user", 0);
        let file = |extension: &str| {
            let mut files =
                fs::read_dir(&directory).expect("a folder").map(|file| file.expect("a file").path());
            files.find(|path| path.extension().is_none()).expect("a file").with_extension(extension)
        };
        // Nothing can be written where a folder is in the way, not even by root.
        fs::create_dir(file("new")).expect("a folder");
        acquire_at(&one, "user", 1);
        assert_eq!(one.failed_writes.get(), 1);
        fs::remove_dir(file("new")).expect("gone");
        // The other replica knows of one only; then of its own, too.
        assert!(matches!(acquire_at(&other, "user", 2), QuotaCheck::Allowed { .. }));
        assert!(
            matches!(acquire_at(&one, "user", 3), QuotaCheck::Exhausted { .. }),
            "one in the file, one of the other, one of ours"
        );
        // Where the file is gone or unreadable, all that was seen counts on.
        fs::remove_file(file("")).expect("gone");
        assert!(matches!(acquire_at(&one, "user", 4), QuotaCheck::Exhausted { .. }));
    }

    #[test]
    fn a_refund_is_written_to_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (one, other) = (budget(Some(&directory)), budget(Some(&directory)));
        for n in 0..3 {
            acquire_at(&one, "user", n);
        }
        assert!(matches!(acquire_at(&other, "user", 3), QuotaCheck::Exhausted { .. }));
        one.refund(&request("user", 1));
        assert!(matches!(acquire_at(&other, "user", 4), QuotaCheck::Allowed { .. }));
        assert!(matches!(acquire_at(&one, "user", 5), QuotaCheck::Exhausted { .. }));
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let budget = budget(Some(&directory));
        let name = HEXLOWER.encode(&sha256(b"user")[..16]);
        fs::write(directory.join(name), "1000000\n1000000\n").expect("written");
        assert!(matches!(acquire_at(&budget, "user", 1), QuotaCheck::Allowed { .. }));
        assert!(matches!(acquire_at(&budget, "user", 2), QuotaCheck::Exhausted { .. }));
    }
}
