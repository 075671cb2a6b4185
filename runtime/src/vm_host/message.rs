//! What goes over a control socket: JSON frames as between host and agent; a descriptor follows its reply.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, BlockDevice, VmSpec, VmState};
use crate::error::chain;

/// A request to a VMM process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// Builds the machine and starts it. Only the launcher's connection may say that, once.
    Start(Box<VmSpec>),
    /// Answers when the guest has reported.
    WaitReady {
        /// At most this long.
        timeout_ms: u64,
    },
    /// What is the machine doing?
    State,
    /// Holds the vCPUs.
    Pause,
    /// Lets them run.
    Resume,
    /// Plugs a disk in.
    PlugBlock(BlockDevice),
    /// Passes a host device through.
    PlugVfio {
        /// Its id.
        id: String,
        /// Its path.
        path: std::path::PathBuf,
    },
    /// Takes a device out.
    Unplug {
        /// Its id.
        id: String,
    },
    /// Changes the number of vCPUs.
    SetVcpus(u32),
    /// Changes the memory, MiB.
    SetMemory(u64),
    /// Opens a connection to a vsock port of the guest; the reply is followed by its descriptor.
    Connect {
        /// The port.
        port: u32,
        /// At most this long.
        timeout_ms: u64,
    },
    /// The last lines of the console.
    Console {
        /// How many.
        lines: usize,
    },
    /// Whether the machine's end, by whatever way, is one that was asked for.
    ExpectEnd(bool),
    /// Ends the machine, and with it the process.
    Stop,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlReply {
    /// Done.
    Done,
    /// The state.
    State(VmState),
    /// Console lines.
    Lines(Vec<String>),
    /// Bytes of memory that the guest is to have beyond what its kernel booted with.
    Memory(u64),
    /// A descriptor follows.
    Connected,
    /// It did not work.
    Failed {
        /// Class.
        kind: FailureKind,
        /// Text.
        message: String,
    },
}

/// Class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Not in time.
    Timeout,
    /// The machine or the guest's end is gone.
    Lost,
    /// Not possible with this machine.
    Unsupported,
    /// Anything else.
    Refused,
}

impl ControlReply {
    /// The reply for a backend's error.
    pub(super) fn failed(error: &BackendError) -> Self {
        let kind = match error {
            BackendError::Timeout { .. } => FailureKind::Timeout,
            BackendError::Lost(_) => FailureKind::Lost,
            BackendError::Unsupported(_) => FailureKind::Unsupported,
            _ => FailureKind::Refused,
        };
        ControlReply::Failed { kind, message: chain(error) }
    }

    /// The backend's error for a failed reply, or the reply. `waited` is what a time-out is reported with.
    pub(super) fn into_result(self, waited: Duration) -> Result<Self, BackendError> {
        match self {
            ControlReply::Failed { kind: FailureKind::Timeout, .. } => Err(BackendError::Timeout { after: waited }),
            ControlReply::Failed { kind: FailureKind::Lost, message } => Err(BackendError::Lost(message)),
            ControlReply::Failed { message, .. } => Err(BackendError::Refused(message)),
            reply => Ok(reply),
        }
    }
}
