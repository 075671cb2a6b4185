use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};
use std::os::fd::AsRawFd;

use super::*;
use crate::testing::Buffer::Writable;
use crate::testing::{DriverQueue, Line, TestRam};

/// A receiver with one buffer, a socket to read frames from, and the host's end of it.
fn receiver() -> (Receiver, DeviceInterrupt, DriverQueue, OwnedFd, OwnedFd) {
    let ram = TestRam::new();
    let line = std::sync::Arc::new(Line::default());
    let mut driver = DriverQueue::new(&ram, &line, 16, 0);
    driver.add(&[Writable(2048)]);
    let receiver = Receiver::new("net0".into(), ram.share(), driver.device_side(), 0, None);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    (receiver, DeviceInterrupt::new(Box::new(line)), driver, near, far)
}

#[test]
fn a_failed_read_costs_one_frame_and_no_buffer() {
    let (mut receiver, interrupt, mut driver, near, far) = receiver();
    // Reading a directory fails with EISDIR.
    let odd = File::open("/").unwrap();
    assert_eq!(receiver.receive(odd.as_fd(), &interrupt).unwrap(), RxOutcome::Idle);
    assert_eq!(driver.used(), None);
    send(far.as_raw_fd(), &[0; 72], MsgFlags::empty()).unwrap();
    assert_eq!(receiver.receive(near.as_fd(), &interrupt).unwrap(), RxOutcome::Starved);
    assert_eq!(driver.used().unwrap().len, 72);
    assert_eq!(receiver.errors, 0);
}

#[test]
fn an_interface_that_only_fails_is_lost_after_a_bounded_number_of_reads() {
    let (mut receiver, interrupt, _driver, _near, _far) = receiver();
    let odd = File::open("/").unwrap();
    let rounds = (0..).find(|_| receiver.receive(odd.as_fd(), &interrupt).unwrap() == RxOutcome::LinkLost);
    assert_eq!(rounds, Some(READ_ERRORS_MAX / BATCH));
}
