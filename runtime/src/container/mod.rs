//! The verbs of containers. Each file holds one entry point of [`Runtime`](crate::Runtime) and what only it needs.

mod create;
mod delete;
mod exec;
mod exec_handle;
mod exec_process;
mod get;
mod handle;
mod hotplug;
mod kill;
mod open;
mod prepare;
mod processes;
mod records;
mod share;
mod start;
mod stats;
mod status;
mod stop;
mod teardown;
mod update;
mod wait;

pub use exec::{ExecOptions, Process};
pub use exec_handle::{ExecHandle, ExecOutput};
pub use handle::ContainerHandle;
pub use processes::{ListFormat, ListProcessesOptions};
pub use update::Limits;

pub(crate) use open::ContainerRef;
pub(crate) use records::OpenContainer;

use crate::error::Result;
use crate::id::{ContainerId, PodId};

/// Checks both ids, the pod's first (P-001, P-002).
pub(crate) fn ids(pod: &str, container: &str) -> Result<(PodId, ContainerId)> {
    Ok((PodId::new(pod)?, ContainerId::new(container)?))
}
