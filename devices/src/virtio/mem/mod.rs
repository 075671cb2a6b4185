//! Memory that is plugged and unplugged while the guest runs (VIRTIO 1.2, 5.15).
//!
//! ```text
//!   the VMM reserves a region of guest-physical addresses that is not in the guest's memory map
//!   MemHandle::request(bytes) ──▶ requested_size, interrupt ──▶ the driver asks for blocks, one request at a time:
//!     PLUG ──▶ the guest may use them            UNPLUG ──▶ their memory goes back to the host
//!   MemHandle::wait ◀── the plugged size equals the requested size
//! ```
//!
//! The VMM maps the whole region and registers it with the hypervisor, so queues and buffers of other devices may lie
//! anywhere in it. A guest that accesses blocks that are not plugged finds zeroes and takes the host's memory for them,
//! up to the size of the region. This is harmless to the host: the size of the region is the limit in any case.

mod blocks;
mod device;
mod handle;
mod request;

pub use self::blocks::{Discard, Region, BLOCK_SIZE};
pub use self::device::Mem;
pub use self::handle::MemHandle;
