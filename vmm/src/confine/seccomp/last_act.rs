//! The last act of a process that a forbidden call or a fault ends: what its user needs back, such as a terminal.
//!
//! ```text
//!   any thread: forbidden call or fault ── SIGSYS by tgkill(2) ──▶ the thread that has set the act: does it ── done ──▶ goes on
//! ```
//!
//! The filter of the thread that ends the process may not allow the act, so the thread that has set it does it. A thread
//! waits for that, but not for long: an attacker may hold the other one.
#![expect(unsafe_code, reason = "a signal handler may not use the safe wrappers")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

/// Steps in which a thread waits for the act, of a millisecond each.
const STEPS: u32 = 1000;
const STEP: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// The act, and the thread that does it. Set once.
static ACT: OnceLock<(fn(), libc::pid_t)> = OnceLock::new();
static WANTED: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);

/// Lets the calling thread do `act` when a forbidden call ends this process, or [`perform`] is called. The thread must live
/// as long as the process. `act` must be async-signal-safe, and may be done more than once. Only the first one is kept.
///
/// # Errors
/// The kernel refused the signal's handler.
pub fn set(act: fn()) -> io::Result<()> {
    super::prepare_process()?;
    // SAFETY: takes nothing, and cannot fail.
    ACT.get_or_init(|| (act, unsafe { libc::gettid() }));
    Ok(())
}

/// Has the act done, if there is one, and returns after that, at the latest in about a second. For handlers of signals:
/// async-signal-safe, and permitted to every thread of a confined process.
pub fn perform() {
    let Some((act, keeper)) = ACT.get() else { return };
    // SAFETY: these take nothing, and cannot fail.
    let (process, here) = unsafe { (libc::getpid(), libc::gettid()) };
    if here == *keeper {
        return act();
    }
    WANTED.store(true, Ordering::SeqCst);
    // SAFETY: takes numbers.
    if unsafe { libc::syscall(libc::SYS_tgkill, process, *keeper, libc::SIGSYS) } != 0 {
        return;
    }
    for _ in 0..STEPS {
        if DONE.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the kernel reads the structure.
        unsafe { libc::nanosleep(&STEP, std::ptr::null_mut()) };
    }
}

/// Does the act for another thread that waits for it. Called in the handler of SIGSYS; `false` if no thread waits.
pub(super) fn answer() -> bool {
    if !WANTED.load(Ordering::SeqCst) {
        return false;
    }
    if let Some((act, _)) = ACT.get() {
        act();
    }
    DONE.store(true, Ordering::SeqCst);
    true
}
