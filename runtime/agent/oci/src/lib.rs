//! The hutch agent with OCI containers: process 1 of the guest of a pod.
//!
//! It is [`hutch_agent`] with an implementation of [`hutch_agent::Containers`] by youki's `libcontainer`. It is a
//! program of its own, since that library is several times the size of the agent, and a guest that only runs a command
//! does not need it.
//!
//! # Processes
//!
//! ```text
//!   agent (pid 1, many threads, reaps every child)
//!     └─ helper (this program again, one thread)       run_job, spawn_helper
//!          ├─ libcontainer's intermediate process        ends before the helper
//!          └─ the container's process                    becomes the agent's child when the helper ends
//! ```
//!
//! libcontainer forks, waits for the forked processes, and changes its own process on the way. So it runs in a helper,
//! and the agent's reaper cannot see the helper's children before the helper has ended. The agent passes the helper its
//! task as a `job`. The helper sends back the pid and a pidfd of the container's process (`wire`). The agent registers
//! that under its token like any process, so that waiting, signals and streams need no code of their own.
//!
//! # Code without libcontainer
//!
//! Starting, signalling, freezing, limits, statistics and removal work on control groups, pidfds and one socket,
//! without another process (`container`, `cgroup`, `limits`, `stats`, `oom`). `executor` executes programs and reports
//! to the agent why one could not be executed. Just before, the process runs StartContainer hooks and loads its seccomp
//! filter (`pre_exec`, `hooks`, `seccomp`). Hooks of the guest run in helpers (`guest_hooks`).
//!
//! Rules about devices are ignored.
//!
//! # Files
//!
//! | file | contents |
//! |---|---|
//! | `containers`, `container` | implements [`hutch_agent::Containers`]; one container from creation to removal |
//! | `config` | reads, checks and completes the OCI configuration for libcontainer |
//! | `input` | all that is made of the host's input, without effects: for fuzzing |
//! | `spawn_helper`, `run_job`, `job`, `wire` | the helper: started by the agent; its own side; its tasks; its messages |
//! | `pre_exec`, `seccomp`, `executor` | last steps before the program, among them the seccomp filter; its compiler; the exec |
//! | `hooks`, `guest_hooks` | hooks of the configuration; hooks of the guest |
//! | `console` | the terminal of a container |
//! | `cgroup`, `limits`, `stats`, `oom` | control groups; changed limits; statistics; reports of memory kills |
#![deny(unsafe_code)]

mod cgroup;
mod config;
mod console;
mod container;
mod containers;
mod executor;
mod guest_hooks;
mod hooks;
mod input;
mod job;
mod limits;
mod oom;
mod pre_exec;
mod run_job;
mod seccomp;
mod spawn_helper;
mod stats;
mod wire;

pub use containers::OciContainers;
pub use input::{prepare, Prepared};
pub use run_job::run_job;
