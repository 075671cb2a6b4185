//! ELF kernel images (`vmlinux`), read from bytes: no file, no memory, so that any input can be tried.

/// Size of the ELF header.
pub const HEADER_SIZE: usize = 64;
/// Size of a program header.
pub const SEGMENT_SIZE: usize = 56;
/// More program headers than any kernel has (Linux: 5).
pub const MAX_SEGMENTS: u16 = 64;
/// Size of a section header.
pub const SECTION_SIZE: usize = 64;
/// More section headers and bytes of names than any kernel has (Linux: some 50, under 1 KiB).
pub const MAX_SECTIONS: u16 = 1024;
/// See [`MAX_SECTIONS`].
pub const MAX_SECTION_NAMES: u64 = 64 << 10;
/// More note bytes than any kernel has (Linux: under 1 KiB).
pub const MAX_NOTES: u64 = 64 << 10;

const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
/// Linux' work area for encrypting itself in place on AMD's processors, behind everything else. Kernels that run
/// unencrypted take it for free memory.
const SCRATCH: &[u8] = b".init.scratch";
/// How to walk the kernel's stack, for reports of trouble. Not `.BTF`, which a kernel that has it reads as it boots.
const COLD: &[u8] = b".orc_unwind";
/// XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry.
const PHYS32_ENTRY: u32 = 18;

/// What is wrong with the image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Shorter than its own headers.
    #[error("it ends before its headers do")]
    Truncated,
    /// 32-bit or big-endian.
    #[error("it is not a 64-bit little-endian ELF file")]
    NotElf64,
    /// Another processor.
    #[error("it is for another processor (ELF machine {0}; x86-64 is {EM_X86_64})")]
    WrongMachine(u16),
    /// A library, object or position-independent program.
    #[error("it is not an executable ELF file (type {0}; a kernel has 2)")]
    NotExecutable(u16),
    /// Header fields that make no sense.
    #[error("its {0} make no sense")]
    Malformed(&'static str),
}

/// The header's part that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Entry address (virtual, for Linux equal to the physical one).
    pub entry: u64,
    /// Where in the file the program headers are.
    pub segments_offset: u64,
    /// How many.
    pub segments: u16,
    /// Where in the file the section headers are.
    pub sections_offset: u64,
    /// How many; 0 if there are none of the usual size.
    pub sections: u16,
    /// Which of them holds the names.
    pub names_section: u16,
}

/// A program header of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// To be loaded.
    Load {
        /// Position in the file.
        offset: u64,
        /// Physical address.
        address: u64,
        /// Virtual address, by which sections know it.
        virt: u64,
        /// Bytes from the file.
        file_len: u64,
        /// Bytes in memory, at least `file_len`; the rest is zero.
        memory_len: u64,
    },
    /// Notes.
    Notes {
        /// Position in the file.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// Whether `bytes` begin like an ELF file.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads the ELF header.
///
/// # Errors
/// See [`ElfError`].
pub fn header(bytes: &[u8]) -> Result<Header, ElfError> {
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
    let header = Header {
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

/// Reads the program headers, `file_len` being the size of the whole file.
///
/// # Errors
/// See [`ElfError`]; a segment that reaches past the file's end is [`ElfError::Truncated`].
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

/// What is special about a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It holds nothing but zeroes, though the file may hold these.
    Empty,
    /// The same, and the kernel can do without.
    Dispensable,
    /// A kernel hardly ever reads it.
    Cold,
}

/// A section that need not be loaded like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Virtual address.
    pub virt: u64,
    /// Bytes.
    pub len: u64,
    /// Why.
    pub kind: Kind,
}

/// Where section `index` lies in the file.
pub fn section_place(table: &[u8], index: u16) -> Option<(u64, u64)> {
    let fields = Fields(table.chunks_exact(SECTION_SIZE).nth(index.into())?);
    Some((fields.u64(24).ok()?, fields.u64(32).ok()?))
}

/// Finds special sections in the section headers; what cannot be understood is left out. Linkers write zeroes for a
/// section without contents if one with contents follows, and Linux' image has 10 MB of these; whoever knows need not
/// read them.
pub fn special_sections(table: &[u8], names: &[u8]) -> Vec<Section> {
    let special = |header: &[u8]| {
        let fields = Fields(header);
        let name = names.get(fields.u32(0).ok()? as usize..)?;
        let is = |other: &[u8]| name.strip_prefix(other).is_some_and(|rest| rest.first() == Some(&0));
        let kind = match fields.u32(4).ok()? {
            _ if is(SCRATCH) => Kind::Dispensable,
            SHT_NOBITS => Kind::Empty,
            _ if is(COLD) => Kind::Cold,
            _ => return None,
        };
        let (virt, len) = (fields.u64(16).ok()?, fields.u64(32).ok()?);
        let counts = fields.u64(8).ok()? & SHF_ALLOC != 0 && virt.checked_add(len).is_some() && len > 0;
        counts.then_some(Section { virt, len, kind })
    };
    table.chunks_exact(SECTION_SIZE).filter_map(special).collect()
}

/// What notes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The PVH entry address.
    pub pvh_entry: Option<u32>,
    /// Linux marks its image as Linux (include/linux/elfnote.h, the build salt, since 4.19).
    pub linux: bool,
}

/// Reads notes; the first PVH entry counts.
///
/// # Errors
/// [`ElfError::Malformed`] if a note reaches past the end.
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
            // 4 or 8 bytes, depending on the assembler's mood; the address is below 4 GiB.
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

/// Little-endian numbers at offsets; a read past the end is [`ElfError::Truncated`].
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], ElfError> {
        let bytes = at.checked_add(N).and_then(|end| self.0.get(at..end)).ok_or(ElfError::Truncated)?;
        Ok(bytes.try_into().expect("a slice of N bytes"))
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
