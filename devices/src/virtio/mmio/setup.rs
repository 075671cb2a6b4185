//! A queue while the driver sets it up: what it wrote, and the check before anything believes it.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

/// Why a queue cannot be made ready.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetupError {
    /// Not a power of two, or larger than the device's maximum.
    #[error("size {size} is no power of two up to {max}")]
    Size {
        /// The driver's.
        size: u32,
        /// The device's.
        max: u16,
    },
    /// Not aligned (VIRTIO 1.2, 2.7).
    #[error("{part} at {addr:#x} is not aligned")]
    Alignment {
        /// Which ring or table.
        part: &'static str,
        /// Guest address.
        addr: u64,
    },
    /// Not wholly in guest memory.
    #[error("{part} at {addr:#x} is not in guest memory")]
    Outside {
        /// Which ring or table.
        part: &'static str,
        /// Guest address.
        addr: u64,
    },
}

/// Registers of one queue.
#[derive(Clone, Debug)]
pub struct QueueSetup {
    max: u16,
    /// As written: more than a queue's size may be.
    pub size: u32,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    /// The driver has made it ready, and it was right.
    pub ready: bool,
}

impl QueueSetup {
    /// Of a device that takes up to `max` descriptors.
    pub fn new(max: u16) -> Self {
        Self { max, size: u32::from(max), desc: 0, avail: 0, used: 0, ready: false }
    }

    /// The largest size.
    pub fn max(&self) -> u16 {
        self.max
    }

    /// The queue as it is set up.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn build(&self, mem: &GuestMemoryMmap<()>, event_idx: bool) -> Result<Queue, SetupError> {
        let size_error = || SetupError::Size { size: self.size, max: self.max };
        let mut queue = Queue::new(self.max).map_err(|_| size_error())?;
        let size = u16::try_from(self.size).map_err(|_| size_error())?;
        queue.try_set_size(size).map_err(|_| size_error())?;

        let entries = usize::from(size);
        let desc = part(mem, "descriptor table", self.desc, 16 * entries)?;
        let avail = part(mem, "available ring", self.avail, 6 + 2 * entries)?;
        let used = part(mem, "used ring", self.used, 6 + 8 * entries)?;
        let unaligned = |part, addr| move |_| SetupError::Alignment { part, addr };
        queue.try_set_desc_table_address(desc).map_err(unaligned("descriptor table", self.desc))?;
        queue.try_set_avail_ring_address(avail).map_err(unaligned("available ring", self.avail))?;
        queue.try_set_used_ring_address(used).map_err(unaligned("used ring", self.used))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

fn part(mem: &GuestMemoryMmap<()>, part: &'static str, addr: u64, len: usize) -> Result<GuestAddress, SetupError> {
    // The queue's code takes address 0 for a ring that was never set.
    if addr != 0 && mem.check_range(GuestAddress(addr), len) {
        Ok(GuestAddress(addr))
    } else {
        Err(SetupError::Outside { part, addr })
    }
}
