//! Memory that comes and goes while the guest runs (VIRTIO 1.2, 5.15).
//!
//! ```text
//!   the VMM reserves a region of guest-physical addresses; nothing of it is in the guest's memory map
//!   MemHandle::request(bytes) ──▶ requested_size, interrupt ──▶ the driver asks for blocks, one request at a time:
//!     PLUG ──▶ the guest may use them            UNPLUG ──▶ their memory goes back to the host
//!   MemHandle::wait ◀── as much is plugged as is wanted
//! ```
//!
//! The region is mapped and known to the hypervisor as a whole, so that queues and buffers of other devices may lie
//! anywhere in it. A guest that touches blocks that are not plugged finds zeroes and takes the host's memory for them,
//! up to the size of the region; it harms nobody but itself.

mod blocks;
mod handle;
mod request;
mod worker;

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;

pub use self::blocks::{Discard, Region, BLOCK_SIZE};
pub use self::handle::MemHandle;
use self::handle::Shared;
use self::worker::MemWorker;
use super::device::{config_bytes, RING_FEATURES};
use super::{ActivateError, Activation, VirtioDevice};
use crate::worker::WorkerSlot;

/// The driver must not touch blocks that are not plugged (5.15.3).
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
const QUEUE_SIZES: [u16; 1] = [16];

/// A memory device.
pub struct Mem {
    name: String,
    shared: Arc<Shared>,
    discard: Arc<dyn Discard>,
    worker: WorkerSlot<MemWorker>,
}

impl Mem {
    /// A device for `region`, all unplugged, and the host's way to it. `name` is for logs and its thread.
    ///
    /// # Panics
    /// If the region is not made of whole blocks.
    pub fn new(name: impl Into<String>, region: Region, discard: Arc<dyn Discard>) -> (Self, MemHandle) {
        let shared = Arc::new(Shared::new(region));
        let handle = MemHandle::new(shared.clone());
        (Self { name: name.into(), shared, discard, worker: WorkerSlot::new() }, handle)
    }
}

impl VirtioDevice for Mem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING_FEATURES | UNPLUGGED_INACCESSIBLE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.shared.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().flatten().next().ok_or(ActivateError::MissingQueue(0))?;
        let interrupt = activation.interrupt;
        let worker = MemWorker {
            name: self.name.clone(),
            mem: activation.mem,
            queue,
            interrupt: interrupt.clone(),
            shared: self.shared.clone(),
            discard: self.discard.clone(),
        };
        self.worker
            .start(&self.name, worker)
            .map_err(|source| ActivateError::Host { what: "starting the memory device's thread", source })?;
        self.shared.connect(interrupt);
        Ok(())
    }

    fn deactivate(&mut self) {
        self.shared.disconnect();
        drop(self.worker.stop());
    }

    fn pause(&mut self) {
        self.worker.pause();
    }

    fn resume(&mut self) {
        self.worker.resume();
    }
}

#[cfg(test)]
mod tests;
