//! Runs `hutch` on a pseudoterminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus};
use std::time::Instant;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::pty::Winsize;

use crate::{Hutch, HANG_TIMEOUT};

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);

/// The test's end of the terminal.
pub struct Terminal {
    master: File,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Starts `hutch` with a new controlling terminal of this size.
    #[expect(unsafe_code, reason = "code between fork and exec")]
    pub fn start(hutch: Hutch, rows: u16, cols: u16) -> Terminal {
        let pty = nix::pty::openpty(&size(rows, cols), None).expect("a terminal");
        // hutch must not inherit the master: that would keep the terminal open after the test closes its end.
        let flag = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        nix::fcntl::fcntl(&pty.master, flag).expect("a flag of the terminal");
        let mut command = hutch.into_command();
        let end = || pty.slave.try_clone().expect("a copy of the terminal");
        command.stdin(end()).stdout(end()).stderr(end());
        let between = || {
            nix::unistd::setsid()?;
            // SAFETY: TIOCSCTTY takes a plain number; stdin is the terminal by now.
            unsafe { set_controlling_terminal(0, 0) }?;
            Ok(())
        };
        // SAFETY: only system calls, no allocation and no locks.
        unsafe { command.pre_exec(between) };
        let child = command.spawn().expect("hutch starts");
        Terminal { master: pty.master.into(), child, seen: String::new() }
    }

    /// Process id of `hutch`.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether the terminal hands every key on as it is.
    pub fn is_raw(&self) -> bool {
        let mode = nix::sys::termios::tcgetattr(&self.master).expect("the terminal's mode");
        !mode.local_flags.contains(nix::sys::termios::LocalFlags::ICANON)
    }

    /// Waits until `hutch`, which ends by itself, has ended. The terminal stays.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("hutch can be waited for")
    }

    /// Types `text` on the terminal.
    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes input");
    }

    /// Waits until `text` appears, and discards everything up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + HANG_TIMEOUT;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let more = self.read_some(deadline);
            assert!(more, "{text:?} did not appear on the terminal, only: {:?}", self.seen);
        }
    }

    /// Changes the size of the window.
    #[expect(unsafe_code, reason = "no crate in the tree wraps this ioctl")]
    pub fn resize(&mut self, rows: u16, cols: u16) {
        // SAFETY: the descriptor is open and the size outlives the call.
        unsafe { set_window_size(self.master.as_raw_fd(), &size(rows, cols)) }.expect("a new window size");
    }

    /// Waits for the end; returns the status and all output since the last `expect`.
    pub fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + HANG_TIMEOUT;
        while self.read_some(deadline) {}
        assert!(
            Instant::now() < deadline,
            "hutch is not over after {HANG_TIMEOUT:?}; on the terminal: {:?}",
            self.seen
        );
        let status = self.child.wait().expect("hutch can be waited for");
        (status, std::mem::take(&mut self.seen))
    }

    /// Reads available output; `false` if the terminal is closed or the deadline has passed.
    fn read_some(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        if ready != Ok(1) {
            return ready == Err(nix::Error::EINTR);
        }
        let mut buffer = [0; 4096];
        // After its last user is gone, a terminal returns EIO.
        let n = self.master.read(&mut buffer).unwrap_or(0);
        self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        n > 0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}
