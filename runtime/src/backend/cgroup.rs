//! The control group of a pod on the host: where its VMM process and its shims are accounted (M-27).

use std::path::{Path, PathBuf};

use super::BackendResult;

/// Control groups of the host.
pub trait Cgroups: Send + Sync {
    /// The directory of the group `name`, which need not exist. Creates nothing. `None`: this host has no usable
    /// control groups.
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>>;

    /// Creates a planned group. An existing one is fine.
    fn create(&self, dir: &Path) -> BackendResult<()>;

    /// Moves a process into the group. PID 0 is ignored, and so is a process that has ended.
    fn add(&self, dir: &Path, pid: i32) -> BackendResult<()>;

    /// Removes the group. A missing one is fine. Its processes must have ended.
    fn remove(&self, dir: &Path) -> BackendResult<()>;
}
