//! Parses `bzImage` headers (Documentation/arch/x86/boot.rst) from bytes.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use crate::arch::x86_64::layout;

/// Position of the setup header in the file.
pub const HEADER_OFFSET: usize = 0x1f1;
/// Bytes of the file's beginning that [`parse`] needs.
pub const PROBE_SIZE: usize = 0x290;
/// Offset of the 64-bit entry in the protected-mode part.
const ENTRY_64: u64 = 0x200;

const MAGIC: &[u8; 4] = b"HdrS";
/// Protocol 2.12 introduced xloadflags and with them the 64-bit entry.
const VERSION_2_12: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 2;

/// Why a bzImage cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    /// The file is shorter than its header says.
    #[error("it is cut short: {has} bytes of at least {needs}")]
    Truncated { needs: u64, has: u64 },
    /// The boot protocol has no 64-bit entry yet.
    #[error("its boot protocol {}.{} is too old (2.12 came with Linux 3.8)", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// The kernel has no 64-bit entry.
    #[error("it is a 32-bit kernel")]
    Not64Bit,
    /// A header field is out of range.
    #[error("its setup header has an invalid {0}")]
    Malformed(&'static str),
}

/// The fields of a bzImage that loading needs.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// The setup header, which `boot_params` passes on to the kernel.
    pub header: setup_header,
    /// Position of the protected-mode part in the file. It is loaded to `load`.
    pub code_offset: u64,
    /// Bytes of the protected-mode part.
    pub code_len: u64,
    /// Preferred guest physical address.
    pub load: u64,
    /// Entry address.
    pub entry: u64,
    /// Bytes from `load` on that the kernel uses before it reads the memory map.
    pub init_size: u64,
    /// Highest address of an initrd's last byte.
    pub initrd_max: u64,
    /// Longest command line, without the final zero.
    pub cmdline_max: usize,
}

/// Whether `bytes` begin with the setup header of a bzImage.
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(MAGIC)
}

/// Reads the header from the beginning of a file of `file_len` bytes.
pub fn parse(bytes: &[u8], file_len: u64) -> Result<BzImage, BzImageError> {
    let truncated = |needs| BzImageError::Truncated { needs, has: file_len };
    let end = HEADER_OFFSET + size_of::<setup_header>();
    let bytes = bytes.get(HEADER_OFFSET..end).ok_or(truncated(end as u64))?;
    let mut header = setup_header::default();
    header.as_mut_slice().copy_from_slice(bytes);
    let fields = header;

    let version = fields.version;
    if version < VERSION_2_12 {
        return Err(BzImageError::TooOld(version));
    }
    let (flags, relocatable, preferred) = (fields.xloadflags, fields.relocatable_kernel, fields.pref_address);
    if flags & XLF_KERNEL_64 == 0 {
        return Err(BzImageError::Not64Bit);
    }
    if !(layout::HIGH_RAM..1 << 32).contains(&preferred) {
        return Err(BzImageError::Malformed("preferred address"));
    }
    let alignment = u64::from(fields.kernel_alignment);
    if relocatable != 0 && (!alignment.is_power_of_two() || preferred % alignment != 0) {
        return Err(BzImageError::Malformed("alignment"));
    }
    // 0 means 4, for kernels older than the 64-bit entry.
    let sectors = if fields.setup_sects == 0 { 4 } else { u64::from(fields.setup_sects) };
    let code_offset = (sectors + 1) * 512;
    // In units of 16 bytes; the file may be longer by a signature.
    let code_len = u64::from(fields.syssize) * 16;
    if code_len <= ENTRY_64 {
        return Err(BzImageError::Malformed("size"));
    }
    // The size is rounded up to whole units, the file is not.
    if file_len < code_offset + code_len - 15 {
        return Err(truncated(code_offset + code_len));
    }
    let initrd_max =
        if flags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 { u64::from(u32::MAX) } else { fields.initrd_addr_max.into() };
    Ok(BzImage {
        header,
        code_offset,
        code_len: code_len.min(file_len - code_offset),
        load: preferred,
        entry: preferred + ENTRY_64,
        init_size: u64::from(fields.init_size).max(code_len),
        initrd_max,
        cmdline_max: fields.cmdline_size as usize,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good() -> Vec<u8> {
        let header = setup_header {
            setup_sects: 3,
            syssize: 0x200,
            header: u32::from_le_bytes(*MAGIC),
            version: 0x20f,
            initrd_addr_max: 0x7fff_ffff,
            kernel_alignment: 0x20_0000,
            relocatable_kernel: 1,
            xloadflags: 0x3f,
            cmdline_size: 2047,
            pref_address: 0x100_0000,
            init_size: 0x300_0000,
            ..Default::default()
        };
        let mut file = vec![0; 4 * 512 + 0x2000];
        file[HEADER_OFFSET..HEADER_OFFSET + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        file
    }

    fn with(change: impl FnOnce(&mut setup_header)) -> Result<BzImage, BzImageError> {
        let mut file = good();
        let mut header = setup_header::default();
        let place = HEADER_OFFSET..HEADER_OFFSET + size_of::<setup_header>();
        header.as_mut_slice().copy_from_slice(&file[place.clone()]);
        change(&mut header);
        file[place].copy_from_slice(header.as_slice());
        parse(&file[..PROBE_SIZE], file.len() as u64)
    }

    #[test]
    fn the_header_is_where_the_boot_protocol_says() {
        assert!(is_bzimage(&good()));
        let image = with(|_| ()).expect("good");
        assert_eq!((image.code_offset, image.code_len), (2048, 0x2000));
        assert_eq!((image.load, image.entry, image.init_size), (0x100_0000, 0x100_0200, 0x300_0000));
        assert_eq!(
            image.initrd_max, 0xffff_ffff,
            "a kernel that may be above 4 GiB may have its initrd anywhere below"
        );
    }

    #[test]
    fn an_image_that_cannot_be_booted_is_refused_with_the_reason() {
        assert_eq!(with(|h| h.version = 0x204).err(), Some(BzImageError::TooOld(0x204)));
        assert_eq!(
            BzImageError::TooOld(0x204).to_string(),
            "its boot protocol 2.4 is too old (2.12 came with Linux 3.8)"
        );
        assert_eq!(with(|h| h.xloadflags = 0).err(), Some(BzImageError::Not64Bit));
        assert_eq!(with(|h| h.pref_address = 0).err(), Some(BzImageError::Malformed("preferred address")));
        assert_eq!(with(|h| h.kernel_alignment = 0).err(), Some(BzImageError::Malformed("alignment")));
        assert_eq!(with(|h| h.syssize = 0).err(), Some(BzImageError::Malformed("size")));
        assert!(matches!(with(|h| h.syssize = 0x300), Err(BzImageError::Truncated { needs: 0x3800, has: 0x2800 })));
    }

    #[test]
    fn setup_sectors_of_0_mean_4() {
        assert_eq!(with(|h| (h.setup_sects, h.syssize) = (0, 0x100)).expect("good").code_offset, 5 * 512);
    }

    proptest! {
        #[test]
        fn random_headers_never_panic_and_stay_within_the_file(
            bytes in proptest::collection::vec(any::<u8>(), 0..PROBE_SIZE + 10),
            file_len in any::<u64>(),
        ) {
            let file_len = file_len >> 8;
            if let Ok(image) = parse(&bytes, file_len) {
                prop_assert!(image.code_offset + image.code_len <= file_len);
            }
        }

        #[test]
        fn a_good_header_with_some_bytes_changed_never_panics(
            changes in proptest::collection::vec((0x1f1usize..0x270, any::<u8>()), 1..6),
        ) {
            let mut file = good();
            for (at, value) in changes {
                file[at] = value;
            }
            if let Ok(image) = parse(&file[..PROBE_SIZE], file.len() as u64) {
                prop_assert!(image.code_offset + image.code_len <= file.len() as u64);
                prop_assert!(image.init_size >= image.code_len);
            }
        }
    }
}
