//! The interface between a virtio device, its transport and the VMM.
//!
//! ```text
//!            activate(Activation)                 deactivate()
//!  inactive ──────────────────────▶ active ──────────────────────▶ inactive
//!     ▲                               │ pause() / resume()
//!     └── new, reset by the guest     ▼
//!                                   paused (workers idle, queues kept)
//! ```

use std::io;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::interrupt::DeviceInterrupt;
use super::queue::DeviceQueue;
use crate::threads::Threads;
use crate::worker::WorkerError;
use crate::GuestRam;

/// Features of the rings, which every device here can offer because [`DeviceQueue`] implements them: indirect
/// descriptors and event indices (VIRTIO 1.2, 2.7.5.3 and 2.7.10).
pub const RING_FEATURES: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Fills `data` from `config` at `offset`; bytes past its end are 0. For [`VirtioDevice::read_config`].
pub fn config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    data.fill(0);
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}

/// The resources that a device gets when its driver is ready.
pub struct Activation {
    /// Guest memory.
    pub mem: GuestRam,
    /// One entry per entry of `queue_max_sizes`: `None` if the driver did not enable the queue.
    pub queues: Vec<Option<DeviceQueue>>,
    /// The device's interrupt.
    pub interrupt: Arc<DeviceInterrupt>,
    /// The negotiated features.
    pub features: u64,
    /// The VMM's rules for the device's threads.
    pub threads: Threads,
}

/// A device that could not start. The transport sets DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver did not enable a queue that the device needs.
    #[error("the guest driver did not enable queue {0}")]
    MissingQueue(usize),
    /// A thread of the former driver has not ended.
    #[error("the device is not at rest since its last reset: {0}")]
    Stuck(#[from] WorkerError),
    /// An operation on the host failed.
    #[error("{what}: {source}")]
    Host {
        /// The operation, such as "starting the device's thread".
        what: &'static str,
        /// The error of the operation.
        source: io::Error,
    },
}

/// A device behind a virtio transport.
///
/// The transport calls from a vCPU thread and locks the device, so every method must return soon. It calls `activate` and
/// `deactivate` by [`Threads::call`]: a vCPU thread may neither make threads nor open files. The device's own workers do
/// the work; they own the queues between `activate` and `deactivate`.
pub trait VirtioDevice: Send {
    /// Device id (VIRTIO 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Name in logs and of threads, such as `blk0`.
    fn name(&self) -> &str;

    /// One entry per queue: the largest size that the device accepts, a power of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// Features that the device offers. The transport adds `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Whether the device can work with these of its features: some need others. If not, the transport leaves
    /// FEATURES_OK clear (VIRTIO 1.2, 2.2.2).
    fn accepts_features(&self, _features: u64) -> bool {
        true
    }

    /// Fills `data` from configuration space at `offset`; bytes past its end are 0. The guest may choose any offset and
    /// length.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Serves a write to configuration space. Most devices have no writable fields.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Takes the queues and starts to work: the driver set DRIVER_OK. After an error the device is inactive and the
    /// queues are dropped.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Ends all work on the queues. After it returns, nothing touches guest memory or the interrupt. Requests in flight
    /// are finished or dropped in bounded time. Does nothing on an inactive device. `activate` may be called again.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: a thread is left behind in one operation of the host, which may still write the buffers
    /// of its request. The transport keeps it away from rings and interrupt. The device must not be activated before
    /// another call has returned `Ok`; that call does not wait.
    fn deactivate(&mut self) -> Result<(), WorkerError>;

    /// Stops all work until `resume`. After it returns, nothing touches guest memory, but unlike `deactivate` the
    /// device keeps its queues and connections. The VMM calls it after the vCPUs have stopped.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: the device does not come to rest, and goes on working as if `resume` had been called.
    fn pause(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Continues after `pause`. Checks every queue once, because notifications may have been missed.
    fn resume(&mut self) {}
}
