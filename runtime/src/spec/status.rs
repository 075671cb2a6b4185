//! What status calls report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hutch_agent_proto::ExitStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AgentKind, HypervisorConfig, HypervisorKind};
use crate::state::State;
use crate::timestamp::Timestamp;

/// How and when a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// Exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Signal, if one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// When it was noticed.
    pub at: Timestamp,
    /// Why nothing better is known, for instance that the machine died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Exit {
    /// What the guest reported.
    pub fn reported(status: ExitStatus, at: Timestamp) -> Self {
        match status {
            ExitStatus::Code(code) => Self { code: Some(code), signal: None, at, reason: None },
            ExitStatus::Signal(signal) => Self { code: None, signal: Some(signal), at, reason: None },
        }
    }

    /// Nobody saw the end.
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
    /// Its id.
    pub id: String,
    /// Its state; absent if its creation left none.
    pub state: Option<State>,
    /// PID of its shim; 0 if it has none.
    pub pid: i32,
    /// When its process was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Root file system on the host.
    pub rootfs: PathBuf,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// How its process ended, kept until deletion (P-112).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The guest killed one of its processes for want of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

/// Status of a pod (P-019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodStatus {
    /// Its id.
    pub id: String,
    /// Its state; absent if its records are broken.
    pub state: Option<State>,
    /// Which monitor runs it.
    pub hypervisor_type: HypervisorKind,
    /// The machine's configuration with defaults filled in.
    pub hypervisor: HypervisorConfig,
    /// Which agent serves it.
    pub agent_type: AgentKind,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its containers in creation order.
    pub containers: Vec<ContainerStatus>,
    /// PID of the VMM; 0 if none runs.
    pub vmm_pid: i32,
    /// Why it is as it is: the machine died, the host was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Another call holds the pod; what is shown are its last complete records (P-029).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub busy: bool,
    /// Its records cannot be read; it can still be deleted (P-018).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
