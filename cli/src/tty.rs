//! The caller's terminal: its size, and a raw mode that ends on return, on panic and on a fatal signal.
//!
//! Statics keep the terminal's former mode, because panic hooks and signal handlers have no other access to it. The thread that
//! has set raw mode ends it, also for the machine's threads, whose filters forbid that ([`last_act`]). Nothing can catch
//! SIGKILL; the shell resets its terminal by itself then.
#![expect(unsafe_code, reason = "tcsetattr(3) and sigaction(2); a signal handler may not use the safe wrappers")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use hutch_agent_proto::WindowSize;
use hutch_vmm::confine::seccomp::last_act;
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};

/// Size if there is no terminal.
const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };
/// Signals that a fault of this process raises. [`last_act`] handles SIGSYS.
const FATAL: [Signal; 5] = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT];

/// The terminal's descriptor, its former mode and its raw mode. Set once, before `RAW`.
static TERMINAL: OnceLock<(i32, libc::termios, libc::termios)> = OnceLock::new();
/// Whether hutch has put the terminal into raw mode.
static RAW: AtomicBool = AtomicBool::new(false);

/// Size of the terminal at stdin, else at stdout.
pub fn size() -> WindowSize {
    let stdin = io::stdin();
    let stdout = io::stdout();
    let size = terminal_size::terminal_size_of(&stdin).or_else(|| terminal_size::terminal_size_of(&stdout));
    size.map_or(DEFAULT_SIZE, |(cols, rows)| WindowSize { rows: rows.0, cols: cols.0 })
}

/// Notes the mode of the terminal at stdin, for [`enter_raw`]. Called on a thread that lives as long as the process, before
/// that confines itself.
pub fn prepare_raw() -> io::Result<()> {
    prepare(libc::STDIN_FILENO)
}

/// Puts the terminal into raw mode: every key goes to the guest, whose terminal echoes it. [`leave`] ends raw mode. On an
/// error the terminal stays unchanged, as it does without [`prepare_raw`].
pub fn enter_raw() -> io::Result<()> {
    let Some((fd, _, raw)) = TERMINAL.get() else { return Ok(()) };
    // Before the mode changes: a violation in between would leave it.
    RAW.store(true, Ordering::SeqCst);
    set(*fd, raw).inspect_err(|_| RAW.store(false, Ordering::SeqCst))
}

fn prepare(fd: i32) -> io::Result<()> {
    let mut cooked = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is valid for the structure that tcgetattr writes.
    if unsafe { libc::tcgetattr(fd, cooked.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded, so it has filled the structure.
    let cooked = unsafe { cooked.assume_init() };
    let mut raw = cooked;
    // SAFETY: cfmakeraw changes only the structure behind the pointer.
    unsafe { libc::cfmakeraw(&mut raw) };
    TERMINAL.get_or_init(|| (fd, cooked, raw));
    last_act::set(leave)?;
    restore_on_panic_and_fault()
}

/// Restores raw mode after the process was stopped and continued, if hutch had set it.
pub fn again() {
    if let (true, Some((fd, _, raw))) = (RAW.load(Ordering::SeqCst), TERMINAL.get())
        && let Err(error) = set(*fd, raw)
    {
        log::warn!("cannot put the terminal back into raw mode: {error}");
    }
}

/// Restores the terminal's former mode. Async-signal-safe: two atomic loads and tcsetattr.
pub fn leave() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some((fd, cooked, _)) = TERMINAL.get()
    {
        // A terminal that was closed needs no restoring.
        let _ = set(*fd, cooked);
    }
}

fn set(fd: i32, mode: &libc::termios) -> io::Result<()> {
    // SAFETY: `mode` is a whole structure that tcsetattr only reads; a bad descriptor is an error.
    match unsafe { libc::tcsetattr(fd, libc::TCSANOW, mode) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn restore_on_panic_and_fault() -> io::Result<()> {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        last_act::perform();
        print(info);
    }));
    // The handler runs once: on return the fault occurs again, and its default action follows.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::Handler(on_fatal_signal), flags, SigSet::empty());
    for signal in FATAL {
        // SAFETY: the handler calls only async-signal-safe functions.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn on_fatal_signal(signal: libc::c_int) {
    last_act::perform();
    // SAFETY: raise is async-signal-safe. The handler has been reset, so this ends the process even if another process
    // sent the signal and no fault would raise it again.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, OwnedFd};

    #[test]
    fn raw_mode_is_left_at_the_end_and_entered_again_after_a_stop() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave: OwnedFd = pty.slave;
        let flags = || nix::sys::termios::tcgetattr(&slave).unwrap().local_flags;
        let before = flags();
        prepare(slave.as_raw_fd()).unwrap();
        assert_eq!(flags(), before);
        enter_raw().unwrap();
        assert_ne!(flags(), before);
        let cooked = TERMINAL.get().unwrap().1;
        set(slave.as_raw_fd(), &cooked).unwrap();
        again();
        assert_ne!(flags(), before);
        leave();
        assert_eq!(flags(), before);
        again();
        assert_eq!(flags(), before);
    }
}
