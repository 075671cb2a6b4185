use super::*;
use crate::testing::queue::WRITE;
use crate::testing::{Buffer, Descriptor, Driver, TestRam};
use crate::virtio::device::RING_FEATURES;

fn started() -> Driver {
    Driver::started(Box::new(Rng::new("rng0")), RING_FEATURES)
}

#[test]
fn buffers_are_filled_with_different_bytes() {
    let mut driver = started();
    let (used, first) = driver.queue().transact(&[Buffer::Writable(40), Buffer::Writable(24)]);
    let (_, second) = driver.queue().transact(&[Buffer::Writable(64)]);
    assert_eq!((used.len, first.len()), (64, 64));
    assert_ne!(first, [0xee; 64]);
    assert_ne!(first, second);
}

#[test]
fn an_indirect_request_is_served_too() {
    let mut driver = started();
    let request = driver.queue().add_indirect(&[Buffer::Writable(5000)]);
    driver.queue().kick();
    assert_eq!(driver.queue().wait_used().len, 5000);
    assert_ne!(request.response(&driver.ram)[4096..], [0xee; 904]);
}

#[test]
fn one_request_gets_a_bounded_number_of_bytes() {
    let mut driver = started();
    let (used, bytes) = driver.queue().transact(&[Buffer::Writable(MAX_BYTES), Buffer::Writable(100)]);
    assert_eq!(used.len, MAX_BYTES);
    assert_eq!(bytes[MAX_BYTES as usize..], [0xee; 100]);
}

#[test]
fn more_requests_than_a_batch_are_all_served() {
    let mut driver = started();
    for _ in 0..10 {
        for _ in 0..60 {
            driver.queue().add(&[Buffer::Writable(8)]);
        }
        driver.queue().kick();
        for _ in 0..60 {
            assert_eq!(driver.queue().wait_used().len, 8);
        }
    }
}

#[test]
fn malformed_requests_stop_the_device_until_it_is_reset() {
    let writable = |addr: u64, len| Descriptor { addr, len, flags: WRITE, next: 0 };
    let malformed = [
        vec![Descriptor { addr: 0x1000, len: 8, flags: 0, next: 0 }, writable(0x2000, 8)],
        vec![writable(0x2000, 8), Descriptor { addr: 0x1000, len: 8, flags: 0, next: 0 }],
        vec![writable(0x2000, 0)],
        vec![writable(TestRam::HOLE.0, 8)],
        vec![Descriptor { addr: 0x1000, len: 8, flags: WRITE | 1, next: 200 }],
    ];
    let mut driver = started();
    for descriptors in malformed {
        let done = driver.queue().used_idx();
        let head = driver.queue().write_chain(&descriptors);
        driver.queue().publish(head);
        driver.queue().kick();
        driver.wait_needs_reset();
        driver.queue().add(&[Buffer::Writable(8)]);
        driver.queue().kick();
        driver.transport.device_pause().unwrap();
        assert_eq!(driver.queue().used_idx(), done, "a stopped device completes nothing");
        driver.transport.device_resume();

        driver.start(0);
        assert!(!driver.needs_reset());
        assert_eq!(driver.queue().transact(&[Buffer::Writable(8)]).0.len, 8);
    }
}

#[test]
fn an_available_index_out_of_range_stops_the_device() {
    let mut driver = started();
    driver.queue().set_avail_idx(1000);
    driver.queue().kick();
    driver.wait_needs_reset();
}

#[test]
fn a_pause_loses_nothing() {
    let mut driver = started();
    for _ in 0..20 {
        driver.transport.device_pause().unwrap();
        driver.queue().add(&[Buffer::Writable(8)]);
        // Without a notification: a resumed device checks its queue.
        assert_eq!(driver.queue().used(), None);
        driver.transport.device_resume();
        assert_eq!(driver.queue().wait_used().len, 8);
    }
}

#[test]
fn nothing_happens_after_shutdown() {
    let mut driver = started();
    driver.transport.device_shutdown();
    driver.queue().send(&[Buffer::Writable(8)]);
    driver.transport.device_resume();
    driver.transport.device_shutdown();
    assert_eq!(driver.queue().used(), None);
}
