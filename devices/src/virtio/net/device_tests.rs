use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};
use std::os::fd::AsRawFd;

use super::*;
use crate::testing::queue::WRITE;
use crate::testing::Buffer::{Readable, Writable};
use crate::testing::{Descriptor, Driver, TestRam};
use crate::virtio::net::header::{HEADER, MAX_FRAME};

const MAC: [u8; 6] = [2, 0, 0, 1, 2, 3];
const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
pub(super) const ALL: u64 = RING_FEATURES
    | MERGE
    | 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4;
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;

/// A socket as backend: one message is one frame.
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    offloads: AtomicU64,
    /// Set: the device reads a directory, which fails, instead of the socket.
    broken: AtomicBool,
    directory: std::fs::File,
    /// Number of times that the device used the socket.
    uses: AtomicU64,
}

impl NetBackend for Socket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.uses.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            self.directory.as_fd()
        } else {
            self.fd.as_fd()
        }
    }

    fn set_offloads(&self, features: u64) -> io::Result<()> {
        self.offloads.store(features, Ordering::SeqCst);
        Ok(())
    }
}

/// A started device and the other end of its link.
pub(super) struct Setup {
    pub(super) driver: Driver,
    pub(super) socket: Arc<Socket>,
    host: OwnedFd,
}

pub(super) fn setup(features: u64) -> Setup {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (fd, host) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let socket = Arc::new(Socket {
        fd,
        offloads: AtomicU64::new(0),
        broken: AtomicBool::new(false),
        directory: std::fs::File::open("/").unwrap(),
        uses: AtomicU64::new(0),
    });
    let net = Net::with_backend("net0".into(), socket.clone(), MAC, Some(1400)).unwrap();
    Setup { driver: Driver::started(Box::new(net), features), socket, host }
}

/// Recognizable bytes.
pub(super) fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

pub(super) fn with_header(header: [u8; 2], frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&header);
    bytes.extend(frame);
    bytes
}

impl Setup {
    pub(super) fn host_send(&self, frame: &[u8]) {
        let bytes = with_header([0, 0], frame);
        assert_eq!(send(self.host.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap(), bytes.len());
    }

    /// Waits for a frame, header included.
    pub(super) fn host_receive(&self) -> Vec<u8> {
        let mut fds = [PollFd::new(self.host.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1, "no frame for the host in time");
        let mut bytes = vec![0; 70_000];
        let len = recv(self.host.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// Sends a frame from the guest and waits until its buffers are back.
    pub(super) fn transmit(&mut self, bytes: &[u8]) {
        let used = self.driver.queues[TX].transact(&[Readable(bytes)]).0;
        assert_eq!(used.len, 0);
    }

    /// Checks that frames still pass in both directions.
    pub(super) fn check(&mut self) {
        let out = with_header([0, 0], &frame(60, 1));
        self.transmit(&out);
        assert_eq!(self.host_receive(), out);
        let request = self.driver.queues[RX].send(&[Writable(2048)]);
        self.host_send(&frame(100, 2));
        assert_eq!(self.driver.queues[RX].wait_used().len, 112);
        assert_eq!(request.response(&self.driver.ram)[HEADER..112], frame(100, 2));
    }
}

#[test]
fn the_config_space_holds_address_status_and_mtu() {
    let setup = setup(ALL);
    assert_eq!(setup.driver.config(0, 14), [2, 0, 0, 1, 2, 3, 1, 0, 1, 0, 0x78, 5, 0, 0]);
    let offered = setup.driver.offered();
    assert_eq!(offered & ALL, ALL);
    let ufo = 1 << 10 | 1 << 14;
    assert_eq!(offered & ufo, 0, "UFO is never offered");
    assert_eq!(setup.socket.offloads.load(Ordering::SeqCst) & ALL, ALL);
}

#[test]
fn bad_addresses_and_mtus_are_refused() {
    let link = setup(0).socket;
    let net = |mac, mtu| Net::with_backend("net0".into(), link.clone(), mac, mtu).err();
    assert!(matches!(net([1, 0, 0, 0, 0, 0], None), Some(NetError::Mac { .. })));
    assert!(matches!(net([0; 6], None), Some(NetError::Mac { .. })));
    assert!(matches!(net(MAC, Some(67)), Some(NetError::Mtu { .. })));
    assert_eq!(net(MAC, Some(68)), None);
}

#[test]
fn frames_go_both_ways_with_every_choice_of_features() {
    for features in [0, RING_FEATURES, MERGE, ALL] {
        let mut setup = setup(features);
        for _ in 0..3 {
            setup.check();
        }
    }
}

#[test]
fn segmentation_needs_negotiated_checksums() {
    let setup = setup(0);
    let driver = &setup.driver;
    driver.write(0x70, 0);
    driver.add_status(1 | 2);
    driver.choose(1 << 32 | 1 << VIRTIO_NET_F_HOST_TSO4);
    assert_eq!(driver.add_status(8) & 8, 0);
}

#[test]
fn a_long_frame_is_spread_over_merged_buffers() {
    let mut setup = setup(ALL);
    let requests: Vec<_> = (0..60).map(|_| setup.driver.queues[RX].add(&[Writable(1500)])).collect();
    setup.driver.queues[RX].kick();
    setup.host_send(&frame(4000, 9));
    let mut received: Vec<u8> = Vec::new();
    for (request, len) in requests.iter().zip([1500, 1500, 1012]) {
        let used = setup.driver.queues[RX].wait_used();
        assert_eq!((used.id, used.len), (u32::from(request.head), len));
        received.extend(&request.response(&setup.driver.ram)[..len as usize]);
    }
    assert_eq!(received[10..12], [3, 0], "the number of buffers");
    assert_eq!(received[HEADER..], frame(4000, 9));
    setup.host_send(&frame(64, 3));
    assert_eq!(setup.driver.queues[RX].wait_used().len, 76);
}

#[test]
fn the_longest_frame_goes_both_ways() {
    let mut setup = setup(ALL);
    let longest = frame(MAX_FRAME as usize, 5);
    let out = with_header([1, 1], &longest);
    setup.transmit(&out);
    assert_eq!(setup.host_receive(), out);
    let request = setup.driver.queues[RX].send(&[Writable(70_000)]);
    setup.host_send(&longest);
    assert_eq!(setup.driver.queues[RX].wait_used().len as usize, out.len());
    assert_eq!(request.response(&setup.driver.ram)[HEADER..out.len()], longest);
}

#[test]
fn a_frame_too_long_for_the_guests_buffer_is_dropped_and_the_next_one_arrives() {
    for features in [0, MERGE] {
        let mut setup = setup(features);
        let request = setup.driver.queues[RX].send(&[Writable(200)]);
        setup.host_send(&frame(189, 1));
        setup.host_send(&frame(188, 2));
        assert_eq!(setup.driver.queues[RX].wait_used().len, 200);
        let bytes = request.response(&setup.driver.ram);
        assert_eq!((&bytes[10..12], &bytes[HEADER..]), (&[1, 0][..], &frame(188, 2)[..]));
    }
}

#[test]
fn checksum_flags_are_hidden_from_a_driver_that_does_not_know_them() {
    for (features, flags) in [(0, 0), (1 << VIRTIO_NET_F_GUEST_CSUM, 2)] {
        let mut setup = setup(features);
        let request = setup.driver.queues[RX].send(&[Writable(200)]);
        let bytes = with_header([2, 0], &frame(60, 1));
        send(setup.host.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        setup.driver.queues[RX].wait_used();
        assert_eq!(request.response(&setup.driver.ram)[0], flags);
    }
}

#[test]
fn a_guest_without_buffers_costs_nothing_and_loses_nothing() {
    let mut setup = setup(ALL);
    for seed in 0..3 {
        setup.host_send(&frame(60, seed));
    }
    // An answer in the other queue shows that the device has checked this one.
    setup.transmit(&with_header([0, 0], &frame(60, 0)));
    let uses = setup.socket.uses.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    let more = setup.socket.uses.load(Ordering::SeqCst) - uses;
    assert!(more < 5, "the device used its backend {more} times with nothing to do");
    for seed in 0..3 {
        let request = setup.driver.queues[RX].send(&[Writable(1500)]);
        assert_eq!(setup.driver.queues[RX].wait_used().len, 72);
        assert_eq!(request.response(&setup.driver.ram)[HEADER..72], frame(60, seed));
    }
}

#[test]
fn a_host_that_takes_nothing_holds_frames_back_in_order() {
    let mut setup = setup(ALL);
    let frames: Vec<_> = (0..40).map(|seed| with_header([0, 0], &frame(30_000, seed))).collect();
    for bytes in &frames {
        setup.driver.queues[TX].add(&[Readable(bytes)]);
    }
    setup.driver.queues[TX].kick();
    setup.driver.queues[TX].wait_used();
    assert!(setup.driver.queues[TX].used_idx() < 40, "the socket should have been full");
    for bytes in &frames {
        assert_eq!(&setup.host_receive(), bytes);
    }
    for _ in 1..40 {
        setup.driver.queues[TX].wait_used();
    }
}

#[test]
fn impossible_frames_are_dropped_and_given_back() {
    let mut setup = setup(RING_FEATURES);
    let long = frame(MAX_FRAME as usize + 1, 0);
    for bytes in [
        with_header([0, 0], &[0; 13]),
        with_header([0, 0], &long),
        with_header([1, 0], &frame(60, 0)),
        with_header([0, 1], &frame(60, 0)),
        with_header([0, 0xff], &frame(60, 0)),
    ] {
        setup.transmit(&bytes);
    }
    let mut many: Vec<_> = (0..1023).map(|_| Readable(&[7])).collect();
    many.insert(0, Readable(&[0; 13]));
    setup.driver.queues[TX].add_indirect(&many);
    setup.driver.queues[TX].kick();
    setup.driver.queues[TX].wait_used();
    setup.check();
    let nothing = recv(setup.host.as_raw_fd(), &mut [0; 10], MsgFlags::empty());
    assert_eq!(nothing, Err(nix::errno::Errno::EAGAIN));
}

#[test]
fn malformed_requests_stop_the_device_until_it_is_reset() {
    let readable = |addr, len| Descriptor { addr, len, flags: 0, next: 0 };
    let writable = |addr, len| Descriptor { addr, len, flags: WRITE, next: 0 };
    let malformed = [
        (RX, vec![readable(0x1000, 2000)]),
        (RX, vec![readable(0x1000, 12), writable(0x2000, 2000)]),
        (RX, vec![writable(0x1000, 11)]),
        (RX, vec![writable(TestRam::HOLE.0, 2000)]),
        (TX, vec![readable(0x1000, 11)]),
        (TX, vec![readable(0x1000, 100), writable(0x2000, 1)]),
        (TX, vec![writable(0x1000, 100)]),
        (TX, vec![readable(TestRam::OUTSIDE.0, 100)]),
        (TX, vec![Descriptor { addr: 0x1000, len: 100, flags: 1, next: 500 }]),
    ];
    let mut setup = setup(ALL);
    for (queue, descriptors) in malformed {
        let head = setup.driver.queues[queue].write_chain(&descriptors);
        setup.driver.queues[queue].publish(head);
        setup.driver.queues[queue].kick();
        setup.driver.wait_needs_reset();
        setup.driver.start(ALL);
        setup.check();
    }
    // More buffers than there are descriptors.
    for _ in 0..65 {
        let head = setup.driver.queues[RX].write_chain(&[writable(0x1000, 12)]);
        setup.driver.queues[RX].publish(head);
    }
    setup.driver.queues[RX].kick();
    setup.driver.wait_needs_reset();
}

#[test]
fn a_pause_and_a_reset_lose_no_frames_of_the_host() {
    let mut setup = setup(ALL);
    setup.check();
    for seed in 0..5 {
        setup.driver.transport.device_pause().unwrap();
        setup.host_send(&frame(60, seed));
        let request = setup.driver.queues[RX].add(&[Writable(1500)]);
        let out = with_header([0, 0], &frame(60, seed));
        setup.driver.queues[TX].add(&[Readable(&out)]);
        assert_eq!((setup.driver.queues[RX].used(), setup.driver.queues[TX].used()), (None, None));
        setup.driver.transport.device_resume();
        assert_eq!(setup.driver.queues[RX].wait_used().len, 72);
        assert_eq!(request.response(&setup.driver.ram)[HEADER..72], frame(60, seed));
        assert_eq!(setup.host_receive(), out);
        setup.driver.queues[TX].wait_used();
    }
    setup.driver.start(0);
    setup.check();
}

#[test]
fn an_interface_that_goes_away_is_reported_to_the_driver_and_drops_frames() {
    let Setup { mut driver, socket, host } = setup(ALL);
    driver.write(0x64, 3);
    let seen = driver.line.count();
    drop(host);
    driver.line.wait_past(seen);
    assert_eq!((driver.config(6, 2), driver.read(0x60) & 2), (vec![0, 0], 2));
    let out = with_header([0, 0], &frame(60, 0));
    driver.queues[TX].transact(&[Readable(&out)]);
    let uses = socket.uses.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(socket.uses.load(Ordering::SeqCst), uses);
    driver.start(ALL);
    driver.queues[TX].transact(&[Readable(&out)]);
    assert!(!driver.needs_reset());
}

#[test]
fn an_interface_that_works_again_is_found_by_a_reset() {
    let mut setup = setup(ALL);
    // With buffers left after this frame, the device goes on watching the socket.
    (0..60).for_each(|_| drop(setup.driver.queues[RX].send(&[Writable(2048)])));
    setup.host_send(&frame(60, 9));
    setup.driver.queues[RX].wait_used();
    setup.driver.transport.device_pause().unwrap();
    setup.socket.broken.store(true, Ordering::SeqCst);
    setup.host_send(&frame(60, 0));
    let seen = setup.driver.line.count();
    setup.driver.transport.device_resume();
    // The frame stays in the socket, so the device tries until it has had too many failures.
    setup.driver.line.wait_past(seen);
    assert_eq!((setup.driver.config(6, 1), setup.driver.needs_reset()), (vec![0], false));
    setup.socket.broken.store(false, Ordering::SeqCst);
    setup.driver.start(ALL);
    assert_eq!(setup.driver.config(6, 1), [1]);
    setup.driver.queues[RX].send(&[Writable(2048)]);
    assert_eq!(setup.driver.queues[RX].wait_used().len, 72);
    setup.check();
}

#[test]
fn a_device_with_one_queue_missing_asks_for_a_reset() {
    let setup = setup(0);
    let mut driver = setup.driver;
    let addresses = driver.queues[RX].addresses();
    driver.negotiate(0);
    assert!(driver.set_up_queue(0, 64, addresses));
    driver.add_status(4);
    assert!(driver.needs_reset());
}
