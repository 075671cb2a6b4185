//! Byte streams to the host: vsock in a guest, Unix sockets in tests. Used by the server and every connection thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{recv, send, setsockopt, shutdown, sockopt, MsgFlags, Shutdown};
use nix::sys::time::{TimeVal, TimeValLike};

/// A connected stream socket of any family. Never raises `SIGPIPE`.
#[derive(Debug)]
pub struct HostConnection(OwnedFd);

impl HostConnection {
    /// Takes over a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Limits how long one receive may wait; `None` waits for ever.
    pub fn set_receive_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let millis = limit.map_or(0, |limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        Ok(setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))?)
    }

    /// Receives bytes that have arrived. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN` if no bytes have arrived.
    pub fn receive_now(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        retry(|| recv(self.0.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT))
    }

    /// Sends as many bytes as the socket takes now.
    ///
    /// # Errors
    /// `EAGAIN` if it takes none, `EPIPE` or `ECONNRESET` if the other side no longer reads.
    pub fn send_now(&self, bytes: &[u8]) -> Result<usize, Errno> {
        retry(|| send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL))
    }

    /// Whether the other side no longer reads. Sockets of both families then answer an empty send with `EPIPE`.
    pub fn is_unread(&self) -> bool {
        matches!(self.send_now(&[]), Err(errno) if errno != Errno::EAGAIN)
    }

    /// Shuts down our direction; the other side still receives the bytes sent before.
    pub fn finish_sending(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }

    /// Shuts down both directions, which wakes a thread that waits on either.
    pub fn close(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

impl AsFd for HostConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<UnixStream> for HostConnection {
    fn from(stream: UnixStream) -> Self {
        Self(stream.into())
    }
}

impl Read for &HostConnection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| recv(self.0.as_raw_fd(), buf, MsgFlags::empty()))?)
    }
}

impl Write for &HostConnection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry(|| send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Repeats an interrupted call.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A source of connections.
pub trait Listener {
    /// Waits for the next connection.
    fn accept(&self) -> io::Result<HostConnection>;
}

impl Listener for UnixListener {
    fn accept(&self) -> io::Result<HostConnection> {
        UnixListener::accept(self).map(|(stream, _)| stream.into())
    }
}
