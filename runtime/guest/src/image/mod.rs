//! Kernel image files: from the forms in which kernels come to the ELF `vmlinux` that the VMM loads.
//!
//! Called by [`super::build`] on the caller's thread. All functions are pure, from bytes to bytes. The input is
//! untrusted: each length and offset in it is checked before use.

mod bzimage;
mod decompress;
mod elf;

pub(crate) use decompress::decompress_file;
pub use decompress::Compression;
pub(crate) use elf::{check_agent, modinfo};

use std::io;

/// The largest `vmlinux` accepted, in bytes. Distribution kernels have 50 to 80 MiB.
pub const MAX_VMLINUX: usize = 512 << 20;

/// The reasons to reject a kernel or an executable.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ImageError {
    #[error("neither an ELF vmlinux nor a bzImage (no ELF magic, no \"HdrS\" at 0x202); give an x86-64 Linux kernel")]
    NotAKernel,
    #[error("cut short: {what} lies beyond the end of the file; fetch or build the file again")]
    Truncated { what: &'static str },
    #[error("bzImage of boot protocol {}.{:02}, which lacks the position of the kernel; 2.08 (Linux 2.6.26) or later is needed", version >> 8, version & 0xff)]
    OldProtocol { version: u16 },
    #[error("bzImage with a payload in no known format (it starts with {magic:02x?}); known: ELF, gzip, xz, zstd, lz4, lzma, bzip2")]
    UnknownCompression { magic: Vec<u8> },
    #[error("bzImage compressed with LZO, which hutch does not unpack; give the vmlinux of that build")]
    Lzo,
    #[error("{method} data is damaged; fetch or build the file again")]
    Decompress { method: Compression, source: io::Error },
    #[error("unpacks to more than {limit} bytes; not a kernel or module hutch would load")]
    TooLarge { limit: usize },
    #[error("unpacks to {got} bytes where {declared} were announced; fetch or build the file again")]
    SizeMismatch { declared: usize, got: usize },
    #[error("not a usable ELF file: {reason}")]
    BadElf { reason: &'static str },
    #[error("not a static executable (it asks for the loader {interpreter:?}); build it with `-C target-feature=+crt-static`")]
    NotStatic { interpreter: String },
}

/// The form of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageForm {
    /// An ELF `vmlinux`, used as it is.
    Elf,
    /// A bzImage with a payload of this compression.
    BzImage(Compression),
}

impl std::fmt::Display for ImageForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ImageForm::Elf => f.write_str("ELF"),
            ImageForm::BzImage(method) => write!(f, "bzImage, {method}"),
        }
    }
}

/// A kernel ready to be loaded.
#[derive(Debug)]
pub struct Vmlinux {
    /// The ELF file.
    pub elf: Vec<u8>,
    /// The form of the source file.
    pub form: ImageForm,
    /// The kernel's release, for example `6.12.9-cloud-amd64`, if the file contains it.
    pub release: Option<String>,
}

/// Extracts the ELF `vmlinux` from `image`, which is a vmlinux or a bzImage.
///
/// Documentation/arch/x86/boot.rst defines the position of a bzImage's payload (`payload_offset`, `payload_length`). It
/// is unpacked with an upper bound and cut after the last byte of the ELF file: the relocation table for the kernel's
/// own decompressor follows.
///
/// # Errors
/// [`ImageError`] for anything but a complete x86-64 kernel with loadable segments.
pub fn extract_vmlinux(image: &[u8]) -> Result<Vec<u8>, ImageError> {
    Ok(open(image)?.elf)
}

/// Like [`extract_vmlinux`]; also returns the form of the file and the kernel's release.
///
/// # Errors
/// As [`extract_vmlinux`].
pub fn open(image: &[u8]) -> Result<Vmlinux, ImageError> {
    if image.starts_with(elf::MAGIC) {
        let end = elf::check_vmlinux(image)?;
        let elf = image.get(..end).unwrap_or(image).to_vec();
        let release = elf::release(&elf);
        return Ok(Vmlinux { elf, form: ImageForm::Elf, release });
    }
    let payload = bzimage::payload(image)?;
    let method = Compression::detect(payload.data)?;
    let mut elf = decompress::decompress(method, payload.data, payload.unpacked_len, MAX_VMLINUX)?;
    let end = elf::check_vmlinux(&elf)?;
    elf.truncate(end);
    let release = payload.release.or_else(|| elf::release(&elf));
    Ok(Vmlinux { elf, form: ImageForm::BzImage(method), release })
}

#[cfg(test)]
mod tests;
