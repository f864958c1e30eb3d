//! Reads key files the way OpenSSH does: one that others can read is not used.

use std::io::ErrorKind;
use std::path::Path;

use secrecy::SecretString;

use crate::files::{LARGEST, Opened, Unreadable};

/// An encrypted 8192-bit key takes less than 10 KiB.
const LARGEST_KEY_FILE: u64 = 64 << 10;

/// The text of a private key's file, which nobody else may read.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub fn read_private(path: &Path) -> Result<SecretString, String> {
    let file = Opened::open(path).map_err(|error| error.to_string())?;
    file.only_ours_reads().map_err(|error| error.to_string())?;
    private(file)
}

/// The text of a private key file, whoever may read it: to tell which key it is, and not to use it.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_private_of_anyone(path: &Path) -> Result<SecretString, String> {
    private(Opened::open(path).map_err(|error| error.to_string())?)
}

fn private(file: Opened) -> Result<SecretString, String> {
    let bytes = match file.read(LARGEST_KEY_FILE) {
        Err(error @ Unreadable::TooLarge(_)) => return Err(format!("{error}, so it is no key")),
        other => other.map_err(|error| error.to_string())?,
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(SecretString::from(text)),
        Err(_) => Err(super::pem::Unreadable::NotPem.to_string()),
    }
}

/// The text of a certificate, which hides nothing.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_public(path: &Path) -> Result<String, String> {
    let file = Opened::open(path).map_err(|error| match error {
        Unreadable::Open(error) => format!("can't be read: {error}"),
        other => other.to_string(),
    })?;
    text(file, "it must be PEM")
}

/// The text of `keyset.toml`, which nobody else may change.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub fn read_schedule(path: &Path) -> Result<String, String> {
    let file = Opened::open(path).map_err(|error| error.to_string())?;
    file.only_ours_writes().map_err(|error| error.to_string())?;
    text(file, "it must be TOML in UTF-8")
}

/// The text of `keyset.toml`, for who edits it; `None` where there is none.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_schedule_of_anyone(path: &Path) -> Result<Option<String>, String> {
    match Opened::open(path) {
        Err(Unreadable::Open(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(file) => text(file, "it must be TOML in UTF-8").map(Some),
    }
}

fn text(file: Opened, expected: &str) -> Result<String, String> {
    let bytes = file.read(LARGEST).map_err(|error| error.to_string())?;
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("isn't text; {expected}"))
}
