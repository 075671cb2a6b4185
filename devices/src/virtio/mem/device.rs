//! The memory device: its features, its configuration space, and the requests of its driver.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;

use super::blocks::RegionMemory;
use super::handle::{MemHandle, MemShared};
use super::request::{MemRequest, REQUEST_LEN, RESPONSE_LEN};
use crate::ram::PlugMap;
use crate::threads::ThreadKind;
use crate::virtio::device::RING_FEATURES;
use crate::virtio::one_queue::{DriverSession, OneQueue, Service};
use crate::virtio::{Chain, ChainError, DeviceInterrupt};

/// The driver must not touch blocks that are not plugged (5.15.3).
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// A memory device.
pub type Mem = OneQueue<PluggableMemory>;

impl Mem {
    /// Returns a device for the region of `map` with nothing plugged in, and the host's handle. `name` appears in logs
    /// and names the thread. All devices share `map` through their guest memory, so that none touches blocks that are
    /// not plugged in.
    ///
    /// # Panics
    /// If the region's blocks have another size than [`BLOCK_SIZE`](super::BLOCK_SIZE).
    pub fn new(name: impl Into<String>, map: Arc<PlugMap>, memory: Arc<dyn RegionMemory>) -> (Self, MemHandle) {
        let shared = Arc::new(MemShared::new(map));
        let handle = MemHandle::new(shared.clone());
        (Self::of(name, Arc::new(PluggableMemory { shared, memory })), handle)
    }
}

/// The service behind [`Mem`]: blocks that are plugged and unplugged.
pub struct PluggableMemory {
    shared: Arc<MemShared>,
    memory: Arc<dyn RegionMemory>,
}

impl Service for PluggableMemory {
    const DEVICE_TYPE: u32 = VIRTIO_ID_MEM;
    const QUEUE_SIZE: u16 = 16;
    const THREAD: ThreadKind = ThreadKind::Memory;

    fn features(&self) -> u64 {
        RING_FEATURES | UNPLUGGED_INACCESSIBLE
    }

    /// A driver that might touch blocks which are not plugged in, as Linux before 5.17, would end its guest.
    fn accepts_features(&self, features: u64) -> bool {
        features & UNPLUGGED_INACCESSIBLE != 0
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
        writer.write_all(&self.shared.serve(MemRequest::parse(&bytes), self.memory.as_ref()).bytes())?;
        Ok(writer.written())
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
