//! Opens the files that the service is configured by: one opener for configuration, keys, certificates and secrets.
//!
//! - Only regular files are opened, and without waiting for a writer: a FIFO or a device in the place of a file is an
//!   error, never a hang.
//! - A file has a largest size. A larger one is an error, never a part of a file.
//! - What is judged is the opened file, so that nothing can take its place between the check and the read.

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
    /// in, as Kubernetes mounts secrets (0440 with `fsGroup`); or its access list (ACL) names this process's user and nobody
    /// else, as systemd passes credentials.
    ///
    /// # Errors
    /// Says what to change.
    pub fn only_ours_reads(&self) -> Result<(), Unreadable> {
        let access = Access::of(&self.file, &self.stat);
        if let Some(who) = access.stranger(&self.stat, geteuid().as_raw(), is_our_group) {
            let (mode, advice) = (self.stat.st_mode & 0o7777, Mount::of(&self.file).how_to_close(who));
            return Err(Unreadable::OpenToOthers(format!(
                "is open to {who} (mode {mode:04o}); it must be readable by its owner only: {advice}{}",
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
        let advice = match File::open(directory).map(|folder| Mount::of(&folder)) {
            Ok(Mount::WithoutModes) => Mount::WithoutModes.how_to_close(Stranger::Others),
            _ => "chmod go-w",
        };
        return Err(Unreadable::OpenToOthers(format!(
            "is a folder in which others can replace files (mode {:04o}): {advice}",
            stat.st_mode & 0o7777
        )));
    }
    owned_by_us_or_root(&stat)
}

/// What users other than its owner may do with a file: the bits of `rwx`.
struct Access {
    owning_group: u32,
    others: u32,
    /// The users and groups that an access list names, and what they may do.
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

/// Who could read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stranger {
    Others,
    /// Somebody whom the access list names.
    Listed,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Others => "others",
            Self::Listed => "others by its access list (ACL)",
        })
    }
}

impl Access {
    fn of(file: &File, stat: &Stat) -> Self {
        let mut list = [0; 4096];
        let length = rustix::fs::fgetxattr(file, "system.posix_acl_access", &mut list[..]);
        let listed = length.ok().and_then(|length| Self::listed(list.get(..length)?));
        // Without a list, or with one that can't be read, the mode is what counts.
        listed.unwrap_or_else(|| Self::of_mode(stat.st_mode))
    }

    const fn of_mode(mode: u32) -> Self {
        Self { owning_group: mode >> 3 & 7, others: mode & 7, users: Vec::new(), groups: Vec::new() }
    }

    /// Reads a POSIX access list as Linux stores it (`linux/posix_acl_xattr.h`). Where there is one, the mode's bits for the
    /// group are its mask: what is allowed at most, and to nobody by itself.
    fn listed(list: &[u8]) -> Option<Self> {
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

    /// Who but its owner, root and the user `us` could read the file. Groups of ours may, where the file is root's.
    fn stranger(&self, stat: &Stat, us: u32, is_our_group: impl Fn(u32) -> bool) -> Option<Stranger> {
        const READ: u32 = 4;
        let open =
            |group: u32, may: u32| may != 0 && !(stat.st_uid == 0 && may == READ && is_our_group(group));
        let is_strange = |user: u32| ![0, us, stat.st_uid].contains(&user);
        match () {
            () if self.others != 0 || open(stat.st_gid, self.owning_group) => Some(Stranger::Others),
            () if self.users.iter().any(|(user, may)| *may != 0 && is_strange(*user)) => {
                Some(Stranger::Listed)
            }
            () if self.groups.iter().any(|(group, may)| open(*group, *may)) => Some(Stranger::Listed),
            () => None,
        }
    }
}

/// What a mount makes of chmod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mount {
    Ordinary,
    ReadOnly,
    /// All its files have one mode, which the mount sets.
    WithoutModes,
}

impl Mount {
    fn of(file: &File) -> Self {
        /// 9p, which WSL shows Windows' drives by; WSL 1's own; FAT, exFAT, and SMB in its two versions (`linux/magic.h`).
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

    /// What can be done there so that `who` can't read a file.
    const fn how_to_close(self, who: Stranger) -> &'static str {
        match (self, who) {
            (Self::Ordinary, Stranger::Others) => "chmod 600",
            (Self::Ordinary, Stranger::Listed) => "setfacl -b, then chmod 600",
            (Self::ReadOnly, _) => {
                "this mount can't be written to, so set it where the mount comes from: for a secret of Docker `mode: 0400` and the \
                 `uid` of the service's user, in Kubernetes `defaultMode: 0440` and `fsGroup`, for a bind mount chmod 600 of its \
                 source"
            }
            (Self::WithoutModes, _) => {
                "chmod does nothing on this mount, so copy the file to a file system of Linux (in WSL: below ~) and chmod 600 it \
                 there, or mount this one with modes (in WSL: options = \"metadata,umask=077\" below [automount] in /etc/wsl.conf)"
            }
        }
    }
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

    /// A file's owner, group and mode, its access list, and who asks; and who could read it that shouldn't.
    #[test]
    fn who_may_read_a_file_follows_from_its_mode_or_its_access_list() {
        use Stranger::{Listed, Others};
        type Row = (&'static str, u32, u32, u32, Option<Vec<u8>>, Option<Stranger>);
        const SERVICE: u32 = 65_532;
        let list = |entries: &[(u16, u16, u32)]| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, may, id) in entries {
                list.extend([tag.to_le_bytes(), may.to_le_bytes()].concat());
                list.extend(id.to_le_bytes());
            }
            list
        };
        // The owner, its group, the mask and others, as each list has them.
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
            let access = list.and_then(|list| Access::listed(&list));
            let access = access.unwrap_or_else(|| Access::of_mode(mode));
            assert_eq!(access.stranger(&stat, SERVICE, |group| group == SERVICE), expected, "{name}");
        }
    }

    #[test]
    fn the_advice_can_be_followed_on_the_mount() {
        let advice = |mount: Mount| mount.how_to_close(Stranger::Others);
        assert_eq!(advice(Mount::Ordinary), "chmod 600");
        assert!(
            advice(Mount::ReadOnly).contains("`mode: 0400`") && advice(Mount::ReadOnly).contains("`fsGroup`")
        );
        assert!(advice(Mount::WithoutModes).contains("metadata,umask=077"));
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
