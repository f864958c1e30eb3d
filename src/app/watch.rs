//! Whether the files of a configuration have changed, by what they hold: notifications get lost on some mounts, and
//! dates say nothing of a Kubernetes `..data` link that was turned to another folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Config, InvalidConfig, KeysetConfig, KeysetSource, TlsConfig};
use crate::files::{LARGEST, Opened};
use crate::hash::Parts;
use crate::keys::SCHEDULE_FILE;

/// The files and folders that a configuration is made of.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Watched {
    files: BTreeSet<PathBuf>,
    /// Key directories.
    directories: BTreeSet<PathBuf>,
}

/// What they hold, who owns them, and who may read them: two are equal only where nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of no files, which differs from any that were read.
    pub const fn of_nothing() -> Self {
        Self([0; 32])
    }
}

impl Watched {
    pub fn of(config: &Config) -> Self {
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
        watched
    }

    /// As far as they are known: to see when it is mended.
    pub fn of_invalid(invalid: &InvalidConfig) -> Self {
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

    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Parts::default();
        for directory in &self.directories {
            // Who may replace files in it, or why it can't be looked at.
            match rustix::fs::stat(directory) {
                Ok(stat) => {
                    hash.add(&stat.st_mode.to_be_bytes());
                    hash.add(&stat.st_uid.to_be_bytes());
                }
                Err(error) => hash.add(&error.raw_os_error().to_be_bytes()),
            }
        }
        let inside = self.directories.iter().flat_map(|directory| contents(directory));
        for path in self.files.iter().cloned().chain(inside) {
            hash.add(path.as_os_str().as_encoded_bytes());
            look(&mut hash, &path);
        }
        Fingerprint(hash.finish())
    }
}

/// The files of a key directory that count, in order.
fn contents(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            extension == "key"
                || extension == "crt"
                || path.file_name().is_some_and(|name| name == SCHEDULE_FILE)
        })
        .collect()
}

fn look(hash: &mut Parts, path: &Path) {
    let read = Opened::open(path).and_then(|file| {
        hash.add(&file.stat.st_mode.to_be_bytes());
        hash.add(&file.stat.st_uid.to_be_bytes());
        hash.add(&file.stat.st_gid.to_be_bytes());
        hash.add(&file.read(LARGEST)?);
        Ok(())
    });
    // What can't be read can't be in force: that it is so, and why, is all that counts.
    if let Err(error) = read {
        hash.add(error.to_string().as_bytes());
    }
}
