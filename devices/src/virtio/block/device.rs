//! The disk device: its features, its configuration space, and the two ways to make one.

use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::config::{BlockDeviceConfig, BlockError};
use super::drive::{BlockSlot, Drive, Medium};
use super::request::{
    MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS, SECTOR_LEN, SEG_MAX, SIZE_MAX,
};
use super::worker::RequestHandler;
use crate::threads::ThreadKind;
use crate::virtio::device::RING_FEATURES;
use crate::virtio::one_queue::{DriverSession, OneQueue, Service};
use crate::virtio::{Chain, ChainError, DeviceInterrupt};

/// Smallest range that is worth a discard, in sectors: a block of most file systems.
const DISCARD_ALIGNMENT: u32 = 4096 / SECTOR_LEN;

/// A disk: one queue, whose requests `Drive` executes.
pub type Block = OneQueue<Drive>;

impl Block {
    /// Opens the image and locks it until the disk is dropped.
    pub fn new(config: BlockDeviceConfig) -> Result<Self, BlockError> {
        let medium = Medium::open(&config)?;
        Ok(Self::of(config.id, Arc::new(Drive::new(Some(medium)))))
    }

    /// A disk without an image, whose capacity is 0. [`BlockSlot`] inserts and ejects images. The features of the disk
    /// depend on the image: a driver sees a change of them after it has reset the device.
    pub fn slot(id: impl Into<String>) -> (Self, BlockSlot) {
        let drive = Arc::new(Drive::new(None));
        let slot = BlockSlot::new(drive.clone());
        (Self::of(id, drive), slot)
    }
}

impl Service for Drive {
    const DEVICE_TYPE: u32 = VIRTIO_ID_BLOCK;
    const QUEUE_SIZE: u16 = 256;
    const THREAD: ThreadKind = ThreadKind::Block;

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH;
        let kind = if self.disk().read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        RING_FEATURES | always | kind
    }

    /// `struct virtio_blk_config` (5.2.4), up to the last field that is offered.
    fn config(&self) -> impl AsRef<[u8]> {
        let mut config = [0_u8; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            config.get_mut(at..at + bytes.len()).expect("a field of struct virtio_blk_config").copy_from_slice(bytes);
        };
        let disk = self.disk();
        put(0, &disk.sectors.to_le_bytes());
        put(8, &SIZE_MAX.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &SECTOR_LEN.to_le_bytes());
        if !disk.read_only {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &MAX_DISCARD_RANGES.to_le_bytes());
            put(44, &DISCARD_ALIGNMENT.to_le_bytes());
            put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
            put(52, &MAX_ZEROES_RANGES.to_le_bytes());
            put(56, &[1]);
        }
        config
    }

    fn connect(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        self.set_interrupt(interrupt);
    }

    fn serve(&self, session: &DriverSession, chain: &Chain) -> Result<u32, ChainError> {
        RequestHandler { drive: self, session }.handle(chain)
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod fault_tests;
#[cfg(test)]
#[path = "slot_tests.rs"]
mod slot_tests;
#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
