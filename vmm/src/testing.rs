//! Helpers for tests of this crate and of its users: small guest images and memory.

use std::io::Write;
use std::path::Path;

use hutch_devices::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::arch::x86_64::memmap;
use crate::boot::initrd::Initrd;
use crate::boot::kernel::{Entry, KernelImage};
use crate::boot::linux64::{self, BootInfo};
use crate::boot::loader::Loader;
use crate::boot::pvh;
use crate::config::{BootProtocol, ConsoleOutput, ImageLoading};
use crate::console::GuestConsole;
use crate::error::BuildError;

/// An ELF image with a PVH note around some machine code.
#[derive(Clone, Copy, Debug)]
pub struct PvhImage<'a> {
    /// Physical address of the code.
    pub load: u64,
    /// Offset of the entry in the code.
    pub entry: u64,
    /// Machine code of the guest.
    pub code: &'a [u8],
    /// Bytes in memory; the rest after the code is zero.
    pub memory_len: u64,
    /// Whether the image has a PVH note; else only the ELF entry.
    pub pvh: bool,
    /// Whether the image also has a note that marks it as Linux.
    pub linux: bool,
}

impl Default for PvhImage<'_> {
    fn default() -> Self {
        Self { load: 0x10_0000, entry: 0, code: &[0xf4], memory_len: 0x1000, pvh: true, linux: false }
    }
}

/// Encodes the image as an ELF file.
pub fn pvh_image(image: &PvhImage<'_>) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let entry = image.load + image.entry;
    let code_len = image.code.len() as u64;
    let segment = |kind: u32, offset: u64, address: u64, file_len: u64, memory_len: u64| {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(7u32.to_le_bytes());
        for field in [offset, address, address, file_len, memory_len, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    };

    let note = |name: &[u8], kind: u32, value: u32| {
        let mut bytes: Vec<u8> = [name.len() as u32, 4, kind].iter().flat_map(|field| field.to_le_bytes()).collect();
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(value.to_le_bytes());
        bytes
    };
    let mut notes = note(b"Xen\0", 18, entry as u32);
    if image.linux {
        notes.extend(note(b"Linux\0", 0x100, 0));
    }
    let notes_len = notes.len() as u64;

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for field in [entry, 64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 1 + u16::from(image.pvh), 0, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(segment(1, HEADERS + notes_len, image.load, code_len, image.memory_len.max(code_len)));
    file.extend(segment(4, HEADERS, 0, notes_len, notes_len));
    file.extend(notes);
    file.extend(image.code);
    file
}

/// Guest memory of `mib` MiB at address 0.
pub fn ram(mib: usize) -> GuestRam {
    let ranges = [(GuestAddress(0), mib << 20)];
    GuestRam::new(GuestMemoryMmap::from_ranges(&ranges).expect("a few MiB of memory"))
}

/// Loads a kernel and an initrd into `mib` MiB of memory with the boot data that points to them, as a boot does.
///
/// # Errors
/// A boot would be refused for this reason.
pub fn load_images(
    kernel: &Path,
    initrd: Option<&Path>,
    protocol: BootProtocol,
    loading: ImageLoading,
    mib: usize,
) -> Result<GuestRam, BuildError> {
    let ram = ram(mib);
    let size = (mib as u64) << 20;
    let kernel = KernelImage::open(kernel)?;
    let initrd = initrd.map(Initrd::open).transpose()?;
    kernel.check_fits(size)?;
    let entry = kernel.entry(protocol)?;
    let max = kernel.initrd_max();
    let place =
        initrd.as_ref().map(|initrd| initrd.place(kernel.memory_range(), memmap::low_ram(size), max)).transpose()?;
    let mut loader = Loader::new(&ram, loading);
    kernel.load(&mut loader)?;
    if let (Some(initrd), Some(range)) = (initrd, place) {
        initrd.load(&mut loader, range)?;
    }
    let info = BootInfo { map: &memmap::map(size), initrd: place, rsdp: None, cmdline_len: 0 };
    let written = match entry {
        Entry::Pvh(_) => pvh::write(&ram, &info),
        Entry::Linux64(_, header) => linux64::write(&ram, &info, header.as_ref()),
    };
    written.expect("boot data lies below 1 MiB, where every machine has memory");
    Ok(ram)
}

/// A guest's console without a file.
#[derive(Clone, Debug)]
pub struct TestConsole(GuestConsole);

impl Default for TestConsole {
    fn default() -> Self {
        Self::new()
    }
}

impl TestConsole {
    /// An empty console.
    pub fn new() -> Self {
        let console = GuestConsole::new(&ConsoleOutput::Ring).expect("no file is opened");
        Self(console.expect("there is a console"))
    }

    /// The sink for the serial device.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(self.0.clone())
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        self.0.tail(count)
    }

    /// Ends an unfinished line.
    pub fn finish(&self) {
        self.0.finish();
    }
}
