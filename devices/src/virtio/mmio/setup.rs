//! A queue while the driver sets it up: the values that it wrote, and their check before they are used.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory};

use crate::ram::{GuestRam, Pins};

/// An invalid value of a queue that the driver wants to make ready.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetupError {
    /// The size is not a power of two or larger than the device's maximum.
    #[error("size {size} is not a power of two up to {max}")]
    Size {
        /// Size from the driver.
        size: u32,
        /// Maximum of the device.
        max: u16,
    },
    /// A ring or table is not aligned (VIRTIO 1.2, 2.7).
    #[error("{part} at {addr:#x} is not aligned")]
    Alignment {
        /// Name of the ring or table.
        part: &'static str,
        /// Guest address.
        addr: u64,
    },
    /// A ring or table is not wholly in guest memory.
    #[error("{part} at {addr:#x} is not in guest memory")]
    Outside {
        /// Name of the ring or table.
        part: &'static str,
        /// Guest address.
        addr: u64,
    },
    /// A ring or table is in memory that is not plugged in.
    #[error("{part} at {addr:#x} is in memory that is not plugged in")]
    NotPlugged {
        /// Name of the ring or table.
        part: &'static str,
        /// Guest address.
        addr: u64,
    },
}

/// The registers of one queue.
#[derive(Clone, Debug)]
pub struct QueueSetup {
    max: u16,
    /// Size as the driver wrote it; it may be too large for a queue.
    pub size: u32,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// The driver has made the queue ready, and its values were valid.
    pub ready: bool,
}

impl QueueSetup {
    /// A queue of up to `max` descriptors, before the driver has written anything.
    pub fn new(max: u16) -> Self {
        Self { max, size: u32::from(max), desc: 0, avail: 0, used: 0, ready: false }
    }

    /// Largest number of descriptors that the device accepts.
    pub fn max(&self) -> u16 {
        self.max
    }

    /// Checks the values and makes a queue of them, with the pins that keep its rings plugged in.
    pub fn build(&self, mem: &GuestRam, event_idx: bool) -> Result<(Queue, Pins), SetupError> {
        let size_error = || SetupError::Size { size: self.size, max: self.max };
        let mut queue = Queue::new(self.max).map_err(|_| size_error())?;
        let size = u16::try_from(self.size).map_err(|_| size_error())?;
        queue.try_set_size(size).map_err(|_| size_error())?;

        let entries = usize::from(size);
        let mut pins = Pins::new();
        let mut part = |name, addr, len| part(mem, name, addr, len, &mut pins);
        let desc = part("descriptor table", self.desc, 16 * entries)?;
        let avail = part("available ring", self.avail, 6 + 2 * entries)?;
        let used = part("used ring", self.used, 6 + 8 * entries)?;
        let unaligned = |part, addr| move |_| SetupError::Alignment { part, addr };
        queue.try_set_desc_table_address(desc).map_err(unaligned("descriptor table", self.desc))?;
        queue.try_set_avail_ring_address(avail).map_err(unaligned("available ring", self.avail))?;
        queue.try_set_used_ring_address(used).map_err(unaligned("used ring", self.used))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok((queue, pins))
    }
}

fn part(
    mem: &GuestRam,
    part: &'static str,
    addr: u64,
    len: usize,
    pins: &mut Pins,
) -> Result<GuestAddress, SetupError> {
    let address = GuestAddress(addr);
    // `virtio_queue` takes address 0 for a ring that was never set.
    if addr == 0 || !mem.check_range(address, len) {
        return Err(SetupError::Outside { part, addr });
    }
    mem.pin(address, len as u64, pins).map_err(|_| SetupError::NotPlugged { part, addr })?;
    Ok(address)
}
