//! Signals that a shim gets and passes on: callers signal the PID they see by plain kill(2).

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// The signals that are passed on. SIGKILL cannot be: it ends the shim, and the next status call kills the process.
const PASSED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// The signals that are passed on. A shim is born with them blocked, so that none is lost or deadly before it can
/// pass it on.
pub(super) fn passed() -> SigSet {
    PASSED.into_iter().collect()
}

/// Hands each signal that comes to `pass`, on a thread of its own, for as long as the process lives.
pub(super) fn pass_on(set: SigSet, pass: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("signals".into());
    thread
        .spawn(move || {
            while let Ok(signal) = set.wait() {
                pass(signal);
            }
        })
        .map(drop)
}
