//! The hutch agent with OCI containers: process 1 of the guest of a pod.
//!
//! It is [`hutch_agent`] with an implementation of [`hutch_agent::container::Containers`] by youki's `libcontainer`. A
//! program of its own, since that library is several times the size of the agent, which guests that only run a
//! command have no use for.
//!
//! # Who makes a container
//!
//! ```text
//!   agent (pid 1, many threads, reaps every child)
//!     └─ helper (this program again, one thread)       [helper], [summon]
//!          ├─ libcontainer's intermediate process        gone before the helper ends
//!          └─ the container's process                    the agent's child once the helper has ended
//! ```
//!
//! libcontainer forks, waits for what it forked, and changes its own process on the way. So it runs in a helper, whose
//! children are out of the reach of the agent's reaper until the helper has ended. The helper hands over the pid and a
//! pidfd of the container's process ([`wire`]); the agent registers it under its token like any process, so that
//! waiting, signals and streams need no code of their own.
//!
//! # What libcontainer does not do here
//!
//! Starting, signalling, freezing, limits, figures and removal work on control groups, pidfds and one socket, without
//! another process ([`container`], [`cgroup`], [`limits`], [`figures`], [`oom`]). Programs are executed by [`executor`],
//! which tells the agent why one could not be. Just before, the process runs StartContainer hooks and loads its seccomp
//! filter ([`finish`], [`hooks`], [`seccomp`]). Hooks of the guest run in helpers ([`guest_hooks`]).
//!
//! Rules about devices are ignored.
#![deny(unsafe_code)]

pub mod cgroup;
pub mod config;
pub mod console;
pub mod container;
pub mod containers;
pub mod executor;
pub mod figures;
pub mod finish;
pub mod guest_hooks;
pub mod helper;
pub mod hooks;
pub mod limits;
pub mod oom;
pub mod seccomp;
pub mod summon;
pub mod wire;
