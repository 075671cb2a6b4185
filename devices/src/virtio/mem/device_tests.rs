use std::io;
use std::time::Duration;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::*;
use crate::testing::{Buffer, Driver, TEST_TIMEOUT};
use crate::virtio::mem::blocks::BLOCK_SIZE;
use crate::virtio::mem::request::{BlockState, MemResponse, RESPONSE_LEN};
use crate::virtio::mmio::registers::status;

const FEATURES: u64 = RING_FEATURES | UNPLUGGED_INACCESSIBLE;
const ADDR: u64 = 4 << 30;
const SIZE: u64 = 8 * BLOCK_SIZE;

struct NoMemory;

impl RegionMemory for NoMemory {
    fn plug(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn unplug(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn device() -> (Mem, MemHandle) {
    Mem::new("mem0", Arc::new(PlugMap::new(ADDR, SIZE, BLOCK_SIZE)), Arc::new(NoMemory))
}

fn started() -> (Driver, MemHandle) {
    let (device, handle) = device();
    (Driver::started(Box::new(device), FEATURES), handle)
}

fn ask(driver: &mut Driver, kind: u16, block: u64, blocks: u16) -> [u8; RESPONSE_LEN] {
    let mut request = [0; 24];
    request[..2].copy_from_slice(&kind.to_le_bytes());
    request[8..16].copy_from_slice(&(ADDR + block * BLOCK_SIZE).to_le_bytes());
    request[16..18].copy_from_slice(&blocks.to_le_bytes());
    let (used, bytes) = driver.queue().transact(&[Buffer::Readable(&request), Buffer::Writable(10)]);
    assert_eq!(used.len, 10);
    bytes.try_into().unwrap()
}

fn field(driver: &Driver, index: u64) -> u64 {
    u64::from_le_bytes(driver.config(index * 8, 8).try_into().unwrap())
}

#[test]
fn the_configuration_is_the_specifications() {
    let (driver, handle) = started();
    let fields: Vec<u64> = (0..8).map(|index| field(&driver, index)).collect();
    assert_eq!(fields, [BLOCK_SIZE, 0, ADDR, SIZE, SIZE, 0, 0, 0]);
    assert_eq!(handle.capacity(), SIZE);
}

#[test]
fn a_request_of_the_host_interrupts_the_driver_which_plugs_and_the_host_sees_it() {
    let (mut driver, handle) = started();
    let (seen, generation) = (driver.line.count(), driver.read(0xfc));
    assert_eq!(handle.request(3 * BLOCK_SIZE), 3 * BLOCK_SIZE);
    driver.line.wait_past(seen);
    assert_ne!(driver.read(0xfc), generation, "configuration generation");
    assert_eq!((field(&driver, 5), field(&driver, 6)), (0, 3 * BLOCK_SIZE));
    assert!(!handle.wait(Duration::from_millis(1)));

    assert_eq!(ask(&mut driver, 0, 0, 4), MemResponse::Nack.bytes());
    assert_eq!(ask(&mut driver, 0, 1, 3), MemResponse::Ack.bytes());
    assert!(handle.wait(TEST_TIMEOUT));
    assert_eq!((handle.plugged(), field(&driver, 5)), (3 * BLOCK_SIZE, 3 * BLOCK_SIZE));
    assert_eq!(ask(&mut driver, 3, 0, 2), MemResponse::State(BlockState::Mixed).bytes());

    handle.request(0);
    assert_eq!(ask(&mut driver, 1, 1, 3), MemResponse::Ack.bytes());
    assert!(handle.wait(TEST_TIMEOUT));
    assert_eq!(handle.plugged(), 0);
}

/// A host that cannot take memory back: the driver stops asking, and the host's side is told at once.
#[test]
fn a_withdrawn_wish_reaches_the_driver_and_the_host() {
    struct Keeps;
    impl RegionMemory for Keeps {
        fn plug(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn unplug(&self, _: u64, _: u64) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }
    let map = Arc::new(PlugMap::new(ADDR, SIZE, BLOCK_SIZE));
    let (device, handle) = Mem::new("mem0", map, Arc::new(Keeps));
    let mut driver = Driver::started(Box::new(device), FEATURES);
    handle.request(2 * BLOCK_SIZE);
    assert_eq!(ask(&mut driver, 0, 0, 2), MemResponse::Ack.bytes());
    handle.request(0);
    let waiter = std::thread::spawn({
        let handle = handle.clone();
        move || handle.wait(TEST_TIMEOUT * 1000)
    });
    let generation = driver.read(0xfc);
    assert_eq!(ask(&mut driver, 1, 0, 2), MemResponse::Busy.bytes());
    assert!(!waiter.join().unwrap());
    assert_ne!(driver.read(0xfc), generation, "configuration generation");
    assert_eq!((field(&driver, 5), field(&driver, 6)), (2 * BLOCK_SIZE, 2 * BLOCK_SIZE));
}

#[test]
fn a_driver_that_comes_late_finds_the_request() {
    let (device, handle) = device();
    handle.request(BLOCK_SIZE);
    let mut driver = Driver::started(Box::new(device), FEATURES);
    driver.line.wait_past(0);
    assert_eq!(ask(&mut driver, 0, 0, 1), MemResponse::Ack.bytes());
    // A reset does not unplug blocks, and the next driver works.
    driver.start(FEATURES);
    assert_eq!(handle.plugged(), BLOCK_SIZE);
    assert_eq!(ask(&mut driver, 2, 0, 0), MemResponse::Ack.bytes());
    assert_eq!(handle.plugged(), 0);
}

#[test]
fn requests_that_are_too_short_stop_the_device_and_do_nothing() {
    for buffers in [
        vec![Buffer::Readable(&[0; 23]), Buffer::Writable(10)],
        vec![Buffer::Readable(&[0; 24]), Buffer::Writable(9)],
        vec![Buffer::Readable(&[0; 24])],
        vec![Buffer::Writable(10)],
    ] {
        let (mut driver, handle) = started();
        handle.request(BLOCK_SIZE);
        driver.queue().add(&buffers);
        driver.queue().kick();
        driver.wait_needs_reset();
        assert_eq!(handle.plugged(), 0);
    }
}

#[test]
fn a_driver_that_might_touch_blocks_that_are_not_plugged_in_is_refused() {
    let driver = Driver::new(Box::new(device().0));
    driver.add_status(status::ACKNOWLEDGE);
    driver.add_status(status::DRIVER);
    driver.choose(RING_FEATURES | 1 << VIRTIO_F_VERSION_1);
    assert_eq!(driver.add_status(status::FEATURES_OK) & status::FEATURES_OK, 0);
}
