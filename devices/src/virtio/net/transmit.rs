//! From the guest to the host: frames are written straight out of the driver's buffers (VIRTIO 1.2, 5.1.6.2).

use std::io;
use std::os::fd::BorrowedFd;

use super::header::{may_send, HEADER, MAX_FRAME, MIN_FRAME};
use crate::virtio::queue::BATCH;
use crate::virtio::vectors::WriteVectors;
use crate::virtio::{Chain, ChainError, DeviceInterrupt, DeviceQueue, QueueError};
use crate::{warn_limited, GuestRam};

/// What the worker should do next about the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxOutcome {
    /// Come back when the driver has made frames available.
    Idle,
    /// Come back when the host can take more.
    Blocked,
    /// There is no interface any more; frames are dropped from now on.
    LinkLost,
}

/// What became of a frame.
enum FrameOutcome {
    /// Sent, or dropped as a network may.
    Done,
    Blocked,
    LinkLost,
}

/// The sending half of an active network device.
pub struct Transmitter {
    name: String,
    mem: GuestRam,
    /// The driver's frames.
    pub queue: DeviceQueue,
    features: u64,
}

impl Transmitter {
    /// With the features that were agreed on.
    pub fn new(name: String, mem: GuestRam, queue: DeviceQueue, features: u64) -> Self {
        Self { name, mem, queue, features }
    }

    /// Writes frames to `link`, or drops them if there is none, while there are frames and the host takes them; then
    /// interrupts the driver. After a full batch its `notify` is readable again.
    ///
    /// # Errors
    /// The driver broke the protocol.
    pub fn transmit(
        &mut self,
        link: Option<BorrowedFd<'_>>,
        interrupt: &DeviceInterrupt,
    ) -> Result<TxOutcome, QueueError> {
        self.queue.disable_notifications(&self.mem)?;
        let sent = self.write_frames(link)?;
        self.queue.signal(&self.mem, interrupt)?;
        Ok(sent)
    }

    fn write_frames(&mut self, link: Option<BorrowedFd<'_>>) -> Result<TxOutcome, QueueError> {
        for _ in 0..BATCH {
            let Some(chain) = self.queue.pop(&self.mem)? else {
                if self.queue.enable_notifications(&self.mem)? {
                    self.queue.disable_notifications(&self.mem)?;
                    continue;
                }
                return Ok(TxOutcome::Idle);
            };
            let head = chain.head();
            match self.write_frame(link, &chain).map_err(|source| QueueError::Chain { head, source })? {
                FrameOutcome::Done => self.queue.complete(&self.mem, head, 0)?,
                FrameOutcome::Blocked => {
                    self.queue.unpop();
                    return Ok(TxOutcome::Blocked);
                }
                FrameOutcome::LinkLost => {
                    self.queue.complete(&self.mem, head, 0)?;
                    self.queue.notify_self();
                    return Ok(TxOutcome::LinkLost);
                }
            }
        }
        self.queue.notify_self();
        Ok(TxOutcome::Idle)
    }

    fn write_frame(&self, link: Option<BorrowedFd<'_>>, chain: &Chain) -> Result<FrameOutcome, ChainError> {
        if chain.writable_len() > 0 {
            return Err(ChainError::Direction);
        }
        // The header is copied, so that what was checked is what the host sees.
        let mut frame = chain.reader(&self.mem);
        let mut header = [0; HEADER];
        frame.read_exact(&mut header)?;
        let len = frame.remaining();
        let Some(link) = link else { return Ok(FrameOutcome::Done) };
        if !(MIN_FRAME..=MAX_FRAME).contains(&len) || !may_send(&header, self.features) {
            warn_limited!("{}: the guest sends an impossible frame of {len} bytes, dropped", self.name);
            return Ok(FrameOutcome::Done);
        }
        let mut vectors = WriteVectors::new();
        vectors.push_slice(&header);
        frame.push_to(&mut vectors);
        if vectors.len() != HEADER + len as usize {
            warn_limited!("{}: the guest sends a frame in too many pieces, dropped", self.name);
            return Ok(FrameOutcome::Done);
        }
        Ok(self.outcome(vectors.writev(link)))
    }

    fn outcome(&self, result: io::Result<usize>) -> FrameOutcome {
        match result {
            Ok(_) => FrameOutcome::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => FrameOutcome::Blocked,
            Err(error) if [Some(libc::EBADFD), Some(libc::ENODEV)].contains(&error.raw_os_error()) => {
                FrameOutcome::LinkLost
            }
            // The interface is down, or the kernel does not like the frame: networks lose frames.
            Err(error) => {
                log::debug!("{}: frame dropped: {error}", self.name);
                FrameOutcome::Done
            }
        }
    }
}
