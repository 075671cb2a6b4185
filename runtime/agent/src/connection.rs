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
pub struct Connection(OwnedFd);

impl Connection {
    /// Takes over a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Limits how long one receive may wait; `None` is for ever.
    ///
    /// # Errors
    /// If the socket refuses.
    pub fn set_receive_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let millis = limit.map_or(0, |limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        Ok(setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))?)
    }

    /// Receives what is there. `Ok(0)` is the end.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there.
    pub fn receive_now(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        retry(|| recv(self.0.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT))
    }

    /// Sends what fits.
    ///
    /// # Errors
    /// `EAGAIN` if nothing fits, `EPIPE` or `ECONNRESET` if the other side no longer reads.
    pub fn send_now(&self, bytes: &[u8]) -> Result<usize, Errno> {
        retry(|| send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL))
    }

    /// Whether the other side no longer reads. Both families answer an empty send with `EPIPE` then.
    pub fn is_unread(&self) -> bool {
        matches!(self.send_now(&[]), Err(errno) if errno != Errno::EAGAIN)
    }

    /// Ends our direction after what was sent.
    pub fn finish_sending(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }

    /// Ends both directions; wakes a thread that waits in one of them.
    pub fn close(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        Self(stream.into())
    }
}

impl Read for &Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| recv(self.0.as_raw_fd(), buf, MsgFlags::empty()))?)
    }
}

impl Write for &Connection {
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

/// Where connections come from.
pub trait Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// As `accept(2)`.
    fn accept(&self) -> io::Result<Connection>;
}

impl Listener for UnixListener {
    fn accept(&self) -> io::Result<Connection> {
        UnixListener::accept(self).map(|(stream, _)| stream.into())
    }
}
