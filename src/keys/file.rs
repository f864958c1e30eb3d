//! Reads key files the way OpenSSH does: one that others can read is not used.

use std::io::ErrorKind;
use std::path::Path;

use secrecy::SecretString;

use super::{pem, recognise};
use crate::files::{FileError, MAX_FILE_SIZE, OpenedFile};

/// The text of a private key's file, which nobody else may read.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub fn read_private(path: &Path) -> Result<SecretString, String> {
    let file = OpenedFile::open(path).map_err(|error| error.to_string())?;
    file.reject_readable_by_others().map_err(|error| error.to_string())?;
    private(file)
}

/// The text of a private key file, whoever may read it: to tell which key it is, and not to use it.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_private_of_anyone(path: &Path) -> Result<SecretString, String> {
    private(OpenedFile::open(path).map_err(|error| error.to_string())?)
}

fn private(file: OpenedFile) -> Result<SecretString, String> {
    let bytes = match file.read(pem::LARGEST) {
        Err(FileError::TooLarge(largest)) => {
            return Err(recognise::Unreadable::TooLarge(largest).to_string());
        }
        other => other.map_err(|error| error.to_string())?,
    };
    recognise::text(&bytes).map(SecretString::from).map_err(|why| why.to_string())
}

/// The text of a certificate, which hides nothing.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_public(path: &Path) -> Result<String, String> {
    let file = OpenedFile::open(path).map_err(|error| match error {
        FileError::Open(error) => format!("can't be read: {error}"),
        other => other.to_string(),
    })?;
    let bytes = file.read(MAX_FILE_SIZE).map_err(|error| error.to_string())?;
    recognise::text(&bytes).map(str::to_owned).map_err(|why| why.to_string())
}

/// The text of `keyset.toml`, which nobody else may change.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub fn read_schedule(path: &Path) -> Result<String, String> {
    let file = OpenedFile::open(path).map_err(|error| error.to_string())?;
    file.reject_writable_by_others().map_err(|error| error.to_string())?;
    schedule(file)
}

/// The text of `keyset.toml`, for who edits it; `None` where there is none.
///
/// # Errors
/// Says why the file can't be read.
pub fn read_schedule_of_anyone(path: &Path) -> Result<Option<String>, String> {
    match OpenedFile::open(path) {
        Err(FileError::Open(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(file) => schedule(file).map(Some),
    }
}

fn schedule(file: OpenedFile) -> Result<String, String> {
    let bytes = file.read(MAX_FILE_SIZE).map_err(|error| error.to_string())?;
    String::from_utf8(bytes.to_vec()).map_err(|_| "isn't text; it must be TOML in UTF-8".to_owned())
}
