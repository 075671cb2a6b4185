//! `--rootfs` and `--rootfs-type`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::error::ResolveError;
use super::values::{is_name, MAX_NAME};

/// The source of a root file system on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    Directory(PathBuf),
    /// A disk image or block device.
    Disk {
        path: PathBuf,
        /// Type of the file system on it; empty if not known yet.
        fstype: String,
    },
}

impl RootSource {
    pub fn path(&self) -> &Path {
        match self {
            RootSource::Directory(path) | RootSource::Disk { path, .. } => path,
        }
    }
}

/// A directory, or a disk whose file system type is not known yet. Checks that hutch can read it.
pub(super) fn rootfs(path: &Path) -> Result<RootSource, ResolveError> {
    let fail = |source| ResolveError::Rootfs { path: path.to_owned(), source };
    let kind = path.metadata().map_err(fail)?.file_type();
    match () {
        () if kind.is_dir() => path.read_dir().map(|_| RootSource::Directory(path.to_owned())).map_err(fail),
        () if kind.is_file() || kind.is_block_device() => {
            File::open(path).map_err(fail)?;
            Ok(RootSource::Disk { path: path.to_owned(), fstype: String::new() })
        }
        () => Err(ResolveError::RootfsKind(path.to_owned())),
    }
}

/// The value of `--rootfs-type`.
pub(super) fn rootfs_type(text: Option<&OsStr>) -> Result<Option<String>, ResolveError> {
    let Some(text) = text else { return Ok(None) };
    match text.to_str() {
        Some(name) if !name.is_empty() && is_name(name, MAX_NAME) => Ok(Some(name.to_owned())),
        _ => Err(ResolveError::RootfsType(text.to_owned())),
    }
}
