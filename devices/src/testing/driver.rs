//! A driver that accesses the registers of a device behind a transport, in the order of VIRTIO 1.2, 3.1.1, or not.

use std::sync::Arc;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::{DriverQueue, Line, TestRam};
use crate::bus::BusDevice;
use crate::virtio::mmio::registers::{self as reg, status};
use crate::virtio::mmio::MmioTransport;
use crate::virtio::{DeviceInterrupt, VirtioDevice};

/// Number of descriptors of a queue, unless the device takes fewer.
const QUEUE_SIZE: u16 = 64;

/// A device behind its transport, and its driver.
pub struct Driver {
    /// The device's registers.
    pub transport: MmioTransport,
    /// Guest memory with an allocator.
    pub ram: TestRam,
    /// The device's interrupt line.
    pub line: Arc<Line>,
    /// The driver's queues, after [`Self::start`].
    pub queues: Vec<DriverQueue>,
    notifiers: Vec<EventFd>,
}

impl Driver {
    /// A device as the VMM puts it on the bus, before any access.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_ram(device, TestRam::new())
    }

    /// Does the same as [`Self::new`], with this memory.
    pub fn with_ram(device: Box<dyn VirtioDevice>, ram: TestRam) -> Self {
        let line = Arc::new(Line::default());
        let interrupt = Arc::new(DeviceInterrupt::new(Box::new(line.clone())));
        let count = device.queue_max_sizes().len();
        let notifiers = || (0..count).map(|_| EventFd::new(EFD_NONBLOCK).expect("an eventfd for a test"));
        let notifiers: Vec<_> = notifiers().collect();
        let clones = notifiers.iter().map(|fd| fd.try_clone().expect("an eventfd for a test")).collect();
        let transport = MmioTransport::new(ram.share(), device, interrupt, clones);
        Self { transport, ram, line, queues: Vec::new(), notifiers }
    }

    /// A new device after [`Self::start`].
    pub fn started(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.start(features);
        driver
    }

    /// Reads the 32-bit register at offset `register`.
    pub fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes the 32-bit register at offset `register`.
    pub fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.read(reg::STATUS)
    }

    /// Adds bits to the status and returns the new status.
    pub fn add_status(&self, bits: u32) -> u32 {
        self.write(reg::STATUS, self.status() | bits);
        self.status()
    }

    /// Reads `len` bytes of configuration space.
    pub fn config(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.transport.read(reg::CONFIG + offset, &mut data);
        data
    }

    /// The features that the device offers.
    pub fn offered(&self) -> u64 {
        let half = |select| {
            self.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Writes the driver's features, exactly as given.
    pub fn choose(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            self.write(reg::DRIVER_FEATURES, half);
        }
    }

    /// Writes a queue's registers and makes it ready. False if the device refuses it.
    pub fn set_up_queue(&self, index: u32, size: u32, [desc, avail, used]: [u64; 3]) -> bool {
        self.write(reg::QUEUE_SEL, index);
        self.write(reg::QUEUE_NUM, size);
        let addresses = [(reg::QUEUE_DESC_LOW, desc), (reg::QUEUE_DRIVER_LOW, avail), (reg::QUEUE_DEVICE_LOW, used)];
        for (register, address) in addresses {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
        self.read(reg::QUEUE_READY) == 1
    }

    /// Resets the device and brings it up to FEATURES_OK.
    pub fn negotiate(&mut self, features: u64) {
        self.write(reg::STATUS, 0);
        assert_eq!(self.status(), 0, "a reset is done when its register has been written");
        self.queues.clear();
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        self.choose(features | 1 << VIRTIO_F_VERSION_1);
        let now = self.add_status(status::FEATURES_OK);
        assert!(now & status::FEATURES_OK != 0, "the device refused features {features:#x}");
    }

    /// Resets the device and brings it up to DRIVER_OK with all its queues, `features` and `VIRTIO_F_VERSION_1`. The
    /// device may ask for a reset at once: [`Self::needs_reset`].
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        for (index, notifier) in (0..).zip(&self.notifiers) {
            self.write(reg::QUEUE_SEL, index);
            let max = u16::try_from(self.read(reg::QUEUE_NUM_MAX)).expect("a queue's size");
            let notify = notifier.try_clone().expect("an eventfd for a test");
            let queue = DriverQueue::with_notify(&self.ram, &self.line, max.min(QUEUE_SIZE), features, notify);
            assert!(self.set_up_queue(index, u32::from(queue.size()), queue.addresses()));
            self.queues.push(queue);
        }
        self.add_status(status::DRIVER_OK);
    }

    /// Whether DEVICE_NEEDS_RESET is set.
    pub fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Waits until the device asks for a reset.
    pub fn wait_needs_reset(&self) {
        loop {
            let seen = self.line.count();
            if self.needs_reset() {
                return;
            }
            self.line.wait_past(seen);
        }
    }

    /// The first queue.
    pub fn queue(&mut self) -> &mut DriverQueue {
        &mut self.queues[0]
    }
}
