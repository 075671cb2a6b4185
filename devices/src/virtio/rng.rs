//! Entropy device (VIRTIO 1.2, 5.4): fills the driver's buffers with the host kernel's random bytes.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vmm_sys_util::epoll::EventSet;

use super::device::RING_FEATURES;
use super::queue::retire;
use super::{ActivateError, Activation, Chain, ChainError, DeviceInterrupt, DeviceQueue, VirtioDevice};
use crate::worker::{Next, Poller, Worker, WorkerSlot};
use crate::GuestRam;

/// Most bytes that one request gets, however long its buffers: bounds the time until the next look around.
pub const MAX_BYTES: u32 = 64 << 10;

const QUEUE_SIZES: [u16; 1] = [64];
const NOTIFY: u64 = 0;
/// Bytes asked of the kernel at a time.
const CHUNK: usize = 4096;

/// An entropy device.
pub struct Rng {
    name: String,
    worker: WorkerSlot<RngWorker>,
}

impl Rng {
    /// `name` is for logs and its thread.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), worker: WorkerSlot::new() }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().flatten().next().ok_or(ActivateError::MissingQueue(0))?;
        let worker = RngWorker { name: self.name.clone(), mem: activation.mem, queue, interrupt: activation.interrupt };
        self.worker
            .start(&self.name, worker)
            .map_err(|source| ActivateError::Host { what: "starting the entropy device's thread", source })
    }

    fn deactivate(&mut self) {
        drop(self.worker.stop());
    }

    fn pause(&mut self) {
        self.worker.pause();
    }

    fn resume(&mut self) {
        self.worker.resume();
    }
}

struct RngWorker {
    name: String,
    mem: GuestRam,
    queue: DeviceQueue,
    interrupt: Arc<DeviceInterrupt>,
}

impl RngWorker {
    fn serve(&mut self) -> Next {
        let Self { name, mem, queue, interrupt } = self;
        match queue.serve(mem, interrupt, |chain| fill(name, mem, chain)) {
            Ok(()) => Next::Continue,
            Err(error) => retire(name, interrupt, &error),
        }
    }
}

/// Fills the request's buffers and returns how far.
fn fill(name: &str, mem: &GuestRam, chain: &Chain) -> Result<u32, ChainError> {
    // 5.4.6.1: only writable buffers, and at least one byte goes in.
    if chain.readable_len() > 0 {
        return Err(ChainError::Direction);
    }
    if chain.writable_len() == 0 {
        return Err(ChainError::Short);
    }
    let mut writer = chain.writer(mem).limited(MAX_BYTES);
    let mut bytes = [0; CHUNK];
    while writer.remaining() > 0 {
        let len = CHUNK.min(writer.remaining() as usize);
        let part = bytes.get_mut(..len).unwrap_or_default();
        if let Err(error) = getrandom::fill(part) {
            // The kernel has no reason to refuse once it has booted. The driver gets what there is.
            log::error!("{name}: no random bytes from the host: {error}");
            break;
        }
        writer.write_all(part)?;
    }
    Ok(writer.written())
}

impl Worker for RngWorker {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.queue.notify, NOTIFY, EventSet::IN)
    }

    fn resumed(&mut self, _poller: &Poller) -> Next {
        self.serve()
    }

    fn ready(&mut self, _token: u64, _events: EventSet, _poller: &Poller) -> Next {
        self.queue.drain_notify();
        self.serve()
    }

    fn failed(&mut self) {
        self.interrupt.need_reset();
    }
}

#[cfg(test)]
#[path = "rng_tests.rs"]
mod tests;
