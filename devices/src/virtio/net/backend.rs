//! The host's end of a network device.

use std::io;
use std::os::fd::BorrowedFd;

/// A source and sink of frames with a virtio header in front: one frame per `readv` or `writev`, non-blocking.
pub trait NetBackend: Send + Sync {
    /// The file descriptor to read frames from and to write them to.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Sets the offloads of frames to the guest to those in `features`, which the driver has negotiated.
    fn set_offloads(&self, features: u64) -> io::Result<()>;
}

/// Whether an error of a read, a write or an ioctl says that the interface has been deleted. After any other error
/// frames may still come and go.
pub fn is_gone(error: &io::Error) -> bool {
    [Some(libc::EBADFD), Some(libc::ENODEV)].contains(&error.raw_os_error())
}
