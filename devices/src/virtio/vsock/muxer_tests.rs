use std::io::{Read, Write};
use std::sync::mpsc::Receiver;
use std::thread;

use super::*;
use crate::testing::{DriverQueue, Line, TestRam};
use crate::virtio::vsock::credit::BUF_ALLOC;
use crate::virtio::vsock::guest::{packet, TestGuest, GUEST_CID, RX_BUFFER};
use crate::virtio::vsock::handle::VsockHandle;
use crate::virtio::vsock::packet::{HEADER_LEN, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::virtio::DeviceQueue;
use crate::GuestRam;

const PORTS: Ports = Ports { host: 1024, guest: 5000 };
const SECOND: Duration = Duration::from_secs(1);

/// A muxer and a guest, on the thread of the test.
pub struct MuxerBench {
    pub muxer: Muxer,
    pub handle: VsockHandle,
    pub guest: TestGuest,
    mem: GuestRam,
    rx: DeviceQueue,
    tx: DeviceQueue,
}

impl MuxerBench {
    /// A guest with `buffers` receive buffers of the size that Linux posts.
    pub fn new(buffers: usize) -> Self {
        let ram = TestRam::new();
        let queue = || DriverQueue::new(&ram, &Line::default().into(), 256, 0);
        let mut guest = TestGuest::new(&ram, queue(), queue());
        guest.post(buffers, RX_BUFFER);
        let shared = Arc::new(VsockShared::default());
        Self {
            muxer: Muxer::new(GUEST_CID, shared.clone()).unwrap(),
            handle: VsockHandle::new(shared),
            mem: ram.share(),
            rx: guest.rx.device_side(),
            tx: guest.tx.device_side(),
            guest,
        }
    }

    /// One round of the worker.
    pub fn step(&mut self) {
        while let Some(chain) = self.tx.pop(&self.mem).unwrap() {
            let mut reader = chain.reader(&self.mem);
            let mut bytes = [0; HEADER_LEN];
            if reader.read_exact(&mut bytes).is_ok() {
                self.muxer.packet(&PacketHeader::parse(&bytes), reader);
            }
            self.tx.complete(&self.mem, chain.head(), 0).unwrap();
        }
        self.muxer.commands();
        self.muxer.host_events().unwrap();
        self.muxer.fill(&mut RxRing::new(&mut self.rx, &self.mem, usize::MAX)).unwrap();
    }

    /// Sends a packet and runs one round of the worker.
    pub fn send(&mut self, header: PacketHeader, payload: &[u8]) {
        self.guest.send(header, payload);
        self.step();
    }

    /// Runs one round of the worker and takes the next packet.
    pub fn receive(&mut self) -> Option<(PacketHeader, Vec<u8>)> {
        self.step();
        self.guest.receive()
    }

    /// Takes the next packet, which must be of this kind.
    #[track_caller]
    pub fn expect(&mut self, op: Op) -> (PacketHeader, Vec<u8>) {
        let (header, payload) = self.receive().expect("a packet for the guest");
        assert_eq!(header.op(), Some(op), "{header:?}");
        (header, payload)
    }

    #[track_caller]
    pub fn expect_nothing(&mut self) {
        assert_eq!(self.receive(), None);
    }

    /// Establishes a connection from the guest.
    #[track_caller]
    pub fn connected(&mut self) -> (Receiver<UnixStream>, UnixStream) {
        let listener = self.handle.listen(PORTS.host).unwrap();
        self.send(packet(PORTS, Op::Request), &[]);
        let (response, _) = self.expect(Op::Response);
        assert_eq!(response.buf_alloc, BUF_ALLOC);
        let stream = listener.try_recv().unwrap();
        (listener, stream)
    }

    fn rw(&mut self, payload: &[u8]) {
        self.send(packet(PORTS, Op::Rw), payload);
    }

    fn shutdown(&mut self, flags: u32) {
        self.send(PacketHeader { flags, ..packet(PORTS, Op::Shutdown) }, &[]);
    }
}

fn read_all(mut stream: UnixStream) -> Vec<u8> {
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    data
}

#[test]
fn a_guest_connects_to_a_listener_and_bytes_go_both_ways() {
    let mut bench = MuxerBench::new(8);
    let (_listener, mut stream) = bench.connected();
    bench.rw(b"ping");
    let mut text = [0; 4];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
    stream.write_all(b"pong").unwrap();
    let (header, payload) = bench.expect(Op::Rw);
    assert_eq!(payload, b"pong");
    assert_eq!((header.src_port, header.dst_port, header.dst_cid), (PORTS.host, PORTS.guest, GUEST_CID));
    bench.expect_nothing();
}

#[test]
fn a_port_without_listener_is_refused_and_so_is_one_whose_listener_is_gone() {
    let mut bench = MuxerBench::new(8);
    bench.send(packet(PORTS, Op::Request), &[]);
    bench.expect(Op::Rst);
    drop(bench.handle.listen(PORTS.host).unwrap());
    bench.send(packet(PORTS, Op::Request), &[]);
    bench.expect(Op::Rst);
    // The refusal removed the listener, so the port is free.
    let _listener = bench.handle.listen(PORTS.host).unwrap();
    assert_eq!(bench.handle.listen(PORTS.host).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    bench.handle.unlisten(PORTS.host);
    bench.handle.listen(PORTS.host).unwrap();
}

#[test]
fn the_host_connects_and_the_guest_accepts_or_refuses() {
    let mut bench = MuxerBench::new(8);
    for accept in [true, false] {
        let handle = bench.handle.clone();
        let caller = thread::spawn(move || handle.connect(77, 20 * SECOND));
        let request = loop {
            if let Some((header, _)) = bench.receive() {
                break header;
            }
            thread::yield_now();
        };
        assert_eq!((request.op(), request.dst_port, request.buf_alloc), (Some(Op::Request), 77, BUF_ALLOC));
        let ports = Ports { host: request.src_port, guest: 77 };
        bench.send(packet(ports, if accept { Op::Response } else { Op::Rst }), &[]);
        let result = caller.join().unwrap();
        if accept {
            result.unwrap().write_all(b"hi").unwrap();
            assert_eq!(bench.expect(Op::Rw).1, b"hi");
            assert_eq!(bench.expect(Op::Shutdown).0.flags, SHUTDOWN_BOTH);
        } else {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn a_request_without_answer_times_out_and_the_guest_gets_a_reset() {
    let mut bench = MuxerBench::new(8);
    assert_eq!(bench.handle.connect(77, Duration::ZERO).unwrap_err().kind(), io::ErrorKind::TimedOut);
    bench.expect_nothing();
    // If a worker has taken the request, the cancellation comes after it.
    let shared = bench.muxer.shared.clone();
    shared.set_wake(Some(vmm_sys_util::eventfd::EventFd::new(0).unwrap()));
    let handle = bench.handle.clone();
    let caller = thread::spawn(move || handle.connect(77, Duration::from_millis(50)));
    while bench.receive().is_none() {
        thread::yield_now();
    }
    assert_eq!(caller.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    bench.expect(Op::Rst);
    assert_eq!(bench.muxer.counts(), (0, 0, 0));
}

#[test]
fn packets_that_make_no_sense_are_refused_or_dropped() {
    let mut bench = MuxerBench::new(8);
    let _listener = bench.handle.listen(PORTS.host).unwrap();
    // 5.10.6: unknown socket types, SEQPACKET among them, are answered with RST of that type.
    for kind in [0, 2, 77] {
        bench.send(PacketHeader { kind, ..packet(PORTS, Op::Request) }, &[]);
        let (rst, _) = bench.expect(Op::Rst);
        assert_eq!(rst.kind, kind);
    }
    for (src_cid, dst_cid) in [(4, 2), (GUEST_CID, 1), (GUEST_CID, u64::MAX), (2, GUEST_CID)] {
        bench.send(PacketHeader { src_cid, dst_cid, ..packet(PORTS, Op::Request) }, &[]);
    }
    bench.send(packet(PORTS, Op::Rst), &[]);
    bench.expect_nothing();
    for op in [Op::Response, Op::Rw, Op::Shutdown, Op::CreditUpdate, Op::CreditRequest] {
        bench.send(packet(PORTS, op), &[]);
        bench.expect(Op::Rst);
    }
    bench.send(PacketHeader { op: 99, ..packet(PORTS, Op::Rw) }, &[]);
    bench.expect(Op::Rst);
}

#[test]
fn a_connection_that_breaks_the_protocol_is_reset_and_the_host_sees_the_end() {
    for (op, len) in [(1, 0), (2, 0), (99, 0), (5, 1000)] {
        let mut bench = MuxerBench::new(8);
        let (_listener, stream) = bench.connected();
        bench.rw(b"before");
        bench.send(PacketHeader { op, len, ..packet(PORTS, Op::Rw) }, b"short");
        bench.expect(Op::Rst);
        assert_eq!(read_all(stream), b"before");
        assert_eq!(bench.muxer.counts(), (0, 0, 0));
    }
}

#[test]
fn bytes_that_the_host_does_not_read_are_bounded_by_credit_and_recover() {
    let mut bench = MuxerBench::new(8);
    let (_listener, stream) = bench.connected();
    let block = [9u8; 32 * 1024];
    let mut sent = 0usize;
    let mut forwarded = 0;
    while sent - forwarded as usize + block.len() <= BUF_ALLOC as usize {
        bench.rw(&block);
        sent += block.len();
        while let Some((header, _)) = bench.receive() {
            assert_eq!(header.op(), Some(Op::CreditUpdate));
            forwarded = header.fwd_cnt;
        }
        assert!(bench.muxer.buffered() <= BUF_ALLOC as usize);
    }
    // The guest is out of credit. Now the host reads, which the device reports to the guest.
    let reader = thread::spawn(move || read_all(stream));
    let update = loop {
        if let Some((header, _)) = bench.receive() {
            break header;
        }
        thread::yield_now();
    };
    assert_eq!(update.op(), Some(Op::CreditUpdate));
    assert!(update.fwd_cnt > forwarded);
    bench.shutdown(SHUTDOWN_BOTH);
    while bench.muxer.buffered() > 0 {
        bench.step();
        thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().len(), sent);
}

#[test]
fn a_guest_that_sends_more_than_its_credit_is_reset() {
    let mut bench = MuxerBench::new(8);
    let (_listener, _stream) = bench.connected();
    let block = [0u8; 64 * 1024];
    for _ in 0..100 {
        bench.rw(&block);
        assert!(bench.muxer.buffered() <= BUF_ALLOC as usize);
        while let Some((header, _)) = bench.receive() {
            if header.op() == Some(Op::Rst) {
                return;
            }
        }
    }
    panic!("the device took everything");
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let mut bench = MuxerBench::new(8);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    bench.send(PacketHeader { buf_alloc: 1000, ..packet(PORTS, Op::Request) }, &[]);
    bench.expect(Op::Response);
    let mut stream = listener.recv().unwrap();
    stream.write_all(&[5; 2500]).unwrap();
    assert_eq!(bench.expect(Op::Rw).1.len(), 1000);
    bench.expect(Op::CreditRequest);
    bench.expect_nothing();
    bench.send(PacketHeader { buf_alloc: 1000, fwd_cnt: 700, ..packet(PORTS, Op::CreditUpdate) }, &[]);
    assert_eq!(bench.expect(Op::Rw).1.len(), 700);
    bench.expect(Op::CreditRequest);
    bench.send(PacketHeader { buf_alloc: 1000, fwd_cnt: 1700, ..packet(PORTS, Op::CreditUpdate) }, &[]);
    assert_eq!(bench.expect(Op::Rw).1.len(), 800);
    bench.expect_nothing();
    bench.send(packet(PORTS, Op::CreditRequest), &[]);
    bench.expect(Op::CreditUpdate);
}

#[test]
fn a_half_close_of_the_host_leaves_the_other_direction_open() {
    let mut bench = MuxerBench::new(8);
    let (_listener, mut stream) = bench.connected();
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.expect(Op::Rw).1, b"all of it");
    assert_eq!(bench.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    bench.rw(b"answer");
    let mut text = [0; 6];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"answer");
    drop(stream);
    assert_eq!(bench.expect(Op::Shutdown).0.flags, SHUTDOWN_BOTH);
    bench.send(packet(PORTS, Op::Rst), &[]);
    bench.expect_nothing();
    assert_eq!(bench.muxer.counts(), (0, 0, 0));
}

#[test]
fn a_half_close_of_the_guest_leaves_the_other_direction_open() {
    let mut bench = MuxerBench::new(8);
    let (_listener, mut stream) = bench.connected();
    bench.rw(b"last");
    bench.shutdown(SHUTDOWN_SEND);
    let mut text = Vec::new();
    (&stream).read_to_end(&mut text).unwrap();
    assert_eq!(text, b"last");
    stream.write_all(b"still").unwrap();
    assert_eq!(bench.expect(Op::Rw).1, b"still");
    // Bytes after the end break the protocol.
    bench.rw(b"x");
    bench.expect(Op::Rst);
}

#[test]
fn a_guest_that_receives_no_more_makes_writes_of_the_host_fail() {
    let mut bench = MuxerBench::new(8);
    let (_listener, mut stream) = bench.connected();
    bench.shutdown(SHUTDOWN_RECEIVE);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    bench.rw(b"but sends");
    bench.shutdown(SHUTDOWN_BOTH);
    bench.expect(Op::Rst);
    assert_eq!(read_all(stream), b"but sends");
}

#[test]
fn a_guest_that_prints_and_exits_at_once_loses_nothing() {
    let mut bench = MuxerBench::new(8);
    let (_listener, mut stream) = bench.connected();
    stream.write_all(b"never read by the guest").unwrap();
    let mut sent = 0;
    while bench.muxer.buffered() < 100_000 {
        bench.rw(&[1; 20_000]);
        sent += 20_000;
    }
    bench.shutdown(SHUTDOWN_BOTH);
    let mut ops = Vec::new();
    while let Some((header, _)) = bench.receive() {
        ops.push(header.op().unwrap());
    }
    // The guest is answered at once; it may even use the port again.
    assert_eq!(ops.last(), Some(&Op::Rst));
    bench.send(packet(PORTS, Op::Request), &[]);
    bench.expect(Op::Response);
    let reader = thread::spawn(move || read_all(stream));
    while bench.muxer.counts().1 > 0 {
        bench.step();
        thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().len(), sent);
}

/// The host's end of a drained stream: a guest without credit has taken none of the host's bytes.
#[test]
fn bytes_that_the_guest_never_took_do_not_spoil_the_end_of_a_drained_stream() {
    let mut bench = MuxerBench::new(8);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    let poor = |op| PacketHeader { buf_alloc: 0, ..packet(PORTS, op) };
    bench.send(poor(Op::Request), &[]);
    let mut stream = listener.try_recv().unwrap();
    stream.write_all(b"never read by the guest").unwrap();
    let mut sent = 0;
    while bench.muxer.buffered() < 100_000 {
        bench.send(poor(Op::Rw), &[1; 20_000]);
        sent += 20_000;
    }
    bench.send(PacketHeader { flags: SHUTDOWN_BOTH, ..poor(Op::Shutdown) }, &[]);
    assert_eq!(bench.muxer.drains.len(), 1);
    let reader = thread::spawn(move || read_all(stream));
    while !bench.muxer.drains.is_empty() {
        bench.step();
        thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().len(), sent);
}

#[test]
fn everything_the_host_wrote_before_closing_arrives_and_the_guest_may_be_slow_to_confirm() {
    let mut bench = MuxerBench::new(8);
    let (_listener, mut stream) = bench.connected();
    let data: Vec<u8> = (0..100_000u32).map(|index| index as u8).collect();
    stream.write_all(&data).unwrap();
    drop(stream);
    let mut received = Vec::new();
    let mut flags = 0;
    while let Some((header, payload)) = bench.receive() {
        match header.op() {
            Some(Op::Rw) => received.extend(payload),
            Some(Op::Shutdown) => flags |= header.flags,
            op => panic!("{op:?}"),
        }
    }
    assert!(received == data);
    assert_eq!(flags, SHUTDOWN_BOTH);
    let deadline = bench.muxer.deadline().unwrap();
    bench.muxer.expire(deadline - SECOND);
    bench.expect_nothing();
    bench.muxer.expire(deadline);
    bench.expect(Op::Rst);
    assert_eq!(bench.muxer.counts(), (0, 0, 0));
}

#[test]
fn a_guest_that_sends_to_a_host_that_left_gets_a_shutdown_and_is_not_stopped() {
    let mut bench = MuxerBench::new(8);
    let (_listener, stream) = bench.connected();
    stream.shutdown(std::net::Shutdown::Read).unwrap();
    for _ in 0..10 {
        bench.rw(&[0; 60_000]);
    }
    assert_eq!(bench.muxer.buffered(), 0);
    let mut flags = 0;
    while let Some((header, _)) = bench.receive() {
        flags |= if header.op() == Some(Op::Shutdown) { header.flags } else { 0 };
    }
    assert_eq!(flags, SHUTDOWN_RECEIVE);
}

#[test]
fn a_slow_connection_does_not_hold_up_another() {
    let mut bench = MuxerBench::new(64);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    let other = Ports { guest: 6000, ..PORTS };
    bench.send(PacketHeader { buf_alloc: 10, ..packet(PORTS, Op::Request) }, &[]);
    bench.send(packet(other, Op::Request), &[]);
    bench.expect(Op::Response);
    bench.expect(Op::Response);
    let (mut slow, mut quick) = (listener.recv().unwrap(), listener.recv().unwrap());
    // Both directions of the slow one are full.
    slow.write_all(&[1; 1000]).unwrap();
    while bench.muxer.buffered() < 50_000 {
        bench.rw(&[2; 10_000]);
    }
    while bench.receive().is_some() {}
    quick.write_all(b"through").unwrap();
    let (header, payload) = bench.expect(Op::Rw);
    assert_eq!((header.dst_port, payload), (6000, b"through".to_vec()));
    bench.send(packet(other, Op::Rw), b"and back");
    let mut text = [0; 8];
    quick.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"and back");
}

#[test]
fn a_flood_of_requests_is_bounded() {
    let mut bench = MuxerBench::new(0);
    bench.muxer.limit = 200;
    let listener = bench.handle.listen(PORTS.host).unwrap();
    let mut streams = Vec::new();
    for guest in 0..3000 {
        bench.send(packet(Ports { guest, ..PORTS }, Op::Request), &[]);
        streams.extend(listener.try_recv());
    }
    assert_eq!(streams.len(), 200);
    assert_eq!(bench.muxer.counts(), (200, 0, MAX_REFUSALS));
    // The host gets no further connections either.
    let handle = bench.handle.clone();
    let caller = thread::spawn(move || handle.connect(1, 20 * SECOND).unwrap_err());
    while !caller.is_finished() {
        bench.step();
        thread::yield_now();
    }
    assert!(caller.join().unwrap().to_string().contains("200"));
    drop(streams);
    bench.guest.post(200, RX_BUFFER);
    while bench.receive().is_some() {}
    bench.muxer.expire(Instant::now() + 2 * SHUTDOWN_TIMEOUT);
    while bench.receive().is_some() {}
    assert_eq!(bench.muxer.counts(), (0, 0, 0));
}

#[test]
fn connections_that_are_not_accepted_are_refused_past_the_backlog() {
    let mut bench = MuxerBench::new(0);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    for guest in 0..500 {
        bench.send(packet(Ports { guest, ..PORTS }, Op::Request), &[]);
    }
    assert_eq!(bench.muxer.counts().0, 128);
    assert_eq!(listener.try_iter().count(), 128);
}

#[test]
fn receive_buffers_of_odd_sizes_are_used_as_far_as_they_go() {
    let mut bench = MuxerBench::new(0);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    bench.send(packet(PORTS, Op::Request), &[]);
    let mut stream = listener.recv().unwrap();
    // Too small for a header, exactly a header, a header and a byte, and a large one.
    for len in [44, 1, 43, 44, 45, 44, 200_000] {
        bench.guest.post(1, len);
    }
    stream.write_all(&[3; 100_000]).unwrap();
    bench.step();
    let lengths: Vec<u32> = std::iter::from_fn(|| bench.guest.rx.used()).map(|used| used.len).collect();
    assert_eq!(lengths, [44, 0, 0, 0, 45, 0, 44 + 65536]);
}

#[test]
fn without_driver_every_connection_ends_and_requests_wait_for_the_next() {
    let mut bench = MuxerBench::new(8);
    let (_listener, stream) = bench.connected();
    let mut sent = 0;
    while bench.muxer.buffered() < 50_000 {
        bench.rw(&[1; 20_000]);
        sent += 20_000;
    }
    let handle = bench.handle.clone();
    let caller = thread::spawn(move || handle.connect(9, 20 * SECOND));
    while bench.receive().is_none_or(|(header, _)| header.op() != Some(Op::Request)) {
        thread::yield_now();
    }
    bench.muxer.disconnect();
    assert_eq!(read_all(stream).len(), sent);
    assert_eq!(bench.muxer.counts(), (0, 0, 0));

    let shared = bench.muxer.shared.clone();
    bench.muxer = Muxer::new(GUEST_CID, shared.clone()).unwrap();
    bench.expect(Op::Request);
    bench.muxer.disconnect();
    shared.close();
    assert_eq!(caller.join().unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(bench.handle.connect(9, SECOND).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

/// A guest that takes no packets, keeps a connection that wants a turn, and opens and ends others.
#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let mut bench = MuxerBench::new(0);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    bench.send(packet(PORTS, Op::Request), &[]);
    let _first = listener.try_recv().unwrap();
    let other = Ports { guest: PORTS.guest + 1, ..PORTS };
    for _ in 0..1000 {
        bench.send(packet(other, Op::Request), &[]);
        bench.send(packet(other, Op::Rst), &[]);
        assert_eq!(listener.try_iter().count(), 1);
        for (name, count, bound) in bench.muxer.bounds() {
            assert!(count <= bound, "{name}: {count} of {bound}");
        }
    }
    assert_eq!(bench.muxer.turns.len(), 1);
}

/// A guest that takes every packet, and ends each connection before its time to confirm is over.
#[test]
fn connections_that_are_confirmed_in_time_have_no_deadline() {
    let mut bench = MuxerBench::new(8);
    let listener = bench.handle.listen(PORTS.host).unwrap();
    for _ in 0..50 {
        bench.send(packet(PORTS, Op::Request), &[]);
        bench.expect(Op::Response);
        drop(listener.try_recv().unwrap());
        assert_eq!(bench.expect(Op::Shutdown).0.flags, SHUTDOWN_BOTH);
        bench.send(packet(PORTS, Op::Rst), &[]);
        assert_eq!((bench.muxer.closing.len(), bench.muxer.deadline()), (0, None));
    }
}
