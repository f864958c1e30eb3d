//! Redacts paths in messages: a message shows a path of the configuration only if it exists, because it may be a pasted secret.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::source::ValueOrigin;

/// A path that may be a secret: people paste a key or a secret into a setting that needs a file name.
///
/// `Display` shows the path only if it exists. Otherwise it shows where the setting was written, which is enough to
/// find it.
#[derive(Clone)]
pub struct UnverifiedPath {
    path: PathBuf,
    origin: String,
}

impl UnverifiedPath {
    pub(super) fn new(path: PathBuf, origin: &ValueOrigin) -> Self {
        Self { path, origin: origin.to_string() }
    }

    /// Returns the path, to open it. Messages show `self` instead.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// Whether something exists at the path; a dangling symlink counts.
    pub(crate) fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }
}

/// Compares the path only, not where it was written.
impl PartialEq for UnverifiedPath {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for UnverifiedPath {}

impl fmt::Display for UnverifiedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.exists() {
            write!(f, "{}", self.path.display())
        } else {
            write!(f, "{}, whose path isn't found", self.origin)
        }
    }
}
