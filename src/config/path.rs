//! A path as a setting gives it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::source::ValueOrigin;

/// A path whose origin is unproven: people put a key or a secret where its file's name belongs.
///
/// It is displayed only where it exists. Otherwise its place in the configuration is, which is enough to find it.
#[derive(Clone)]
pub struct UnverifiedPath {
    path: PathBuf,
    origin: String,
}

impl UnverifiedPath {
    pub(super) fn new(path: PathBuf, origin: &ValueOrigin) -> Self {
        Self { path, origin: origin.to_string() }
    }

    /// For opening it. A message shows `self` instead.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// Whether it names something, even a link that leads nowhere.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }
}

/// The same path, wherever it is written.
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
