//! Checks of ELF files: whether a file is a kernel or a static executable, and the metadata of a module.

use object::elf::{FileHeader64, EM_X86_64, ET_DYN, ET_EXEC, ET_REL, PT_INTERP, PT_LOAD, SHT_NOBITS};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::LittleEndian;

use super::ImageError;

pub(super) const MAGIC: &[u8] = b"\x7fELF";

type Header = FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

fn bad(reason: &'static str) -> ImageError {
    ImageError::BadElf { reason }
}

fn header(data: &[u8]) -> Result<&Header, ImageError> {
    let header = Header::parse(data).map_err(|_| bad("no complete 64-bit ELF header"))?;
    if !header.is_little_endian() || header.e_machine(LE) != EM_X86_64 {
        return Err(bad("not for x86-64"));
    }
    Ok(header)
}

/// Checks that `data` is a kernel that can be loaded, and returns the length of the ELF file within it.
pub(super) fn check_vmlinux(data: &[u8]) -> Result<usize, ImageError> {
    let header = header(data)?;
    if !matches!(header.e_type(LE), ET_EXEC | ET_DYN) {
        return Err(bad("not an executable (a vmlinux is one)"));
    }
    let programs = header.program_headers(LE, data).map_err(|_| bad("program headers beyond the end of the file"))?;
    let mut end = header.e_phoff(LE).saturating_add(std::mem::size_of_val(programs) as u64);
    let mut loads = 0;
    for program in programs {
        if program.p_type(LE) != PT_LOAD {
            continue;
        }
        loads += 1;
        let (offset, size) = (program.p_offset(LE), program.p_filesz(LE));
        if size > program.p_memsz(LE) {
            return Err(bad("a segment is larger in the file than in memory"));
        }
        if program.data(LE, data).is_err() {
            return Err(ImageError::Truncated { what: "a segment of the kernel" });
        }
        end = end.max(offset.saturating_add(size));
    }
    if loads == 0 {
        return Err(bad("no loadable segment"));
    }
    end = end.max(sections_end(header, data).unwrap_or(0));
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    Ok(end.min(data.len()))
}

/// End of the section headers and sections. A kernel without readable section headers still boots.
fn sections_end(header: &Header, data: &[u8]) -> Option<u64> {
    let sections = header.section_headers(LE, data).ok()?;
    let mut end = header.e_shoff(LE).checked_add(std::mem::size_of_val(sections) as u64)?;
    for section in sections.iter().filter(|section| section.sh_type(LE) != SHT_NOBITS) {
        end = end.max(section.sh_offset(LE).checked_add(section.sh_size(LE))?);
    }
    Some(end)
}

/// Searches for the kernel's banner, "Linux version RELEASE (…".
pub(super) fn release(data: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    memchr::memmem::find_iter(data, BANNER).find_map(|at| {
        let text = data.get(at + BANNER.len()..)?;
        let word = text.iter().take(128).position(|&b| b == b' ')?;
        let word = std::str::from_utf8(text.get(..word)?).ok()?;
        plausible_release(word).then(|| word.to_owned())
    })
}

/// Whether `word` can be a kernel release. It becomes part of paths and is printed.
pub(super) fn plausible_release(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_' | '~'))
}

/// Checks that `data` can be the first process of a guest that has no other file: a static x86-64 executable.
pub(crate) fn check_agent(data: &[u8]) -> Result<(), ImageError> {
    let header = header(data)?;
    if !matches!(header.e_type(LE), ET_EXEC | ET_DYN) {
        return Err(bad("not an executable"));
    }
    let programs = header.program_headers(LE, data).map_err(|_| bad("program headers beyond the end of the file"))?;
    for program in programs {
        if program.p_type(LE) == PT_INTERP {
            let path = program.data(LE, data).unwrap_or_default();
            let path = path.split(|&b| b == 0).next().unwrap_or_default();
            return Err(ImageError::NotStatic { interpreter: String::from_utf8_lossy(path).into_owned() });
        }
        if program.p_type(LE) == PT_LOAD && program.data(LE, data).is_err() {
            return Err(ImageError::Truncated { what: "a segment of the executable" });
        }
    }
    if !programs.iter().any(|program| program.p_type(LE) == PT_LOAD) {
        return Err(bad("no loadable segment"));
    }
    Ok(())
}

/// The `.modinfo` section of a kernel module: strings of the form `key=value`, each ended by a zero byte.
pub(crate) fn modinfo(data: &[u8]) -> Result<&[u8], ImageError> {
    let header = header(data)?;
    if header.e_type(LE) != ET_REL {
        return Err(bad("not a relocatable object (a kernel module is one)"));
    }
    let sections = header.sections(LE, data).map_err(|_| bad("section headers beyond the end of the file"))?;
    let (_, section) = sections.section_by_name(LE, b".modinfo").ok_or(bad("no .modinfo section"))?;
    section.data(LE, data).map_err(|_| ImageError::Truncated { what: "the .modinfo section" })
}
