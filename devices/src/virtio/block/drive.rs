//! Which image is in a disk. That of a disk with a fixed one never changes; that of a slot comes and goes while the
//! guest runs. Shared by the device, its worker and whoever holds the [`BlockSlot`].

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::backend::Backend;
use super::config::{disk_id, BlockDeviceConfig, BlockError};
use super::request::{DiskId, DiskInfo};
use crate::virtio::DeviceInterrupt;

/// An image and its name.
pub(super) struct Medium {
    /// The image.
    pub(super) backend: Backend,
    /// What the guest sees as the disk's serial number.
    pub(super) id: DiskId,
}

impl Medium {
    /// Opens and locks the image.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub(super) fn open(config: &BlockDeviceConfig) -> Result<Self, BlockError> {
        let id = disk_id(config)?;
        Ok(Self { backend: Backend::open(&config.path, config.read_only)?, id })
    }
}

/// Which image is in a disk, and the way to its driver.
pub struct Drive {
    medium: RwLock<Option<Medium>>,
    /// While the device is active.
    interrupt: Mutex<Option<Arc<DeviceInterrupt>>>,
}

impl Drive {
    pub(super) fn new(medium: Option<Medium>) -> Self {
        Self { medium: RwLock::new(medium), interrupt: Mutex::new(None) }
    }

    /// The image now. It stays for as long as the guard lives, which is that of a request.
    pub(super) fn medium(&self) -> RwLockReadGuard<'_, Option<Medium>> {
        self.medium.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What requests are checked against: an empty disk has no sectors.
    pub(super) fn disk(&self) -> DiskInfo {
        disk_of(&self.medium())
    }

    pub(super) fn set_interrupt(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }

    fn medium_mut(&self) -> RwLockWriteGuard<'_, Option<Medium>> {
        self.medium.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver is to look at the capacity again.
    fn announce(&self) {
        if let Some(interrupt) = &*self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) {
            interrupt.signal_config();
        }
    }
}

/// What requests are checked against with this image.
pub(super) fn disk_of(medium: &Option<Medium>) -> DiskInfo {
    medium.as_ref().map_or(DiskInfo { sectors: 0, read_only: false }, |medium| medium.backend.disk())
}

/// The outside of a disk whose image may change. Any thread.
#[derive(Clone)]
pub struct BlockSlot(Arc<Drive>);

impl BlockSlot {
    pub(super) fn new(drive: Arc<Drive>) -> Self {
        Self(drive)
    }

    /// Opens and locks the image at `path` and puts it in, in place of what may be there. The guest finds it by `serial`,
    /// up to 20 bytes, and is interrupted because of the new capacity.
    ///
    /// # Errors
    /// See [`BlockError`]; the slot is as it was.
    pub fn insert(&self, path: &Path, read_only: bool, serial: &str) -> Result<(), BlockError> {
        let config = BlockDeviceConfig { id: serial.into(), path: path.into(), read_only, serial: Some(serial.into()) };
        let medium = Medium::open(&config)?;
        *self.0.medium_mut() = Some(medium);
        self.0.announce();
        Ok(())
    }

    /// Takes the image out, after the request in flight: it is closed and unlocked, the capacity is 0. An empty slot stays
    /// as it is.
    pub fn eject(&self) {
        if self.0.medium_mut().take().is_some() {
            self.0.announce();
        }
    }
}
