//! The agent in the guest.

use std::time::Duration;

use hutch_agent_proto::{Event, Request, Response};

use super::SeamResult;
use crate::store::VmRecord;

/// What an agent can do (P-200).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentCapabilities {
    /// It can mount a root file system from a disk.
    pub block_devices: bool,
    /// It can give a container the node of a plugged device.
    pub device_nodes: bool,
    /// It applies seccomp profiles (P-098).
    pub seccomp: bool,
}

/// Opens sessions with guest agents. Each call of the pod API opens its own.
pub trait AgentHost: Send + Sync {
    /// What the agents can do.
    fn capabilities(&self) -> AgentCapabilities;

    /// Opens a session with the agent behind the recorded machine.
    ///
    /// # Errors
    /// [`super::SeamError::Lost`] if machine or agent are gone, [`super::SeamError::Timeout`].
    fn connect(&self, vm: &VmRecord, timeout: Duration) -> SeamResult<Box<dyn AgentSession>>;
}

/// Requests to one agent, each with a deadline (P-205).
pub trait AgentSession: Send {
    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// [`super::SeamError::Remote`] if the agent refuses; [`super::SeamError::Timeout`] or
    /// [`super::SeamError::Lost`] if it does not answer, after which the session is of no use.
    fn call(&mut self, request: Request, deadline: Duration) -> SeamResult<Response>;

    /// Sends a request whose answer may take its time; `None` if it did not come within `patience`. The session stays
    /// usable; a late answer is dropped.
    ///
    /// # Errors
    /// As [`AgentSession::call`].
    fn call_patiently(&mut self, request: Request, patience: Duration) -> SeamResult<Option<Response>>;

    /// The next event, at most `timeout` away; `None` if there was none.
    ///
    /// # Errors
    /// [`super::SeamError::Lost`] when the agent is gone.
    fn next_event(&mut self, timeout: Duration) -> SeamResult<Option<Event>>;
}
