//! The host's end of a network device.

use std::io;
use std::os::fd::BorrowedFd;

/// The host's end: frames with virtio headers in front, one per `readv` or `writev`, non-blocking.
pub trait NetBackend: Send + Sync {
    /// Where frames go and come from.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The driver has agreed on `features`: which offloads frames to it may use.
    ///
    /// # Errors
    /// The host cannot do it.
    fn set_offloads(&self, features: u64) -> io::Result<()>;
}
