//! The set-up header of a bzImage (Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").

use super::ImageError;

const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// First protocol version with `payload_offset` and `payload_length`.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;

/// The compressed kernel inside a bzImage.
pub(super) struct Payload<'a> {
    /// The bytes, still compressed.
    pub(super) data: &'a [u8],
    /// The length after unpacking, from the last four bytes of the payload.
    pub(super) unpacked_len: usize,
    /// The release: first word of the version string.
    pub(super) release: Option<String>,
}

pub(super) fn payload(image: &[u8]) -> Result<Payload<'_>, ImageError> {
    if image.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(ImageError::NotAKernel);
    }
    let version = u16_at(image, VERSION)?;
    if version < FIRST_WITH_PAYLOAD {
        return Err(ImageError::OldProtocol { version });
    }
    let setup_sects = match image.get(SETUP_SECTS) {
        None => return Err(ImageError::Truncated { what: "the set-up header" }),
        Some(0) => 4, // "for backwards compatibility, if the setup_sects field contains 0, the real value is 4"
        Some(&sects) => usize::from(sects),
    };
    let start = ((setup_sects + 1) * SECTOR)
        .checked_add(u32_at(image, PAYLOAD_OFFSET)?)
        .ok_or(ImageError::Truncated { what: "the compressed kernel" })?;
    let length = u32_at(image, PAYLOAD_LENGTH)?;
    let data = start
        .checked_add(length)
        .and_then(|end| image.get(start..end))
        .ok_or(ImageError::Truncated { what: "the compressed kernel" })?;
    // The kernel's build appends the unpacked size to every compressed form; gzip itself ends with it.
    let tail = length.checked_sub(4).ok_or(ImageError::Truncated { what: "the compressed kernel" })?;
    let unpacked_len = u32_at(data, tail)?;
    Ok(Payload { data, unpacked_len, release: release(image) })
}

fn release(image: &[u8]) -> Option<String> {
    let pointer = u16_at(image, KERNEL_VERSION).ok()?;
    if pointer == 0 {
        return None;
    }
    let text = image.get(usize::from(pointer) + SECTOR..)?;
    let word = text.iter().take(128).position(|&b| b == b' ' || b == 0)?;
    let word = std::str::from_utf8(text.get(..word)?).ok()?;
    super::elf::plausible_release(word).then(|| word.to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ImageError> {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => Ok(u16::from_le_bytes([a, b])),
        _ => Err(ImageError::Truncated { what: "the set-up header" }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize, ImageError> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d]) as usize),
        _ => Err(ImageError::Truncated { what: "the set-up header" }),
    }
}
