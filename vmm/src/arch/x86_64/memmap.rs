//! The addresses of RAM, and the memory map for the guest (E820 and PVH use the same type numbers).

use super::layout;

/// Usable RAM.
pub const E820_RAM: u32 = 1;
/// Memory that the guest's allocator must not use.
pub const E820_RESERVED: u32 = 2;

/// A range of the guest's physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    /// First address of the range.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl GuestRange {
    /// The address after the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// An entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Addresses of the entry.
    pub range: GuestRange,
    /// [`E820_RAM`] or [`E820_RESERVED`].
    pub kind: u32,
}

/// The RAM below the device hole, of `size` bytes altogether.
pub fn low_ram(size: u64) -> GuestRange {
    GuestRange { start: 0, len: size.min(layout::MMIO_HOLE) }
}

/// `size` bytes of RAM, split around the hole below 4 GiB.
pub fn ram(size: u64) -> Vec<GuestRange> {
    let low = low_ram(size);
    let mut ranges = vec![low];
    if size > low.len {
        ranges.push(GuestRange { start: layout::MMIO_HOLE_END, len: size - low.len });
    }
    ranges
}

/// The addresses of `len` pluggable bytes for a guest with `size` bytes of RAM: above everything else, and aligned to the
/// largest unit in which Linux adds memory. They are not in the memory map: the device reports them to the guest.
pub fn pluggable(size: u64, len: u64) -> GuestRange {
    const ALIGNMENT: u64 = 2 << 30;
    let end = ram(size).last().map_or(0, GuestRange::end).max(layout::MMIO_HOLE_END);
    GuestRange { start: end.next_multiple_of(ALIGNMENT), len }
}

/// The memory map of a guest with `size` bytes of RAM, at least 2 MiB.
pub fn map(size: u64) -> Vec<MapEntry> {
    let entry = |start: u64, end: u64, kind| MapEntry { range: GuestRange { start, len: end - start }, kind };
    let mut map = vec![
        entry(0, layout::LOW_RAM_END, E820_RAM),
        entry(layout::LOW_RAM_END, 0xa_0000, E820_RESERVED),
        entry(layout::ACPI_TABLES, layout::ACPI_TABLES_END, E820_RESERVED),
    ];
    for range in ram(size) {
        map.push(entry(range.start.max(layout::HIGH_RAM), range.end(), E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_is_split_around_the_hole_below_4_gib() {
        assert_eq!(ram(64 << 20), [GuestRange { start: 0, len: 64 << 20 }]);
        assert_eq!(ram(3 * GIB), [GuestRange { start: 0, len: 3 * GIB }]);
        let one_more = 3 * GIB + (1 << 20);
        assert_eq!(ram(one_more), [GuestRange { start: 0, len: 3 * GIB }, GuestRange { start: 4 * GIB, len: 1 << 20 }]);
        assert_eq!(ram(5 * GIB), [GuestRange { start: 0, len: 3 * GIB }, GuestRange { start: 4 * GIB, len: 2 * GIB }]);
    }

    #[test]
    fn memory_to_plug_in_lies_above_all_ram_and_devices() {
        assert_eq!(pluggable(128 << 20, GIB), GuestRange { start: 4 * GIB, len: GIB });
        assert_eq!(pluggable(4 * GIB, GIB).start, 6 * GIB);
        assert_eq!(pluggable(5 * GIB, GIB).start, 6 * GIB);
        assert_eq!(pluggable(5 * GIB + 1, GIB).start, 8 * GIB);
    }

    proptest! {
        #[test]
        fn the_map_is_ordered_free_of_overlap_and_within_ram_and_misses_the_devices(mib in 2u64..1 << 20) {
            let size = mib << 20;
            let map = map(size);
            prop_assert!(map.len() <= layout::PVH_MEMMAP_MAX);
            for pair in map.windows(2) {
                prop_assert!(pair[0].range.end() <= pair[1].range.start);
            }
            for entry in &map {
                let backed = ram(size).iter().any(|r| r.start <= entry.range.start && entry.range.end() <= r.end());
                prop_assert!(backed, "{entry:?}");
                let missed = entry.range.end() <= layout::MMIO_HOLE || entry.range.start >= layout::MMIO_HOLE_END;
                prop_assert!(missed, "{entry:?}");
            }
            let usable: u64 = map.iter().filter(|e| e.kind == E820_RAM).map(|e| e.range.len).sum();
            prop_assert_eq!(usable, size - (layout::HIGH_RAM - layout::LOW_RAM_END));
        }
    }

    #[test]
    fn boot_data_does_not_overlap() {
        let places = [
            (layout::PVH_START_INFO, 56),
            (layout::PVH_MODULES, 32),
            (layout::PVH_MEMMAP, 24 * layout::PVH_MEMMAP_MAX as u64),
            (layout::GDT, 5 * 8),
            (layout::CMDLINE, layout::CMDLINE_MAX as u64),
            (layout::ZERO_PAGE, 0x1000),
            (layout::PML4, 0x1000),
            (layout::PDPT, 0x1000),
            (layout::PAGE_DIRECTORY, 0x1000),
        ];
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        let (last, len) = places[places.len() - 1];
        assert!(last + len <= layout::LOW_RAM_END);
    }
}
