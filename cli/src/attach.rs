//! Standing behind a process that has this program's standard streams: signals and window sizes of the caller go to its
//! shim, and the caller's terminal is raw meanwhile.

use std::io;

use hutch_runtime::oneshot::RunEvent;
use hutch_runtime::process::ProcessIdentity;
use rustix::process::Signal;

use crate::signals::Signals;
use crate::tty;

/// So many requests to end, and the process is killed, whatever it thinks of them.
const INSISTENCE: u32 = 3;

/// The caller's signals, held back until there is somebody to get them.
pub struct Attachment {
    signals: Signals,
    terminal: bool,
    raw: bool,
}

impl Attachment {
    /// Holds the signals back. To be called before any other thread exists. `terminal`: the process has one;
    /// `stdin`: it reads ours.
    ///
    /// # Errors
    /// Those of pthread_sigmask(3).
    pub fn prepare(terminal: bool, stdin: bool) -> io::Result<Attachment> {
        Ok(Attachment { signals: Signals::block()?, terminal, raw: terminal && stdin })
    }

    /// Passes on what comes from now on, to the shim `pid`; `kill` is for a caller that insists. The terminal is
    /// raw until [`tty::leave`].
    ///
    /// # Errors
    /// No descriptor, or no thread.
    pub fn follow(self, pid: i32, kill: impl Fn() + Send + 'static) -> io::Result<()> {
        let shim = match ProcessIdentity::of(pid) {
            Ok(shim) => shim,
            // It has ended already, or there is none.
            Err(_) => ProcessIdentity::NONE,
        };
        let mut asked = 0;
        self.signals.forward(self.terminal, move |event| {
            let number = match event {
                RunEvent::Signal { number, .. } => number,
                RunEvent::Resize(_) => libc::SIGWINCH,
                _ => return,
            };
            if matches!(number, libc::SIGINT | libc::SIGTERM) {
                asked += 1;
                if asked >= INSISTENCE {
                    return kill();
                }
            }
            if let Some(signal) = Signal::from_named_raw(number) {
                if let Err(error) = shim.signal(signal) {
                    log::warn!("signal {number} is not passed on: {error}");
                }
            }
        })?;
        if self.raw {
            if let Err(error) = tty::enter_raw() {
                log::warn!("the terminal stays as it is: {error}");
            }
        }
        Ok(())
    }
}
