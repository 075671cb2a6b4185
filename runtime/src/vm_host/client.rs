//! The runtime's end of a control socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_agent_proto::{error_chain, read_frame, write_frame, FrameError, AGENT_PORT};
use hutch_vmm::BlockError;

use super::channel::{receive_fd, send_fd};
use super::message::{ControlHello, ControlReply, ControlRequest};
use crate::agent_client::Connector;
use crate::backend::{BackendError, BackendResult, BlockDevice, VmReply, VmRequest};

/// Bound for replies that need no waiting in the VMM process.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound for the machine to be built and started.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Bound for a pause: each vCPU and each device may take its own time-out (`hutch_vmm::config::Timeouts`).
const PAUSE_TIMEOUT: Duration = Duration::from_secs(75);
/// A reply may take this much longer than the wait that was asked for.
const MARGIN: Duration = Duration::from_secs(5);

/// A connection to a VMM process.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    /// Both sides have sent their [`ControlHello`].
    greeted: bool,
}

impl ControlClient {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`BackendError::Lost`] if no process listens there.
    pub fn connect(path: &Path) -> BackendResult<Self> {
        let stream = UnixStream::connect(path)
            .map_err(|e| BackendError::Lost(format!("the virtual machine's process does not answer: {e}")))?;
        Ok(Self { stream, greeted: false })
    }

    /// Sends a request to the machine.
    ///
    /// # Errors
    /// [`BackendError::Lost`] if the process is gone or does not answer, [`BackendError::OtherVersion`] if another
    /// version of hutch started it, otherwise its own error.
    pub fn call(&mut self, request: VmRequest) -> BackendResult<VmReply> {
        let wait = match &request {
            VmRequest::Start(_) => START_TIMEOUT,
            VmRequest::WaitReady { timeout } => *timeout,
            VmRequest::Pause => PAUSE_TIMEOUT,
            _ => Duration::ZERO,
        };
        let image = match &request {
            VmRequest::PlugBlock(device) => Some(self.open_image(device)?),
            _ => None,
        };
        self.vm_call(request, image, wait)
    }

    fn vm_call(&mut self, request: VmRequest, image: Option<File>, wait: Duration) -> BackendResult<VmReply> {
        match self.exchange(&ControlRequest::Vm(request), image, wait)? {
            ControlReply::Vm(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    /// Opens the image of a disk for the machine, whose process cannot reach the host's files.
    fn open_image(&mut self, device: &BlockDevice) -> BackendResult<File> {
        let open = || hutch_vmm::open_image(&device.path, device.read_only);
        let mut image = open();
        if let Err(BlockError::InUse { .. }) = image {
            // By this machine, perhaps: an earlier call was killed before it saw the reply.
            self.vm_call(VmRequest::Unplug { id: device.id.clone() }, None, Duration::ZERO)?;
            image = open();
        }
        image.map_err(|e| BackendError::Refused(error_chain(&e)))
    }

    /// Opens a connection to a vsock port of the guest.
    pub fn open_port(&mut self, port: u32, timeout: Duration) -> BackendResult<OwnedFd> {
        match self.exchange(&ControlRequest::Connect { port, timeout }, None, timeout)? {
            ControlReply::Connected => {
                receive_fd(&self.stream).map_err(|e| BackendError::system("receive a connection to the guest", e))
            }
            _ => Err(unexpected()),
        }
    }

    /// Sends a request, and the descriptor that goes with it, for which the process may wait, at most `wait`, and reads
    /// the reply.
    fn exchange(
        &mut self,
        request: &ControlRequest,
        passed: Option<File>,
        wait: Duration,
    ) -> BackendResult<ControlReply> {
        let limit = if wait.is_zero() { REPLY_TIMEOUT } else { wait.saturating_add(MARGIN) };
        let io = |e: FrameError| match e {
            FrameError::Io(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                lost(format!("does not answer within {} s", limit.as_secs_f32()))
            }
            other => lost(format!("hung up: {other}")),
        };
        let hung_up = || lost("hung up".into());
        let bounds =
            self.stream.set_read_timeout(Some(limit)).and_then(|()| self.stream.set_write_timeout(Some(REPLY_TIMEOUT)));
        bounds.map_err(|e| BackendError::system("bound a control connection", e))?;
        let hello = if self.greeted { Ok(()) } else { write_frame(&mut self.stream, &ControlHello::ours()) };
        let written = hello.and_then(|()| write_frame(&mut self.stream, request));
        let written = written.and_then(|()| match &passed {
            Some(file) => send_fd(&self.stream, file.as_fd()).map_err(FrameError::Io),
            None => Ok(()),
        });
        // The machine's copy is then the only one: with it goes the image's lock.
        drop(passed);
        if !self.greeted {
            // Before anything else: a process of another version hangs up on us, but only after it has sent its
            // greeting.
            let hello: Option<ControlHello> = read_frame(&mut self.stream).map_err(io)?;
            hello.ok_or_else(hung_up)?.check()?;
            self.greeted = true;
        }
        written.map_err(io)?;
        read_frame::<ControlReply>(&mut self.stream).map_err(io)?.ok_or_else(hung_up)?.into_result(wait)
    }
}

fn lost(what: String) -> BackendError {
    BackendError::Lost(format!("the virtual machine's process {what}"))
}

fn unexpected() -> BackendError {
    BackendError::UnexpectedReply("the virtual machine's process")
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
            .map_err(|e| io::Error::new(kind(&e), e))
    }
}
