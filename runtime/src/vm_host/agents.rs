//! Agents behind VMM processes.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{Event, Request, Response};

use super::client::ControlConnector;
use crate::agent_client::{AgentError, Session};
use crate::backend::{AgentCapabilities, AgentHost, AgentSession, BackendError, BackendResult};
use crate::store::VmRecord;
use hutch_agent_proto::error_chain;

/// Opens sessions with agents through the control sockets of their machines.
#[derive(Debug, Clone, Default)]
pub struct VsockAgents {
    /// Capabilities of the agents.
    pub capabilities: AgentCapabilities,
}

struct Connected {
    session: Session,
    events: Receiver<Event>,
}

impl AgentHost for VsockAgents {
    fn capabilities(&self) -> AgentCapabilities {
        self.capabilities
    }

    fn connect(&self, vm: &VmRecord, timeout: Duration) -> BackendResult<Box<dyn AgentSession>> {
        let connector = Arc::new(ControlConnector::new(&vm.socket));
        let session = Session::connect(connector, timeout).map_err(backend_error)?;
        let events = session.events();
        Ok(Box::new(Connected { session, events }))
    }
}

impl AgentSession for Connected {
    fn call(&mut self, request: Request, deadline: Duration) -> BackendResult<Response> {
        if request == Request::PowerOff {
            // The end of the connection is the reply.
            return self.session.power_off(deadline).map(|()| Response::Done).map_err(backend_error);
        }
        self.session.call(request, deadline).map_err(backend_error)
    }

    fn call_with_timeout(&mut self, request: Request, timeout: Duration) -> BackendResult<Option<Response>> {
        self.session.call_with_timeout(request, Some(timeout)).map_err(backend_error)
    }

    fn next_event(&mut self, timeout: Duration) -> BackendResult<Option<Event>> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let why = self.session.death().map(|death| death.to_string());
                Err(BackendError::Lost(why.unwrap_or_else(|| "the channel to the guest is closed".into())))
            }
        }
    }
}

/// Translates a session's errors for the pod API.
fn backend_error(error: AgentError) -> BackendError {
    match error {
        AgentError::Remote { source, .. } => BackendError::Remote(source),
        AgentError::Deadline { after, .. } | AgentError::Greeting(after) => BackendError::Timeout { after },
        // Not a lost guest: its machine must not be killed only because this is the wrong program.
        AgentError::Connect(e) if is_other_version(&e) => BackendError::system("connect to the guest's agent", e),
        AgentError::Connect(e) if e.kind() == std::io::ErrorKind::TimedOut => BackendError::Lost(e.to_string()),
        AgentError::Encode { .. } | AgentError::Unexpected(_) => BackendError::Refused(error_chain(&error)),
        AgentError::Version { .. } => BackendError::Refused(error_chain(&error)),
        AgentError::Dead(_) | AgentError::Connect(_) | AgentError::OpenStream { .. } | AgentError::Host(_) => {
            BackendError::Lost(error_chain(&error))
        }
    }
}

fn is_other_version(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(BackendError::OtherVersion { .. }))
}
