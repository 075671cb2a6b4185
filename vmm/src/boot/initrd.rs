//! The initial RAM disk: checked, placed as high as the kernel allows, read straight into guest memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::loader::Loader;
use super::segments::{FileExtent, PAGE};
use crate::arch::to_usize;
use crate::arch::x86_64::layout;
use crate::arch::x86_64::memmap::GuestRange;

/// Name of the last member of every cpio archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Upper limit of the padding after an archive's trailer, in bytes.
const PADDING: u64 = 1024;

/// Why an initrd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The file cannot be opened.
    #[error("cannot open initrd {path}; check the path and its permissions")]
    Open { path: PathBuf, source: io::Error },
    /// The path is a directory, device or pipe.
    #[error("initrd {path} is not a regular file; give a cpio archive, compressed or not")]
    NotAFile { path: PathBuf },
    /// The file has no bytes.
    #[error("initrd {path} is empty; build or copy it again")]
    Empty { path: PathBuf },
    /// The file cannot be read.
    #[error("cannot read initrd {path}")]
    Read { path: PathBuf, source: io::Error },
    /// Linux cannot unpack the format.
    #[error("initrd {path} is neither a cpio archive nor compressed in a way that Linux knows; build it again")]
    Unknown { path: PathBuf },
    /// The archive has no trailer.
    #[error("initrd {path} is cut short: the archive has no end; build or copy it again")]
    Truncated { path: PathBuf },
    /// It does not fit beside the kernel.
    #[error(
        "kernel and initrd {path} need {needs_mib} MiB of guest memory and the machine has {has_mib} MiB; give it more"
    )]
    TooLarge { path: PathBuf, needs_mib: u64, has_mib: u64 },
}

/// An opened initrd whose format has been checked.
#[derive(Debug)]
pub struct Initrd {
    path: PathBuf,
    file: File,
    len: u64,
    format: Format,
}

/// The times by which a compressed archive grows when the guest unpacks it: with zstd and xz usually 3 to 4.
const UNPACKED_TIMES: u64 = 4;

impl Initrd {
    /// Opens `path` and checks the file's beginning and end.
    pub fn open(path: &Path) -> Result<Self, InitrdError> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK) // opening a FIFO must not block
            .open(path)
            .map_err(|source| InitrdError::Open { path: path.into(), source })?;
        let read = |source| InitrdError::Read { path: path.into(), source };
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(InitrdError::NotAFile { path: path.into() });
        }
        let len = metadata.len();
        if len == 0 {
            return Err(InitrdError::Empty { path: path.into() });
        }
        let mut head = vec![0; to_usize(len.min(6))];
        file.read_exact_at(&mut head, 0).map_err(read)?;
        match format(&head) {
            Some(Format::Cpio) if !has_trailer(&file, len).map_err(read)? => {
                Err(InitrdError::Truncated { path: path.into() })
            }
            Some(format) => Ok(Self { path: path.into(), file, len, format }),
            None => Err(InitrdError::Unknown { path: path.into() }),
        }
    }

    /// Bytes of memory for the archive and, by a guess, for its files.
    pub fn needs(&self) -> u64 {
        self.len.saturating_mul(match self.format {
            Format::Cpio => 2,
            Format::Compressed => 1 + UNPACKED_TIMES,
        })
    }

    /// Chooses a place in `ram` beside the kernel, not above `max` (inclusive): as high as possible, or between boot data
    /// and kernel in a machine that is too small for a place above.
    pub fn place(&self, kernel: GuestRange, ram: GuestRange, max: u64) -> Result<GuestRange, InitrdError> {
        find_place(self.len, kernel, ram.end().min(max.saturating_add(1))).ok_or_else(|| InitrdError::TooLarge {
            path: self.path.clone(),
            needs_mib: kernel.end().next_multiple_of(PAGE).saturating_add(self.len).div_ceil(1 << 20),
            has_mib: ram.len >> 20,
        })
    }

    /// Loads the file to `range`, which [`Self::place`] returned. Fails if the file has shrunk meanwhile.
    pub fn load(self, loader: &mut Loader, range: GuestRange) -> Result<(), InitrdError> {
        let extent = FileExtent { offset: 0, address: range.start, len: self.len };
        loader.load(self.file, &[extent], &[]).map_err(|source| InitrdError::Read { path: self.path, source })
    }
}

fn find_place(len: u64, kernel: GuestRange, end: u64) -> Option<GuestRange> {
    let fit = |from: u64, to: u64| {
        let start = to.checked_sub(len)? & !(PAGE - 1);
        (start >= from).then_some(GuestRange { start, len })
    };
    fit(kernel.end(), end).or_else(|| fit(layout::HIGH_RAM, kernel.start.min(end)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Cpio,
    Compressed,
}

/// Recognises the magic numbers of `lib/decompress.c` and `init/initramfs.c` of Linux.
fn format(head: &[u8]) -> Option<Format> {
    const COMPRESSED: [&[u8]; 8] = [
        &[0x1f, 0x8b],
        &[0x1f, 0x9e],
        b"BZh",
        &[0x5d, 0, 0],
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x89, b'L', b'Z', b'O'],
        &[0x02, 0x21, 0x4c, 0x18],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    if [b"070701", b"070702"].iter().any(|magic| head.starts_with(*magic)) {
        return Some(Format::Cpio);
    }
    COMPRESSED.iter().any(|magic| head.starts_with(magic)).then_some(Format::Compressed)
}

/// Whether the archive at the file's beginning has a trailer. The trailer is usually at the file's end, where one read
/// finds it; else this walks the members, since compressed archives may follow an uncompressed one.
fn has_trailer(file: &File, len: u64) -> io::Result<bool> {
    let tail_len = len.min(PADDING);
    let mut tail = vec![0; to_usize(tail_len)];
    file.read_exact_at(&mut tail, len - tail_len)?;
    if tail.windows(TRAILER.len()).any(|window| window == TRAILER) {
        return Ok(true);
    }
    let mut at = 0u64;
    while at < len {
        // The fixed part and enough of the name to recognise the trailer.
        let mut member = [0; 110 + TRAILER.len() + 1];
        if file.read_exact_at(&mut member, at).is_err() {
            return Ok(false);
        }
        if !member.starts_with(b"07070") {
            return Ok(false);
        }
        if member[110..].starts_with(TRAILER) {
            return Ok(true);
        }
        let (Some(size), Some(name)) = (hex(&member[54..62]), hex(&member[94..102])) else { return Ok(false) };
        // Header with name and contents are padded to 4 bytes each.
        at = (at + 110 + name).next_multiple_of(4) + size.next_multiple_of(4);
    }
    Ok(false)
}

fn hex(digits: &[u8]) -> Option<u64> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().map(u64::from)
}

#[cfg(test)]
#[path = "initrd_tests.rs"]
mod tests;
