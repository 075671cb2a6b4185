//! Attaches this program to a guest process that uses its standard streams: forwards signals and window sizes to the
//! process's shim, and keeps the caller's terminal in raw mode meanwhile.

use std::io;

use hutch_runtime::oneshot::RunEvent;
use hutch_runtime::process::ProcessIdentity;
use nix::sys::signal::Signal;

use crate::signals::Signals;
use crate::tty;

/// Number of SIGINT and SIGTERM signals after which hutch kills the process.
const KILL_AFTER_REQUESTS: u32 = 3;

/// The caller's signals, blocked until the shim exists that receives them.
pub struct Attachment {
    signals: Signals,
    terminal: bool,
    raw: bool,
}

impl Attachment {
    /// Blocks the signals. Call this before any other thread exists. `terminal`: the process has a terminal; `stdin`:
    /// the process reads this program's stdin.
    pub fn prepare(terminal: bool, stdin: bool) -> io::Result<Attachment> {
        Ok(Attachment { signals: Signals::block()?, terminal, raw: terminal && stdin })
    }

    /// Forwards signals to the shim `pid` from now on; calls `kill` if the caller asks several times for the end. The
    /// terminal is in raw mode until [`tty::leave`].
    pub fn follow(self, pid: i32, kill: impl Fn() + Send + 'static) -> io::Result<()> {
        let shim = match ProcessIdentity::of(pid) {
            Ok(shim) => shim,
            // The shim has ended already, or never existed.
            Err(_) => ProcessIdentity::NONE,
        };
        let mut requests = 0;
        self.signals.forward(self.terminal, move |event| {
            let number = match event {
                RunEvent::Signal { number, .. } => number,
                RunEvent::Resize(_) => libc::SIGWINCH,
                _ => return,
            };
            if matches!(number, libc::SIGINT | libc::SIGTERM) {
                requests += 1;
                if requests >= KILL_AFTER_REQUESTS {
                    return kill();
                }
            }
            if let Ok(signal) = Signal::try_from(number)
                && let Err(error) = shim.signal(signal)
            {
                log::warn!("cannot forward signal {number}: {error}");
            }
        })?;
        if self.raw
            && let Err(error) = tty::prepare_raw().and_then(|()| tty::enter_raw())
        {
            log::warn!("cannot put the terminal into raw mode: {error}");
        }
        Ok(())
    }
}
