//! The shared directory, opened once: all files that the guest can reach are opened from this descriptor.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::config::{FsDeviceConfig, FsError};
use super::sys;

/// The shared directory.
#[derive(Debug)]
pub struct ShareRoot {
    fd: OwnedFd,
    dev: u64,
    /// The descriptor belongs to a read-only mount: the kernel refuses every change through it.
    read_only_mount: bool,
    /// `/proc/self/fd`, by which open files are opened once more.
    proc: OwnedFd,
}

impl ShareRoot {
    /// Opens the directory. A read-only share gets a private read-only mount of its own, if the process may mount.
    pub fn open(config: &FsDeviceConfig) -> Result<Self, FsError> {
        Self::open_as(config, config.read_only)
    }

    /// Opens the directory, with or without an attempt to mount.
    pub(super) fn open_as(config: &FsDeviceConfig, mount: bool) -> Result<Self, FsError> {
        let path = &config.path;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => FsError::Missing { path: path.clone() },
            io::ErrorKind::NotADirectory => FsError::NotDirectory { path: path.clone() },
            _ => FsError::Open { path: path.clone(), source },
        };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
        let plain = sys::open_directory(&name).map_err(failed)?;
        let mounted = if mount { read_only_tree(&plain) } else { None };
        let read_only_mount = mounted.is_some();
        let directory = File::from(mounted.unwrap_or(plain));
        let dev = directory.metadata().map_err(failed)?.dev();
        let proc = sys::open_directory(c"/proc/self/fd").map_err(|source| FsError::Proc { source })?;
        Ok(Self { fd: directory.into(), dev, read_only_mount, proc })
    }

    /// Another descriptor of the same directory, for another activation.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (fd, proc) = (self.fd.try_clone()?, self.proc.try_clone()?);
        Ok(Self { fd, proc, dev: self.dev, read_only_mount: self.read_only_mount })
    }

    /// `/proc/self/fd`.
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// A path of the directory that works in this process while `self` is alive.
    #[cfg(test)]
    fn path(&self) -> String {
        format!("/proc/self/fd/{}/.", self.fd.as_raw_fd())
    }

    /// Device number of its file system.
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// Whether the kernel refuses changes, because the directory has a read-only mount.
    pub fn is_read_only_mount(&self) -> bool {
        self.read_only_mount
    }
}

impl AsFd for ShareRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A read-only mount of the directory. Needs CAP_SYS_ADMIN and Linux 5.12; without them only the server's own check
/// refuses changes.
fn read_only_tree(directory: &OwnedFd) -> Option<OwnedFd> {
    let path = CString::new(format!("/proc/self/fd/{}/.", directory.as_raw_fd())).ok()?;
    let tree = sys::clone_tree(&path).and_then(|tree| sys::make_read_only(tree.as_fd()).map(|()| tree));
    match tree {
        Ok(tree) => Some(tree),
        Err(error) => {
            log::debug!("no read-only mount for a shared directory: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn config(path: impl Into<PathBuf>) -> FsDeviceConfig {
        FsDeviceConfig { path: path.into(), read_only: true, ..FsDeviceConfig::default() }
    }

    #[test]
    fn a_path_that_is_not_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(ShareRoot::open(&config(&missing)), Err(FsError::Missing { path }) if path == missing));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(ShareRoot::open(&config(&file)), Err(FsError::NotDirectory { path }) if path == file));
    }

    #[test]
    fn a_tree_that_could_be_mounted_refuses_changes_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "text").unwrap();
        let root = ShareRoot::open(&config(dir.path())).unwrap();
        let inside = PathBuf::from(root.path());
        assert_eq!(std::fs::read(inside.join("file")).unwrap(), b"text");
        let result = std::fs::write(inside.join("new"), "");
        assert_eq!(result.is_err(), root.is_read_only_mount());
        // With or without a mount, the directory itself can still be changed.
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(inside.join("other").exists());
    }

    #[test]
    fn names_that_are_not_utf8_can_be_shared() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
        std::fs::create_dir(&odd).unwrap();
        for mount in [true, false] {
            let root = ShareRoot::open_as(&config(&odd), mount).unwrap();
            assert!(PathBuf::from(root.path()).is_dir());
        }
    }
}
