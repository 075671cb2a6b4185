//! Kernels in every form, whole and damaged.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::testing::{bzimage, bzimage_of, compress, executable, module, vmlinux};
use super::*;

const ALL: [Compression; 7] = [
    Compression::None,
    Compression::Gzip,
    Compression::Xz,
    Compression::Zstd,
    Compression::Lz4,
    Compression::Lzma,
    Compression::Bzip2,
];

/// One small kernel in every form. Packing takes most of a test's time.
static SMALL_IMAGES: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| ALL.map(|method| bzimage(method, &executable(&[42; 600], None), "6.12.1")).to_vec());

#[test]
fn every_compression_yields_the_elf_file_without_what_follows_it() {
    let elf = vmlinux("6.12.1-test");
    for method in ALL {
        let kernel = open(&bzimage(method, &elf, "6.12.1-test")).unwrap_or_else(|error| panic!("{method}: {error}"));
        assert!(kernel.elf == elf, "{method}");
        assert_eq!(kernel.form, ImageForm::BzImage(method));
        assert_eq!(kernel.release.as_deref(), Some("6.12.1-test"));
    }
}

#[test]
fn an_elf_file_is_taken_as_it_is() {
    let elf = vmlinux("6.1.0-9");
    let mut longer = elf.clone();
    longer.extend_from_slice(b"tail");
    let kernel = open(&longer).unwrap();
    assert!(kernel.elf == elf);
    assert_eq!((kernel.form, kernel.release.as_deref()), (ImageForm::Elf, Some("6.1.0-9")));
    assert!(extract_vmlinux(&elf).unwrap() == elf);
}

#[test]
fn blocks_larger_than_lz4s_are_joined() {
    let elf = executable(&vec![7; (8 << 20) + 5], None);
    assert!(extract_vmlinux(&bzimage(Compression::Lz4, &elf, "6")).unwrap() == elf);
}

#[test]
fn a_release_that_is_no_release_is_not_believed() {
    let elf = executable(b"Linux version ../../etc (x)", None);
    assert_eq!(open(&bzimage(Compression::Gzip, &elf, "../../etc")).unwrap().release, None);
}

#[test]
fn other_files_are_told_apart() {
    assert!(matches!(open(b""), Err(ImageError::NotAKernel)));
    assert!(matches!(open(&[0; 4096]), Err(ImageError::NotAKernel)));
    assert!(matches!(open(b"\x7fELF"), Err(ImageError::BadElf { .. })));
    assert!(matches!(open(&module("depends=")), Err(ImageError::BadElf { .. })), "a module is not a kernel");
    let mut arm = vmlinux("6.12.1");
    arm[18] = 183;
    assert!(matches!(open(&arm), Err(ImageError::BadElf { reason: "not for x86-64" })));
}

#[test]
fn headers_that_promise_too_much_are_refused() {
    let elf = vmlinux("6.12.1");
    let good = bzimage(Compression::Gzip, &elf, "6.12.1");
    let with = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        open(&image).unwrap_err()
    };
    assert!(matches!(with(0x206, &[0x07, 0x02]), ImageError::OldProtocol { version: 0x0207 }));
    assert!(matches!(with(0x248, &[0xff; 4]), ImageError::Truncated { .. }));
    assert!(matches!(with(0x24c, &[0xff; 4]), ImageError::Truncated { .. }));
    assert!(matches!(with(0x24c, &[3, 0, 0, 0]), ImageError::Truncated { .. }));
    assert!(matches!(with(0x1f1, &[255]), ImageError::Truncated { .. }));

    let packed = compress(Compression::Xz, &elf);
    let lying = |size| open(&bzimage_of(&packed, size, "6")).unwrap_err();
    assert!(matches!(lying(elf.len() + 1), ImageError::SizeMismatch { .. }));
    assert!(matches!(lying(MAX_VMLINUX + 1), ImageError::TooLarge { limit: MAX_VMLINUX }));
}

#[test]
fn unknown_and_unsupported_compressions_are_named() {
    let error = open(&bzimage_of(b"\x89LZO\0\r\n\x1a\n", 9, "6")).unwrap_err();
    assert!(matches!(error, ImageError::Lzo));
    let error = open(&bzimage_of(b"whatever", 8, "6")).unwrap_err().to_string();
    assert!(error.contains("zstd") && error.contains("77"), "{error}");
}

#[test]
fn damage_within_the_packed_kernel_is_noticed() {
    let elf = vmlinux("6.12.1");
    for method in ALL.into_iter().filter(|method| *method != Compression::None) {
        let mut packed = compress(method, &elf);
        let middle = packed.len() / 2;
        for byte in &mut packed[middle..middle + 16] {
            *byte = !*byte;
        }
        let error = open(&bzimage_of(&packed, elf.len(), "6")).map(|kernel| kernel.elf == elf);
        assert!(matches!(error, Err(_) | Ok(false)), "{method}");
        assert!(open(&bzimage_of(&packed[..middle], elf.len(), "6")).is_err(), "{method}, cut");
    }
}

#[test]
fn a_file_that_unpacks_to_more_than_allowed_is_not_unpacked() {
    let zeros = vec![0; 2 << 20];
    for method in ALL.into_iter().filter(|method| *method != Compression::None) {
        let packed = compress(method, &zeros);
        let error = decompress_file(method, &packed, 1 << 20).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit } if limit == 1 << 20), "{method}: {error}");
        assert_eq!(decompress_file(method, &packed, zeros.len()).unwrap().len(), zeros.len(), "{method}");
    }
}

#[test]
fn segments_must_lie_within_the_file() {
    let elf = vmlinux("6.12.1");
    assert!(matches!(open(&elf[..elf.len() - 1]), Err(ImageError::Truncated { .. })));
    let mut none = elf.clone();
    none[64] = 0; // PT_NULL
    assert!(matches!(open(&none), Err(ImageError::BadElf { reason: "no loadable segment" })));
    let mut shrunk = elf;
    shrunk[64 + 40..64 + 48].fill(0); // p_memsz
    assert!(matches!(open(&shrunk), Err(ImageError::BadElf { .. })));
}

#[test]
fn an_agent_has_to_be_static() {
    check_agent(&executable(b"x", None)).unwrap();
    let error = check_agent(&executable(b"x", Some("/lib64/ld-linux-x86-64.so.2"))).unwrap_err().to_string();
    assert!(error.contains("ld-linux") && error.contains("crt-static"), "{error}");
    assert!(check_agent(b"#!/bin/sh\n").is_err());
    assert!(check_agent(&module("depends=")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = open(&bytes);
        let _ = check_agent(&bytes);
        let _ = modinfo(&bytes);
        for method in ALL {
            let _ = decompress_file(method, &bytes, 1 << 20);
        }
    }

    #[test]
    fn a_damaged_kernel_is_refused_or_still_one(
        method in 0..ALL.len(),
        damage in proptest::collection::vec((0usize..3000, any::<u8>()), 1..8),
        cut in 0usize..4000,
    ) {
        let mut image = SMALL_IMAGES[method].clone();
        for (at, byte) in damage {
            if let Some(old) = image.get_mut(at) {
                *old = byte;
            }
        }
        image.truncate(cut);
        if let Ok(kernel) = open(&image) {
            prop_assert!(elf::check_vmlinux(&kernel.elf).is_ok());
        }
    }

    #[test]
    fn a_damaged_elf_file_never_panics(damage in proptest::collection::vec((0usize..300, any::<u8>()), 1..12)) {
        for mut file in [executable(&[42; 60], Some("/ld.so")), module("depends=a,b")] {
            for &(at, byte) in &damage {
                if let Some(old) = file.get_mut(at) {
                    *old = byte;
                }
            }
            let _ = open(&file);
            let _ = check_agent(&file);
            let _ = modinfo(&file);
        }
    }
}
