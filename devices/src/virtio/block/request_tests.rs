use proptest::prelude::*;

use super::*;

const DISK: DiskInfo = DiskInfo { sectors: 100, read_only: false };
const READ_ONLY: DiskInfo = DiskInfo { sectors: 100, read_only: true };

fn header(kind: u32, sector: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; RANGE] {
    let mut bytes = [0; RANGE];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

fn check(kind: u32, sector: u64, readable: u32, writable: u32, disk: DiskInfo) -> Result<BlockRequest, BlockStatus> {
    parse(header(kind, sector), PayloadLen { readable, writable }, disk)
}

const IN: u32 = VIRTIO_BLK_T_IN;
const OUT: u32 = VIRTIO_BLK_T_OUT;
const BAD: Result<BlockRequest, BlockStatus> = Err(BlockStatus::IoError);

#[test]
fn transfers_lie_within_the_disk_and_are_whole_sectors() {
    assert_eq!(check(IN, 0, 0, 512, READ_ONLY), Ok(BlockRequest::Read { offset: 0 }));
    assert_eq!(check(IN, 98, 0, 1024, DISK), Ok(BlockRequest::Read { offset: 98 * 512 }));
    assert_eq!(check(OUT, 99, 512, 0, DISK), Ok(BlockRequest::Write { offset: 99 * 512 }));
    for (sector, len) in [(99, 1024), (100, 512), (0, 0), (0, 511), (0, 513), (u64::MAX, 512), (1 << 55, 512)] {
        assert_eq!(check(IN, sector, 0, len, DISK), BAD, "{sector} {len}");
        assert_eq!(check(OUT, sector, len, 0, DISK), BAD, "{sector} {len}");
    }
    let huge = DiskInfo { sectors: u64::MAX, read_only: false };
    assert_eq!(check(IN, u64::MAX - 1, 0, 512, huge), BAD, "past the largest byte offset");
}

#[test]
fn buffers_in_the_wrong_direction_are_refused() {
    assert_eq!(check(IN, 0, 512, 512, DISK), BAD);
    assert_eq!(check(IN, 0, 512, 0, DISK), BAD);
    assert_eq!(check(OUT, 0, 512, 512, DISK), BAD);
    assert_eq!(check(VIRTIO_BLK_T_FLUSH, 0, 1, 0, DISK), BAD);
    assert_eq!(check(VIRTIO_BLK_T_GET_ID, 0, 1, 20, DISK), BAD);
    assert_eq!(check(VIRTIO_BLK_T_DISCARD, 0, 16, 1, DISK), BAD);
}

#[test]
fn a_read_only_disk_takes_nothing_that_changes_it() {
    assert_eq!(check(OUT, 0, 512, 0, READ_ONLY), BAD);
    assert_eq!(check(VIRTIO_BLK_T_DISCARD, 0, 16, 0, READ_ONLY), BAD);
    assert_eq!(check(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0, READ_ONLY), BAD);
    assert_eq!(check(VIRTIO_BLK_T_FLUSH, 0, 0, 0, READ_ONLY), Ok(BlockRequest::Flush));
    assert_eq!(check(VIRTIO_BLK_T_GET_ID, 0, 0, 20, READ_ONLY), Ok(BlockRequest::Id));
}

#[test]
fn short_names_and_odd_lists_of_ranges_are_refused() {
    assert_eq!(check(VIRTIO_BLK_T_GET_ID, 0, 0, 19, DISK), BAD);
    assert_eq!(check(VIRTIO_BLK_T_DISCARD, 0, 256, 0, DISK), Ok(BlockRequest::Discard));
    assert_eq!(check(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0, DISK), Ok(BlockRequest::WriteZeroes));
    for len in [0, 15, 17, 272, u32::MAX] {
        assert_eq!(check(VIRTIO_BLK_T_DISCARD, 0, len, 0, DISK), BAD);
    }
    assert_eq!(check(VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, 0, DISK), BAD);
}

/// 5.2.4: a driver that keeps to `size_max` and `seg_max` never gets there.
#[test]
fn one_request_is_bounded_however_large_the_disk() {
    let huge = DiskInfo { sectors: u64::MAX / SECTOR, read_only: false };
    for (kind, request) in
        [(VIRTIO_BLK_T_IN, BlockRequest::Read { offset: 0 }), (VIRTIO_BLK_T_OUT, BlockRequest::Write { offset: 0 })]
    {
        let of =
            |len| if kind == VIRTIO_BLK_T_IN { check(kind, 0, 0, len, huge) } else { check(kind, 0, len, 0, huge) };
        assert_eq!(of(MAX_TRANSFER), Ok(request));
        assert_eq!(of(MAX_TRANSFER + SECTOR_LEN), BAD);
        assert_eq!(of(u32::MAX - 511), BAD);
    }
}

#[test]
fn unknown_requests_are_unsupported() {
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, 1 << 31, u32::MAX] {
        assert_eq!(check(kind, 0, 512, 0, DISK), Err(BlockStatus::Unsupported));
    }
}

#[test]
fn ranges_are_checked_one_by_one() {
    // VIRTIO 1.2, 5.2.6.2.
    let good = DiskRange { offset: 90 * 512, len: 10 * 512, unmap: false };
    assert_eq!(parse_range(range(90, 10, 0), false, DISK), Ok(good));
    assert_eq!(parse_range(range(90, 10, 0), true, DISK), Ok(good));
    assert_eq!(parse_range(range(90, 10, 1), true, DISK), Ok(DiskRange { unmap: true, ..good }));
    assert_eq!(parse_range(range(90, 10, 1), false, DISK), Err(BlockStatus::Unsupported));
    assert_eq!(parse_range(range(90, 10, 2), true, DISK), Err(BlockStatus::Unsupported));
    let huge = DiskInfo { sectors: u64::MAX, read_only: false };
    for (sector, sectors, disk) in
        [(91, 10, DISK), (0, 0, DISK), (u64::MAX, 1, huge), (0, MAX_DISCARD_SECTORS + 1, huge)]
    {
        assert_eq!(parse_range(range(sector, sectors, 0), false, disk), Err(BlockStatus::IoError));
    }
    assert_eq!(parse_range(range(0, MAX_ZEROES_SECTORS + 1, 0), true, huge), Err(BlockStatus::IoError));
}

fn disk() -> impl Strategy<Value = DiskInfo> {
    let sectors = prop_oneof![1..1000u64, any::<u64>()];
    (sectors, any::<bool>()).prop_map(|(sectors, read_only)| DiskInfo { sectors, read_only })
}

proptest! {
    /// Every request that is parsed lies within the disk and does not change a read-only one.
    #[test]
    fn parsed_requests_are_possible(
        kind in prop_oneof![0..16u32, any::<u32>()],
        sector in prop_oneof![0..1000u64, any::<u64>()],
        readable in prop_oneof![Just(0), (0..64u32).prop_map(|n| n * 16), (0..64u32).prop_map(|n| n * 512), any::<u32>()],
        writable in prop_oneof![Just(0), 0..64u32, (0..64u32).prop_map(|n| n * 512), any::<u32>()],
        disk in disk(),
    ) {
        let size = u128::from(disk.sectors) * 512;
        match check(kind, sector, readable, writable, disk) {
            Ok(BlockRequest::Read { offset }) => {
                prop_assert!(writable > 0 && u128::from(offset) + u128::from(writable) <= size);
            }
            Ok(BlockRequest::Write { offset }) => {
                prop_assert!(readable > 0 && u128::from(offset) + u128::from(readable) <= size && !disk.read_only);
            }
            Ok(BlockRequest::Discard | BlockRequest::WriteZeroes) => {
                prop_assert!(readable > 0 && readable % 16 == 0 && !disk.read_only);
            }
            Ok(BlockRequest::Flush) => prop_assert_eq!((readable, writable), (0, 0)),
            Ok(BlockRequest::Id) => prop_assert!(writable >= 20),
            Err(status) => prop_assert_ne!(status, BlockStatus::Ok),
        }
    }

    /// Every range that is parsed lies within the disk.
    #[test]
    fn parsed_ranges_are_possible(
        sector in prop_oneof![0..1000u64, any::<u64>()],
        sectors in prop_oneof![0..1000u32, any::<u32>()],
        flags in 0..4u32,
        zeroes: bool,
        disk in disk(),
    ) {
        if let Ok(range) = parse_range(range(sector, sectors, flags), zeroes, disk) {
            prop_assert!(u128::from(range.offset) + u128::from(range.len) <= u128::from(disk.sectors) * 512);
            prop_assert_eq!((range.offset, range.len), (sector * 512, u64::from(sectors) * 512));
            prop_assert!(range.len > 0 && (zeroes || flags == 0));
        }
    }
}
