//! The files of a key directory, classified by their names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::SCHEDULE_FILE;
use super::sealed_key::SEALED_EXTENSION;
use crate::config::KeyId;

/// The extensions of key and keystore files of other tools, in lower case. `.key` stands for spellings like `.KEY`.
const FOREIGN_KEY_EXTENSIONS: &[&str] = &[".pem", ".p12", ".pfx", ".jks", ".ppk", ".der", ".key"];

/// The file of a private key.
pub(crate) enum KeyFile {
    /// `KID.key`, PEM text.
    Plain(PathBuf),
    /// `KID.key.sealed`, which a store has encrypted.
    Sealed(PathBuf),
}

impl KeyFile {
    /// The file of a key in `directory`. The sealed one counts, if there are both.
    pub(crate) fn of(directory: &Path, kid: &KeyId) -> Self {
        let sealed = directory.join(format!("{kid}.{SEALED_EXTENSION}"));
        if sealed.try_exists().unwrap_or(true) {
            Self::Sealed(sealed)
        } else {
            Self::Plain(directory.join(format!("{kid}.key")))
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Plain(path) | Self::Sealed(path) => path,
        }
    }
}

/// A listing of a key directory. No file is opened.
pub(crate) struct DirectoryContents {
    /// The file of each key. The sealed one counts, if there are both.
    pub(crate) keys: BTreeMap<KeyId, KeyFile>,
    /// Each `KID.key` that has a sealed form beside it.
    pub(crate) plain_beside_sealed: BTreeMap<KeyId, PathBuf>,
    pub(crate) has_schedule: bool,
    /// Key files whose name isn't a valid key id, with the reason.
    pub(crate) misnamed: Vec<(PathBuf, String)>,
    /// Files that look like keys by their extension, and are ignored.
    pub(crate) ignored: Vec<PathBuf>,
}

impl DirectoryContents {
    /// Lists `directory`.
    ///
    /// # Errors
    /// The directory can't be listed.
    pub(crate) fn list(directory: &Path) -> io::Result<Self> {
        let mut contents = Self {
            keys: BTreeMap::new(),
            plain_beside_sealed: BTreeMap::new(),
            has_schedule: false,
            misnamed: Vec::new(),
            ignored: Vec::new(),
        };
        let mut sealed = BTreeMap::new();
        for item in fs::read_dir(directory)? {
            let path = item?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // A hidden file is ignored: editors write such files.
            if name.starts_with('.') {
                continue;
            }
            let sealed_kid = name.strip_suffix(SEALED_EXTENSION).and_then(|name| name.strip_suffix('.'));
            if let Some(kid) = sealed_kid.or_else(|| name.strip_suffix(".key")) {
                match (KeyId::parse(kid), sealed_kid) {
                    (Ok(kid), Some(_)) => _ = sealed.insert(kid, KeyFile::Sealed(path)),
                    (Ok(kid), None) => _ = contents.keys.insert(kid, KeyFile::Plain(path)),
                    (Err(message), _) => contents.misnamed.push((path, message)),
                }
            } else if name == SCHEDULE_FILE {
                contents.has_schedule = true;
            } else if FOREIGN_KEY_EXTENSIONS.iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
                contents.ignored.push(path);
            }
        }
        for (kid, file) in sealed {
            if let Some(KeyFile::Plain(plain)) = contents.keys.insert(kid.clone(), file) {
                contents.plain_beside_sealed.insert(kid, plain);
            }
        }
        contents.misnamed.sort();
        contents.ignored.sort();
        Ok(contents)
    }
}
