//! System calls that neither `std` nor `nix` offers in a safe form: pidfds, two terminal ioctls, received descriptors.
#![expect(unsafe_code, reason = "pidfds, terminal ioctls and received descriptors have no safe form")]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::signal::Signal;
use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags};
use nix::unistd::Pid;

/// Most descriptors that one message can carry (`SCM_MAX_FD`, unix(7)).
const MAX_MESSAGE_FDS: usize = 253;

nix::ioctl_read_bad!(get_window_size, libc::TIOCGWINSZ, Winsize);
nix::ioctl_write_int_bad!(set_terminal, libc::TIOCSCTTY);

/// A descriptor of the process `pid`, closed on exec (pidfd_open(2)).
pub(crate) fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two plain numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just made the descriptor; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends `signal` to the process of `pidfd` (pidfd_send_signal(2)).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> nix::Result<()> {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open; the kernel takes a null pointer for "as kill(2) does".
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, no_info, 0) };
    Errno::result(result).map(drop)
}

/// Makes `terminal` the controlling terminal of this process, which must lead a session without one.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the descriptor is open; the request takes a plain number.
    unsafe { set_terminal(terminal.as_raw_fd(), 0) }.map(drop)
}

/// The size of `terminal`.
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> nix::Result<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open; the kernel writes a `Winsize` to the pointer.
    unsafe { get_window_size(terminal.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// Receives bytes and the descriptors that come with them; these are closed on exec. Returns the number of bytes.
pub(crate) fn receive_with_fds(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for all: nix reports a message that was cut off as an error and leaves its descriptors open.
    let mut space = nix::cmsg_space!([RawFd; MAX_MESSAGE_FDS]);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for this message; they have no other owner.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}
