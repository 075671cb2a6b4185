//! Memory that is plugged and unplugged while the guest runs (VIRTIO 1.2, 5.15).
//!
//! | file | contents |
//! |---|---|
//! | `request` | requests and responses: bytes to values and back |
//! | `blocks` | the state of the region's blocks |
//! | `handle` | the host's side |
//! | `device` | the virtio device |
//!
//! ```text
//!   the VMM reserves a region of guest-physical addresses that is not in the guest's memory map
//!   MemHandle::request(bytes) ──▶ requested_size, interrupt ──▶ the driver asks for blocks, one request at a time:
//!     PLUG ──▶ the guest may use them            UNPLUG ──▶ their memory goes back to the host
//!   MemHandle::wait ◀── the plugged size equals the requested size
//! ```
//!
//! Blocks that are not plugged in have no access rights in the VMM, and thus none in the guest: a guest that touches
//! them ends. Queues and buffers of other devices may lie in plugged blocks, which then stay plugged in: a request to
//! unplug them is answered with "busy" ([`crate::ram`]).

mod blocks;
mod device;
mod handle;
mod request;

pub use self::blocks::{RegionMemory, BLOCK_SIZE};
pub use self::device::Mem;
pub use self::handle::MemHandle;
