//! The verbs of containers. Each file holds one entry point of [`Runtime`](crate::Runtime) and what only it needs.
//!
//! | file | contents |
//! |---|---|
//! | `create`, `prepare` | CreateContainer; root file system, devices, guest container and shim, also for a restart |
//! | `share`, `hotplug` | binds of directories that the guest sees; disks and devices that are plugged in |
//! | `start`, `stop`, `kill` | StartContainer; StopContainer; KillContainer |
//! | `delete`, `teardown` | DeleteContainer; releases what a container holds on the host |
//! | `exec`, `exec_handle`, `exec_process` | ExecContainer; the process with its pipes; later calls on it, by its token |
//! | `status`, `stats`, `processes` | StatusContainer; statistics; ListProcesses and the list of execs |
//! | `update`, `wait` | changes the limits of a live container; waits for its process to end |
//! | `get`, `handle` | finds a container by its id; the container as calls return it, with the verbs as methods |
//! | `open`, `records` | a container of an open pod, which the verbs work on; its records as read |

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
