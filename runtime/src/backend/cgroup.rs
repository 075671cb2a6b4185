//! The control group of a pod on the host: where its VMM process and its shims are accounted (M-27).

use std::path::{Path, PathBuf};

use super::BackendResult;

/// Control groups of the host.
pub trait Cgroups: Send + Sync {
    /// Where the group named `name` is or will be. Makes nothing. `None`: this host has no control groups to speak of.
    ///
    /// # Errors
    /// If that cannot be told.
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>>;

    /// Makes a planned group; an existing one is fine.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, dir: &Path) -> BackendResult<()>;

    /// Moves a process into the group; nobody (PID 0) is fine, and so is one that has ended.
    ///
    /// # Errors
    /// The system's.
    fn add(&self, dir: &Path, pid: i32) -> BackendResult<()>;

    /// Removes the group; a missing one is fine. Its processes must be gone.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, dir: &Path) -> BackendResult<()>;
}
