//! The buffers of one request: a descriptor chain that is checked as a whole, then read and written through cursors
//! that cannot leave it.
//!
//! Device workers use this. A [`Chain`] is collected from guest memory once (VIRTIO 1.2, 2.7.5). After that the guest
//! can change the *contents* of the buffers but not their addresses.

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;

use smallvec::SmallVec;
use virtio_queue::DescriptorChain;
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::vectors::{ReadVectors, WriteVectors, MAX_SEGMENTS};
use crate::ram::{GuestRam, Pins};

/// An invalid chain, or an invalid access to a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain loops, leaves its table, is longer than 4 GiB, or its table cannot be read.
    #[error("descriptor chain is broken")]
    Broken,
    /// The chain has more than [`MAX_SEGMENTS`] descriptors.
    #[error("descriptor chain has more than {MAX_SEGMENTS} descriptors")]
    TooLong,
    /// A device-readable descriptor after a device-writable one (2.7.4.2).
    #[error("descriptor chain has a readable buffer after a writable one")]
    Order,
    /// A buffer is not wholly in guest memory.
    #[error("descriptor chain has a buffer outside guest memory, at {0:#x}")]
    OutOfMemory(u64),
    /// A buffer is in pluggable memory that is not plugged in.
    #[error("descriptor chain has a buffer in memory that is not plugged in, at {0:#x}")]
    NotPlugged(u64),
    /// The chain has buffers of a direction that the request does not use.
    #[error("descriptor chain has a buffer of the wrong direction")]
    Direction,
    /// The chain has fewer bytes than the request needs.
    #[error("descriptor chain is too short for its request")]
    Short,
}

/// A buffer in guest memory; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    addr: GuestAddress,
    len: u32,
}

/// A request's buffers: first those that the device reads, then those that it writes.
#[derive(Clone, Debug)]
pub struct Chain {
    head: u16,
    segments: SmallVec<[Segment; 8]>,
    /// Number of segments that the device reads.
    split: usize,
    readable: u32,
    writable: u32,
    /// Keeps the buffers plugged in.
    pins: Pins,
}

impl Chain {
    /// Walks `chain`, which lies in `mem`, to its end and checks every descriptor. Its buffers stay plugged in until it
    /// is dropped.
    ///
    /// # Errors
    /// Every [`ChainError`] except `Direction` and `Short`.
    pub fn collect<M>(mem: &GuestRam, chain: DescriptorChain<M>) -> Result<Self, ChainError>
    where
        M: Deref,
        M::Target: GuestMemory,
    {
        let (head, segments, pins) = (chain.head_index(), SmallVec::new(), Pins::new());
        let mut this = Self { head, segments, split: 0, readable: 0, writable: 0, pins };
        // At a fault the iterator just ends: the last descriptor then still points to a next one, or there was none.
        let mut complete = false;
        for (count, descriptor) in chain.enumerate() {
            if count >= MAX_SEGMENTS {
                return Err(ChainError::TooLong);
            }
            complete = !descriptor.has_next();
            this.add(mem, descriptor.addr(), descriptor.len(), descriptor.is_write_only())?;
        }
        if complete {
            Ok(this)
        } else {
            Err(ChainError::Broken)
        }
    }

    fn add(&mut self, mem: &GuestRam, addr: GuestAddress, len: u32, write: bool) -> Result<(), ChainError> {
        if !write && self.split != self.segments.len() {
            return Err(ChainError::Order);
        }
        if len == 0 {
            return Ok(());
        }
        if !mem.check_range(addr, len as usize) {
            return Err(ChainError::OutOfMemory(addr.raw_value()));
        }
        let pinned = mem.pin(addr, u64::from(len), &mut self.pins);
        pinned.map_err(|error| ChainError::NotPlugged(error.0))?;
        let total = if write { &mut self.writable } else { &mut self.readable };
        *total = total.checked_add(len).ok_or(ChainError::Broken)?;
        self.segments.push(Segment { addr, len });
        if !write {
            self.split = self.segments.len();
        }
        Ok(())
    }

    /// Index of the first descriptor, which identifies the request in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes for the device to read.
    pub fn readable_len(&self) -> u32 {
        self.readable
    }

    /// Bytes for the device to write.
    pub fn writable_len(&self) -> u32 {
        self.writable
    }

    /// A reader at the first byte for the device to read. `mem` must be the memory that the chain was collected from.
    pub fn reader<'a>(&'a self, mem: &'a GuestMemoryMmap<()>) -> ChainReader<'a> {
        let segments = self.segments.get(..self.split).unwrap_or_default();
        ChainReader(Cursor { mem, segments, offset: 0, remaining: self.readable })
    }

    /// A writer at the first byte for the device to write. `mem` must be the memory that the chain was collected from.
    pub fn writer<'a>(&'a self, mem: &'a GuestMemoryMmap<()>) -> ChainWriter<'a> {
        let segments = self.segments.get(self.split..).unwrap_or_default();
        ChainWriter { cursor: Cursor { mem, segments, offset: 0, remaining: self.writable }, written: 0 }
    }
}

/// A position in a list of segments.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    mem: &'a GuestMemoryMmap<()>,
    /// Segments that are left; the first is used up to `offset`.
    segments: &'a [Segment],
    offset: u32,
    /// Bytes that are left; the segments may hold more.
    remaining: u32,
}

impl<'a> Cursor<'a> {
    /// Contiguous ranges of guest addresses from here on, at most `limit` bytes in total.
    fn ranges(&self, limit: u32) -> impl Iterator<Item = (GuestAddress, u32)> + use<'a> {
        let mut offset = self.offset;
        let mut left = limit.min(self.remaining);
        self.segments.iter().map_while(move |segment| {
            let len = (segment.len - offset).min(left);
            let addr = segment.addr.unchecked_add(u64::from(offset));
            offset = 0;
            left -= len;
            (len > 0).then_some((addr, len))
        })
    }

    /// Moves by `count` bytes, which is at most `remaining`.
    fn advance(&mut self, count: u32) {
        self.remaining -= count;
        let mut count = count;
        while let Some((first, rest)) = self.segments.split_first() {
            let here = first.len - self.offset;
            if count < here {
                self.offset += count;
                return;
            }
            count -= here;
            self.offset = 0;
            self.segments = rest;
        }
    }

    /// `len` as the length of an access, or `Short`.
    fn check(&self, len: usize) -> Result<u32, ChainError> {
        u32::try_from(len).ok().filter(|len| *len <= self.remaining).ok_or(ChainError::Short)
    }

    /// Does [`Cursor::advance`] by a count that a system call returned, which is at most the length that was asked for.
    fn advance_by_io(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(self.remaining);
        self.advance(count);
    }

    fn take(&self, limit: u32) -> Self {
        Self { remaining: self.remaining.min(limit), ..self.clone() }
    }
}

/// Reads a request's buffers in order.
#[derive(Clone, Debug)]
pub struct ChainReader<'a>(Cursor<'a>);

impl<'a> ChainReader<'a> {
    /// Number of bytes left.
    pub fn remaining(&self) -> u32 {
        self.0.remaining
    }

    /// Fills `data`, or fails with `Short` and reads nothing.
    pub fn read_exact(&mut self, data: &mut [u8]) -> Result<(), ChainError> {
        let len = self.0.check(data.len())?;
        let mut rest = data;
        for (addr, count) in self.0.ranges(len) {
            let (here, after) = rest.split_at_mut(count as usize);
            self.0.mem.read_slice(here, addr).map_err(|_| ChainError::OutOfMemory(addr.raw_value()))?;
            rest = after;
        }
        self.0.advance(len);
        Ok(())
    }

    /// Reads a plain value as it lies in memory (little-endian in virtio), or fails with `Short` and reads nothing.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Result<T, ChainError> {
        let mut value = T::default();
        self.read_exact(value.as_mut_slice())?;
        Ok(value)
    }

    /// Moves past `count` bytes, or fails with `Short` and does not move.
    pub fn skip(&mut self, count: u32) -> Result<(), ChainError> {
        self.0.check(count as usize)?;
        self.0.advance(count);
        Ok(())
    }

    /// A reader of the next `limit` bytes, or of all if fewer are left. This reader does not move.
    #[must_use]
    pub fn limited(&self, limit: u32) -> Self {
        Self(self.0.take(limit))
    }

    /// Adds the bytes that are left to `vectors`; this reader does not move.
    pub fn push_to(&self, vectors: &mut WriteVectors<'a>) {
        vectors.push_ranges(self.0.mem, self.0.ranges(u32::MAX));
    }

    /// Does one `writev` of up to `limit` bytes from guest memory to `fd`. Moves by the number of bytes written and
    /// returns it.
    pub fn write_to(&mut self, fd: impl AsFd, limit: u32) -> io::Result<usize> {
        let mut vectors = WriteVectors::new();
        self.limited(limit).push_to(&mut vectors);
        let count = vectors.writev(fd)?;
        self.0.advance_by_io(count);
        Ok(count)
    }

    /// Writes all bytes that are left at `offset` of a file with `pwritev`. After an error this reader has moved by the
    /// bytes written. `WriteZero`: the file takes no more.
    pub fn write_all_at(&mut self, file: impl AsFd, mut offset: u64) -> io::Result<()> {
        while self.remaining() > 0 {
            let mut vectors = WriteVectors::new();
            self.push_to(&mut vectors);
            match vectors.pwritev(&file, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.0.advance_by_io(count);
                    offset = offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl io::Read for ChainReader<'_> {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let len = data.len().min(self.remaining() as usize);
        let data = data.get_mut(..len).unwrap_or_default();
        ChainReader::read_exact(self, data).map_err(io::Error::other)?;
        Ok(len)
    }
}

/// Fills a request's buffers in order.
#[derive(Clone, Debug)]
pub struct ChainWriter<'a> {
    cursor: Cursor<'a>,
    written: u32,
}

impl<'a> ChainWriter<'a> {
    /// Number of bytes left.
    pub fn remaining(&self) -> u32 {
        self.cursor.remaining
    }

    /// Number of bytes before this position in the chain's writable buffers: the length for the used ring.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Writes all of `data`, or fails with `Short` and writes nothing.
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), ChainError> {
        let len = self.cursor.check(data.len())?;
        let mut rest = data;
        for (addr, count) in self.cursor.ranges(len) {
            let (here, after) = rest.split_at(count as usize);
            self.cursor.mem.write_slice(here, addr).map_err(|_| ChainError::OutOfMemory(addr.raw_value()))?;
            rest = after;
        }
        self.move_on(len);
        Ok(())
    }

    /// Writes a plain value as it lies in memory (little-endian in virtio), or fails with `Short` and writes nothing.
    pub fn write_obj<T: ByteValued>(&mut self, value: T) -> Result<(), ChainError> {
        self.write_all(value.as_slice())
    }

    /// Moves past `count` bytes, which count as written, or fails with `Short` and does not move.
    pub fn skip(&mut self, count: u32) -> Result<(), ChainError> {
        self.cursor.check(count as usize)?;
        self.move_on(count);
        Ok(())
    }

    /// A writer of the next `limit` bytes, or of all if fewer are left, with the same [`Self::written`]. This writer
    /// does not move.
    #[must_use]
    pub fn limited(&self, limit: u32) -> Self {
        Self { cursor: self.cursor.take(limit), written: self.written }
    }

    /// Adds the bytes that are left to `vectors`; this writer does not move.
    pub fn push_to(&self, vectors: &mut ReadVectors<'a>) {
        vectors.push_ranges(self.cursor.mem, self.cursor.ranges(u32::MAX));
    }

    /// Does one `readv` of up to `limit` bytes from `fd` into guest memory. Moves by the number of bytes read and
    /// returns it.
    pub fn read_from(&mut self, fd: impl AsFd, limit: u32) -> io::Result<usize> {
        let mut vectors = ReadVectors::new();
        self.limited(limit).push_to(&mut vectors);
        let count = vectors.readv(fd)?;
        self.move_on_by_io(count);
        Ok(count)
    }

    /// Fills all bytes that are left from `offset` of a file with `preadv`. After an error this writer has moved by the
    /// bytes read. `UnexpectedEof`: the file ends before.
    pub fn fill_from_at(&mut self, file: impl AsFd, mut offset: u64) -> io::Result<()> {
        while self.remaining() > 0 {
            let mut vectors = ReadVectors::new();
            self.push_to(&mut vectors);
            match vectors.preadv(&file, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.move_on_by_io(count);
                    offset = offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn move_on(&mut self, count: u32) {
        self.cursor.advance(count);
        self.written += count;
    }

    fn move_on_by_io(&mut self, count: usize) {
        let before = self.cursor.remaining;
        self.cursor.advance_by_io(count);
        self.written += before - self.cursor.remaining;
    }
}

impl io::Write for ChainWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = data.len().min(self.remaining() as usize);
        ChainWriter::write_all(self, data.get(..len).unwrap_or_default()).map_err(io::Error::other)?;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
