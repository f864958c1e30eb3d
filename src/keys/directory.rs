//! Changes a key directory for a command: locked, atomic and verified.
//!
//! - One command at a time: the directory is locked (flock) from the read of `keyset.toml` until its replacement, where the file
//!   system has locks. Only a retirement proceeds without the lock, after a short wait. The text is compared once more right
//!   before the replacement, as editors take no lock.
//! - A file is replaced atomically: write, sync, rename, sync of the directory. The temporary file has a random name and is
//!   created exclusively (`O_EXCL`). A retirement that can't replace `keyset.toml` appends to it.
//! - New files get the owner, group and mode of similar files in the directory, or its own owner and group. So the service can
//!   read files that root writes.
//! - A written `keyset.toml` is read again, and must hold the intended text, or the appended retirement.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::NamedTempFile;
use thiserror::Error;

use super::directory_contents::{DirectoryContents, KeyFile};
use super::key_file::{read_schedule_bytes, read_schedule_unchecked};
use super::schedule::{SCHEDULE_FILE, Schedule, ScheduleChange, ScheduleEntry, retirement_marks};
use super::schedule_document::ScheduleDocument;
use crate::clock::UnixTime;
use crate::config::{KeyId, Problem};
use crate::files::parent_directory;

/// The reasons why a change to a key directory failed.
#[derive(Debug, Error)]
pub(crate) enum DirectoryError {
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("the key folder can't be opened ({0}): look at `directory` in the configuration")]
    NoDirectory(io::Error),
    #[error(
        "{}: another process has locked this folder (flock) for ten seconds; nothing was written. `fuser -v {}` names the \
         process: wait for it or end it, then run the command again",
        .0.display(), .0.display()
    )]
    Locked(PathBuf),
    #[error(
        "{} was changed by somebody else meanwhile; nothing was written: run the command again",
        .0.display()
    )]
    ChangedMeanwhile(PathBuf),
    #[error(
        "{} was overwritten by another program at the same moment: check its contents, then run the command again",
        .0.display()
    )]
    Overwritten(PathBuf),
    #[error(
        "{} was written, but can't be read back: it {reason}. No key was deleted: fix the file, and look at \
         `tokenmint keys list` before you run the command again",
        path.display()
    )]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} is written, but may be lost in a power failure: {reason}", path.display())]
    NotSynced { path: PathBuf, reason: String },
    #[error(
        "{} can't be edited as it is written: nothing was changed. Edit it by hand: {wanted}",
        path.display()
    )]
    NotEdited { path: PathBuf, wanted: String },
    #[error("{}: {message}", path.display())]
    Unclear { path: PathBuf, message: String },
    /// `keyset.toml` is invalid.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Schedule(Vec<Problem>),
}

impl DirectoryError {
    /// Whether the file may hold the new text despite the error.
    pub(crate) const fn is_written(&self) -> bool {
        matches!(self, Self::Overwritten(_) | Self::Unreadable { .. } | Self::NotSynced { .. })
    }
}

/// A key directory, locked unless `lock_result` says otherwise. Dropping it releases the lock.
pub(crate) struct KeyDirectory {
    path: PathBuf,
    /// Open for its lock.
    _lock: File,
    lock_result: LockResult,
}

impl KeyDirectory {
    /// Locks the directory. Waits for another command's lock for at most ten seconds.
    ///
    /// # Errors
    /// The directory can't be opened or locked, or another process still holds the lock.
    pub(crate) fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let lock = open_directory(path)?;
        match acquire_lock(&lock, path, LOCK_TIMEOUT)? {
            LockResult::HeldByAnother => Err(DirectoryError::Locked(path.to_path_buf())),
            lock_result => Ok(Self { path: path.to_path_buf(), _lock: lock, lock_result }),
        }
    }

    /// Locks the directory for a retirement. Every user who can read the directory can hold the lock, so a retirement waits
    /// only briefly and then proceeds without it: the comparison before the write remains.
    ///
    /// # Errors
    /// The directory can't be opened.
    pub(crate) fn lock_for_retirement(path: &Path) -> Result<Self, DirectoryError> {
        let lock = open_directory(path)?;
        let lock_result =
            acquire_lock(&lock, path, RETIREMENT_LOCK_TIMEOUT).unwrap_or(LockResult::Unavailable);
        Ok(Self { path: path.to_path_buf(), _lock: lock, lock_result })
    }

    pub(crate) fn is_locked_by_another(&self) -> bool {
        self.lock_result == LockResult::HeldByAnother
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens its `keyset.toml`. Without that file and with one key, the schedule lists that key with a `sign_from` in the past.
    ///
    /// # Errors
    /// The file can't be read, isn't TOML, or is missing where the directory doesn't hold exactly one key.
    pub(crate) fn schedule(
        &self,
        publish_lead: Duration,
        now: UnixTime,
    ) -> Result<ScheduleFile<'_>, DirectoryError> {
        let path = self.path.join(SCHEDULE_FILE);
        let read = read_schedule_text(&path)?;
        let name = path.display().to_string();
        let document = if let Some(text) = &read {
            ScheduleDocument::parse(&name, text).map_err(DirectoryError::Schedule)?
        } else {
            let mut document = ScheduleDocument::empty(&name);
            // Far enough in the past for every verifier to know the key.
            let known = publish_lead + Duration::from_hours(24);
            let lead = i64::try_from(known.as_secs()).unwrap_or(i64::MAX / 2);
            let sign_from = Some(UnixTime::from_seconds(now.seconds() - lead));
            document.apply(&ScheduleChange::Add(ScheduleEntry {
                sign_from,
                ..ScheduleEntry::without_dates(only_key(&self.path)?)
            }));
            document
        };
        Ok(ScheduleFile { directory: self, path, read, document, publish_lead })
    }

    /// Retires `kid` by an entry of its own at the end of `keyset.toml`, whatever the rest of the file holds. If the file can't be
    /// replaced, for example on a full disk, the entry is written into it in place; the file's last block usually has free bytes.
    ///
    /// # Errors
    /// The file can't be read or written, or the entry wouldn't count behind its text. Nothing was written, unless
    /// [`DirectoryError::is_written`] is true.
    pub(crate) fn append_retirement(&self, kid: &KeyId, at: UnixTime) -> Result<(), DirectoryError> {
        let path = self.path.join(SCHEDULE_FILE);
        let read = || {
            let bytes = read_schedule_bytes(&path);
            bytes.map_err(|reason| DirectoryError::File { path: path.clone(), reason })
        };
        let before = read()?;
        let is_retired = |bytes: &[u8]| {
            let marks = retirement_marks(&String::from_utf8_lossy(bytes));
            marks.iter().any(|mark| mark.kid == *kid && mark.retired.is_some())
        };
        let old = before.as_deref().unwrap_or_default();
        if is_retired(old) {
            return Ok(());
        }
        let mut entry = ScheduleDocument::empty(SCHEDULE_FILE);
        entry.apply(&ScheduleChange::Add(ScheduleEntry {
            retired: Some(at),
            ..ScheduleEntry::without_dates(kid.clone())
        }));
        let line_end = if old.is_empty() || old.ends_with(b"\n") { "" } else { "\n" };
        let added = format!("{line_end}{}", entry.text());
        let new = [old, added.as_bytes()].concat();
        if !is_retired(&new) {
            let wanted = ScheduleChange::Retire { kid: kid.clone(), at }.manual_edit();
            return Err(DirectoryError::NotEdited { path, wanted });
        }
        let replaced = self.replace_if(&path, &new, || Ok(read()? == before));
        match replaced {
            Err(failure @ DirectoryError::File { .. }) if before.is_some() => {
                append_in_place(&path, old.len() as u64, added.as_bytes()).map_err(|_| failure)?;
            }
            other => other?,
        }
        if read()?.is_some_and(|bytes| is_retired(&bytes)) {
            Ok(())
        } else {
            Err(DirectoryError::Overwritten(path))
        }
    }

    /// Creates a `keyset.toml` with this entry.
    ///
    /// # Errors
    /// The file exists, or can't be written.
    pub(crate) fn create_schedule(&self, entry: &ScheduleEntry) -> Result<(), DirectoryError> {
        let mut document = ScheduleDocument::empty(SCHEDULE_FILE);
        document.apply(&ScheduleChange::Add(entry.clone()));
        self.create_file(SCHEDULE_FILE, &SecretString::from(document.text())).map(|_| ())
    }

    /// Creates a file that the service can read.
    ///
    /// # Errors
    /// The file exists, or can't be written.
    pub(crate) fn create_file(&self, name: &str, content: &SecretString) -> Result<PathBuf, DirectoryError> {
        let path = self.path.join(name);
        let file = self.write_temporary(&path, content.expose_secret().as_bytes())?;
        file.persist_noclobber(&path).map_err(|error| self.write_error(&path, &error.error))?;
        self.sync(&path)?;
        Ok(path)
    }

    /// Replaces the file at `path`, whatever it holds.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn replace_file(&self, path: &Path, content: &[u8]) -> Result<(), DirectoryError> {
        self.replace_if(path, content, || Ok(true))
    }

    /// Replaces the file at `path`, if it still holds `read`. A symbolic link stays; its target is replaced.
    fn replace(&self, path: &Path, read: Option<&String>, content: &[u8]) -> Result<(), DirectoryError> {
        self.replace_if(path, content, || Ok(read_schedule_text(path)?.as_ref() == read))
    }

    /// Replaces the file at `path`, if `is_unchanged` is true right before.
    fn replace_if(
        &self,
        path: &Path,
        content: &[u8],
        is_unchanged: impl Fn() -> Result<bool, DirectoryError>,
    ) -> Result<(), DirectoryError> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let file = self.write_temporary(&target, content)?;
        // As late as possible: an editor takes no lock.
        if !is_unchanged()? {
            return Err(DirectoryError::ChangedMeanwhile(path.to_path_buf()));
        }
        file.persist(&target).map_err(|error| self.write_error(path, &error.error))?;
        self.sync(&target)
    }

    /// Writes `content` to a temporary file beside `path`, with the permissions that [`OwnerAndMode::choose_for`] chooses.
    fn write_temporary(&self, path: &Path, content: &[u8]) -> Result<NamedTempFile, DirectoryError> {
        let failed = |error: io::Error| self.write_error(path, &error);
        self.remove_stale_temporary_files();
        let access = OwnerAndMode::choose_for(path).map_err(failed)?;
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempfile_in(parent_directory(path))
            .map_err(failed)?;
        access.apply_to(file.as_file()).map_err(|error| DirectoryError::File {
            path: path.to_path_buf(),
            reason: format!(
                "can't be given to user {} and group {}, who own the files beside it ({error}): run this as root",
                access.uid, access.gid
            ),
        })?;
        file.write_all(content).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        Ok(file)
    }

    /// Removes the temporary files of commands that were killed; one may hold a private key. Only the holder of the lock
    /// does this: no other command has a temporary file then. A retirement without the lock may have one: if that is removed,
    /// the retirement appends its entry instead.
    fn remove_stale_temporary_files(&self) {
        let listing = fs::read_dir(&self.path).ok().filter(|_| self.lock_result == LockResult::Locked);
        for entry in listing.into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Syncs the directory of `path`, which makes a rename durable.
    fn sync(&self, path: &Path) -> Result<(), DirectoryError> {
        let synced = File::open(parent_directory(path)).and_then(|directory| directory.sync_all());
        match synced {
            // Some network file systems can't sync a directory.
            Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                Err(DirectoryError::NotSynced { path: path.to_path_buf(), reason: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a sentence where it is used")]
    fn write_error(&self, path: &Path, error: &io::Error) -> DirectoryError {
        let reason = match error.kind() {
            ErrorKind::AlreadyExists => "is there already, and nothing is overwritten".to_owned(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                format!("can't be written: {error}; free space on its file system, and run the command again")
            }
            _ => format!("can't be written: {error}"),
        };
        DirectoryError::File { path: path.to_path_buf(), reason }
    }
}

/// The `keyset.toml` of a locked directory.
pub(crate) struct ScheduleFile<'a> {
    directory: &'a KeyDirectory,
    path: PathBuf,
    /// The text that was read; `None` if there is no `keyset.toml`.
    read: Option<String>,
    document: ScheduleDocument,
    publish_lead: Duration,
}

impl ScheduleFile<'_> {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Parses the document.
    ///
    /// # Errors
    /// Lists every problem.
    pub(crate) fn schedule(&self) -> Result<Schedule, Vec<Problem>> {
        self.document.schedule(self.publish_lead)
    }

    /// Applies `changes` and writes the file. Returns the schedule after them.
    ///
    /// # Errors
    /// Nothing was written, unless [`DirectoryError::is_written`] is true.
    pub(crate) fn apply(&mut self, changes: &[ScheduleChange]) -> Result<Schedule, DirectoryError> {
        let before = self.schedule().map_err(DirectoryError::Schedule)?;
        let wanted = changes.iter().fold(before, |schedule, change| schedule.with_change(change));
        let document = self.with_changes(changes);
        let parsed = document.schedule(self.publish_lead).map_err(DirectoryError::Schedule)?;
        if parsed.entries != wanted.entries {
            return Err(self.not_edited_error(changes));
        }
        self.write(document)?;
        Ok(wanted)
    }

    /// Marks `kid` as retired, even if the file is otherwise invalid.
    ///
    /// # Errors
    /// The same as for [`apply`](Self::apply).
    pub(crate) fn mark_retired(&mut self, kid: &KeyId, at: UnixTime) -> Result<(), DirectoryError> {
        let changes = [ScheduleChange::Retire { kid: kid.clone(), at }];
        let document = self.with_changes(&changes);
        let is_retired = retirement_marks(&document.text())
            .iter()
            .any(|mark| mark.kid == *kid && mark.retired == Some(at));
        if !is_retired {
            return Err(self.not_edited_error(&changes));
        }
        self.write(document)
    }

    /// Writes `keyset.toml` if there is none yet.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn write_if_missing(&mut self) -> Result<(), DirectoryError> {
        match self.read {
            None => self.write(self.document.clone()),
            Some(_) => Ok(()),
        }
    }

    fn with_changes(&self, changes: &[ScheduleChange]) -> ScheduleDocument {
        let mut document = self.document.clone();
        for change in changes {
            document.apply(change);
        }
        document
    }

    /// The error for a file whose TOML has a form that the editor can't change.
    fn not_edited_error(&self, changes: &[ScheduleChange]) -> DirectoryError {
        let wanted = changes.iter().map(ScheduleChange::manual_edit).collect::<Vec<_>>().join("; ");
        DirectoryError::NotEdited { path: self.path.clone(), wanted }
    }

    fn write(&mut self, document: ScheduleDocument) -> Result<(), DirectoryError> {
        let text = document.text();
        self.directory.replace(&self.path, self.read.as_ref(), text.as_bytes())?;
        // The file may have the new text even if this fails: `is_written` must be true for the error.
        let written = read_schedule_unchecked(&self.path)
            .map_err(|reason| DirectoryError::Unreadable { path: self.path.clone(), reason })?;
        if written.as_ref() != Some(&text) {
            return Err(DirectoryError::Overwritten(self.path.clone()));
        }
        (self.read, self.document) = (written, document);
        Ok(())
    }
}

impl ScheduleChange {
    /// Describes the edit for somebody who makes it by hand.
    fn manual_edit(&self) -> String {
        match self {
            Self::Add(entry) => format!("a [[key]] with kid = \"{}\"", entry.kid),
            Self::Retire { kid, at } => format!("retired = {at} for `{kid}`"),
            Self::Promote { kid, at } => format!("sign_from = {at} and emergency = true for `{kid}`"),
        }
    }
}

/// The longest wait for another process's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait of a retirement. A command holds the lock for milliseconds.
const RETIREMENT_LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// The prefix of the names of temporary files.
const TEMPORARY_PREFIX: &str = ".keyset-";

fn open_directory(path: &Path) -> Result<File, DirectoryError> {
    File::open(path).map_err(|error| {
        if path.exists() {
            let reason = format!("can't be opened: {error}");
            DirectoryError::File { path: path.to_path_buf(), reason }
        } else {
            // The path isn't shown, as it may be a key that somebody configured in place of a path.
            DirectoryError::NoDirectory(error)
        }
    })
}

/// The ids of the keys that `directory` contains or lists.
pub(crate) fn held_and_listed_kids(directory: &Path) -> BTreeSet<KeyId> {
    let held = DirectoryContents::list(directory).map(|contents| contents.keys).unwrap_or_default();
    let listed = read_schedule_bytes(&directory.join(SCHEDULE_FILE)).ok().flatten().unwrap_or_default();
    let listed = retirement_marks(&String::from_utf8_lossy(&listed)).into_iter().map(|mark| mark.kid);
    held.into_keys().chain(listed).collect()
}

/// Whether the key directory at `path` has the key: `keyset.toml` lists it, or `KID.key` is there.
///
/// # Errors
/// The directory can't be opened, or its `keyset.toml` can't be read.
pub(crate) fn holds_kid(path: &Path, kid: &KeyId) -> Result<bool, DirectoryError> {
    open_directory(path)?;
    if KeyFile::of(path, kid).path().exists() {
        return Ok(true);
    }
    let schedule = path.join(SCHEDULE_FILE);
    let bytes = read_schedule_bytes(&schedule);
    let bytes = bytes.map_err(|reason| DirectoryError::File { path: schedule, reason })?.unwrap_or_default();
    Ok(retirement_marks(&String::from_utf8_lossy(&bytes)).iter().any(|mark| mark.kid == *kid))
}

/// Writes `added` behind the first `length` bytes of the file. If that fails, the file keeps its old length.
fn append_in_place(path: &Path, length: u64, added: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().append(true).open(path)?;
    if file.metadata()?.len() != length {
        return Err(ErrorKind::InvalidData.into());
    }
    let written = (&file).write_all(added).and_then(|()| file.sync_all());
    written.inspect_err(|_| {
        let _ = file.set_len(length);
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LockResult {
    Locked,
    /// The file system has no locks, like some network file systems; or a retirement couldn't lock. The comparison before the
    /// write remains.
    Unavailable,
    HeldByAnother,
}

/// Locks the directory, and waits for another command's lock.
fn acquire_lock(directory: &File, path: &Path, time_limit: Duration) -> Result<LockResult, DirectoryError> {
    let begin = Instant::now();
    loop {
        match flock(directory.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(LockResult::Locked),
            Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::BADF) => {
                return Ok(LockResult::Unavailable);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) if begin.elapsed() < time_limit => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(LockResult::HeldByAnother),
            Err(error) => {
                let reason = format!("can't be locked: {}", io::Error::from(error));
                return Err(DirectoryError::File { path: path.to_path_buf(), reason });
            }
        }
    }
}

fn read_schedule_text(path: &Path) -> Result<Option<String>, DirectoryError> {
    read_schedule_unchecked(path).map_err(|reason| DirectoryError::File { path: path.to_path_buf(), reason })
}

/// The owner, group and mode of a file.
struct OwnerAndMode {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl OwnerAndMode {
    /// Chooses the permissions for a file at `path`. The first of these that exists decides: that file, a file with the
    /// same extension beside it, a key beside it, the directory's owner and group. [`key_mode`](Self::key_mode) limits the mode
    /// of a private key.
    fn choose_for(path: &Path) -> io::Result<Self> {
        let of = |metadata: &fs::Metadata| Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o666,
        };
        let directory = parent_directory(path);
        let similar = |extension: Option<&OsStr>| {
            let paths = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let like = paths.filter(|other| other.extension() == extension && is_visible(other));
            like.min().and_then(|other| fs::metadata(other).ok()).filter(fs::Metadata::is_file)
        };
        let is_key = path.extension() == Some(OsStr::new("key"));
        if let Some(metadata) = fs::metadata(path).ok().or_else(|| similar(path.extension())) {
            let access = of(&metadata);
            return Ok(if is_key { Self { mode: access.key_mode(), ..access } } else { access });
        }
        // Only private keys are confidential.
        let for_all = if is_key { 0 } else { 0o044 };
        if let Some(key) = similar(Some(OsStr::new("key"))) {
            return Ok(Self { mode: of(&key).key_mode() | for_all, ..of(&key) });
        }
        let metadata = fs::metadata(directory)?;
        let for_group = metadata.uid() == 0 && metadata.gid() != 0 && metadata.mode() & 0o040 != 0;
        Ok(Self { mode: if for_group { 0o440 } else { 0o600 } | for_all, ..of(&metadata) })
    }

    /// The mode for a private key: this mode, or 0600 if this mode gives others any access or lets the group write.
    const fn key_mode(&self) -> u32 {
        if self.mode & 0o027 == 0 { self.mode } else { 0o600 }
    }

    /// Sets owner and group before the mode, so that the wrong group can never read the file.
    fn apply_to(&self, file: &File) -> io::Result<()> {
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != (self.uid, self.gid) {
            fchown(file, Some(self.uid), Some(self.gid))?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

fn is_visible(path: &Path) -> bool {
    path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

/// Returns the id of the only key in `directory`.
fn only_key(directory: &Path) -> Result<KeyId, DirectoryError> {
    let unclear = |message: String| DirectoryError::Unclear { path: directory.to_path_buf(), message };
    let contents =
        DirectoryContents::list(directory).map_err(|error| unclear(format!("can't be listed: {error}")))?;
    let mut kids = contents.keys.into_keys();
    match (kids.next(), kids.next()) {
        (Some(kid), None) => Ok(kid),
        (None, _) => Err(unclear("holds no key; `tokenmint keys new` makes the first".to_owned())),
        (Some(_), Some(_)) => {
            Err(unclear(format!("holds several keys; write {SCHEDULE_FILE} to say from when each signs")))
        }
    }
}
