//! Devices with one queue, whose requests are served one after the other on a thread of the device: entropy, disk,
//! memory.
//!
//! A [`Service`] is the part that differs between such devices; [`OneQueue`] makes a virtio device of it. The driver's
//! notification wakes the device's thread, on which `ServiceWorker::serve` takes requests off the queue and calls
//! [`Service::serve`] for each.

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::device::{config_bytes, RING_FEATURES};
use super::queue::retire;
use super::{ActivateError, Activation, Chain, ChainError, DeviceInterrupt, DeviceQueue, VirtioDevice};
use crate::threads::ThreadKind;
use crate::worker::{Next, Poller, Worker, WorkerError, WorkerSlot};
use crate::GuestRam;

const NOTIFY: u64 = 0;

/// The identity of a device with one queue, and its handler of requests.
pub trait Service: Send + Sync + 'static {
    /// Device id (VIRTIO 1.2, section 5).
    const DEVICE_TYPE: u32;
    /// Largest size of the queue, a power of two.
    const QUEUE_SIZE: u16;
    /// The work of the device's thread.
    const THREAD: ThreadKind;

    /// Features that the device offers.
    fn features(&self) -> u64 {
        RING_FEATURES
    }

    /// Whether the service can work with these of its features.
    fn accepts_features(&self, _features: u64) -> bool {
        true
    }

    /// Configuration space; bytes past its end are 0.
    fn config(&self) -> impl AsRef<[u8]> {
        []
    }

    /// Gives the service the interrupt of a new driver, or `None` when the driver has gone. Only a service that changes
    /// its configuration space needs it.
    fn connect(&self, _interrupt: Option<Arc<DeviceInterrupt>>) {}

    /// Serves one request on the device's thread. Returns the number of bytes written from the start of its writable
    /// buffers.
    ///
    /// # Errors
    /// The request breaks the protocol: the device stops until the driver resets it.
    fn serve(&self, session: &DriverSession, chain: &Chain) -> Result<u32, ChainError>;
}

/// The context of requests from activation to deactivation.
pub struct DriverSession {
    /// The device's name in logs.
    pub name: String,
    /// Guest memory.
    pub mem: GuestRam,
    /// The negotiated features.
    pub features: u64,
}

/// A virtio device that is one [`Service`].
pub struct OneQueue<S> {
    name: String,
    service: Arc<S>,
    worker: WorkerSlot<ServiceWorker<S>>,
}

impl<S: Service> OneQueue<S> {
    /// Returns a device for `service`. `name` appears in logs and names the thread.
    pub(super) fn of(name: impl Into<String>, service: Arc<S>) -> Self {
        Self { name: name.into(), service, worker: WorkerSlot::new() }
    }

    /// Sets the time that the device waits for its thread, for tests.
    #[cfg(test)]
    pub(super) fn with_stop_timeout(self, timeout: std::time::Duration) -> Self {
        Self { worker: WorkerSlot::with_timeout(timeout), ..self }
    }
}

impl<S: Service> VirtioDevice for OneQueue<S> {
    fn device_type(&self) -> u32 {
        S::DEVICE_TYPE
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_max_sizes(&self) -> &[u16] {
        const { &[S::QUEUE_SIZE] }
    }

    fn features(&self) -> u64 {
        self.service.features()
    }

    fn accepts_features(&self, features: u64) -> bool {
        self.service.accepts_features(features)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_bytes(self.service.config().as_ref(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.worker.stop()?;
        let Activation { mem, queues, interrupt, features, threads } = activation;
        let queue = queues.into_iter().flatten().next().ok_or(ActivateError::MissingQueue(0))?;
        let session = DriverSession { name: self.name.clone(), mem, features };
        // Before the thread runs, so that no interrupt of the service is lost.
        self.service.connect(Some(interrupt.clone()));
        let worker = ServiceWorker { service: self.service.clone(), session, queue, interrupt };
        self.worker.start(threads.start(S::THREAD), &self.name, worker).map_err(|source| {
            self.service.connect(None);
            ActivateError::Host { what: "starting the device's thread", source }
        })
    }

    fn deactivate(&mut self) -> Result<(), WorkerError> {
        self.service.connect(None);
        self.worker.stop().map(drop)
    }

    fn pause(&mut self) -> Result<(), WorkerError> {
        self.worker.pause()
    }

    fn resume(&mut self) {
        self.worker.resume();
    }
}

/// The worker of an active device.
struct ServiceWorker<S> {
    service: Arc<S>,
    session: DriverSession,
    queue: DeviceQueue,
    interrupt: Arc<DeviceInterrupt>,
}

impl<S: Service> ServiceWorker<S> {
    fn serve(&mut self, poller: &Poller) -> Next {
        let Self { service, session, queue, interrupt } = self;
        let rest_wanted = || poller.rest_wanted();
        match queue.serve(&session.mem, interrupt, rest_wanted, |chain| service.serve(session, chain)) {
            Ok(()) => Next::Continue,
            Err(error) => retire(&session.name, interrupt, &error),
        }
    }
}

impl<S: Service> Worker for ServiceWorker<S> {
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.queue.notify, NOTIFY, EventSet::IN)
    }

    fn resumed(&mut self, poller: &Poller) -> Next {
        self.serve(poller)
    }

    fn ready(&mut self, _token: u64, _events: EventSet, poller: &Poller) -> Next {
        self.queue.drain_notify();
        self.serve(poller)
    }

    fn failed(&mut self) {
        self.interrupt.need_reset();
    }
}

#[cfg(test)]
#[path = "one_queue_tests.rs"]
mod tests;
