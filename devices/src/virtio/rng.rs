//! Entropy device (VIRTIO 1.2, 5.4): fills the driver's buffers with the host kernel's random bytes.

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::one_queue::{DriverSession, OneQueue, Service};
use super::{Chain, ChainError};
use crate::threads::ThreadKind;

/// Most bytes that one request gets, even if its buffers are longer. Bounds the time that a request takes.
pub const MAX_BYTES: u32 = 64 << 10;

/// Most bytes that one system call asks for.
const CHUNK: usize = 4096;

/// An entropy device.
pub type Rng = OneQueue<Entropy>;

impl Rng {
    /// Returns a device. `name` appears in logs and names the thread.
    pub fn new(name: impl Into<String>) -> Self {
        Self::of(name, Arc::new(Entropy))
    }
}

/// The service behind [`Rng`]: the host kernel's random bytes.
pub struct Entropy;

impl Service for Entropy {
    const DEVICE_TYPE: u32 = VIRTIO_ID_RNG;
    const QUEUE_SIZE: u16 = 64;
    const THREAD: ThreadKind = ThreadKind::Entropy;

    fn serve(&self, session: &DriverSession, chain: &Chain) -> Result<u32, ChainError> {
        // 5.4.6.1: only writable buffers, and the device writes at least one byte.
        if chain.readable_len() > 0 {
            return Err(ChainError::Direction);
        }
        if chain.writable_len() == 0 {
            return Err(ChainError::Short);
        }
        let mut writer = chain.writer(&session.mem).limited(MAX_BYTES);
        let mut bytes = [0; CHUNK];
        while writer.remaining() > 0 {
            let len = CHUNK.min(writer.remaining() as usize);
            let part = bytes.get_mut(..len).unwrap_or_default();
            if let Err(error) = fill_random(part) {
                // A kernel that has booted does not refuse. The driver gets the bytes so far.
                crate::warn_limited!("{}: no random bytes from the host: {error}", session.name);
                break;
            }
            writer.write_all(part)?;
        }
        Ok(writer.written())
    }
}

/// Fills `bytes` with random numbers of the host's kernel, by getrandom(2). The crate of that name looks the function up at run time, which fails in a static
/// program, and opens a device file instead, which a confined thread cannot.
///
/// # Errors
/// Those of getrandom(2).
#[expect(unsafe_code, reason = "a plain system call that fills a slice")]
pub fn fill_random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the kernel writes at most `bytes.len()` bytes to `bytes`, which is borrowed for the call.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => bytes = bytes.get_mut(count..).unwrap_or_default(),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "rng_tests.rs"]
mod tests;
