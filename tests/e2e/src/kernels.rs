//! Guest kernels of a few instructions that misbehave at once.

use std::fs;
use std::path::PathBuf;

use crate::RootFs;

/// A kernel that consists of this code. The PVH boot protocol enters it in 32-bit mode.
pub struct TinyKernel(&'static [u8]);

/// Load and entry address.
const ADDRESS: u32 = 0x10_0000;

/// `XEN_ELFNOTE_PHYS32_ENTRY`, which makes an ELF file a PVH kernel.
const PHYS32_ENTRY: u32 = 18;

impl TinyKernel {
    /// `cli; 1: hlt; jmp 1b`
    pub const HANGS: TinyKernel = TinyKernel(&[0xfa, 0xf4, 0xeb, 0xfd]);

    /// An empty interrupt table and an invalid instruction: `push 0; push 0; lidt [esp]; ud2`. There is no stack yet, so
    /// the code first sets one up in its own page: `mov esp, ADDRESS + 0x800`.
    pub const TRIPLE_FAULTS: TinyKernel =
        TinyKernel(&[0xbc, 0x00, 0x08, 0x10, 0x00, 0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b]);

    /// Writes the ELF file into a root file system's directory.
    pub fn write_to(&self, root: &RootFs) -> PathBuf {
        let path = root.at("/tiny-kernel");
        fs::write(&path, self.elf()).expect("a kernel file");
        path
    }

    /// An ELF-64 file (System V ABI): header, a load segment of one page with the code, a note segment.
    fn elf(&self) -> Vec<u8> {
        const CODE_AT: usize = 0x1000;
        const NOTE_AT: usize = 0x200;
        let mut note = Vec::new();
        for word in [4, 4, PHYS32_ENTRY] {
            note.extend(u32::to_le_bytes(word));
        }
        note.extend(b"Xen\0");
        note.extend(ADDRESS.to_le_bytes());

        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend([2u16, 62].map(u16::to_le_bytes).concat()); // executable, x86-64
        file.extend(1u32.to_le_bytes());
        file.extend([u64::from(ADDRESS), 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, sections
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
        let mut segment = |kind: u32, flags: u32, at: usize, address: u64, size: usize, memory: u64| {
            file.extend([kind, flags].map(u32::to_le_bytes).concat());
            file.extend([at as u64, address, address, size as u64, memory, 0x1000].map(u64::to_le_bytes).concat());
        };
        segment(1, 7, CODE_AT, ADDRESS.into(), self.0.len(), 0x1000);
        segment(4, 4, NOTE_AT, 0, note.len(), 0);
        file.resize(NOTE_AT, 0);
        file.extend(note);
        file.resize(CODE_AT, 0);
        file.extend(self.0);
        file
    }
}
