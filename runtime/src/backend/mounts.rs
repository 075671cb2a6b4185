//! Bind mounts on the host, by which a pod's directory shows the guest what its containers may see.

use std::path::{Path, PathBuf};

use super::BackendResult;
use crate::store::BindRecord;

/// A root file system that is a disk of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// The image or block device, links resolved.
    pub device: PathBuf,
    /// Its file system; empty if that cannot be told.
    pub fstype: String,
    /// Where the root directory lies in it; empty or `/` is its top.
    pub path: PathBuf,
}

/// Bind mounts on the host.
pub trait HostMounts: Send + Sync {
    /// The disk that `rootfs` is, if it is one: an image or a block device, and no directory. What the host has mounted is
    /// not given away, unlike in §7.1: two kernels must not write to one file system.
    ///
    /// # Errors
    /// If it does not exist or cannot be read.
    fn root_disk(&self, rootfs: &Path) -> BackendResult<Option<RootDisk>>;

    /// Links resolved (P-100).
    ///
    /// # Errors
    /// If the path does not exist.
    fn resolve(&self, source: &Path) -> BackendResult<PathBuf>;

    /// Makes the mount point (a directory or a file, to match) and binds; read-only is enforced on the host (P-100).
    ///
    /// # Errors
    /// The system's; nothing is mounted then.
    fn bind(&self, bind: &BindRecord) -> BackendResult<()>;

    /// Takes the bind apart and removes the empty mount point; follows no links; a missing one is fine (P-104).
    ///
    /// # Errors
    /// The system's; what is mounted is untouched then.
    fn unbind(&self, target: &Path) -> BackendResult<()>;

    /// What is mounted in `dir`; without what is mounted inside of that.
    ///
    /// # Errors
    /// If the mount table cannot be read.
    fn below(&self, dir: &Path) -> BackendResult<Vec<PathBuf>>;
}
