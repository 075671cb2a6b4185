//! The loop that runs while the command runs. It moves frames out of the testbed and stdin and window sizes into it, and
//! handles signals and the time limit. One thread, one `poll`; only writes to the caller's stdout or stderr block otherwise.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use hutch_testbed::Frame;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::pty::Winsize;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};

use crate::machine::Machine;
use crate::{Input, Outcome, TestbedConfig, TestbedError};

/// The relay stops reading stdin while this many bytes wait for the testbed.
const BACKLOG: usize = 256 << 10;

/// Runs the relay until the command ends, the testbed fails, the time is up or a signal arrives.
pub(crate) fn until_end(
    config: &TestbedConfig,
    machine: &mut Machine,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<Outcome, TestbedError> {
    let _raw = (config.input == Input::Terminal).then(RawTerminal::enter).flatten();
    let signals = Signals::block().map_err(TestbedError::system("take signals"))?;
    machine.port.set_nonblocking(true).map_err(TestbedError::system("set up the port"))?;
    let mut deadline = Instant::now() + config.timeout;
    let mut relay = Relay { incoming: Vec::new(), outgoing: Vec::new(), stdin_open: config.input != Input::Null };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Outcome::TimedOut(machine.console_tail()));
        }
        let ready = relay.wait(machine, &signals, left).map_err(TestbedError::system("wait for the testbed"))?;
        if ready.signal {
            match signals.take().map_err(TestbedError::system("read a signal"))? {
                Some(Signal::SIGWINCH) => relay.resize(),
                Some(signal) => return Ok(Outcome::Interrupted(signal as i32)),
                None => {}
            }
        }
        if ready.stdin {
            relay.read_stdin().map_err(TestbedError::system("read stdin"))?;
        }
        if ready.port_out {
            relay.flush(&mut machine.port).map_err(TestbedError::system("write to the testbed"))?;
        }
        if ready.port_in {
            if let Some(outcome) = relay.receive(machine, stdout, stderr)? {
                return Ok(outcome);
            }
            if config.until_silent {
                deadline = Instant::now() + config.timeout;
            }
        }
    }
}

struct Relay {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    stdin_open: bool,
}

#[derive(Default)]
struct Ready {
    signal: bool,
    stdin: bool,
    port_in: bool,
    port_out: bool,
}

impl Relay {
    fn wait(&self, machine: &Machine, signals: &Signals, left: Duration) -> io::Result<Ready> {
        let stdin = io::stdin();
        let mut port_flags = PollFlags::POLLIN;
        port_flags.set(PollFlags::POLLOUT, !self.outgoing.is_empty());
        let mut fds =
            vec![PollFd::new(machine.port.as_fd(), port_flags), PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN)];
        if self.stdin_open && self.outgoing.len() < BACKLOG {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up, or the last waits would end just before the deadline.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let got = |n: usize| fds.get(n).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        Ok(Ready {
            signal: !got(1).is_empty(),
            stdin: !got(2).is_empty(),
            port_in: got(0).intersects(!PollFlags::POLLOUT),
            port_out: got(0).contains(PollFlags::POLLOUT),
        })
    }

    fn queue(&mut self, frame: Frame) {
        // Writing to a Vec cannot fail.
        let _ = frame.write_to(&mut self.outgoing);
    }

    fn resize(&mut self) {
        let (rows, cols) = terminal_size();
        self.queue(Frame::Resize(rows, cols));
    }

    fn read_stdin(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; hutch_testbed::MAX_DATA];
        // Bypasses std's buffer: `poll` does not see bytes that wait there.
        match nix::unistd::read(io::stdin().as_fd(), &mut buffer) {
            Ok(n) => {
                self.stdin_open = n > 0;
                buffer.truncate(n);
                self.queue(Frame::Stdin(buffer));
                Ok(())
            }
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn flush(&mut self, port: &mut impl Write) -> io::Result<()> {
        match port.write(&self.outgoing) {
            Ok(n) => {
                self.outgoing.drain(..n);
                Ok(())
            }
            Err(error) if would_block(&error) => Ok(()),
            // The testbed is gone; the reading side reports this with its cause.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.outgoing.clear();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn receive(
        &mut self,
        machine: &mut Machine,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<Option<Outcome>, TestbedError> {
        let mut buffer = [0; 64 << 10];
        let n = match machine.port.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if would_block(&error) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(source) => return Err(TestbedError::System { what: "read from the testbed", source }),
        };
        if n == 0 {
            return Ok(Some(Outcome::Died(machine.last_words())));
        }
        self.incoming.extend_from_slice(&buffer[..n]);
        let written = TestbedError::system::<io::Error>;
        loop {
            match Frame::take_from(&mut self.incoming) {
                Ok(None) => return Ok(None),
                Ok(Some(Frame::Stdout(data))) => put(stdout, &data).map_err(written("write to stdout"))?,
                Ok(Some(Frame::Stderr(data))) => put(stderr, &data).map_err(written("write to stderr"))?,
                Ok(Some(Frame::Exit(code))) => return Ok(Some(Outcome::Exited(code))),
                Ok(Some(Frame::Failed(why))) => {
                    return Ok(Some(Outcome::Died(format!("{why}\n{}", machine.console_tail()))));
                }
                Ok(Some(Frame::Started | Frame::Stdin(_) | Frame::Resize(..))) => {}
                Err(error) => return Ok(Some(Outcome::Died(format!("{error}\n{}", machine.console_tail())))),
            }
        }
    }
}

fn put(out: &mut dyn Write, data: &[u8]) -> io::Result<()> {
    out.write_all(data)?;
    out.flush()
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Blocks the signals that end or resize a run, and reads them from a descriptor.
struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    fn block() -> nix::Result<Signals> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH].into_iter().collect();
        let before = SigSet::thread_get_mask()?;
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { fd, before })
    }

    fn take(&self) -> nix::Result<Option<Signal>> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        Signal::try_from(info.ssi_signo as i32).map(Some)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// Keeps the caller's terminal in raw mode.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if stdin is not a terminal.
    fn enter() -> Option<RawTerminal> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, Winsize);

/// Rows and columns of the caller's terminal; 24 by 80 without one.
#[expect(unsafe_code, reason = "no crate in the tree wraps this ioctl")]
pub(crate) fn terminal_size() -> (u16, u16) {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let stdin = io::stdin();
    // SAFETY: the descriptor is open and `size` is writable and outlives the call.
    let result = unsafe { get_window_size(stdin.as_raw_fd(), &mut size) };
    match result {
        Ok(_) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}
