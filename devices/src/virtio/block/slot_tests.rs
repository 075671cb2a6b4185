//! Disks whose image is inserted and ejected.

use std::fs;
use std::path::PathBuf;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::*;
use crate::testing::Driver;
use crate::virtio::interrupt::ISR_CONFIG;
use crate::virtio::mmio::registers as reg;

const OK: u8 = 0;
const IOERR: u8 = 1;
const FEATURES: u64 = RING_FEATURES | 1 << VIRTIO_BLK_F_FLUSH;

struct Bench {
    driver: Driver,
    slot: BlockSlot,
    dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let (block, slot) = Block::slot("slot0");
    Bench { driver: Driver::started(Box::new(block), FEATURES), slot, dir: tempfile::tempdir().unwrap() }
}

impl Bench {
    fn image(&self, name: &str, sectors: usize, byte: u8) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, vec![byte; sectors * 512]).unwrap();
        path
    }

    fn request(&mut self, kind: u32, sector: u64, out: &[u8], into: u32) -> (u8, Vec<u8>) {
        let (status, _, data) = tests::request(&mut self.driver, kind, sector, out, into);
        (status, data)
    }

    fn sectors(&self) -> u64 {
        u64::from_le_bytes(self.driver.config(0, 8).try_into().unwrap())
    }

    fn serial(&mut self) -> String {
        let (status, id) = self.request(VIRTIO_BLK_T_GET_ID, 0, &[], 20);
        assert_eq!(status, OK);
        String::from_utf8(id).unwrap().trim_end_matches('\0').to_owned()
    }

    /// Whether the driver was interrupted because of a new configuration since the last call.
    fn notified(&self) -> bool {
        let notified = self.driver.read(reg::INTERRUPT_STATUS) & ISR_CONFIG != 0;
        self.driver.write(reg::INTERRUPT_ACK, ISR_CONFIG);
        notified
    }
}

#[test]
fn an_empty_slot_has_no_sectors_and_no_name() {
    let mut bench = bench();
    assert_eq!((bench.sectors(), bench.serial().as_str()), (0, ""));
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[], 512).0, IOERR);
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, &[], 0).0, OK);
    bench.slot.eject();
    assert!(!bench.notified() && !bench.driver.needs_reset());
}

#[test]
fn the_image_comes_and_goes_and_the_driver_is_notified() {
    let mut bench = bench();
    let (first, second) = (bench.image("first", 8, 1), bench.image("second", 4, 2));
    for (path, sectors, byte, name) in [(&first, 8, 1, "a"), (&second, 4, 2, "b"), (&first, 8, 1, "c")] {
        let generation = bench.driver.read(reg::CONFIG_GENERATION);
        bench.slot.insert(path, false, name).unwrap();
        assert!(bench.notified());
        assert_ne!(bench.driver.read(reg::CONFIG_GENERATION), generation);
        assert_eq!((bench.sectors(), bench.serial().as_str()), (sectors, name));
        assert_eq!(bench.request(VIRTIO_BLK_T_IN, sectors - 1, &[], 512), (OK, vec![byte; 512]));
        assert_eq!(bench.request(VIRTIO_BLK_T_IN, sectors, &[], 512).0, IOERR);
        bench.slot.eject();
        assert!(bench.notified());
        assert_eq!((bench.sectors(), bench.serial().as_str()), (0, ""));
        assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[], 512).0, IOERR);
    }
}

#[test]
fn an_image_is_locked_while_it_is_in_and_a_failed_insert_changes_nothing() {
    let mut bench = bench();
    let (first, second) = (bench.image("first", 8, 1), bench.image("second", 4, 2));
    let other = Block::slot("other").1;
    bench.slot.insert(&first, false, "a").unwrap();
    assert!(matches!(other.insert(&first, true, "x"), Err(BlockError::InUse { .. })));
    other.insert(&second, false, "b").unwrap();
    bench.notified();
    assert!(matches!(bench.slot.insert(&second, false, "y"), Err(BlockError::InUse { .. })));
    assert!(matches!(bench.slot.insert(&second, false, &"y".repeat(21)), Err(BlockError::Serial { .. })));
    assert!(!bench.notified());
    assert_eq!((bench.sectors(), bench.serial().as_str()), (8, "a"));
    bench.slot.eject();
    other.insert(&first, true, "x").unwrap();
    bench.slot.insert(&first, true, "shared by readers").unwrap();
}

/// The negotiated features hold until the driver resets the device, but the host refuses writes at once.
#[test]
fn a_read_only_image_is_offered_as_such_after_a_reset() {
    let mut bench = bench();
    let image = bench.image("image", 8, 7);
    bench.slot.insert(&image, true, "a").unwrap();
    assert_eq!(bench.driver.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 0, &[1; 512], 0).0, IOERR);
    bench.driver.write(reg::STATUS, 0);
    assert_ne!(bench.driver.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    bench.driver.start(FEATURES | 1 << VIRTIO_BLK_F_RO);
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![7; 512]));
    bench.slot.eject();
    bench.slot.insert(&image, false, "b").unwrap();
    bench.driver.start(FEATURES);
    assert_eq!(bench.driver.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 0, &[1; 512], 0).0, OK);
    assert_eq!(fs::read(&image).unwrap()[..512], [1; 512]);
}

/// Without a driver there is no interrupt.
#[test]
fn a_slot_can_be_filled_while_the_device_is_inactive() {
    let (block, slot) = Block::slot("slot0");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("image"), [9; 1024]).unwrap();
    let mut driver = Driver::new(Box::new(block));
    slot.insert(&dir.path().join("image"), false, "early").unwrap();
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
    driver.start(FEATURES);
    assert_eq!(driver.config(0, 8), 2u64.to_le_bytes());
    driver.write(reg::STATUS, 0);
    slot.eject();
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
}

#[test]
fn images_change_under_a_busy_driver() {
    let mut bench = bench();
    let images = [bench.image("a", 8, 1), bench.image("b", 8, 2)];
    let slot = bench.slot.clone();
    let changer = std::thread::spawn(move || {
        for round in 0..200 {
            slot.insert(&images[round % 2], false, "x").unwrap();
            std::thread::yield_now();
            slot.eject();
        }
    });
    let mut seen = 0;
    while !changer.is_finished() {
        let (status, data) = bench.request(VIRTIO_BLK_T_IN, 0, &[], 1024);
        match status {
            OK => assert!(data == [1; 1024] || data == [2; 1024], "of one image only"),
            status => assert_eq!(status, IOERR),
        }
        seen += 1;
    }
    changer.join().unwrap();
    assert!(seen > 0 && !bench.driver.needs_reset());
}

#[test]
fn a_paused_driver_hears_of_a_new_image_when_it_resumes() {
    let mut bench = bench();
    let image = bench.image("image", 8, 7);
    bench.driver.transport.device_pause().unwrap();
    let interrupts = bench.driver.line.count();
    bench.slot.insert(&image, false, "a").unwrap();
    assert_eq!((bench.driver.line.count(), bench.notified()), (interrupts, false));
    bench.driver.transport.device_resume();
    assert_eq!(bench.driver.line.count(), interrupts + 1);
    assert!(bench.notified());
    assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![7; 512]));
}
