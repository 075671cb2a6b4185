//! Which bytes of an ELF image have to be read, and to where: segments without their empty sections.

use super::elf::{Kind, Section, Segment};
use crate::arch::x86_64::memmap::Range;

/// What memory and files are mapped in.
pub(super) const PAGE: u64 = 0x1000;

/// Bytes of the file for a place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position in the file.
    pub offset: u64,
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Physical address.
    pub address: u64,
    /// Bytes in memory that the kernel cannot do without.
    pub memory_len: u64,
    /// What to read; all else is zero.
    pub pieces: Vec<Piece>,
    /// What the guest hardly ever touches.
    pub cold: Vec<Range>,
}

impl Load {
    /// Whether something is read to `address`.
    pub fn has_contents_at(&self, address: u64) -> bool {
        self.pieces.iter().any(|piece| piece.address <= address && address - piece.address < piece.len)
    }
}

/// First and last (exclusive) address of all segments.
pub fn extent(loads: &[Load]) -> (u64, u64) {
    let start = loads.iter().map(|load| load.address).min().unwrap_or(0);
    let end = loads.iter().map(|load| load.address + load.memory_len).max().unwrap_or(0);
    (start, end)
}

/// Segments to be loaded, which have been checked not to wrap, without what is empty.
pub fn loads(segments: &[Segment], special: &[Section]) -> Vec<Load> {
    let load = |segment: &Segment| match *segment {
        Segment::Load { offset, address, virt, file_len, memory_len } => {
            let holes = within(virt, memory_len, special, |kind| kind != Kind::Cold);
            let dispensable = special.iter().find(|section| {
                section.kind == Kind::Dispensable
                    && section.virt > virt
                    && section.virt + section.len == virt.saturating_add(memory_len)
            });
            let memory_len = dispensable.map_or(memory_len, |section| section.virt - virt);
            let piece =
                |(start, end): (u64, u64)| Piece { offset: offset + start, address: address + start, len: end - start };
            let pieces = between(&holes, file_len.min(memory_len)).into_iter().map(piece).collect();
            let cold = within(virt, memory_len, special, |kind| kind == Kind::Cold);
            let range = |(start, end): (u64, u64)| Range { start: address + start, len: end.min(memory_len) - start };
            Some(Load { address, memory_len, pieces, cold: cold.into_iter().map(range).collect() })
        }
        Segment::Notes { .. } => None,
    };
    segments.iter().filter_map(load).collect()
}

/// Sections of some kinds that begin in a segment, as offsets in it, in order. They may end behind it.
fn within(virt: u64, len: u64, special: &[Section], is: impl Fn(Kind) -> bool) -> Vec<(u64, u64)> {
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

/// What remains of `0..len` without the holes.
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

    fn section(at: u64, len: u64, kind: Kind) -> Section {
        Section { virt: VIRT + at, len, kind }
    }

    #[test]
    fn without_sections_the_whole_segment_is_read() {
        let loads = loads(&[segment(0x500, 0x900)], &[]);
        assert_eq!(loads[0].pieces, [Piece { offset: 0x2000, address: 0x331_6000, len: 0x500 }]);
        assert_eq!(extent(&loads), (0x331_6000, 0x331_6900));
    }

    #[test]
    fn empty_sections_are_not_read_and_the_work_area_at_the_end_is_not_even_needed() {
        let empty = [section(0x100, 0x80, Kind::Empty), section(0x400, 0x100, Kind::Dispensable)];
        let loads = loads(&[segment(0x500, 0x500)], &empty);
        let piece = |at: u64, len: u64| Piece { offset: 0x2000 + at, address: 0x331_6000 + at, len };
        assert_eq!(loads[0].pieces, [piece(0, 0x100), piece(0x180, 0x280)]);
        assert_eq!(extent(&loads), (0x331_6000, 0x331_6400));
        assert!(loads[0].has_contents_at(0x331_6000) && !loads[0].has_contents_at(0x331_6100));
    }

    #[test]
    fn what_is_cold_is_read_all_the_same_and_known() {
        let special =
            [section(0x100, 0x80, Kind::Cold), section(0x480, 0x100, Kind::Cold), section(0x600, 1, Kind::Cold)];
        let loads = loads(&[segment(0x500, 0x500)], &special);
        assert_eq!(loads[0].pieces, [Piece { offset: 0x2000, address: 0x331_6000, len: 0x500 }]);
        assert_eq!(loads[0].cold, [Range { start: 0x331_6100, len: 0x80 }, Range { start: 0x331_6480, len: 0x80 }]);
    }

    #[test]
    fn a_segment_that_is_nothing_but_work_area_stays() {
        assert_eq!(
            extent(&loads(&[segment(0x500, 0x500)], &[section(0, 0x500, Kind::Dispensable)])),
            (0x331_6000, 0x331_6500)
        );
    }

    proptest! {
        #[test]
        fn pieces_and_empty_sections_together_are_the_segment(
            file_len in 0u64..200, extra in 0u64..50,
            sections in proptest::collection::vec((0u64..300, 1u64..100), 0..6),
        ) {
            let empty: Vec<_> = sections.iter().map(|(at, len)| section(*at, *len, Kind::Empty)).collect();
            let loads = loads(&[segment(file_len, file_len + extra)], &empty);
            for at in 0..file_len {
                let read = loads[0].has_contents_at(0x331_6000 + at);
                let empty = sections.iter().any(|(start, len)| (*start..start + len).contains(&at));
                prop_assert_eq!(read, !empty);
            }
            prop_assert!(loads[0].pieces.iter().all(|piece| piece.offset + piece.len <= 0x2000 + file_len));
        }
    }
}
