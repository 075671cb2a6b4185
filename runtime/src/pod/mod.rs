//! The verbs of pods. Each file holds one entry point of [`Runtime`](crate::Runtime) and what only it needs.
//!
//! Every verb opens the pod first (`OpenPod`): takes the lock, reads the records, removes what a call that died
//! half way has left. It then decides on the open pod and writes each change to disk before the next step. The verbs of
//! containers work on a `ContainerRef`, which is a container together with its open pod.
//!
//! | file | contents |
//! |---|---|
//! | `create`, `boot`, `run` | CreatePod; the steps from network to agent, also for a stopped pod; RunPod: create, then start |
//! | `start`, `stop`, `stop_policy` | StartPod; StopPod; signals, waits and what an unreachable guest means for a stop |
//! | `pause` | PausePod and ResumePod |
//! | `delete`, `teardown`, `cleanup` | DeletePod; releases what a pod holds on the host; removes what calls that died have left |
//! | `list`, `status`, `stats` | ListPod; StatusPod; statistics of the machine and of the containers |
//! | `reconcile` | finds a dead machine, agent or shim when a status is asked for, and records the stop |
//! | `wait`, `events` | waits for the end of the machine; ended processes, memory kills and the end as a stream |
//! | `size` | vCPUs and memory of the machine, which follow the limits of the containers |
//! | `memory_limit`, `in_memory` | the limit on the memory that the pod's processes use on the host; file systems in memory, which count |
//! | `get`, `handle` | finds a pod by its id; the pod as calls return it, with the verbs as methods |
//! | `open`, `load`, `sandbox` | a pod during one call: lock and records; how they are read; its VMM process and agent session |

mod boot;
mod cleanup;
mod create;
mod delete;
mod events;
mod get;
mod handle;
pub(crate) mod in_memory;
mod list;
mod load;
mod memory_limit;
mod open;
mod pause;
mod reconcile;
mod run;
mod sandbox;
mod size;
mod start;
mod stats;
mod status;
mod stop;
mod stop_policy;
mod teardown;
mod wait;

pub use cleanup::Cleanup;
pub use delete::DeleteOptions;
pub use events::{PodEvent, PodEvents};
pub use handle::PodHandle;
pub use stats::PodStats;
pub use stop::StopOptions;
pub use wait::PodEnd;

pub(crate) use open::OpenPod;
pub(crate) use sandbox::{guarded, is_wrong_state, unexpected, Sandbox};
pub(crate) use stop::check_signal;
pub use stop_policy::STOP_SIGNAL;
pub(crate) use stop_policy::{StopMode, UnreachablePolicy, KILL_TIMEOUT, POWER_OFF_TIMEOUT, STOP_TIMEOUT};
