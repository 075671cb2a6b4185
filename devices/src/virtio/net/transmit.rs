//! From the guest to the host: writes frames directly from the driver's buffers (VIRTIO 1.2, 5.1.6.2).

use std::io;
use std::os::fd::BorrowedFd;

use super::backend::is_gone;
use super::header::{may_send, HEADER, MAX_FRAME, MIN_FRAME};
use crate::virtio::queue::BATCH;
use crate::virtio::vectors::WriteVectors;
use crate::virtio::{Chain, ChainError, DeviceInterrupt, DeviceQueue, QueueError};
use crate::{warn_limited, GuestRam};

/// The reason why sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxOutcome {
    /// There are no frames, or the batch is full.
    Idle,
    /// The host takes no more frames now.
    Blocked,
    /// The host's interface is gone; frames are dropped from now on.
    LinkLost,
}

/// The result of sending a frame.
enum FrameOutcome {
    /// Sent, or dropped, which a network may do.
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
    /// `features` are the negotiated ones.
    pub fn new(name: String, mem: GuestRam, queue: DeviceQueue, features: u64) -> Self {
        Self { name, mem, queue, features }
    }

    /// Writes frames to `link` while there are frames and the host takes them, or drops them if `link` is `None`. Then
    /// interrupts the driver. After a full batch the queue's `notify` is readable again. An error means that the driver
    /// broke the protocol.
    pub fn transmit(
        &mut self,
        link: Option<BorrowedFd<'_>>,
        interrupt: &DeviceInterrupt,
    ) -> Result<TxOutcome, QueueError> {
        self.queue.disable_notifications(&self.mem)?;
        let sent = self.write_frames(link);
        self.queue.signal(&self.mem, interrupt)?;
        sent
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
        // The host gets a copy of the header: the guest cannot change it after the check.
        let mut frame = chain.reader(&self.mem);
        let mut header = [0; HEADER];
        frame.read_exact(&mut header)?;
        let len = frame.remaining();
        let Some(link) = link else { return Ok(FrameOutcome::Done) };
        if !(MIN_FRAME..=MAX_FRAME).contains(&len) || !may_send(&header, self.features) {
            warn_limited!("{}: dropped an invalid frame of {len} bytes from the guest", self.name);
            return Ok(FrameOutcome::Done);
        }
        let mut vectors = WriteVectors::new();
        vectors.push_slice(&header);
        frame.push_to(&mut vectors);
        if vectors.len() != HEADER + len as usize {
            warn_limited!("{}: dropped a frame from the guest: it has too many buffers", self.name);
            return Ok(FrameOutcome::Done);
        }
        Ok(self.outcome(vectors.writev(link)))
    }

    fn outcome(&self, result: io::Result<usize>) -> FrameOutcome {
        match result {
            Ok(_) => FrameOutcome::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => FrameOutcome::Blocked,
            Err(error) if is_gone(&error) => FrameOutcome::LinkLost,
            // The interface is down, or the kernel refuses the frame: a network may lose frames.
            Err(error) => {
                log::debug!("{}: frame dropped: {error}", self.name);
                FrameOutcome::Done
            }
        }
    }
}
