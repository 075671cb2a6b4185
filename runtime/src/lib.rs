//! Pods and containers on the hutch virtual machine monitor, and what they share with `hutch run`: the channel to the
//! agent in the guest, and the relaying of standard streams.
//!
//! # The pod API
//!
//! A **pod** is a virtual machine and everything recorded about it; its **containers** run in the machine's guest.
//! [`Runtime`] has one method for each call. It keeps nothing in memory between calls: all state is in records on disk
//! ([`store`]) and in the pod's VMM process, so that each command of the command line can be a process of its own, and
//! any of them can die at any moment.
//!
//! ```
//! use hutch_runtime::{State, StopOptions};
//! # let host = hutch_runtime_fakes::FakeHost::new();
//! # let runtime = host.runtime();
//! # let config = host.pod("web", &["server"]);
//! let pod = runtime.run_pod(config)?;
//! assert_eq!(runtime.status_pod(pod.id())?.state, Some(State::Running));
//! runtime.kill_container("web", "server", 15, false)?;
//! runtime.stop_pod("web", StopOptions::default())?;
//! runtime.delete_pod("web", Default::default())?;
//! # Ok::<(), hutch_runtime::Error>(())
//! ```
//!
//! The states and the moves between them are drawn on [`State`]; which call is allowed when is in [`verb`]; the layout
//! of the records is in [`store`]. A call that fails or is killed never deletes a pod or container, except a creation,
//! which rolls back what it did; what a killed one has left is removed by the next call on that id.
//!
//! # What is where
//!
//! | module | what it is |
//! |---|---|
//! | [`spec`] | configurations of pods and containers; [`spec::oci`]: from and to OCI `config.json` |
//! | [`state`], [`verb`], [`error`], [`id`] | states, verbs, kinds of errors, ids |
//! | [`store`] | records, their layout, the pod lock |
//! | [`pod`], [`container`] | the calls, one file each |
//! | [`oci`] | the same for callers of an OCI runtime: ids without pods, bundles, pid files |
//! | [`volume`] | named volumes, which outlive pods |
//! | [`hook`] | programs that run beside a pod's life |
//! | [`backend`] | what the calls need from outside, as six small traits |
//! | [`host`] | the backends of the product: |
//! | [`vm_host`] | … the VMM process and its control socket |
//! | [`shim`] | … the process whose PID stands for a guest process |
//! | [`network`], [`mounts`], [`cgroup`] | … kernel networking, bind mounts, control groups |
//! | [`process`] | other processes, named so that a recycled PID is never mistaken for them |
//! | [`fault`] | named points at which tests make a call fail or kill it |
//! | [`agent_client`], [`stdio`], [`oneshot`] | the agent's session, standard streams, `hutch run` |
#![deny(unsafe_code)]

pub mod agent_client;
pub mod oneshot;
pub mod stdio;

// The pod API.
pub mod backend;
pub mod cgroup;
pub mod container;
pub mod error;
pub mod fault;
pub mod hook;
pub mod host;
pub mod id;
mod logger;
pub mod mounts;
pub mod network;
pub mod oci;
mod options;
pub mod pod;
pub mod process;
mod runtime;
pub mod shim;
pub mod spec;
pub mod state;
pub mod store;
mod sync;
mod timestamp;
mod undo;
pub mod verb;
pub mod vm_host;
pub mod volume;

pub use backend::Backends;
pub use container::{ContainerHandle, ExecOptions, Limits, ListFormat, ListProcessesOptions, Process};
pub use error::{Error, ErrorKind, Result};
pub use id::{ContainerId, PodId, VolumeName};
pub use options::Options;
pub use pod::{DeleteOptions, PodEnd, PodEvent, PodEvents, PodHandle, PodStats, StopOptions};
pub use runtime::Runtime;
pub use state::State;
pub use store::Store;
pub use timestamp::Timestamp;
pub use volume::{VolumeStatus, Volumes};
