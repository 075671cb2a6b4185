//! Arbitrary packets and arbitrary behaviour of the host: nothing panics, nothing exceeds its bound, and a valid
//! connection still works afterwards.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::sync_channel;

use proptest::prelude::*;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::tests::MuxerBench;
use super::*;
use crate::virtio::vsock::guest::{packet, GUEST_CID, RX_BUFFER};

#[derive(Clone, Debug)]
enum Action {
    Packet(PacketHeader, usize),
    /// The guest takes packets and posts their buffers again.
    Take(usize),
    Post(u32),
    Write(usize, usize),
    Read(usize, usize),
    Shutdown(usize, Shutdown),
    Close(usize),
    /// The host asks for a connection to a port of the guest, or cancels a request.
    Connect(u32),
    Cancel(u64),
    Expire,
}

const LISTENER: u32 = 50;

fn port() -> impl Strategy<Value = u32> {
    // Ports from 2^30 on are those of the host's own requests.
    prop_oneof![8 => Just(LISTENER), 2 => 49..53u32, 2 => 1 << 30..(1 << 30) + 4u32, 1 => any::<u32>()]
}

fn header() -> impl Strategy<Value = PacketHeader> {
    let cids = prop_oneof![20 => Just((GUEST_CID, HOST_CID)), 1 => any::<(u64, u64)>()];
    let kind = prop_oneof![20 => Just(TYPE_STREAM), 1 => any::<u16>()];
    let op = prop_oneof![20 => 1..8u16, 1 => any::<u16>()];
    let len = prop_oneof![20 => Just(0), 1 => any::<u32>()];
    let flags = prop_oneof![10 => 0..4u32, 1 => any::<u32>()];
    let credit = prop_oneof![4 => Just((1u32 << 20, 0)), 1 => (0..5000u32, 0..5000u32), 1 => any::<(u32, u32)>()];
    (cids, port(), 1..4u32, kind, op, len, flags, credit).prop_map(
        |((src_cid, dst_cid), dst_port, src_port, kind, op, len, flags, (buf_alloc, fwd_cnt))| PacketHeader {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        10 => (header(), 0..60_000usize).prop_map(|(header, len)| Action::Packet(header, len)),
        2 => (1..5u32).prop_map(|guest| {
            Action::Packet(packet(Ports { host: LISTENER, guest }, Op::Request), 0)
        }),
        3 => (0..10usize).prop_map(Action::Take),
        1 => (0..300u32).prop_map(Action::Post),
        2 => (any::<usize>(), 1..30_000usize).prop_map(|(which, len)| Action::Write(which, len)),
        2 => (any::<usize>(), 1..100_000usize).prop_map(|(which, len)| Action::Read(which, len)),
        1 => (any::<usize>(), prop_oneof![Just(Shutdown::Read), Just(Shutdown::Write), Just(Shutdown::Both)])
            .prop_map(|(which, how)| Action::Shutdown(which, how)),
        1 => any::<usize>().prop_map(Action::Close),
        2 => (1..5u32).prop_map(Action::Connect),
        1 => (0..20u64).prop_map(Action::Cancel),
        1 => Just(Action::Expire),
    ]
}

fn pick(streams: &[UnixStream], which: usize) -> Option<&UnixStream> {
    streams.get(which.checked_rem(streams.len())?)
}

/// Ignores the results of the host's calls, since their peer may be gone.
fn act(bench: &mut MuxerBench, streams: &mut Vec<UnixStream>, action: Action) {
    match action {
        Action::Packet(header, len) => bench.guest.send(header, &vec![1; len]),
        Action::Take(count) => drop((0..count).map_while(|_| bench.guest.receive()).count()),
        Action::Post(len) => bench.guest.post(1, len),
        Action::Write(which, len) => {
            drop(pick(streams, which).map(|mut stream| stream.write(&vec![2; len])));
        }
        Action::Read(which, len) => {
            drop(pick(streams, which).map(|mut stream| stream.read(&mut vec![0; len])));
        }
        Action::Shutdown(which, how) => drop(pick(streams, which).map(|stream| stream.shutdown(how))),
        Action::Close(which) => {
            if let Some(index) = which.checked_rem(streams.len()) {
                streams.swap_remove(index);
            }
        }
        Action::Connect(port) => {
            // The answer is dropped with its stream.
            drop(bench.muxer.shared.submit(port, sync_channel(1).0));
        }
        Action::Cancel(id) => bench.muxer.shared.cancel(id),
        Action::Expire => bench.muxer.expire(Instant::now() + 2 * SHUTDOWN_TIMEOUT),
    }
}

proptest! {
    #[test]
    fn nothing_a_guest_or_host_does_breaks_the_muxer(
        // Without buffers, nothing that the device wants to send gets out.
        buffers in prop_oneof![Just(0), Just(4)],
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut bench = MuxerBench::new(buffers);
        bench.muxer.limit = 6;
        bench.muxer.shared.set_wake(Some(EventFd::new(EFD_NONBLOCK).unwrap()));
        let listener = bench.handle.listen(LISTENER).unwrap();
        let mut streams = Vec::new();
        for action in actions {
            act(&mut bench, &mut streams, action);
            bench.step();
            for stream in listener.try_iter() {
                stream.set_nonblocking(true).unwrap();
                streams.push(stream);
            }
            for (name, count, bound) in bench.muxer.bounds() {
                prop_assert!(count <= bound, "{}: {} of {}", name, count, bound);
            }
        }
        // The host closes all ends and the guest confirms nothing: everything is freed.
        streams.clear();
        bench.muxer.limit = 7;
        bench.guest.post(40, RX_BUFFER);
        for _ in 0..200 {
            bench.step();
            while bench.guest.receive().is_some() {}
        }
        // Connections with bytes for a guest that gives no credit may stay until the guest ends them.
        for guest in 1..5 {
            bench.send(packet(Ports { host: LISTENER, guest }, Op::Rst), &[]);
        }
        let ports = Ports { host: LISTENER, guest: 99 };
        bench.send(packet(ports, Op::Request), &[]);
        prop_assert!(bench.muxer.tokens.contains_key(&ports));
        let mut stream = listener.try_recv().unwrap();
        bench.send(packet(ports, Op::Rw), b"fine");
        let mut text = [0; 4];
        stream.read_exact(&mut text).unwrap();
        prop_assert_eq!(&text, b"fine");
    }
}
