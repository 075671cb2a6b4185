//! Finds the parts of an image that a guest hardly touches: mapping them is cheaper than copying them.
//!
//! Linkers align a kernel's text to huge pages and fill the rest with one byte (int3, zero): in an 18 MB Linux,
//! up to 3 MB that no guest ever reads. Other sections are read only in case of trouble, or by tools. A copy would cost
//! the clearing of a huge page, the copy itself, and memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::segments::{FileExtent, PAGE};
use crate::arch::x86_64::memmap::GuestRange;
use crate::memory::HUGE_PAGE;

/// The unit in which the host's kernel gives guest memory, if it can: a huge page.
const BLOCK: u64 = HUGE_PAGE;
/// Places of a block that are sampled, in eighths of it. All of the second half must be filler.
const SAMPLES: std::ops::Range<u64> = 4..8;
/// Bytes sampled in each place.
const SAMPLE: usize = 64;
/// If less than this of a block is cold, loading the rest in small pages is slower than the whole block in a huge page.
const WORTH_SPLITTING: u64 = BLOCK / 3 * 2;

/// The parts of an image to copy and to map.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LoadPlan {
    /// Parts to copy.
    pub copied: Vec<FileExtent>,
    /// Parts to map from the file: whole pages. A guest may touch them all the same.
    pub mapped: Vec<FileExtent>,
}

/// Plans the loading of `extents`, from samples of the file and the ranges known to be `cold`. A wrong guess only costs
/// time.
///
/// # Errors
/// The file cannot be read.
pub fn plan(file: &File, extents: &[FileExtent], cold: &[GuestRange]) -> io::Result<LoadPlan> {
    let mut plan = LoadPlan::default();
    for extent in extents {
        let end = extent.address + extent.len;
        let mut at = extent.address;
        for (from, to) in cold_parts(file, extent, cold)? {
            plan.copied.extend((at < from).then(|| part(extent, at, from)));
            plan.mapped.push(part(extent, from, to));
            at = to;
        }
        plan.copied.extend((at < end).then(|| part(extent, at, end)));
    }
    Ok(plan)
}

/// The cold parts as page-aligned addresses (from, to), in order and not adjacent.
fn cold_parts(file: &File, extent: &FileExtent, cold: &[GuestRange]) -> io::Result<Vec<(u64, u64)>> {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    if extent.address % PAGE != extent.offset % PAGE {
        return Ok(parts);
    }
    let end = extent.address + extent.len;
    let mut block = extent.address / BLOCK * BLOCK;
    while block < end {
        let whole = extent.address <= block && block + BLOCK <= end;
        let part = match whole && is_filler(file, part(extent, block, end).offset)? {
            true => Some((block, block + BLOCK)),
            false => coldest(extent, block, cold),
        };
        match (part, parts.last_mut()) {
            (Some((from, to)), Some(last)) if last.1 == from => last.1 = to,
            (Some(part), _) => parts.push(part),
            (None, _) => (),
        }
        block += BLOCK;
    }
    Ok(parts)
}

/// The cold whole pages of `block`, if they are most of it.
fn coldest(extent: &FileExtent, block: u64, cold: &[GuestRange]) -> Option<(u64, u64)> {
    let pages = |range: &GuestRange| {
        let from = range.start.max(extent.address).max(block).next_multiple_of(PAGE);
        let to = range.end().min(extent.address + extent.len).min(block + BLOCK) / PAGE * PAGE;
        (from < to && to - from >= WORTH_SPLITTING).then_some((from, to))
    };
    cold.iter().find_map(pages)
}

/// The part of `extent` at these addresses, which must be within it.
fn part(extent: &FileExtent, from: u64, to: u64) -> FileExtent {
    FileExtent { offset: extent.offset + (from - extent.address), address: from, len: to - from }
}

/// Whether the samples of the block at `offset` of the file are filler: the same byte everywhere.
fn is_filler(file: &File, offset: u64) -> io::Result<bool> {
    let mut bytes = [0; SAMPLE];
    let mut filler = None;
    for eighth in SAMPLES {
        file.read_exact_at(&mut bytes, offset + eighth * (BLOCK / 8))?;
        let [first, ..] = bytes;
        let byte = *filler.get_or_insert(first);
        if bytes.iter().any(|other| *other != byte) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    const ADDRESS: u64 = 0x100_0000;

    /// A file of blocks. Each number is the eighths of a block with contents; the rest is filler.
    fn file(eighths: &[u64]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        for full in eighths {
            let mut block: Vec<u8> = (0..BLOCK).map(|at| (at * 7 + at / 256) as u8).collect();
            block[(full * (BLOCK / 8)) as usize..].fill(0xcc);
            file.write_all(&block).expect("space for a few MiB");
        }
        file
    }

    /// Part of an image at [`ADDRESS`].
    fn extent(from: u64, len: u64) -> FileExtent {
        FileExtent { offset: from, address: ADDRESS + from, len }
    }

    #[test]
    fn blocks_with_half_filler_are_mapped_and_others_copied() {
        let plan = plan(&file(&[8, 4, 0, 5, 3]), &[extent(0, 5 * BLOCK)], &[]).expect("readable");
        assert_eq!(plan.copied, [extent(0, BLOCK), extent(3 * BLOCK, BLOCK)]);
        assert_eq!(plan.mapped, [extent(BLOCK, 2 * BLOCK), extent(4 * BLOCK, BLOCK)]);
    }

    #[test]
    fn partial_and_misaligned_blocks_are_copied() {
        let file = file(&[0, 0]);
        for extent in [
            FileExtent { offset: 0, address: 0x100_1000, len: BLOCK },
            FileExtent { offset: 0, address: 0x100_0000, len: BLOCK - 1 },
            FileExtent { offset: 0x10, address: 0x100_0000, len: BLOCK },
        ] {
            let plan = plan(&file, &[extent], &[]).expect("readable");
            assert_eq!(plan, LoadPlan { copied: vec![extent], mapped: vec![] });
        }
    }

    #[test]
    fn cold_pages_are_mapped_where_they_are_most_of_a_block() {
        let file = file(&[8, 8, 8, 8]);
        let cold = |from: u64, len: u64| GuestRange { start: ADDRESS + from, len };
        // From within the first block to the end of the third, less a page and a bit; the first is not worth it.
        let most = cold(BLOCK / 2, 2 * BLOCK + BLOCK / 2 - PAGE - 5);
        let found = plan(&file, &[extent(0, 4 * BLOCK)], &[most]).expect("readable");
        assert_eq!(found.mapped, [extent(BLOCK, 2 * BLOCK - 2 * PAGE)]);
        assert_eq!(found.copied, [extent(0, BLOCK), extent(3 * BLOCK - 2 * PAGE, BLOCK + 2 * PAGE)]);
        // Cold pages outside the extent do not count.
        let found = plan(&file, &[extent(BLOCK, BLOCK / 2)], &[most]).expect("readable");
        assert_eq!(found, LoadPlan { copied: vec![extent(BLOCK, BLOCK / 2)], mapped: vec![] });
    }

    #[test]
    fn a_file_that_has_shrunk_is_an_error() {
        assert!(plan(&file(&[0]), &[extent(0, 2 * BLOCK)], &[]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_parts_together_are_the_extents(
            eighths in proptest::collection::vec(0u64..9, 3), offset in 0u64..3, address in 0u64..3, len in 1u64..3 * BLOCK,
            cold in proptest::collection::vec((0u64..3 * BLOCK, 0u64..3 * BLOCK), 0..3),
        ) {
            let file = file(&eighths);
            let extent = FileExtent { offset: offset * PAGE, address: address * PAGE, len: len.min(3 * BLOCK - offset * PAGE) };
            let cold: Vec<_> = cold.into_iter().map(|(start, len)| GuestRange { start, len }).collect();
            let plan = plan(&file, &[extent], &cold).expect("readable");
            let mut parts = [plan.copied, plan.mapped.clone()].concat();
            parts.sort_by_key(|part| part.address);
            let mut at = extent.address;
            for part in parts {
                prop_assert!(part.len > 0);
                prop_assert_eq!(part.address, at);
                prop_assert_eq!(part.offset, extent.offset + (at - extent.address));
                at += part.len;
            }
            prop_assert_eq!(at, extent.address + extent.len);
            prop_assert!(plan.mapped.iter().all(|part| part.address % PAGE == 0 && part.len % PAGE == 0));
        }
    }
}
