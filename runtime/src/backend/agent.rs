//! The agent in the guest.

use std::time::Duration;

use hutch_agent_proto::{Event, Request, Response};

use super::BackendResult;
use crate::store::VmRecord;

/// Capabilities of an agent (P-200).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentCapabilities {
    /// Can mount a root file system from a disk.
    pub block_devices: bool,
    /// Can give a container the node of a plugged device.
    pub device_nodes: bool,
    /// Applies seccomp profiles (P-098).
    pub seccomp: bool,
}

/// Opens sessions with guest agents. Each call of the pod API opens its own.
pub trait AgentHost: Send + Sync {
    /// Capabilities of the agents.
    fn capabilities(&self) -> AgentCapabilities;

    /// Opens a session with the agent behind the recorded machine.
    ///
    /// # Errors
    /// [`super::BackendError::Lost`] if machine or agent are gone, [`super::BackendError::Timeout`].
    fn connect(&self, vm: &VmRecord, timeout: Duration) -> BackendResult<Box<dyn AgentSession>>;
}

/// Requests to one agent, each with a deadline (P-205).
pub trait AgentSession: Send {
    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// [`super::BackendError::Remote`] if the agent refuses; [`super::BackendError::Timeout`] or
    /// [`super::BackendError::Lost`] if it does not answer, which makes the session unusable.
    fn call(&mut self, request: Request, deadline: Duration) -> BackendResult<Response>;

    /// Sends a request whose reply may be late; `None` if it did not come within `timeout`. The session stays usable; a
    /// late reply is dropped.
    fn call_with_timeout(&mut self, request: Request, timeout: Duration) -> BackendResult<Option<Response>>;

    /// The next event, at most `timeout` away; `None` if there was none.
    ///
    /// # Errors
    /// [`super::BackendError::Lost`] when the agent is gone.
    fn next_event(&mut self, timeout: Duration) -> BackendResult<Option<Event>>;
}
