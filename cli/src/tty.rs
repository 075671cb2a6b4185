//! The caller's terminal: its size, and raw mode that is left on every way out: return, panic, fatal signal.
//!
//! What the terminal was is kept in statics, since panic hook and signal handlers have nothing else to go by. A
//! SIGKILL can't be caught; a shell puts its terminal right by itself then.
#![allow(unsafe_code, reason = "tcsetattr and sigaction; a signal handler may call nothing that is safe to call")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use hutch_agent_proto::WindowSize;
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};

/// Size where there is no terminal to ask.
const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };
/// Signals that end the process from within.
const FATAL: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGSYS];

/// The terminal's descriptor, what it was, and what it is in raw mode. Set once, before `RAW`.
static TERMINAL: OnceLock<(i32, libc::termios, libc::termios)> = OnceLock::new();
/// Whether the terminal is in raw mode by us.
static RAW: AtomicBool = AtomicBool::new(false);

/// Size of the caller's terminal.
pub fn size() -> WindowSize {
    let stdin = io::stdin();
    let stdout = io::stdout();
    let size = terminal_size::terminal_size_of(&stdin).or_else(|| terminal_size::terminal_size_of(&stdout));
    size.map_or(DEFAULT_SIZE, |(cols, rows)| WindowSize { rows: rows.0, cols: cols.0 })
}

/// Puts the terminal at stdin into raw mode: every key goes to the guest, whose terminal does the echoing. [`leave`]
/// ends it.
///
/// # Errors
/// Those of tcgetattr and tcsetattr; the terminal is then as it was.
pub fn enter_raw() -> io::Result<()> {
    make_raw(libc::STDIN_FILENO)
}

fn make_raw(fd: i32) -> io::Result<()> {
    let mut cooked = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to room for the structure that is written.
    if unsafe { libc::tcgetattr(fd, cooked.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded, so it has filled the structure.
    let cooked = unsafe { cooked.assume_init() };
    let mut raw = cooked;
    // SAFETY: cfmakeraw changes the structure it is given and nothing else.
    unsafe { libc::cfmakeraw(&mut raw) };
    TERMINAL.get_or_init(|| (fd, cooked, raw));
    restore_on_the_way_out()?;
    set(fd, &raw)?;
    RAW.store(true, Ordering::SeqCst);
    Ok(())
}

/// Raw mode again, if it was to be: after the process was stopped and continued.
pub fn again() {
    if let (true, Some((fd, _, raw))) = (RAW.load(Ordering::SeqCst), TERMINAL.get()) {
        if let Err(error) = set(*fd, raw) {
            log::warn!("the terminal is not in raw mode any more: {error}");
        }
    }
}

/// Back to what it was. Async-signal-safe: two atomic loads and tcsetattr.
pub fn leave() {
    if RAW.swap(false, Ordering::SeqCst) {
        if let Some((fd, cooked, _)) = TERMINAL.get() {
            // A terminal that has gone needs no restoring.
            let _ = set(*fd, cooked);
        }
    }
}

fn set(fd: i32, mode: &libc::termios) -> io::Result<()> {
    // SAFETY: `mode` is a whole structure that tcsetattr only reads; a bad descriptor is an error.
    match unsafe { libc::tcsetattr(fd, libc::TCSANOW, mode) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn restore_on_the_way_out() -> io::Result<()> {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        leave();
        print(info);
    }));
    // Once only: then the default action follows, as the signal comes again on return.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::Handler(on_fatal_signal), flags, SigSet::empty());
    for signal in FATAL {
        // SAFETY: the handler calls only what is async-signal-safe (see `leave`).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn on_fatal_signal(signal: libc::c_int) {
    leave();
    // SAFETY: raise is async-signal-safe. The handler has been reset, so this ends the process even if the signal was
    // sent from outside and would not come again.
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
        make_raw(slave.as_raw_fd()).unwrap();
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
