//! The records' content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hutch_agent_proto::ExitStatus;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::network::Endpoint;
use crate::process::ProcessIdentity;
use crate::spec::{BlockIndices, Bridge, ContainerConfig, Device, Exit, PodConfig};
use crate::state::State;
use crate::timestamp::Timestamp;

/// State of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// The pod's state.
    pub state: State,
    /// Block indices in use.
    #[serde(default)]
    pub blocks: BlockIndices,
    /// The poststop hooks have still to run, once, when the pod has stopped (P-088).
    #[serde(default)]
    pub poststop_due: bool,
    /// A pause is under way, or was cut short: the vCPUs may be paused although the state says that the pod runs. The
    /// next call on the pod lets them run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pausing: bool,
    /// The reason why it is stopped, if no call asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PodState {
    /// A record that says only the state.
    pub fn new(state: State) -> Self {
        Self { state, blocks: BlockIndices::default(), poststop_due: false, pausing: false, reason: None }
    }
}

/// State of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container's state; absent while it is being created.
    #[serde(default)]
    pub state: Option<State>,
    /// Its state before the pod was paused (P-142).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_pause: Option<State>,
    /// Block index of its root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_index: Option<u32>,
    /// File system of its root disk; not empty means that the root is a disk.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fstype: String,
    /// VMM id of its root disk, set before the disk is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// The guest was asked to start it; a crash may have hidden the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starting: bool,
    /// How its process ended; kept until deletion or restart (P-112).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The guest killed one of its processes because memory ran out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

/// A guest process and its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Token of the guest process; unique in the pod.
    pub token: String,
    /// The shim.
    #[serde(flatten)]
    pub shim: ProcessIdentity,
    /// Time at which the shim was spawned.
    pub started_at: Timestamp,
}

/// The exit of a guest process, recorded by its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The guest process; a record of an earlier one is ignored.
    pub token: String,
    /// How it ended, if the guest said so.
    #[serde(default)]
    pub status: Option<ExitStatus>,
    /// The reason why there is no status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Time of the exit.
    pub at: Timestamp,
}

impl ExitRecord {
    /// As status shows it.
    pub fn to_exit(&self) -> Exit {
        match self.status {
            Some(status) => Exit::reported(status, self.at),
            None => Exit::unknown(self.reason.clone().unwrap_or_else(|| "its end was not observed".into()), self.at),
        }
    }
}

/// One bind mount on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindRecord {
    /// The bound path, links resolved.
    pub source: PathBuf,
    /// The mount point, in the pod's shared directory.
    pub target: PathBuf,
    /// Destination in the container; `/` for the root file system.
    pub destination: String,
    /// Bound read-only.
    pub read_only: bool,
}

/// Bind mounts of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MountsRecord(pub Vec<BindRecord>);

/// Devices of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DevicesRecord(pub Vec<Device>);

/// Network of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The namespace; absent without network.
    #[serde(default)]
    pub namespace: Option<PathBuf>,
    /// It was made for this pod and goes with it.
    #[serde(default)]
    pub created: bool,
    /// Endpoints of the machine. Kinds that this program does not know are skipped (P-050).
    #[serde(default, deserialize_with = "crate::network::known_endpoints")]
    pub endpoints: Vec<Endpoint>,
}

/// The machine of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// UUID of the machine; a new one for each boot.
    pub uuid: String,
    /// The VMM process; [`ProcessIdentity::NONE`] before it exists.
    #[serde(default, flatten)]
    pub process: ProcessIdentity,
    /// Control socket of the process.
    pub socket: PathBuf,
    /// Slots of hot-plugged devices.
    #[serde(default)]
    pub bridges: Vec<Bridge>,
    /// Drive slots the machine has had from its boot; absent: disks can be plugged in as long as a bridge has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_slots: Option<u32>,
    /// vCPUs that the guest's kernel has prepared for.
    #[serde(default)]
    pub max_vcpus: u32,
    /// vCPUs plugged in after the boot.
    #[serde(default)]
    pub hotplugged_vcpus: BTreeSet<u32>,
    /// MiB of memory plugged in after the boot, beyond what the machine was created with.
    #[serde(default)]
    pub hotplugged_mib: u64,
    /// A change to this size is under way, or was cut short.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resizing: bool,
    /// The bound of the pod's memory counts with a machine of this many MiB; absent: there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_mib: Option<u64>,
    /// The reason why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlimited: Option<String>,
    /// Sizes in MiB, by device number, of the file systems in memory that the bound has room for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub in_memory: BTreeMap<u64, u64>,
    /// The means that confine the VMM process, for people. Absent in records of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<String>,
    /// Control group of the pod's processes; recorded before it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Directories of the control group that hutch made, for this pod or for another one that uses them, outermost
    /// first. They go with the last pod that does. Absent in records of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_made: Option<Vec<PathBuf>>,
}

/// The way to the guest agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Process between runtime and agent; 0 is none.
    #[serde(default)]
    pub proxy_pid: i32,
    /// `unix://SOCKET:PORT`: the agent's vsock port behind the VMM's control socket.
    pub url: String,
}

/// The machine or the agent died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The reason.
    pub reason: String,
    /// The time at which it was noticed.
    pub at: Timestamp,
}

macro_rules! records {
    ($($name:ident = $text:literal),* $(,)?) => {
        $(impl Record for $name {
            const NAME: &'static str = $text;
        })*
    };
}
records! {
    PodConfig = "pod-config",
    ContainerConfig = "container-config",
    PodState = "pod-state",
    ContainerState = "container-state",
    ProcessRecord = "process",
    ExitRecord = "exit",
    MountsRecord = "mounts",
    DevicesRecord = "devices",
    NetworkRecord = "network",
    VmRecord = "hypervisor",
    AgentRecord = "agent",
}

/// A VMM process opens the file while it still can, and writes to it when the machine fails.
impl Record for FailureRecord {
    const NAME: &'static str = "failure";
    const MAY_BE_EMPTY: bool = true;
}
