//! Bind mounts on the host, by which a pod's directory shows the guest what its containers may see.

use std::path::{Path, PathBuf};

use super::BackendResult;
use crate::store::BindRecord;

/// A root file system on a disk of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// The image or block device, links resolved.
    pub device: PathBuf,
    /// Its file system; empty if it is not known.
    pub fstype: String,
    /// Path of the root directory in it; empty or `/` is its top.
    pub path: PathBuf,
}

/// Bind mounts on the host.
pub trait HostMounts: Send + Sync {
    /// The disk at `rootfs`, if that is an image or a block device rather than a directory. Unlike in
    /// §7.1 of the pod contract, a device that the host has mounted is not given to the guest: two kernels must not
    /// write to one file system.
    ///
    /// # Errors
    /// If it does not exist or cannot be read.
    fn root_disk(&self, rootfs: &Path) -> BackendResult<Option<RootDisk>>;

    /// Resolves links (P-100).
    ///
    /// # Errors
    /// If the path does not exist.
    fn resolve(&self, source: &Path) -> BackendResult<PathBuf>;

    /// Makes the mount point (a directory or a file, to match) and binds; read-only is enforced on the host (P-100).
    ///
    /// # Errors
    /// If it fails, nothing is mounted.
    fn bind(&self, bind: &BindRecord) -> BackendResult<()>;

    /// Unmounts and removes the empty mount point. Does not follow links. A missing mount is fine (P-104).
    ///
    /// # Errors
    /// If it fails, the mount is untouched.
    fn unbind(&self, target: &Path) -> BackendResult<()>;

    /// Makes mounts that are made below `dir` from now on appear in the namespaces that are copied from this one. Such a
    /// namespace is the VMM process's.
    ///
    /// # Errors
    /// If it fails, nothing has changed.
    fn publish(&self, _dir: &Path) -> BackendResult<()> {
        Ok(())
    }

    /// Undoes [`Self::publish`]. A directory that was not published is fine.
    ///
    /// # Errors
    /// If the directory is not as before.
    fn unpublish(&self, _dir: &Path) -> BackendResult<()> {
        Ok(())
    }

    /// The mounts in `dir`, without the mounts inside of those.
    ///
    /// # Errors
    /// If the mount table cannot be read.
    fn below(&self, dir: &Path) -> BackendResult<Vec<PathBuf>>;
}
