use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;
use crate::testing::{activate, Line, TEST_TIMEOUT};
use crate::virtio::vsock::credit::BUF_ALLOC;
use crate::virtio::vsock::guest::{packet, TestGuest, GUEST_CID, PACKET, RX_BUFFER};
use crate::virtio::vsock::packet::{Op, PacketHeader, Ports, SHUTDOWN_BOTH, SHUTDOWN_SEND};

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const PORTS: Ports = Ports { host: 1024, guest: 5000 };

/// A device and its guest, each on its own thread.
struct Bench {
    device: Vsock,
    handle: VsockHandle,
    guest: TestGuest,
    line: Arc<Line>,
    interrupt: Arc<DeviceInterrupt>,
}

impl Bench {
    fn new(features: u64) -> Self {
        let (device, handle) = Vsock::new(VsockDeviceConfig { guest_cid: GUEST_CID });
        Self::over(device, handle, features)
    }

    fn over(mut device: Vsock, handle: VsockHandle, features: u64) -> Self {
        let activated = activate(&mut device, features, 256);
        let mut queues = activated.queues.into_iter();
        let (rx, tx) = (queues.next().unwrap(), queues.next().unwrap());
        let mut guest = TestGuest::new(&activated.ram, rx, tx);
        guest.post(64, RX_BUFFER);
        Self { device, handle, guest, line: activated.line, interrupt: activated.interrupt }
    }

    fn receive(&mut self) -> (PacketHeader, Vec<u8>) {
        loop {
            let seen = self.line.count();
            if let Some(packet) = self.guest.receive() {
                return packet;
            }
            self.line.wait_past(seen);
        }
    }

    #[track_caller]
    fn expect(&mut self, op: Op) -> (PacketHeader, Vec<u8>) {
        let (header, payload) = self.receive();
        assert_eq!(header.op(), Some(op), "{header:?}");
        (header, payload)
    }

    fn connected(&mut self) -> (Receiver<UnixStream>, UnixStream) {
        let listener = self.handle.listen(PORTS.host).unwrap();
        self.guest.send(packet(PORTS, Op::Request), &[]);
        self.expect(Op::Response);
        let stream = listener.recv_timeout(TEST_TIMEOUT).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        (listener, stream)
    }
}

/// Bytes that depend on their position in a stream.
fn pattern(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

#[test]
fn configuration_space_is_the_guest_cid_and_nothing_else() {
    let (device, _handle) = Vsock::new(VsockDeviceConfig { guest_cid: 0x1_0203 });
    let mut data = [0xee; 12];
    device.read_config(0, &mut data);
    assert_eq!(data, [3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    device.read_config(2, &mut data[..1]);
    assert_eq!(data[0], 1);
    device.read_config(u64::MAX - 1, &mut data);
    assert_eq!(data, [0; 12]);
}

#[test]
fn a_driver_without_transmit_queue_is_refused() {
    let (mut device, _handle) = Vsock::new(VsockDeviceConfig { guest_cid: GUEST_CID });
    let ram = crate::testing::TestRam::new();
    let line = Arc::new(Line::default());
    let queue = crate::testing::DriverQueue::new(&ram, &line, 16, 0);
    let activation = Activation {
        mem: ram.share(),
        queues: vec![Some(queue.device_side()), None, None],
        interrupt: Arc::new(DeviceInterrupt::new(Box::new(line))),
        features: 0,
        threads: Default::default(),
    };
    assert!(matches!(device.activate(activation), Err(ActivateError::MissingQueue(TX))));
}

#[test]
fn a_connection_asked_for_before_the_driver_is_there_is_made_once_it_is() {
    let (device, handle) = Vsock::new(VsockDeviceConfig { guest_cid: GUEST_CID });
    let early = handle.clone();
    let caller = thread::spawn(move || early.connect(10, TEST_TIMEOUT));
    while handle_is_idle(&device) {
        thread::yield_now();
    }
    let mut bench = Bench::over(device, handle, EVENT_IDX);
    let (request, _) = bench.expect(Op::Request);
    bench.guest.send(packet(Ports { host: request.src_port, guest: 10 }, Op::Response), &[]);
    let mut stream = caller.join().unwrap().unwrap();
    stream.write_all(b"hello").unwrap();
    assert_eq!(bench.expect(Op::Rw).1, b"hello");
}

fn handle_is_idle(device: &Vsock) -> bool {
    device.shared.is_idle()
}

#[test]
fn a_handle_that_outlives_the_device_reports_that_it_is_gone() {
    let (device, handle) = Vsock::new(VsockDeviceConfig { guest_cid: GUEST_CID });
    let other = handle.clone();
    let caller = thread::spawn(move || other.connect(10, TEST_TIMEOUT));
    while handle_is_idle(&device) {
        thread::yield_now();
    }
    let listener = handle.listen(1).unwrap();
    drop(device);
    assert_eq!(caller.join().unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(listener.recv().is_err());
}

#[test]
fn the_driver_going_away_ends_connections_and_loses_nothing_that_was_sent() {
    let mut bench = Bench::new(EVENT_IDX);
    let (_listener, mut stream) = bench.connected();
    bench.guest.send(packet(PORTS, Op::Rw), b"last words");
    bench.device.deactivate().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
    assert!(stream.write_all(b"too late").is_err());
    // The next driver has no connections, but the listeners remain.
    let Bench { device, handle, .. } = bench;
    let mut bench = Bench::over(device, handle, 0);
    bench.guest.send(packet(PORTS, Op::Request), &[]);
    bench.expect(Op::Response);
}

#[test]
fn connections_survive_a_pause() {
    let mut bench = Bench::new(EVENT_IDX);
    let (_listener, mut stream) = bench.connected();
    bench.device.pause().unwrap();
    stream.write_all(b"meanwhile").unwrap();
    bench.guest.send(packet(PORTS, Op::Rw), b"also");
    let used = bench.guest.rx.used_idx();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(bench.guest.rx.used_idx(), used, "a paused device touched guest memory");
    bench.device.resume();
    assert_eq!(bench.expect(Op::Rw).1, b"meanwhile");
    let mut text = [0; 4];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"also");
}

#[test]
fn broken_rings_end_connections_and_ask_for_a_reset() {
    let mut bench = Bench::new(0);
    let (_listener, mut stream) = bench.connected();
    bench.guest.tx.set_avail_idx(30_000);
    bench.guest.tx.kick();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    let mut seen = 0;
    while !bench.interrupt.needs_reset() {
        bench.line.wait_past(seen);
        seen += 1;
    }
    let Bench { device, handle, .. } = bench;
    let mut bench = Bench::over(device, handle, 0);
    bench.guest.send(packet(PORTS, Op::Request), &[]);
    bench.expect(Op::Response);
}

#[test]
fn short_packets_are_dropped() {
    let mut bench = Bench::new(0);
    bench.guest.tx.send(&[crate::testing::Buffer::Readable(&[1; 43])]);
    bench.guest.tx.wait_used();
    let (_listener, _stream) = bench.connected();
}

/// The guest sends `total` bytes as fast as its credit allows; the host reads `chunk` bytes at a time.
fn guest_to_host(features: u64, total: usize, chunk: usize) {
    let mut bench = Bench::new(features);
    let (_listener, mut stream) = bench.connected();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; chunk];
        let mut at = 0;
        loop {
            let count = stream.read(&mut buffer).unwrap();
            if count == 0 {
                return at;
            }
            assert!(buffer[..count] == pattern(at, count), "wrong bytes at {at}");
            at += count;
        }
    });
    let (mut sent, mut taken) = (0usize, 0u32);
    while sent < total {
        let seen = bench.line.count();
        while let Some((header, _)) = bench.guest.receive() {
            assert_eq!(header.op(), Some(Op::CreditUpdate));
            taken = header.fwd_cnt;
        }
        let free = BUF_ALLOC - (sent as u32).wrapping_sub(taken);
        let len = (free as usize).min(PACKET).min(total - sent);
        if len == 0 || !bench.guest.can_send() {
            bench.line.wait_past(seen);
            continue;
        }
        bench.guest.send(packet(PORTS, Op::Rw), &pattern(sent, len));
        sent += len;
    }
    bench.wait_to_send();
    bench.guest.send(PacketHeader { flags: SHUTDOWN_BOTH, ..packet(PORTS, Op::Shutdown) }, &[]);
    assert_eq!(reader.join().unwrap(), total);
}

impl Bench {
    fn wait_to_send(&mut self) {
        loop {
            let seen = self.line.count();
            if self.guest.can_send() {
                return;
            }
            self.line.wait_past(seen);
        }
    }
}

/// The host writes `total` bytes. The guest has `window` bytes of room and frees them in bursts.
fn host_to_guest(features: u64, total: usize, window: u32) {
    let mut bench = Bench::new(features);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    bench.guest.send(PacketHeader { buf_alloc: window, ..packet(PORTS, Op::Request) }, &[]);
    bench.expect(Op::Response);
    let mut stream = listener.recv_timeout(TEST_TIMEOUT).unwrap();
    let writer = thread::spawn(move || {
        let mut at = 0;
        while at < total {
            let len = 100_000.min(total - at);
            stream.write_all(&pattern(at, len)).unwrap();
            at += len;
        }
    });
    let (mut at, mut reported) = (0usize, 0usize);
    loop {
        let (header, payload) = bench.receive();
        match header.op() {
            Some(Op::Rw) => {
                assert!(payload == pattern(at, payload.len()), "wrong bytes at {at}");
                at += payload.len();
                assert!(at - reported <= window as usize, "more in flight than the guest has room for");
            }
            Some(Op::Shutdown) if header.flags & SHUTDOWN_SEND != 0 => break,
            Some(Op::Shutdown | Op::CreditRequest) => {}
            op => panic!("{op:?}"),
        }
        if at - reported > window as usize / 2 || header.op() == Some(Op::CreditRequest) {
            reported = at;
            bench.wait_to_send();
            let update =
                PacketHeader { buf_alloc: window, fwd_cnt: reported as u32, ..packet(PORTS, Op::CreditUpdate) };
            bench.guest.send(update, &[]);
        }
    }
    writer.join().unwrap();
    assert_eq!(at, total);
}

#[test]
fn sixty_four_mib_from_the_guest_arrive_whole() {
    guest_to_host(EVENT_IDX, 64 << 20, 64 * 1024);
}

#[test]
fn sixty_four_mib_from_the_host_arrive_whole() {
    host_to_guest(EVENT_IDX, 64 << 20, 256 * 1024);
}

#[test]
fn transfers_work_without_event_idx_and_in_small_chunks() {
    guest_to_host(0, 1 << 20, 777);
    host_to_guest(0, 1 << 20, 5000);
}

/// Many connections from the host at a time, each echoed by the guest.
#[test]
fn many_connections_at_a_time() {
    const CONNECTIONS: usize = 40;
    let mut bench = Bench::new(EVENT_IDX);
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            let handle = bench.handle.clone();
            thread::spawn(move || {
                let mut stream = handle.connect(7, TEST_TIMEOUT).unwrap();
                let data = pattern(index * 1000, 5000);
                stream.write_all(&data).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut echo = Vec::new();
                stream.read_to_end(&mut echo).unwrap();
                assert!(echo == data);
            })
        })
        .collect();
    let mut received: HashMap<u32, u32> = HashMap::new();
    let mut open = CONNECTIONS;
    while open > 0 {
        let (header, payload) = bench.receive();
        let ports = Ports { host: header.src_port, guest: 7 };
        let reply = match header.op() {
            Some(Op::Request) => packet(ports, Op::Response),
            Some(Op::Rw) => {
                *received.entry(ports.host).or_default() += header.len;
                PacketHeader { fwd_cnt: received[&ports.host], ..packet(ports, Op::Rw) }
            }
            Some(Op::Shutdown) if header.flags == SHUTDOWN_SEND => {
                PacketHeader { flags: SHUTDOWN_BOTH, ..packet(ports, Op::Shutdown) }
            }
            Some(Op::Rst) => {
                open -= 1;
                continue;
            }
            op => panic!("{op:?}"),
        };
        bench.wait_to_send();
        bench.guest.send(reply, &payload);
    }
    for caller in callers {
        caller.join().unwrap();
    }
}
