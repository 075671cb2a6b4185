//! Pods and containers on the hutch virtual machine monitor, and what they share with `hutch run`: the channel to the
//! agent in the guest, and the relaying of standard streams.
#![deny(unsafe_code)]

pub mod agent_client;
pub mod guest;
pub mod sandbox;
pub mod stdio;

// The pod API.
pub mod container;
pub mod error;
pub mod fault;
pub mod hook;
pub mod id;
mod logger;
pub mod network;
mod options;
pub mod pod;
pub mod process;
mod runtime;
pub mod seam;
pub mod spec;
pub mod state;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod timestamp;
mod undo;
pub mod verb;

pub use container::{ContainerHandle, EnterOptions, Limits, ListFormat, Process, ProcessListOptions};
pub use error::{Error, ErrorKind, Result};
pub use id::{ContainerId, PodId};
pub use options::Options;
pub use pod::{DeleteOptions, PodEnd, PodEvent, PodEvents, PodHandle, PodStats, StopOptions};
pub use runtime::Runtime;
pub use seam::Seams;
pub use state::State;
pub use store::Store;
pub use timestamp::Timestamp;
