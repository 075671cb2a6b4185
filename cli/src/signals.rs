//! Signals of the caller become events of the run. One thread reads them from a signalfd.

use std::io;
use std::thread;

use hutch_runtime::oneshot::RunEvent;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::tty;

/// What is passed on to the command. The stop signals keep their meaning for hutch: they hold the whole guest.
const PASSED_ON: [Signal; 9] = [
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
/// `si_code` of signals that the kernel sends, as a terminal does at Ctrl-C.
const SI_KERNEL: i32 = 0x80;

/// The signals, held back from all threads.
pub struct Signals(SigSet);

impl Signals {
    /// Holds them back from this thread and those it will start. To be called before any other thread exists.
    ///
    /// # Errors
    /// Those of pthread_sigmask(3).
    pub fn block() -> io::Result<Signals> {
        let mut set = SigSet::empty();
        PASSED_ON.iter().for_each(|signal| set.add(*signal));
        set.thread_block()?;
        Ok(Signals(set))
    }

    /// Starts the thread that hands them to `send`. It lives as long as the process. With `terminal`, window sizes too.
    ///
    /// # Errors
    /// No descriptor, or no thread.
    pub fn forward(self, terminal: bool, mut send: impl FnMut(RunEvent) + Send + 'static) -> io::Result<()> {
        let signals = SignalFd::with_flags(&self.0, SfdFlags::SFD_CLOEXEC)?;
        let run = move || loop {
            match signals.read_signal() {
                Ok(Some(info)) => {
                    if let Some(event) = event(info.ssi_signo as i32, info.ssi_code, terminal) {
                        send(event);
                    }
                }
                Ok(None) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    log::error!("signals are no longer passed on: {errno}");
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
        // A shell takes its terminal back while we are stopped.
        tty::again();
    }
    Some(RunEvent::Signal { number, whole_job: code == SI_KERNEL })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_of_the_terminal_are_for_the_whole_job() {
        for (code, expected) in [(SI_KERNEL, true), (0, false), (-6, false)] {
            let event = event(Signal::SIGINT as i32, code, false);
            assert!(matches!(event, Some(RunEvent::Signal { number: 2, whole_job }) if whole_job == expected));
        }
        assert!(event(Signal::SIGWINCH as i32, SI_KERNEL, false).is_none());
        assert!(matches!(event(Signal::SIGWINCH as i32, SI_KERNEL, true), Some(RunEvent::Resize(_))));
    }
}
