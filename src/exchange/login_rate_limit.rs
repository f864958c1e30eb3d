//! Login rate limit (metrics and the reference call it the login budget): a sliding window for each account, by default below Salesforce's own limit. Salesforce refuses a user
//! that exceeds 3,600 logins an hour, in every integration, for an hour; this limit keeps a bug from causing that. Messaging
//! requests have such a limit too, for each org.
//!
//! Requests of the last window are counted in memory and, with `state_directory`, in a small file for each account. The
//! file makes the count survive restarts and crash loops. All processes of one user with the same directory share it. The count is
//! written ahead: before the request is sent. The file is replaced atomically (write and rename), under a file lock. If
//! it can't be read or written, memory alone counts, and a metric reports that. The file contains times and random ids.
//! Its name is a hash of the account.

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

/// Attempts to take the file lock. Another process holds it only while it reads and writes the file, which has 16 KB at
/// the default of 360 logins.
const FILE_LOCK_ATTEMPTS: u32 = 40;
const FILE_LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// At most `requests` in each `window`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestQuota {
    pub(crate) requests: usize,
    pub(crate) window: Duration,
}

/// Result of counting a request against a [`RequestQuota`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum QuotaCheck {
    Allowed { used: f64 },
    Exhausted { retry_after: Duration },
}

/// Why a request is sent: how much of the quota it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestReason {
    /// There is no token, or it is renewed before it expires.
    Needed,
    /// A caller reported a token as rejected that is still cached.
    Reported,
}

/// A request to count against the quota of `account`, with a unique id.
#[derive(Clone)]
pub(crate) struct CountedRequest {
    pub(crate) account: String,
    pub(crate) id: String,
    pub(crate) quota: RequestQuota,
    pub(crate) reason: RequestReason,
}

impl CountedRequest {
    /// The number of counted requests from which on this one isn't allowed. A report may use the first half of the quota
    /// only, so that the second half is left for tokens that are needed.
    pub(crate) const fn limit(&self) -> usize {
        match self.reason {
            RequestReason::Needed => self.quota.requests,
            RequestReason::Reported => self.quota.requests.div_ceil(2),
        }
    }
}

/// The counted requests of one account.
#[derive(Default)]
struct LoginLog {
    /// This process's own requests: id and monotonic time, so that a step of the wall clock expires none of them.
    own: HashMap<String, Duration>,
    /// All known requests, from the file as last read and from this process: id and wall-clock time.
    known: BTreeMap<String, i64>,
    /// Ids of refunded requests, until a file without them was read.
    refunded: BTreeSet<String>,
    /// The fraction that all replicas together have used, and until when that is current (monotonic).
    shared: Option<(f64, Duration)>,
}

/// The login rate limit of all accounts.
pub(crate) struct LoginRateLimit {
    /// The directory of the files; `None` to count in memory alone.
    directory: Option<PathBuf>,
    /// Held during file access, so that `logins` isn't locked while waiting for the disk.
    files: Mutex<()>,
    logins: Mutex<HashMap<String, LoginLog>>,
    failed_writes: IntCounter,
}

impl LoginRateLimit {
    /// Stores the files in `directory`, which must belong to this process's user, without access for group and others.
    /// Otherwise logs a warning, and counts in memory alone.
    pub(crate) fn new(directory: Option<&Path>, failed_writes: IntCounter) -> Self {
        let usable = directory.filter(|directory| match ensure_private_directory(directory) {
            Ok(()) => true,
            Err(reason) => {
                // A misconfigured path may be a secret, so only an existing path is logged.
                let directory = if directory.exists() { directory } else { Path::new("state_directory") }.display();
                tracing::warn!(%directory, reason, "the login budget is kept in memory only: a restart forgets it");
                failed_writes.inc();
                false
            }
        });
        let directory = usable.map(Path::to_path_buf);
        Self { directory, files: Mutex::default(), logins: Mutex::default(), failed_writes }
    }

    /// Counts a request if the quota allows it. Blocks on file access.
    pub(crate) fn try_acquire(
        &self,
        counted: &CountedRequest,
        now: UnixTime,
        monotonic: Duration,
    ) -> QuotaCheck {
        self.with_file(&counted.account, |file| self.count(file, counted, now, monotonic))
    }

    /// Like [`try_acquire`](Self::try_acquire) without the file, for when the disk hangs.
    pub(crate) fn try_acquire_in_memory(
        &self,
        counted: &CountedRequest,
        now: UnixTime,
        monotonic: Duration,
    ) -> QuotaCheck {
        self.failed_writes.inc();
        self.count(None, counted, now, monotonic).0
    }

    /// Counts a request, and returns the new content of the file; `None` if it needn't be written.
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
        // If the disk hung, the request has already been counted in memory.
        if !logins.known.contains_key(&counted.id) {
            if logins.known.len() >= counted.limit() {
                let retry_after = logins.time_until_free(quota.window, now, monotonic);
                return (QuotaCheck::Exhausted { retry_after }, is_corrected.then(|| logins.known.clone()));
            }
            logins.own.insert(counted.id.clone(), monotonic);
            logins.known.insert(counted.id.clone(), now.seconds());
        }
        (QuotaCheck::Allowed { used: used_fraction(logins.known.len(), quota) }, Some(logins.known.clone()))
    }

    /// Writes counts that couldn't be written before. Blocks on file access.
    pub(crate) fn flush(&self) {
        let accounts: Vec<String> = self.logins().keys().cloned().collect();
        for account in accounts {
            self.with_file(&account, |file| {
                let mut logins = self.logins();
                let logins = logins.entry(account.clone()).or_default();
                let in_file = file.clone().unwrap_or_default();
                logins.merge_file(file);
                ((), Some(logins.known.clone()).filter(|merged| *merged != in_file))
            });
        }
    }

    /// Removes a request that was counted but not sent. Blocks on file access.
    pub(crate) fn refund(&self, counted: &CountedRequest) {
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

    /// Records the fraction that all replicas together have used, for the metric.
    pub(crate) fn record_shared_usage(&self, account: &str, used: f64, until: Duration) {
        self.logins().entry(account.to_owned()).or_default().shared = Some((used, until));
    }

    /// The used fraction of the quota, from memory: this host's or all replicas', whichever is larger. `None` if the account
    /// has made no request.
    pub(crate) fn usage(
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

    /// Reads the file of `account`, calls `act` with its content, and writes what `act` returns, under the file lock.
    /// If the lock can't be taken, doesn't write.
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
                let path = path.display();
                tracing::warn!(
                    %error,
                    "can't read {path}: logins are counted in memory only, without those of other processes; check the disk and the \
                     owner of state_directory"
                );
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
            let path = path.display();
            tracing::warn!(
                %error,
                "can't write {path}: logins are counted in memory only, so a restart forgets them; check the disk and the owner of \
                 state_directory"
            );
        }
        result
    }
}

impl LoginLog {
    /// Merges the file's requests with this process's own, which may be missing from the file if it couldn't be written.
    fn merge_file(&mut self, file: Option<BTreeMap<String, i64>>) {
        let Some(mut file) = file else { return };
        // Ids that the file no longer has need no further removal.
        self.refunded.retain(|id| file.remove(id).is_some());
        for id in self.own.keys() {
            if let Some(time) = self.known.get(id) {
                file.entry(id.clone()).or_insert(*time);
            }
        }
        self.known = file;
    }

    /// Removes requests older than `window`. Returns whether it corrected a time more than `window` in the future.
    fn expire(&mut self, window: Duration, now: UnixTime, monotonic: Duration) -> bool {
        self.own.retain(|_, time| monotonic.saturating_sub(*time) < window);
        let (own, window, now) = (&self.own, seconds(window), now.seconds());
        // Another process's request in the future is from before the clock was set back by an unknown amount: treat it
        // as made now.
        let mut is_corrected = false;
        for (_, time) in self.known.iter_mut().filter(|(id, time)| !own.contains_key(*id) && **time > now) {
            is_corrected |= *time > now + window;
            *time = now;
        }
        self.known.retain(|id, time| own.contains_key(id) || *time > now - window);
        is_corrected
    }

    /// Returns the time until the oldest request leaves the window, at least one second.
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

/// The fraction of `quota` that `count` requests use.
#[expect(clippy::cast_precision_loss, reason = "thousands at most")]
pub(crate) fn used_fraction(count: usize, quota: RequestQuota) -> f64 {
    count as f64 / quota.requests as f64
}

/// Creates the directory if needed, and checks that it belongs to this process's user and that no one else has access.
fn ensure_private_directory(directory: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| error.to_string())?;
    let metadata = fs::symlink_metadata(directory).map_err(|error| error.to_string())?;
    if !metadata.is_dir() {
        return Err("this path exists and is not a directory".to_owned());
    }
    let ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if ours {
        Ok(())
    } else {
        Err(format!(
            "it must belong to this process's user with mode 700, but belongs to user {} with mode {:o}",
            metadata.uid(),
            metadata.mode() & 0o7777
        ))
    }
}

/// Returns an error if `path` exists and isn't a directory, or is one that group or others may access.
pub(crate) fn reject_shared_directory(path: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.is_dir() {
        return Err("this path exists and is not a directory".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(format!("it must have mode 700, and has mode {mode:o}")) }
}

/// Takes the lock of a login file. It is a separate file, because a rename replaces the login file. Closing the returned
/// file releases the lock.
fn acquire_lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    for _ in 0..FILE_LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(FILE_LOCK_RETRY_INTERVAL),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds its lock"))
}

/// Reads the file: each line has a time and an id. Earlier versions wrote the time alone.
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
        CountedRequest {
            account: account.to_owned(),
            id: format!("id{id}"),
            quota: HOURLY,
            reason: RequestReason::Needed,
        }
    }

    /// Acquires at a time of `seconds` by both clocks.
    fn acquire_at(budget: &LoginRateLimit, account: &str, seconds: i64) -> QuotaCheck {
        let monotonic = Duration::from_secs(u64::try_from(seconds).expect("after the start"));
        budget.try_acquire(&request(account, seconds), UnixTime::from_seconds(1_000_000 + seconds), monotonic)
    }

    /// For example, NTP sets it back a few seconds before a restart.
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
            "an hour later they have expired"
        );
    }

    /// If the clock was a year ahead for a moment, the logins of that time count for one window after it is right again.
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
        // Each login comes from a new process.
        for n in 0..3 {
            assert!(matches!(acquire_at(&start(), "user", n * 5), QuotaCheck::Allowed { .. }), "{n}");
        }
        let exhausted = QuotaCheck::Exhausted { retry_after: Duration::from_secs(3585) };
        assert_eq!(acquire_at(&start(), "user", 15), exhausted);
        assert!(matches!(acquire_at(&start(), "other", 15), QuotaCheck::Allowed { .. }));
        assert!(matches!(acquire_at(&start(), "user", 3600), QuotaCheck::Allowed { .. }));
    }

    /// For example, the disk was full for a while, or hung.
    #[test]
    fn flush_writes_the_logins_that_were_counted_in_memory_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (before, moment) = (budget(Some(&directory)), UnixTime::from_seconds(1_000_000));
        for id in [0, 1, 2] {
            let taken = before.try_acquire_in_memory(&request("user", id), moment, Duration::ZERO);
            assert!(matches!(taken, QuotaCheck::Allowed { .. }));
        }
        // When the disk works again, no request is counted twice.
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
        // A step of the wall clock expires none of this process's own logins.
        for wall in [0, 2_000_000] {
            let taken =
                budget.try_acquire(&request("user", 9), UnixTime::from_seconds(wall), Duration::from_secs(5));
            assert!(matches!(taken, QuotaCheck::Exhausted { .. }), "{wall}");
        }
    }

    /// The request was never sent, so it isn't a login, even if the disk is full when it is refunded.
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

    /// If the disk is full or read-only for a while, the file has the other processes' logins, and memory has this one's.
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
        // A folder at the path of the new file blocks writing, even by root.
        fs::create_dir(file("new")).expect("a folder");
        acquire_at(&one, "user", 1);
        assert_eq!(one.failed_writes.get(), 1);
        fs::remove_dir(file("new")).expect("gone");
        // The other replica has seen one login in the file, and adds its own.
        assert!(matches!(acquire_at(&other, "user", 2), QuotaCheck::Allowed { .. }));
        assert!(
            matches!(acquire_at(&one, "user", 3), QuotaCheck::Exhausted { .. }),
            "one in the file, one of the other replica, one of this one"
        );
        // If the file is gone or unreadable, the known logins still count.
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
