//! Parsing of good, bad and random ELF bytes.

use proptest::prelude::*;

use super::*;
use crate::testing::{pvh_image, PvhImage};

fn image() -> Vec<u8> {
    pvh_image(&PvhImage { load: 0x20_0000, code: &[0xf4; 100], memory_len: 0x3000, ..PvhImage::default() })
}

fn parse(bytes: &[u8]) -> Result<(ElfHeader, Vec<Segment>), ElfError> {
    let header = header(bytes)?;
    let start = usize::try_from(header.segments_offset).map_err(|_| ElfError::Truncated)?;
    let end = start.checked_add(usize::from(header.segments) * SEGMENT_SIZE).ok_or(ElfError::Truncated)?;
    let table = bytes.get(start..end).ok_or(ElfError::Truncated)?;
    Ok((header, segments(table, bytes.len() as u64)?))
}

#[test]
fn a_good_image_gives_entry_segments_and_pvh_note() {
    let image = image();
    let (header, segments) = parse(&image).expect("good");
    assert_eq!(header.entry, 0x20_0000);
    let Segment::Load { offset, address, file_len, memory_len, .. } = segments[0] else { panic!("{segments:?}") };
    assert_eq!((address, file_len, memory_len), (0x20_0000, 100, 0x3000));
    assert_eq!(image[offset as usize], 0xf4);
    let Segment::Notes { offset, len } = segments[1] else { panic!("{segments:?}") };
    let found = notes(&image[offset as usize..(offset + len) as usize]);
    assert_eq!(found, Ok(Notes { pvh_entry: Some(0x20_0000), linux: false }));
}

#[test]
fn other_processors_and_kinds_are_named() {
    let with = |at: usize, value: u8| {
        let mut image = image();
        image[at] = value;
        header(&image)
    };
    assert_eq!(with(18, 183), Err(ElfError::WrongMachine(183)));
    assert_eq!(with(16, 3), Err(ElfError::NotExecutable(3)));
    assert_eq!(with(4, 1), Err(ElfError::NotElf64));
    assert_eq!(with(54, 55), Err(ElfError::Malformed("program headers")));
    assert_eq!(with(56, 0), Err(ElfError::Malformed("program headers")));
}

#[test]
fn an_image_cut_anywhere_is_an_error() {
    let image = image();
    for len in 0..image.len() {
        assert!(parse(&image[..len]).is_err(), "cut to {len} of {}", image.len());
    }
}

#[test]
fn a_segment_larger_in_the_file_than_in_memory_is_malformed() {
    let mut image = image();
    image[HEADER_SIZE + 40..HEADER_SIZE + 48].copy_from_slice(&99u64.to_le_bytes());
    assert_eq!(parse(&image), Err(ElfError::Malformed("segments")));
}

#[test]
fn notes_of_others_are_skipped() {
    let note = |name: &[u8], kind: u32, value: &[u8]| {
        let mut note = Vec::new();
        note.extend((name.len() as u32).to_le_bytes());
        note.extend((value.len() as u32).to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(name);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(value);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    };
    let other = note(b"GNU\0", 18, b"abcde");
    let pvh = note(b"Xen\0", 18, &0x100_0000u64.to_le_bytes());
    let linux = note(b"Linux\0", 0x100, &[0; 4]);
    let both = Notes { pvh_entry: Some(0x100_0000), linux: true };
    assert_eq!(notes(&[other.clone(), pvh.clone()].concat()), Ok(Notes { linux: false, ..both }));
    assert_eq!(notes(&[linux.clone(), pvh.clone()].concat()), Ok(both));
    assert_eq!(notes(&[pvh, linux].concat()), Ok(both));
    assert_eq!(notes(&other), Ok(Notes::default()));
    assert_eq!(notes(&note(b"Xen\0", 18, b"abc")), Err(ElfError::Malformed("notes")));
    assert_eq!(notes(&note(b"Xen\0", 18, &u64::MAX.to_le_bytes())), Err(ElfError::Malformed("notes")));
}

fn section(name: u32, kind: u32, flags: u64, virt: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(name.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    for field in [flags, virt, 0x40, len, 0, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

#[test]
fn sections_without_contents_the_work_area_and_what_is_hardly_read_are_special() {
    let names = b"\0.bss\0.init.scratch\0.init.scratch2\0.orc_unwind\0.orc_unwind_ip\0.BTF\0";
    let table = [
        section(1, SHT_NOBITS, SHF_ALLOC, 0x1000, 0x500),
        section(6, 1, SHF_ALLOC, 0x2000, 0x600),
        section(20, 1, SHF_ALLOC, 0x3000, 0x700),
        section(1, SHT_NOBITS, 0, 0x4000, 0x800),
        section(199, SHT_NOBITS, SHF_ALLOC, 0x5000, 0x900),
        section(1, SHT_NOBITS, SHF_ALLOC, u64::MAX, 0x900),
        section(35, 1, SHF_ALLOC, 0x6000, 0xa00),
        section(47, 1, SHF_ALLOC, 0x7000, 0xb00),
        section(62, 1, SHF_ALLOC, 0x8000, 0xc00),
        section(35, 1, 0, 0x9000, 0xd00),
    ]
    .concat();
    let expected = [
        Section { virt: 0x1000, len: 0x500, kind: SectionKind::Empty },
        Section { virt: 0x2000, len: 0x600, kind: SectionKind::Dispensable },
        Section { virt: 0x6000, len: 0xa00, kind: SectionKind::Cold },
    ];
    assert_eq!(special_sections(&table, names), expected);
    assert_eq!(section_place(&table, 1), Some((0x40, 0x600)));
    assert_eq!(section_place(&table, 10), None);
}

proptest! {
    #[test]
    fn random_section_headers_never_panic(
        table in proptest::collection::vec(any::<u8>(), 0..640), names in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        for section in special_sections(&table, &names) {
            prop_assert!(section.virt.checked_add(section.len).is_some());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse(&bytes);
        let _ = notes(&bytes);
    }

    #[test]
    fn a_good_image_with_some_bytes_changed_never_panics_and_never_reaches_past_the_file(
        changes in proptest::collection::vec((0usize..300, any::<u8>()), 1..8),
    ) {
        let mut image = image();
        for (at, value) in changes {
            let at = at % image.len();
            image[at] = value;
        }
        if let Ok((_, segments)) = parse(&image) {
            for segment in segments {
                let (Segment::Load { offset, file_len: len, .. } | Segment::Notes { offset, len }) = segment;
                prop_assert!(offset + len <= image.len() as u64);
            }
        }
    }
}
