//! The device (VIRTIO 1.2, 5.10) and its worker: one thread that moves packets between the queues and the muxer.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::signal::block_signal;

use super::handle::{Shared, VsockHandle};
use super::muxer::Muxer;
use super::packet::{Header, HEADER_LEN};
use super::rx::RxRing;
use crate::virtio::device::{config_bytes, RING_FEATURES};
use crate::virtio::{ActivateError, Activation, Chain, DeviceInterrupt, DeviceQueue, QueueError, VirtioDevice};
use crate::worker::{Next, Poller, Worker, WorkerHandle};
use crate::{warn_limited, GuestRam};

/// Receive, transmit, event (5.10.2). Sized so that 64 KiB in 4 KiB pages and their headers fit many times.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
const RX: usize = 0;
const TX: usize = 1;

/// Packets handled in one go per direction, so that a stop is seen soon.
const BATCH: usize = QUEUE_SIZES[TX] as usize;

const RX_TOKEN: u64 = 0;
const TX_TOKEN: u64 = 1;
const WAKE_TOKEN: u64 = 2;
const HOST_TOKEN: u64 = 3;

/// How a vsock device is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address, 3 or more and below 2^32 - 1 (5.10.4). The host's is 2.
    pub guest_cid: u64,
}

/// A vsock device whose host side is in this process.
pub struct Vsock {
    guest_cid: u64,
    shared: Arc<Shared>,
    worker: Option<WorkerHandle<VsockWorker>>,
}

impl Vsock {
    /// The device, and the way for the host to use it.
    pub fn new(config: VsockConfig) -> (Self, VsockHandle) {
        let shared = Arc::new(Shared::default());
        let handle = VsockHandle::new(shared.clone());
        (Self { guest_cid: config.guest_cid, shared, worker: None }, handle)
    }

    fn start(&self, rx: DeviceQueue, tx: DeviceQueue, activation: Parts) -> io::Result<WorkerHandle<VsockWorker>> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let muxer = Muxer::new(self.guest_cid, self.shared.clone())?;
        self.shared.set_wake(Some(wake.try_clone()?));
        let Parts { mem, interrupt } = activation;
        let worker = VsockWorker { mem, interrupt, rx, tx, wake, muxer };
        WorkerHandle::spawn("vsock", worker)
    }
}

/// What the worker takes from an activation besides queues.
struct Parts {
    mem: GuestRam,
    interrupt: Arc<DeviceInterrupt>,
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

    /// Streams alone, which needs no feature of its own (5.10.3).
    fn features(&self) -> u64 {
        RING_FEATURES
    }

    /// `guest_cid` (5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.deactivate();
        let mut queues = activation.queues.into_iter();
        let mut take = |index| queues.next().flatten().ok_or(ActivateError::MissingQueue(index));
        // The event queue reports a migration, which does not exist here; a driver may leave it out.
        let (rx, tx) = (take(RX)?, take(TX)?);
        let parts = Parts { mem: activation.mem, interrupt: activation.interrupt };
        match self.start(rx, tx, parts) {
            Ok(worker) => self.worker = Some(worker),
            Err(source) => {
                self.shared.set_wake(None);
                return Err(ActivateError::Host { what: "start the vsock worker", source });
            }
        }
        Ok(())
    }

    fn deactivate(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        self.shared.set_wake(None);
        match worker.stop() {
            Ok(mut worker) => worker.finish(),
            Err(error) => log::error!("{error}; its vsock connections are lost"),
        }
    }

    fn pause(&mut self) {
        if let Some(Err(error)) = self.worker.as_ref().map(WorkerHandle::pause) {
            log::error!("{error}");
        }
    }

    fn resume(&mut self) {
        if let Some(worker) = &self.worker {
            worker.resume();
        }
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.deactivate();
        self.shared.close();
    }
}

/// The inside of the device's thread.
struct VsockWorker {
    mem: GuestRam,
    interrupt: Arc<DeviceInterrupt>,
    rx: DeviceQueue,
    tx: DeviceQueue,
    wake: EventFd,
    muxer: Muxer,
}

impl VsockWorker {
    /// Moves what can be moved. An error is the driver's fault, or the kernel's.
    fn round(&mut self) -> Next {
        match self.try_round() {
            Ok(more) => {
                if more {
                    self.tx.notify_self();
                }
                Next::Continue
            }
            Err(error) => {
                warn_limited!("vsock stops until the guest resets it: {error}");
                self.failed();
                Next::Retire
            }
        }
    }

    /// True if a batch ended before the work did.
    fn try_round(&mut self) -> Result<bool, QueueError> {
        let more_packets = self.take_packets()?;
        let more_buffers = self.fill()?;
        self.tx.signal(&self.mem, &self.interrupt)?;
        self.rx.signal(&self.mem, &self.interrupt)?;
        Ok(more_packets || more_buffers)
    }

    /// Guest to host. Always possible: a slow host's bytes are bounded by credit and kept aside.
    fn take_packets(&mut self) -> Result<bool, QueueError> {
        self.tx.disable_notifications(&self.mem)?;
        for _ in 0..BATCH {
            let chain = match self.tx.pop(&self.mem)? {
                Some(chain) => chain,
                None if self.tx.enable_notifications(&self.mem)? => continue,
                None => return Ok(false),
            };
            self.packet(&chain);
            self.tx.complete(&self.mem, chain.head(), 0)?;
        }
        Ok(true)
    }

    fn packet(&mut self, chain: &Chain) {
        let mut reader = chain.reader(&self.mem);
        let mut bytes = [0; HEADER_LEN];
        match reader.read_exact(&mut bytes) {
            Ok(()) => self.muxer.packet(&Header::parse(&bytes), reader),
            Err(error) => warn_limited!("vsock packet dropped: {error}"),
        }
    }

    /// Host to guest. The driver notifies of new buffers only while packets wait for them.
    fn fill(&mut self) -> Result<bool, QueueError> {
        self.rx.disable_notifications(&self.mem)?;
        let mut budget = BATCH;
        loop {
            let mut ring = RxRing::new(&mut self.rx, &self.mem, budget);
            let more = self.muxer.fill(&mut ring)?;
            budget = ring.budget();
            if more || !self.muxer.has_work() || !self.rx.enable_notifications(&self.mem)? {
                return Ok(more);
            }
        }
    }

    fn host_events(&mut self) {
        if let Err(error) = self.muxer.host_events() {
            log::error!("vsock: cannot ask for events of sockets: {error}");
        }
    }

    /// The driver is gone. What it sent before is still delivered: guests print and exit.
    fn finish(&mut self) {
        if let Err(error) = self.take_packets() {
            log::debug!("last packets of a vsock driver: {error}");
        }
        self.muxer.commands();
        self.muxer.disconnect();
    }
}

impl Worker for VsockWorker {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.rx.notify, RX_TOKEN, EventSet::IN)?;
        poller.add(&self.tx.notify, TX_TOKEN, EventSet::IN)?;
        poller.add(&self.wake, WAKE_TOKEN, EventSet::IN)?;
        poller.add(&self.muxer, HOST_TOKEN, EventSet::IN)
    }

    fn resumed(&mut self, _poller: &Poller) -> Next {
        // A closed host end is an error of `writev` here. After a pause it is blocked already, which is an error.
        drop(block_signal(libc::SIGPIPE));
        self.muxer.commands();
        self.host_events();
        self.round()
    }

    fn ready(&mut self, token: u64, _events: EventSet, _poller: &Poller) -> Next {
        match token {
            RX_TOKEN => self.rx.drain_notify(),
            TX_TOKEN => self.tx.drain_notify(),
            WAKE_TOKEN => {
                // Another event may have taken it.
                drop(self.wake.read());
                self.muxer.commands();
            }
            _ => self.host_events(),
        }
        self.round()
    }

    fn deadline(&self) -> Option<Instant> {
        self.muxer.deadline()
    }

    fn expired(&mut self, _poller: &Poller) -> Next {
        self.muxer.expire(Instant::now());
        self.round()
    }

    fn failed(&mut self) {
        self.muxer.disconnect();
        self.interrupt.need_reset();
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
