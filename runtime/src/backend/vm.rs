//! The machine of a pod.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BackendResult;
use crate::process::ProcessIdentity;
use crate::store::VmRecord;

/// Mount tag of the directory shared for the pod's containers.
pub const SHARED_TAG: &str = "hutchShared";

/// What a kind of machine can do (P-200).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCapabilities {
    /// Disks can be plugged into a running machine.
    pub block_hotplug: bool,
    /// … but only into the slots that it has had from its boot.
    pub block_slots: bool,
    /// vCPUs can be added to and taken from a running machine.
    pub cpu_hotplug: bool,
    /// Memory can be added to a running machine.
    pub memory_hotplug: bool,
    /// Devices can be passed through.
    pub vfio: bool,
}

/// A host directory the guest can mount by tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Mount tag.
    pub tag: String,
    /// Host directory.
    pub path: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Id, and the serial number by which the guest finds it (P-186).
    pub id: String,
    /// File or device on the host.
    pub path: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDevice {
    /// Id.
    pub id: String,
    /// Name of the tap device in the VMM's network namespace.
    pub tap: String,
    /// `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// 0 is the default.
    pub mtu: u32,
}

/// A machine to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Name for logs: the pod's id.
    pub name: String,
    /// UUID of the machine.
    pub uuid: String,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// Root disk image.
    pub image: Option<PathBuf>,
    /// Firmware.
    pub firmware: Option<PathBuf>,
    /// Configured kernel parameters; the machine's own come before them (P-182).
    pub kernel_parameters: Vec<String>,
    /// vCPUs at boot.
    pub vcpus: u32,
    /// Most vCPUs.
    pub max_vcpus: u32,
    /// Memory.
    pub memory_mib: u64,
    /// Most memory; 0: as much as at the start.
    #[serde(default)]
    pub max_memory_mib: u64,
    /// Huge pages.
    pub huge_pages: bool,
    /// Touch all memory first.
    pub memory_prealloc: bool,
    /// Lock guest memory.
    pub mlock: bool,
    /// Verbose guest.
    pub debug: bool,
    /// Shared directories, [`SHARED_TAG`] among them.
    pub shares: Vec<Share>,
    /// Network interfaces.
    pub nets: Vec<NetDevice>,
    /// Empty drive slots, for disks that are plugged in later.
    #[serde(default)]
    pub block_slots: u32,
    /// File for the guest's console.
    #[serde(default)]
    pub console: Option<PathBuf>,
    /// Where the VMM process leaves a [`FailureRecord`](crate::store::FailureRecord) if its machine ends unexpectedly.
    #[serde(default)]
    pub failure_record: PathBuf,
}

/// A VMM process to spawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmLaunch<'a> {
    /// Id of the pod.
    pub pod: &'a str,
    /// UUID of the machine.
    pub uuid: &'a str,
    /// The pod's runtime directory.
    pub run_dir: &'a Path,
    /// Control socket, to be made by the launch.
    pub socket: &'a Path,
    /// File for what the process prints.
    pub log: &'a Path,
    /// Program instead of hutch itself.
    pub program: Option<&'a Path>,
}

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// The process waits for its machine.
    Created,
    /// vCPUs run.
    Running,
    /// vCPUs are held.
    Paused,
    /// The machine has ended, and why.
    Ended(String),
}

/// Figures of the VMM process (M-04: the overhead on the host).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStats {
    /// CPU time of the process, microseconds.
    pub cpu_us: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Makes and finds VMM processes.
pub trait VmHost: Send + Sync {
    /// What machines of this host can do.
    fn capabilities(&self) -> VmCapabilities;

    /// Spawns a VMM process in the calling thread's namespaces. It does nothing until [`VmHandle::start`], and ends by
    /// itself if the handle is dropped before.
    ///
    /// # Errors
    /// If the process cannot be made; none is left then.
    fn spawn(&self, launch: &VmLaunch<'_>) -> BackendResult<Box<dyn VmHandle>>;

    /// Finds a recorded VMM process again.
    ///
    /// # Errors
    /// [`super::BackendError::Lost`] if it is gone.
    fn attach(&self, record: &VmRecord) -> BackendResult<Box<dyn VmHandle>>;

    /// Whether the recorded process lives.
    fn is_alive(&self, record: &VmRecord) -> bool;

    /// Kills the recorded process, if it lives, and waits until it is gone. Needs no cooperation of it. Removes its
    /// control socket.
    ///
    /// # Errors
    /// If it is not gone within `timeout`.
    fn kill(&self, record: &VmRecord, timeout: Duration) -> BackendResult<()>;

    /// Waits until the recorded process has ended, at most `timeout`; tells whether it has.
    ///
    /// # Errors
    /// If waiting is not possible.
    fn wait_end(&self, record: &VmRecord, timeout: Duration) -> BackendResult<bool>;
}

/// A VMM process, seen from outside. Dropping it leaves a started machine alone.
pub trait VmHandle: Send {
    /// The process.
    fn process(&self) -> ProcessIdentity;

    /// Hands the machine over and starts it.
    ///
    /// # Errors
    /// If the machine cannot be built or started; the process ends then.
    fn start(&mut self, spec: &VmSpec) -> BackendResult<()>;

    /// Waits until the guest answers (P-069).
    ///
    /// # Errors
    /// [`super::BackendError::Timeout`]; [`super::BackendError::Lost`] with the reason if the machine ended.
    fn wait_ready(&mut self, timeout: Duration) -> BackendResult<()>;

    /// What the machine is doing.
    ///
    /// # Errors
    /// If the process does not answer.
    fn state(&mut self) -> BackendResult<VmState>;

    /// Holds the vCPUs; holding held ones is fine.
    ///
    /// # Errors
    /// If the machine refuses.
    fn pause(&mut self) -> BackendResult<()>;

    /// Lets the vCPUs run; those that run already do.
    ///
    /// # Errors
    /// If the machine refuses.
    fn resume(&mut self) -> BackendResult<()>;

    /// Plugs a disk in.
    ///
    /// # Errors
    /// If the machine refuses.
    fn plug_block(&mut self, device: &BlockDevice) -> BackendResult<()>;

    /// Passes a host device through.
    ///
    /// # Errors
    /// If the machine refuses.
    fn plug_vfio(&mut self, id: &str, path: &Path) -> BackendResult<()>;

    /// Takes a device out; one that is not there is fine.
    ///
    /// # Errors
    /// If the machine refuses.
    fn unplug(&mut self, id: &str) -> BackendResult<()>;

    /// Changes the number of vCPUs. The guest is told by somebody else: before if there are to be fewer, after if more.
    ///
    /// # Errors
    /// If the machine refuses.
    fn set_vcpus(&mut self, count: u32) -> BackendResult<()>;

    /// Has the guest change its memory; it may take its time, and give back less than it is asked to. Returns the bytes
    /// that it is to have beyond what its kernel booted with.
    ///
    /// # Errors
    /// If the machine refuses.
    fn set_memory(&mut self, mib: u64) -> BackendResult<u64>;

    /// Tells that the machine's end is about to be asked for, so that it is no failure; or that it was not.
    ///
    /// # Errors
    /// If the process does not answer.
    fn expect_end(&mut self, expected: bool) -> BackendResult<()>;

    /// Figures of the process.
    ///
    /// # Errors
    /// If they cannot be read.
    fn stats(&mut self) -> BackendResult<VmStats>;
}
