//! The state of the region's blocks, and the requests that change it. Knows neither queues nor threads.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::request::{BlockState, MemRequest, MemResponse, Span};
use crate::ram::PlugMap;

/// The unit of plugging in bytes: the size of a huge page, so that unplugging a block frees a huge page.
pub const BLOCK_SIZE: u64 = 2 << 20;

/// Most runs of adjacent plugged blocks. Each run, and each gap, is a mapping of the host, whose kernel gives a process
/// 65,530 by default. Linux plugs and unplugs blocks in order, so it needs few.
pub const MAX_RUNS: u64 = 8192;

/// Failures in a row to give memory back after which the host's wish for less is withdrawn. Linux asks again after 50 s,
/// and then ever more slowly, for as long as more is plugged than requested.
pub const DISCARD_TRIES: u32 = 3;

/// The host's memory behind the region. The VMM implements it, since it knows how the memory is mapped.
pub trait RegionMemory: Send + Sync {
    /// Lets the guest and this process access a range, which was not plugged in.
    fn plug(&self, addr: u64, len: u64) -> io::Result<()>;

    /// Takes the access from guest and process, and frees the host's memory behind a range, which was plugged in. After
    /// an error the range is accessible.
    fn unplug(&self, addr: u64, len: u64) -> io::Result<()>;
}

/// The state of every block.
#[derive(Debug)]
pub struct Blocks {
    map: Arc<PlugMap>,
    /// Number of plugged blocks.
    count: u64,
    /// Number of runs of adjacent plugged blocks.
    runs: u64,
    /// Bytes that the host wants to be plugged.
    requested: u64,
    /// Failures in a row to give memory back.
    failures: u32,
    withdrawn: bool,
}

impl Blocks {
    /// A region without plugged blocks, of which the host wants none.
    ///
    /// # Panics
    /// If the blocks have another size than [`BLOCK_SIZE`]: a mistake of the VMM.
    pub fn new(map: Arc<PlugMap>) -> Self {
        assert_eq!(map.block_size(), BLOCK_SIZE, "the guest plugs blocks of this size");
        Self { map, count: 0, runs: 0, requested: 0, failures: 0, withdrawn: false }
    }

    /// First address and length of the region.
    pub fn region(&self) -> (u64, u64) {
        (self.map.addr(), self.map.size())
    }

    /// Number of plugged bytes.
    pub fn plugged(&self) -> u64 {
        self.count * BLOCK_SIZE
    }

    /// Bytes that the host wants to be plugged.
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// Sets the bytes that the host wants to be plugged, rounded down to whole blocks and limited to the region.
    /// Returns the new value.
    pub fn request(&mut self, bytes: u64) -> u64 {
        self.failures = 0;
        self.withdrawn = false;
        self.requested = (bytes - bytes % BLOCK_SIZE).min(self.map.size());
        self.requested
    }

    /// Whether the last request of the host for less was withdrawn, because the host itself does not take the memory
    /// back.
    pub fn withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Serves a request of the driver.
    pub fn serve(&mut self, request: MemRequest, memory: &dyn RegionMemory) -> MemResponse {
        match request {
            MemRequest::Plug(span) => self.plug(span, memory),
            MemRequest::Unplug(span) => match self.all(span, true) {
                None => MemResponse::Error,
                Some(range) => self.unplug(range, memory),
            },
            MemRequest::UnplugAll => self.unplug_all(memory),
            MemRequest::State(span) => match self.range(span) {
                None => MemResponse::Error,
                Some(range) => {
                    let plugged = range.clone().filter(|index| self.map.is_plugged(*index)).count();
                    MemResponse::State(match plugged {
                        0 => BlockState::Unplugged,
                        plugged if plugged == range.len() => BlockState::Plugged,
                        _ => BlockState::Mixed,
                    })
                }
            },
            MemRequest::Unknown(_) => MemResponse::Error,
        }
    }

    /// The indices of a span's blocks, if the span is aligned, not empty and within the region.
    fn range(&self, span: Span) -> Option<Range<usize>> {
        let offset = span.addr.checked_sub(self.map.addr()).filter(|offset| offset.is_multiple_of(BLOCK_SIZE))?;
        let first = usize::try_from(offset / BLOCK_SIZE).ok()?;
        let end = first.checked_add(span.blocks.into())?;
        (span.blocks > 0 && end <= self.map.block_count()).then_some(first..end)
    }

    /// The blocks of a span, if all of them are in `state`.
    fn all(&self, span: Span, state: bool) -> Option<Range<usize>> {
        self.range(span).filter(|range| range.clone().all(|index| self.map.is_plugged(index) == state))
    }

    /// Number of plugged blocks beside `range`: 0, 1 or 2.
    fn neighbours(&self, range: &Range<usize>) -> u64 {
        let before = range.start.checked_sub(1).is_some_and(|index| self.map.is_plugged(index));
        u64::from(before) + u64::from(self.map.is_plugged(range.end))
    }

    /// Address and length of blocks.
    fn bytes(&self, range: &Range<usize>) -> (u64, u64) {
        (self.map.addr() + range.start as u64 * BLOCK_SIZE, range.len() as u64 * BLOCK_SIZE)
    }

    fn plug(&mut self, span: Span, memory: &dyn RegionMemory) -> MemResponse {
        let Some(range) = self.all(span, false) else { return MemResponse::Error };
        if (self.count + u64::from(span.blocks)) * BLOCK_SIZE > self.requested {
            return MemResponse::Nack;
        }
        let runs = self.runs + 1 - self.neighbours(&range);
        if runs > MAX_RUNS {
            return MemResponse::Busy;
        }
        let (addr, len) = self.bytes(&range);
        if let Err(error) = memory.plug(addr, len) {
            crate::warn_limited!("cannot give the guest memory of the host: {error}");
            return MemResponse::Busy;
        }
        self.map.plug(range);
        (self.count, self.runs) = (self.count + u64::from(span.blocks), runs);
        MemResponse::Ack
    }

    /// Unplugs blocks that are plugged.
    fn unplug(&mut self, range: Range<usize>, memory: &dyn RegionMemory) -> MemResponse {
        let runs = (self.runs + self.neighbours(&range)).saturating_sub(1);
        if runs > MAX_RUNS {
            return MemResponse::Busy;
        }
        if !self.map.unplug(range.clone()) {
            // A queue or a request of another device is there. Linux does not unplug memory that it uses.
            return MemResponse::Busy;
        }
        let (addr, len) = self.bytes(&range);
        if let Err(error) = memory.unplug(addr, len) {
            self.map.plug(range);
            return self.discard_failed(&error);
        }
        self.failures = 0;
        (self.count, self.runs) = (self.count - range.len() as u64, runs);
        MemResponse::Ack
    }

    /// Answers a request whose memory the host does not take back. If there is no hope, the host wants no more than what
    /// it can have: otherwise the driver would ask for ever.
    fn discard_failed(&mut self, error: &io::Error) -> MemResponse {
        const NEVER: [Option<i32>; 3] = [Some(libc::EINVAL), Some(libc::EPERM), Some(libc::EOPNOTSUPP)];
        self.failures = self.failures.saturating_add(1);
        let hopeless = NEVER.contains(&error.raw_os_error()) || self.failures >= DISCARD_TRIES;
        if hopeless && self.requested < self.plugged() {
            self.requested = self.plugged();
            self.withdrawn = true;
            crate::warn_limited!("the host does not take memory of the guest back: {error}; the guest keeps it");
        } else {
            crate::warn_limited!("cannot give memory of the guest back to the host now: {error}");
        }
        MemResponse::Busy
    }

    /// Unplugs one run after the other. Runs that cannot be unplugged stay: the driver tries again.
    fn unplug_all(&mut self, memory: &dyn RegionMemory) -> MemResponse {
        let mut answer = MemResponse::Ack;
        let mut next = 0;
        while let Some(run) = self.run_from(next) {
            next = run.end;
            match self.unplug(run, memory) {
                MemResponse::Ack => {}
                other => answer = other,
            }
        }
        answer
    }

    /// The first run of adjacent plugged blocks that begins at `from` or later.
    fn run_from(&self, from: usize) -> Option<Range<usize>> {
        let count = self.map.block_count();
        let start = (from..count).find(|index| self.map.is_plugged(*index))?;
        let end = (start..count).find(|index| !self.map.is_plugged(*index)).unwrap_or(count);
        Some(start..end)
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
