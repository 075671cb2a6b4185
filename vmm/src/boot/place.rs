//! Brings bytes of a file to a place in guest memory: by copying them, or by mapping the file's pages there.
//!
//! Copies are made from the page cache, through a mapping that is there for the purpose, with the guest's memory in
//! huge pages if the host likes. Mapped pages come when the guest first touches them, are shared between machines,
//! and are copied when the guest writes; the file itself never changes. What is not whole pages is read.
#![allow(unsafe_code)] // mmap, also over a part of guest memory

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use hutch_devices::GuestRam;
use vm_memory::{GuestAddress, GuestMemory};

use super::pieces::{Piece, PAGE};

/// Less than this is read: a mapping costs several system calls.
const WORTH_MAPPING: u64 = 64 << 10;

/// Whether the file ends before one of the pieces does: a page past its end would be a SIGBUS when touched.
///
/// # Errors
/// The file cannot tell, or [`io::ErrorKind::UnexpectedEof`].
pub fn check_len(file: &File, pieces: &[Piece]) -> io::Result<()> {
    let len = file.metadata()?.len();
    match pieces.iter().all(|piece| piece.offset.checked_add(piece.len).is_some_and(|end| end <= len)) {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Copies `piece` of `file` into `ram`; [`check_len`] has been asked. What becomes of the file afterwards is of no
/// importance.
///
/// # Errors
/// The file cannot be read, or there is no such memory.
pub fn copy(ram: &GuestRam, file: &File, piece: Piece) -> io::Result<()> {
    place(ram, file, piece, |whole| match whole.len {
        WORTH_MAPPING.. => copy_whole(ram, file, whole),
        _ => read(ram, file, whole),
    })
    .map(drop)
}

/// Maps the whole pages of `piece` of `file` into `ram`, privately, and returns these; the rest is read. Later changes of
/// the file show in the pages that the guest has not written to: see [`super::lease`], under which [`check_len`] has been
/// asked.
///
/// # Errors
/// The file cannot be read or mapped, or there is no such memory.
pub fn map(ram: &GuestRam, file: &File, piece: Piece) -> io::Result<Option<Piece>> {
    place(ram, file, piece, |whole| map_whole(ram, file, whole))
}

/// Brings `piece` into memory, its whole pages by `bring`, and returns these.
fn place(
    ram: &GuestRam,
    file: &File,
    piece: Piece,
    bring: impl FnOnce(Piece) -> io::Result<()>,
) -> io::Result<Option<Piece>> {
    let (before, whole, after) = split(piece);
    read(ram, file, before)?;
    if let Some(whole) = whole {
        bring(whole)?;
    }
    read(ram, file, after)?;
    Ok(whole)
}

/// The part before the first page boundary, whole pages, and the rest. No whole pages if file and memory do not agree
/// on where pages begin.
fn split(piece: Piece) -> (Piece, Option<Piece>, Piece) {
    let part =
        |from: u64, to: u64| Piece { offset: piece.offset + from, address: piece.address + from, len: to - from };
    let end = piece.address + piece.len;
    let (first, last) = (piece.address.next_multiple_of(PAGE), end / PAGE * PAGE);
    if piece.address % PAGE != piece.offset % PAGE || last <= first {
        return (piece, None, part(piece.len, piece.len));
    }
    let (first, last) = (first - piece.address, last - piece.address);
    (part(0, first), Some(part(first, last)), part(last, piece.len))
}

fn read(ram: &GuestRam, file: &File, piece: Piece) -> io::Result<()> {
    if piece.len == 0 {
        return Ok(());
    }
    let slice = ram.get_slice(GuestAddress(piece.address), piece.len as usize).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the slice is mapped memory of this length, to which no reference exists; no guest runs yet.
    let bytes = unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), slice.len()) };
    file.read_exact_at(bytes, piece.offset)
}

/// Copies whole pages. `read(2)` would do the same byte by byte where a processor's string instructions are slow.
fn copy_whole(ram: &GuestRam, file: &File, piece: Piece) -> io::Result<()> {
    let Some(source) = Source::map(file, piece) else { return read(ram, file, piece) };
    let slice = ram.get_slice(GuestAddress(piece.address), piece.len as usize).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: both are mapped memory of this length, a multiple of the page size; guest memory is not that of the
    // file, no reference to it exists, and no guest runs yet.
    unsafe { copy_pages(guard.as_ptr(), source.address.cast(), source.len) };
    Ok(())
}

/// A file's pages, all of them in memory.
struct Source {
    address: *mut libc::c_void,
    len: usize,
}

impl Source {
    /// `None` if they cannot all be had: reading will tell why.
    fn map(file: &File, piece: Piece) -> Option<Self> {
        let len = piece.len as usize;
        let offset = piece.offset as libc::off_t;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        let source = Self { address, len };
        // Pages that are in memory come along as they are read, sixteen at a time, which is cheaper than asking for
        // them. Where one is not, it may be a SIGBUS to touch it, because the disk fails: this would fail instead.
        // SAFETY: our own mapping; contents do not change.
        let all = source.is_resident() || unsafe { libc::madvise(address, len, libc::MADV_POPULATE_READ) } == 0;
        all.then_some(source)
    }

    /// Whether the host has all of it in its page cache, as far as it tells.
    fn is_resident(&self) -> bool {
        let mut pages = vec![0u8; self.len / PAGE as usize];
        // SAFETY: our own mapping of whole pages, and a byte for each of them.
        let told = unsafe { libc::mincore(self.address, self.len, pages.as_mut_ptr()) };
        told == 0 && pages.iter().all(|page| page & 1 != 0)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// Copies `len` bytes, a multiple of the page size that is not 0, with the widest registers that there are for sure.
/// The compiler must not make `memcpy` of it, for that chooses string instructions for this much.
///
/// # Safety
/// Both pointers must be valid for `len` bytes, and these must not overlap.
unsafe fn copy_pages(to: *mut u8, from: *const u8, len: usize) {
    debug_assert!(len > 0 && len.is_multiple_of(PAGE as usize));
    // SAFETY: as the caller promises; the processor has the instructions.
    unsafe {
        if std::arch::is_x86_feature_detected!("avx") {
            copy_by_32(to, from, len);
        } else {
            copy_by_16(to, from, len);
        }
    }
}

/// # Safety
/// As of [`copy_pages`], and the processor has AVX.
#[target_feature(enable = "avx")]
unsafe fn copy_by_32(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the loop reads and writes `len` bytes from the pointers on, as the caller promises is allowed; it uses
    // the registers named and no stack, and leaves their upper halves clear.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups {a}, [{from}]",
            "vmovups {b}, [{from} + 32]",
            "vmovups {c}, [{from} + 64]",
            "vmovups {d}, [{from} + 96]",
            "vmovups {e}, [{from} + 128]",
            "vmovups {f}, [{from} + 160]",
            "vmovups {g}, [{from} + 192]",
            "vmovups {h}, [{from} + 224]",
            "vmovups [{to}], {a}",
            "vmovups [{to} + 32], {b}",
            "vmovups [{to} + 64], {c}",
            "vmovups [{to} + 96], {d}",
            "vmovups [{to} + 128], {e}",
            "vmovups [{to} + 160], {f}",
            "vmovups [{to} + 192], {g}",
            "vmovups [{to} + 224], {h}",
            "add {from}, 256",
            "add {to}, 256",
            "sub {len}, 256",
            "jnz 2b",
            "vzeroupper",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            len = inout(reg) len => _,
            a = out(ymm_reg) _,
            b = out(ymm_reg) _,
            c = out(ymm_reg) _,
            d = out(ymm_reg) _,
            e = out(ymm_reg) _,
            f = out(ymm_reg) _,
            g = out(ymm_reg) _,
            h = out(ymm_reg) _,
            options(nostack),
        );
    }
}

/// # Safety
/// As of [`copy_pages`].
unsafe fn copy_by_16(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the loop reads and writes `len` bytes from the pointers on, as the caller promises is allowed; it uses
    // the registers named and no stack.
    unsafe {
        std::arch::asm!(
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "sub {len}, 64",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            len = inout(reg) len => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

fn map_whole(ram: &GuestRam, file: &File, piece: Piece) -> io::Result<()> {
    let slice = ram.get_slice(GuestAddress(piece.address), piece.len as usize).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: replaces whole pages inside of one of guest memory's own mappings, which stay one range of addresses
    // and go together when guest memory does. Nobody holds references into guest memory.
    let mapped = unsafe {
        libc::mmap(
            guard.as_ptr().cast(),
            slice.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            piece.offset as libc::off_t,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use vm_memory::Bytes;

    use super::*;
    use crate::testing::ram;

    fn file(len: usize) -> (File, Vec<u8>) {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256) as u8 | 1).collect();
        file.write_all(&bytes).expect("space for a small file");
        (file, bytes)
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole_and_the_middle_is_pages(
            offset in 0u64..20_000, address in 0u64..20_000, len in 0u64..20_000, aligned in any::<bool>(),
        ) {
            let address = if aligned { offset + 0x10_0000 } else { address };
            let piece = Piece { offset, address, len };
            let (before, whole, after) = split(piece);
            let parts = [Some(before), whole, Some(after)];
            let mut at = (offset, address);
            for part in parts.into_iter().flatten() {
                prop_assert_eq!((part.offset, part.address), at);
                at = (part.offset + part.len, part.address + part.len);
            }
            prop_assert_eq!(at, (offset + len, address + len));
            if let Some(whole) = whole {
                prop_assert!(whole.len > 0);
                prop_assert_eq!((whole.offset % PAGE, whole.address % PAGE, whole.len % PAGE), (0, 0, 0));
                prop_assert!(before.len < PAGE && after.len < PAGE);
            }
        }
    }

    #[test]
    fn mapped_and_read_bytes_are_the_same_and_nothing_else_changes() {
        let (file, bytes) = file(0x2_5000);
        for (offset, address, len) in [
            (0u64, 0x10_0000u64, 0x5000u64),
            (0x123, 0x10_0123, 0x4321),
            (0x10, 0x10_0020, 0x3000),
            (5, 0x10_0005, 9),
            (0x1000, 0x10_0000, 0x2_0000),
            (0x1010, 0x10_0010, 0x2_3457),
            (7, 0x10_0000, 0x2_0001),
        ] {
            for bring in [copy, |ram: &_, file: &_, piece| map(ram, file, piece).map(drop)] {
                let ram = ram(4);
                bring(&ram, &file, Piece { offset, address, len }).expect("fits");
                let mut all = vec![0; 0x2_8000];
                ram.read_slice(&mut all, GuestAddress(0xf_f000)).expect("in RAM");
                let start = (address - 0xf_f000) as usize;
                let end = start + len as usize;
                assert_eq!(all[start..end], bytes[offset as usize..][..len as usize]);
                assert!(all[..start].iter().chain(&all[end..]).all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn both_widths_copy_the_same() {
        let from: Vec<u8> = (0..3 * PAGE as usize).map(|at| (at * 31 + at / 251) as u8).collect();
        for copy in [copy_by_16, copy_pages] {
            let mut to = vec![0; from.len()];
            // SAFETY: two vectors of this length.
            unsafe { copy(to.as_mut_ptr(), from.as_ptr(), from.len()) };
            assert!(to == from);
        }
    }

    #[test]
    fn writing_to_mapped_memory_leaves_the_file_alone() {
        let (file, bytes) = file(0x2000);
        let ram = ram(4);
        let piece = Piece { offset: 0, address: 0x10_0000, len: 0x2000 };
        assert_eq!(map(&ram, &file, piece).expect("fits"), Some(piece));
        ram.write_slice(&[0; 0x2000], GuestAddress(0x10_0000)).expect("in RAM");
        let mut now = vec![0; 0x2000];
        file.read_exact_at(&mut now, 0).expect("readable");
        assert_eq!(now, bytes);
    }

    #[test]
    fn pieces_past_the_end_of_the_file_are_known() {
        let (file, _) = file(0x1_f800);
        let check = |offset, len| {
            check_len(&file, &[Piece { offset: 0, address: 0, len: 1 }, Piece { offset, address: 0, len }])
        };
        check(0x800, 0x1_f000).expect("all of it");
        for (offset, len) in [(0x800, 0x1_f001), (0x1_f800, 1), (u64::MAX, 1)] {
            assert_eq!(check(offset, len).expect_err("too far").kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
