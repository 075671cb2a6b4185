//! The messages on a control socket: JSON frames, as between host and agent.
//!
//! Each side begins with a [`ControlHello`], so that a hutch that finds a VMM process of another version says so
//! instead of misreading it. Requests and replies follow in turn. A descriptor follows its reply.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, VmReply, VmRequest};
use hutch_agent_proto::error_chain;

/// Version of this protocol, which includes [`VmRequest`] and [`VmReply`]. Raise it with every change of them.
pub const CONTROL_PROTOCOL: u32 = 2;

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlHello {
    /// [`CONTROL_PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Version of the sender's program, for the error message.
    pub program: String,
}

/// A request to a VMM process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// A request to the machine.
    Vm(VmRequest),
    /// Opens a connection to a vsock port of the guest. Its descriptor follows the reply.
    Connect {
        /// The port.
        port: u32,
        /// Bound of the wait.
        timeout: Duration,
    },
}

/// The reply to a [`ControlRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlReply {
    /// The machine's reply.
    Vm(VmReply),
    /// A descriptor follows.
    Connected,
    /// The request failed.
    Failed {
        /// Class of the failure.
        kind: FailureKind,
        /// Text for people.
        message: String,
    },
}

/// Class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A bounded wait ran out.
    Timeout,
    /// The machine or the guest's end is gone.
    Lost,
    /// This kind of machine cannot do that.
    Unsupported,
    /// Anything else.
    Refused,
}

impl ControlHello {
    /// The greeting of this program.
    pub(super) fn ours() -> Self {
        Self { protocol: CONTROL_PROTOCOL, program: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Checks the greeting of a VMM process.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        if self.protocol == CONTROL_PROTOCOL {
            return Ok(());
        }
        let version = |hello: &Self| format!("{}, control protocol {}", hello.program, hello.protocol);
        Err(BackendError::OtherVersion { theirs: version(self), ours: version(&Self::ours()) })
    }
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
        ControlReply::Failed { kind, message: error_chain(error) }
    }

    /// The backend's error for a failed reply, or the reply. `waited` is the bound that a time-out reports.
    pub(super) fn into_result(self, waited: Duration) -> Result<Self, BackendError> {
        match self {
            ControlReply::Failed { kind: FailureKind::Timeout, .. } => Err(BackendError::Timeout { after: waited }),
            ControlReply::Failed { kind: FailureKind::Lost, message } => Err(BackendError::Lost(message)),
            ControlReply::Failed { message, .. } => Err(BackendError::Refused(message)),
            reply => Ok(reply),
        }
    }
}
