//! Reads private keys, certificates and `keyset.toml`. A rule like OpenSSH's rejects a private key to which another user has
//! access. Secrets of Kubernetes and systemd are exceptions ([`OpenedFile::reject_accessible_by_others`]).

use std::io::ErrorKind;
use std::path::Path;

use secrecy::SecretString;

use super::{key_formats, pem};
use crate::files::{FileError, MAX_FILE_SIZE, OpenedFile};

/// Reads a private key's file. Rejects one to which others have access.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub(crate) fn read_private_key(path: &Path) -> Result<SecretString, String> {
    let file = OpenedFile::open(path).map_err(|error| error.to_string())?;
    file.reject_accessible_by_others().map_err(|error| error.to_string())?;
    private_key_text(file)
}

/// Reads a private key's file without checking its permissions: to identify the key, or for `tokenmint init` to copy it. The
/// service never signs with a key that was read so.
///
/// # Errors
/// Says why the file can't be read.
pub(crate) fn read_private_key_unchecked(path: &Path) -> Result<SecretString, String> {
    private_key_text(OpenedFile::open(path).map_err(|error| error.to_string())?)
}

fn private_key_text(file: OpenedFile) -> Result<SecretString, String> {
    let bytes = match file.read(pem::MAX_KEY_FILE_BYTES) {
        Err(FileError::TooLarge(largest)) => {
            return Err(key_formats::UnreadableKey::TooLarge(largest).to_string());
        }
        other => other.map_err(|error| error.to_string())?,
    };
    key_formats::decode_key_text(&bytes).map(SecretString::from).map_err(|why| why.to_string())
}

/// Reads the file of a sealed key, which isn't confidential. Rejects one that others can change.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub(crate) fn read_sealed_key(path: &Path) -> Result<String, String> {
    let file = OpenedFile::open(path).map_err(|error| error.to_string())?;
    file.reject_writable_by_others().map_err(|error| error.to_string())?;
    let bytes = file.read(MAX_FILE_SIZE).map_err(|error| error.to_string())?;
    String::from_utf8(bytes.to_vec()).map_err(|_| "isn't text".to_owned())
}

/// Reads a certificate's file, which isn't confidential.
///
/// # Errors
/// Says why the file can't be read.
pub(crate) fn read_certificate_text(path: &Path) -> Result<String, String> {
    let file = OpenedFile::open(path).map_err(|error| match error {
        FileError::Open(error) => format!("can't be read: {error}"),
        other => other.to_string(),
    })?;
    let bytes = file.read(MAX_FILE_SIZE).map_err(|error| error.to_string())?;
    key_formats::decode_key_text(&bytes).map(str::to_owned).map_err(|why| why.to_string())
}

/// Reads `keyset.toml`. Rejects one that others can change.
///
/// # Errors
/// Says what is wrong with the file and how to fix it.
pub(crate) fn read_schedule(path: &Path) -> Result<String, String> {
    let file = OpenedFile::open(path).map_err(|error| error.to_string())?;
    file.reject_writable_by_others().map_err(|error| error.to_string())?;
    schedule_text(file)
}

/// Reads `keyset.toml` without checking its permissions, to edit it or to tell which key signs. `None` if there is no such
/// file.
///
/// # Errors
/// Says why the file can't be read.
pub(crate) fn read_schedule_unchecked(path: &Path) -> Result<Option<String>, String> {
    match OpenedFile::open(path) {
        Err(FileError::Open(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(file) => schedule_text(file).map(Some),
    }
}

/// Reads the bytes of `keyset.toml`, which needn't be text, to find retirements. Permissions aren't checked. `None` if there
/// is no such file.
///
/// # Errors
/// Says why the file can't be read.
pub(crate) fn read_schedule_bytes(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match OpenedFile::open(path) {
        Err(FileError::Open(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(file) => {
            let bytes = file.read(MAX_FILE_SIZE).map_err(|error| error.to_string())?;
            Ok(Some(bytes.to_vec()))
        }
    }
}

fn schedule_text(file: OpenedFile) -> Result<String, String> {
    let bytes = file.read(MAX_FILE_SIZE).map_err(|error| error.to_string())?;
    String::from_utf8(bytes.to_vec()).map_err(|_| "isn't text; it must be TOML in UTF-8".to_owned())
}
