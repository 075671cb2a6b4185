//! The device's end of a connection's socketpair: non-blocking reads and writes directly to and from guest memory, and
//! a backlog of bytes that did not fit. The device's worker calls it.

#![expect(unsafe_code, reason = "socket options that the standard library does not know")]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::virtio::vectors::ReadVectors;
use crate::virtio::ChainReader;

/// Size of the send buffer that [`StreamSocket::close_at_once`] asks for. The kernel grants less without CAP_NET_ADMIN.
const WIDE: libc::c_int = 4 << 20;

/// The device's end of a socketpair.
#[derive(Debug)]
pub struct StreamSocket {
    stream: UnixStream,
    /// Bytes for the host that did not fit into the socket. Those before `taken` have been written since.
    backlog: Vec<u8>,
    taken: usize,
}

impl AsRawFd for StreamSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl StreamSocket {
    /// A socketpair: the device's end and the host's end.
    pub fn pair() -> io::Result<(Self, UnixStream)> {
        let (stream, host) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        Ok((Self { stream, backlog: Vec::new(), taken: 0 }, host))
    }

    /// Does one `readv`. 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`: there are no bytes. All other errors: the host's end is gone.
    pub fn read(&self, vectors: &mut ReadVectors<'_>) -> io::Result<usize> {
        vectors.readv(&self.stream)
    }

    /// Writes `payload` to the host and keeps the bytes that do not fit. Returns the number of bytes written now. An
    /// error means that the host has closed its reading side.
    pub fn write(&mut self, mut payload: ChainReader<'_>) -> io::Result<usize> {
        let mut written = 0;
        while self.buffered() == 0 && payload.remaining() > 0 {
            match payload.write_to(&self.stream, payload.remaining()) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.keep(&mut payload)?;
        Ok(written)
    }

    fn keep(&mut self, payload: &mut ChainReader<'_>) -> io::Result<()> {
        if payload.remaining() == 0 {
            return Ok(());
        }
        self.backlog.drain(..self.taken);
        self.taken = 0;
        let start = self.backlog.len();
        // The credit of the guest bounds the length.
        self.backlog.resize(start + payload.remaining() as usize, 0);
        let end = self.backlog.get_mut(start..).unwrap_or_default();
        Read::read_exact(payload, end)
    }

    /// Writes kept bytes and returns their number. An error means that the host has closed its reading side.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut written = 0;
        while self.buffered() > 0 {
            match (&self.stream).write(self.backlog.get(self.taken..).unwrap_or_default()) {
                Ok(count) => {
                    self.taken += count;
                    written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.buffered() == 0 {
            self.forget();
        }
        Ok(written)
    }

    /// Number of bytes kept for the host.
    pub fn buffered(&self) -> usize {
        self.backlog.len() - self.taken
    }

    /// Bytes of memory that the backlog takes.
    #[cfg(test)]
    pub fn heap(&self) -> usize {
        self.backlog.capacity()
    }

    /// Drops the kept bytes.
    pub fn forget(&mut self) {
        self.backlog = Vec::new();
        self.taken = 0;
    }

    /// Ends the stream to the host.
    pub fn end_writing(&self) {
        self.shutdown(Shutdown::Write);
    }

    /// Ends the stream from the host, whose writes fail from now on.
    pub fn end_reading(&self) {
        self.shutdown(Shutdown::Read);
    }

    fn shutdown(&self, how: Shutdown) {
        if let Err(error) = self.stream.shutdown(how) {
            // Only possible if the other end is gone.
            log::debug!("shutdown of a vsock stream: {error}");
        }
    }

    /// Closes the socket so that the host reads all written bytes and then the end of the stream. Reads the bytes from
    /// the host first: if they stayed unread, the kernel would report a reset to the host.
    pub fn close(self) {
        self.end_reading();
        let mut sink = [0u8; 4096];
        while (&self.stream).read(&mut sink).is_ok_and(|count| count > 0) {}
    }

    /// Does `close` after it has handed the kept bytes to the kernel, because the worker ends and cannot flush them
    /// later. Returns the number of bytes lost.
    pub fn close_at_once(mut self) -> usize {
        if self.buffered() > 0 {
            self.widen();
            if self.flush().is_err() {
                self.forget();
            }
        }
        let lost = self.buffered();
        self.close();
        lost
    }

    /// Makes the kernel's send buffer as large as the process may.
    fn widen(&self) {
        #[expect(clippy::cast_possible_truncation, reason = "the 4 bytes of an int")]
        let len = size_of_val(&WIDE) as libc::socklen_t;
        for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
            // SAFETY: the option's value is an int, given with its size, that outlives the call.
            let result = unsafe {
                libc::setsockopt(self.as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(&WIDE).cast(), len)
            };
            if result == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
