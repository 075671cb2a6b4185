//! The verbs of pods. Each file holds one entry point of [`Runtime`](crate::Runtime) and what only it needs.
//!
//! Every verb opens the pod first (`OpenPod`): takes the lock, reads the records, removes what a call that died
//! half way has left. All decisions are then made on the open pod, and each change goes to disk before the next step.

mod boot;
mod cleanup;
mod create;
mod delete;
mod events;
mod get;
mod handle;
mod list;
mod live;
mod load;
mod open;
mod pause;
mod reconcile;
mod run;
mod size;
mod start;
mod stats;
mod status;
mod stop;
mod stop_policy;
mod teardown;
mod wait;

pub use delete::DeleteOptions;
pub use events::{PodEvent, PodEvents};
pub use handle::PodHandle;
pub use stats::PodStats;
pub use stop::StopOptions;
pub use wait::PodEnd;

pub(crate) use live::{guarded, is_wrong_state, unexpected, Live};
pub(crate) use open::{OpenContainer, OpenPod};
pub(crate) use stop_policy::{StopMode, UnreachablePolicy};
