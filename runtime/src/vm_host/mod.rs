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
//! The process ends when its machine does, and leaves a failure record if that was not asked for. A panic ends it with
//! SIGABRT, a forbidden system call with exit code 159; either leaves a line in its log, from which the record is made
//! ([`panic`]). A SIGKILL to it needs no cooperation and leaves only the socket's file, which is in the pod's directory.
//!
//! | file | contents |
//! |---|---|
//! | `process`, `client` | VMM processes and their control sockets, seen from the runtime |
//! | `message`, `channel` | the messages of a control socket; a descriptor sent over it |
//! | `agents` | the agent behind a VMM process, reached through its vsock device |
//! | `reexec` | starts hutch again with a hidden verb: the VMM process and the shims begin here |
//! | `verb`, `server`, `machine` | inside the VMM process: the hidden verb, the main loop, the machine |
//! | `slots`, `panic` | the drive slots of the machine; the line that a panic or a forbidden call leaves |

mod agents;
mod channel;
mod client;
mod machine;
pub mod message;
mod panic;
mod process;
mod reexec;
mod server;
mod slots;
mod verb;

pub use agents::VsockAgents;
pub use client::{ControlClient, ControlConnector};
pub(crate) use machine::network_namespace;
pub use machine::{confine_machine_process, GuestMachine, KvmMachine, MachineEnd};
pub(crate) use panic::{reason_of_end, report_violations, violation_of};
pub use process::ProcessVmHost;
pub use reexec::ReExec;
pub(crate) use reexec::{allow_reexec, Apart};
pub use server::{serve, serve_connection, serve_stdin, ServeError};
pub use verb::{vmm_verb, vmm_verb_with};
