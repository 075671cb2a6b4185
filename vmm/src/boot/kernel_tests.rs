//! Kernel files good and bad.

use std::fs;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::ImageLoading;
use crate::testing::{pvh_image, ram, PvhImage};

const CODE: &[u8] = b"some machine code";

fn image() -> PvhImage<'static> {
    PvhImage { load: 0x20_0000, entry: 5, code: CODE, memory_len: 0x2000, ..PvhImage::default() }
}

fn open(contents: &[u8]) -> Result<KernelImage, KernelError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("vmlinux");
    fs::write(&path, contents).expect("a temporary file");
    KernelImage::open(&path)
}

#[test]
fn an_elf_image_is_entered_by_pvh_or_else_at_its_entry() {
    let kernel = open(&pvh_image(&image())).expect("good");
    assert_eq!(kernel.entry(BootProtocol::Auto).expect("has both"), Entry::Pvh(0x20_0005));
    assert_eq!(kernel.entry(BootProtocol::Linux64).expect("has both"), Entry::Linux64(0x20_0005, None));
    let kernel = open(&pvh_image(&PvhImage { pvh: false, ..image() })).expect("good");
    assert_eq!(kernel.entry(BootProtocol::Auto).expect("64-bit"), Entry::Linux64(0x20_0005, None));
    assert!(matches!(kernel.entry(BootProtocol::Pvh), Err(KernelError::NoPvhEntry { .. })));
}

#[test]
fn linux_is_entered_in_64_bit_mode_although_it_has_a_pvh_entry() {
    let kernel = open(&pvh_image(&PvhImage { linux: true, ..image() })).expect("good");
    assert_eq!(kernel.entry(BootProtocol::Auto).expect("has both"), Entry::Linux64(0x20_0005, None));
    assert_eq!(kernel.entry(BootProtocol::Pvh).expect("has both"), Entry::Pvh(0x20_0005));
    // A useless address: images made only for PVH may have such an entry in the ELF header.
    let mut bytes = pvh_image(&PvhImage { linux: true, ..image() });
    bytes[24..32].copy_from_slice(&0xffff_ffff_8100_0000u64.to_le_bytes());
    let kernel = open(&bytes).expect("good by PVH");
    assert_eq!(kernel.entry(BootProtocol::Auto).expect("PVH"), Entry::Pvh(0x20_0005));
}

#[test]
fn segments_are_read_to_their_place() {
    let kernel = open(&pvh_image(&image())).expect("good");
    assert_eq!(kernel.memory_range(), GuestRange { start: 0x20_0000, len: 0x2000 });
    let ram = ram(4);
    let mut loader = Loader::new(&ram, ImageLoading::Map);
    kernel.load(&mut loader).expect("fits");
    let mut there = vec![0; CODE.len() + 1];
    ram.read_slice(&mut there, GuestAddress(0x20_0000)).expect("in RAM");
    assert_eq!(&there[..CODE.len()], CODE);
    assert_eq!(there[CODE.len()], 0);
}

#[test]
fn a_kernel_larger_than_memory_says_how_much_it_needs() {
    let large = PvhImage { memory_len: 64 << 20, ..image() };
    let kernel = open(&pvh_image(&large)).expect("good");
    kernel.check_fits(66 << 20).expect("fits exactly");
    match kernel.check_fits(65 << 20) {
        Err(error @ KernelError::TooLarge { needs_mib: 66, has_mib: 65, .. }) => {
            assert!(error.to_string().contains("needs 66 MiB"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn images_for_other_places_are_refused() {
    for (load, bad) in [(0x8000, 0x8000), (0xbfff_f000, 0xc000_1000), (0x1_0000_0000, 0x1_0000_2000)] {
        let kernel = open(&pvh_image(&PvhImage { load, pvh: false, ..image() })).expect("good by itself");
        match kernel.check_fits(8 << 30) {
            Err(KernelError::BadAddress { address, .. }) => assert_eq!(address, bad),
            other => panic!("{load:#x}: {other:?}"),
        }
    }
}

#[test]
fn an_entry_outside_of_the_code_is_malformed() {
    for pvh in [true, false] {
        let bytes = pvh_image(&PvhImage { entry: CODE.len() as u64, pvh, ..image() });
        let error = open(&bytes).expect_err("entry behind the code");
        assert!(matches!(error, KernelError::Elf { source: ElfError::Malformed("entry address"), .. }), "{error:?}");
    }
}

#[test]
fn emptiness_garbage_directories_pipes_and_absence_are_distinguished() {
    assert!(matches!(open(b""), Err(KernelError::Empty { .. })));
    assert!(matches!(open(b"#!/bin/sh\n"), Err(KernelError::Unknown { .. })));
    assert!(matches!(open(&[0; 4096]), Err(KernelError::Unknown { .. })));
    assert!(matches!(open(b"\x7fELF"), Err(KernelError::Elf { source: ElfError::Truncated, .. })));
    assert!(matches!(KernelImage::open(Path::new("/")), Err(KernelError::NotAFile { .. })));
    assert!(matches!(KernelImage::open(Path::new("/dev/null")), Err(KernelError::NotAFile { .. })));
    let error = KernelImage::open(Path::new("/nowhere/vmlinux")).expect_err("absent");
    assert!(error.to_string().contains("/nowhere/vmlinux"), "{error}");
}

#[test]
fn a_truncated_image_is_an_error_wherever_it_is_cut() {
    let bytes = pvh_image(&image());
    for len in 0..bytes.len() {
        assert!(open(&bytes[..len]).is_err(), "cut to {len} of {}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn images_with_some_bytes_changed_are_loaded_or_refused_without_a_panic(
        changes in proptest::collection::vec((0usize..400, any::<u8>()), 1..6),
    ) {
        let mut bytes = pvh_image(&image());
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(kernel) = open(&bytes)
            && kernel.check_fits(4 << 20).is_ok() {
                kernel.load(&mut Loader::new(&ram(4), ImageLoading::Copy)).expect("a kernel that fits can be loaded");
            }
    }
}
