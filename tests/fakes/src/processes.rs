//! The processes of the fake host: those that hold machines, and shims.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::guest::FakeGuest;
use hutch_runtime::backend::{BlockDevice, ShimSpec, VmSpec};
use hutch_runtime::process::ProcessIdentity;

/// A machine.
pub(super) struct FakeVm {
    pub(super) pod: String,
    pub(super) socket: PathBuf,
    pub(super) process: ProcessIdentity,
    pub(super) alive: bool,
    pub(super) spec: Option<VmSpec>,
    pub(super) paused: bool,
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
    /// Memory that the guest does not give back, MiB.
    pub(super) kept_mib: u64,
    pub(super) devices: BTreeSet<String>,
    /// Every disk that was ever plugged in.
    pub(super) disks: Vec<BlockDevice>,
    pub(super) guest: FakeGuest,
}

/// A shim.
pub(super) struct FakeShim {
    pub(super) spec: ShimSpec,
    pub(super) process: ProcessIdentity,
    pub(super) alive: bool,
    pub(super) started: bool,
}
