//! The image that is in a disk. The image of an ordinary disk never changes; that of a slot can be inserted and ejected
//! while the guest runs. The device, its worker and the holders of the [`BlockSlot`] share it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::backend::Backend;
use super::config::{disk_id, BlockDeviceConfig, BlockError};
use super::request::{DiskId, DiskInfo};
use crate::virtio::DeviceInterrupt;

/// An open image and its serial number.
pub(super) struct Medium {
    /// The open image.
    pub(super) backend: Backend,
    /// The disk's serial number in the guest.
    pub(super) id: DiskId,
}

impl Medium {
    /// Opens and locks the image.
    pub(super) fn open(config: &BlockDeviceConfig) -> Result<Self, BlockError> {
        let id = disk_id(config)?;
        Ok(Self { backend: Backend::open(&config.path, config.read_only)?, id })
    }
}

/// The image that is in a disk, and the interrupt of its driver.
pub struct Drive {
    medium: RwLock<Option<Medium>>,
    /// `Some` while the device is active.
    interrupt: Mutex<Option<Arc<DeviceInterrupt>>>,
}

impl Drive {
    pub(super) fn new(medium: Option<Medium>) -> Self {
        Self { medium: RwLock::new(medium), interrupt: Mutex::new(None) }
    }

    /// The current image. It cannot be exchanged while the guard lives: the time of one request.
    pub(super) fn medium(&self) -> RwLockReadGuard<'_, Option<Medium>> {
        self.medium.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Capacity and access mode of the current image.
    pub(super) fn disk(&self) -> DiskInfo {
        disk_of(&self.medium())
    }

    pub(super) fn set_interrupt(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }

    fn medium_mut(&self) -> RwLockWriteGuard<'_, Option<Medium>> {
        self.medium.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interrupts the driver, which then reads the capacity again.
    fn announce(&self) {
        if let Some(interrupt) = &*self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) {
            interrupt.signal_config();
        }
    }
}

/// Capacity and access mode of an image. A disk without an image has no sectors.
pub(super) fn disk_of(medium: &Option<Medium>) -> DiskInfo {
    medium.as_ref().map_or(DiskInfo { sectors: 0, read_only: false }, |medium| medium.backend.disk())
}

/// The VMM's handle of a disk whose image may change. Used from any thread.
#[derive(Clone)]
pub struct BlockSlot(Arc<Drive>);

impl BlockSlot {
    pub(super) fn new(drive: Arc<Drive>) -> Self {
        Self(drive)
    }

    /// Opens and locks the image at `path` and inserts it in place of the current one, if any. The guest finds it by
    /// `serial`, up to 20 bytes, and is interrupted because of the new capacity. After an error the slot is unchanged.
    pub fn insert(&self, path: &Path, read_only: bool, serial: &str) -> Result<(), BlockError> {
        let config = BlockDeviceConfig { id: serial.into(), path: path.into(), read_only, serial: Some(serial.into()) };
        let medium = Medium::open(&config)?;
        *self.0.medium_mut() = Some(medium);
        self.0.announce();
        Ok(())
    }

    /// Removes the image after the request in flight: closes and unlocks it, and sets the capacity to 0. Does nothing
    /// to an empty slot.
    pub fn eject(&self) {
        if self.0.medium_mut().take().is_some() {
            self.0.announce();
        }
    }
}
