//! The VMM process of a pod: one machine in a process of its own, reached through a control socket.
//!
//! ```text
//!  a call of the pod API                      the VMM process (hutch, started again with a hidden verb)
//!  ─────────────────────                      ────────────────────────────────────────────────────────
//!  ProcessVmHost::spawn ── exec ────────────▶ serve(): stdin is the listening control socket
//!     record the PID                            waits on the first connection, which is the launcher's;
//!  VmHandle::start ── Start(VmSpec) ─────────▶  builds and starts the machine (or ends, if the launcher died first)
//!  VmHandle::wait_ready ─────────────────────▶  answers when the guest's agent has reported
//!        … the call returns, the process stays …
//!  another call: ProcessVmHost::attach ──────▶ a further connection
//!  AgentHost::connect ── Connect{port} ──────▶ a vsock connection, passed back as a descriptor
//! ```
//!
//! A connection begins with a greeting that has the version, then carries requests and replies in turn ([`message`]).
//! The process ends when its machine does, and leaves a failure record if that was not asked for. A SIGKILL to it needs
//! no cooperation and leaves only the socket's file, which is in the pod's directory.

mod agents;
mod channel;
mod client;
mod machine;
pub mod message;
mod process;
mod reexec;
mod server;
mod verb;

pub use agents::VsockAgents;
pub use client::{ControlClient, ControlConnector};
pub(crate) use machine::confinement;
pub use machine::{confine_machine_process, GuestMachine, KvmMachine, MachineEnd};
pub use process::ProcessVmHost;
pub(crate) use reexec::allow_reexec;
pub use reexec::ReExec;
pub use server::{serve, serve_stdin, ServeError};
pub use verb::{vmm_verb, vmm_verb_with};
