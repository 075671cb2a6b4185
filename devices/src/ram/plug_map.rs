//! The state of pluggable blocks: not plugged in, plugged in, or in use by devices. Any thread, without locks.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use smallvec::SmallVec;

/// A block that is not plugged in.
const UNPLUGGED: u32 = 0;
/// A plugged block without users. Larger numbers are plugged blocks with users.
const UNUSED: u32 = 1;

/// A range of guest memory is not plugged in, at least in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory at {0:#x} is not plugged in")]
pub struct NotPlugged(pub u64);

/// The blocks of the pluggable region.
#[derive(Debug)]
pub struct PlugMap {
    addr: u64,
    size: u64,
    block_size: u64,
    blocks: Box<[AtomicU32]>,
}

impl PlugMap {
    /// A region of `size` bytes at the guest-physical address `addr`, of which nothing is plugged in.
    ///
    /// # Panics
    /// If the region does not consist of whole, aligned blocks or leaves the address space: a mistake of the VMM.
    pub fn new(addr: u64, size: u64, block_size: u64) -> Self {
        let whole = block_size.is_power_of_two() && addr.is_multiple_of(block_size) && size.is_multiple_of(block_size);
        assert!(
            whole && addr.checked_add(size).is_some(),
            "a region must consist of whole blocks: {size:#x} bytes at {addr:#x}"
        );
        let count = usize::try_from(size / block_size).expect("addresses of a 64-bit host");
        Self { addr, size, block_size, blocks: (0..count).map(|_| AtomicU32::new(UNPLUGGED)).collect() }
    }

    /// First address of the region.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Length of the region in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Number of blocks.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Whether block `index` is plugged in. A block outside the region is not.
    pub fn is_plugged(&self, index: usize) -> bool {
        self.blocks.get(index).is_some_and(|block| block.load(Ordering::Relaxed) != UNPLUGGED)
    }

    /// Whether `addr` is in the region and its block is not plugged in.
    pub fn is_unplugged(&self, addr: u64) -> bool {
        self.touched(addr, 1).is_some_and(|range| !self.is_plugged(range.start))
    }

    /// Whether a block of the region is not plugged in.
    pub fn has_unplugged(&self) -> bool {
        (0..self.block_count()).any(|index| !self.is_plugged(index))
    }

    /// Marks blocks as plugged in. The memory must be accessible.
    pub fn plug(&self, range: Range<usize>) {
        for block in self.blocks.get(range).unwrap_or_default() {
            block.store(UNUSED, Ordering::Release);
        }
    }

    /// Marks plugged blocks as not plugged in: from then on no device can use them. False, and no change, if a device
    /// uses one of them. One caller at a time.
    #[must_use]
    pub fn unplug(&self, range: Range<usize>) -> bool {
        let blocks = self.blocks.get(range).unwrap_or_default();
        for (done, block) in blocks.iter().enumerate() {
            if block.compare_exchange(UNUSED, UNPLUGGED, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                for block in blocks.iter().take(done) {
                    block.store(UNUSED, Ordering::Release);
                }
                return false;
            }
        }
        true
    }

    /// The blocks that `len` bytes at `addr` touch, if any.
    fn touched(&self, addr: u64, len: u64) -> Option<Range<usize>> {
        let start = addr.max(self.addr);
        let end = addr.saturating_add(len).min(self.addr + self.size);
        if start >= end {
            return None;
        }
        let index = |at: u64| usize::try_from(at / self.block_size).ok();
        Some(index(start - self.addr)?..index((end - self.addr).next_multiple_of(self.block_size))?)
    }

    /// Adds a user to each block, or to none if one is not plugged in.
    fn pin(&self, range: Range<usize>) -> bool {
        let blocks = self.blocks.get(range).unwrap_or_default();
        for (done, block) in blocks.iter().enumerate() {
            let more = |users: u32| if users == UNPLUGGED { None } else { users.checked_add(1) };
            if block.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_err() {
                release(blocks.iter().take(done));
                return false;
            }
        }
        true
    }

    fn unpin(&self, range: Range<usize>) {
        release(self.blocks.get(range).unwrap_or_default().iter());
    }
}

fn release<'a>(blocks: impl Iterator<Item = &'a AtomicU32>) {
    for block in blocks {
        block.fetch_sub(1, Ordering::Release);
    }
}

/// Blocks that stay plugged in while this lives: the guest's request to unplug one of them is answered with "busy".
#[derive(Debug, Default)]
pub struct Pins(Option<Pinned>);

#[derive(Debug)]
struct Pinned {
    map: Arc<PlugMap>,
    ranges: SmallVec<[Range<usize>; 4]>,
}

impl Pins {
    /// No blocks.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds the blocks in `len` bytes at `addr`; addresses outside the region need no pin.
    pub(crate) fn add(&mut self, map: &Arc<PlugMap>, addr: u64, len: u64) -> Result<(), NotPlugged> {
        let Some(range) = map.touched(addr, len) else { return Ok(()) };
        if let Some(pinned) = &self.0 {
            // Buffers of a request often lie side by side.
            if pinned.ranges.last().is_some_and(|last| last.start <= range.start && range.end <= last.end) {
                return Ok(());
            }
        }
        if !map.pin(range.clone()) {
            return Err(NotPlugged(addr));
        }
        let pinned = self.0.get_or_insert_with(|| Pinned { map: map.clone(), ranges: SmallVec::new() });
        pinned.ranges.push(range);
        Ok(())
    }
}

impl Clone for Pins {
    fn clone(&self) -> Self {
        let Some(Pinned { map, ranges }) = &self.0 else { return Self(None) };
        // They have a user, so they are plugged in. A counter that is full only leaves the copy without its pin.
        let ranges = ranges.iter().filter(|range| map.pin((*range).clone())).cloned().collect();
        Self(Some(Pinned { map: map.clone(), ranges }))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for range in &self.ranges {
            self.map.unpin(range.clone());
        }
    }
}

#[cfg(test)]
#[path = "plug_map_tests.rs"]
mod tests;
