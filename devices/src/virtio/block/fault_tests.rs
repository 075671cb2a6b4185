//! Errors of the host below a disk: each fails its request, and nothing else.

use std::fs::File;

use proptest::prelude::*;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::tests::request;
use super::*;
use crate::testing::Driver;
use crate::virtio::faults::{self, Fault, Operation};

const OK: u8 = 0;
const IOERR: u8 = 1;
const SECTORS: u64 = 64;

struct Disk {
    driver: Driver,
    file: File,
    _dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(SECTORS * 512).unwrap();
        let config = BlockDeviceConfig { id: "blk0".into(), path, read_only: false, serial: None };
        let features = RING_FEATURES | 1 << VIRTIO_BLK_F_FLUSH;
        Self { driver: Driver::started(Box::new(Block::new(config).unwrap()), features), file, _dir: dir }
    }

    fn fail(&self, operation: Operation, faults: &[Fault]) {
        faults::inject(&self.file, operation, faults.iter().copied());
    }

    /// Reads sectors: the status and the data.
    fn read(&mut self, sector: u64, sectors: u32) -> (u8, Vec<u8>) {
        let (status, _, data) = request(&mut self.driver, VIRTIO_BLK_T_IN, sector, &[], sectors * 512);
        (status, data)
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        request(&mut self.driver, VIRTIO_BLK_T_OUT, sector, data, 0).0
    }

    fn other(&mut self, kind: u32) -> u8 {
        let range = [&8_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &0_u32.to_le_bytes()].concat();
        request(&mut self.driver, kind, 0, if kind == VIRTIO_BLK_T_FLUSH { &[] } else { &range }, 0).0
    }
}

#[test]
fn an_error_of_the_host_fails_its_request_only() {
    let mut disk = Disk::new();
    assert_eq!(disk.write(0, &[7; 1024]), OK);
    for errno in [libc::EIO, libc::ENOMEM, libc::EFAULT, libc::EINVAL, libc::EAGAIN, libc::ESTALE] {
        disk.fail(Operation::Transfer, &[Fault::Error(errno)]);
        assert_eq!(disk.read(0, 2).0, IOERR, "{errno}");
        assert_eq!(disk.read(0, 2), (OK, vec![7; 1024]));
    }
    for errno in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EFBIG, libc::EPERM, libc::ENOMEM] {
        disk.fail(Operation::Transfer, &[Fault::Short(512), Fault::Error(errno)]);
        assert_eq!(disk.write(0, &[8; 1024]), IOERR, "{errno}");
        assert_eq!(disk.write(0, &[7; 1024]), OK);
    }
    for (kind, operation) in [
        (VIRTIO_BLK_T_FLUSH, Operation::Sync),
        (VIRTIO_BLK_T_DISCARD, Operation::Allocate),
        (VIRTIO_BLK_T_WRITE_ZEROES, Operation::Allocate),
    ] {
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EPERM] {
            disk.fail(operation, &[Fault::Error(errno)]);
            assert_eq!(disk.other(kind), IOERR, "{kind} {errno}");
            assert_eq!(disk.other(kind), OK);
        }
    }
    assert_eq!(disk.read(0, 2), (OK, vec![7; 1024]));
    assert_eq!(faults::forget(&disk.file), 0, "every fault occurred");
}

#[test]
fn short_and_interrupted_transfers_are_continued() {
    let mut disk = Disk::new();
    let data: Vec<u8> = (0..4096_u32).map(|at| (at % 251) as u8).collect();
    let steps =
        [Fault::Short(1), Fault::Error(libc::EINTR), Fault::Short(511), Fault::Error(libc::EINTR), Fault::Short(600)];
    disk.fail(Operation::Transfer, &steps);
    assert_eq!(disk.write(3, &data), OK);
    disk.fail(Operation::Transfer, &steps);
    assert_eq!(disk.read(3, 8), (OK, data));
    disk.fail(Operation::Allocate, &[Fault::Error(libc::EINTR); 3]);
    assert_eq!(disk.other(VIRTIO_BLK_T_DISCARD), OK);
    assert_eq!(faults::forget(&disk.file), 0, "every fault occurred");
}

#[test]
fn a_file_system_without_holes_gets_zeroes_or_fails() {
    let mut disk = Disk::new();
    for errno in [libc::EOPNOTSUPP, libc::ENOSYS] {
        assert_eq!(disk.write(8, &[9; 4096]), OK);
        disk.fail(Operation::Allocate, &[Fault::Error(errno)]);
        assert_eq!(disk.other(VIRTIO_BLK_T_WRITE_ZEROES), OK);
        assert_eq!(disk.read(8, 8), (OK, vec![0; 4096]));
        disk.fail(Operation::Allocate, &[Fault::Error(errno)]);
        assert_eq!(disk.other(VIRTIO_BLK_T_DISCARD), OK, "a hint");
        disk.fail(Operation::Allocate, &[Fault::Error(errno)]);
        disk.fail(Operation::Zeroes, &[Fault::Error(libc::ENOSPC)]);
        assert_eq!(disk.other(VIRTIO_BLK_T_WRITE_ZEROES), IOERR);
    }
    assert_eq!(faults::forget(&disk.file), 0, "every fault occurred");
}

fn fault() -> impl Strategy<Value = Fault> {
    let errors = [libc::EIO, libc::ENOSPC, libc::ENOMEM, libc::EINTR, libc::EINTR, libc::EAGAIN, libc::EINVAL];
    prop_oneof![prop::sample::select(errors.to_vec()).prop_map(Fault::Error), (1..2000_usize).prop_map(Fault::Short)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A read that succeeds returns what was written last; after a write that failed, its sectors may hold either.
    #[test]
    fn a_disk_tells_the_truth_whatever_the_host_does(
        steps in prop::collection::vec((0..60_u64, 1..4_u32, any::<u8>(), any::<bool>(), prop::collection::vec(fault(), 0..4)), 1..30)
    ) {
        let mut disk = Disk::new();
        let mut known = vec![Some(0_u8); SECTORS as usize];
        for (sector, sectors, byte, write, planned) in steps {
            disk.fail(Operation::Transfer, &planned);
            let span = sector as usize..sector as usize + sectors as usize;
            if write {
                let status = disk.write(sector, &vec![byte; sectors as usize * 512]);
                prop_assert!(status == OK || status == IOERR);
                known[span].fill((status == OK).then_some(byte));
            } else {
                let (status, data) = disk.read(sector, sectors);
                prop_assert!(status == OK || status == IOERR);
                for (expected, data) in known[span].iter().zip(data.chunks(512)) {
                    if let (OK, Some(expected)) = (status, expected) {
                        prop_assert!(data.iter().all(|byte| byte == expected));
                    }
                }
            }
            faults::forget(&disk.file);
        }
        prop_assert_eq!(disk.write(0, &[1; 512]), OK);
        prop_assert!(!disk.driver.needs_reset());
    }
}
