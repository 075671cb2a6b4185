//! A volume in use.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

/// A volume that cannot be removed while this value lives.
#[derive(Debug)]
pub struct VolumeHold {
    path: PathBuf,
    _lock: Flock<File>,
}

impl VolumeHold {
    /// `lock` is the volume's directory with a shared lock on it.
    pub(super) fn new(path: PathBuf, lock: Flock<File>) -> Self {
        Self { path, _lock: lock }
    }

    /// The volume's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
