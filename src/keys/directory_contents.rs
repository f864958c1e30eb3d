//! The files of a key directory, classified by their names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::SCHEDULE_FILE;
use crate::config::KeyId;

/// The extensions of key and keystore files of other tools, in lower case. `.key` stands for spellings like `.KEY`.
const FOREIGN_KEY_EXTENSIONS: &[&str] = &[".pem", ".p12", ".pfx", ".jks", ".ppk", ".der", ".key"];

/// A listing of a key directory. No file is opened.
pub(crate) struct DirectoryContents {
    /// Each `KID.key`.
    pub(crate) keys: BTreeMap<KeyId, PathBuf>,
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
        let mut contents =
            Self { keys: BTreeMap::new(), has_schedule: false, misnamed: Vec::new(), ignored: Vec::new() };
        for item in fs::read_dir(directory)? {
            let path = item?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // A hidden file is ignored: editors write such files.
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
            } else if FOREIGN_KEY_EXTENSIONS.iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
                contents.ignored.push(path);
            }
        }
        contents.ignored.sort();
        Ok(contents)
    }
}
