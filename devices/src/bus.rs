//! Address ranges and the devices that answer there: one bus for memory-mapped I/O, one for port I/O.
//!
//! The VMM builds a bus once and shares it with all vCPU threads. Accesses take no lock here.

use std::sync::Arc;

/// A device that answers accesses to its range. Several vCPU threads may call it at the same time.
///
/// Offset and length come from the guest: any combination that lies in the range may arrive.
pub trait BusDevice: Send + Sync {
    /// Serves a read of the guest at `offset`: fills `data`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Serves a write of the guest at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range that cannot be put on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range has no address.
    #[error("bus range at {base:#x} is empty: give it a length")]
    Empty {
        /// First address.
        base: u64,
    },
    /// The range goes past the end of the address space.
    #[error("bus range at {base:#x} of {len:#x} bytes wraps around: place it lower")]
    Wraps {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Another device has addresses of the range.
    #[error("bus range at {base:#x} of {len:#x} bytes overlaps the one at {other:#x}: place it elsewhere")]
    Overlap {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// First address of the other device's range.
        other: u64,
    },
}

struct Range {
    base: u64,
    /// Last address that belongs to the range; a length could not express a range up to `u64::MAX`.
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// Ranges that do not overlap, sorted by address.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
}

impl Bus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base`, for `len` bytes.
    pub fn insert(&mut self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let span = len.checked_sub(1).ok_or(BusError::Empty { base })?;
        let last = base.checked_add(span).ok_or(BusError::Wraps { base, len })?;
        let at = self.ranges.partition_point(|range| range.last < base);
        if let Some(other) = self.ranges.get(at).filter(|range| range.base <= last) {
            return Err(BusError::Overlap { base, len, other: other.base });
        }
        self.ranges.insert(at, Range { base, last, device });
        Ok(())
    }

    /// Passes a read of the guest on. False, with `data` untouched, if no single range holds the whole access.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        match self.find(addr, data.len()) {
            Some((device, offset)) => {
                device.read(offset, data);
                true
            }
            None => false,
        }
    }

    /// Passes a write of the guest on. False if no single range holds the whole access.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        match self.find(addr, data.len()) {
            Some((device, offset)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, addr: u64, len: usize) -> Option<(&dyn BusDevice, u64)> {
        let span = u64::try_from(len).ok()?.checked_sub(1)?;
        let last = addr.checked_add(span)?;
        let range = self.ranges.get(self.ranges.partition_point(|range| range.last < addr))?;
        (range.base <= addr && last <= range.last).then(|| (range.device.as_ref(), addr - range.base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BusRecorder;

    #[test]
    fn accesses_reach_the_device_with_their_offset() {
        let device = Arc::new(BusRecorder::default());
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        bus.insert(0x3f8, 8, Arc::new(BusRecorder::default())).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x100e, &mut data));
        assert_eq!(data, [0xe, 0xe]);
        assert!(bus.write(0x1000, &[1, 2]));
        assert_eq!(device.writes(), [(0, vec![1, 2])]);
    }

    #[test]
    fn no_device_answers_outside_or_across_a_border() {
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x10, Arc::new(BusRecorder::default())).unwrap();
        bus.insert(0x1010, 0x10, Arc::new(BusRecorder::default())).unwrap();
        let mut data = [7; 4];
        for addr in [0, 0xfff, 0x100e, 0x101d, 0x1020, u64::MAX] {
            assert!(!bus.read(addr, &mut data), "{addr:#x}");
            assert!(!bus.write(addr, &data), "{addr:#x}");
        }
        assert!(!bus.read(0x1000, &mut []));
        assert_eq!(data, [7; 4]);
    }

    #[test]
    fn ranges_that_overlap_wrap_or_are_empty_are_refused() {
        let mut bus = Bus::new();
        let device = || Arc::new(BusRecorder::default());
        bus.insert(0x1000, 0x1000, device()).unwrap();
        for (base, len) in [(0x1000, 1), (0x1fff, 1), (0xfff, 2), (0, u64::MAX), (0x1800, 0x1000)] {
            assert_eq!(bus.insert(base, len, device()), Err(BusError::Overlap { base, len, other: 0x1000 }));
        }
        assert_eq!(bus.insert(5, 0, device()), Err(BusError::Empty { base: 5 }));
        assert_eq!(bus.insert(u64::MAX, 2, device()), Err(BusError::Wraps { base: u64::MAX, len: 2 }));
        bus.insert(0xfff, 1, device()).unwrap();
        bus.insert(0x2000, 1, device()).unwrap();
        bus.insert(u64::MAX, 1, device()).unwrap();
    }
}
