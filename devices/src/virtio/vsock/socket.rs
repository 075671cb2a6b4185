//! The device's end of a connection's socketpair: non-blocking reads and writes straight from and to guest memory, and
//! the bytes that did not fit. Called by the device's worker.

#![expect(unsafe_code, reason = "socket options that the standard library does not know")]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::virtio::vectors::ReadVectors;
use crate::virtio::ChainReader;

/// What [`StreamSocket::close_at_once`] asks the kernel to take. It gives less without CAP_NET_ADMIN.
const WIDE: libc::c_int = 4 << 20;

/// The device's end.
#[derive(Debug)]
pub struct StreamSocket {
    stream: UnixStream,
    /// Bytes for the host that the socket had no room for; those before `taken` are gone.
    backlog: Vec<u8>,
    taken: usize,
}

impl AsRawFd for StreamSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl StreamSocket {
    /// The device's end and the host's.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn pair() -> io::Result<(Self, UnixStream)> {
        let (stream, host) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        Ok((Self { stream, backlog: Vec::new(), taken: 0 }, host))
    }

    /// Reads once. 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the host's end is gone.
    pub fn read(&self, vectors: &mut ReadVectors<'_>) -> io::Result<usize> {
        vectors.readv(&self.stream)
    }

    /// Writes `payload` towards the host and keeps what does not fit. Gives the bytes written now.
    ///
    /// # Errors
    /// The host's end does not take anything any more.
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
        // Bounded by the credit that the guest was given.
        self.backlog.resize(start + payload.remaining() as usize, 0);
        let end = self.backlog.get_mut(start..).unwrap_or_default();
        Read::read_exact(payload, end)
    }

    /// Writes what was kept. Gives the bytes written.
    ///
    /// # Errors
    /// The host's end does not take anything any more.
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

    /// Bytes kept for the host.
    pub fn buffered(&self) -> usize {
        self.backlog.len() - self.taken
    }

    /// Drops what was kept.
    pub fn forget(&mut self) {
        self.backlog = Vec::new();
        self.taken = 0;
    }

    /// No more bytes for the host: it reads to the end.
    pub fn end_writing(&self) {
        self.shutdown(Shutdown::Write);
    }

    /// No more bytes from the host: its writes fail.
    pub fn end_reading(&self) {
        self.shutdown(Shutdown::Read);
    }

    fn shutdown(&self, how: Shutdown) {
        if let Err(error) = self.stream.shutdown(how) {
            // Only possible when the other end is gone already.
            log::debug!("shutdown of a vsock stream: {error}");
        }
    }

    /// Closes so that the host reads all that was written and then a plain end: bytes from the host that nobody will
    /// take are read first, since closing over them is reported to it as a reset.
    pub fn close(self) {
        self.end_reading();
        let mut sink = [0u8; 4096];
        while (&self.stream).read(&mut sink).is_ok_and(|count| count > 0) {}
    }

    /// As `close`, with all that was kept handed to the kernel, for a worker that will not be there to flush. Gives
    /// the bytes that were lost.
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

    /// Makes the kernel's buffer as large as it gets.
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
