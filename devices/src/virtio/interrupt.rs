//! A device's interrupt: the status bits that the guest reads, and the line to its interrupt controller.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::session::Session;
use crate::irq::Interrupt;
use crate::warn_limited;

/// ISR bit: a queue has used buffers (VIRTIO 1.2, 4.2.2).
pub const ISR_QUEUE: u32 = 1;
/// ISR bit: the configuration changed, which includes DEVICE_NEEDS_RESET.
pub const ISR_CONFIG: u32 = 2;

/// A device's interrupt: the status bits, which the guest reads and clears, and the line. Each session of a driver has a
/// view of its own, which has no effect when the session is over.
pub struct DeviceInterrupt {
    shared: Arc<Shared>,
    session: Session,
}

struct Shared {
    isr: AtomicU32,
    needs_reset: AtomicU32,
    generation: AtomicU32,
    delivery: Mutex<Delivery>,
    line: Box<dyn Interrupt>,
}

#[derive(Default)]
struct Delivery {
    /// The machine is paused.
    held: bool,
    /// ISR bits raised meanwhile.
    pending: u32,
}

impl DeviceInterrupt {
    /// An interrupt over `line`, with no status bit set.
    pub fn new(line: Box<dyn Interrupt>) -> Self {
        let shared = Shared {
            isr: AtomicU32::new(0),
            needs_reset: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            delivery: Mutex::default(),
            line,
        };
        Self { shared: Arc::new(shared), session: Session::new() }
    }

    /// The same interrupt for one session.
    #[must_use]
    pub fn for_session(&self, session: Session) -> Self {
        Self { shared: self.shared.clone(), session }
    }

    /// Interrupts the driver because a queue has used buffers.
    pub fn signal_queue(&self) {
        self.signal(ISR_QUEUE);
    }

    /// Interrupts the driver because configuration space changed.
    pub fn signal_config(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.signal(ISR_CONFIG);
    }

    /// Number of changes of configuration space so far, modulo 2^32 (VIRTIO 1.2, 2.5.1).
    pub fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    /// Asks the driver for a reset, because it broke the protocol and the device stops (VIRTIO 1.2, 2.1.2).
    pub fn need_reset(&self) {
        if let Some(_live) = self.session.enter() {
            self.shared.needs_reset.store(1, Ordering::SeqCst);
            self.shared.signal(ISR_CONFIG);
        }
    }

    /// Whether [`Self::need_reset`] was called since the last [`Self::clear`].
    pub fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::SeqCst) != 0
    }

    /// The status bits, for the guest to read.
    pub fn status(&self) -> u32 {
        self.shared.isr.load(Ordering::SeqCst)
    }

    /// Clears `bits`, which the guest acknowledged.
    pub fn acknowledge(&self, bits: u32) {
        self.shared.isr.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Resets everything but the generation, which only grows.
    pub fn clear(&self) {
        self.shared.delivery().pending = 0;
        self.shared.isr.store(0, Ordering::SeqCst);
        self.shared.needs_reset.store(0, Ordering::SeqCst);
    }

    /// Holds interrupts back until [`Self::release`], because the machine is paused: the host may ask for a change of
    /// configuration at any time. After it returns, the line and the status bits do not change.
    pub fn hold(&self) {
        self.shared.delivery().held = true;
    }

    /// Raises the interrupts that were held back.
    pub fn release(&self) {
        let mut delivery = self.shared.delivery();
        delivery.held = false;
        let pending = std::mem::take(&mut delivery.pending);
        if pending != 0 {
            self.shared.raise(pending);
        }
    }

    fn signal(&self, bits: u32) {
        if let Some(_live) = self.session.enter() {
            self.shared.signal(bits);
        }
    }
}

impl Shared {
    fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, bits: u32) {
        let mut delivery = self.delivery();
        if delivery.held {
            delivery.pending |= bits;
        } else {
            self.raise(bits);
        }
    }

    /// The caller holds the lock of `delivery`, so that nothing is raised after [`DeviceInterrupt::hold`].
    fn raise(&self, bits: u32) {
        self.isr.fetch_or(bits, Ordering::SeqCst);
        if let Err(error) = self.line.trigger() {
            warn_limited!("cannot raise the interrupt line of a device: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::CountingInterrupt;

    struct Line(Arc<CountingInterrupt>);

    impl Interrupt for Line {
        fn trigger(&self) -> std::io::Result<()> {
            self.0.trigger()
        }
    }

    #[test]
    fn interrupts_of_a_paused_machine_come_when_it_resumes() {
        let count = Arc::new(CountingInterrupt::default());
        let root = DeviceInterrupt::new(Box::new(Line(count.clone())));
        let interrupt = root.for_session(Session::new());
        interrupt.signal_queue();
        root.acknowledge(ISR_QUEUE);
        root.hold();
        interrupt.signal_config();
        interrupt.signal_queue();
        interrupt.signal_queue();
        assert_eq!((count.count(), root.status(), root.generation()), (1, 0, 1));
        root.release();
        assert_eq!((count.count(), root.status()), (2, ISR_QUEUE | ISR_CONFIG));
        root.release();
        interrupt.signal_queue();
        assert_eq!(count.count(), 3);
    }
}
