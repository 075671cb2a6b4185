//! The vsock device (VIRTIO 1.2, 5.10): its configuration space and its worker.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::handle::{VsockHandle, VsockShared};
use super::muxer::Muxer;
use super::worker::VsockWorker;
use crate::threads::{ThreadKind, Threads};
use crate::virtio::device::{config_bytes, RING_FEATURES};
use crate::virtio::{ActivateError, Activation, DeviceInterrupt, DeviceQueue, VirtioDevice};
use crate::worker::{WorkerError, WorkerSlot};
use crate::GuestRam;

/// Sizes of the receive, transmit and event queue (5.10.2). 64 KiB in pages of 4 KiB with headers fit many times.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
const RX: usize = 0;
const TX: usize = 1;

/// The options of a vsock device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockDeviceConfig {
    /// The guest's address, from 3 to 2^32 - 2 (5.10.4). The host's address is 2.
    pub guest_cid: u64,
}

/// A vsock device with the host's side in this process.
pub struct Vsock {
    guest_cid: u64,
    shared: Arc<VsockShared>,
    worker: WorkerSlot<VsockWorker>,
}

impl Vsock {
    /// A device and the handle of its host's side.
    pub fn new(config: VsockDeviceConfig) -> (Self, VsockHandle) {
        let shared = Arc::new(VsockShared::default());
        let handle = VsockHandle::new(shared.clone());
        (Self { guest_cid: config.guest_cid, shared, worker: WorkerSlot::new() }, handle)
    }

    fn start(&mut self, rx: DeviceQueue, tx: DeviceQueue, activation: Parts) -> io::Result<()> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let muxer = Muxer::new(self.guest_cid, self.shared.clone())?;
        self.shared.set_wake(Some(wake.try_clone()?));
        let Parts { mem, interrupt, threads } = activation;
        let worker = VsockWorker { mem, interrupt, rx, tx, wake, muxer };
        self.worker.start(threads.start(ThreadKind::Sockets), "vsock", worker)
    }
}

/// The parts of an activation that the worker needs besides the queues.
struct Parts {
    mem: GuestRam,
    interrupt: Arc<DeviceInterrupt>,
    threads: Threads,
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn name(&self) -> &str {
        "vsock"
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// Streams only, which need no feature of their own (5.10.3).
    fn features(&self) -> u64 {
        RING_FEATURES
    }

    /// `guest_cid` (5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.deactivate()?;
        let mut queues = activation.queues.into_iter();
        let mut take = |index| queues.next().flatten().ok_or(ActivateError::MissingQueue(index));
        // The event queue only reports migrations, which do not exist here: a driver may leave it out.
        let (rx, tx) = (take(RX)?, take(TX)?);
        let Activation { mem, interrupt, threads, .. } = activation;
        let parts = Parts { mem, interrupt, threads };
        self.start(rx, tx, parts).map_err(|source| {
            self.shared.set_wake(None);
            ActivateError::Host { what: "starting the vsock device's thread", source }
        })
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        self.shared.set_wake(None);
        if let Some(mut worker) = self.worker.stop()? {
            worker.finish();
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), WorkerError> {
        self.worker.pause()
    }

    fn resume(&mut self) {
        self.worker.resume();
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        if let Err(error) = self.deactivate() {
            log::error!("{error}");
        }
        self.shared.close();
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
