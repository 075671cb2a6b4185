//! Brings bytes of a file into guest memory: by copying them, or by mapping the file's pages there.
//!
//! Copies are made from the page cache, through a temporary mapping under a lease, or else by reading; guest memory is in huge pages if the host prefers
//! that. Mapped pages are loaded when the guest first touches them, are shared between machines, and are copied when the
//! guest writes; the file itself never changes. Parts of pages are read.
#![expect(unsafe_code, reason = "mmap, also over a part of guest memory, and copies in assembly")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use hutch_devices::GuestRam;
use vm_memory::{GuestAddress, GuestMemory};

use super::segments::{FileExtent, PAGE};
use crate::arch::to_usize;

/// Shorter extents are read: a mapping costs several system calls.
const WORTH_MAPPING: u64 = 64 << 10;

/// Checks that the file does not end before one of the extents does: a page past its end would raise SIGBUS when touched.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`], or the file's length cannot be read.
pub fn check_len(file: &File, extents: &[FileExtent]) -> io::Result<()> {
    let len = file.metadata()?.len();
    match extents.iter().all(|extent| extent.offset.checked_add(extent.len).is_some_and(|end| end <= len)) {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Copies `extent` of `file` into `ram`. The caller has called [`check_len`]. Later changes of the file have no effect.
/// `leased`: no process can cut the file meanwhile. Without a lease its pages are not touched but read, because a page
/// that is cut off would raise SIGBUS.
pub fn copy(ram: &GuestRam, file: &File, extent: FileExtent, leased: bool) -> io::Result<()> {
    load_extent(ram, file, extent, |whole| match whole.len {
        WORTH_MAPPING.. if leased => copy_whole(ram, file, whole),
        _ => read(ram, file, whole),
    })
    .map(drop)
}

/// Whether [`copy`] maps a part of one of these extents, if there is a lease.
pub fn maps_to_copy(extents: &[FileExtent]) -> bool {
    extents.iter().any(|extent| split(*extent).1.is_some_and(|whole| whole.len >= WORTH_MAPPING))
}

/// Maps the whole pages of `extent` of `file` into `ram`, privately, and returns them; reads the rest. Later changes of
/// the file show in pages that the guest has not written to: the caller holds a lease (`lease.rs`), and has called
/// [`check_len`] under it.
pub fn map(ram: &GuestRam, file: &File, extent: FileExtent) -> io::Result<Option<FileExtent>> {
    load_extent(ram, file, extent, |whole| map_whole(ram, file, whole))
}

/// Loads `extent` into memory, its whole pages by `load_whole`, and returns these.
fn load_extent(
    ram: &GuestRam,
    file: &File,
    extent: FileExtent,
    load_whole: impl FnOnce(FileExtent) -> io::Result<()>,
) -> io::Result<Option<FileExtent>> {
    let (before, whole, after) = split(extent);
    read(ram, file, before)?;
    if let Some(whole) = whole {
        load_whole(whole)?;
    }
    read(ram, file, after)?;
    Ok(whole)
}

/// Splits into the part before the first page boundary, whole pages, and the rest. There are no whole pages if the page
/// boundaries of file and memory differ.
fn split(extent: FileExtent) -> (FileExtent, Option<FileExtent>, FileExtent) {
    let part = |from: u64, to: u64| FileExtent {
        offset: extent.offset + from,
        address: extent.address + from,
        len: to - from,
    };
    let end = extent.address + extent.len;
    let (first, last) = (extent.address.next_multiple_of(PAGE), end / PAGE * PAGE);
    if extent.address % PAGE != extent.offset % PAGE || last <= first {
        return (extent, None, part(extent.len, extent.len));
    }
    let (first, last) = (first - extent.address, last - extent.address);
    (part(0, first), Some(part(first, last)), part(last, extent.len))
}

fn read(ram: &GuestRam, file: &File, extent: FileExtent) -> io::Result<()> {
    if extent.len == 0 {
        return Ok(());
    }
    let slice = ram.get_slice(GuestAddress(extent.address), to_usize(extent.len)).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the slice is mapped memory of this length, to which no reference exists; no guest runs yet.
    let bytes = unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), slice.len()) };
    file.read_exact_at(bytes, extent.offset)
}

/// Copies whole pages. `read(2)` would copy byte by byte where a processor's string instructions are slow.
fn copy_whole(ram: &GuestRam, file: &File, extent: FileExtent) -> io::Result<()> {
    let Some(source) = Source::map(file, extent) else { return read(ram, file, extent) };
    let slice = ram.get_slice(GuestAddress(extent.address), to_usize(extent.len)).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: both are mapped memory of this length, a multiple of the page size; guest memory and the file's mapping do
    // not overlap, no reference to guest memory exists, and no guest runs yet.
    unsafe { copy_pages(guard.as_ptr(), source.address.cast(), source.len) };
    Ok(())
}

/// A mapping of a file's pages, all of them in memory.
struct Source {
    address: *mut libc::c_void,
    len: usize,
}

impl Source {
    /// `None` if a page cannot be loaded: reading will report why.
    fn map(file: &File, extent: FileExtent) -> Option<Self> {
        let len = to_usize(extent.len);
        let offset = libc::off_t::try_from(extent.offset).ok()?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        let source = Self { address, len };
        // The copy itself maps pages that are in the page cache, sixteen at a time, which is cheaper than madvise. Any
        // other page may raise SIGBUS when touched, because the disk fails: madvise would fail instead.
        // SAFETY: our own mapping; contents do not change.
        let all = source.is_resident() || unsafe { libc::madvise(address, len, libc::MADV_POPULATE_READ) } == 0;
        all.then_some(source)
    }

    /// Whether all pages are in the host's page cache, as far as the host reports it.
    fn is_resident(&self) -> bool {
        let mut pages = vec![0u8; self.len / to_usize(PAGE)];
        // SAFETY: our own mapping of whole pages, and a byte for each of them.
        let answer = unsafe { libc::mincore(self.address, self.len, pages.as_mut_ptr()) };
        answer == 0 && pages.iter().all(|page| page & 1 != 0)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which has no user left.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// Copies `len` bytes, a multiple of the page size other than 0, in AVX registers, or in SSE registers without AVX. In
/// assembly, because the compiler would emit `memcpy`, which chooses string instructions for this length.
///
/// # Safety
/// Both pointers must be valid for `len` bytes, and these must not overlap.
unsafe fn copy_pages(to: *mut u8, from: *const u8, len: usize) {
    debug_assert!(len > 0 && len.is_multiple_of(to_usize(PAGE)));
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
/// The conditions of [`copy_pages`], and the processor has AVX.
#[target_feature(enable = "avx")]
unsafe fn copy_by_32(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the loop reads and writes `len` bytes from the pointers on, which the caller allows. It uses the named
    // registers and no stack, and leaves their upper halves clear.
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
/// The conditions of [`copy_pages`].
unsafe fn copy_by_16(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the loop reads and writes `len` bytes from the pointers on, which the caller allows. It uses the named
    // registers and no stack.
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

fn map_whole(ram: &GuestRam, file: &File, extent: FileExtent) -> io::Result<()> {
    let offset = libc::off_t::try_from(extent.offset).map_err(io::Error::other)?;
    let slice = ram.get_slice(GuestAddress(extent.address), to_usize(extent.len)).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: replaces whole pages inside one of guest memory's own mappings, which stay one range of addresses and are
    // unmapped together. No reference into guest memory exists.
    let mapped = unsafe {
        libc::mmap(
            guard.as_ptr().cast(),
            slice.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
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
            let extent = FileExtent { offset, address, len };
            let (before, whole, after) = split(extent);
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
            for bring in [
                |ram: &_, file: &_, extent| copy(ram, file, extent, true),
                |ram: &_, file: &_, extent| copy(ram, file, extent, false),
                |ram: &_, file: &_, extent| map(ram, file, extent).map(drop),
            ] {
                let ram = ram(4);
                bring(&ram, &file, FileExtent { offset, address, len }).expect("fits");
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
        let extent = FileExtent { offset: 0, address: 0x10_0000, len: 0x2000 };
        assert_eq!(map(&ram, &file, extent).expect("fits"), Some(extent));
        ram.write_slice(&[0; 0x2000], GuestAddress(0x10_0000)).expect("in RAM");
        let mut now = vec![0; 0x2000];
        file.read_exact_at(&mut now, 0).expect("readable");
        assert_eq!(now, bytes);
    }

    #[test]
    fn extents_past_the_end_of_the_file_are_detected() {
        let (file, _) = file(0x1_f800);
        let check = |offset, len| {
            check_len(&file, &[FileExtent { offset: 0, address: 0, len: 1 }, FileExtent { offset, address: 0, len }])
        };
        check(0x800, 0x1_f000).expect("all of it");
        for (offset, len) in [(0x800, 0x1_f001), (0x1_f800, 1), (u64::MAX, 1)] {
            assert_eq!(check(offset, len).expect_err("too far").kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
