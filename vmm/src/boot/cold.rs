//! Parts of an image that a guest hardly touches, so that they need not be copied.
//!
//! Linkers align a kernel's text to huge pages and fill the rest with one byte (int3, zero): in Linux of 18 MB that is
//! up to 3 MB which no guest ever reads. Then there are sections that only trouble or tools want. A copy would cost the
//! clearing of a huge page, the copy itself, and memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::pieces::{Piece, PAGE};
use crate::arch::x86_64::memmap::Range;
use crate::memory::HUGE_PAGE;

/// What the host's kernel gives guest memory in, if it can: a huge page.
const BLOCK: u64 = HUGE_PAGE;
/// Where a block is looked at, in eighths of it. All of the second half must be filler.
const SAMPLES: std::ops::Range<u64> = 4..8;
/// Bytes looked at in each place.
const SAMPLE: usize = 64;
/// If less than this of a block is cold, the rest of it would be slower in small pages than all of it in a huge one.
const WORTH_SPLITTING: u64 = BLOCK / 3 * 2;

/// How the pieces of an image should come into memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Worth a copy.
    pub copied: Vec<Piece>,
    /// Better mapped from the file, whole pages. A guest may touch them all the same.
    pub mapped: Vec<Piece>,
}

/// Sorts the contents of `pieces`: by samples of the file, and what is known to be `cold`. A wrong guess costs time,
/// nothing else.
///
/// # Errors
/// The file cannot be read.
pub fn plan(file: &File, pieces: &[Piece], cold: &[Range]) -> io::Result<Plan> {
    let mut plan = Plan::default();
    for piece in pieces {
        let end = piece.address + piece.len;
        let mut at = piece.address;
        for (from, to) in cold_parts(file, piece, cold)? {
            plan.copied.extend((at < from).then(|| part(piece, at, from)));
            plan.mapped.push(part(piece, from, to));
            at = to;
        }
        plan.copied.extend((at < end).then(|| part(piece, at, end)));
    }
    Ok(plan)
}

/// Page-aligned addresses, from and to, in order and apart from each other.
fn cold_parts(file: &File, piece: &Piece, cold: &[Range]) -> io::Result<Vec<(u64, u64)>> {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    if piece.address % PAGE != piece.offset % PAGE {
        return Ok(parts);
    }
    let end = piece.address + piece.len;
    let mut block = piece.address / BLOCK * BLOCK;
    while block < end {
        let whole = piece.address <= block && block + BLOCK <= end;
        let part = match whole && is_filler(file, part(piece, block, end).offset)? {
            true => Some((block, block + BLOCK)),
            false => coldest(piece, block, cold),
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

/// The whole pages of `block` that are cold, if they are most of it.
fn coldest(piece: &Piece, block: u64, cold: &[Range]) -> Option<(u64, u64)> {
    let pages = |range: &Range| {
        let from = range.start.max(piece.address).max(block).next_multiple_of(PAGE);
        let to = range.end().min(piece.address + piece.len).min(block + BLOCK) / PAGE * PAGE;
        (from < to && to - from >= WORTH_SPLITTING).then_some((from, to))
    };
    cold.iter().find_map(pages)
}

/// What of `piece` goes to these addresses, which must be within it.
fn part(piece: &Piece, from: u64, to: u64) -> Piece {
    Piece { offset: piece.offset + (from - piece.address), address: from, len: to - from }
}

/// Whether the block at `offset` of the file looks like filler.
fn is_filler(file: &File, offset: u64) -> io::Result<bool> {
    let mut bytes = [0; SAMPLE];
    let mut filler = None;
    for eighth in SAMPLES {
        file.read_exact_at(&mut bytes, offset + eighth * (BLOCK / 8))?;
        let byte = *filler.get_or_insert(bytes[0]);
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

    /// A file of blocks, each with so many eighths of something and the rest filler.
    fn file(eighths: &[u64]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        for full in eighths {
            let mut block: Vec<u8> = (0..BLOCK).map(|at| (at * 7 + at / 256) as u8).collect();
            block[(full * (BLOCK / 8)) as usize..].fill(0xcc);
            file.write_all(&block).expect("space for a few MiB");
        }
        file
    }

    /// Of an image of `len` bytes at [`ADDRESS`].
    fn piece(from: u64, len: u64) -> Piece {
        Piece { offset: from, address: ADDRESS + from, len }
    }

    #[test]
    fn blocks_of_which_half_is_filler_are_mapped_and_others_copied() {
        let plan = plan(&file(&[8, 4, 0, 5, 3]), &[piece(0, 5 * BLOCK)], &[]).expect("readable");
        assert_eq!(plan.copied, [piece(0, BLOCK), piece(3 * BLOCK, BLOCK)]);
        assert_eq!(plan.mapped, [piece(BLOCK, 2 * BLOCK), piece(4 * BLOCK, BLOCK)]);
    }

    #[test]
    fn what_is_no_whole_block_or_lies_askew_is_copied() {
        let file = file(&[0, 0]);
        for piece in [
            Piece { offset: 0, address: 0x100_1000, len: BLOCK },
            Piece { offset: 0, address: 0x100_0000, len: BLOCK - 1 },
            Piece { offset: 0x10, address: 0x100_0000, len: BLOCK },
        ] {
            let plan = plan(&file, &[piece], &[]).expect("readable");
            assert_eq!(plan, Plan { copied: vec![piece], mapped: vec![] });
        }
    }

    #[test]
    fn cold_pages_are_mapped_where_they_are_most_of_a_block() {
        let file = file(&[8, 8, 8, 8]);
        let cold = |from: u64, len: u64| Range { start: ADDRESS + from, len };
        // From within the first block to the end of the third, but for a page and a bit; the first is not worth it.
        let most = cold(BLOCK / 2, 2 * BLOCK + BLOCK / 2 - PAGE - 5);
        let found = plan(&file, &[piece(0, 4 * BLOCK)], &[most]).expect("readable");
        assert_eq!(found.mapped, [piece(BLOCK, 2 * BLOCK - 2 * PAGE)]);
        assert_eq!(found.copied, [piece(0, BLOCK), piece(3 * BLOCK - 2 * PAGE, BLOCK + 2 * PAGE)]);
        // What is cold but not in the piece does not count.
        let found = plan(&file, &[piece(BLOCK, BLOCK / 2)], &[most]).expect("readable");
        assert_eq!(found, Plan { copied: vec![piece(BLOCK, BLOCK / 2)], mapped: vec![] });
    }

    #[test]
    fn a_file_that_has_shrunk_is_an_error() {
        assert!(plan(&file(&[0]), &[piece(0, 2 * BLOCK)], &[]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_parts_together_are_the_pieces(
            eighths in proptest::collection::vec(0u64..9, 3), offset in 0u64..3, address in 0u64..3, len in 1u64..3 * BLOCK,
            cold in proptest::collection::vec((0u64..3 * BLOCK, 0u64..3 * BLOCK), 0..3),
        ) {
            let file = file(&eighths);
            let piece = Piece { offset: offset * PAGE, address: address * PAGE, len: len.min(3 * BLOCK - offset * PAGE) };
            let cold: Vec<_> = cold.into_iter().map(|(start, len)| Range { start, len }).collect();
            let plan = plan(&file, &[piece], &cold).expect("readable");
            let mut parts = [plan.copied, plan.mapped.clone()].concat();
            parts.sort_by_key(|part| part.address);
            let mut at = piece.address;
            for part in parts {
                prop_assert!(part.len > 0);
                prop_assert_eq!(part.address, at);
                prop_assert_eq!(part.offset, piece.offset + (at - piece.address));
                at += part.len;
            }
            prop_assert_eq!(at, piece.address + piece.len);
            prop_assert!(plan.mapped.iter().all(|part| part.address % PAGE == 0 && part.len % PAGE == 0));
        }
    }
}
