//! The options of a disk, and the reasons for which it cannot be opened.

use std::io;
use std::path::PathBuf;

use super::request::DiskId;

/// A disk as the VMM wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDeviceConfig {
    /// For logs and the device's thread, such as `blk0`.
    pub id: String,
    /// A raw image or a block device.
    pub path: PathBuf,
    /// The guest may not write.
    pub read_only: bool,
    /// What the guest sees as the disk's serial number, up to 20 bytes; the start of `id` if there is none.
    pub serial: Option<String>,
}

/// Why a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The image cannot be opened.
    #[error("cannot open disk image {}: check the path and its permissions", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory, a pipe, ...
    #[error("disk image {} is neither a regular file nor a block device: give one of these", .0.display())]
    Kind(PathBuf),
    /// Its size is unknown.
    #[error("cannot tell the size of disk image {}: check the device it lies on", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("disk image {} is empty: give it a size, for example with truncate -s 1G", .0.display())]
    Empty(PathBuf),
    /// Not whole sectors.
    #[error("disk image {} has {size} bytes, no multiple of 512: pad it, for example with truncate -s %512", path.display())]
    Unaligned {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Someone else uses it.
    #[error("disk image {} is in use{}: stop the other user, or attach it read-only everywhere", path.display(), if *.read_only { " and being written" } else { "" })]
    InUse {
        /// The image.
        path: PathBuf,
        /// It was to be read only.
        read_only: bool,
    },
    /// The file system knows no locks.
    #[error("cannot lock disk image {}: put it on a file system with locks", path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The name that the guest sees is too long.
    #[error("serial number of disk {id} has {len} bytes: 20 are possible")]
    Serial {
        /// The disk.
        id: String,
        /// Length in bytes.
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
