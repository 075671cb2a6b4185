//! Process 1 of a hutch guest: prepares the machine, answers the host over vsock, runs and reaps processes.
//!
//! # Order of things
//!
//! 1. [`init`] marks its first instruction, loads modules, listens, and pushes its greeting to the host: from then
//!    on the agent is *ready*. File systems are mounted after that push, while the host reacts to it.
//! 2. The main thread accepts connections ([`server`]); each gets a thread. A control connection becomes a
//!    [`session`], a stream connection a [`stdio::Relay`].
//! 3. The host sends `SetupSandbox` ([`settings`], [`mounts`], [`net`], [`sandbox`]) and starts processes
//!    ([`process`], [`spawn`]). One thread waits for all children ([`reaper`]).
//! 4. `PowerOff` ends everything ([`power`]).
//!
//! # Who may block whom
//!
//! Every connection has its own thread and its own bounded queue ([`outbox`]), so a host that does not read stalls
//! nobody else. The process table's lock is never held across a system call that can block. All waiting is done in
//! `poll`, `waitid` or a condition variable; nothing sleeps or polls.
//!
//! # Trust
//!
//! The host is trusted with the guest, yet what it sends is validated, so that a mistake becomes an error instead of
//! a dead guest. Processes of the sandbox are not trusted by the host at all: the machine is the boundary. Inside,
//! their mount namespace keeps them from stumbling over the agent's files, no more.
//!
//! The library exists so that tests and `hutch-agent-unix` can serve the same protocol over Unix sockets.
#![deny(unsafe_code)]

pub mod connection;
pub mod container;
pub mod disks;
pub mod failure;
pub mod init;
pub mod launch;
pub mod log;
pub mod marks;
pub mod memory;
pub mod modules;
pub mod mount_options;
pub mod mounts;
pub mod net;
pub mod outbox;
pub mod power;
pub mod process;
pub mod process_tree;
pub mod pty;
pub mod reaper;
pub mod rlimits;
pub mod root;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod settings;
pub mod setup;
pub mod spawn;
pub mod stdio;
pub mod sys;
pub mod user;
pub mod vsock;
