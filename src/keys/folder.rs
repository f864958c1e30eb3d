//! The files of a key folder, by their names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::SCHEDULE_FILE;
use crate::config::KeyId;

/// How the names of keys and keystores end elsewhere, in small letters.
const MEANT_AS_KEYS: &[&str] = &[".pem", ".p12", ".pfx", ".jks", ".ppk", ".der", ".key"];

/// The files that a key folder holds. No file is opened.
pub struct Contents {
    /// Each `KID.key`.
    pub keys: BTreeMap<KeyId, PathBuf>,
    pub has_schedule: bool,
    /// Key files whose name is no key id, and why.
    pub misnamed: Vec<(PathBuf, String)>,
    /// Files that may be meant as keys, and aren't read.
    pub ignored: Vec<PathBuf>,
}

impl Contents {
    /// # Errors
    /// The folder can't be listed.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut contents =
            Self { keys: BTreeMap::new(), has_schedule: false, misnamed: Vec::new(), ignored: Vec::new() };
        for item in fs::read_dir(directory)? {
            let path = item?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // Editors' own.
            if name.starts_with('.') {
                continue;
            }
            if let Some(kid) = name.strip_suffix(".key") {
                match KeyId::parse(kid) {
                    Ok(kid) => _ = contents.keys.insert(kid, path),
                    Err(message) => contents.misnamed.push((path, message)),
                }
            } else if name == SCHEDULE_FILE {
                contents.has_schedule = true;
            } else if MEANT_AS_KEYS.iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
                contents.ignored.push(path);
            }
        }
        contents.ignored.sort();
        Ok(contents)
    }
}
