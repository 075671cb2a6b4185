//! Initrds good and bad.

use std::fs;

use proptest::prelude::*;

use super::*;

fn member(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut bytes = b"070701".to_vec();
    let fields = [0, 0o100644, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(contents);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive() -> Vec<u8> {
    [member("init", &[7; 5000]), member("etc/x", b"abc"), member("TRAILER!!!", b"")].concat()
}

fn open(contents: &[u8]) -> Result<Initrd, InitrdError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("initrd");
    fs::write(&path, contents).expect("a temporary file");
    Initrd::open(&path)
}

#[test]
fn an_archive_is_taken_whole_padded_or_followed_by_a_compressed_one() {
    open(&archive()).expect("plain");
    open(&[archive(), vec![0; 512]].concat()).expect("padded");
    let mut followed = archive();
    followed.extend([0x1f, 0x8b]);
    followed.extend([9; 4000]);
    open(&followed).expect("two archives");
    open(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 4]).expect("compressed");
}

#[test]
fn a_cut_archive_is_truncated_wherever_it_is_cut() {
    let archive = archive();
    for len in (6..archive.len() - 10).step_by(97).chain([5200, archive.len() - 15]) {
        let error = open(&archive[..len]).expect_err("cut");
        assert!(matches!(error, InitrdError::Truncated { .. }), "cut to {len}: {error}");
    }
}

#[test]
fn garbage_emptiness_and_directories_are_distinguished() {
    assert!(matches!(open(b"hello world"), Err(InitrdError::Unknown { .. })));
    assert!(matches!(open(b"0"), Err(InitrdError::Unknown { .. })));
    assert!(matches!(open(b""), Err(InitrdError::Empty { .. })));
    assert!(matches!(Initrd::open(Path::new("/")), Err(InitrdError::NotAFile { .. })));
    assert!(matches!(Initrd::open(Path::new("/nowhere/x")), Err(InitrdError::Open { .. })));
    let error = open(b"hello world").expect_err("garbage").to_string();
    assert!(error.contains("build it again"), "{error}");
}

#[test]
fn an_initrd_goes_to_the_top_or_below_the_kernel_if_memory_is_small() {
    let kernel = GuestRange { start: 16 << 20, len: 40 << 20 };
    assert_eq!(find_place(1 << 20, kernel, 64 << 20), Some(GuestRange { start: 63 << 20, len: 1 << 20 }));
    assert_eq!(find_place(10 << 20, kernel, 64 << 20), Some(GuestRange { start: 6 << 20, len: 10 << 20 }));
    assert_eq!(find_place(16 << 20, kernel, 64 << 20), None);
}

proptest! {
    #[test]
    fn a_place_is_page_aligned_beside_the_kernel_and_below_the_end(
        len in 1u64..1 << 33, start in 0x10_0000u64..1 << 26, size in 0x1000u64..1 << 28, end in 0u64..1 << 32,
    ) {
        let kernel = GuestRange { start, len: size };
        match find_place(len, kernel, end) {
            Some(range) => {
                prop_assert_eq!(range.start % PAGE, 0);
                prop_assert!(range.end() <= end && range.start >= layout::HIGH_RAM);
                prop_assert!(range.start >= kernel.end() || range.end() <= kernel.start);
            }
            None => {
                prop_assert!(len + kernel.end() + PAGE > end);
                prop_assert!(len + layout::HIGH_RAM + PAGE > kernel.start.min(end));
            }
        }
    }

    #[test]
    fn random_archives_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = open(&[b"070701".to_vec(), tail].concat());
    }
}
