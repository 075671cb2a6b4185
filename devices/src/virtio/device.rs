//! What a virtio device is to the transport and the VMM.
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
use crate::GuestRam;

/// Features of the rings themselves, which every device here can offer: indirect descriptors and event indices
/// (VIRTIO 1.2, 2.7.5.3 and 2.7.10). [`DeviceQueue`] handles both.
pub const RING_FEATURES: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Fills `data` from `config` at `offset`; bytes past its end are 0. What most devices do in
/// [`VirtioDevice::read_config`].
pub fn config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    data.fill(0);
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}

/// Everything a device gets when the driver is ready.
pub struct Activation {
    /// Guest memory.
    pub mem: GuestRam,
    /// As many as `queue_max_sizes` had entries; `None` for one the driver did not enable.
    pub queues: Vec<Option<DeviceQueue>>,
    /// The device's way to the guest.
    pub interrupt: Arc<DeviceInterrupt>,
    /// Features that both sides agreed on.
    pub features: u64,
}

/// Why a device could not start. The transport answers the guest with DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left a queue out that the device cannot do without.
    #[error("the guest driver did not enable queue {0}")]
    MissingQueue(usize),
    /// The host could not give what the device needs.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// A device behind a virtio transport.
///
/// The transport calls from a vCPU thread with the device locked, so every method returns soon: work happens in the
/// device's own workers, which own the queues between `activate` and `deactivate`.
pub trait VirtioDevice: Send {
    /// Device id (VIRTIO 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Name for logs and threads, such as `blk0`.
    fn name(&self) -> &str;

    /// One entry per queue: the largest size the device takes, a power of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// Features the device offers. The transport adds `VIRTIO_F_VERSION_1` and clears what the driver does not know.
    fn features(&self) -> u64;

    /// Whether the device can work with this choice among the features it offers: some need others. The transport
    /// leaves FEATURES_OK clear if not (VIRTIO 1.2, 2.2.2).
    fn accepts_features(&self, _features: u64) -> bool {
        true
    }

    /// Fills `data` from configuration space at `offset`; bytes past its end are 0. Any offset and length may come.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes configuration space. Most devices have nothing writable.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver set DRIVER_OK. Takes the queues.
    ///
    /// # Errors
    /// See [`ActivateError`]; the device is then inactive and the queues are gone.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Ends all work on the queues: after it returns, nothing touches guest memory or the interrupt. Requests in
    /// flight are finished or dropped, in bounded time. A no-op on an inactive device. `activate` may come again.
    fn deactivate(&mut self);

    /// Holds all work until `resume`; as `deactivate`, nothing touches guest memory after it returns, but queues and
    /// connections stay. Called by the VMM after the vCPUs have stopped.
    fn pause(&mut self) {}

    /// Goes on after `pause`, looking at every queue once since notifications may have been missed.
    fn resume(&mut self) {}
}
