//! Real containers: the agent with libcontainer as a process of its own, over its socket, with busybox as the root
//! file system. The tests need root and control groups of version 2, so they run in the testbed.

mod bundle;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod exec;
mod hooks;
mod life;
mod limits;
mod seccomp;
