//! Forwards the signals that hutch receives to the command in the guest. One thread reads them from a signalfd.

use std::io;
use std::thread;

use hutch_runtime::oneshot::RunEvent;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::tty;

/// The signals that hutch forwards. SIGTSTP and the other stop signals stop hutch itself, and so the whole guest.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];
/// `si_code` of signals from the kernel; a terminal sends such a signal at Ctrl-C.
const SI_KERNEL: i32 = 0x80;

/// The forwarded signals, blocked in all threads, and the descriptor that reads them.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals in this thread and in those that it starts later. Call this before any other thread exists.
    pub fn block() -> io::Result<Signals> {
        let mut set = SigSet::empty();
        FORWARDED.iter().for_each(|signal| set.add(*signal));
        set.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Starts the thread that passes the signals to `send`. It lives as long as the process. With `terminal`, it passes
    /// new window sizes too.
    pub fn forward(self, terminal: bool, mut send: impl FnMut(RunEvent) + Send + 'static) -> io::Result<()> {
        let Signals(signals) = self;
        let run = move || loop {
            match signals.read_signal() {
                Ok(Some(info)) => {
                    if let Some(event) = event(info.ssi_signo as i32, info.ssi_code, terminal) {
                        send(event);
                    }
                }
                Ok(None) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    log::error!("signals are no longer forwarded: {errno}");
                    return;
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(run).map(drop)
    }
}

fn event(number: i32, code: i32, terminal: bool) -> Option<RunEvent> {
    if number == Signal::SIGWINCH as i32 {
        return terminal.then(tty::size).map(RunEvent::Resize);
    }
    if number == Signal::SIGCONT as i32 && terminal {
        // The shell has changed the terminal while hutch was stopped.
        tty::again();
    }
    Some(RunEvent::Signal { number, whole_job: code == SI_KERNEL })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_from_the_terminal_go_to_the_whole_job() {
        for (code, expected) in [(SI_KERNEL, true), (0, false), (-6, false)] {
            let event = event(Signal::SIGINT as i32, code, false);
            assert!(matches!(event, Some(RunEvent::Signal { number: 2, whole_job }) if whole_job == expected));
        }
        assert!(event(Signal::SIGWINCH as i32, SI_KERNEL, false).is_none());
        assert!(matches!(event(Signal::SIGWINCH as i32, SI_KERNEL, true), Some(RunEvent::Resize(_))));
    }
}
