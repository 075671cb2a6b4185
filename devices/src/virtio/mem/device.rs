//! The memory device: its features, its configuration space, and the requests of its driver.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;

use super::blocks::{Discard, Region};
use super::handle::{MemHandle, MemShared};
use super::request::{MemRequest, REQUEST_LEN, RESPONSE_LEN};
use crate::virtio::device::RING_FEATURES;
use crate::virtio::one_queue::{DriverSession, OneQueue, Service};
use crate::virtio::{Chain, ChainError, DeviceInterrupt};

/// The driver must not touch blocks that are not plugged (5.15.3).
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// A memory device.
pub type Mem = OneQueue<PluggableMemory>;

impl Mem {
    /// A device for `region` without plugged blocks, called `name` in logs as is its thread, and the host's handle of
    /// it.
    ///
    /// # Panics
    /// If the region does not consist of whole blocks.
    pub fn new(name: impl Into<String>, region: Region, discard: Arc<dyn Discard>) -> (Self, MemHandle) {
        let shared = Arc::new(MemShared::new(region));
        let handle = MemHandle::new(shared.clone());
        (Self::of(name, Arc::new(PluggableMemory { shared, discard })), handle)
    }
}

/// The service behind [`Mem`]: blocks that are plugged and unplugged.
pub struct PluggableMemory {
    shared: Arc<MemShared>,
    discard: Arc<dyn Discard>,
}

impl Service for PluggableMemory {
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

    fn serve(&self, session: &DriverSession, chain: &Chain) -> Result<u32, ChainError> {
        let mut bytes = [0; REQUEST_LEN];
        chain.reader(&session.mem).read_exact(&mut bytes)?;
        // A request without room for the response is not executed.
        let mut writer = chain.writer(&session.mem);
        if (writer.remaining() as usize) < RESPONSE_LEN {
            return Err(ChainError::Short);
        }
        writer.write_all(&self.shared.serve(MemRequest::parse(&bytes), self.discard.as_ref()).bytes())?;
        Ok(writer.written())
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
