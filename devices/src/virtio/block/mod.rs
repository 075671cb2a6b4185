//! Disk (VIRTIO 1.2, 5.2): one queue, one thread, a raw image or block device of the host behind it.
//!
//! | file | what |
//! |---|---|
//! | `request` | from the guest's bytes to a request: pure |
//! | `backend` | the image: open, lock, read, write, discard |
//! | `drive` | which image is in the disk now; a slot's may change while the guest runs |
//! | `worker` | the thread that does requests |

pub mod backend;
mod drive;
pub mod request;
mod worker;

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
use self::request::{ID_BYTES, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS, SECTOR};
use self::worker::{BlockWorker, Target};
use super::device::{config_bytes, RING_FEATURES};
use super::{ActivateError, Activation, VirtioDevice};
use crate::worker::WorkerSlot;

const QUEUE_SIZES: [u16; 1] = [256];
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
pub struct Block {
    name: String,
    drive: Arc<Drive>,
    worker: WorkerSlot<BlockWorker>,
}

impl Block {
    /// Opens the image and locks it until the disk is dropped.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn new(config: BlockConfig) -> Result<Self, BlockError> {
        let medium = Medium::open(&config)?;
        Ok(Self { name: config.id, drive: Arc::new(Drive::new(Some(medium))), worker: WorkerSlot::new() })
    }

    /// A disk without an image, of capacity 0; [`BlockSlot`] puts one in and takes it out again. What the disk offers
    /// depends on the image: a driver learns of another by resetting the device.
    pub fn slot(id: impl Into<String>) -> (Self, BlockSlot) {
        let drive = Arc::new(Drive::new(None));
        let slot = BlockSlot::new(drive.clone());
        (Self { name: id.into(), drive, worker: WorkerSlot::new() }, slot)
    }

    /// `struct virtio_blk_config` (5.2.4), up to the last field that is offered.
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            config.get_mut(at..at + bytes.len()).expect("a field of struct virtio_blk_config").copy_from_slice(bytes);
        };
        let disk = self.drive.disk();
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

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        let kind = if self.drive.disk().read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        RING_FEATURES | always | kind
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().flatten().next().ok_or(ActivateError::MissingQueue(0))?;
        let target = Target {
            name: self.name.clone(),
            mem: activation.mem,
            drive: self.drive.clone(),
            write_through: activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0,
        };
        self.drive.set_interrupt(Some(activation.interrupt.clone()));
        self.worker
            .start(&self.name, BlockWorker { target, queue, interrupt: activation.interrupt })
            .map_err(|source| ActivateError::Host { what: "starting the disk's thread", source })
    }

    fn deactivate(&mut self) {
        self.drive.set_interrupt(None);
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
mod slot_tests;
#[cfg(test)]
mod tests;
