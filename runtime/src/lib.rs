//! Pods and containers on the hutch virtual machine monitor.
//!
//! A **pod** is a virtual machine and everything recorded about it; its **containers** run in the machine's guest.
//! [`Runtime`] has one method for each verb, and [`PodHandle`] and [`ContainerHandle`] have the same verbs for one
//! object. The runtime keeps nothing in memory between calls: all state is in records on disk and in the pod's VMM
//! process. So each command of the command line can be a process of its own, and any of them can die at any moment.
//!
//! ```
//! use hutch_runtime::State;
//! # let host = hutch_runtime_fakes::FakeHost::new();
//! # let runtime = host.runtime();
//! # let config = host.pod("web", &["server"]);
//! let pod = runtime.run_pod(config)?;
//! assert_eq!(pod.status()?.state, Some(State::Running));
//! runtime.get_container("web", "server")?.kill(15)?;
//! pod.stop()?.delete()?;
//! # Ok::<(), hutch_runtime::Error>(())
//! ```
//!
//! # Using it
//!
//! 1. Call [`init`] first thing in `main`: the runtime holds machines and guest processes in processes of its own, which
//!    are the running program, started again.
//! 2. Make a [`Runtime`] from a [`Store`], the backends of [`host::HostBackends`], and [`Options`].
//! 3. Describe a pod with [`spec::PodConfig`], in Rust or in TOML or JSON.
//!
//! `runtime/examples/embed.rs` is a whole program, and `resources/docs/how-to/embed.md` says what it needs.
//! To capture the standard streams of a container or of an exec, see [`StdioConfig`].
//!
//! [`State`] draws the states and the moves between them; [`verb`] says which call is allowed when;
//! `resources/docs/reference/files.md` describes the records. A call that fails or is killed never deletes a pod or
//! container, except a creation, which rolls back what it did; the next call on that id removes what a killed one has
//! left.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`spec`] | configurations of pods and containers; [`spec::oci`]: from and to OCI `config.json` |
//! | [`state`], [`verb`], [`error`], [`id`] | states, verbs, kinds of errors, ids |
//! | [`pod`], [`container`] | the verbs, one file each |
//! | [`oci`] | the same for callers of an OCI runtime: ids without pods, bundles, pid files |
//! | [`volume`] | named volumes, which outlive pods |
//! | [`hook`] | programs that run at fixed points of a pod's life |
//! | [`host`] | the backends of the product |
//!
//! The other public modules are for the command line and the tests of this workspace. They are hidden from the
//! documentation and change without notice:
//!
//! | module | contents |
//! |---|---|
//! | `backend` | the interfaces of the verbs to everything outside, as six traits |
//! | `vm_host`, `shim` | the VMM process and its control socket; the process that stands for a guest process |
//! | `network`, `mounts` | kernel networking, bind mounts |
//! | `store` | records, their layout, the pod lock |
//! | `process` | other processes, named so that a recycled PID is never mistaken for them |
//! | `fault` | named points at which tests make a call fail or kill it |
//! | `agent_client`, `stdio`, `oneshot` | the agent's session, the relay of standard streams, `hutch run` |
//!
//! Private ones that others build on: `runtime` and `options` have [`Runtime`] and [`Options`], `init` the hidden verbs,
//! `capture` standard streams, `cgroup` control groups, `undo` steps to roll back, `timestamp` points in time, `logger`
//! the log, `sync` locks, `sys` system calls.
//!
//! Numbers such as `P-042`, and sections (§), refer to the pod contract, `resources/docs/reference/pod-contract.md`.
#![deny(unsafe_code)]

/// Compiles the program of the how-to page.
#[cfg(doctest)]
#[doc = include_str!("../../resources/docs/how-to/embed.md")]
mod how_to_embed {}

#[doc(hidden)]
pub mod agent_client;
#[doc(hidden)]
pub mod oneshot;
#[doc(hidden)]
pub mod stdio;

// The pod API.
#[doc(hidden)]
pub mod backend;
mod capture;
mod cgroup;
pub mod container;
pub mod error;
#[doc(hidden)]
pub mod fault;
pub mod hook;
pub mod host;
pub mod id;
mod init;
mod logger;
#[doc(hidden)]
pub mod mounts;
#[doc(hidden)]
pub mod network;
pub mod oci;
mod options;
pub mod pod;
#[doc(hidden)]
pub mod process;
mod runtime;
#[doc(hidden)]
pub mod shim;
pub mod spec;
pub mod state;
#[doc(hidden)]
pub mod store;
mod sync;
mod sys;
mod timestamp;
mod undo;
pub mod verb;
#[doc(hidden)]
pub mod vm_host;
pub mod volume;

pub use backend::{AgentCapabilities, BackendError, Backends, VmStats};
pub use capture::{Stdio, StdioConfig, StdioPipes};
pub use container::{
    ContainerHandle, ExecHandle, ExecOptions, ExecOutput, Limits, ListFormat, ListProcessesOptions, Process,
};
pub use error::{Error, ErrorKind, Result};
pub use id::{ContainerId, PodId, VolumeName};
pub use init::init;
pub use options::Options;
pub use pod::{Cleanup, DeleteOptions, PodEnd, PodEvent, PodEvents, PodHandle, PodStats, StopOptions, STOP_SIGNAL};
pub use process::ProcessIdentity;
pub use runtime::Runtime;
pub use state::State;
pub use store::{ProcessRecord, Store, StoreCause};
pub use timestamp::Timestamp;
pub use volume::{VolumeStatus, Volumes};

// Types of the agent's protocol that occur in the signatures above.
pub use hutch_agent_proto::{
    ContainerStats, ExitStatus, InterfaceStats, ProcessInfo, RemoteError, RemoteErrorKind, ResourceLimits, Rlimit,
    WindowSize,
};
