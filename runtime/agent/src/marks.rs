//! Boot marks: single bytes written to I/O port 0xE9, which the machine monitor stamps with its clock.
//!
//! `I` init's first instruction, `A` agent ready, `C` first command executed, `X` shutting down. A monitor without
//! that port ignores them; a kernel that refuses port access makes them no-ops. Called by PID 1 only, never in tests.
#![expect(unsafe_code, reason = "port access: one system call and one instruction")]

use std::sync::atomic::{AtomicBool, Ordering};

/// The port.
const PORT: u16 = 0xE9;

/// Whether this process is PID 1 of a guest and may touch ports.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// Allows marks in this process.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Access to the port for the calling thread. Dropping it gives the access up, so that no program inherits it.
pub struct Port {
    open: bool,
    /// The kernel grants ports to threads.
    _this_thread: std::marker::PhantomData<*const ()>,
}

impl Port {
    /// Asks the kernel for the port. If the kernel refuses, every mark is a no-op.
    pub fn open() -> Port {
        let open = ENABLED.load(Ordering::Relaxed) && permit(true);
        Port { open, _this_thread: std::marker::PhantomData }
    }

    /// Writes one mark.
    pub fn mark(&self, mark: u8) {
        if self.open {
            // SAFETY: `permit(true)` succeeded on this thread (the type is not Send), so the instruction does not
            // fault; it touches neither memory nor the stack.
            unsafe {
                std::arch::asm!("out dx, al", in("dx") PORT, in("al") mark, options(nomem, nostack, preserves_flags));
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.open {
            permit(false);
        }
    }
}

/// Writes one mark; opens the port for that only.
pub fn mark(mark: u8) {
    Port::open().mark(mark);
}

fn permit(on: bool) -> bool {
    // SAFETY: changes the calling thread's permission for one port; no pointers.
    unsafe { libc::ioperm(PORT.into(), 1, on.into()) == 0 }
}
