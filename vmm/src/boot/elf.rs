//! Parses ELF kernel images (`vmlinux`) from bytes, without file or memory access: tests can try any input.

/// Size of the ELF header in bytes.
pub const HEADER_SIZE: usize = 64;
/// Size of a program header in bytes.
pub const SEGMENT_SIZE: usize = 56;
/// More program headers than any kernel has (Linux: 5).
pub const MAX_SEGMENTS: u16 = 64;
/// Size of a section header in bytes.
pub const SECTION_SIZE: usize = 64;
/// More section headers than any kernel has (Linux: some 50).
pub const MAX_SECTIONS: u16 = 1024;
/// More bytes of section names than any kernel has (Linux: under 1 KiB).
pub const MAX_SECTION_NAMES: u64 = 64 << 10;
/// More note bytes than any kernel has (Linux: under 1 KiB).
pub const MAX_NOTES: u64 = 64 << 10;

const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
/// Linux' work area for encrypting itself in place on AMD's processors, at the end of its memory. Kernels that run
/// unencrypted use it as free memory.
const SCRATCH: &[u8] = b".init.scratch";
/// Tables for stack traces. Not `.BTF`: a kernel that has it reads it during boot.
const COLD: &[u8] = b".orc_unwind";
/// XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry.
const PHYS32_ENTRY: u32 = 18;

/// Why an ELF image cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The file is shorter than its headers say.
    #[error("it ends before its headers do")]
    Truncated,
    /// A 32-bit or big-endian file, or not ELF at all.
    #[error("it is not a 64-bit little-endian ELF file")]
    NotElf64,
    /// The file is for another processor.
    #[error("it is for another processor (ELF machine {0}; x86-64 is {EM_X86_64})")]
    WrongMachine(u16),
    /// The file is a library, object or position-independent program.
    #[error("it is not an executable ELF file (type {0}; a kernel has 2)")]
    NotExecutable(u16),
    /// These headers contradict themselves or exceed a limit.
    #[error("its {0} are invalid")]
    Malformed(&'static str),
}

/// The fields of the ELF header that hutch uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElfHeader {
    /// Entry address (virtual, for Linux equal to the physical one).
    pub entry: u64,
    /// Position of the program headers in the file.
    pub segments_offset: u64,
    /// Number of program headers.
    pub segments: u16,
    /// Position of the section headers in the file.
    pub sections_offset: u64,
    /// Number of section headers; 0 if they do not have [`SECTION_SIZE`].
    pub sections: u16,
    /// Index of the section that holds the names.
    pub names_section: u16,
}

/// A program header that hutch uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A segment to load.
    Load {
        offset: u64,
        /// Guest physical address.
        address: u64,
        /// Virtual address, which section headers use.
        virt: u64,
        /// Bytes in the file.
        file_len: u64,
        /// Bytes in memory, at least `file_len`; the rest is zero.
        memory_len: u64,
    },
    /// A segment of notes.
    Notes { offset: u64, len: u64 },
}

/// Whether `bytes` begin with the ELF magic number.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads the ELF header.
pub fn header(bytes: &[u8]) -> Result<ElfHeader, ElfError> {
    let fields = Fields(bytes);
    if bytes.len() < HEADER_SIZE {
        return Err(ElfError::Truncated);
    }
    if !is_elf(bytes) || bytes.get(4..6) != Some(&[2, 1]) {
        return Err(ElfError::NotElf64);
    }
    match fields.u16(18)? {
        EM_X86_64 => (),
        other => return Err(ElfError::WrongMachine(other)),
    }
    match fields.u16(16)? {
        2 => (),
        other => return Err(ElfError::NotExecutable(other)),
    }
    let usual = usize::from(fields.u16(58)?) == SECTION_SIZE;
    let header = ElfHeader {
        entry: fields.u64(24)?,
        segments_offset: fields.u64(32)?,
        segments: fields.u16(56)?,
        sections_offset: fields.u64(40)?,
        sections: if usual { fields.u16(60)? } else { 0 },
        names_section: fields.u16(62)?,
    };
    if usize::from(fields.u16(54)?) != SEGMENT_SIZE || !(1..=MAX_SEGMENTS).contains(&header.segments) {
        return Err(ElfError::Malformed("program headers"));
    }
    Ok(header)
}

/// Reads the program headers. `file_len` is the size of the whole file: a segment that ends past it is
/// [`ElfError::Truncated`].
pub fn segments(bytes: &[u8], file_len: u64) -> Result<Vec<Segment>, ElfError> {
    let mut segments = Vec::new();
    for header in bytes.chunks_exact(SEGMENT_SIZE) {
        let fields = Fields(header);
        let (offset, len) = (fields.u64(8)?, fields.u64(32)?);
        let kind = fields.u32(0)?;
        if !matches!(kind, PT_LOAD | PT_NOTE) {
            continue;
        }
        if offset.checked_add(len).is_none_or(|end| end > file_len) {
            return Err(ElfError::Truncated);
        }
        if kind == PT_NOTE {
            segments.push(Segment::Notes { offset, len });
            continue;
        }
        let (address, memory_len) = (fields.u64(24)?, fields.u64(40)?);
        if memory_len < len || address.checked_add(memory_len).is_none() {
            return Err(ElfError::Malformed("segments"));
        }
        if memory_len > 0 {
            segments.push(Segment::Load { offset, address, virt: fields.u64(16)?, file_len: len, memory_len });
        }
    }
    if !segments.iter().any(|segment| matches!(segment, Segment::Load { .. })) {
        return Err(ElfError::Malformed("program headers"));
    }
    Ok(segments)
}

/// The reason for which a section is special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// It has only zeroes, although the file may contain them.
    Empty,
    /// It has only zeroes, and the kernel does not need its memory.
    Dispensable,
    /// A kernel hardly ever reads it.
    Cold,
}

/// A section that need not be loaded like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Virtual address.
    pub virt: u64,
    /// Bytes in memory.
    pub len: u64,
    pub kind: SectionKind,
}

/// Position and length of section `index` in the file.
pub fn section_place(table: &[u8], index: u16) -> Option<(u64, u64)> {
    let fields = Fields(table.chunks_exact(SECTION_SIZE).nth(index.into())?);
    Some((fields.u64(24).ok()?, fields.u64(32).ok()?))
}

/// Finds special sections in the section headers, and ignores malformed headers. Linkers write zeroes for a section
/// without contents if one with contents follows. Linux' image has 10 MB of these, which hutch need not read.
pub fn special_sections(table: &[u8], names: &[u8]) -> Vec<Section> {
    let special = |header: &[u8]| {
        let fields = Fields(header);
        let name = names.get(fields.u32(0).ok()? as usize..)?;
        let is = |other: &[u8]| name.strip_prefix(other).is_some_and(|rest| rest.first() == Some(&0));
        let kind = match fields.u32(4).ok()? {
            _ if is(SCRATCH) => SectionKind::Dispensable,
            SHT_NOBITS => SectionKind::Empty,
            _ if is(COLD) => SectionKind::Cold,
            _ => return None,
        };
        let (virt, len) = (fields.u64(16).ok()?, fields.u64(32).ok()?);
        let counts = fields.u64(8).ok()? & SHF_ALLOC != 0 && virt.checked_add(len).is_some() && len > 0;
        counts.then_some(Section { virt, len, kind })
    };
    table.chunks_exact(SECTION_SIZE).filter_map(special).collect()
}

/// The notes that hutch uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The PVH entry address.
    pub pvh_entry: Option<u32>,
    /// Whether the image is Linux: it has a note of Linux (include/linux/elfnote.h, the build salt, since 4.19).
    pub linux: bool,
}

/// Reads notes. The first PVH entry counts. A note that ends past `bytes` is [`ElfError::Malformed`].
pub fn notes(bytes: &[u8]) -> Result<Notes, ElfError> {
    let mut found = Notes::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let fields = Fields(rest);
        let malformed = |_| ElfError::Malformed("notes");
        let name_len = fields.u32(0).map_err(malformed)? as usize;
        let value_len = fields.u32(4).map_err(malformed)? as usize;
        let kind = fields.u32(8).map_err(malformed)?;
        // Names and values are padded to 4 bytes.
        let value_at = 12usize.saturating_add(name_len.saturating_add(3) & !3);
        let end = value_at.saturating_add(value_len.saturating_add(3) & !3);
        let name = rest.get(12..12usize.saturating_add(name_len)).ok_or(ElfError::Malformed("notes"))?;
        let value = rest.get(value_at..value_at.saturating_add(value_len)).ok_or(ElfError::Malformed("notes"))?;
        if kind == PHYS32_ENTRY && name == b"Xen\0" {
            // 4 or 8 bytes, depending on the assembler; the address is below 4 GiB.
            let entry = match value.len() {
                4 => Fields(value).u32(0)?,
                8 => u32::try_from(Fields(value).u64(0)?).map_err(|_| ElfError::Malformed("notes"))?,
                _ => return Err(ElfError::Malformed("notes")),
            };
            found.pvh_entry = found.pvh_entry.or(Some(entry));
        }
        found.linux |= name == b"Linux\0";
        rest = rest.get(end..).unwrap_or_default();
    }
    Ok(found)
}

/// Reads little-endian numbers at offsets. A read past the end is [`ElfError::Truncated`].
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], ElfError> {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(ElfError::Truncated)
    }

    fn u16(&self, at: usize) -> Result<u16, ElfError> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, ElfError> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, ElfError> {
        self.array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
