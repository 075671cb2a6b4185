//! The kernel image: opened and understood before anything is built, then read straight into guest memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;

use super::bzimage::{self, BzImage, BzImageError};
use super::elf::{self, ElfError, Header, Notes, Section, Segment};
use super::load::Loader;
use super::pieces::{self, Load, Piece};
use crate::arch::x86_64::memmap::Range;
use crate::arch::x86_64::{layout, memmap};
use crate::config::BootProtocol;

/// Why a kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be opened.
    #[error("cannot open kernel {path}; check the path and its permissions")]
    Open {
        /// Path as given.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory, device or pipe.
    #[error("kernel {path} is not a regular file; give a vmlinux or bzImage")]
    NotAFile {
        /// Path as given.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("kernel {path} is empty; build or copy it again")]
    Empty {
        /// Path as given.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read kernel {path}")]
    Read {
        /// Path as given.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Neither ELF nor bzImage.
    #[error("kernel {path} is neither an ELF image (vmlinux) nor a bzImage; give one of these for x86-64")]
    Unknown {
        /// Path as given.
        path: PathBuf,
    },
    /// A bad ELF image.
    #[error("kernel {path} is an ELF file that cannot be booted; give a complete x86-64 vmlinux")]
    Elf {
        /// Path as given.
        path: PathBuf,
        /// What is wrong.
        source: ElfError,
    },
    /// A bad bzImage.
    #[error("kernel {path} is a bzImage that cannot be booted; give a complete 64-bit one")]
    BzImage {
        /// Path as given.
        path: PathBuf,
        /// What is wrong.
        source: BzImageError,
    },
    /// PVH was asked for, and the image has no such entry.
    #[error("kernel {path} has no PVH entry; build it with CONFIG_PVH=y or use another boot protocol")]
    NoPvhEntry {
        /// Path as given.
        path: PathBuf,
    },
    /// The image does not fit.
    #[error("kernel {path} needs {needs_mib} MiB of guest memory and the machine has {has_mib} MiB; give it more")]
    TooLarge {
        /// Path as given.
        path: PathBuf,
        /// Up to the highest address that the image uses.
        needs_mib: u64,
        /// What there is below the device hole.
        has_mib: u64,
    },
    /// The image wants memory that is not RAM, or where boot data lies.
    #[error(
        "kernel {path} wants to be loaded at {address:#x}, where no kernel can be; it is not made for this machine"
    )]
    BadAddress {
        /// Path as given.
        path: PathBuf,
        /// The address.
        address: u64,
    },
}

#[derive(Debug)]
enum Image {
    Elf { entry: u64, notes: Notes, loads: Vec<Load> },
    BzImage(BzImage),
}

/// An image that has been understood.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    file: File,
    image: Image,
}

/// Where to start, once the image is in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// PVH at this address.
    Pvh(u32),
    /// 64-bit Linux entry at this address, with the setup header for `boot_params` if the image has one.
    Linux64(u64, Option<setup_header>),
}

impl Kernel {
    /// Opens and parses `path`. No segment is read yet.
    ///
    /// # Errors
    /// Everything that is wrong with the image by itself.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK) // a FIFO shall not hang us
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
        let mut head = vec![0; bzimage::PROBE_SIZE.min(metadata.len() as usize)];
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

    /// The memory that the kernel uses before it knows its memory map.
    pub fn extent(&self) -> Range {
        let (start, end) = match &self.image {
            Image::Elf { loads, .. } => pieces::extent(loads),
            Image::BzImage(image) => (image.load, image.load + image.init_size),
        };
        Range { start, len: end - start }
    }

    /// The highest address an initrd may reach up to.
    pub fn initrd_max(&self) -> u64 {
        match &self.image {
            Image::Elf { .. } => u64::from(u32::MAX),
            Image::BzImage(image) => image.initrd_max,
        }
    }

    /// Checks that the kernel fits into a machine with `size` bytes of memory.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`], [`KernelError::BadAddress`].
    pub fn check_fits(&self, size: u64) -> Result<(), KernelError> {
        let low = memmap::ram(size)[0];
        let extent = self.extent();
        if extent.start < layout::HIGH_RAM || extent.end() > layout::MMIO_HOLE {
            let address = if extent.start < layout::HIGH_RAM { extent.start } else { extent.end() };
            return Err(KernelError::BadAddress { path: self.path.clone(), address });
        }
        if extent.end() > low.end() {
            return Err(KernelError::TooLarge {
                path: self.path.clone(),
                needs_mib: extent.end().div_ceil(1 << 20),
                has_mib: low.len >> 20,
            });
        }
        Ok(())
    }

    /// The entry by `protocol`. Linux is entered in 64-bit mode even where it has a PVH entry: behind that one it
    /// looks for Xen first, in 256 steps with an exit each.
    ///
    /// # Errors
    /// [`KernelError::NoPvhEntry`].
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

    /// Brings the image to its place. Memory that the image wants zero is so already.
    ///
    /// # Errors
    /// [`KernelError::Read`], also if the file has shrunk meanwhile.
    pub fn load(self, loader: &mut Loader) -> Result<(), KernelError> {
        let (pieces, cold): (Vec<_>, Vec<_>) = match &self.image {
            Image::Elf { loads, .. } => (
                loads.iter().flat_map(|load| load.pieces.clone()).collect(),
                loads.iter().flat_map(|load| load.cold.clone()).collect(),
            ),
            Image::BzImage(image) => {
                (vec![Piece { offset: image.code_offset, address: image.load, len: image.code_len }], Vec::new())
            }
        };
        loader.load(self.file, &pieces, &cold).map_err(|source| KernelError::Read { path: self.path, source })
    }
}

fn has_contents_at(loads: &[Load], address: u64) -> bool {
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
    let loads = pieces::loads(&segments, &special_sections(file, &header, file_len, path)?);
    if !has_contents_at(&loads, notes.pvh_entry.map_or(header.entry, u64::from)) {
        return Err(bad(ElfError::Malformed("entry address")));
    }
    Ok(Image::Elf { entry: header.entry, notes, loads })
}

/// Sections that need not be loaded like others. Section headers are optional: an image without is loaded as it is.
fn special_sections(file: &File, header: &Header, file_len: u64, path: &Path) -> Result<Vec<Section>, KernelError> {
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

/// `len` bytes at `offset`, both from the file itself, `len` bounded by the caller.
fn read_part(file: &File, offset: u64, len: u64, file_len: u64, path: &Path) -> Result<Vec<u8>, KernelError> {
    if offset.checked_add(len).is_none_or(|end| end > file_len) {
        return Err(KernelError::Elf { path: path.into(), source: ElfError::Truncated });
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset).map_err(|source| KernelError::Read { path: path.into(), source })?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
