//! The main loop of a VMM process: first the launcher's connection, then all others.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutch_agent_proto::{read_frame, write_frame, Deadline, FrameError};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::channel::{receive_fd, send_fd};
use super::machine::{GuestMachine, MachineEnd};
use super::message::{ControlHello, ControlReply, ControlRequest};
use crate::backend::{BackendError, BackendResult, VmReply, VmRequest, VmSpec};

/// Connections served at a time; one more is closed at once. Each call of the pod API has one or two.
const MAX_CONNECTIONS: usize = 256;
/// Longest wait that a request may ask for.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Bound for a caller to send the rest of a frame that it has begun, and to take a reply.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a VMM process has ended without a machine.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The launcher went away before it had started the machine. Nothing is left.
    #[error("the launcher went away before the machine was started")]
    Abandoned,
    /// The control socket failed.
    #[error("the control socket failed")]
    Socket(#[source] io::Error),
    /// The launcher broke the protocol.
    #[error("the launcher's connection failed")]
    Launcher(#[source] FrameError),
    /// The machine could not be built or started.
    #[error("the machine was not started: {0}")]
    Machine(String),
}

/// Serves the control socket that is this process's stdin; what the hidden verb does. Stdin is /dev/null afterwards.
pub fn serve_stdin<M: GuestMachine + 'static>(
    launch: impl FnOnce(&VmSpec) -> BackendResult<M>,
) -> Result<MachineEnd, ServeError> {
    let null = std::fs::File::open("/dev/null").map_err(ServeError::Socket)?;
    let listener = io::stdin().as_fd().try_clone_to_owned().map_err(ServeError::Socket)?;
    nix::unistd::dup2_stdin(&null).map_err(|e| ServeError::Socket(e.into()))?;
    serve(UnixListener::from(listener), launch)
}

/// Serves a control socket until the machine has ended.
///
/// # Errors
/// [`ServeError`]: there was no machine.
pub fn serve<M: GuestMachine + 'static>(
    listener: UnixListener,
    launch: impl FnOnce(&VmSpec) -> BackendResult<M>,
) -> Result<MachineEnd, ServeError> {
    serve_within(FRAME_TIMEOUT, listener, launch)
}

/// As [`serve`], with another bound for a caller to send a frame and to take a reply.
fn serve_within<M: GuestMachine + 'static>(
    frame_timeout: Duration,
    listener: UnixListener,
    launch: impl FnOnce(&VmSpec) -> BackendResult<M>,
) -> Result<MachineEnd, ServeError> {
    let (mut launcher, _) = listener.accept().map_err(ServeError::Socket)?;
    if !greet(&launcher, Duration::MAX).map_err(ServeError::Launcher)? {
        return Err(ServeError::Abandoned);
    }
    let spec = match read_frame(&mut launcher).map_err(ServeError::Launcher)? {
        Some(ControlRequest::Vm(VmRequest::Start(spec))) => spec,
        Some(_) => {
            let refused = BackendError::Refused("the machine was not started yet".into());
            write_frame(&mut launcher, &ControlReply::failed(&refused)).map_err(ServeError::Launcher)?;
            return Err(ServeError::Abandoned);
        }
        None => return Err(ServeError::Abandoned),
    };
    let machine = match launch(&spec) {
        Ok(machine) => Arc::new(machine),
        Err(error) => {
            let reply = ControlReply::failed(&error);
            write_frame(&mut launcher, &reply).map_err(ServeError::Launcher)?;
            let ControlReply::Failed { message, .. } = reply else { return Err(ServeError::Abandoned) };
            return Err(ServeError::Machine(message));
        }
    };
    // A launcher that dies now leaves a machine that is on record.
    let started = machine.jail().map_or(VmReply::Done, |jail| VmReply::Started { jail });
    let _ = write_frame(&mut launcher, &ControlReply::Vm(started));
    let server = Arc::new(Server::new(machine.clone(), frame_timeout));
    server.clone().connection(launcher, true);
    let accepting = server.clone();
    let acceptor = std::thread::Builder::new().name("control".into()).spawn(move || accepting.accept(&listener));
    acceptor.map_err(ServeError::Socket)?;
    let end = machine.wait_end();
    Ok(MachineEnd { expected: end.expected || server.expected.load(Ordering::SeqCst), ..end })
}

/// Serves one connection on the caller's thread, greeting included, for tests. The other side has `frame_timeout` to send
/// a frame and to take a reply.
///
/// # Errors
/// [`FrameError`]: the other side broke the protocol, or went away.
pub fn serve_connection<M: GuestMachine + 'static>(
    machine: Arc<M>,
    stream: UnixStream,
    frame_timeout: Duration,
) -> Result<(), FrameError> {
    Server::new(machine, frame_timeout).requests(stream, false)
}

struct Server<M> {
    machine: Arc<M>,
    /// The end was asked for.
    expected: AtomicBool,
    connections: AtomicUsize,
    frame_timeout: Duration,
}

impl<M: GuestMachine + 'static> Server<M> {
    fn new(machine: Arc<M>, frame_timeout: Duration) -> Self {
        Self { machine, expected: AtomicBool::new(false), connections: AtomicUsize::new(0), frame_timeout }
    }

    fn accept(self: Arc<Self>, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.clone().connection(stream, false),
                // Out of descriptors, for instance. The caller sees a closed connection or tries again.
                Err(e) => {
                    log::warn!("control socket: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Serves a connection on a thread of its own.
    fn connection(self: Arc<Self>, stream: UnixStream, greeted: bool) {
        if self.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            self.connections.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let server = self.clone();
        let thread = std::thread::Builder::new().name("control-conn".into()).spawn(move || {
            if let Err(error) = server.requests(stream, greeted) {
                log::debug!("control connection: {error}");
            }
            server.connections.fetch_sub(1, Ordering::SeqCst);
        });
        if thread.is_err() {
            self.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn requests(&self, mut stream: UnixStream, greeted: bool) -> Result<(), FrameError> {
        stream.set_read_timeout(Some(self.frame_timeout))?;
        stream.set_write_timeout(Some(self.frame_timeout))?;
        if !greeted && !greet(&stream, self.frame_timeout)? {
            return Ok(());
        }
        while let Some(request) = read_request(&stream, self.frame_timeout)? {
            let answer = match request {
                ControlRequest::Vm(VmRequest::PlugBlock(device)) => {
                    let image = receive_fd(&stream).map_err(FrameError::Io)?;
                    let plugged = self.machine.plug_block(&device, image.into());
                    plugged.map(|()| Answer::Reply(ControlReply::Vm(VmReply::Done)))
                }
                request => self.handle(request),
            };
            match answer {
                Ok(Answer::Reply(reply)) => write_frame(&mut stream, &reply)?,
                Ok(Answer::Descriptor(fd)) => {
                    write_frame(&mut stream, &ControlReply::Connected)?;
                    send_fd(&stream, fd.as_fd())?;
                }
                Err(error) => write_frame(&mut stream, &ControlReply::failed(&error))?,
            }
        }
        Ok(())
    }

    fn handle(&self, request: ControlRequest) -> BackendResult<Answer> {
        let request = match request {
            ControlRequest::Vm(request) => request,
            ControlRequest::Connect { port, timeout } => {
                let timeout = timeout.min(MAX_WAIT);
                let stream = self.machine.connect(port, timeout).map_err(|e| match e.kind() {
                    io::ErrorKind::TimedOut => BackendError::Timeout { after: timeout },
                    _ => BackendError::Lost(format!("port {port} of the guest: {e}")),
                })?;
                return Ok(Answer::Descriptor(stream.into()));
            }
        };
        let reply = match request {
            VmRequest::Start(_) => Err(BackendError::Refused("the machine was started already".into())),
            VmRequest::ExpectEnd(expected) => {
                self.expected.store(expected, Ordering::SeqCst);
                Ok(VmReply::Done)
            }
            VmRequest::WaitReady { timeout } => {
                self.machine.handle(VmRequest::WaitReady { timeout: timeout.min(MAX_WAIT) })
            }
            request => self.machine.handle(request),
        };
        reply.map(|reply| Answer::Reply(ControlReply::Vm(reply)))
    }
}

/// Reads the next request, however late it begins; its end must come within `timeout` of its beginning.
fn read_request(stream: &UnixStream, timeout: Duration) -> Result<Option<ControlRequest>, FrameError> {
    while let Err(Errno::EINTR) = poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {}
    read_frame(&mut Bounded { stream, deadline: Deadline::after(timeout) })
}

/// A stream that gives no byte after a deadline, lest a caller that trickles keeps its thread for ever.
struct Bounded<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.deadline > Instant::now() {
            true => self.stream.read(buffer),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Exchanges greetings; `false` if the other side went away or speaks another version. It has our greeting then and can
/// report the difference.
fn greet(stream: &UnixStream, timeout: Duration) -> Result<bool, FrameError> {
    // One that is gone is noticed by the read.
    let _ = write_frame(&mut &*stream, &ControlHello::ours());
    let hello: Option<ControlHello> = read_frame(&mut Bounded { stream, deadline: Deadline::after(timeout) })?;
    Ok(hello.is_some_and(|hello| hello.check().is_ok()))
}

enum Answer {
    Reply(ControlReply),
    Descriptor(OwnedFd),
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
