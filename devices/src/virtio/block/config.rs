//! The options of a disk, and the reasons for which it cannot be opened.

use std::io;
use std::path::PathBuf;

use super::request::DiskId;

/// The options of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDeviceConfig {
    /// Name in logs and of the device's thread, such as `blk0`.
    pub id: String,
    /// Path of a raw image or a block device.
    pub path: PathBuf,
    /// Refuse writes of the guest.
    pub read_only: bool,
    /// The disk's serial number in the guest, up to 20 bytes. `None`: the first 20 bytes of `id`.
    pub serial: Option<String>,
}

/// A disk that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The image cannot be opened.
    #[error("cannot open disk image {}: check the path and its permissions", path.display())]
    Open {
        /// The image or block device, as the configuration names it.
        path: PathBuf,
        /// Error of `open(2)`.
        source: io::Error,
    },
    /// A descriptor that was passed allows other accesses than the disk needs.
    #[error("disk image {} was passed by a descriptor that is not for {}: open it so", path.display(), if *.read_only { "reading only" } else { "reading and writing" })]
    Access {
        /// The image or block device, as the configuration names it.
        path: PathBuf,
        /// The disk is only read.
        read_only: bool,
    },
    /// The path is neither a regular file nor a block device, but a directory or a pipe, say.
    #[error("disk image {} is neither a regular file nor a block device: give one of these", .0.display())]
    Kind(PathBuf),
    /// The size of the image cannot be read.
    #[error("cannot read the size of disk image {}: check the device that it is stored on", path.display())]
    Size {
        /// The image or block device, as the configuration names it.
        path: PathBuf,
        /// Error of `fstat(2)` or `lseek(2)`.
        source: io::Error,
    },
    /// The image has no bytes.
    #[error("disk image {} is empty: give it a size, for example with truncate -s 1G", .0.display())]
    Empty(PathBuf),
    /// The size is not a multiple of a sector.
    #[error("disk image {} has {size} bytes, which is not a multiple of 512: pad it, for example with truncate -s %512", path.display())]
    Unaligned {
        /// The image or block device, as the configuration names it.
        path: PathBuf,
        /// Size in bytes.
        size: u64,
    },
    /// Another process uses the image, or the host has mounted the block device.
    #[error("disk image {} is in use{}: stop the other user, or attach it read-only everywhere", path.display(), if *.read_only { " and being written" } else { "" })]
    InUse {
        /// The image or block device, as the configuration names it.
        path: PathBuf,
        /// The image was opened for reading only.
        read_only: bool,
    },
    /// The file system does not support locks.
    #[error("cannot lock disk image {}: put it on a file system with locks", path.display())]
    Lock {
        /// The image or block device, as the configuration names it.
        path: PathBuf,
        /// Error of `fcntl(2)`.
        source: io::Error,
    },
    /// The serial number is too long.
    #[error("serial number of disk {id} has {len} bytes: give at most 20")]
    Serial {
        /// Name of the disk.
        id: String,
        /// Length of the serial number in bytes.
        len: usize,
    },
}

/// The serial number that the guest sees, padded with zeroes.
///
/// # Errors
/// `BlockError::Serial`: it is longer than 20 bytes.
pub(super) fn disk_id(config: &BlockDeviceConfig) -> Result<DiskId, BlockError> {
    let mut id = DiskId::default();
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
