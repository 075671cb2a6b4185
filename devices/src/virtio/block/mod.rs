//! Disk (VIRTIO 1.2, 5.2): one queue, one thread, a raw image or block device of the host behind it.
//!
//! | file | what |
//! |---|---|
//! | `request` | from the guest's bytes to a request: pure |
//! | `backend` | the image: open, lock, read, write, discard |
//! | `drive` | which image is in the disk now; a slot's may change while the guest runs |
//! | `perform` | does requests, on guest memory itself |

pub mod backend;
mod drive;
mod perform;
pub mod request;

use std::path::PathBuf;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

pub use self::backend::BlockError;
pub use self::drive::BlockSlot;
use self::drive::{Drive, Medium};
use self::perform::Target;
use self::request::{ID_BYTES, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS, SECTOR};
use super::device::RING_FEATURES;
use super::one_queue::{OneQueue, Service, Session};
use super::{Chain, ChainError, DeviceInterrupt};

/// Buffers of data in a request: all of a queue but header and status.
const SEG_MAX: u32 = 254;
/// Smallest piece that is worth a discard: a block of most file systems.
const DISCARD_ALIGNMENT: u32 = 4096 / SECTOR as u32;

/// A disk's name, padded with zeroes.
type ID = [u8; ID_BYTES as usize];

/// A disk as the VMM wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// For logs and the device's thread, such as `blk0`.
    pub id: String,
    /// A raw image or a block device.
    pub path: PathBuf,
    /// The guest may not write.
    pub read_only: bool,
    /// What the guest sees as the disk's serial number, up to 20 bytes; the start of `id` if there is none.
    pub serial: Option<String>,
}

/// A disk.
pub type Block = OneQueue<Drive>;

impl Block {
    /// Opens the image and locks it until the disk is dropped.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn new(config: BlockConfig) -> Result<Self, BlockError> {
        let medium = Medium::open(&config)?;
        Ok(Self::of(config.id, Arc::new(Drive::new(Some(medium)))))
    }

    /// A disk without an image, of capacity 0; [`BlockSlot`] puts one in and takes it out again. What the disk offers
    /// depends on the image: a driver learns of another by resetting the device.
    pub fn slot(id: impl Into<String>) -> (Self, BlockSlot) {
        let drive = Arc::new(Drive::new(None));
        let slot = BlockSlot::new(drive.clone());
        (Self::of(id, drive), slot)
    }
}

fn disk_id(config: &BlockConfig) -> Result<ID, BlockError> {
    let mut id = ID::default();
    if let Some(serial) = &config.serial {
        let place = id.get_mut(..serial.len());
        let len = serial.len();
        place.ok_or(BlockError::Serial { id: config.id.clone(), len })?.copy_from_slice(serial.as_bytes());
    } else {
        for (to, from) in id.iter_mut().zip(config.id.bytes()) {
            *to = from;
        }
    }
    Ok(id)
}

impl Service for Drive {
    const DEVICE_TYPE: u32 = VIRTIO_ID_BLOCK;
    const QUEUE_SIZE: u16 = 256;

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
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
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
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

    fn serve(&self, session: &Session, chain: &Chain) -> Result<u32, ChainError> {
        Target { drive: self, session }.handle(chain)
    }
}

#[cfg(test)]
mod slot_tests;
#[cfg(test)]
mod tests;
