//! Which bytes of an ELF image have to be read, and to where: segments without their empty sections.

use super::elf::{EmptySection, Segment};

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
pub fn loads(segments: &[Segment], empty: &[EmptySection]) -> Vec<Load> {
    let load = |segment: &Segment| match *segment {
        Segment::Load { offset, address, virt, file_len, memory_len } => {
            let holes = holes(virt, memory_len, empty);
            let dispensable = empty.iter().find(|section| {
                section.dispensable
                    && section.virt > virt
                    && section.virt + section.len == virt.saturating_add(memory_len)
            });
            let memory_len = dispensable.map_or(memory_len, |section| section.virt - virt);
            let piece =
                |(start, end): (u64, u64)| Piece { offset: offset + start, address: address + start, len: end - start };
            let pieces = between(&holes, file_len.min(memory_len)).into_iter().map(piece).collect();
            Some(Load { address, memory_len, pieces })
        }
        Segment::Notes { .. } => None,
    };
    segments.iter().filter_map(load).collect()
}

/// Empty ranges of a segment as offsets in it, in order.
fn holes(virt: u64, len: u64, empty: &[EmptySection]) -> Vec<(u64, u64)> {
    let mut holes: Vec<(u64, u64)> = empty
        .iter()
        .filter_map(|section| {
            let start = section.virt.checked_sub(virt)?;
            (start < len).then_some((start, start.saturating_add(section.len)))
        })
        .collect();
    holes.sort_unstable();
    holes
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

    fn section(at: u64, len: u64, dispensable: bool) -> EmptySection {
        EmptySection { virt: VIRT + at, len, dispensable }
    }

    #[test]
    fn without_sections_the_whole_segment_is_read() {
        let loads = loads(&[segment(0x500, 0x900)], &[]);
        assert_eq!(loads[0].pieces, [Piece { offset: 0x2000, address: 0x331_6000, len: 0x500 }]);
        assert_eq!(extent(&loads), (0x331_6000, 0x331_6900));
    }

    #[test]
    fn empty_sections_are_not_read_and_the_work_area_at_the_end_is_not_even_needed() {
        let empty = [section(0x100, 0x80, false), section(0x400, 0x100, true)];
        let loads = loads(&[segment(0x500, 0x500)], &empty);
        let piece = |at: u64, len: u64| Piece { offset: 0x2000 + at, address: 0x331_6000 + at, len };
        assert_eq!(loads[0].pieces, [piece(0, 0x100), piece(0x180, 0x280)]);
        assert_eq!(extent(&loads), (0x331_6000, 0x331_6400));
        assert!(loads[0].has_contents_at(0x331_6000) && !loads[0].has_contents_at(0x331_6100));
    }

    #[test]
    fn a_segment_that_is_nothing_but_work_area_stays() {
        assert_eq!(extent(&loads(&[segment(0x500, 0x500)], &[section(0, 0x500, true)])), (0x331_6000, 0x331_6500));
    }

    proptest! {
        #[test]
        fn pieces_and_empty_sections_together_are_the_segment(
            file_len in 0u64..200, extra in 0u64..50,
            sections in proptest::collection::vec((0u64..300, 1u64..100), 0..6),
        ) {
            let empty: Vec<_> = sections.iter().map(|(at, len)| section(*at, *len, false)).collect();
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
