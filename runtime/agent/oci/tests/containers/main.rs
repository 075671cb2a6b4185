//! Real containers: the agent with libcontainer as a process of its own, over its socket, with busybox as the root
//! file system. As root, with control groups of version 2: in the testbed.

mod bundle;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod exec;
mod hooks;
mod life;
mod limits;
mod seccomp;
