//! Status of pods and containers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hutch_agent_proto::ExitStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AgentKind, HypervisorConfig, HypervisorKind};
use crate::state::State;
use crate::timestamp::Timestamp;

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// Exit code, if the process exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Signal, if one ended the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Time at which the runtime noticed the end.
    pub at: Timestamp,
    /// Reason for which neither is known, for instance the death of the machine, or for which hutch killed the process: its
    /// shim has made a forbidden system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Exit {
    /// The end that the guest reported.
    pub fn reported(status: ExitStatus, at: Timestamp) -> Self {
        match status {
            ExitStatus::Code(code) => Self { code: Some(code), signal: None, at, reason: None },
            ExitStatus::Signal(signal) => Self { code: None, signal: Some(signal), at, reason: None },
        }
    }

    /// An end that was not observed.
    pub fn unknown(reason: impl Into<String>, at: Timestamp) -> Self {
        Self { code: None, signal: None, at, reason: Some(reason.into()) }
    }

    /// The shell's form: the code, 128 plus the signal, or 255 if neither is known.
    pub fn shell_code(&self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => ExitStatus::Signal(signal).code(),
            (None, None) => 255,
        }
    }
}

/// Status of a container (P-115).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerStatus {
    /// Id of the container.
    pub id: String,
    /// State of the container; absent if its creation left none.
    pub state: Option<State>,
    /// PID of the container's shim; 0 without one.
    pub pid: i32,
    /// Time at which the container's process was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Root file system on the host.
    pub rootfs: PathBuf,
    /// Annotations of its configuration.
    pub annotations: BTreeMap<String, String>,
    /// End of its process, kept until deletion (P-112).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Whether the guest's kernel killed one of its processes for lack of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

/// Status of a pod (P-019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodStatus {
    /// Id of the pod.
    pub id: String,
    /// State of the pod; absent if its records are damaged.
    pub state: Option<State>,
    /// Implementation of the machine monitor.
    pub hypervisor_type: HypervisorKind,
    /// Configuration of the machine with defaults filled in.
    pub hypervisor: HypervisorConfig,
    /// Implementation of the agent.
    pub agent_type: AgentKind,
    /// Annotations of its configuration.
    pub annotations: BTreeMap<String, String>,
    /// Status of its containers in the order of creation.
    pub containers: Vec<ContainerStatus>,
    /// PID of the VMM; 0 if none runs.
    pub vmm_pid: i32,
    /// Memory of the machine that the bound of the pod's processes on the host counts with, MiB. Absent without a bound;
    /// `memory_unlimited` has the reason then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limited_mib: Option<u64>,
    /// The reason why the memory of the pod's processes on the host has no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_unlimited: Option<String>,
    /// The means that confine the VMM; absent if none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jail: Option<String>,
    /// Explanation of the state, for example that the machine died or the host was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Another call holds the pod's lock; the status shows the last complete records (P-029).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub busy: bool,
    /// Reason for which its records cannot be read; the pod can still be deleted (P-018).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
