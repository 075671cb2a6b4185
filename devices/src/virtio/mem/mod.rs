//! Memory that comes and goes while the guest runs (VIRTIO 1.2, 5.15).
//!
//! ```text
//!   the VMM reserves a region of guest-physical addresses; nothing of it is in the guest's memory map
//!   MemHandle::request(bytes) ──▶ requested_size, interrupt ──▶ the driver asks for blocks, one request at a time:
//!     PLUG ──▶ the guest may use them            UNPLUG ──▶ their memory goes back to the host
//!   MemHandle::wait ◀── as much is plugged as is wanted
//! ```
//!
//! The region is mapped and known to the hypervisor as a whole, so that queues and buffers of other devices may lie
//! anywhere in it. A guest that touches blocks that are not plugged finds zeroes and takes the host's memory for them,
//! up to the size of the region; it harms nobody but itself.

mod blocks;
mod device;
mod handle;
mod request;

pub use self::blocks::{Discard, Region, BLOCK_SIZE};
pub use self::device::Mem;
pub use self::handle::MemHandle;
