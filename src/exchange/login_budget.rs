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
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// So many requests in so long.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub requests: usize,
    pub window: Duration,
}

/// How much of an allowance is used, or how long until there is some again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Taken {
    Within { used: f64 },
    Exhausted { retry_after: Duration },
}

/// One more request of `who`, under an id that nobody else has.
#[derive(Clone)]
pub struct Spend {
    pub who: String,
    pub id: String,
    pub allowance: Allowance,
}

#[derive(Default)]
struct Logins {
    /// This process's own, by id, at steady times: no step of the wall clock makes them fewer.
    own: HashMap<String, Duration>,
    /// All that the file had when it could last be read, and our own since then; by id, at wall times.
    seen: BTreeMap<String, i64>,
    /// Those that were given back, as long as a file has them that couldn't be written.
    given_back: BTreeSet<String>,
    /// What the replicas that share a cache have used, and until when that may be so.
    shared: Option<(f64, Duration)>,
}

pub struct LoginBudget {
    /// Where the files are, if they can be.
    directory: Option<PathBuf>,
    /// Held while a file is read and written, so that nobody who looks at `logins` waits for a disk.
    files: Mutex<()>,
    logins: Mutex<HashMap<String, Logins>>,
    failed_writes: IntCounter,
}

impl LoginBudget {
    /// Keeps its files in `directory`, which must be ours alone.
    pub fn new(directory: Option<&Path>, failed_writes: IntCounter) -> Self {
        let usable = directory.filter(|directory| match private_directory(directory) {
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
    pub fn spend(&self, spend: &Spend, now: UnixTime, steady: Duration) -> Taken {
        self.with_file(&spend.who, |file| self.count(file, spend, now, steady))
    }

    /// As [`spend`](Self::spend), where the disk hangs.
    pub fn spend_in_memory(&self, spend: &Spend, now: UnixTime, steady: Duration) -> Taken {
        self.failed_writes.inc();
        self.count(None, spend, now, steady).0
    }

    /// Also what the file should have then.
    fn count(
        &self,
        file: Option<BTreeMap<String, i64>>,
        spend: &Spend,
        now: UnixTime,
        steady: Duration,
    ) -> (Taken, Option<BTreeMap<String, i64>>) {
        let mut logins = self.logins();
        let logins = logins.entry(spend.who.clone()).or_default();
        logins.learn(file);
        let allowance = spend.allowance;
        let is_mended = logins.forget_past(allowance.window, now, steady);
        // A disk that hung may come to it after memory has counted.
        if !logins.seen.contains_key(&spend.id) {
            if logins.seen.len() >= allowance.requests {
                let retry_after = logins.wait(allowance.window, now, steady);
                return (Taken::Exhausted { retry_after }, is_mended.then(|| logins.seen.clone()));
            }
            logins.own.insert(spend.id.clone(), steady);
            logins.seen.insert(spend.id.clone(), now.seconds());
        }
        (Taken::Within { used: share(logins.seen.len(), allowance) }, Some(logins.seen.clone()))
    }

    /// Writes what a disk didn't take when it was counted. Blocks on small files.
    pub fn flush(&self) {
        let known: Vec<String> = self.logins().keys().cloned().collect();
        for who in known {
            self.with_file(&who, |file| {
                let mut logins = self.logins();
                let logins = logins.entry(who.clone()).or_default();
                let known = file.clone().unwrap_or_default();
                logins.learn(file);
                ((), Some(logins.seen.clone()).filter(|seen| *seen != known))
            });
        }
    }

    /// Takes back a request that was counted and never sent. Blocks on a small file.
    pub fn give_back(&self, spend: &Spend) {
        self.with_file(&spend.who, |file| {
            let mut logins = self.logins();
            let logins = logins.entry(spend.who.clone()).or_default();
            logins.given_back.insert(spend.id.clone());
            logins.learn(file);
            logins.own.remove(&spend.id);
            logins.seen.remove(&spend.id);
            ((), Some(logins.seen.clone()))
        });
    }

    /// Keeps what all replicas together have used, for the metric.
    pub fn note_shared(&self, who: &str, used: f64, until: Duration) {
        self.logins().entry(who.to_owned()).or_default().shared = Some((used, until));
    }

    /// The used share at this time, as far as memory knows.
    pub fn used(&self, who: &str, allowance: Allowance, now: UnixTime, steady: Duration) -> Option<f64> {
        let mut logins = self.logins();
        let logins = logins.get_mut(who)?;
        logins.forget_past(allowance.window, now, steady);
        let shared = logins.shared.filter(|(_, until)| steady < *until).map_or(0.0, |(used, _)| used);
        Some(share(logins.seen.len(), allowance).max(shared))
    }

    fn logins(&self) -> MutexGuard<'_, HashMap<String, Logins>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file of `who`, and writes what `act` leaves there, alone of all processes.
    fn with_file<T>(
        &self,
        who: &str,
        act: impl FnOnce(Option<BTreeMap<String, i64>>) -> (T, Option<BTreeMap<String, i64>>),
    ) -> T {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(directory) = &self.directory else { return act(None).0 };
        let path = directory.join(HEXLOWER.encode(&sha256(who.as_bytes())[..16]));
        let locked = lock(&path.with_extension("lock"));
        let known = match read(&path) {
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
            (Ok(_), Some(content)) => write(&path, content),
            (Err(error), Some(_)) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if let Err(error) = written {
            self.failed_writes.inc();
            tracing::warn!(%error, "a login can't be recorded: memory alone counts it");
        }
        result
    }
}

impl Logins {
    /// The file's logins count, and our own, whether or not they could be written.
    fn learn(&mut self, file: Option<BTreeMap<String, i64>>) {
        let Some(mut file) = file else { return };
        // A file without them was written since.
        self.given_back.retain(|id| file.remove(id).is_some());
        for id in self.own.keys() {
            if let Some(time) = self.seen.get(id) {
                file.entry(id.clone()).or_insert(*time);
            }
        }
        self.seen = file;
    }

    /// Whether the time of one was mended that is too far ahead to end by itself.
    fn forget_past(&mut self, window: Duration, now: UnixTime, steady: Duration) -> bool {
        self.own.retain(|_, time| steady.saturating_sub(*time) < window);
        let (own, window, now) = (&self.own, seconds(window), now.seconds());
        // Another's in the future is one from before the clock was set back, and by how much isn't known: it counts as one of now.
        let mut is_mended = false;
        for (_, time) in self.seen.iter_mut().filter(|(id, time)| !own.contains_key(*id) && **time > now) {
            is_mended |= *time > now + window;
            *time = now;
        }
        self.seen.retain(|id, time| own.contains_key(id) || *time > now - window);
        is_mended
    }

    /// Until the first of them is past.
    fn wait(&self, window: Duration, now: UnixTime, steady: Duration) -> Duration {
        let wait = |(id, time): (&String, &i64)| match self.own.get(id) {
            Some(own) => (*own + window).saturating_sub(steady),
            None => Duration::from_secs(u64::try_from(time + seconds(window) - now.seconds()).unwrap_or(1)),
        };
        self.seen.iter().map(wait).min().unwrap_or_default().max(Duration::from_secs(1))
    }
}

fn seconds(window: Duration) -> i64 {
    i64::try_from(window.as_secs()).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "thousands at most")]
pub fn share(count: usize, allowance: Allowance) -> f64 {
    count as f64 / allowance.requests as f64
}

fn private_directory(directory: &Path) -> Result<(), String> {
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
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds its lock"))
}

/// A line is a time and an id. In files of earlier versions it is a time alone.
fn read(path: &Path) -> io::Result<BTreeMap<String, i64>> {
    let text = fs::read_to_string(path)?;
    let login = |(number, line): (usize, &str)| {
        let (time, id) = line.split_once(' ').unwrap_or((line, ""));
        let id = if id.is_empty() { format!("#{number}") } else { id.to_owned() };
        Some((id, time.parse().ok()?))
    };
    Ok(text.lines().enumerate().filter_map(login).collect())
}

fn write(path: &Path, logins: &BTreeMap<String, i64>) -> io::Result<()> {
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

    const HOURLY: Allowance = Allowance { requests: 3, window: Duration::from_hours(1) };

    fn budget(directory: Option<&Path>) -> LoginBudget {
        LoginBudget::new(directory, IntCounter::new("failed", "Failed writes.").expect("a counter"))
    }

    fn spend(who: &str, id: i64) -> Spend {
        Spend { who: who.to_owned(), id: format!("id{id}"), allowance: HOURLY }
    }

    /// At so many seconds by both clocks.
    fn at(budget: &LoginBudget, who: &str, seconds: i64) -> Taken {
        let steady = Duration::from_secs(u64::try_from(seconds).expect("after the start"));
        budget.spend(&spend(who, seconds), UnixTime::from_seconds(1_000_000 + seconds), steady)
    }

    /// As NTP does, a few seconds before a restart.
    #[test]
    fn a_clock_that_is_set_back_gives_no_restart_a_new_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let before = budget(Some(&directory));
        for second in [0, 1, 2] {
            assert!(matches!(at(&before, "a", 10 + second), Taken::Within { .. }));
        }
        let restarted = budget(Some(&directory));
        assert!(matches!(at(&restarted, "a", 5), Taken::Exhausted { .. }));
        assert!(
            matches!(at(&restarted, "a", 5 + 3_700), Taken::Within { .. }),
            "an hour later they are over"
        );
    }

    /// A host that ran a year ahead for a moment: its logins count for a window from when the clock is right again.
    #[test]
    fn a_clock_that_was_ahead_locks_nobody_out_for_longer_than_a_window() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        for second in [0, 1, 2] {
            at(&budget(Some(&directory)), "a", 365 * 86_400 + second);
        }
        assert!(matches!(at(&budget(Some(&directory)), "a", 10), Taken::Exhausted { .. }));
        assert!(matches!(at(&budget(Some(&directory)), "a", 10 + 3_700), Taken::Within { .. }));
    }

    #[test]
    fn a_crash_loop_and_a_second_replica_share_one_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let start = || budget(Some(&directory));
        // Each login is the first of its process.
        for n in 0..3 {
            assert!(matches!(at(&start(), "user", n * 5), Taken::Within { .. }), "{n}");
        }
        let exhausted = Taken::Exhausted { retry_after: Duration::from_secs(3585) };
        assert_eq!(at(&start(), "user", 15), exhausted);
        assert!(matches!(at(&start(), "other", 15), Taken::Within { .. }));
        assert!(matches!(at(&start(), "user", 3600), Taken::Within { .. }));
    }

    /// As where a disk was full for a while, or hung.
    #[test]
    fn what_the_disk_did_not_take_is_written_at_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (before, moment) = (budget(Some(&directory)), UnixTime::from_seconds(1_000_000));
        for id in [0, 1, 2] {
            let taken = before.spend_in_memory(&spend("user", id), moment, Duration::ZERO);
            assert!(matches!(taken, Taken::Within { .. }));
        }
        // A disk that hung and comes back counts none of them twice.
        assert!(matches!(before.spend(&spend("user", 1), moment, Duration::ZERO), Taken::Within { .. }));
        before.flush();
        assert!(matches!(at(&budget(Some(&directory)), "user", 5), Taken::Exhausted { .. }));
    }

    #[test]
    fn without_a_place_for_files_memory_counts() {
        let budget = budget(None);
        for n in 0..3 {
            at(&budget, "user", n);
        }
        assert!(matches!(at(&budget, "user", 4), Taken::Exhausted { .. }));
        // A step of the wall clock makes none of our own logins undone.
        for wall in [0, 2_000_000] {
            let taken = budget.spend(&spend("user", 9), UnixTime::from_seconds(wall), Duration::from_secs(5));
            assert!(matches!(taken, Taken::Exhausted { .. }), "{wall}");
        }
    }

    /// It was never sent: a disk that is full then doesn't make it a login.
    #[test]
    fn what_was_given_back_counts_no_more_though_the_disk_did_not_take_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let budget = budget(Some(&directory));
        for id in [0, 1, 2] {
            at(&budget, "user", id);
        }
        let mut files = fs::read_dir(&directory).expect("a folder").map(|file| file.expect("a file").path());
        let file = files.find(|path| path.extension().is_none()).expect("a file");
        fs::create_dir(file.with_extension("new")).expect("in the way, even of root");
        budget.give_back(&spend("user", 2));
        assert_eq!(budget.failed_writes.get(), 1);
        assert!(matches!(at(&budget, "user", 3), Taken::Within { .. }));
        fs::remove_dir(file.with_extension("new")).expect("gone");
        assert!(matches!(at(&budget, "user", 4), Taken::Exhausted { .. }));
    }

    /// A disk that is full or read-only, and one that comes back: the file has what others did, memory what we did.
    #[test]
    fn what_the_file_has_and_what_memory_has_count_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (one, other) = (budget(Some(&directory)), budget(Some(&directory)));
        at(&one, "user", 0);
        let file = |extension: &str| {
            let mut files =
                fs::read_dir(&directory).expect("a folder").map(|file| file.expect("a file").path());
            files.find(|path| path.extension().is_none()).expect("a file").with_extension(extension)
        };
        // Nothing can be written where a folder is in the way, not even by root.
        fs::create_dir(file("new")).expect("a folder");
        at(&one, "user", 1);
        assert_eq!(one.failed_writes.get(), 1);
        fs::remove_dir(file("new")).expect("gone");
        // The other replica knows of one only; then of its own, too.
        assert!(matches!(at(&other, "user", 2), Taken::Within { .. }));
        assert!(
            matches!(at(&one, "user", 3), Taken::Exhausted { .. }),
            "one in the file, one of the other, one of ours"
        );
        // Where the file is gone or unreadable, all that was seen counts on.
        fs::remove_file(file("")).expect("gone");
        assert!(matches!(at(&one, "user", 4), Taken::Exhausted { .. }));
    }

    #[test]
    fn what_was_not_sent_is_given_back_here_and_in_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let (one, other) = (budget(Some(&directory)), budget(Some(&directory)));
        for n in 0..3 {
            at(&one, "user", n);
        }
        assert!(matches!(at(&other, "user", 3), Taken::Exhausted { .. }));
        one.give_back(&spend("user", 1));
        assert!(matches!(at(&other, "user", 4), Taken::Within { .. }));
        assert!(matches!(at(&one, "user", 5), Taken::Exhausted { .. }));
    }

    #[test]
    fn a_file_of_an_earlier_version_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("logins");
        let budget = budget(Some(&directory));
        let name = HEXLOWER.encode(&sha256(b"user")[..16]);
        fs::write(directory.join(name), "1000000\n1000000\n").expect("written");
        assert!(matches!(at(&budget, "user", 1), Taken::Within { .. }));
        assert!(matches!(at(&budget, "user", 2), Taken::Exhausted { .. }));
    }
}
