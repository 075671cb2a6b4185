//! A device's interrupt: the status bits that the guest reads, and the line to its interrupt controller.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::irq::Interrupt;
use crate::warn_limited;

/// ISR bit: a queue has used buffers (VIRTIO 1.2, 4.2.2).
pub const ISR_QUEUE: u32 = 1;
/// ISR bit: the configuration changed, which includes DEVICE_NEEDS_RESET.
pub const ISR_CONFIG: u32 = 2;

/// A device's interrupt: the status bits, which the guest reads and clears, and the line.
pub struct DeviceInterrupt {
    isr: AtomicU32,
    needs_reset: AtomicU32,
    generation: AtomicU32,
    line: Box<dyn Interrupt>,
}

impl DeviceInterrupt {
    /// An interrupt over `line`, with no status bit set.
    pub fn new(line: Box<dyn Interrupt>) -> Self {
        Self { isr: AtomicU32::new(0), needs_reset: AtomicU32::new(0), generation: AtomicU32::new(0), line }
    }

    /// Interrupts the driver because a queue has used buffers.
    pub fn signal_queue(&self) {
        self.signal(ISR_QUEUE);
    }

    /// Interrupts the driver because configuration space changed.
    pub fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.signal(ISR_CONFIG);
    }

    /// Number of changes of configuration space so far, modulo 2^32 (VIRTIO 1.2, 2.5.1).
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Asks the driver for a reset, because it broke the protocol and the device stops (VIRTIO 1.2, 2.1.2).
    pub fn need_reset(&self) {
        self.needs_reset.store(1, Ordering::SeqCst);
        self.signal(ISR_CONFIG);
    }

    /// Whether [`Self::need_reset`] was called since the last [`Self::clear`].
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst) != 0
    }

    /// The status bits, for the guest to read.
    pub fn status(&self) -> u32 {
        self.isr.load(Ordering::SeqCst)
    }

    /// Clears `bits`, which the guest acknowledged.
    pub fn acknowledge(&self, bits: u32) {
        self.isr.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Resets everything but the generation, which only grows.
    pub fn clear(&self) {
        self.isr.store(0, Ordering::SeqCst);
        self.needs_reset.store(0, Ordering::SeqCst);
    }

    fn signal(&self, bits: u32) {
        self.isr.fetch_or(bits, Ordering::SeqCst);
        if let Err(error) = self.line.trigger() {
            warn_limited!("cannot raise the interrupt line of a device: {error}");
        }
    }
}
