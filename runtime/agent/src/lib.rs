//! Process 1 of a hutch guest: prepares the machine, answers the host over vsock, runs and reaps processes.
//!
//! # Order of things
//!
//! 1. [`init`] marks its first instruction, loads modules, listens, and pushes its greeting to the host: from then on
//!    the agent is *ready*. It mounts file systems after that push, while the host reacts to it.
//! 2. The main thread accepts connections (`server`); each gets a thread. A control connection becomes a `session`, a
//!    stream connection a `stdio::Relay`.
//! 3. The host sends `SetupSandbox` (`setup`, `settings`, `mounts`, `net`, `mount_ns`) and starts processes (`launch`,
//!    `spawn`, `process`). One thread waits for all children (`reaper`).
//! 4. `PowerOff` ends everything (`power`).
//!
//! # Threads and locks
//!
//! Every connection has its own thread and its own bounded queue (`outbox`), so a host that does not read stalls no
//! other connection. No thread holds the process table's lock across a system call that can block. All waiting is done
//! in `poll`, `waitid` or a condition variable; nothing sleeps or polls.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `init`, `modules`, `memory` | the first steps of PID 1; kernel modules; memory that is plugged in later |
//! | `server`, `connection`, `vsock` | accepts connections; their byte streams; vsock sockets |
//! | `session`, `outbox` | a control connection and its requests; its sending half, which never blocks |
//! | `agent`, `container`, `failure` | the state that connections share; requests about containers; errors for the host |
//! | `launch`, `spawn` | from the description of a process to a running one; the fork |
//! | `process`, `process_tree`, `reaper` | processes by token; the descendants of one; the thread that waits for all children |
//! | `stdio`, `pty` | relays standard streams; terminals |
//! | `user`, `rlimits`, `root` | user and groups of a process; resource limits; paths that stay below a root |
//! | `setup`, `settings`, `net` | sets up the sandbox; host name, clock, sysctls; the network |
//! | `mounts`, `mount_ns`, `mount_options`, `disks` | mounts for the host; their namespace; options; disks by serial number |
//! | `power` | the end of the guest |
//! | `marks`, `log`, `thread`, `sys` | boot marks; the log; threads and locks; system calls |
//!
//! # Trust
//!
//! The agent trusts the host with the guest, yet validates what the host sends, so that a mistake becomes an error
//! instead of a dead guest. The host does not trust processes of the sandbox at all: the machine is the boundary.
//! Inside, their mount namespace only keeps them from stumbling over the agent's files.
//!
//! # Users
//!
//! The library is the common part of three programs: `hutch-agent`, `hutch-agent-oci`, and their `-unix` variants,
//! which serve the same protocol over Unix sockets for tests. Modules are private; this list is what those programs
//! use.
#![deny(unsafe_code)]

mod agent;
mod connection;
mod container;
mod disks;
pub mod failure;
pub mod init;
mod launch;
mod log;
mod marks;
mod memory;
mod modules;
mod mount_ns;
mod mount_options;
mod mounts;
mod net;
mod outbox;
mod power;
mod process;
mod process_tree;
mod pty;
mod reaper;
pub mod rlimits;
mod root;
mod server;
mod session;
mod settings;
mod setup;
mod spawn;
mod stdio;
pub mod sys;
mod thread;
mod user;
mod vsock;

pub use agent::{Agent, AgentOptions, Containers, Power};
pub use connection::{HostConnection, Listener};
pub use container::NoContainers;
pub use launch::{check_environment, ChildStdio, DEFAULT_PATH};
pub use memory::total as total_memory;
pub use power::ProcessPower;
pub use process::{Processes, Streams};
pub use root::RootDir;
pub use server::Server;
pub use session::opening;
pub use setup::{resolver_file, RESOLVER};
pub use spawn::{candidates, spawn, Child, SpawnError, SpawnPlan, CHANNEL};
pub use thread::{lock, spawn_thread};
pub use user::{look_up as look_up_user, Identity};
