//! From the host to the guest: reads frames directly into buffers that the driver has made available (VIRTIO 1.2,
//! 5.1.6.3 and 5.1.6.4).

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use smallvec::SmallVec;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_queue::QueueT;

use super::backend::is_gone;
use super::header::{has, ETHERNET, FLAGS_AT, HEADER, MAX_FRAME, NUM_BUFFERS_AT};
use crate::virtio::vectors::ReadVectors;
use crate::virtio::{Chain, ChainError, DeviceInterrupt, DeviceQueue, QueueError};
use crate::{warn_limited, GuestRam};

/// Frames that are read before the other direction gets its turn.
const BATCH: u32 = 64;
/// Failed reads in a row after which the interface counts as lost. A failed read takes a frame from the tap, whose queue
/// has 500 to 1000 frames, so only an interface that is broken for good gets there.
pub const READ_ERRORS_MAX: u32 = 64 << 10;
/// Bytes of the host past the guest's buffers: a frame that reaches them is too long for the buffers.
const SPILL: usize = MAX_FRAME as usize;

/// The reason why receiving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxOutcome {
    /// There are no frames, or the batch is full.
    Idle,
    /// The driver has not made enough buffers available. Frames stay in the backend.
    Starved,
    /// The host's interface is gone, or nothing can be read from it any more.
    LinkLost,
}

/// The receiving half of an active network device.
pub struct Receiver {
    name: String,
    mem: GuestRam,
    /// The driver's buffers.
    pub queue: DeviceQueue,
    /// Buffers taken from the queue and not yet used.
    pending: VecDeque<Chain>,
    /// Total length of the pending buffers.
    capacity: u64,
    /// Largest `capacity` so far: the amount that the driver is ready to give.
    peak: u64,
    /// Longest frame expected, with its header.
    longest: u64,
    merge: bool,
    checksums: bool,
    spill: Box<[u8]>,
    /// Failed reads since the last frame, or since there was none.
    errors: u32,
}

impl Receiver {
    /// `features` are the negotiated ones, `mtu` the one in configuration space, if any.
    pub fn new(name: String, mem: GuestRam, queue: DeviceQueue, features: u64, mtu: Option<u16>) -> Self {
        let large = has(features, VIRTIO_NET_F_GUEST_TSO4) || has(features, VIRTIO_NET_F_GUEST_TSO6);
        let frame = mtu.filter(|_| !large).map_or(MAX_FRAME, |mtu| u32::from(mtu) + ETHERNET);
        Self {
            name,
            mem,
            queue,
            pending: VecDeque::new(),
            capacity: 0,
            peak: 0,
            longest: HEADER as u64 + u64::from(frame),
            merge: has(features, VIRTIO_NET_F_MRG_RXBUF),
            checksums: has(features, VIRTIO_NET_F_GUEST_CSUM),
            spill: vec![0; SPILL].into_boxed_slice(),
            errors: 0,
        }
    }

    /// Reads frames from `link` while there are both frames and buffers, then interrupts the driver. An error means
    /// that the driver broke the protocol.
    pub fn receive(&mut self, link: BorrowedFd<'_>, interrupt: &DeviceInterrupt) -> Result<RxOutcome, QueueError> {
        let received = self.read_frames(link);
        // Frames that came before an error are in the driver's buffers.
        self.queue.signal(&self.mem, interrupt)?;
        received
    }

    fn read_frames(&mut self, link: BorrowedFd<'_>) -> Result<RxOutcome, QueueError> {
        for _ in 0..BATCH {
            if !self.refill()? {
                return Ok(RxOutcome::Starved);
            }
            let (room, result) = self.read_frame(link);
            let errors = std::mem::take(&mut self.errors);
            match result {
                Ok(0) => return Ok(RxOutcome::LinkLost),
                Ok(len) if len < HEADER || len > room => {
                    warn_limited!(
                        "{}: dropped a frame of {len} bytes: the guest has buffers for {room} bytes",
                        self.name
                    );
                }
                Ok(len) => self.deliver(len)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(RxOutcome::Idle),
                Err(error) => {
                    warn_limited!("{}: a frame from the host's interface cannot be read: {error}", self.name);
                    if is_gone(&error) || errors >= READ_ERRORS_MAX {
                        return Ok(RxOutcome::LinkLost);
                    }
                    // The frame is lost, which a network may do. The tun driver refuses a frame of a kind that it
                    // cannot describe with EINVAL.
                    self.errors = errors + 1;
                }
            }
        }
        Ok(RxOutcome::Idle)
    }

    /// Takes buffers until a frame of any length has room. False if there are not enough; the driver then notifies.
    fn refill(&mut self) -> Result<bool, QueueError> {
        loop {
            // The driver cannot have more buffers in the queue than the queue has descriptors.
            while self.pending.len() < usize::from(self.queue.queue.size()) {
                let Some(chain) = self.queue.pop(&self.mem)? else { break };
                check(&chain).map_err(|source| QueueError::Chain { head: chain.head(), source })?;
                self.capacity = self.capacity.saturating_add(u64::from(chain.writable_len()));
                self.pending.push_back(chain);
            }
            self.peak = self.peak.max(self.capacity);
            if self.has_room() {
                self.queue.disable_notifications(&self.mem)?;
                return Ok(true);
            }
            if !self.queue.enable_notifications(&self.mem)? {
                return Ok(false);
            }
            if self.pending.len() >= usize::from(self.queue.queue.size()) {
                // All descriptors are taken and more are available: the driver uses one twice.
                let source = virtio_queue::Error::InvalidAvailRingIndex;
                return Err(QueueError::Ring { operation: "receive buffers", source });
            }
        }
    }

    /// Whether the pending buffers have room for a frame. Merged buffers must hold the longest frame, unless the
    /// driver's whole queue is small: drivers refill a queue that is half empty, so waiting for more than a quarter of
    /// it might never end.
    fn has_room(&self) -> bool {
        if self.merge {
            !self.pending.is_empty() && self.capacity >= self.longest.min(self.peak / 4)
        } else {
            !self.pending.is_empty()
        }
    }

    /// Reads one frame. Returns the room for it in the guest's buffers, and its length.
    fn read_frame(&mut self, link: BorrowedFd<'_>) -> (usize, io::Result<usize>) {
        let mut vectors = ReadVectors::new();
        for chain in &self.pending {
            chain.writer(&self.mem).push_to(&mut vectors);
            if !self.merge || vectors.capacity() as u64 >= self.longest {
                break;
            }
        }
        let room = vectors.capacity();
        vectors.push_slice(&mut self.spill);
        (room, vectors.readv(link))
    }

    /// Gives the buffers of a frame to the driver. `len` includes the header.
    fn deliver(&mut self, len: usize) -> Result<(), QueueError> {
        let mut left = u32::try_from(len).unwrap_or(u32::MAX);
        let mut used: SmallVec<[(u16, u32); 32]> = SmallVec::new();
        for chain in &self.pending {
            if left == 0 {
                break;
            }
            let here = chain.writable_len().min(left);
            used.push((chain.head(), here));
            left -= here;
        }
        let buffers = u16::try_from(used.len()).unwrap_or(u16::MAX);
        if let Some(first) = self.pending.front() {
            self.complete_header(first, buffers).map_err(|source| QueueError::Chain { head: first.head(), source })?;
        }
        for chain in self.pending.drain(..used.len()) {
            self.capacity = self.capacity.saturating_sub(u64::from(chain.writable_len()));
        }
        self.queue.complete_together(&self.mem, &used)
    }

    /// Sets the number of buffers, which the host leaves out, and clears flags that the driver does not know.
    fn complete_header(&self, first: &Chain, buffers: u16) -> Result<(), ChainError> {
        if !self.checksums {
            let mut flags = first.writer(&self.mem);
            flags.skip(FLAGS_AT)?;
            flags.write_obj(0u8)?;
        }
        let mut count = first.writer(&self.mem);
        count.skip(NUM_BUFFERS_AT)?;
        count.write_all(&buffers.to_le_bytes())
    }
}

/// Checks that a buffer is only for writing and that the header fits (5.1.6.3.1).
fn check(chain: &Chain) -> Result<(), ChainError> {
    if chain.readable_len() > 0 {
        Err(ChainError::Direction)
    } else if (chain.writable_len() as usize) < HEADER {
        Err(ChainError::Short)
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
