//! What a share is made of, checked before anything runs.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use fuse_backend_rs::passthrough::CachePolicy;

/// Bytes of a tag in configuration space (VIRTIO 1.2, 5.11.4).
pub const TAG_MAX: usize = 36;

/// File descriptors that the process should be allowed (`RLIMIT_NOFILE`) before it shares a directory: every file that
/// the guest's kernel remembers takes one. With fewer, a guest that walks a large tree gets `ENFILE` early; the rest of
/// the process is never starved.
pub const OPEN_FILES_WANTED: u64 = 1 << 20;

/// How much the guest's kernel remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FsCache {
    /// Names and attributes for a second, contents until a file is opened again. For directories that the host changes
    /// too.
    #[default]
    Auto,
    /// All, for as long as it likes; also that a name does not exist. For directories that nobody else changes.
    Always,
    /// Nothing. Shared writable memory maps of files do not work.
    Never,
}

impl FsCache {
    /// Validity of names and attributes.
    pub(super) fn timeout(self) -> Duration {
        match self {
            Self::Auto => Duration::from_secs(1),
            Self::Always => Duration::from_secs(24 * 60 * 60),
            Self::Never => Duration::ZERO,
        }
    }

    pub(super) fn policy(self) -> CachePolicy {
        match self {
            Self::Auto => CachePolicy::Auto,
            Self::Always => CachePolicy::Always,
            Self::Never => CachePolicy::Never,
        }
    }
}

/// How a virtio-fs device is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsDeviceConfig {
    /// Name for logs and threads, such as `fs0`.
    pub id: String,
    /// What the guest mounts it by: 1 to 36 bytes without NUL.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// Whether the guest may change anything.
    pub read_only: bool,
    /// Shares this one file of the directory and nothing else of it. The directory itself can't be changed then.
    pub single_file: Option<OsString>,
    /// How much the guest remembers.
    pub cache: FsCache,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag does not fit or names nothing.
    #[error("tag {tag:?} of a shared directory: give 1 to {TAG_MAX} bytes without NUL")]
    Tag {
        /// The tag.
        tag: String,
    },
    /// There is no such path.
    #[error("shared directory {} does not exist: create it or share another", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// It is a file or something else.
    #[error("{} cannot be shared: it is not a directory", path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// The host does not let us.
    #[error("cannot open shared directory {}: check its permissions", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}
