use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::*;
use crate::testing::queue::{INDIRECT, NEXT, WRITE};
use crate::testing::Buffer::{Readable, Writable};
use crate::testing::{Descriptor, Driver, TestRam};
use crate::virtio::block::config::disk_id;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const SECTORS: usize = 64;

struct Disk {
    driver: Driver,
    image: PathBuf,
    _dir: TempDir,
}

fn content() -> Vec<u8> {
    (0..SECTORS * 512).map(|at| (at / 512 * 7 + at % 512) as u8).collect()
}

fn config(image: &Path, read_only: bool) -> BlockDeviceConfig {
    BlockDeviceConfig { id: "blk0".into(), path: image.to_owned(), read_only, serial: Some("a-serial-number".into()) }
}

fn disk(read_only: bool) -> Disk {
    disk_with(read_only, RING_FEATURES | 1 << VIRTIO_BLK_F_FLUSH)
}

fn disk_with(read_only: bool, features: u64) -> Disk {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    fs::write(&image, content()).unwrap();
    let block = Block::new(config(&image, read_only)).unwrap();
    Disk { driver: Driver::started(Box::new(block), features), image, _dir: dir }
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Returns the status, the length in the used ring, and the data read.
pub(super) fn request(driver: &mut Driver, kind: u32, sector: u64, out: &[u8], into: u32) -> (u8, u32, Vec<u8>) {
    let header = header(kind, sector);
    let mut buffers = vec![Readable(&header)];
    if !out.is_empty() {
        buffers.push(Readable(out));
    }
    if into > 0 {
        buffers.push(Writable(into));
    }
    buffers.push(Writable(1));
    let (used, mut data) = driver.queue().transact(&buffers);
    (data.pop().unwrap(), used.len, data)
}

impl Disk {
    fn request(&mut self, kind: u32, sector: u64, out: &[u8], into: u32) -> (u8, u32, Vec<u8>) {
        request(&mut self.driver, kind, sector, out, into)
    }

    fn read(&mut self, sector: u64, len: u32) -> (u8, u32, Vec<u8>) {
        self.request(VIRTIO_BLK_T_IN, sector, &[], len)
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.request(VIRTIO_BLK_T_OUT, sector, data, 0).0
    }
}

#[test]
fn the_config_space_holds_capacity_and_limits() {
    let disk = disk(false);
    let config = disk.driver.config(0, 64);
    let field = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!((config[..8].to_vec(), field(12), field(20)), ((SECTORS as u64).to_le_bytes().to_vec(), 254, 512));
    assert_eq!(field(8), 256 << 10);
    assert_eq!((field(36), field(40), field(48), field(52)), (4 << 20, 16, 64 << 10, 1));
    assert_eq!(config[60..], [0; 4]);
    let offered = disk.driver.offered();
    assert_eq!(offered & 1 << VIRTIO_BLK_F_RO, 0);
    assert_ne!(offered & 1 << VIRTIO_BLK_F_DISCARD, 0);
}

#[test]
fn a_disk_is_read_and_written() {
    let mut disk = disk(false);
    let before = content();
    assert_eq!(disk.read(3, 1024), (OK, 1025, before[3 * 512..5 * 512].to_vec()));
    assert_eq!(disk.read(63, 512).2, before[63 * 512..]);
    assert_eq!(disk.write(10, &[9; 1024]), OK);
    assert_eq!(disk.read(10, 1024).2, [9; 1024]);
    assert_eq!(disk.request(VIRTIO_BLK_T_FLUSH, 0, &[], 0), (OK, 1, vec![]));
    let after = fs::read(&disk.image).unwrap();
    assert_eq!(
        (&after[..5120], &after[5120..6144], &after[6144..]),
        (&before[..5120], &[9; 1024][..], &before[6144..])
    );
}

#[test]
fn data_may_lie_in_many_buffers_and_in_an_indirect_table() {
    let mut disk = disk(false);
    let (head, data) = (header(VIRTIO_BLK_T_IN, 0), content());
    // The header in two buffers, the status in a buffer with data before it.
    let buffers = [Readable(&head[..5]), Readable(&head[5..]), Writable(100), Writable(412), Writable(513)];
    let (used, response) = disk.driver.queue().transact(&buffers);
    assert_eq!((used.len, &response[..1024], response[1024]), (1025, &data[..1024], OK));
    let request = disk.driver.queue().add_indirect(&buffers);
    disk.driver.queue().kick();
    disk.driver.queue().wait_used();
    assert_eq!(request.response(&disk.driver.ram)[..1024], data[..1024]);
}

#[test]
fn transfers_go_across_regions_of_guest_memory() {
    let mut disk = disk(false);
    let at = TestRam::BORDER.0 - 300;
    let head = disk.driver.ram.put(&header(VIRTIO_BLK_T_IN, 1)).0;
    let status = disk.driver.ram.alloc(1).0;
    let chain = [(head, 16, 0), (at, 1024, WRITE), (status, 1, WRITE)].map(|(addr, len, flags)| Descriptor {
        addr,
        len,
        flags,
        next: 0,
    });
    let head = disk.driver.queue().write_chain(&chain);
    disk.driver.queue().publish(head);
    disk.driver.queue().kick();
    assert_eq!(disk.driver.queue().wait_used().len, 1025);
    assert_eq!(disk.driver.ram.read(vm_memory::GuestAddress(at), 1024), content()[512..1536]);
}

#[test]
fn requests_past_the_end_or_of_odd_length_fail_and_change_nothing() {
    let mut disk = disk(false);
    for (sector, len) in [(64, 512), (63, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511)] {
        assert_eq!(disk.read(sector, len), (IOERR, 0, vec![0xee; len as usize]));
        assert_eq!(disk.write(sector, &vec![1; len as usize]), IOERR);
    }
    assert_eq!(disk.read(0, 0).0, IOERR);
    assert_eq!(disk.write(0, &[]), IOERR);
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 0, &[1; 512], 512).0, IOERR, "both directions");
    assert_eq!(disk.request(77, 0, &[1; 512], 0).0, UNSUPP);
    assert_eq!(fs::read(&disk.image).unwrap(), content());
    assert!(!disk.driver.needs_reset());
}

#[test]
fn a_read_only_disk_is_never_changed() {
    let mut disk = disk(true);
    assert_ne!(disk.driver.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(disk.driver.offered() & 1 << VIRTIO_BLK_F_DISCARD, 0);
    assert_eq!(disk.read(0, 512).0, OK);
    assert_eq!(disk.write(0, &[1; 512]), IOERR);
    assert_eq!(disk.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 0), 0).0, IOERR);
    assert_eq!(disk.request(VIRTIO_BLK_T_FLUSH, 0, &[], 0).0, OK);
    assert_eq!(fs::read(&disk.image).unwrap(), content());
}

#[test]
fn the_disks_serial_number_is_reported() {
    let mut disk = disk(false);
    let (status, len, mut id) = disk.request(VIRTIO_BLK_T_GET_ID, 0, &[], 20);
    assert_eq!((status, len), (OK, 21));
    id.retain(|byte| *byte != 0);
    assert_eq!(id, b"a-serial-number");
    assert_eq!(disk.request(VIRTIO_BLK_T_GET_ID, 0, &[], 19).0, IOERR);
    let named = |serial: Option<&str>| {
        disk_id(&BlockDeviceConfig { serial: serial.map(str::to_owned), ..config(Path::new("x"), true) })
    };
    assert_eq!(named(None).unwrap()[..5], *b"blk0\0");
    assert!(named(Some("12345678901234567890")).is_ok());
    assert!(matches!(named(Some("123456789012345678901")), Err(BlockError::Serial { len: 21, .. })));
}

#[test]
fn discards_and_zeroes_touch_their_sectors_only() {
    let mut disk = disk(false);
    assert_eq!(disk.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(8, 8, 0), 0).0, OK);
    assert_eq!(disk.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(16, 8, 1), 0).0, OK);
    let two = [range(32, 8, 0), range(48, 8, 0)].concat();
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &two, 0).0, OK);
    let bad = [range(0, 8, 0), range(60, 8, 0)].concat();
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &bad, 0).0, IOERR);
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 1), 0).0, UNSUPP);
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 0)[..15], 0).0, IOERR);
    let (before, after) = (content(), fs::read(&disk.image).unwrap());
    let sectors = |from: usize, to: usize| from * 512..to * 512;
    assert!(after[sectors(8, 24)].iter().all(|byte| *byte == 0));
    for kept in [sectors(0, 8), sectors(24, 32), sectors(40, 48), sectors(56, 64)] {
        assert_eq!(after[kept.clone()], before[kept]);
    }
}

#[test]
fn without_flushes_the_disk_writes_through() {
    let mut disk = disk_with(false, 0);
    assert_eq!(disk.write(0, &[1; 512]), OK);
    assert_eq!(disk.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(1, 1, 0), 0).0, OK);
    assert_eq!(disk.read(0, 512).2, [1; 512]);
}

#[test]
fn an_image_that_shrinks_under_the_guest_fails_its_requests() {
    let mut disk = disk(false);
    fs::File::options().write(true).open(&disk.image).unwrap().set_len(512).unwrap();
    let (status, len, data) = disk.read(0, 1024);
    assert_eq!((status, len, &data[..512]), (IOERR, 512, &content()[..512]));
}

#[test]
fn malformed_requests_stop_the_disk_until_it_is_reset() {
    let mut disk = disk(false);
    let head = disk.driver.ram.put(&header(VIRTIO_BLK_T_IN, 0)).0;
    let chain = |parts: &[(u64, u32, u16, u16)]| {
        let describe = |&(addr, len, flags, next)| Descriptor { addr, len, flags, next };
        parts.iter().map(describe).collect::<Vec<_>>()
    };
    let malformed = [
        // No room for a status.
        chain(&[(head, 16, 0, 0)]),
        // Readable after writable.
        chain(&[(0x1000, 513, WRITE, 0), (head, 16, 0, 0)]),
        // Outside guest memory.
        chain(&[(head, 16, 0, 0), (TestRam::HOLE.0 - 512, 513, WRITE, 0)]),
        // A loop: the last one leads back.
        chain(&[(head, 16, 0, 0), (0x1000, 512, WRITE | NEXT, 0)]),
        // A bad table.
        chain(&[(0x1000, 17, INDIRECT, 0)]),
    ];
    for descriptors in malformed {
        let first = disk.driver.queue().write_chain(&descriptors);
        disk.driver.queue().publish(first);
        disk.driver.queue().kick();
        disk.driver.wait_needs_reset();
        disk.driver.start(1 << VIRTIO_BLK_F_FLUSH);
        assert_eq!(disk.read(0, 512).0, OK);
    }
}

#[test]
fn a_short_header_fails_the_request() {
    let mut disk = disk(false);
    let (used, data) = disk.driver.queue().transact(&[Readable(&[0; 15]), Writable(513)]);
    assert_eq!((used.len, data[512]), (0, IOERR));
    assert!(!disk.driver.needs_reset());
}

#[test]
fn a_reset_and_a_pause_lose_nothing() {
    let mut disk = disk(false);
    for round in 0..10 {
        disk.driver.transport.device_pause().unwrap();
        let head = header(VIRTIO_BLK_T_OUT, round);
        disk.driver.queue().add(&[Readable(&head), Readable(&[round as u8; 512]), Writable(1)]);
        assert_eq!(disk.driver.queue().used(), None);
        disk.driver.transport.device_resume();
        disk.driver.queue().wait_used();
    }
    disk.driver.start(0);
    for round in 0..10 {
        assert_eq!(disk.read(round, 512).2, [round as u8; 512]);
    }
}

#[test]
fn the_driver_is_interrupted_only_where_it_asked() {
    let mut disk = disk(false);
    disk.driver.transport.device_pause().unwrap();
    let interrupts = disk.driver.line.count();
    let head = header(VIRTIO_BLK_T_IN, 0);
    for _ in 0..20 {
        disk.driver.queue().add(&[Readable(&head), Writable(512), Writable(1)]);
    }
    disk.driver.queue().set_used_event(19);
    disk.driver.transport.device_resume();
    disk.driver.line.wait_past(interrupts);
    assert_eq!((disk.driver.queue().used_idx(), disk.driver.line.count() - interrupts), (20, 1));
}

#[test]
fn a_disk_is_unlocked_when_it_is_dropped() {
    let disk = disk(false);
    assert!(matches!(Block::new(config(&disk.image, true)), Err(BlockError::InUse { .. })));
    drop(disk.driver);
    Block::new(config(&disk.image, false)).unwrap();
}
