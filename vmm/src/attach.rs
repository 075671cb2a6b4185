//! Connects devices to buses, interrupts (irqfd) and queue notifications (ioeventfd). Used by the builder.

use std::error::Error;
use std::io;
use std::sync::Arc;

use hutch_devices::bus::{Bus, BusDevice};
use hutch_devices::threads::Threads;
use hutch_devices::virtio::mmio::MmioTransport;
use hutch_devices::virtio::{DeviceInterrupt, VirtioDevice};
use hutch_devices::GuestRam;
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

use crate::arch::x86_64::acpi::VirtioNode;
use crate::arch::x86_64::layout;
use crate::hv::{HvError, Ioeventfd, Vm};

/// Why a device could not be created or connected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The device reported an error.
    #[error("cannot set up device {id}")]
    Device { id: String, source: Box<dyn Error + Send + Sync> },
    /// The process has no descriptor left for queue notifications.
    #[error("no eventfd for device {id}; raise the limit of open files (`ulimit -n`)")]
    Notifier { id: String, source: io::Error },
    /// The hypervisor refused the irqfd or an ioeventfd.
    #[error("cannot connect device {id} to the machine")]
    Connect { id: String, source: HvError },
}

/// The devices added so far.
#[derive(Default)]
pub struct Devices {
    /// For the devices' threads.
    pub threads: Threads,
    /// Bus for memory-mapped I/O.
    pub mmio: Bus,
    /// Bus for port I/O.
    pub pio: Bus,
    /// For pause, resume and shutdown, in the order in which they were added.
    pub transports: Vec<Arc<MmioTransport>>,
    /// Windows and interrupts of the virtio devices, for ACPI or the command line.
    pub nodes: Vec<VirtioNode>,
}

impl Devices {
    /// Puts a virtio device behind the next free window and interrupt pin. One is free: the configuration limits the
    /// number of devices.
    pub fn add(&mut self, vm: &dyn Vm, ram: &GuestRam, device: Box<dyn VirtioDevice>) -> Result<(), AttachError> {
        let id = device.name().to_owned();
        let index = self.nodes.len();
        assert!(index < layout::MAX_VIRTIO_DEVICES, "the number of devices was checked with the configuration");
        let node = VirtioNode {
            address: layout::VIRTIO_MMIO + index as u64 * layout::VIRTIO_MMIO_SIZE,
            gsi: layout::VIRTIO_GSI + index as u32,
        };
        let connect = |source| AttachError::Connect { id: id.clone(), source };
        let notifier = |source| AttachError::Notifier { id: id.clone(), source };

        let irqfd = vm.register_irqfd(node.gsi).map_err(connect)?;
        let interrupt = Arc::new(DeviceInterrupt::new(Box::new(irqfd)));
        let mut notifiers = Vec::new();
        for queue in 0..device.queue_max_sizes().len() {
            let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(notifier)?;
            let ioeventfd =
                Ioeventfd::Mmio { address: node.address + layout::VIRTIO_QUEUE_NOTIFY, value: queue as u32 };
            vm.register_ioeventfd(ioeventfd, &event).map_err(connect)?;
            notifiers.push(event);
        }
        let transport = MmioTransport::new(ram.clone(), device, interrupt, notifiers);
        let transport = Arc::new(transport.with_threads(self.threads.clone()));
        self.mmio
            .insert(node.address, layout::VIRTIO_MMIO_SIZE, transport.clone())
            .expect("windows lie side by side and overlap nothing else");
        self.transports.push(transport);
        self.nodes.push(node);
        Ok(())
    }

    /// Puts a device on I/O ports, at a place that the layout fixes.
    pub fn add_ports(&mut self, base: u16, len: u16, device: Arc<dyn BusDevice>) {
        self.pio.insert(base.into(), len.into(), device).expect("the layout's ports do not overlap");
    }
}
