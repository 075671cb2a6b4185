//! The kernel image: opened and parsed before anything is built, then loaded straight into guest memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;

use super::bzimage::{self, BzImage, BzImageError};
use super::elf::{self, ElfError, ElfHeader, Notes, Section, Segment};
use super::loader::Loader;
use super::segments::{self, FileExtent, LoadSegment};
use crate::arch::to_usize;
use crate::arch::x86_64::memmap::GuestRange;
use crate::arch::x86_64::{layout, memmap};
use crate::config::BootProtocol;

/// Why a kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be opened.
    #[error("cannot open kernel {path}; check the path and its permissions")]
    Open { path: PathBuf, source: io::Error },
    /// The path is a directory, device or pipe.
    #[error("kernel {path} is not a regular file; give a vmlinux or bzImage")]
    NotAFile { path: PathBuf },
    /// The file has no bytes.
    #[error("kernel {path} is empty; build or copy it again")]
    Empty { path: PathBuf },
    /// The file cannot be read.
    #[error("cannot read kernel {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The file is neither ELF nor bzImage.
    #[error("kernel {path} is neither an ELF image (vmlinux) nor a bzImage; give one of these for x86-64")]
    Unknown { path: PathBuf },
    /// The ELF image cannot be booted.
    #[error("kernel {path} is an ELF file that cannot be booted; give a complete x86-64 vmlinux")]
    Elf { path: PathBuf, source: ElfError },
    /// The bzImage cannot be booted.
    #[error("kernel {path} is a bzImage that cannot be booted; give a complete 64-bit one")]
    BzImage { path: PathBuf, source: BzImageError },
    /// The configuration asks for PVH, and the image has no PVH entry.
    #[error("kernel {path} has no PVH entry; build it with CONFIG_PVH=y or use another boot protocol")]
    NoPvhEntry { path: PathBuf },
    /// The image needs more memory below the device hole than the machine has.
    #[error("kernel {path} needs {needs_mib} MiB of guest memory and the machine has {has_mib} MiB; give it more")]
    TooLarge { path: PathBuf, needs_mib: u64, has_mib: u64 },
    /// The image's addresses are not RAM, or overlap boot data.
    #[error(
        "kernel {path} asks to be loaded at {address:#x}, where no kernel can be; it is not made for this machine"
    )]
    BadAddress { path: PathBuf, address: u64 },
}

#[derive(Debug)]
enum Image {
    Elf { entry: u64, notes: Notes, loads: Vec<LoadSegment> },
    BzImage(BzImage),
}

/// An opened and parsed kernel image.
#[derive(Debug)]
pub struct KernelImage {
    path: PathBuf,
    file: File,
    image: Image,
}

/// The entry of an image in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// The PVH entry at this address.
    Pvh(u32),
    /// The 64-bit Linux entry at this address, with the setup header for `boot_params` if the image has one.
    Linux64(u64, Option<setup_header>),
}

impl KernelImage {
    /// Opens and parses `path`. Reads no segment yet.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK) // opening a FIFO must not block
            .open(path)
            .map_err(|source| KernelError::Open { path: path.into(), source })?;
        let read = |source| KernelError::Read { path: path.into(), source };
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(KernelError::NotAFile { path: path.into() });
        }
        if metadata.len() == 0 {
            return Err(KernelError::Empty { path: path.into() });
        }
        let mut head = vec![0; bzimage::PROBE_SIZE.min(to_usize(metadata.len()))];
        file.read_exact_at(&mut head, 0).map_err(read)?;
        let image = if elf::is_elf(&head) {
            open_elf(&file, &head, metadata.len(), path)?
        } else if bzimage::is_bzimage(&head) {
            bzimage::parse(&head, metadata.len())
                .map(Image::BzImage)
                .map_err(|source| KernelError::BzImage { path: path.into(), source })?
        } else {
            return Err(KernelError::Unknown { path: path.into() });
        };
        Ok(Self { path: path.into(), file, image })
    }

    /// Longest command line, without the final zero.
    pub fn cmdline_max(&self) -> usize {
        let ours = layout::CMDLINE_MAX - 1;
        match &self.image {
            Image::Elf { .. } => ours,
            Image::BzImage(image) => image.cmdline_max.min(ours),
        }
    }

    /// The memory that the kernel uses before it reads its memory map.
    pub fn memory_range(&self) -> GuestRange {
        let (start, end) = match &self.image {
            Image::Elf { loads, .. } => segments::address_range(loads),
            Image::BzImage(image) => (image.load, image.load + image.init_size),
        };
        GuestRange { start, len: end - start }
    }

    /// Highest address of an initrd's last byte.
    pub fn initrd_max(&self) -> u64 {
        match &self.image {
            Image::Elf { .. } => u64::from(u32::MAX),
            Image::BzImage(image) => image.initrd_max,
        }
    }

    /// Checks that the kernel fits into a machine with `size` bytes of memory.
    pub fn check_fits(&self, size: u64) -> Result<(), KernelError> {
        let low = memmap::low_ram(size);
        let range = self.memory_range();
        if range.start < layout::HIGH_RAM || range.end() > layout::MMIO_HOLE {
            let address = if range.start < layout::HIGH_RAM { range.start } else { range.end() };
            return Err(KernelError::BadAddress { path: self.path.clone(), address });
        }
        if range.end() > low.end() {
            return Err(KernelError::TooLarge {
                path: self.path.clone(),
                needs_mib: range.end().div_ceil(1 << 20),
                has_mib: low.len >> 20,
            });
        }
        Ok(())
    }

    /// The entry by `protocol`. `Auto` enters Linux in 64-bit mode even if it has a PVH entry: after a PVH entry Linux
    /// first searches for Xen, in 256 steps with an exit each.
    pub fn entry(&self, protocol: BootProtocol) -> Result<Entry, KernelError> {
        match (&self.image, protocol) {
            (Image::Elf { entry, notes: Notes { linux: true, .. }, loads, .. }, BootProtocol::Auto)
                if has_contents_at(loads, *entry) =>
            {
                Ok(Entry::Linux64(*entry, None))
            }
            (
                Image::Elf { notes: Notes { pvh_entry: Some(entry), .. }, .. },
                BootProtocol::Auto | BootProtocol::Pvh,
            ) => Ok(Entry::Pvh(*entry)),
            (_, BootProtocol::Pvh) => Err(KernelError::NoPvhEntry { path: self.path.clone() }),
            (Image::Elf { entry, .. }, _) => Ok(Entry::Linux64(*entry, None)),
            (Image::BzImage(image), _) => Ok(Entry::Linux64(image.entry, Some(image.header))),
        }
    }

    /// Loads the image to its addresses. Fails if the file has shrunk meanwhile. New guest memory is zero, as the image
    /// expects.
    pub fn load(self, loader: &mut Loader) -> Result<(), KernelError> {
        let (extents, cold): (Vec<_>, Vec<_>) = match &self.image {
            Image::Elf { loads, .. } => (
                loads.iter().flat_map(|load| load.extents.clone()).collect(),
                loads.iter().flat_map(|load| load.cold.clone()).collect(),
            ),
            Image::BzImage(image) => {
                (vec![FileExtent { offset: image.code_offset, address: image.load, len: image.code_len }], Vec::new())
            }
        };
        loader.load(self.file, &extents, &cold).map_err(|source| KernelError::Read { path: self.path, source })
    }
}

fn has_contents_at(loads: &[LoadSegment], address: u64) -> bool {
    loads.iter().any(|load| load.has_contents_at(address))
}

fn open_elf(file: &File, head: &[u8], file_len: u64, path: &Path) -> Result<Image, KernelError> {
    let bad = |source| KernelError::Elf { path: path.into(), source };
    let header = elf::header(head).map_err(bad)?;
    let table_len = u64::from(header.segments) * elf::SEGMENT_SIZE as u64;
    let table = read_part(file, header.segments_offset, table_len, file_len, path)?;
    let segments = elf::segments(&table, file_len).map_err(bad)?;
    let mut notes = Notes::default();
    for segment in &segments {
        let Segment::Notes { offset, len } = *segment else { continue };
        if len > elf::MAX_NOTES {
            return Err(bad(ElfError::Malformed("notes")));
        }
        let found = elf::notes(&read_part(file, offset, len, file_len, path)?).map_err(bad)?;
        notes = Notes { pvh_entry: notes.pvh_entry.or(found.pvh_entry), linux: notes.linux || found.linux };
    }
    let loads = segments::load_segments(&segments, &special_sections(file, &header, file_len, path)?);
    if !has_contents_at(&loads, notes.pvh_entry.map_or(header.entry, u64::from)) {
        return Err(bad(ElfError::Malformed("entry address")));
    }
    Ok(Image::Elf { entry: header.entry, notes, loads })
}

/// The special sections of the image. Section headers are optional: an image without them is loaded as it is.
fn special_sections(file: &File, header: &ElfHeader, file_len: u64, path: &Path) -> Result<Vec<Section>, KernelError> {
    let table_len = u64::from(header.sections) * elf::SECTION_SIZE as u64;
    let fits = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= file_len);
    if header.sections > elf::MAX_SECTIONS || !fits(header.sections_offset, table_len) {
        return Ok(Vec::new());
    }
    let table = read_part(file, header.sections_offset, table_len, file_len, path)?;
    match elf::section_place(&table, header.names_section) {
        Some((offset, len)) if len <= elf::MAX_SECTION_NAMES && fits(offset, len) => {
            let names = read_part(file, offset, len, file_len, path)?;
            Ok(elf::special_sections(&table, &names))
        }
        _ => Ok(Vec::new()),
    }
}

/// Reads `len` bytes at `offset`. Both come from the file itself; the caller has bounded `len`.
fn read_part(file: &File, offset: u64, len: u64, file_len: u64, path: &Path) -> Result<Vec<u8>, KernelError> {
    if offset.checked_add(len).is_none_or(|end| end > file_len) {
        return Err(KernelError::Elf { path: path.into(), source: ElfError::Truncated });
    }
    let mut bytes = vec![0; to_usize(len)];
    file.read_exact_at(&mut bytes, offset).map_err(|source| KernelError::Read { path: path.into(), source })?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
