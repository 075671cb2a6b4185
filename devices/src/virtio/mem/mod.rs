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

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;

pub use self::blocks::{Discard, Region, BLOCK_SIZE};
pub use self::handle::MemHandle;
use self::handle::Shared;
use self::request::{Request, ANSWER_LEN, REQUEST_LEN};
use super::device::RING_FEATURES;
use super::one_queue::{OneQueue, Service, Session};
use super::{Chain, ChainError, DeviceInterrupt};

/// The driver must not touch blocks that are not plugged (5.15.3).
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// A memory device.
pub type Mem = OneQueue<Memory>;

impl Mem {
    /// A device for `region`, all unplugged, and the host's way to it. `name` is for logs and its thread.
    ///
    /// # Panics
    /// If the region is not made of whole blocks.
    pub fn new(name: impl Into<String>, region: Region, discard: Arc<dyn Discard>) -> (Self, MemHandle) {
        let shared = Arc::new(Shared::new(region));
        let handle = MemHandle::new(shared.clone());
        (Self::of(name, Arc::new(Memory { shared, discard })), handle)
    }
}

/// Blocks that come and go.
pub struct Memory {
    shared: Arc<Shared>,
    discard: Arc<dyn Discard>,
}

impl Service for Memory {
    const DEVICE_TYPE: u32 = VIRTIO_ID_MEM;
    const QUEUE_SIZE: u16 = 16;

    fn features(&self) -> u64 {
        RING_FEATURES | UNPLUGGED_INACCESSIBLE
    }

    fn config(&self) -> impl AsRef<[u8]> {
        self.shared.config()
    }

    fn connect(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        self.shared.connect(interrupt);
    }

    fn serve(&self, session: &Session, chain: &Chain) -> Result<u32, ChainError> {
        let mut bytes = [0; REQUEST_LEN];
        chain.reader(&session.mem).read_exact(&mut bytes)?;
        // Nothing is done that cannot be answered.
        let mut writer = chain.writer(&session.mem);
        if (writer.remaining() as usize) < ANSWER_LEN {
            return Err(ChainError::Short);
        }
        writer.write_all(&self.shared.serve(Request::parse(&bytes), self.discard.as_ref()).bytes())?;
        Ok(writer.written())
    }
}

#[cfg(test)]
mod tests;
