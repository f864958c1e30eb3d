//! Opens the files that the service is configured by: one opener for configuration, keys, certificates and secrets.
//!
//! - Only regular files are opened, and without waiting for a writer: a FIFO or a device in the place of a file is an
//!   error, never a hang.
//! - A file has a largest size. A larger one is an error, never a part of a file.
//! - What is judged is the opened file, so that nothing can take its place between the check and the read.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use rustix::process::{getegid, geteuid, getgroups};
use thiserror::Error;
use zeroize::Zeroizing;

/// No file that configures the service is larger, in bytes.
pub const LARGEST: u64 = 4 << 20;

/// Why a file has no content for us.
#[derive(Debug, Error)]
pub enum Unreadable {
    #[error("can't be opened: {0}")]
    Open(io::Error),
    #[error("can't be read: {0}")]
    Read(io::Error),
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("is larger than {} KiB", .0 >> 10)]
    TooLarge(u64),
    #[error("{0}")]
    OpenToOthers(String),
}

impl From<Unreadable> for io::Error {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Open(error) | Unreadable::Read(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, format!("it {other}")),
        }
    }
}

/// A regular file that was opened, and what was known of it at that moment.
pub struct Opened {
    file: File,
    pub stat: Stat,
}

impl Opened {
    /// # Errors
    /// The file isn't there, can't be opened, or isn't a regular file.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
        let file =
            fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(Unreadable::Open)?;
        let stat = fstat(file.as_fd()).map_err(|error| Unreadable::Read(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Self { file, stat }),
            FileType::Directory => Err(Unreadable::NotRegular("a directory")),
            FileType::Fifo => Err(Unreadable::NotRegular("a FIFO")),
            FileType::Socket => Err(Unreadable::NotRegular("a socket")),
            _ => Err(Unreadable::NotRegular("a device")),
        }
    }

    /// The whole content, of at most `largest` bytes.
    ///
    /// # Errors
    /// The file can't be read, or holds more.
    pub fn read(self, largest: u64) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        let expected = u64::try_from(self.stat.st_size).unwrap_or(0).min(largest);
        // Room for all of it: a buffer that grows leaves copies of a secret behind.
        let room = usize::try_from(expected).unwrap_or_default() + 2;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        self.file.take(largest + 1).read_to_end(&mut bytes).map_err(Unreadable::Read)?;
        if bytes.len() as u64 > largest { Err(Unreadable::TooLarge(largest)) } else { Ok(bytes) }
    }

    /// Refuses a file that another user could read, as OpenSSH does: for private keys.
    ///
    /// The file is closed to all but its owner; or it belongs to root and is readable by one group that this process is
    /// in, as Kubernetes mounts secrets (0440 with `fsGroup`).
    ///
    /// # Errors
    /// Says what to change.
    pub fn only_ours_reads(&self) -> Result<(), Unreadable> {
        let mode = Mode::from_raw_mode(self.stat.st_mode);
        let shared_by_root = self.stat.st_uid == 0 && !mode.intersects(Mode::WGRP | Mode::XGRP | Mode::RWXO);
        if mode.intersects(Mode::RWXG | Mode::RWXO) && !(shared_by_root && is_our_group(self.stat.st_gid)) {
            return Err(Unreadable::OpenToOthers(format!(
                "is open to others (mode {:04o}); it must be readable by its owner only: chmod 600{}",
                self.stat.st_mode & 0o7777,
                hint_for_root()
            )));
        }
        owned_by_us_or_root(&self.stat)
    }

    /// Refuses a file that another user could change: for what says which key signs.
    ///
    /// # Errors
    /// Says what to change.
    pub fn only_ours_writes(&self) -> Result<(), Unreadable> {
        if Mode::from_raw_mode(self.stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            return Err(Unreadable::OpenToOthers(format!(
                "can be changed by others (mode {:04o}): chmod go-w",
                self.stat.st_mode & 0o7777
            )));
        }
        owned_by_us_or_root(&self.stat)
    }
}

/// Refuses a directory in which another user could put a file in another's place.
///
/// A directory that everybody may write to is fine where only a file's owner may replace it (sticky), or where it is
/// mounted read-only, as Kubernetes mounts secrets.
///
/// # Errors
/// Says what to change.
pub fn only_ours_replaces_files_in(directory: &Path) -> Result<(), Unreadable> {
    let stat = rustix::fs::stat(directory).map_err(|error| Unreadable::Open(error.into()))?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_read_only = || {
        let mount = rustix::fs::statvfs(directory);
        mount.is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    if mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX) && !is_read_only() {
        return Err(Unreadable::OpenToOthers(format!(
            "is a folder in which others can replace files (mode {:04o}): chmod go-w",
            stat.st_mode & 0o7777
        )));
    }
    owned_by_us_or_root(&stat)
}

/// Whether both paths lead to one file, by device and inode: links to it and mounts of it are the same.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

/// The folder that `path` is in; that of a bare name is the working directory.
pub fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

fn owned_by_us_or_root(stat: &Stat) -> Result<(), Unreadable> {
    if stat.st_uid == 0 || stat.st_uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Unreadable::OpenToOthers(format!(
        "belongs to user {}, who could change it; it must belong to the user that runs tokenmint, or to root{}",
        stat.st_uid,
        hint_for_root()
    )))
}

/// The service's own user and groups decide what it may read: root's command judges by root's.
fn hint_for_root() -> &'static str {
    if geteuid().is_root() {
        ". Where the service runs as another user, run this command as that user: setpriv --reuid=USER --regid=GROUP \
         --init-groups tokenmint …"
    } else {
        ""
    }
}

fn is_our_group(gid: u32) -> bool {
    getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let read = |largest| Opened::open(&path).and_then(|file| file.read(largest));
        assert!(matches!(read(9), Err(Unreadable::Open(_))), "absent");
        fs::write(&path, "0123456789").expect("written");
        assert!(matches!(read(9), Err(Unreadable::TooLarge(9))));
        assert_eq!(read(10).expect("whole").as_slice(), b"0123456789");
        assert!(matches!(Opened::open(folder.path()), Err(Unreadable::NotRegular("a directory"))));

        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("a FIFO");
        assert!(matches!(Opened::open(&fifo), Err(Unreadable::NotRegular("a FIFO"))), "and it doesn't wait");
    }

    #[test]
    fn a_folder_in_which_others_can_replace_files_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for (mode, right) in
            [(0o700, true), (0o750, true), (0o755, true), (0o770, false), (0o757, false), (0o1777, true)]
        {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(only_ours_replaces_files_in(folder.path()).is_ok(), right, "{mode:o}");
        }
    }
}
