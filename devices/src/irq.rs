//! Interrupt lines from devices to the guest's interrupt controller.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// An interrupt line: an irqfd in the product, a counter in tests.
pub trait Interrupt: Send + Sync {
    /// Raises an edge. Never blocks. After an error the guest does not hear of this device any more.
    fn trigger(&self) -> io::Result<()>;
}

impl Interrupt for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}

/// Counts triggers, for tests.
#[derive(Debug, Default)]
pub struct CountingInterrupt(AtomicU64);

impl CountingInterrupt {
    /// The number of triggers so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Interrupt for CountingInterrupt {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
