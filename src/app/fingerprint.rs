//! Change detection by polling: hashes the content, the owners and the modes of the configuration's files, and the owners and
//! the modes of its key directories.
//!
//! File notifications (inotify) get lost on some mounts. Modification times don't show that Kubernetes has replaced the
//! `..data` link of a mounted secret.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Config, InvalidConfig, IssuerKeySource, KeysetConfig, KeysetSource, TlsConfig};
use crate::files::{MAX_FILE_SIZE, OpenedFile};
use crate::hash::PartsHasher;
use crate::keys::SCHEDULE_FILE;

/// The files and key directories that a configuration consists of.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct WatchedFiles {
    files: BTreeSet<PathBuf>,
    /// Key directories.
    directories: BTreeSet<PathBuf>,
}

/// A SHA-256 over [`WatchedFiles`]: paths, content, owners and modes. Equal fingerprints mean that none of these has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// A fingerprint that no files have.
    pub(crate) const fn of_nothing() -> Self {
        Self([0; 32])
    }
}

impl WatchedFiles {
    pub(crate) fn of(config: &Config) -> Self {
        let mut watched = Self::default();
        watched.add(&config.files, config.keysets.values());
        let server = &config.server;
        let public = server.public.as_ref().and_then(|public| public.tls.as_ref());
        for TlsConfig { certificate_file, private_key_file, client_ca_file } in
            server.tls.iter().chain(public)
        {
            let paths = [certificate_file, private_key_file].into_iter().chain(client_ca_file);
            watched.files.extend(paths.map(|path| path.as_path().to_path_buf()));
        }
        for issuer in config.issuers.values() {
            // `bearer_token_file` is read for each fetch. Secret files are among the files of the configuration.
            let file = match &issuer.keys {
                IssuerKeySource::Fetched(fetch) => fetch.ca_file.as_ref(),
                IssuerKeySource::File(file) => Some(file),
                IssuerKeySource::Secret(_) => None,
            };
            watched.files.extend(file.map(|path| path.as_path().to_path_buf()));
        }
        watched
    }

    /// The files of an invalid configuration, as far as they are known, so that a fix is noticed.
    pub(crate) fn of_invalid(invalid: &InvalidConfig) -> Self {
        let mut watched = Self::default();
        watched.add(&invalid.files, invalid.keysets.values());
        watched
    }

    fn add<'a>(&mut self, files: &[PathBuf], keysets: impl Iterator<Item = &'a KeysetConfig>) {
        self.files.extend(files.iter().cloned());
        for keyset in keysets {
            match &keyset.keys {
                KeysetSource::Directory(directory) => {
                    self.directories.insert(directory.as_path().to_path_buf());
                }
                KeysetSource::File { path, .. } => _ = self.files.insert(path.as_path().to_path_buf()),
                KeysetSource::Text { .. } => {}
            }
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hash = PartsHasher::default();
        for directory in &self.directories {
            // The mode and the owner decide who may replace files in it. If they can't be read, the error counts.
            match rustix::fs::stat(directory) {
                Ok(stat) => {
                    hash.add(&stat.st_mode.to_be_bytes());
                    hash.add(&stat.st_uid.to_be_bytes());
                }
                Err(error) => hash.add(&error.raw_os_error().to_be_bytes()),
            }
        }
        let inside = self.directories.iter().flat_map(|directory| key_directory_files(directory));
        for path in self.files.iter().cloned().chain(inside) {
            hash.add(path.as_os_str().as_encoded_bytes());
            add_file(&mut hash, &path);
        }
        Fingerprint(hash.finish())
    }
}

/// The keys, the certificates and the schedule in a key directory, in the order of their paths.
fn key_directory_files(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            ["key", "sealed", "crt"].iter().any(|name| extension == *name)
                || path.file_name().is_some_and(|name| name == SCHEDULE_FILE)
        })
        .collect()
}

/// Adds the permissions and the content of a file, or the error of reading it.
fn add_file(hash: &mut PartsHasher, path: &Path) {
    let read = OpenedFile::open(path).and_then(|file| {
        hash.add(&file.stat.st_mode.to_be_bytes());
        hash.add(&file.stat.st_uid.to_be_bytes());
        hash.add(&file.stat.st_gid.to_be_bytes());
        hash.add(&file.read(MAX_FILE_SIZE)?);
        Ok(())
    });
    // An unreadable file changes when its error changes.
    if let Err(error) = read {
        hash.add(error.to_string().as_bytes());
    }
}
