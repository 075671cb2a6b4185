//! The parts of an ELF image that have to be loaded, with their addresses: segments without their empty sections.

use super::elf::{Section, SectionKind, Segment};
use crate::arch::x86_64::memmap::GuestRange;

/// Page size of memory and file mappings.
pub(super) const PAGE: u64 = 0x1000;

/// Bytes of a file and their address in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// Position in the file.
    pub offset: u64,
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// A segment to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSegment {
    /// Guest physical address.
    pub address: u64,
    /// Bytes in memory that the kernel needs.
    pub memory_len: u64,
    /// The parts with contents; everything else is zero.
    pub extents: Vec<FileExtent>,
    /// The parts that the guest hardly ever touches.
    pub cold: Vec<GuestRange>,
}

impl LoadSegment {
    /// Whether a byte of the file is loaded to `address`.
    pub fn has_contents_at(&self, address: u64) -> bool {
        self.extents.iter().any(|extent| extent.address <= address && address - extent.address < extent.len)
    }
}

/// First and last (exclusive) address of all segments.
pub fn address_range(segments: &[LoadSegment]) -> (u64, u64) {
    let start = segments.iter().map(|segment| segment.address).min().unwrap_or(0);
    let end = segments.iter().map(|segment| segment.address + segment.memory_len).max().unwrap_or(0);
    (start, end)
}

/// The segments to load, without their empty sections. The caller has checked that no segment's addresses wrap.
pub fn load_segments(segments: &[Segment], special: &[Section]) -> Vec<LoadSegment> {
    let load = |segment: &Segment| match *segment {
        Segment::Load { offset, address, virt, file_len, memory_len } => {
            let holes = within(virt, memory_len, special, |kind| kind != SectionKind::Cold);
            let dispensable = special.iter().find(|section| {
                section.kind == SectionKind::Dispensable
                    && section.virt > virt
                    && section.virt + section.len == virt.saturating_add(memory_len)
            });
            let memory_len = dispensable.map_or(memory_len, |section| section.virt - virt);
            let extent = |(start, end): (u64, u64)| FileExtent {
                offset: offset + start,
                address: address + start,
                len: end - start,
            };
            let extents = between(&holes, file_len.min(memory_len)).into_iter().map(extent).collect();
            let cold = within(virt, memory_len, special, |kind| kind == SectionKind::Cold);
            let range =
                |(start, end): (u64, u64)| GuestRange { start: address + start, len: end.min(memory_len) - start };
            Some(LoadSegment { address, memory_len, extents, cold: cold.into_iter().map(range).collect() })
        }
        Segment::Notes { .. } => None,
    };
    segments.iter().filter_map(load).collect()
}

/// Sections of some kinds that begin in a segment, as offsets in it, in order. They may end behind it.
fn within(virt: u64, len: u64, special: &[Section], is: impl Fn(SectionKind) -> bool) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = special
        .iter()
        .filter(|section| is(section.kind))
        .filter_map(|section| {
            let start = section.virt.checked_sub(virt)?;
            (start < len).then_some((start, start.saturating_add(section.len)))
        })
        .collect();
    ranges.sort_unstable();
    ranges
}

/// The rest of `0..len` without the holes.
fn between(holes: &[(u64, u64)], len: u64) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    for &(start, end) in holes {
        if at < start.min(len) {
            ranges.push((at, start.min(len)));
        }
        at = at.max(end);
    }
    if at < len {
        ranges.push((at, len));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VIRT: u64 = 0xffff_ffff_8331_6000;

    fn segment(file_len: u64, memory_len: u64) -> Segment {
        Segment::Load { offset: 0x2000, address: 0x331_6000, virt: VIRT, file_len, memory_len }
    }

    fn section(at: u64, len: u64, kind: SectionKind) -> Section {
        Section { virt: VIRT + at, len, kind }
    }

    #[test]
    fn without_sections_the_whole_segment_is_read() {
        let segments = load_segments(&[segment(0x500, 0x900)], &[]);
        assert_eq!(segments[0].extents, [FileExtent { offset: 0x2000, address: 0x331_6000, len: 0x500 }]);
        assert_eq!(address_range(&segments), (0x331_6000, 0x331_6900));
    }

    #[test]
    fn empty_sections_are_not_read_and_the_work_area_at_the_end_is_not_even_needed() {
        let empty = [section(0x100, 0x80, SectionKind::Empty), section(0x400, 0x100, SectionKind::Dispensable)];
        let segments = load_segments(&[segment(0x500, 0x500)], &empty);
        let extent = |at: u64, len: u64| FileExtent { offset: 0x2000 + at, address: 0x331_6000 + at, len };
        assert_eq!(segments[0].extents, [extent(0, 0x100), extent(0x180, 0x280)]);
        assert_eq!(address_range(&segments), (0x331_6000, 0x331_6400));
        assert!(segments[0].has_contents_at(0x331_6000) && !segments[0].has_contents_at(0x331_6100));
    }

    #[test]
    fn cold_sections_are_loaded_like_others_and_reported() {
        let special = [
            section(0x100, 0x80, SectionKind::Cold),
            section(0x480, 0x100, SectionKind::Cold),
            section(0x600, 1, SectionKind::Cold),
        ];
        let segments = load_segments(&[segment(0x500, 0x500)], &special);
        assert_eq!(segments[0].extents, [FileExtent { offset: 0x2000, address: 0x331_6000, len: 0x500 }]);
        assert_eq!(
            segments[0].cold,
            [GuestRange { start: 0x331_6100, len: 0x80 }, GuestRange { start: 0x331_6480, len: 0x80 }]
        );
    }

    #[test]
    fn a_segment_with_nothing_but_work_area_stays() {
        assert_eq!(
            address_range(&load_segments(&[segment(0x500, 0x500)], &[section(0, 0x500, SectionKind::Dispensable)])),
            (0x331_6000, 0x331_6500)
        );
    }

    proptest! {
        #[test]
        fn extents_and_empty_sections_together_are_the_segment(
            file_len in 0u64..200, extra in 0u64..50,
            sections in proptest::collection::vec((0u64..300, 1u64..100), 0..6),
        ) {
            let empty: Vec<_> = sections.iter().map(|(at, len)| section(*at, *len, SectionKind::Empty)).collect();
            let segments = load_segments(&[segment(file_len, file_len + extra)], &empty);
            for at in 0..file_len {
                let read = segments[0].has_contents_at(0x331_6000 + at);
                let empty = sections.iter().any(|(start, len)| (*start..start + len).contains(&at));
                prop_assert_eq!(read, !empty);
            }
            prop_assert!(segments[0].extents.iter().all(|extent| extent.offset + extent.len <= 0x2000 + file_len));
        }
    }
}
