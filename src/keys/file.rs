//! Opens key files the way OpenSSH does: one that others can read is not used.
//!
//! What is judged is the opened file, so that nothing can be put in its place between look and read.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, Stat, fstat};
use rustix::process::{getegid, geteuid, getgroups};
use secrecy::SecretString;
use zeroize::Zeroizing;

/// An encrypted 8192-bit key takes less than 10 KiB.
const LARGEST_KEY_FILE: u64 = 64 << 10;

const LARGEST_ROOM: usize = (64 << 10) + 1;

/// The text of a private key's file.
///
/// # Errors
/// Says what is wrong with the file and how to mend it.
pub fn read_private(path: &Path) -> Result<SecretString, String> {
    let file = File::open(path).map_err(|error| format!("can't be opened: {error}"))?;
    let stat = fstat(file.as_fd()).map_err(|error| format!("can't be examined: {error}"))?;
    only_ours(&stat)?;
    read(file)
}

/// The text of a certificate or schedule, which hide nothing.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_public(path: &Path) -> Result<String, String> {
    let text = std::fs::read(path).map_err(|error| format!("can't be read: {error}"))?;
    String::from_utf8(text).map_err(|_| "isn't text; it must be PEM".to_owned())
}

fn read(file: File) -> Result<SecretString, String> {
    // Room for the largest: a buffer that grows leaves what it held behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_ROOM));
    file.take(LARGEST_KEY_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() as u64 > LARGEST_KEY_FILE {
        return Err("is larger than 64 KiB, so it is no key".to_owned());
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(SecretString::from(text)),
        Err(_) => Err(super::pem::Unreadable::NotPem.to_string()),
    }
}

/// Ours and closed to all others; or root's, and open to one group that we are in, as Kubernetes mounts
/// secrets (0440 with `fsGroup`).
fn only_ours(stat: &Stat) -> Result<(), String> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    let shared_by_root = stat.st_uid == 0 && !mode.intersects(Mode::WGRP | Mode::XGRP | Mode::RWXO);
    if !mode.intersects(Mode::RWXG | Mode::RWXO) || (shared_by_root && our_group(stat.st_gid)) {
        let ours = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
        return if ours {
            Ok(())
        } else {
            Err(format!(
                "belongs to user {}, who could change it; it must belong to the user that runs tokenmint, or \
                 to root",
                stat.st_uid
            ))
        };
    }
    Err(format!(
        "is open to others (mode {:04o}); it must be readable by its owner only: chmod 600",
        stat.st_mode & 0o7777
    ))
}

fn our_group(gid: u32) -> bool {
    getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}
