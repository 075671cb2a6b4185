//! The driver's side, for the tests of every device: guest memory, queues as a driver writes them (well or badly), an
//! interrupt line to wait for, and a device for a bus that records its accesses.
//!
//! Everything here panics when an assumption of a test fails. A wait panics after [`TEST_TIMEOUT`].

#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        reason = "only for tests, which may panic; no guest runs here"
    )
)]

pub mod bus;
pub mod driver;
pub mod line;
pub mod queue;
pub mod ram;

use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;

use crate::threads::Threads;
use crate::virtio::{Activation, DeviceInterrupt, VirtioDevice};

pub use bus::BusRecorder;
pub use driver::Driver;
pub use line::Line;
pub use queue::{Buffer, Descriptor, DriverQueue, SentRequest, Used};
pub use ram::TestRam;

/// Longest wait for a device.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// A device that was activated without a transport, and its driver's side.
pub struct Activated {
    /// Guest memory with an allocator.
    pub ram: TestRam,
    /// The device's side of the interrupt.
    pub interrupt: Arc<DeviceInterrupt>,
    /// The driver's side of the interrupt.
    pub line: Arc<Line>,
    /// All queues of the device, ready.
    pub queues: Vec<DriverQueue>,
}

/// Activates `device` with all its queues, of `size` entries each, `features` and `VIRTIO_F_VERSION_1`.
pub fn activate(device: &mut dyn VirtioDevice, features: u64, size: u16) -> Activated {
    let ram = TestRam::new();
    let line = Arc::new(Line::default());
    let interrupt = Arc::new(DeviceInterrupt::new(Box::new(line.clone())));
    let queues: Vec<_> =
        device.queue_max_sizes().to_vec().iter().map(|_| DriverQueue::new(&ram, &line, size, features)).collect();
    let activation = Activation {
        mem: ram.share(),
        queues: queues.iter().map(|queue| Some(queue.device_side())).collect(),
        interrupt: interrupt.clone(),
        features: features | 1 << VIRTIO_F_VERSION_1,
        threads: Threads::default(),
    };
    device.activate(activation).expect("the device can be activated");
    Activated { ram, interrupt, line, queues }
}
