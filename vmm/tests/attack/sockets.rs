//! Attacks on the socket device (VIRTIO 1.2, 5.10). A listener of the host waits at [`PORT`] and accepts nothing, so
//! connections wait; a second one at [`TAKEN`] accepts and does not read.

use super::driver::{descriptor, readable, start, wait_broken, writable};
use super::driver::{Device, Ring, WRITE};
use super::probes::{probe, Packet, CLOSED_PORT};
use super::script::{Script, RAM_END};

/// A port of the host whose listener accepts nothing.
pub const PORT: u32 = 1024;
/// A port of the host whose listener accepts all connections, and reads nothing.
pub const TAKEN: u32 = 1025;

const REQUEST: u16 = 1;
const RESPONSE: u64 = 2;
const RST: u16 = 3;
const SHUTDOWN: u16 = 4;
const RW: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// A started device, receive and transmit queue.
struct Bench {
    rx: Ring,
    tx: Ring,
    /// Where answers go, each 64 bytes.
    answers: u64,
    posted: u64,
}

impl Bench {
    #[track_caller]
    fn new(s: &mut Script) -> Self {
        let mut rings = start(s, Device::Vsock);
        let answers = s.alloc(64 * 64, 64);
        let tx = rings.remove(1);
        Self { rx: rings.remove(0), tx, answers, posted: 0 }
    }

    /// Sends bytes as they are.
    fn raw(&mut self, s: &mut Script, bytes: &[u8]) {
        let packet = s.put(bytes);
        self.tx.send(s, &[readable(packet, bytes.len() as u32)]);
        self.tx.wait_all(s);
    }

    fn send(&mut self, s: &mut Script, packet: Packet) {
        self.raw(s, &packet.bytes());
    }

    /// Posts a buffer, waits for the next packet, and checks its operation.
    #[track_caller]
    fn expect(&mut self, s: &mut Script, op: u64) {
        let buffer = self.answers + 64 * self.posted;
        self.posted += 1;
        self.rx.send(s, &[writable(buffer, 64)]);
        self.rx.wait_all(s);
        s.expect(2, buffer + 30, op);
    }
}

/// Adds the cases.
pub fn add(s: &mut Script) {
    packets(s);
    connections(s);
    floods(s);
    queues(s);
}

fn packets(s: &mut Script) {
    s.case("packets shorter than a header", "Firecracker CVE-2019-18960");
    let mut bench = Bench::new(s);
    for len in [1, 8, 30, 43] {
        bench.raw(s, &Packet::new(1, PORT, REQUEST).bytes()[..len]);
    }
    probe(s, Device::Vsock);
    s.case("packets that announce more than they have", "Firecracker CVE-2019-18960");
    let mut bench = Bench::new(s);
    bench.send(s, Packet::new(1, TAKEN, REQUEST));
    bench.expect(s, RESPONSE);
    for len in [1, 0x1_0000, u32::MAX] {
        bench.send(s, Packet { len, ..Packet::new(1, TAKEN, RW) });
    }
    // The first ends the connection, the others have none.
    for _ in 0..3 {
        bench.expect(s, RST.into());
    }
    probe(s, Device::Vsock);
    s.case("packets of other machines and to other machines", "QEMU CVE-2022-26354 (vhost-vsock); VIRTIO 5.10.6");
    let mut bench = Bench::new(s);
    for (src_cid, dst_cid) in [(2, 2), (4, 2), (3, 3), (3, 0), (3, u64::MAX), (u64::MAX, 2), (3 | 1 << 32, 2)] {
        bench.send(s, Packet { src_cid, dst_cid, ..Packet::new(1, PORT, REQUEST) });
    }
    probe(s, Device::Vsock);
    s.case("operations and kinds of sockets that do not exist", "VIRTIO 5.10.6");
    let mut bench = Bench::new(s);
    for op in [0, 8, 0xff, 0xffff] {
        bench.send(s, Packet::new(1, PORT, op));
        bench.expect(s, RST.into());
    }
    for kind in [0, 2, 3, 0xffff] {
        bench.send(s, Packet { kind, ..Packet::new(1, PORT, REQUEST) });
        bench.expect(s, RST.into());
    }
    probe(s, Device::Vsock);
    s.case("packets of connections that do not exist", "VIRTIO 5.10.6");
    let mut bench = Bench::new(s);
    for op in [RESPONSE as u16, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST] {
        bench.send(s, Packet::new(77, PORT, op));
        bench.expect(s, RST.into());
    }
    // RST is not answered.
    bench.send(s, Packet::new(77, PORT, RST));
    bench.send(s, Packet::new(78, CLOSED_PORT, REQUEST));
    bench.expect(s, RST.into());
    probe(s, Device::Vsock);
}

fn connections(s: &mut Script) {
    s.case("lies about credit", "VIRTIO 5.10.6.3");
    for (buf_alloc, fwd_cnt) in [(0, 0), (u32::MAX, 0), (0, u32::MAX), (u32::MAX, 0x8000_0000)] {
        let mut bench = Bench::new(s);
        bench.send(s, Packet { buf_alloc, fwd_cnt, ..Packet::new(5, TAKEN, REQUEST) });
        bench.expect(s, RESPONSE);
        for _ in 0..3 {
            bench.send(s, Packet { buf_alloc, fwd_cnt, ..Packet::new(5, TAKEN, CREDIT_UPDATE) });
        }
        probe(s, Device::Vsock);
    }
    s.case("more bytes than the credit that the host gave", "VIRTIO 5.10.6.3.1 (memory without bound)");
    let mut bench = Bench::new(s);
    bench.send(s, Packet::new(6, TAKEN, REQUEST));
    bench.expect(s, RESPONSE);
    let payload = RAM_END - (1 << 20);
    let header = s.put(&Packet { len: 0x1_0000, ..Packet::new(6, TAKEN, RW) }.bytes());
    let head = bench.tx.chain(s, &[readable(header, 44), readable(payload, 0x1_0000)]);
    // Far more than any buffer on the host has.
    for _ in 0..64 {
        bench.tx.publish(s, head);
        bench.tx.kick(s);
        bench.tx.wait_all(s);
    }
    probe(s, Device::Vsock);
    s.case("a connection that exists is asked for again", "VIRTIO 5.10.6");
    let mut bench = Bench::new(s);
    bench.send(s, Packet::new(8, TAKEN, REQUEST));
    bench.expect(s, RESPONSE);
    bench.send(s, Packet::new(8, TAKEN, REQUEST));
    bench.expect(s, RST.into());
    probe(s, Device::Vsock);
    s.case("shutdowns of every kind, again and again", "VIRTIO 5.10.6.6");
    for flags in [0, 1, 2, 3, u32::MAX] {
        let mut bench = Bench::new(s);
        bench.send(s, Packet::new(9, TAKEN, REQUEST));
        bench.expect(s, RESPONSE);
        for _ in 0..3 {
            bench.send(s, Packet { flags, ..Packet::new(9, TAKEN, SHUTDOWN) });
        }
        bench.send(s, Packet { len: 1, ..Packet::new(9, TAKEN, RW) });
        probe(s, Device::Vsock);
    }
}

fn floods(s: &mut Script) {
    s.case("a flood of requests from all ports, without a buffer for the answers", "QEMU CVE-2016-5403");
    let mut bench = Bench::new(s);
    let packets: Vec<u64> = (0..16).map(|at| s.put(&Packet::new(10_000 + at, PORT, REQUEST).bytes())).collect();
    for packet in &packets {
        let head = bench.tx.chain(s, &[readable(*packet, 44)]);
        s.store(2, bench.tx.avail + 4 + 2 * u64::from(head), head.into());
    }
    // More ports than connections that a machine may have.
    s.repeat(80, |s| {
        packets.iter().for_each(|packet| s.add(4, packet + 16, 16));
        s.add(2, bench.tx.avail + 2, 16);
        bench.tx.kick(s);
        s.wait_same(bench.tx.used + 2, bench.tx.avail + 2);
    });
    probe(s, Device::Vsock);
    s.case("connections are opened and reset beside one that lives", "QEMU CVE-2016-5403 (a list without bound)");
    let mut bench = Bench::new(s);
    bench.send(s, Packet::new(1, TAKEN, REQUEST));
    let open = s.put(&Packet::new(2, TAKEN, REQUEST).bytes());
    let close = s.put(&Packet::new(2, TAKEN, RST).bytes());
    let tx = &mut bench.tx;
    s.wait(2, tx.used + 2, 0xffff, 1);
    tx.describe(s, 0, descriptor(open, 44, 0, 0));
    tx.describe(s, 1, descriptor(close, 44, 0, 0));
    for slot in 0..16 {
        s.store(2, tx.avail + 4 + 2 * slot, (slot + 1) % 2);
    }
    s.repeat(100, |s| {
        s.add(2, tx.avail + 2, 16);
        tx.kick(s);
        s.wait_same(tx.used + 2, tx.avail + 2);
    });
    probe(s, Device::Vsock);
}

fn queues(s: &mut Script) {
    s.case("receive buffers without room for a header", "Firecracker CVE-2019-18960; VIRTIO 5.10.6.1");
    let mut bench = Bench::new(s);
    let small = s.alloc(64, 16);
    for len in [1, 20, 43] {
        bench.rx.send(s, &[writable(small, len)]);
    }
    bench.send(s, Packet::new(1, CLOSED_PORT, REQUEST));
    bench.expect(s, RST.into());
    probe(s, Device::Vsock);
    s.case("receive buffers that the device must not write", "VIRTIO 5.10.6.1");
    let mut bench = Bench::new(s);
    bench.rx.send(s, &[readable(small, 64)]);
    bench.send(s, Packet::new(1, CLOSED_PORT, REQUEST));
    bench.expect(s, RST.into());
    probe(s, Device::Vsock);
    s.case("packets to write and packets without a byte", "VIRTIO 5.10.6.1");
    let mut bench = Bench::new(s);
    bench.tx.send(s, &[writable(small, 64)]);
    bench.tx.send(s, &[readable(small, 0)]);
    bench.tx.wait_all(s);
    probe(s, Device::Vsock);
    s.case("rubbish in the event queue, which the device never uses", "VIRTIO 5.10.6.7");
    let mut rings = start(s, Device::Vsock);
    let mut event = rings.remove(2);
    event.send_raw(s, &[descriptor(u64::MAX, u32::MAX, WRITE | 5, 0xffff)]);
    event.publish(s, 0xffff);
    event.kick(s);
    probe(s, Device::Vsock);
    s.case("a receive queue that breaks while packets wait for it", "Cloud Hypervisor #8142");
    let mut bench = Bench::new(s);
    bench.send(s, Packet::new(1, CLOSED_PORT, REQUEST));
    bench.rx.publish(s, 0xffff);
    bench.rx.kick(s);
    let base = s.base(Device::Vsock);
    wait_broken(s, base);
    probe(s, Device::Vsock);
}
