//! The image that is in a disk. The image of an ordinary disk never changes; that of a slot can be inserted and ejected
//! while the guest runs. The device, its worker and the holders of the [`BlockSlot`] share it.
//!
//! The lock is held for a moment only: a request takes a reference to its image, so that one that waits for a hung disk
//! blocks neither the guest's reads of configuration space nor the host.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use super::backend::{open_image, Backend};
use super::config::{disk_id, BlockDeviceConfig, BlockError};
use super::request::{DiskId, DiskInfo};
use crate::virtio::DeviceInterrupt;
use crate::warn_limited;

/// Longest time that [`BlockSlot::eject`] and [`BlockSlot::insert`] wait for the requests to the old image.
pub const EJECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The medium in a disk: an open image and its serial number.
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
    state: Mutex<DriveState>,
    /// A request has ended, and a caller waits for that.
    released: Condvar,
}

struct DriveState {
    medium: Option<Arc<Medium>>,
    /// `Some` while the device is active.
    interrupt: Option<Arc<DeviceInterrupt>>,
    /// Number of changes of the image.
    changes: u64,
    /// For each request in execution, the number of changes before it. Usually at most one.
    executing: SmallVec<[u64; 2]>,
    /// Callers that wait for requests to end.
    waiting: usize,
}

impl DriveState {
    /// Puts `medium` in, interrupts the driver, which then reads the capacity again, and returns the old image. All of
    /// that happens under the lock that protects configuration space: a driver that reads the capacity in two halves
    /// sees another generation if the image changed in between.
    fn exchange(&mut self, medium: Option<Medium>) -> Option<Arc<Medium>> {
        self.changes += 1;
        let old = std::mem::replace(&mut self.medium, medium.map(Arc::new));
        if let Some(interrupt) = &self.interrupt {
            interrupt.signal_config();
        }
        old
    }
}

impl Drive {
    pub(super) fn new(medium: Option<Medium>) -> Self {
        let state = DriveState {
            medium: medium.map(Arc::new),
            interrupt: None,
            changes: 0,
            executing: SmallVec::new(),
            waiting: 0,
        };
        Self { state: Mutex::new(state), released: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, DriveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current image, for one request.
    pub(super) fn medium(&self) -> MediumInUse<'_> {
        let mut state = self.lock();
        let changes = state.changes;
        state.executing.push(changes);
        MediumInUse { drive: self, medium: state.medium.clone(), changes }
    }

    /// Capacity and access mode of the current image. A disk without an image has no sectors.
    pub(super) fn disk(&self) -> DiskInfo {
        disk_of(self.lock().medium.as_deref())
    }

    pub(super) fn set_interrupt(&self, interrupt: Option<Arc<DeviceInterrupt>>) {
        self.lock().interrupt = interrupt;
    }

    /// Waits until no request uses an image from before the last change. False after `timeout`.
    fn wait_released(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        let changes = state.changes;
        state.waiting += 1;
        let old = |state: &mut DriveState| state.executing.iter().any(|before| *before < changes);
        let (mut state, waited) =
            self.released.wait_timeout_while(state, timeout, old).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        !waited.timed_out()
    }
}

/// The image that was in the disk when a request began. It stays open until the request ends.
pub(super) struct MediumInUse<'a> {
    drive: &'a Drive,
    medium: Option<Arc<Medium>>,
    changes: u64,
}

impl MediumInUse<'_> {
    /// The image, or `None` if there was none.
    pub(super) fn get(&self) -> Option<&Medium> {
        self.medium.as_deref()
    }
}

impl Drop for MediumInUse<'_> {
    fn drop(&mut self) {
        // Before the caller that waits is told, and without the lock: closing a file may wait for its storage.
        drop(self.medium.take());
        let mut state = self.drive.lock();
        if let Some(index) = state.executing.iter().position(|changes| *changes == self.changes) {
            state.executing.swap_remove(index);
        }
        if state.waiting > 0 {
            self.drive.released.notify_all();
        }
    }
}

/// Capacity and access mode of an image. A disk without an image has no sectors.
pub(super) fn disk_of(medium: Option<&Medium>) -> DiskInfo {
    medium.map_or(DiskInfo { sectors: 0, read_only: false }, |medium| medium.backend.disk())
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
        self.insert_file(open_image(path, read_only)?, path, read_only, serial)
    }

    /// Does [`Self::insert`] with an image that was opened with [`open_image`], maybe by another process. `path` is for
    /// messages.
    pub fn insert_file(&self, image: File, path: &Path, read_only: bool, serial: &str) -> Result<(), BlockError> {
        let config = BlockDeviceConfig { id: serial.into(), path: path.into(), read_only, serial: Some(serial.into()) };
        let medium = Medium { id: disk_id(&config)?, backend: Backend::of_file(image, path, read_only)? };
        let old = self.0.lock().exchange(Some(medium));
        self.close(old, EJECT_TIMEOUT);
        Ok(())
    }

    /// Does [`Self::eject_within`] with [`EJECT_TIMEOUT`].
    pub fn eject(&self) {
        self.eject_within(EJECT_TIMEOUT);
    }

    /// Removes the image and sets the capacity to 0: later requests find no image. Then waits until the requests to the
    /// image have ended, and the image is closed and unlocked. False if that takes longer than `timeout`: the image is
    /// out of the disk, but a request that waits for the host's storage keeps it open and locked. Does nothing to an
    /// empty slot.
    pub fn eject_within(&self, timeout: Duration) -> bool {
        let mut state = self.0.lock();
        let old = if state.medium.is_some() { state.exchange(None) } else { None };
        drop(state);
        self.close(old, timeout)
    }

    /// Waits until no request uses an image that is out of the disk. False after `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        self.0.wait_released(timeout)
    }

    fn close(&self, old: Option<Arc<Medium>>, timeout: Duration) -> bool {
        let Some(old) = old else { return true };
        drop(old);
        let closed = self.0.wait_released(timeout);
        if !closed {
            warn_limited!("an ejected disk image stays open until a request has ended: its storage does not answer");
        }
        closed
    }
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
