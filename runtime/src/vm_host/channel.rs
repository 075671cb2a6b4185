//! Passing a descriptor over a control socket: one byte that carries it (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};

use crate::sys;

/// Sends `fd` after the frame that announced it.
pub(super) fn send_fd(stream: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"f")], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives the descriptor that a frame has announced; closed on exec.
pub(super) fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let (count, mut fds) = sys::receive_with_fds(stream.as_fd(), &mut [0])?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    fds.pop().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the announced descriptor did not come"))
}
