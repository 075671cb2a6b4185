//! Virtio over MMIO, version 2 (VIRTIO 1.2, 4.2): the status machine around a device.
//!
//! ```text
//!          ACKNOWLEDGE     DRIVER        FEATURES_OK       DRIVER_OK
//!   reset ────────────▶ ① ────────▶ ② ─────────────▶ ③ ─────────────▶ live
//!     ▲                             │ features         │ queues          │ config space, notifications;
//!     │                             │ are written      │ are set up      │ the rest is ignored
//!     └──────────── status 0 ───────┴──────────────────┴─────────────────┘ (the device drops its queues)
//! ```
//!
//! vCPU threads call it, several at a time. Interrupt status, acknowledgement and notification need no lock; all other
//! accesses are setup and take one. Writes at the wrong time, at an odd offset or of an odd width are ignored, and such
//! reads return 0.

mod absent;
pub mod registers;
mod setup;

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::EventFd;

use self::absent::Absent;
use self::registers as reg;
use self::registers::status;
use self::setup::QueueSetup;
use super::{ActivateError, Activation, DeviceInterrupt, DeviceQueue, DeviceSession, VirtioDevice};
use crate::bus::BusDevice;
use crate::threads::Threads;
use crate::worker::WorkerError;
use crate::{warn_limited, GuestRam};

/// A device's registers on the bus.
pub struct MmioTransport {
    mem: GuestRam,
    interrupt: Arc<DeviceInterrupt>,
    notifiers: Vec<EventFd>,
    state: Mutex<State>,
}

struct State {
    device: Box<dyn VirtioDevice>,
    threads: Threads,
    /// The offered features, fixed from one reset to the next even if the device changes in the meantime.
    offered: u64,
    /// The status without DEVICE_NEEDS_RESET, which is in the interrupt.
    status: u32,
    features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueSetup>,
    /// The device is active: it has its queues.
    active: bool,
    /// The session of the driver, while the device is active.
    session: Option<DeviceSession>,
    /// The device is inactive, but a thread of its last session has not ended.
    stuck: bool,
}

impl MmioTransport {
    /// `notifiers` has one non-blocking eventfd per queue, which the VMM registers as ioeventfds of QueueNotify.
    ///
    /// # Panics
    /// If the numbers of notifiers and queues differ: a mistake of the VMM.
    pub fn new(
        mem: GuestRam,
        device: Box<dyn VirtioDevice>,
        interrupt: Arc<DeviceInterrupt>,
        notifiers: Vec<EventFd>,
    ) -> Self {
        let queues: Vec<_> = device.queue_max_sizes().iter().map(|max| QueueSetup::new(*max)).collect();
        assert_eq!(queues.len(), notifiers.len(), "{} needs one notifier for each queue", device.name());
        let state = State {
            offered: offered(device.as_ref()),
            device,
            threads: Threads::default(),
            status: 0,
            features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues,
            active: false,
            session: None,
            stuck: false,
        };
        Self { mem, interrupt, notifiers, state: Mutex::new(state) }
    }

    /// Sets the rules for the device's threads. Without this call there are none.
    #[must_use]
    pub fn with_threads(mut self, threads: Threads) -> Self {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).threads = threads;
        self
    }

    /// Pauses the device's work. The vCPUs must have stopped. After it returns, nothing touches guest memory, and no
    /// interrupt is raised before [`Self::device_resume`].
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: a thread of the device, or one left behind by a former session, waits for the host. The
    /// device goes on working.
    pub fn device_pause(&self) -> Result<(), WorkerError> {
        let mut state = self.lock();
        if state.stuck {
            state.deactivate_again()?;
        }
        if state.active {
            state.device.pause()?;
        }
        self.interrupt.hold();
        Ok(())
    }

    /// Continues the work after [`Self::device_pause`], before the vCPUs start. Does nothing to a device that is not
    /// paused.
    pub fn device_resume(&self) {
        let mut state = self.lock();
        self.interrupt.release();
        if state.active {
            state.device.resume();
        }
    }

    /// Ends the device's work. After it returns, nothing touches guest memory, unless the host does not answer a thread
    /// of the device: the log then has an error. The vCPUs must have stopped.
    pub fn device_shutdown(&self) {
        let mut state = self.lock();
        state.deactivate();
        state.status = 0;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A device that panicked while it was locked is reset by its driver like any other.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::DEVICE_VERSION => reg::VERSION,
            reg::VENDOR_ID => reg::VENDOR,
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::CONFIG_GENERATION => self.interrupt.generation(),
            // 4.2.2: no shared memory region has length -1.
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => u32::MAX,
            _ => {
                let mut state = self.lock();
                match offset {
                    reg::STATUS => self.status(&mut state),
                    reg::DEVICE_ID => state.device.device_type(),
                    reg::DEVICE_FEATURES => half(state.offered, state.features_sel),
                    reg::QUEUE_NUM_MAX => state.queue().map_or(0, |queue| u32::from(queue.max())),
                    reg::QUEUE_READY => state.queue().map_or(0, |queue| u32::from(queue.ready)),
                    _ => 0,
                }
            }
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::QUEUE_NOTIFY => self.notify(value),
            _ => {
                let mut state = self.lock();
                match offset {
                    reg::DEVICE_FEATURES_SEL => state.features_sel = value,
                    reg::DRIVER_FEATURES_SEL => state.driver_features_sel = value,
                    reg::DRIVER_FEATURES => state.choose_features(value),
                    reg::QUEUE_SEL => state.queue_sel = value,
                    reg::QUEUE_READY => self.make_ready(&mut state, value),
                    reg::STATUS if value == 0 => self.reset(&mut state),
                    reg::STATUS => self.advance(&mut state, value),
                    _ => state.set_up_queue(offset, value),
                }
            }
        }
    }

    /// Handles a notification that did not go to an ioeventfd.
    fn notify(&self, queue: u32) {
        let Some(notifier) = usize::try_from(queue).ok().and_then(|queue| self.notifiers.get(queue)) else { return };
        if let Err(error) = notifier.write(1) {
            // Only a full counter refuses a write, and a full counter wakes the device too.
            log::debug!("notification of queue {queue}: {error}");
        }
    }

    /// The status register. A reset whose thread has ended since then is complete.
    fn status(&self, state: &mut State) -> u32 {
        self.settle(state);
        let asks = self.interrupt.needs_reset() || state.stuck;
        state.status | if asks { status::NEEDS_RESET } else { 0 }
    }

    /// Completes a reset or a stop if the thread that was left behind has ended.
    fn settle(&self, state: &mut State) {
        if state.stuck && state.deactivate_again().is_ok() {
            log::info!("{}: the thread that did not stop has ended", state.device.name());
        }
    }

    /// Resets the device (2.4). If a thread of the device does not end, the status is not 0 until it has ended: the
    /// driver has to wait for that (2.4.2).
    fn reset(&self, state: &mut State) {
        state.deactivate();
        self.settle(state);
        self.interrupt.clear();
        state.offered = offered(state.device.as_ref());
        state.status = 0;
        state.features_sel = 0;
        state.driver_features_sel = 0;
        state.driver_features = 0;
        state.queue_sel = 0;
        for queue in &mut state.queues {
            *queue = QueueSetup::new(queue.max());
        }
    }

    /// Sets status bits, each only after the one before it (3.1.1). Only a reset clears bits.
    fn advance(&self, state: &mut State, value: u32) {
        let value = value & !status::NEEDS_RESET;
        if state.status & !value != 0 || state.status & status::FAILED != 0 {
            return;
        }
        let steps =
            [(status::ACKNOWLEDGE, 0), (status::DRIVER, status::ACKNOWLEDGE), (status::FEATURES_OK, status::DRIVER)];
        for (bit, after) in steps {
            let possible = state.status & after == after
                && (bit != status::FEATURES_OK || value & bit & !state.status == 0 || self.agree(state));
            if value & bit != 0 && possible {
                state.status |= bit;
            }
        }
        if value & status::FAILED != 0 {
            state.status |= status::FAILED;
            state.deactivate();
        } else if value & status::DRIVER_OK & !state.status != 0 && state.status & status::FEATURES_OK != 0 {
            state.status |= status::DRIVER_OK;
            self.activate(state);
        }
    }

    /// Whether FEATURES_OK can be set (2.2.2).
    fn agree(&self, state: &State) -> bool {
        let features = state.driver_features;
        let good = features & !state.offered == 0
            && features & 1 << VIRTIO_F_VERSION_1 != 0
            && state.device.accepts_features(features);
        if !good {
            warn_limited!("{}: refused features {features:#x} of the guest driver", state.device.name());
        }
        good
    }

    /// Activates the device: DRIVER_OK was set.
    fn activate(&self, state: &mut State) {
        let session = DeviceSession::new();
        match self.try_activate(state, &session) {
            Ok(()) => {
                state.active = true;
                state.session = Some(session);
            }
            Err(error) => {
                session.end();
                warn_limited!("{}: cannot start: {error}", state.device.name());
                self.interrupt.need_reset();
            }
        }
    }

    fn try_activate(&self, state: &mut State, session: &DeviceSession) -> Result<(), String> {
        if state.stuck {
            state.deactivate_again().map_err(|error| ActivateError::Stuck(error).to_string())?;
        }
        let activation = Activation {
            mem: self.mem.clone(),
            queues: self.queues(state, session)?,
            interrupt: Arc::new(self.interrupt.for_session(session.clone())),
            features: state.driver_features,
            threads: state.threads.clone(),
        };
        state.elsewhere(|device| device.activate(activation)).map_err(|error| error.to_string())
    }

    fn queues(&self, state: &State, session: &DeviceSession) -> Result<Vec<Option<DeviceQueue>>, String> {
        let event_idx = state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let queues = state.queues.iter().zip(&self.notifiers);
        queues
            .map(|(setup, notifier)| {
                if !setup.ready {
                    return Ok(None);
                }
                let (queue, pins) = setup.build(&self.mem, event_idx).map_err(|error| error.to_string())?;
                let notify = notifier.try_clone().map_err(|error| format!("notifier: {error}"))?;
                Ok(Some(DeviceQueue::new(queue, notify).in_session(session.clone()).pinned(pins)))
            })
            .collect()
    }

    /// Handles a write to QueueReady. After DRIVER_OK a driver can only take a queue back, which stops the whole
    /// device: 4.2.2.2 forbids access to the queue once the driver has read 0 back, and no known driver continues
    /// without a reset.
    fn make_ready(&self, state: &mut State, value: u32) {
        let live = state.status & status::DRIVER_OK != 0;
        let (mem, name) = (&self.mem, state.device.name().to_owned());
        let configurable = state.configurable();
        let Some(queue) = state.queue_mut() else { return };
        if value == 0 {
            let was_ready = std::mem::replace(&mut queue.ready, false);
            if live && was_ready {
                state.deactivate();
                self.interrupt.need_reset();
            }
        } else if value == 1 && configurable && !queue.ready {
            match queue.build(mem, false) {
                Ok(_) => queue.ready = true,
                Err(error) => warn_limited!("{name}: the guest driver set up an invalid queue: {error}"),
            }
        }
    }
}

impl State {
    fn queue(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn queue_mut(&mut self) -> Option<&mut QueueSetup> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    /// Whether queues can be set up: between FEATURES_OK and DRIVER_OK.
    fn configurable(&self) -> bool {
        self.status & (status::FEATURES_OK | status::DRIVER_OK | status::FAILED) == status::FEATURES_OK
    }

    fn choose_features(&mut self, value: u32) {
        if self.status & (status::DRIVER | status::FEATURES_OK | status::FAILED) != status::DRIVER {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            // Bits past 63 are never offered, and asking for one must fail. Bit 63 is never offered either: use it for
            // that.
            _ if value != 0 => self.driver_features |= 1 << 63,
            _ => {}
        }
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        if !self.configurable() {
            return;
        }
        let Some(queue) = self.queue_mut().filter(|queue| !queue.ready) else { return };
        match offset {
            reg::QUEUE_NUM => queue.size = value,
            reg::QUEUE_DESC_LOW => set_low(&mut queue.desc, value),
            reg::QUEUE_DESC_HIGH => set_high(&mut queue.desc, value),
            reg::QUEUE_DRIVER_LOW => set_low(&mut queue.avail, value),
            reg::QUEUE_DRIVER_HIGH => set_high(&mut queue.avail, value),
            reg::QUEUE_DEVICE_LOW => set_low(&mut queue.used, value),
            reg::QUEUE_DEVICE_HIGH => set_high(&mut queue.used, value),
            _ => {}
        }
    }

    fn deactivate(&mut self) {
        if !std::mem::take(&mut self.active) {
            return;
        }
        if let Err(error) = self.elsewhere(|device| device.deactivate()) {
            log::error!("{}: {error}; it stays out of use until the thread has ended", self.device.name());
            self.stuck = true;
        }
        if let Some(session) = self.session.take() {
            session.end();
        }
    }

    /// Asks again for the end of the thread that was left behind, without waiting.
    fn deactivate_again(&mut self) -> Result<(), WorkerError> {
        self.elsewhere(|device| device.deactivate())?;
        self.stuck = false;
        Ok(())
    }

    /// Does `operation` with the device where threads may be made and files opened, which is not here: this is a vCPU
    /// thread, or one that keeps the machine.
    fn elsewhere<T: Send + 'static>(
        &mut self,
        operation: impl FnOnce(&mut dyn VirtioDevice) -> T + Send + 'static,
    ) -> T {
        let mut device = std::mem::replace(&mut self.device, Box::new(Absent));
        let (device, result) = self.threads.call(move || {
            let result = catch_unwind(AssertUnwindSafe(|| operation(device.as_mut())));
            (device, result)
        });
        self.device = device;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.deactivate();
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            self.lock().device.read_config(offset, data);
        } else if offset.is_multiple_of(4) && data.len() == 4 {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            let mut state = self.lock();
            if state.status & status::DRIVER != 0 {
                state.device.write_config(offset, data);
            }
        } else if let (0, Ok(value)) = (offset % 4, data.try_into()) {
            self.write_register(offset, u32::from_le_bytes(value));
        }
    }
}

fn offered(device: &dyn VirtioDevice) -> u64 {
    device.features() | 1 << VIRTIO_F_VERSION_1
}

/// The half of `features` that `select` names.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
