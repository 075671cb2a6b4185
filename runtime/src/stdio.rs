//! Relays between file descriptors of the caller and the streams of a process in the guest.
//!
//! One thread per stream, with blocking reads and writes and one buffer of 64 KiB: memory stays flat, and a slow reader
//! slows the process down. Descriptors of the caller may be shared with other programs (a terminal, a pipe of a shell):
//! the relay never makes them non-blocking, and copes with those that already are.
//!
//! ```text
//!  stdin  ─▶ input thread  ─▶ stream ─▶ guest     caller's EOF ─▶ write side shut down ─▶ EOF for the process
//!  stdout ◀─ output thread ◀─ stream ◀─ guest     caller's reader gone ─▶ stream closed ─▶ EPIPE for the process
//! ```

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, StdStream};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::agent_client::AgentError;

/// Bytes moved at a time.
const BUFFER: usize = 64 << 10;

/// Opens a stream of the process. Called once per stream, on the stream's own thread.
pub type OpenStream = Arc<dyn Fn(StdStream) -> Result<UnixStream, AgentError> + Send + Sync>;

/// The caller's ends of the streams.
#[derive(Debug, Default)]
pub struct StdioFds {
    /// Read for the process; `None`: the process has no stdin stream.
    pub stdin: Option<OwnedFd>,
    /// Gets the output of the process. With a terminal this is all of its output.
    pub stdout: Option<OwnedFd>,
    /// Gets the stderr of the process; unused with a terminal.
    pub stderr: Option<OwnedFd>,
}

/// The reason for which a stream ended before its source did.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The stream to the guest could not be opened.
    #[error(transparent)]
    Open(#[from] AgentError),
    /// The caller's side failed; a hang-up of the caller is not a failure.
    #[error("{} of hutch", crate::agent_client::stream_name(*.stream))]
    Caller {
        /// Stream that failed.
        stream: StdStream,
        /// Failure of the read or write.
        source: io::Error,
    },
    /// The host could not create a thread or a descriptor.
    #[error("set up the relay of standard streams")]
    Host(#[source] io::Error),
}

/// The relayed streams of one process. Dropping it leaves the threads to end with their streams; [`Relay::finish`] is
/// the orderly way.
pub struct Relay {
    stop_input: Arc<EventFd>,
    drain: Arc<EventFd>,
    ended: Receiver<(StdStream, Result<(), RelayError>)>,
    outputs: usize,
    first_error: Option<RelayError>,
    first_byte: Arc<AtomicU64>,
}

/// Arguments of an output thread.
struct Output {
    stream: StdStream,
    sink: OwnedFd,
    drain: Arc<EventFd>,
    quiet: Duration,
    first_byte: Arc<AtomicU64>,
}

impl Relay {
    /// Starts relaying. With `terminal` one stream, [`StdStream::Terminal`], serves stdin and stdout.
    ///
    /// `quiet`: once [`Relay::finish`] is called, an output without new bytes for this time counts as ended.
    ///
    /// # Errors
    /// [`RelayError::Host`]. [`Relay::finish`] reports later failures of a stream.
    pub fn start(open: OpenStream, fds: StdioFds, terminal: bool, quiet: Duration) -> Result<Relay, RelayError> {
        let stop_input = new_event()?;
        let drain = new_event()?;
        let (tell, ended) = mpsc::channel();
        let first_byte = Arc::new(AtomicU64::new(0));
        let mut relay = Relay { stop_input, drain, ended, outputs: 0, first_error: None, first_byte };
        let output = |relay: &Relay, stream, sink| Output {
            stream,
            sink,
            drain: Arc::clone(&relay.drain),
            quiet,
            first_byte: Arc::clone(&relay.first_byte),
        };
        if terminal {
            let Some(stdout) = fds.stdout else { return Ok(relay) };
            let output = output(&relay, StdStream::Terminal, stdout);
            let stop = Arc::clone(&relay.stop_input);
            let tell = tell.clone();
            spawn("stdio-tty", move || relay_terminal(&open, fds.stdin, output, &stop, &tell))?;
            relay.outputs = 1;
            return Ok(relay);
        }
        for (name, stream, sink) in
            [("stdio-out", StdStream::Stdout, fds.stdout), ("stdio-err", StdStream::Stderr, fds.stderr)]
        {
            let Some(sink) = sink else { continue };
            let output = output(&relay, stream, sink);
            let (open, tell) = (Arc::clone(&open), tell.clone());
            spawn(name, move || {
                let result = open(stream).map_err(RelayError::from).and_then(|s| pump_out(&s, &output));
                let _ = tell.send((stream, result));
            })?;
            relay.outputs += 1;
        }
        if let Some(stdin) = fds.stdin {
            let stop = Arc::clone(&relay.stop_input);
            spawn("stdio-in", move || {
                let result = open(StdStream::Stdin).map_err(RelayError::from);
                let result = result.and_then(|stream| feed(stdin.as_fd(), stream, &stop));
                let _ = tell.send((StdStream::Stdin, result));
            })?;
        }
        Ok(relay)
    }

    /// When the first byte of output was written to the caller: CLOCK_MONOTONIC, nanoseconds.
    pub fn first_byte_ns(&self) -> Option<u64> {
        Some(self.first_byte.load(Ordering::Relaxed)).filter(|ns| *ns != 0)
    }

    /// Call it when the process has ended: stops reading stdin and waits until the caller has all output, which is when
    /// the streams end. A stream that a surviving child keeps open counts as ended once nothing has come for the
    /// `quiet` time; one whose bytes the caller takes slowly does not.
    ///
    /// `limit` bounds the wait; the call may be repeated. `None`: as long as the caller takes bytes.
    ///
    /// # Errors
    /// The first failure of an output, after all outputs have ended. A failure of stdin is only logged: the process has
    /// ended without it.
    pub fn finish(&mut self, limit: Option<Duration>) -> Result<Drained, RelayError> {
        signal(&self.stop_input);
        signal(&self.drain);
        let until = limit.map(Deadline::after);
        while self.outputs > 0 {
            let next = match until {
                None => self.ended.recv().ok(),
                Some(until) => match self.ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Drained::Stuck),
                    other => other.ok(),
                },
            };
            let Some((stream, result)) = next else { break };
            match (stream, result) {
                (StdStream::Stdin, Ok(())) => {}
                (StdStream::Stdin, Err(error)) => log::warn!("stdin was cut short: {error}"),
                (_, result) => {
                    self.outputs -= 1;
                    self.first_error = self.first_error.take().or(result.err());
                }
            }
        }
        self.first_error.take().map_or(Ok(Drained::All), Err)
    }
}

/// Result of [`Relay::finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The caller has every byte.
    All,
    /// Some bytes are still on their way.
    Stuck,
}

/// The threads are not joined: they end with their streams, which a caller that never takes a byte can delay.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), RelayError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(RelayError::Host)
}

fn new_event() -> Result<Arc<EventFd>, RelayError> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    EventFd::from_value_and_flags(0, flags).map(Arc::new).map_err(|e| RelayError::Host(e.into()))
}

fn signal(event: &EventFd) {
    // Fails only at 2^64 - 1, when it is readable already.
    let _ = event.write(1);
}

/// Relays one stream in both directions: the input gets a thread of its own.
fn relay_terminal(
    open: &OpenStream,
    stdin: Option<OwnedFd>,
    output: Output,
    stop: &Arc<EventFd>,
    tell: &Sender<(StdStream, Result<(), RelayError>)>,
) {
    let result = open(StdStream::Terminal).map_err(RelayError::from).and_then(|stream| {
        if let Some(stdin) = stdin {
            let stream = stream.try_clone().map_err(RelayError::Host)?;
            let (stop, tell) = (Arc::clone(stop), tell.clone());
            spawn("stdio-in", move || {
                let result = feed(stdin.as_fd(), stream, &stop);
                let _ = tell.send((StdStream::Stdin, result));
            })?;
        }
        pump_out(&stream, &output)
    });
    let _ = tell.send((StdStream::Terminal, result));
}

/// Copies the guest's output to the caller until the stream ends or the caller hangs up.
fn pump_out(stream: &UnixStream, output: &Output) -> Result<(), RelayError> {
    let mut buffer = vec![0; BUFFER];
    let mut draining = false;
    loop {
        match wait_for_output(stream, output, draining) {
            Wait::Ready => {}
            Wait::Drain => {
                draining = true;
                continue;
            }
            Wait::Quiet => return Ok(()),
            Wait::CallerGone => return hang_up(stream),
        }
        let count = match (&mut &*stream).read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // The guest is gone; no more bytes come.
            Err(_) => return Ok(()),
        };
        match write_all(output.sink.as_fd(), &buffer[..count]) {
            Ok(()) => {}
            Err(Errno::EPIPE) => return hang_up(stream),
            Err(errno) => {
                let _ = hang_up(stream);
                return Err(RelayError::Caller { stream: output.stream, source: errno.into() });
            }
        }
        if output.first_byte.load(Ordering::Relaxed) == 0 {
            let _ = output.first_byte.compare_exchange(0, hutch_vmm::now_ns(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

enum Wait {
    Ready,
    Drain,
    Quiet,
    CallerGone,
}

fn wait_for_output(stream: &UnixStream, output: &Output, draining: bool) -> Wait {
    let timeout = match draining {
        true => PollTimeout::try_from(output.quiet).unwrap_or(PollTimeout::MAX),
        false => PollTimeout::NONE,
    };
    loop {
        // With no requested events, poll reports only that the sink's reader has gone.
        let mut fds = [
            PollFd::new(stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(output.sink.as_fd(), PollFlags::empty()),
            PollFd::new(output.drain.as_fd(), PollFlags::POLLIN),
        ];
        let fds = if draining { &mut fds[..2] } else { &mut fds[..] };
        match poll(fds, timeout) {
            Ok(0) => return Wait::Quiet,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Wait::Ready,
        }
        let is = |index: usize| fds.get(index).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        if is(1) {
            return Wait::CallerGone;
        }
        if is(0) {
            return Wait::Ready;
        }
        return Wait::Drain;
    }
}

/// Closes the stream in both directions, so that the process gets EPIPE.
fn hang_up(stream: &UnixStream) -> Result<(), RelayError> {
    // Fails only if the guest has closed it too.
    let _ = stream.shutdown(Shutdown::Both);
    Ok(())
}

/// Copies the caller's input to the guest until the caller's end, the guest's, or `stop`.
fn feed(source: BorrowedFd<'_>, stream: UnixStream, stop: &EventFd) -> Result<(), RelayError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        if !wait_for_input(source, &stream, stop) {
            return Ok(());
        }
        let count = match nix::unistd::read(source, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            // A terminal that has hung up gives a read error; so does one that a background process may not read.
            Err(Errno::EIO) => break,
            Err(errno) => {
                let _ = stream.shutdown(Shutdown::Write);
                return Err(RelayError::Caller { stream: StdStream::Stdin, source: errno.into() });
            }
        };
        if (&stream).write_all(&buffer[..count]).is_err() {
            // The process has closed its stdin, or ended.
            return Ok(());
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    // Kept open until the end: a full close could overtake bytes on their way.
    let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
    Ok(())
}

/// Waits for input; false if reading has become pointless.
fn wait_for_input(source: BorrowedFd<'_>, stream: &UnixStream, stop: &EventFd) -> bool {
    loop {
        let mut fds = [
            PollFd::new(source, PollFlags::POLLIN),
            PollFd::new(stream.as_fd(), PollFlags::empty()),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        let is = |index: usize| fds[index].revents().is_some_and(|r| !r.is_empty());
        return !is(1) && !is(2);
    }
}

/// Writes all of `bytes`; waits where another program has made the descriptor non-blocking.
fn write_all(sink: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match nix::unistd::write(sink, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(sink, PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "stdio_tests.rs"]
mod tests;
