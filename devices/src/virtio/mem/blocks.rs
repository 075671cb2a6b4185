//! The state of the region's blocks, and the requests that change it. Knows neither queues nor threads.

use std::io;

use super::request::{BlockState, MemRequest, MemResponse, Span};

/// The unit of plugging in bytes: the size of a huge page, so that unplugging a block frees a huge page.
pub const BLOCK_SIZE: u64 = 2 << 20;

/// Failures in a row to give memory back after which the host's wish for less is withdrawn. Linux asks again after 50 s,
/// and then ever more slowly, for as long as more is plugged than requested.
pub const DISCARD_TRIES: u32 = 3;

/// The device's range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address, a multiple of [`BLOCK_SIZE`].
    pub addr: u64,
    /// Length in bytes, a multiple of [`BLOCK_SIZE`].
    pub size: u64,
}

/// Gives memory of the guest back to the host. The VMM implements it, since it knows how the memory is mapped.
pub trait Discard: Send + Sync {
    /// Drops the contents of a range of the region and frees the host's memory behind it.
    fn discard(&self, addr: u64, len: u64) -> io::Result<()>;
}

/// The state of every block.
#[derive(Clone, Debug)]
pub struct Blocks {
    region: Region,
    plugged: Vec<bool>,
    /// Number of plugged blocks.
    count: u64,
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
    /// If the region does not consist of whole blocks or leaves the address space: a mistake of the VMM.
    pub fn new(region: Region) -> Self {
        let whole = region.addr.is_multiple_of(BLOCK_SIZE) && region.size.is_multiple_of(BLOCK_SIZE);
        assert!(
            whole && region.addr.checked_add(region.size).is_some(),
            "a region must consist of whole blocks: {region:?}"
        );
        let blocks = usize::try_from(region.size / BLOCK_SIZE).expect("addresses of a 64-bit host");
        Self { region, plugged: vec![false; blocks], count: 0, requested: 0, failures: 0, withdrawn: false }
    }

    /// The region of the blocks.
    pub fn region(&self) -> Region {
        self.region
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
        self.requested = (bytes - bytes % BLOCK_SIZE).min(self.region.size);
        self.requested
    }

    /// Whether the last request of the host for less was withdrawn, because the host itself does not take the memory
    /// back.
    pub fn withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Serves a request of the driver.
    pub fn serve(&mut self, request: MemRequest, discard: &dyn Discard) -> MemResponse {
        match request {
            MemRequest::Plug(span) => self.plug(span),
            MemRequest::Unplug(span) => self.unplug(span, discard),
            MemRequest::UnplugAll => self.unplug_all(discard),
            MemRequest::State(span) => match self.range(span).and_then(|range| self.plugged.get(range)) {
                None => MemResponse::Error,
                Some(blocks) if blocks.iter().all(|plugged| *plugged) => MemResponse::State(BlockState::Plugged),
                Some(blocks) if blocks.iter().any(|plugged| *plugged) => MemResponse::State(BlockState::Mixed),
                Some(_) => MemResponse::State(BlockState::Unplugged),
            },
            MemRequest::Unknown(_) => MemResponse::Error,
        }
    }

    /// The indices of a span's blocks, if the span is aligned, not empty and within the region.
    fn range(&self, span: Span) -> Option<std::ops::Range<usize>> {
        let offset = span.addr.checked_sub(self.region.addr).filter(|offset| offset.is_multiple_of(BLOCK_SIZE))?;
        let first = usize::try_from(offset / BLOCK_SIZE).ok()?;
        let end = first.checked_add(span.blocks.into())?;
        (span.blocks > 0 && end <= self.plugged.len()).then_some(first..end)
    }

    /// The blocks of a span, if all of them are in `state`.
    fn all(&mut self, span: Span, state: bool) -> Option<&mut [bool]> {
        let range = self.range(span)?;
        self.plugged.get_mut(range).filter(|blocks| blocks.iter().all(|plugged| *plugged == state))
    }

    fn plug(&mut self, span: Span) -> MemResponse {
        let after = (self.count + u64::from(span.blocks)) * BLOCK_SIZE;
        let enough = after > self.requested;
        match self.all(span, false) {
            None => MemResponse::Error,
            Some(_) if enough => MemResponse::Nack,
            Some(blocks) => {
                blocks.fill(true);
                self.count += u64::from(span.blocks);
                MemResponse::Ack
            }
        }
    }

    fn unplug(&mut self, span: Span, discard: &dyn Discard) -> MemResponse {
        let Some(blocks) = self.all(span, true) else { return MemResponse::Error };
        if let Err(error) = discard.discard(span.addr, u64::from(span.blocks) * BLOCK_SIZE) {
            return self.discard_failed(&error);
        }
        blocks.fill(false);
        self.failures = 0;
        self.count -= u64::from(span.blocks);
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
            crate::warn_limited!(
                "the host does not take memory of the guest back: {error}; the guest keeps it. Locked memory cannot be \
                 given back: do not lock the memory of machines that have to shrink"
            );
        } else {
            crate::warn_limited!("cannot give memory of the guest back to the host now: {error}");
        }
        MemResponse::Busy
    }

    fn unplug_all(&mut self, discard: &dyn Discard) -> MemResponse {
        if self.count > 0 {
            if let Err(error) = discard.discard(self.region.addr, self.region.size) {
                return self.discard_failed(&error);
            }
        }
        self.failures = 0;
        self.plugged.fill(false);
        self.count = 0;
        MemResponse::Ack
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
