//! The machine of a pod.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BackendError, BackendResult};
use crate::agent_client::printable;
use crate::process::ProcessIdentity;
use crate::spec::{CacheMode, Jail, SetIds};
use crate::store::VmRecord;

/// Mount tag of the directory shared for the pod's containers.
pub const SHARED_TAG: &str = "hutchShared";

/// Longest description of a process's confinement, in characters.
const JAIL_WIDTH: usize = 400;

/// Capabilities of a kind of machine (P-200).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCapabilities {
    /// Disks can be plugged into a running machine.
    pub block_hotplug: bool,
    /// Disks fit only into the slots that the machine was booted with.
    pub block_slots: bool,
    /// vCPUs can be added to and taken from a running machine.
    pub cpu_hotplug: bool,
    /// Memory can be added to a running machine.
    pub memory_hotplug: bool,
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
    /// Caching by the guest's kernel.
    #[serde(default)]
    pub cache: CacheMode,
    /// Set-id bits and file capabilities of the guest's files.
    pub suid: SetIds,
    /// The guest may use `trusted.*` attributes.
    #[serde(default)]
    pub trusted: bool,
}

/// A disk that the machine has from its start.
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
    /// Id of the device.
    pub id: String,
    /// Name of the tap device in the VMM's network namespace.
    pub tap: String,
    /// `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// MTU; 0 is the default.
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
    /// Firmware image.
    pub firmware: Option<PathBuf>,
    /// Configured kernel parameters; the machine's own come before them (P-182).
    pub kernel_parameters: Vec<String>,
    /// vCPUs at boot.
    pub vcpus: u32,
    /// Most vCPUs.
    pub max_vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Most memory, MiB; 0: as much as at the start.
    #[serde(default)]
    pub max_memory_mib: u64,
    /// Back guest memory with huge pages.
    pub huge_pages: bool,
    /// Allocate all memory at the start.
    pub memory_prealloc: bool,
    /// Lock guest memory, so that it is never swapped out.
    pub mlock: bool,
    /// Let the guest's kernel log verbosely.
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
    /// Whether the VMM process confines itself.
    #[serde(default)]
    pub jail: Jail,
    /// Path for a [`FailureRecord`](crate::store::FailureRecord), written by the VMM process if its machine ends
    /// unexpectedly.
    #[serde(default)]
    pub failure_record: PathBuf,
    /// Number of the launcher's mount namespace. If the VMM process has another one, it leaves itself only its shares.
    #[serde(default)]
    pub mount_namespace: Option<u64>,
    /// Number of the launcher's network namespace. If the VMM process has another one, it has no network.
    #[serde(default)]
    pub network_namespace: Option<u64>,
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
    /// File for the output of the process.
    pub log: &'a Path,
    /// Another program than hutch itself.
    pub program: Option<&'a Path>,
    /// Whether the process gets namespaces of its own, for its jail.
    pub jail: Jail,
    /// With a jail, also an empty network namespace of its own, which has no name.
    pub no_network: bool,
}

/// The state of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// The machine was not started yet.
    Created,
    /// The vCPUs run.
    Running,
    /// The vCPUs are paused.
    Paused,
    /// The machine has ended, for this reason.
    Ended(String),
}

/// Statistics of the VMM process (the overhead on the host).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStats {
    /// CPU time of the process, microseconds.
    pub cpu_us: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Number of threads.
    pub threads: u64,
    /// Number of open descriptors.
    pub descriptors: u64,
}

/// Makes and finds VMM processes.
pub trait VmHost: Send + Sync {
    /// Capabilities of the machines of this host.
    fn capabilities(&self) -> VmCapabilities;

    /// Spawns a VMM process in the calling thread's namespaces. It does nothing until [`VmRequest::Start`], and ends by
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

    /// Kills the recorded process, if it lives, waits until it is gone, and removes its control socket. Needs no
    /// cooperation of it.
    ///
    /// # Errors
    /// If it is not gone within `timeout`.
    fn kill(&self, record: &VmRecord, timeout: Duration) -> BackendResult<()>;

    /// Waits until the recorded process has ended, at most `timeout`; returns whether it has.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    fn wait_end(&self, record: &VmRecord, timeout: Duration) -> BackendResult<bool>;

    /// Statistics of the recorded process. Needs no cooperation of it.
    ///
    /// # Errors
    /// [`super::BackendError::Lost`] if it is gone.
    fn stats(&self, record: &VmRecord) -> BackendResult<VmStats>;
}

/// A request to a machine. The control socket of a VMM process carries the same type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmRequest {
    /// Build the machine and start it. Only the launcher may send this, once.
    Start(Box<VmSpec>),
    /// Wait until the guest has reported (P-069).
    WaitReady {
        /// Bound of the wait.
        timeout: Duration,
    },
    /// Report the [`VmState`].
    State,
    /// Pause the vCPUs. Paused ones stay paused.
    Pause,
    /// Resume the vCPUs. Running ones run on.
    Resume,
    /// Plug a disk in.
    PlugBlock(BlockDevice),
    /// Take a device out. A missing one is fine.
    Unplug {
        /// Id of the device.
        id: String,
    },
    /// Change the number of vCPUs.
    SetVcpus(u32),
    /// Change the memory.
    SetMemory {
        /// All of the machine's memory, MiB.
        mib: u64,
    },
    /// Report the memory that the machine has now, which the guest may not have given back yet.
    MemorySize,
    /// Whether the end of the machine, however it comes, was asked for.
    ExpectEnd(bool),
}

/// The reply to a [`VmRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmReply {
    /// The request was carried out.
    Done,
    /// The machine was started, and this confines its process.
    Started {
        /// A line for people.
        jail: String,
    },
    /// The state of the machine.
    State(VmState),
    /// Bytes of memory: to [`VmRequest::SetMemory`], those that the guest is to have beyond those its kernel booted with;
    /// to [`VmRequest::MemorySize`], all that it has.
    Memory(u64),
}

impl VmRequest {
    /// The name of the request in logs and in records of calls.
    pub fn name(&self) -> &'static str {
        match self {
            VmRequest::Start(_) => "start",
            VmRequest::WaitReady { .. } => "wait-ready",
            VmRequest::State => "state",
            VmRequest::Pause => "pause",
            VmRequest::Resume => "resume",
            VmRequest::PlugBlock(_) => "plug-block",
            VmRequest::Unplug { .. } => "unplug",
            VmRequest::SetVcpus(_) => "set-vcpus",
            VmRequest::SetMemory { .. } => "set-memory",
            VmRequest::MemorySize => "memory-size",
            VmRequest::ExpectEnd(_) => "expect-end",
        }
    }
}

/// A VMM process, seen from outside. Dropping the handle leaves a started machine alone.
pub trait VmHandle: Send {
    /// The process.
    fn process(&self) -> ProcessIdentity;

    /// Sends a request to the process and waits for its reply.
    ///
    /// # Errors
    /// [`BackendError::Lost`] if the process is gone or does not answer; [`BackendError::Timeout`] if a bound in the
    /// request ran out; otherwise the machine's refusal.
    fn call(&mut self, request: VmRequest) -> BackendResult<VmReply>;
}

/// One method for each request.
impl dyn VmHandle + '_ {
    /// Hands the machine over and starts it. If that fails, the process ends. Returns what confines the process, for people,
    /// if it says so.
    pub fn start(&mut self, spec: &VmSpec) -> BackendResult<Option<String>> {
        match self.call(VmRequest::Start(Box::new(spec.clone())))? {
            VmReply::Done => Ok(None),
            VmReply::Started { jail } => Ok(Some(printable(&jail, JAIL_WIDTH))),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the guest answers (P-069).
    pub fn wait_ready(&mut self, timeout: Duration) -> BackendResult<()> {
        self.command(VmRequest::WaitReady { timeout })
    }

    /// The state of the machine.
    pub fn state(&mut self) -> BackendResult<VmState> {
        match self.call(VmRequest::State)? {
            VmReply::State(state) => Ok(state),
            _ => Err(unexpected()),
        }
    }

    /// Pauses the vCPUs. Paused ones stay paused.
    pub fn pause(&mut self) -> BackendResult<()> {
        self.command(VmRequest::Pause)
    }

    /// Resumes the vCPUs. Running ones run on.
    pub fn resume(&mut self) -> BackendResult<()> {
        self.command(VmRequest::Resume)
    }

    /// Plugs a disk in.
    pub fn plug_block(&mut self, device: &BlockDevice) -> BackendResult<()> {
        self.command(VmRequest::PlugBlock(device.clone()))
    }

    /// Takes a device out. A missing one is fine.
    pub fn unplug(&mut self, id: &str) -> BackendResult<()> {
        self.command(VmRequest::Unplug { id: id.to_owned() })
    }

    /// Changes the number of vCPUs. The caller also resizes the guest: before the call if the number falls, after it if
    /// the number rises.
    pub fn set_vcpus(&mut self, count: u32) -> BackendResult<()> {
        self.command(VmRequest::SetVcpus(count))
    }

    /// Asks the guest to change its memory. The guest takes its time, and may return less than was asked for. Returns
    /// the bytes that it is to have beyond those its kernel booted with.
    pub fn set_memory(&mut self, mib: u64) -> BackendResult<u64> {
        match self.call(VmRequest::SetMemory { mib })? {
            VmReply::Memory(more) => Ok(more),
            _ => Err(unexpected()),
        }
    }

    /// Bytes of memory that the machine has now. The guest may not have given back yet what it was asked for.
    pub fn memory_size(&mut self) -> BackendResult<u64> {
        match self.call(VmRequest::MemorySize)? {
            VmReply::Memory(bytes) => Ok(bytes),
            _ => Err(unexpected()),
        }
    }

    /// Announces that the end of the machine is about to be asked for, so that it does not count as a failure; `false`
    /// withdraws that.
    pub fn expect_end(&mut self, expected: bool) -> BackendResult<()> {
        self.command(VmRequest::ExpectEnd(expected))
    }

    fn command(&mut self, request: VmRequest) -> BackendResult<()> {
        match self.call(request)? {
            VmReply::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> BackendError {
    BackendError::UnexpectedReply("the virtual machine's process")
}
