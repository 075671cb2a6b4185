//! A volume in use.

use std::fs::File;
use std::path::{Path, PathBuf};

/// A volume that cannot be removed for as long as this lives.
#[derive(Debug)]
pub struct VolumeHold {
    path: PathBuf,
    _lock: File,
}

impl VolumeHold {
    /// `lock` is the volume's directory with a shared lock on it.
    pub(super) fn new(path: PathBuf, lock: File) -> Self {
        Self { path, _lock: lock }
    }

    /// The volume's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
