//! The control group of a pod on the host: where its VMM process and its shims are accounted.

use std::path::{Path, PathBuf};

use super::BackendResult;

/// Control groups of the host.
pub trait Cgroups: Send + Sync {
    /// The directory of the group `name`, which need not exist. Creates nothing. `None`: this host has no usable
    /// control groups.
    fn plan(&self, name: &str) -> BackendResult<Option<PathBuf>>;

    /// The directories of a planned group that do not exist yet, outermost first. Creates nothing.
    fn missing(&self, dir: &Path) -> BackendResult<Vec<PathBuf>>;

    /// Creates a planned group. An existing one is fine.
    fn create(&self, dir: &Path) -> BackendResult<()>;

    /// Moves a process into the group. PID 0 is ignored, and so is a process that has ended.
    fn add(&self, dir: &Path, pid: i32) -> BackendResult<()>;

    /// The processes in the group, without those of groups below it.
    fn processes(&self, dir: &Path) -> BackendResult<u64>;

    /// The bound of the memory that the group's processes use together, in bytes; `None`: there is none, or no memory
    /// controller.
    fn memory_limit(&self, dir: &Path) -> BackendResult<Option<u64>>;

    /// Bounds the memory that the group's processes use together. If they need more, the kernel ends all of them. `None`
    /// removes the bound. `false`: the group has no memory controller.
    fn limit_memory(&self, dir: &Path, bytes: Option<u64>) -> BackendResult<bool>;

    /// Removes a directory that hutch made. A missing one is fine. The pod's processes must have ended. `false`: others
    /// have processes or groups in it, so it stays.
    fn remove(&self, dir: &Path) -> BackendResult<bool>;
}
