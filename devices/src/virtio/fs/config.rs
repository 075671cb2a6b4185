//! The options of a share, and the reasons for which a device cannot be created.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::privileges::FsPrivileges;

/// Length of the tag in configuration space, in bytes (VIRTIO 1.2, 5.11.4).
pub const TAG_MAX: usize = 36;

/// Recommended `RLIMIT_NOFILE` of a process that shares directories: each file that the guest has open takes a
/// descriptor. A quarter of the limit, at most 8,192, keeps files open that are not open in the guest, which saves work.
/// With a lower limit a guest gets `ENFILE` for fewer open files; trees of any size can be walked. The rest of the process
/// keeps its descriptors in any case.
pub const OPEN_FILES_WANTED: u64 = 1 << 20;

/// The caching policy of the guest's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsCache {
    /// Caches names and attributes for a second, contents until a file is opened again. For directories that the host
    /// changes too.
    #[default]
    Auto,
    /// Caches everything without a time limit, including names that do not exist. For directories that only this guest
    /// changes.
    Always,
    /// Caches nothing: every look-up, read and write goes to the host. Shared writable memory maps of files need Linux 6.6
    /// in the guest.
    Never,
}

impl FsCache {
    /// Time for which names and attributes are valid.
    pub(super) fn timeout(self) -> Duration {
        match self {
            Self::Auto => Duration::from_secs(1),
            Self::Always => Duration::from_secs(24 * 60 * 60),
            Self::Never => Duration::ZERO,
        }
    }
}

/// The options of a virtio-fs device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsDeviceConfig {
    /// Name in logs and of threads, such as `fs0`.
    pub id: String,
    /// Tag by which the guest mounts it: 1 to 36 bytes without NUL.
    pub tag: String,
    /// The shared directory.
    pub path: PathBuf,
    /// Refuse all changes by the guest.
    pub read_only: bool,
    /// Share only this file of the directory. The guest then cannot change the directory itself.
    pub single_file: Option<OsString>,
    /// Caching policy of the guest.
    pub cache: FsCache,
    /// The power that files of the guest have on the host.
    pub privileges: FsPrivileges,
    /// Let the guest use `trusted.*` attributes, which an overlay file system in the guest may need. Needs CAP_SYS_ADMIN.
    pub trusted_xattrs: bool,
}

/// A device that cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag is empty, too long or contains NUL.
    #[error("{tag:?} is not a valid tag of a shared directory: give 1 to {TAG_MAX} bytes without NUL")]
    Tag {
        /// The refused tag.
        tag: String,
    },
    /// The path does not exist.
    #[error("shared directory {} does not exist: create it or share another", path.display())]
    Missing {
        /// Path of the share.
        path: PathBuf,
    },
    /// The path is not a directory.
    #[error("{} cannot be shared: it is not a directory", path.display())]
    NotDirectory {
        /// Path of the share.
        path: PathBuf,
    },
    /// `/proc` is missing.
    #[error("cannot open /proc/self/fd, which sharing directories needs: mount /proc")]
    Proc {
        /// Error of `open(2)`.
        source: io::Error,
    },
    /// The directory cannot be opened.
    #[error("cannot open shared directory {}: check its permissions", path.display())]
    Open {
        /// Path of the share.
        path: PathBuf,
        /// Error of `open(2)`.
        source: io::Error,
    },
}
