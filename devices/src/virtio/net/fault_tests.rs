//! Errors of a tap below a network device: a frame may be lost, never the device.

use super::tests::{frame, setup, with_header, Setup, ALL, RX};
use crate::testing::Buffer::Writable;
use crate::virtio::faults::{self, Fault, Operation};

/// A frame of the host, which arrives whatever happened before.
fn receives(setup: &mut Setup, seed: u8) {
    let request = setup.driver.queues[RX].send(&[Writable(2048)]);
    setup.host_send(&frame(100, seed));
    assert_eq!(setup.driver.queues[RX].wait_used().len, 112);
    assert_eq!(request.response(&setup.driver.ram)[12..112], frame(100, seed));
}

#[test]
fn a_read_that_fails_loses_no_later_frame() {
    let mut setup = setup(ALL);
    // The first read of the device has found nothing before there are faults.
    receives(&mut setup, 1);
    for errno in [libc::EINVAL, libc::EFAULT, libc::ENOMEM, libc::ENOBUFS, libc::EIO, libc::EINTR, libc::EMSGSIZE] {
        faults::inject(&setup.socket.fd, Operation::Transfer, [Fault::Error(errno), Fault::Error(errno)]);
        receives(&mut setup, errno as u8);
        faults::forget(&setup.socket.fd);
        setup.check();
    }
}

#[test]
fn a_read_that_is_cut_loses_its_frame_only() {
    let mut setup = setup(ALL);
    receives(&mut setup, 1);
    let request = setup.driver.queues[RX].send(&[Writable(2048)]);
    // Shorter than the header: dropped. The rest of a message is lost, as with a tap.
    faults::inject(&setup.socket.fd, Operation::Transfer, [Fault::Short(5)]);
    setup.host_send(&frame(60, 2));
    setup.host_send(&frame(100, 3));
    assert_eq!(setup.driver.queues[RX].wait_used().len, 112);
    assert_eq!(request.response(&setup.driver.ram)[12..112], frame(100, 3));
    assert_eq!(faults::forget(&setup.socket.fd), 0, "the fault occurred");
    setup.check();
}

#[test]
fn a_write_that_fails_loses_its_frame_only() {
    let mut setup = setup(ALL);
    for errno in [libc::EINVAL, libc::ENOBUFS, libc::ENOMEM, libc::EIO, libc::EPERM, libc::EMSGSIZE, libc::E2BIG] {
        faults::inject(&setup.socket.fd, Operation::Transfer, [Fault::Error(errno)]);
        setup.transmit(&with_header([0, 0], &frame(60, 4)));
        assert_eq!(faults::forget(&setup.socket.fd), 0, "the fault occurred");
        setup.check();
    }
}

#[test]
fn a_full_tap_delays_its_frame() {
    let mut setup = setup(ALL);
    let out = with_header([0, 0], &frame(60, 5));
    faults::inject(&setup.socket.fd, Operation::Transfer, [Fault::Error(libc::EAGAIN), Fault::Error(libc::EINTR)]);
    setup.transmit(&out);
    assert_eq!(setup.host_receive(), out);
    assert_eq!(faults::forget(&setup.socket.fd), 0, "the faults occurred");
    setup.check();
}

#[test]
fn an_interface_that_is_gone_comes_back_with_the_next_driver() {
    for errno in [libc::EBADFD, libc::ENODEV] {
        let mut setup = setup(ALL);
        faults::inject(&setup.socket.fd, Operation::Transfer, [Fault::Error(errno)]);
        setup.transmit(&with_header([0, 0], &frame(60, 6)));
        let seen = setup.driver.line.count();
        if setup.driver.config(6, 1) != [0] {
            setup.driver.line.wait_past(seen);
        }
        assert_eq!(setup.driver.config(6, 1), [0], "the link is down");
        setup.driver.start(ALL);
        assert_eq!(setup.driver.config(6, 1), [1]);
        setup.check();
    }
}
