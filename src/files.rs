//! Opens configuration, key, certificate and secret files, and checks the permissions of key files, `keyset.toml` and
//! key directories.
//!
//! - It opens regular files only, without blocking. A FIFO or a device is an error and can't hang the service.
//! - It limits the size of a file. A larger file is an error, and none of its content is used.
//! - It checks the permissions of the opened file, not of the path. So nobody can replace the file between check and
//!   read (TOCTOU). Only directories are checked by their path.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use rustix::process::{getegid, geteuid, getgroups};
use thiserror::Error;
use zeroize::Zeroizing;

/// The largest configuration, schedule, certificate or secret file, in bytes. Private keys have a lower limit.
pub(crate) const MAX_FILE_SIZE: u64 = 4 << 20;

/// Why a file can't be used.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("can't be opened: {0}")]
    Open(io::Error),
    #[error("can't be read: {0}")]
    Read(io::Error),
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("is larger than {} KiB", .0 >> 10)]
    TooLarge(u64),
    #[error("{0}")]
    InsecurePermissions(String),
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Open(error) | FileError::Read(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, format!("it {other}")),
        }
    }
}

/// An open regular file and its status.
pub(crate) struct OpenedFile {
    file: File,
    /// Read from the file descriptor right after the file was opened.
    pub(crate) stat: Stat,
}

impl OpenedFile {
    /// Opens the file at `path`, without waiting if it is a FIFO.
    ///
    /// # Errors
    /// The file doesn't exist, can't be opened, or isn't a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
        let file =
            fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(FileError::Open)?;
        let stat = fstat(file.as_fd()).map_err(|error| FileError::Read(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Self { file, stat }),
            FileType::Directory => Err(FileError::NotRegular("a directory")),
            FileType::Fifo => Err(FileError::NotRegular("a FIFO")),
            FileType::Socket => Err(FileError::NotRegular("a socket")),
            _ => Err(FileError::NotRegular("a device")),
        }
    }

    /// Reads the whole file, of at most `largest` bytes.
    ///
    /// # Errors
    /// The file can't be read, or is larger.
    pub(crate) fn read(self, largest: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let expected = u64::try_from(self.stat.st_size).unwrap_or(0).min(largest);
        // The buffer has room for the whole file from the start: a buffer that grows leaves copies of a secret in memory.
        let capacity = usize::try_from(expected).unwrap_or_default() + 2;
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        self.file.take(largest + 1).read_to_end(&mut bytes).map_err(FileError::Read)?;
        if bytes.len() as u64 > largest { Err(FileError::TooLarge(largest)) } else { Ok(bytes) }
    }

    /// Rejects a file on which another user has a permission, like OpenSSH does for private keys, but with exceptions. Root
    /// doesn't count as another user.
    ///
    /// It accepts a file
    /// - that only its owner can access, or
    /// - that belongs to root and that a group of this process may read, and no more, like a Kubernetes secret (0440 with
    ///   `fsGroup`), or
    /// - whose access list (ACL) gives access to this process's user, like a systemd credential's.
    ///
    /// In each case the file must belong to root or to this process's user.
    ///
    /// # Errors
    /// Says which permission to change, and how.
    pub(crate) fn reject_accessible_by_others(&self) -> Result<(), FileError> {
        let access = FilePermissions::of(&self.file, &self.stat);
        if let Some(who) = access.accessible_by(&self.stat, geteuid().as_raw(), is_our_group) {
            let (mode, advice) =
                (self.stat.st_mode & 0o7777, MountKind::of(&self.file).permission_advice(who));
            return Err(FileError::InsecurePermissions(format!(
                "is open to {who} (mode {mode:04o}); it must be readable by its owner only: {advice}{}",
                hint_for_root()
            )));
        }
        owned_by_us_or_root(&self.stat)
    }

    /// Rejects a file that another user could change. Used for `keyset.toml`, which says which key signs.
    ///
    /// # Errors
    /// Says which permission to change, and how.
    pub(crate) fn reject_writable_by_others(&self) -> Result<(), FileError> {
        if Mode::from_raw_mode(self.stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            return Err(FileError::InsecurePermissions(format!(
                "can be changed by others (mode {:04o}): run `chmod go-w` on this file",
                self.stat.st_mode & 0o7777
            )));
        }
        owned_by_us_or_root(&self.stat)
    }
}

/// Rejects a directory in which another user could replace files.
///
/// A directory that others may write to is accepted if it is sticky. Then only the owners of a file and of the directory can
/// replace the file. It is also accepted if it is mounted read-only, like Kubernetes mounts secrets. In each
/// case it must belong to root or to this process's user.
///
/// # Errors
/// Says which permission to change, and how.
pub(crate) fn reject_replaceable_by_others(directory: &Path) -> Result<(), FileError> {
    let stat = rustix::fs::stat(directory).map_err(|error| FileError::Open(error.into()))?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let is_read_only = || {
        let mount = rustix::fs::statvfs(directory);
        mount.is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    if mode.intersects(Mode::WGRP | Mode::WOTH) && !mode.contains(Mode::SVTX) && !is_read_only() {
        let advice = match File::open(directory).map(|folder| MountKind::of(&folder)) {
            Ok(MountKind::WithoutModes) => MountKind::WithoutModes.permission_advice(AccessibleBy::Others),
            _ => "run `chmod go-w` on this directory",
        };
        return Err(FileError::InsecurePermissions(format!(
            "is a directory in which others can replace files (mode {:04o}): {advice}",
            stat.st_mode & 0o7777
        )));
    }
    owned_by_us_or_root(&stat)
}

/// The permissions of everybody except a file's owner, each as `rwx` bits.
struct FilePermissions {
    owning_group: u32,
    others: u32,
    /// User IDs that an access list names, with their permissions.
    users: Vec<(u32, u32)>,
    /// Group IDs that an access list names, with their permissions.
    groups: Vec<(u32, u32)>,
}

/// The users who could access a file although they shouldn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AccessibleBy {
    /// Everybody, or the file's group.
    Others,
    /// A user or group that the access list names.
    Listed,
}

impl fmt::Display for AccessibleBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Others => "others",
            Self::Listed => "others by its access list (ACL)",
        })
    }
}

impl FilePermissions {
    fn of(file: &File, stat: &Stat) -> Self {
        let mut list = [0; 4096];
        let length = rustix::fs::fgetxattr(file, "system.posix_acl_access", &mut list[..]);
        let listed = length.ok().and_then(|length| Self::from_acl(list.get(..length)?));
        // Without an access list, or with an unreadable one, the mode alone decides.
        listed.unwrap_or_else(|| Self::from_mode(stat.st_mode))
    }

    const fn from_mode(mode: u32) -> Self {
        Self { owning_group: mode >> 3 & 7, others: mode & 7, users: Vec::new(), groups: Vec::new() }
    }

    /// Parses a POSIX access list in Linux's format (`linux/posix_acl_xattr.h`); `None` for another version of the format. The
    /// list's mask limits the permissions of the owning group and of every user and group that the list names.
    fn from_acl(list: &[u8]) -> Option<Self> {
        let entries = list.strip_prefix(&2_u32.to_le_bytes())?.chunks_exact(8).map(|entry| {
            let short = |at: usize| u32::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            (short(0), short(2), id)
        });
        let mut access = Self { owning_group: 0, others: 0, users: Vec::new(), groups: Vec::new() };
        let mut mask = 7;
        for (tag, may, id) in entries {
            match tag {
                0x02 => access.users.push((id, may)),
                0x04 => access.owning_group = may,
                0x08 => access.groups.push((id, may)),
                0x10 => mask = may,
                0x20 => access.others = may,
                _ => {}
            }
        }
        access.owning_group &= mask;
        access.users.iter_mut().chain(&mut access.groups).for_each(|(_, may)| *may &= mask);
        Some(access)
    }

    /// The users that could access the file, besides its owner, root and the user `us`. `None` if there are none. The groups for
    /// which `is_our_group` is true may read a file that belongs to root.
    fn accessible_by(
        &self,
        stat: &Stat,
        us: u32,
        is_our_group: impl Fn(u32) -> bool,
    ) -> Option<AccessibleBy> {
        const READ: u32 = 4;
        let open =
            |group: u32, may: u32| may != 0 && !(stat.st_uid == 0 && may == READ && is_our_group(group));
        let is_other = |user: u32| ![0, us, stat.st_uid].contains(&user);
        match () {
            () if self.others != 0 || open(stat.st_gid, self.owning_group) => Some(AccessibleBy::Others),
            () if self.users.iter().any(|(user, may)| *may != 0 && is_other(*user)) => {
                Some(AccessibleBy::Listed)
            }
            () if self.groups.iter().any(|(group, may)| open(*group, *may)) => Some(AccessibleBy::Listed),
            () => None,
        }
    }
}

/// How the file system of a file treats `chmod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MountKind {
    Ordinary,
    ReadOnly,
    /// All files have the mode that the mount options set; `chmod` has no effect.
    WithoutModes,
}

impl MountKind {
    fn of(file: &File) -> Self {
        /// 9p (Windows drives in WSL 2), the drives of WSL 1, FAT, exFAT, CIFS and SMB 2 (`linux/magic.h`).
        const WITHOUT_MODES: &[i64] =
            &[0x0102_1997, 0x5346_4846, 0x4d44, 0x2011_bab0, 0xff53_4d42, 0xfe53_4d42];
        let kind = rustix::fs::fstatfs(file).map(|mount| mount.f_type & 0xffff_ffff);
        let flags = rustix::fs::fstatvfs(file).map(|mount| mount.f_flag);
        match (kind, flags) {
            (Ok(kind), _) if WITHOUT_MODES.contains(&kind) => Self::WithoutModes,
            (_, Ok(flags)) if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) => Self::ReadOnly,
            _ => Self::Ordinary,
        }
    }

    /// Says how to make a file on this mount inaccessible to `who`.
    const fn permission_advice(self, who: AccessibleBy) -> &'static str {
        match (self, who) {
            (Self::Ordinary, AccessibleBy::Others) => "chmod 600",
            (Self::Ordinary, AccessibleBy::Listed) => "setfacl -b, then chmod 600",
            (Self::ReadOnly, _) => {
                "this mount is read-only, so set the mode where the mount is defined: for a Docker secret `mode: 0400` and the \
                 `uid` of the service's user, in Kubernetes `defaultMode: 0440` and `fsGroup`, for a bind mount chmod 600 its \
                 source"
            }
            (Self::WithoutModes, _) => {
                "chmod has no effect on this mount, so copy the file to a Linux file system (in WSL: below ~) and chmod 600 it \
                 there, or mount this one with modes (in WSL: options = \"metadata,umask=077\" below [automount] in /etc/wsl.conf)"
            }
        }
    }
}

/// Whether both paths lead to the same file, compared by device and inode. Links and bind mounts count as the same file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

/// The parent directory of `path`; `.` if `path` states none.
pub(crate) fn parent_directory(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

fn owned_by_us_or_root(stat: &Stat) -> Result<(), FileError> {
    if stat.st_uid == 0 || stat.st_uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(FileError::InsecurePermissions(format!(
        "belongs to user {}, who could change it; it must belong to the user that runs tokenmint, or to root{}",
        stat.st_uid,
        hint_for_root()
    )))
}

/// A hint for processes of root: permissions are checked for the user of this process, who may not be the service's user.
fn hint_for_root() -> &'static str {
    if geteuid().is_root() {
        ". If the service runs as another user, run this command as that user: setpriv --reuid=USER --regid=GROUP \
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
        let read = |largest| OpenedFile::open(&path).and_then(|file| file.read(largest));
        assert!(matches!(read(9), Err(FileError::Open(_))), "absent");
        fs::write(&path, "0123456789").expect("written");
        assert!(matches!(read(9), Err(FileError::TooLarge(9))));
        assert_eq!(read(10).expect("whole").as_slice(), b"0123456789");
        assert!(matches!(OpenedFile::open(folder.path()), Err(FileError::NotRegular("a directory"))));

        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("a FIFO");
        assert!(
            matches!(OpenedFile::open(&fifo), Err(FileError::NotRegular("a FIFO"))),
            "and it doesn't wait"
        );
    }

    /// Each row: owner, group, mode and access list of a file, and the other users that could access it.
    #[test]
    fn who_may_read_a_file_follows_from_its_mode_or_its_access_list() {
        use AccessibleBy::{Listed, Others};
        type Row = (&'static str, u32, u32, u32, Option<Vec<u8>>, Option<AccessibleBy>);
        const SERVICE: u32 = 65_532;
        let list = |entries: &[(u16, u16, u32)]| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, may, id) in entries {
                list.extend([tag.to_le_bytes(), may.to_le_bytes()].concat());
                list.extend(id.to_le_bytes());
            }
            list
        };
        // Every access list has entries for the owner, the owning group, the mask and others.
        let with = |named: &[(u16, u16, u32)], group: u16, mask: u16, others: u16| {
            let rest = [
                (0x01, 6, u32::MAX),
                (0x04, group, u32::MAX),
                (0x10, mask, u32::MAX),
                (0x20, others, u32::MAX),
            ];
            list(&[named, &rest].concat())
        };
        let rows: [Row; 16] = [
            ("its owner's alone", SERVICE, SERVICE, 0o600, None, None),
            ("a secret of Kubernetes", 0, SERVICE, 0o440, None, None),
            ("one that the group can change", 0, SERVICE, 0o460, None, Some(Others)),
            ("one of another group", 0, 33, 0o440, None, Some(Others)),
            ("one of our group, of another owner", 1000, SERVICE, 0o440, None, Some(Others)),
            ("a secret of Docker", 0, 0, 0o444, None, Some(Others)),
            ("a drive of Windows in WSL", 1000, 1000, 0o777, None, Some(Others)),
            ("a credential of systemd", 0, 0, 0o440, Some(with(&[(0x02, 4, SERVICE)], 0, 4, 0)), None),
            ("a list for root", SERVICE, SERVICE, 0o640, Some(with(&[(0x02, 4, 0)], 0, 4, 0)), None),
            ("a list for another user", 0, 0, 0o440, Some(with(&[(0x02, 4, 33)], 0, 4, 0)), Some(Listed)),
            ("a list whose mask takes all away", 0, 0, 0o400, Some(with(&[(0x02, 4, 33)], 4, 0, 0)), None),
            ("a list for a group of ours", 0, 0, 0o440, Some(with(&[(0x08, 4, SERVICE)], 0, 4, 0)), None),
            ("a list for another group", 0, 0, 0o440, Some(with(&[(0x08, 4, 33)], 0, 4, 0)), Some(Listed)),
            (
                "a list, and the owning group as well",
                0,
                33,
                0o440,
                Some(with(&[(0x02, 4, SERVICE)], 4, 4, 0)),
                Some(Others),
            ),
            (
                "a list, and others as well",
                0,
                0,
                0o444,
                Some(with(&[(0x02, 4, SERVICE)], 0, 4, 4)),
                Some(Others),
            ),
            ("a list that is none", 0, 0, 0o440, Some(b"\x01\0\0\0".to_vec()), Some(Others)),
        ];
        let file = tempfile::tempfile().expect("a file");
        for (name, uid, gid, mode, list, expected) in rows {
            let mut stat = fstat(&file).expect("its status");
            (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, gid, mode);
            let access = list.and_then(|list| FilePermissions::from_acl(&list));
            let access = access.unwrap_or_else(|| FilePermissions::from_mode(mode));
            assert_eq!(access.accessible_by(&stat, SERVICE, |group| group == SERVICE), expected, "{name}");
        }
    }

    #[test]
    fn the_permission_advice_fits_the_kind_of_mount() {
        let advice = |mount: MountKind| mount.permission_advice(AccessibleBy::Others);
        assert_eq!(advice(MountKind::Ordinary), "chmod 600");
        assert!(
            advice(MountKind::ReadOnly).contains("`mode: 0400`")
                && advice(MountKind::ReadOnly).contains("`fsGroup`")
        );
        assert!(advice(MountKind::WithoutModes).contains("metadata,umask=077"));
    }

    #[test]
    fn a_folder_in_which_others_can_replace_files_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for (mode, right) in
            [(0o700, true), (0o750, true), (0o755, true), (0o770, false), (0o757, false), (0o1777, true)]
        {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(reject_replaceable_by_others(folder.path()).is_ok(), right, "{mode:o}");
        }
    }
}
