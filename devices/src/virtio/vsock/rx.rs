//! The receive queue, in which the muxer sends packets to the guest. The device's worker calls it.

use std::io;

use smallvec::SmallVec;

use super::packet::{PacketHeader, HEADER_LEN, MAX_PAYLOAD};
use crate::virtio::vectors::ReadVectors;
use crate::virtio::{Chain, DeviceQueue, QueueError};
use crate::warn_limited;
use crate::GuestRam;

/// Most buffers that one read fills. Linux drivers post 4 KiB each, so this is 64 KiB.
const BATCH: usize = 16;
#[expect(clippy::cast_possible_truncation, reason = "44 bytes")]
const HEADER: u32 = HEADER_LEN as u32;

/// The receive queue during one round of the worker.
pub struct RxRing<'a> {
    queue: &'a mut DeviceQueue,
    mem: &'a GuestRam,
    /// Packets that may still be sent in this round.
    budget: usize,
}

/// The result of an attempt to send payload.
#[derive(Debug)]
pub enum RxSent {
    /// The number of bytes sent; 0 is the end of the stream, for which no packet is sent.
    Bytes(u32),
    /// The guest has no buffer, or the budget is used up.
    NoBuffer,
    /// The read failed, and no packet was sent.
    Failed(io::Error),
}

impl<'a> RxRing<'a> {
    /// A round of at most `budget` packets.
    pub fn new(queue: &'a mut DeviceQueue, mem: &'a GuestRam, budget: usize) -> Self {
        Self { queue, mem, budget }
    }

    /// Whether the budget is used up. The guest may have more buffers.
    pub fn exhausted(&self) -> bool {
        self.budget == 0
    }

    /// Packets that may still be sent in this round.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Sends a packet without payload. False if there is no buffer for it. An error means that the driver broke the
    /// protocol of the queue.
    pub fn control(&mut self, header: &PacketHeader) -> Result<bool, QueueError> {
        let Some(chain) = self.first(HEADER)? else { return Ok(false) };
        self.finish(&chain, header)?;
        Ok(true)
    }

    /// Sends the bytes of one call of `read`, at most `limit`, in one packet per buffer. `header` is the header of each
    /// packet except for the length. An error means that the driver broke the protocol of the queue.
    pub fn data(
        &mut self,
        mut header: PacketHeader,
        limit: u32,
        read: impl FnOnce(&mut ReadVectors<'_>) -> io::Result<usize>,
    ) -> Result<RxSent, QueueError> {
        let chains = self.gather(limit)?;
        if chains.is_empty() {
            return Ok(RxSent::NoBuffer);
        }
        let count = match read(&mut self.vectors(&chains, limit)) {
            Ok(count) => u32::try_from(count).unwrap_or(u32::MAX).min(limit),
            Err(error) => {
                self.put_back(chains.len());
                return Ok(RxSent::Failed(error));
            }
        };
        let mut left = count;
        let mut used = 0;
        for chain in &chains {
            header.len = payload_room(chain).min(left);
            if header.len == 0 {
                break;
            }
            left -= header.len;
            used += 1;
        }
        // Put back first: the queue's position must be behind the last used chain.
        self.put_back(chains.len() - used);
        left = count;
        for chain in chains.iter().take(used) {
            header.len = payload_room(chain).min(left);
            left -= header.len;
            self.finish(chain, &header)?;
        }
        Ok(RxSent::Bytes(count))
    }

    /// Takes buffers until they have room for `limit` bytes of payload or there are no more.
    fn gather(&mut self, limit: u32) -> Result<SmallVec<[Chain; BATCH]>, QueueError> {
        let mut chains = SmallVec::new();
        let mut room = 0u32;
        while room < limit && chains.len() < BATCH.min(self.budget) {
            let next = if chains.is_empty() { self.first(HEADER + 1)? } else { self.queue.pop(self.mem)? };
            let Some(chain) = next else { break };
            if payload_room(&chain) == 0 {
                // `first` drops it in a later call: now the buffers before it may have to be put back.
                self.queue.unpop();
                break;
            }
            room = room.saturating_add(payload_room(&chain));
            chains.push(chain);
        }
        Ok(chains)
    }

    fn vectors<'b>(&'b self, chains: &'b [Chain], limit: u32) -> ReadVectors<'b> {
        let mut vectors = ReadVectors::new();
        let mut left = limit;
        for chain in chains {
            let mut writer = chain.writer(self.mem);
            if writer.skip(HEADER).is_ok() {
                let writer = writer.limited(payload_room(chain).min(left));
                left -= writer.remaining();
                writer.push_to(&mut vectors);
            }
        }
        vectors
    }

    /// Takes the next buffer with room for `len` bytes. Gives smaller ones back empty.
    fn first(&mut self, len: u32) -> Result<Option<Chain>, QueueError> {
        while self.budget > 0 {
            let Some(chain) = self.queue.pop(self.mem)? else { return Ok(None) };
            if chain.writable_len() >= len {
                return Ok(Some(chain));
            }
            warn_limited!("vsock driver posted a receive buffer of {} bytes", chain.writable_len());
            self.budget -= 1;
            self.queue.complete(self.mem, chain.head(), 0)?;
        }
        Ok(None)
    }

    fn finish(&mut self, chain: &Chain, header: &PacketHeader) -> Result<(), QueueError> {
        self.budget = self.budget.saturating_sub(1);
        let written = match chain.writer(self.mem).write_all(&header.to_bytes()) {
            Ok(()) => HEADER.saturating_add(header.len),
            Err(_) => 0,
        };
        self.queue.complete(self.mem, chain.head(), written)
    }

    fn put_back(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.unpop();
        }
    }
}

/// Number of payload bytes that fit into a buffer.
fn payload_room(chain: &Chain) -> u32 {
    chain.writable_len().saturating_sub(HEADER).min(MAX_PAYLOAD)
}
