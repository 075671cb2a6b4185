//! The device's side of a queue: it takes requests, gives completions back, and interrupts the driver only when the
//! driver wants that (VIRTIO 1.2, 2.7).
//!
//! Device workers use this, each queue on one thread.

use std::num::Wrapping;
use std::sync::atomic::{fence, Ordering};
use std::time::{Duration, Instant};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, ChainError};
use super::interrupt::DeviceInterrupt;
use super::session::DeviceSession;
use crate::ram::{GuestRam, Pins};
use crate::warn_limited;
use crate::worker::Next;

/// Requests that a worker serves before it checks its other sources.
pub const BATCH: u32 = 64;
/// Longest time that a completion waits for others before the driver is interrupted, while more requests are served.
const SIGNAL_INTERVAL: Duration = Duration::from_micros(200);

/// Bytes before the entries of either ring: flags and idx.
const RING_HEADER: u64 = 4;
/// Bytes of an entry in the available ring.
const AVAIL_ENTRY: u64 = 2;
/// Bytes of an entry in the used ring.
const USED_ENTRY: u64 = 8;

/// The driver broke the protocol of the rings. The device asks for a reset and does not touch the queue any more.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The rings are invalid.
    #[error("{operation}: {source}")]
    Ring {
        /// The part of the queue that was accessed, such as "used ring".
        operation: &'static str,
        /// The error of the access.
        source: virtio_queue::Error,
    },
    /// The descriptors of a request are invalid.
    #[error("request {head}: {source}")]
    Chain {
        /// The chain's first descriptor.
        head: u16,
        /// The error in the chain.
        source: ChainError,
    },
}

impl QueueError {
    fn ring(operation: &'static str) -> impl Fn(virtio_queue::Error) -> Self {
        move |source| Self::Ring { operation, source }
    }

    fn memory(operation: &'static str) -> impl Fn(vm_memory::GuestMemoryError) -> Self {
        move |error| Self::Ring { operation, source: virtio_queue::Error::GuestMemory(error) }
    }
}

/// Stops a worker because its driver has broken the protocol: logs the error, asks for a reset and retires.
pub fn retire(name: &str, interrupt: &DeviceInterrupt, error: &QueueError) -> Next {
    warn_limited!("{name}: the guest driver broke the protocol, the device stops until it is reset: {error}");
    interrupt.need_reset();
    Next::Retire
}

/// The device's side of a queue.
pub struct DeviceQueue {
    /// The queue, which the driver has made ready and the transport has checked.
    pub queue: Queue,
    /// Readable when the driver has notified this queue: an ioeventfd, non-blocking.
    pub notify: EventFd,
    /// Index of the used ring when the device last considered an interrupt.
    signalled: Wrapping<u16>,
    /// Keeps the rings plugged in.
    _pins: Pins,
    session: DeviceSession,
}

impl DeviceQueue {
    /// `queue` has been set up by the driver, whose notifications come through `notify`.
    pub fn new(queue: Queue, notify: EventFd) -> Self {
        let signalled = Wrapping(queue.next_used());
        Self { queue, notify, signalled, session: DeviceSession::new(), _pins: Pins::new() }
    }

    /// The same queue, which keeps its rings in `pins` plugged in.
    #[must_use]
    pub fn pinned(self, pins: Pins) -> Self {
        Self { _pins: pins, ..self }
    }

    /// The same queue for one session of its driver. When the session is over, the queue is empty, and nothing is
    /// written to its rings.
    #[must_use]
    pub fn in_session(self, session: DeviceSession) -> Self {
        Self { session, ..self }
    }

    /// Whether the session is over: the rings belong to another driver.
    pub fn is_over(&self) -> bool {
        self.session.is_over()
    }

    /// Takes the driver's notification if there is one.
    pub fn drain_notify(&self) {
        // The counter may be empty: an event can be stale.
        drop(self.notify.read());
    }

    /// Makes `notify` readable, so that a worker that stopped after a full batch comes back.
    pub fn notify_self(&self) {
        if let Err(error) = self.notify.write(1) {
            // Only a full counter refuses a write, and a full counter is readable too.
            log::debug!("notification of a queue by its device: {error}");
        }
    }

    /// Takes the next request. An error means that the driver broke the protocol.
    pub fn pop(&mut self, mem: &GuestRam) -> Result<Option<Chain>, QueueError> {
        self.pop_in(&**mem, mem)
    }

    /// Does [`Self::pop`] with rings in `rings`, which is the same memory.
    fn pop_in(&mut self, rings: &impl GuestMemory, mem: &GuestRam) -> Result<Option<Chain>, QueueError> {
        if self.is_over() {
            return Ok(None);
        }
        match mem.pluggable() {
            None => self.pop_from(rings, mem),
            // An indirect descriptor table lies anywhere.
            Some(_) => self.pop_from(&mem.view(), mem),
        }
    }

    fn pop_from(&mut self, rings: &impl GuestMemory, mem: &GuestRam) -> Result<Option<Chain>, QueueError> {
        let next = self.queue.iter(rings).map_err(QueueError::ring("available ring"))?.next();
        let Some(chain) = next else { return Ok(None) };
        let head = chain.head_index();
        Chain::collect(mem, chain).map(Some).map_err(|source| QueueError::Chain { head, source })
    }

    /// Puts the request that `pop` returned last back to the front of the queue.
    pub fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a request back with the number of bytes written from the start of its writable buffers.
    ///
    /// # Errors
    /// The queue has no descriptor `head`, or the used ring is outside guest memory.
    pub fn complete(&mut self, mem: &GuestMemoryMmap<()>, head: u16, written: u32) -> Result<(), QueueError> {
        self.complete_together(mem, &[(head, written)])
    }

    /// Gives several requests back at once: the driver sees all of them or none. For the buffers of one frame.
    pub fn complete_together(&mut self, mem: &GuestMemoryMmap<()>, done: &[(u16, u32)]) -> Result<(), QueueError> {
        self.complete_in(mem, done)
    }

    fn complete_in(&mut self, mem: &impl GuestMemory, done: &[(u16, u32)]) -> Result<(), QueueError> {
        const OPERATION: &str = "used ring";
        let Some(_live) = self.session.enter() else { return Ok(()) };
        let size = self.queue.size();
        let mut next = Wrapping(self.queue.next_used());
        for &(head, written) in done {
            if head >= size {
                let source = virtio_queue::Error::InvalidDescriptorIndex;
                return Err(QueueError::Ring { operation: OPERATION, source });
            }
            // A queue's size is a power of two and never 0.
            let slot = u64::from(next.0 & (size - 1));
            let addr = self.address(self.queue.used_ring(), RING_HEADER + slot * USED_ENTRY)?;
            // Two little-endian words: the head, then the length.
            let entry = u64::from(written) << 32 | u64::from(head);
            mem.write_obj(entry.to_le(), addr).map_err(QueueError::memory(OPERATION))?;
            next += 1;
        }
        // 2.7.8.2: entries before the index.
        let addr = self.address(self.queue.used_ring(), 2)?;
        mem.store(next.0.to_le(), addr, Ordering::Release).map_err(QueueError::memory(OPERATION))?;
        self.queue.set_next_used(next.0);
        Ok(())
    }

    /// Interrupts the driver if requests were completed since the last call and the driver wants an interrupt for them
    /// (2.7.7, 2.7.10).
    pub fn signal(&mut self, mem: &GuestMemoryMmap<()>, interrupt: &DeviceInterrupt) -> Result<(), QueueError> {
        self.signal_in(mem, interrupt)
    }

    fn signal_in(&mut self, mem: &impl GuestMemory, interrupt: &DeviceInterrupt) -> Result<(), QueueError> {
        if self.wants_signal(mem)? {
            interrupt.signal_queue();
        }
        Ok(())
    }

    fn wants_signal(&mut self, mem: &impl GuestMemory) -> Result<bool, QueueError> {
        const OPERATION: &str = "interrupt suppression";
        let new = Wrapping(self.queue.next_used());
        let old = std::mem::replace(&mut self.signalled, new);
        if new == old {
            return Ok(false);
        }
        // The index must be visible before the driver's suppression is read: the driver writes that first, then reads
        // the index.
        fence(Ordering::SeqCst);
        let ring = self.queue.avail_ring();
        if !self.queue.event_idx_enabled() {
            let flags: u16 =
                mem.load(self.address(ring, 0)?, Ordering::Relaxed).map_err(QueueError::memory(OPERATION))?;
            return Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let offset = RING_HEADER + u64::from(self.queue.size()) * AVAIL_ENTRY;
        let event: u16 =
            mem.load(self.address(ring, offset)?, Ordering::Relaxed).map_err(QueueError::memory(OPERATION))?;
        let event = Wrapping(u16::from_le(event));
        // 2.7.10: an interrupt when the index passes `event`, counting modulo 2^16.
        Ok(new - event - Wrapping(1) < new - old)
    }

    /// Asks the driver for no notifications, while the worker checks the queue anyway.
    pub fn disable_notifications(&mut self, mem: &GuestMemoryMmap<()>) -> Result<(), QueueError> {
        self.disable_in(mem)
    }

    fn disable_in(&mut self, mem: &impl GuestMemory) -> Result<(), QueueError> {
        let Some(_live) = self.session.enter() else { return Ok(()) };
        self.queue.disable_notification(mem).map_err(QueueError::ring("notification suppression"))
    }

    /// Asks the driver for notifications again. True if requests came in the meantime: they may stay without a
    /// notification, so check the queue again.
    pub fn enable_notifications(&mut self, mem: &GuestMemoryMmap<()>) -> Result<bool, QueueError> {
        self.enable_in(mem)
    }

    fn enable_in(&mut self, mem: &impl GuestMemory) -> Result<bool, QueueError> {
        let Some(_live) = self.session.enter() else { return Ok(false) };
        self.queue.enable_notification(mem).map_err(QueueError::ring("notification suppression"))
    }

    /// Serves the requests in the queue. Calls `work` for each, gives it back with the number of bytes that `work`
    /// returns, and interrupts the driver once for all, or every 200 µs if they take long. After [`BATCH`] requests it
    /// returns with `notify` readable, so that the worker comes back after it has checked its other sources; so it does
    /// after a request when `rest_wanted` is true.
    ///
    /// # Errors
    /// The driver broke the protocol, or `work` returned an error.
    pub fn serve(
        &mut self,
        mem: &GuestRam,
        interrupt: &DeviceInterrupt,
        rest_wanted: impl Fn() -> bool,
        work: impl FnMut(&Chain) -> Result<u32, ChainError>,
    ) -> Result<(), QueueError> {
        self.serve_in(&**mem, mem, interrupt, rest_wanted, work)
    }

    /// Does [`Self::serve`] with rings in `rings`, which is the same memory. Tests watch its accesses.
    fn serve_in(
        &mut self,
        rings: &impl GuestMemory,
        mem: &GuestRam,
        interrupt: &DeviceInterrupt,
        rest_wanted: impl Fn() -> bool,
        work: impl FnMut(&Chain) -> Result<u32, ChainError>,
    ) -> Result<(), QueueError> {
        let result = self.serve_batch(rings, mem, interrupt, rest_wanted, work);
        if result.is_err() {
            // The requests before the malformed one are done, and their driver waits for them.
            self.signal_in(rings, interrupt)?;
        }
        result
    }

    fn serve_batch(
        &mut self,
        rings: &impl GuestMemory,
        mem: &GuestRam,
        interrupt: &DeviceInterrupt,
        rest_wanted: impl Fn() -> bool,
        mut work: impl FnMut(&Chain) -> Result<u32, ChainError>,
    ) -> Result<(), QueueError> {
        let mut signalled = Instant::now();
        self.disable_in(rings)?;
        for _ in 0..BATCH {
            let Some(chain) = self.pop_in(rings, mem)? else {
                self.signal_in(rings, interrupt)?;
                if self.enable_in(rings)? {
                    self.disable_in(rings)?;
                    continue;
                }
                return Ok(());
            };
            let head = chain.head();
            let written = work(&chain).map_err(|source| QueueError::Chain { head, source })?;
            self.complete_in(rings, &[(head, written)])?;
            if rest_wanted() {
                break;
            }
            let now = Instant::now();
            if now.saturating_duration_since(signalled) > SIGNAL_INTERVAL {
                self.signal_in(rings, interrupt)?;
                signalled = now;
            }
        }
        self.signal_in(rings, interrupt)?;
        self.notify_self();
        Ok(())
    }

    fn address(&self, ring: u64, offset: u64) -> Result<GuestAddress, QueueError> {
        let source = virtio_queue::Error::AddressOverflow;
        GuestAddress(ring).checked_add(offset).ok_or(QueueError::Ring { operation: "ring address", source })
    }
}

#[cfg(test)]
#[path = "queue_interleavings.rs"]
mod interleavings;
#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
