//! Relays the standard streams of processes over their connections, each on that connection's thread.
//!
//! One loop serves every kind: an *input* direction (connection to process), an *output* direction (process to
//! connection), or both over a terminal. Each direction has one fixed buffer and reads only when that is empty: a side
//! that does not read stops the side that writes, and memory stays flat.
//!
//! ```text
//!   input:   connection ──recv──▶ buffer ──write──▶ pipe or terminal     EOF: pipe closed / end-of-file character
//!   output:  pipe or terminal ──read──▶ buffer ──send──▶ connection      EOF: shutdown(write), relay ends
//! ```

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

use crate::connection::{retry, HostConnection};
use crate::pty;
use crate::sys::{poll, Watch};

/// Bytes in flight per direction: what a pipe holds by default.
const BUFFER: usize = 64 << 10;

/// Asks a relay to end its input after the bytes that have arrived.
pub type CloseInput = Arc<EventFd>;

/// A new [`CloseInput`].
pub fn close_input() -> Result<CloseInput, Errno> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Arc::new)
}

/// Bytes on their way in one direction.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer; without room if the relay does not have the direction.
    fn new(used: bool) -> Self {
        Self { bytes: vec![0; if used { BUFFER } else { 0 }].into_boxed_slice(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Fills the empty buffer.
    fn fill(&mut self, source: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
        self.clear();
        self.end = source(&mut self.bytes)?.min(self.bytes.len());
        Ok(self.end)
    }

    /// Puts a few bytes into the empty buffer.
    fn put(&mut self, bytes: &[u8]) {
        self.clear();
        self.end = bytes.len().min(self.bytes.len());
        self.bytes[..self.end].copy_from_slice(&bytes[..self.end]);
    }

    /// Gives the sink as many bytes as it takes.
    fn drain(&mut self, sink: impl FnOnce(&[u8]) -> Result<usize, Errno>) -> Result<(), Errno> {
        let taken = sink(self.waiting())?;
        self.start = (self.start + taken).min(self.end);
        Ok(())
    }
}

/// Wakes the relay when a connection changes whose other side has stopped writing. On vsock the end of a connection
/// comes as up to two packets, one for each direction. `poll` shows no difference between the first and the second, but
/// each wakes an edge-triggered epoll.
struct HangupWatch(Epoll);

impl HangupWatch {
    /// Watches `connection`. The watch is ready at once, for the change that has already happened.
    fn of(connection: &HostConnection) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(connection, EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, 0))?;
        Ok(Self(epoll))
    }

    /// Makes the watch wait for the next change.
    fn clear(&self) {
        let _ = self.0.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO);
    }
}

impl AsFd for HangupWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0 .0.as_fd()
    }
}

/// The process's side of a relay. Descriptors are non-blocking.
pub enum Ends {
    /// Write end of its stdin.
    Input(OwnedFd),
    /// Read end of its stdout or stderr.
    Output(OwnedFd),
    /// Agent's side of its terminal.
    Terminal(Arc<OwnedFd>),
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Ends::Input(fd) | Ends::Output(fd) => fd.as_fd(),
            Ends::Terminal(fd) => fd.as_fd(),
        }
    }
}

/// State of the input direction.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Input {
    /// The relay reads from the connection.
    Open,
    /// As `Open`, until no more bytes have arrived.
    Closing,
    /// The relay reads no more; once it has written the buffer, the process sees end of file.
    Ending,
    /// The process has seen end of file.
    Ended,
}

/// The events that a wait returned: `POLLIN` and so on.
struct Seen {
    host: i16,
    process: i16,
    close: bool,
    hangup: bool,
}

/// Events after which a read returns data, end of file or an error.
const READABLE: i16 = libc::POLLIN | libc::POLLHUP | libc::POLLERR;

/// Whether the loop goes on.
type Step = ControlFlow<()>;
const GO_ON: Step = Step::Continue(());
const STOP: Step = Step::Break(());

/// The relay of one standard stream.
pub struct Relay {
    connection: Arc<HostConnection>,
    ends: Ends,
    close: Option<CloseInput>,
    to_process: Buffer,
    to_host: Buffer,
    input: Input,
    /// Set once the host has shut down its direction; watches the other one.
    hangup: Option<HangupWatch>,
    /// The process's side of the output is closed; the buffer may still hold bytes.
    output_ended: bool,
    /// The last byte of input ended a line, or there was no input.
    line_finished: bool,
}

impl Relay {
    /// A relay between `connection` and a process's `ends`. `close` ends the input early.
    pub fn new(connection: Arc<HostConnection>, ends: Ends, close: Option<CloseInput>) -> Self {
        let (has_input, has_output) = (!matches!(ends, Ends::Output(_)), !matches!(ends, Ends::Input(_)));
        Self {
            connection,
            ends,
            close,
            to_process: Buffer::new(has_input),
            to_host: Buffer::new(has_output),
            input: if has_input { Input::Open } else { Input::Ended },
            hangup: None,
            output_ended: !has_output,
            line_finished: true,
        }
    }

    /// Relays until both sides are done or one is gone. Dropping the relay closes its ends: a process that still
    /// writes gets `EPIPE`, a terminal hangs up.
    pub fn run(mut self) -> Result<(), Errno> {
        loop {
            let seen = self.wait()?;
            if self.step(&seen).is_break() {
                return Ok(());
            }
        }
    }

    fn step(&mut self, seen: &Seen) -> Step {
        if seen.close {
            self.close = None;
            if self.input == Input::Open {
                self.input = Input::Closing;
            }
        }
        if self.is_stdin() {
            // The pipe's last reader is gone.
            if seen.process & libc::POLLERR != 0 {
                return STOP;
            }
        } else {
            self.check_host(seen)?;
        }
        if self.wants_input() && (seen.host & READABLE != 0 || self.input == Input::Closing) {
            self.pull_input()?;
        }
        self.push_input()?;
        if self.wants_output() && seen.process & READABLE != 0 {
            self.pull_output();
        }
        self.push_output()
    }

    fn is_stdin(&self) -> bool {
        matches!(self.ends, Ends::Input(_))
    }

    fn wants_input(&self) -> bool {
        matches!(self.input, Input::Open | Input::Closing) && self.to_process.is_empty()
    }

    fn wants_output(&self) -> bool {
        !self.output_ended && self.to_host.is_empty()
    }

    /// Waits for an event. A descriptor that has hung up is always "ready", so the wait leaves out a side that has no
    /// use for events.
    fn wait(&self) -> Result<Seen, Errno> {
        let when = |wanted: bool, event: i16| if wanted { event } else { 0 };
        let host = when(self.wants_input(), libc::POLLIN)
            | when(!self.to_host.is_empty(), libc::POLLOUT)
            | when(!self.is_stdin() && self.hangup.is_none(), libc::POLLRDHUP);
        let process = when(self.wants_output(), libc::POLLIN) | when(!self.to_process.is_empty(), libc::POLLOUT);
        // The host of an output may close it; the reader of a stdin pipe may end.
        let watch_host = !self.is_stdin() || host != 0;
        let watch_process = self.is_stdin() || process != 0;

        let mut watches = Vec::with_capacity(4);
        watches.extend(watch_host.then(|| Watch::new(self.connection.as_fd(), host)));
        watches.extend(watch_process.then(|| Watch::new(self.ends.as_fd(), process)));
        watches.extend(self.close.as_ref().map(|close| Watch::new(close.as_fd(), libc::POLLIN)));
        watches.extend(self.hangup.as_ref().map(|hangup| Watch::new(hangup.as_fd(), libc::POLLIN)));
        let closing = self.input == Input::Closing && self.to_process.is_empty();
        retry(|| poll(&mut watches, !closing))?;

        let mut seen = watches.iter().map(Watch::seen);
        let mut next = |watched: bool| if watched { seen.next().unwrap_or(0) } else { 0 };
        let (host, process, close) = (next(watch_host), next(watch_process), next(self.close.is_some()) != 0);
        Ok(Seen { host, process, close, hangup: next(self.hangup.is_some()) != 0 })
    }

    /// Ends the relay of an output when the host no longer reads it.
    fn check_host(&mut self, seen: &Seen) -> Step {
        if seen.host & (libc::POLLHUP | libc::POLLERR) != 0 {
            return STOP;
        }
        if seen.host & libc::POLLRDHUP != 0 && self.hangup.is_none() {
            match HangupWatch::of(&self.connection) {
                Ok(hangup) => self.hangup = Some(hangup),
                // No descriptors left: end the stream rather than spin.
                Err(_) => return STOP,
            }
        } else if !seen.hangup {
            return GO_ON;
        }
        self.hangup.iter().for_each(HangupWatch::clear);
        match self.connection.is_unread() {
            true => STOP,
            false => GO_ON,
        }
    }

    fn pull_input(&mut self) -> Step {
        match self.to_process.fill(|buf| self.connection.receive_now(buf)) {
            Ok(0) => self.input = Input::Ending,
            Ok(_) => self.line_finished = self.to_process.waiting().last() == Some(&b'\n'),
            Err(Errno::EAGAIN) if self.input == Input::Closing => self.input = Input::Ending,
            Err(Errno::EAGAIN) => {}
            Err(_) => return STOP,
        }
        GO_ON
    }

    fn push_input(&mut self) -> Step {
        if !self.to_process.is_empty() {
            match self.to_process.drain(|bytes| retry(|| write(&self.ends, bytes))) {
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(_) if self.is_stdin() => return STOP,
                Err(_) => {
                    // A terminal that hung up takes no more input; its output must still be delivered.
                    self.input = Input::Ended;
                    self.to_process.clear();
                }
            }
        }
        if self.input == Input::Ending && self.to_process.is_empty() {
            if self.is_stdin() {
                return STOP;
            }
            self.input = Input::Ended;
            self.to_process.put(&pty::end_of_file(&self.ends, self.line_finished));
        }
        GO_ON
    }

    fn pull_output(&mut self) {
        match self.to_host.fill(|buf| retry(|| read(&self.ends, buf))) {
            Ok(1..) | Err(Errno::EAGAIN) => {}
            // EIO means that the last user of a terminal is gone.
            Ok(0) | Err(_) => self.output_ended = true,
        }
    }

    fn push_output(&mut self) -> Step {
        if self.is_stdin() {
            return GO_ON;
        }
        if !self.to_host.is_empty() {
            match self.to_host.drain(|bytes| self.connection.send_now(bytes)) {
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(_) => return STOP,
            }
        }
        if self.output_ended && self.to_host.is_empty() {
            self.connection.finish_sending();
            return STOP;
        }
        GO_ON
    }
}

#[cfg(test)]
#[path = "stdio_tests.rs"]
mod tests;
