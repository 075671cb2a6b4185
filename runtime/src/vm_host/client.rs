//! The runtime's end of a control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent_proto::{read_frame, write_frame, FrameError, AGENT_PORT};

use super::channel::receive_fd;
use super::message::{ControlReply, ControlRequest};
use crate::agent_client::Connector;
use crate::backend::{BackendError, BackendResult};

/// For answers that need no waiting in the VMM process.
const USUAL: Duration = Duration::from_secs(10);
/// What an answer may take beyond the wait that was asked for.
const MARGIN: Duration = Duration::from_secs(5);

/// A connection to a VMM process.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
}

impl ControlClient {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`BackendError::Lost`] if nobody listens there.
    pub fn connect(path: &Path) -> BackendResult<Self> {
        let stream = UnixStream::connect(path)
            .map_err(|e| BackendError::Lost(format!("the virtual machine's process does not answer: {e}")))?;
        Ok(Self { stream })
    }

    /// A request that is answered at once.
    ///
    /// # Errors
    /// As [`ControlClient::call_within`].
    pub fn call(&mut self, request: &ControlRequest) -> BackendResult<ControlReply> {
        self.call_within(request, Duration::ZERO)
    }

    /// A request that the process may wait for, at most `wait`.
    ///
    /// # Errors
    /// [`BackendError::Lost`] if the process is gone or falls silent, else what it says.
    pub fn call_within(&mut self, request: &ControlRequest, wait: Duration) -> BackendResult<ControlReply> {
        let limit = if wait.is_zero() { USUAL } else { wait + MARGIN };
        let lost = |what: String| BackendError::Lost(format!("the virtual machine's process {what}"));
        let io = |e: FrameError| match e {
            FrameError::Io(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                lost(format!("does not answer within {} s", limit.as_secs_f32()))
            }
            other => lost(format!("hung up: {other}")),
        };
        let bounds =
            self.stream.set_read_timeout(Some(limit)).and_then(|()| self.stream.set_write_timeout(Some(USUAL)));
        bounds.map_err(|e| BackendError::system("bound a control connection", e))?;
        write_frame(&mut self.stream, request).map_err(io)?;
        match read_frame::<ControlReply>(&mut self.stream).map_err(io)? {
            Some(reply) => reply.into_result(wait),
            None => Err(lost("hung up".into())),
        }
    }

    /// Opens a connection to a vsock port of the guest.
    ///
    /// # Errors
    /// As [`ControlClient::call_within`].
    pub fn open_port(&mut self, port: u32, timeout: Duration) -> BackendResult<OwnedFd> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match self.call_within(&ControlRequest::Connect { port, timeout_ms }, timeout)? {
            ControlReply::Connected => {
                receive_fd(&self.stream).map_err(|e| BackendError::system("receive a connection to the guest", e))
            }
            _ => Err(BackendError::UnexpectedReply("the virtual machine's process")),
        }
    }
}

/// Opens connections to the agent's port behind a control socket, each over a control connection of its own.
#[derive(Debug, Clone)]
pub struct ControlConnector {
    socket: PathBuf,
}

impl ControlConnector {
    /// For the VMM process that listens at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }
}

impl Connector for ControlConnector {
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        let kind = |error: &BackendError| match error {
            BackendError::Timeout { .. } => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::ConnectionRefused,
        };
        ControlClient::connect(&self.socket)
            .and_then(|mut client| client.open_port(AGENT_PORT, timeout))
            .map(UnixStream::from)
            .map_err(|e| io::Error::new(kind(&e), e.to_string()))
    }
}
