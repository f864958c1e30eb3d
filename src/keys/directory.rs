//! A key directory as a command changes it.
//!
//! - One command at a time: the directory is locked from the read of `keyset.toml` to its replacement, and the text is
//!   compared once more before it is replaced, for editors that take no lock.
//! - A file is replaced in one step (write, sync, rename, sync of the directory), through a temporary file of a random name
//!   that only this process opens (`O_EXCL`).
//! - New files get owner, group and mode of those beside them, so that the service can read what root writes.
//! - What was written is read again, and must say what was wanted.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::NamedTempFile;
use thiserror::Error;

use super::edit::ScheduleDocument;
use super::file::read_schedule_of_anyone;
use super::folder::Contents;
use super::schedule::{Change, Entry, FILE, Schedule, marks};
use crate::clock::UnixTime;
use crate::config::{KeyId, Problem};
use crate::files::parent_directory;

/// Why a directory was not changed.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("the key folder can't be opened ({0}): look at `directory` in the configuration")]
    NoDirectory(io::Error),
    #[error("{}: another command is changing it; run this one again", .0.display())]
    Locked(PathBuf),
    #[error(
        "{} was changed by somebody else meanwhile; nothing was written: run the command again",
        .0.display()
    )]
    ChangedMeanwhile(PathBuf),
    #[error(
        "{} was overwritten by somebody else in the same moment: look what it says, and run the command again",
        .0.display()
    )]
    Overwritten(PathBuf),
    #[error("{} is written, but may not outlast a power failure: {reason}", path.display())]
    NotSynced { path: PathBuf, reason: String },
    #[error(
        "{} can't be edited as it is written: nothing was changed. Edit it by hand: {wanted}",
        path.display()
    )]
    NotEdited { path: PathBuf, wanted: String },
    #[error("{}: {message}", path.display())]
    Unclear { path: PathBuf, message: String },
    /// What is wrong with `keyset.toml`.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Schedule(Vec<Problem>),
}

impl DirectoryError {
    /// Whether the file may hold what was to be written all the same.
    pub const fn is_written(&self) -> bool {
        matches!(self, Self::Overwritten(_) | Self::NotSynced { .. })
    }
}

/// A key directory that this process alone changes, until it is dropped.
pub struct KeyDirectory {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

impl KeyDirectory {
    /// Waits for other commands, for ten seconds at most.
    ///
    /// # Errors
    /// The directory can't be opened, or another command keeps it.
    pub fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let lock = File::open(path).map_err(|error| {
            if path.exists() {
                let reason = format!("can't be opened: {error}");
                DirectoryError::File { path: path.to_path_buf(), reason }
            } else {
                // What should be a path may be a key.
                DirectoryError::NoDirectory(error)
            }
        })?;
        take_lock(&lock, path)?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `keyset.toml`. Where there is none, and one key, it names that key, which has signed all along.
    ///
    /// # Errors
    /// It can't be read, or nothing says which of several keys signs.
    pub fn schedule(
        &self,
        publish_lead: Duration,
        now: UnixTime,
    ) -> Result<ScheduleFile<'_>, DirectoryError> {
        let path = self.path.join(FILE);
        let read = read(&path)?;
        let name = path.display().to_string();
        let document = if let Some(text) = &read {
            ScheduleDocument::parse(&name, text).map_err(DirectoryError::Schedule)?
        } else {
            let mut document = ScheduleDocument::empty(&name);
            // So long ago that each verifier knows it.
            let known = publish_lead + Duration::from_hours(24);
            let lead = i64::try_from(known.as_secs()).unwrap_or(i64::MAX / 2);
            let sign_from = Some(UnixTime::from_seconds(now.seconds() - lead));
            document.apply(&Change::Add(Entry { sign_from, ..Entry::sole(sole_key(&self.path)?) }));
            document
        };
        Ok(ScheduleFile { directory: self, path, read, document, publish_lead })
    }

    /// Whether `keyset.toml` lists the key, whatever else is wrong with that file; without one, whether it is the only key.
    ///
    /// # Errors
    /// `keyset.toml` can't be read, or isn't TOML.
    pub fn lists(&self, kid: &KeyId) -> Result<bool, DirectoryError> {
        let path = self.path.join(FILE);
        let Some(text) = read(&path)? else { return Ok(sole_key(&self.path)? == *kid) };
        ScheduleDocument::parse(&path.display().to_string(), &text).map_err(DirectoryError::Schedule)?;
        Ok(marks(&text).iter().any(|mark| mark.kid == *kid))
    }

    /// Writes a file that wasn't there before, for the service to read.
    ///
    /// # Errors
    /// It is there already, or can't be written.
    pub fn create(&self, name: &str, content: &SecretString) -> Result<PathBuf, DirectoryError> {
        let path = self.path.join(name);
        let file = self.temporary(&path, content.expose_secret().as_bytes())?;
        file.persist_noclobber(&path).map_err(|error| self.failed(&path, &error.error))?;
        self.sync(&path)?;
        Ok(path)
    }

    /// Replaces the file at `path`, and not a link to it, if it still holds `read`.
    fn replace(&self, path: &Path, read: Option<&String>, content: &[u8]) -> Result<(), DirectoryError> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let file = self.temporary(&target, content)?;
        // As late as can be: an editor takes no lock.
        if self::read(path)?.as_ref() != read {
            return Err(DirectoryError::ChangedMeanwhile(path.to_path_buf()));
        }
        file.persist(&target).map_err(|error| self.failed(path, &error.error))?;
        self.sync(&target)
    }

    /// A file beside `path` that holds `content`, with the owner and mode that one at `path` should have.
    fn temporary(&self, path: &Path, content: &[u8]) -> Result<NamedTempFile, DirectoryError> {
        let failed = |error: io::Error| self.failed(path, &error);
        let access = Access::beside(path).map_err(failed)?;
        let mut file = tempfile::Builder::new()
            .prefix(".keyset-")
            .tempfile_in(parent_directory(path))
            .map_err(failed)?;
        access.give(file.as_file()).map_err(|error| DirectoryError::File {
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

    /// A rename is on the disk once its directory is.
    fn sync(&self, path: &Path) -> Result<(), DirectoryError> {
        let synced = File::open(parent_directory(path)).and_then(|directory| directory.sync_all());
        match synced {
            // Some network mounts have no such thing.
            Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                Err(DirectoryError::NotSynced { path: path.to_path_buf(), reason: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a sentence where it is used")]
    fn failed(&self, path: &Path, error: &io::Error) -> DirectoryError {
        let reason = match error.kind() {
            ErrorKind::AlreadyExists => "is there already, and nothing is overwritten".to_owned(),
            _ => format!("can't be written: {error}"),
        };
        DirectoryError::File { path: path.to_path_buf(), reason }
    }
}

/// The `keyset.toml` of a locked directory.
pub struct ScheduleFile<'a> {
    directory: &'a KeyDirectory,
    path: PathBuf,
    /// The text that was read; `None` where there is no `keyset.toml`.
    read: Option<String>,
    document: ScheduleDocument,
    publish_lead: Duration,
}

impl ScheduleFile<'_> {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// All that is wrong with it.
    pub fn schedule(&self) -> Result<Schedule, Vec<Problem>> {
        self.document.schedule(self.publish_lead)
    }

    /// Makes `changes`, on the disk too.
    ///
    /// # Errors
    /// Nothing was changed, but where the error says that somebody else has written meanwhile.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Schedule, DirectoryError> {
        let before = self.schedule().map_err(DirectoryError::Schedule)?;
        let wanted = changes.iter().fold(before, |schedule, change| schedule.after(change));
        let document = self.changed(changes);
        let now_says = document.schedule(self.publish_lead).map_err(DirectoryError::Schedule)?;
        if now_says.entries != wanted.entries {
            return Err(self.not_edited(changes));
        }
        self.write(document)?;
        Ok(wanted)
    }

    /// Marks `kid` as retired, whatever else is wrong with the file.
    ///
    /// # Errors
    /// As of [`apply`](Self::apply).
    pub fn mark_retired(&mut self, kid: &KeyId, at: UnixTime) -> Result<(), DirectoryError> {
        let changes = [Change::Retire { kid: kid.clone(), at }];
        let document = self.changed(&changes);
        let is_retired =
            marks(&document.text()).iter().any(|mark| mark.kid == *kid && mark.retired == Some(at));
        if !is_retired {
            return Err(self.not_edited(&changes));
        }
        self.write(document)
    }

    /// Writes `keyset.toml` as it is, where there was none.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write_down(&mut self) -> Result<(), DirectoryError> {
        match self.read {
            None => self.write(self.document.clone()),
            Some(_) => Ok(()),
        }
    }

    fn changed(&self, changes: &[Change]) -> ScheduleDocument {
        let mut document = self.document.clone();
        for change in changes {
            document.apply(change);
        }
        document
    }

    /// Of a file that is written in a way that the editor doesn't know.
    fn not_edited(&self, changes: &[Change]) -> DirectoryError {
        let wanted = changes.iter().map(Change::by_hand).collect::<Vec<_>>().join("; ");
        DirectoryError::NotEdited { path: self.path.clone(), wanted }
    }

    fn write(&mut self, document: ScheduleDocument) -> Result<(), DirectoryError> {
        let text = document.text();
        self.directory.replace(&self.path, self.read.as_ref(), text.as_bytes())?;
        let written = read(&self.path)?;
        if written.as_ref() != Some(&text) {
            return Err(DirectoryError::Overwritten(self.path.clone()));
        }
        (self.read, self.document) = (written, document);
        Ok(())
    }
}

impl Change {
    /// What somebody would write.
    fn by_hand(&self) -> String {
        match self {
            Self::Add(entry) => format!("a [[key]] with kid = \"{}\"", entry.kid),
            Self::Retire { kid, at } => format!("retired = {at} for `{kid}`"),
            Self::Promote { kid, at } => format!("sign_from = {at} and emergency = true for `{kid}`"),
        }
    }
}

/// Waits a moment for another command's lock. A file system without locks, as some network mounts, is no hindrance: the
/// comparison before the write stays.
fn take_lock(directory: &File, path: &Path) -> Result<(), DirectoryError> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match flock(directory.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::BADF) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => {
                let reason = format!("can't be locked: {}", io::Error::from(error));
                return Err(DirectoryError::File { path: path.to_path_buf(), reason });
            }
        }
    }
    Err(DirectoryError::Locked(path.to_path_buf()))
}

fn read(path: &Path) -> Result<Option<String>, DirectoryError> {
    read_schedule_of_anyone(path).map_err(|reason| DirectoryError::File { path: path.to_path_buf(), reason })
}

/// Who may read a file.
struct Access {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Access {
    /// That of the file at `path`; or of one like it; or of a key beside it; or what the directory lets its group do.
    fn beside(path: &Path) -> io::Result<Self> {
        let of = |metadata: &fs::Metadata| Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o666,
        };
        let directory = parent_directory(path);
        let alike = |extension: Option<&OsStr>| {
            let paths = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let like = paths.filter(|other| other.extension() == extension && is_visible(other));
            like.min().and_then(|other| fs::metadata(other).ok()).filter(fs::Metadata::is_file)
        };
        let hides = path.extension() == Some(OsStr::new("key"));
        if let Some(metadata) = fs::metadata(path).ok().or_else(|| alike(path.extension())) {
            let access = of(&metadata);
            return Ok(if hides { Self { mode: access.for_a_key(), ..access } } else { access });
        }
        // Only private keys are confidential.
        let for_all = if hides { 0 } else { 0o044 };
        if let Some(key) = alike(Some(OsStr::new("key"))) {
            return Ok(Self { mode: of(&key).for_a_key() | for_all, ..of(&key) });
        }
        let metadata = fs::metadata(directory)?;
        let for_group = metadata.uid() == 0 && metadata.gid() != 0 && metadata.mode() & 0o040 != 0;
        Ok(Self { mode: if for_group { 0o440 } else { 0o600 } | for_all, ..of(&metadata) })
    }

    /// Its mode, or 0600 where that would show a private key to more than one group.
    const fn for_a_key(&self) -> u32 {
        if self.mode & 0o027 == 0 { self.mode } else { 0o600 }
    }

    /// Owner and group before mode: nobody reads it in between.
    fn give(&self, file: &File) -> io::Result<()> {
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

/// The id of the only key in `directory`.
fn sole_key(directory: &Path) -> Result<KeyId, DirectoryError> {
    let unclear = |message: String| DirectoryError::Unclear { path: directory.to_path_buf(), message };
    let contents = Contents::of(directory).map_err(|error| unclear(format!("can't be listed: {error}")))?;
    let mut kids = contents.keys.into_keys();
    match (kids.next(), kids.next()) {
        (Some(kid), None) => Ok(kid),
        (None, _) => Err(unclear("holds no key; `tokenmint keys new` makes the first".to_owned())),
        (Some(_), Some(_)) => {
            Err(unclear(format!("holds several keys; write {FILE} to say from when each signs")))
        }
    }
}
