//! Helpers for tests of this crate and of its users: small guest images and memory.

use hutch_devices::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryMmap};

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
