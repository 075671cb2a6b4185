//! Rings, descriptors and buffers that change while a device works: a second thread writes to them all the time. The
//! device may ask for a reset, or serve what it finds; then it must serve a good request, and neither memory nor
//! descriptors grow. One test in a program of its own, because it measures its process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use hutch_devices::ram::PlugMap;
use hutch_devices::testing::Buffer::{Readable, Writable};
use hutch_devices::testing::{Buffer, Driver};
use hutch_devices::virtio::block::{Block, BlockDeviceConfig};
use hutch_devices::virtio::device::RING_FEATURES;
use hutch_devices::virtio::fs::{Fs, FsDeviceConfig};
use hutch_devices::virtio::mem::{Mem, RegionMemory, BLOCK_SIZE};
use hutch_devices::virtio::net::{Net, NetBackend};
use hutch_devices::virtio::rng::Rng;
use hutch_devices::virtio::vsock::{Vsock, VsockDeviceConfig};
use hutch_devices::virtio::VirtioDevice;
use nix::sys::socket::{send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};
use proptest::prelude::*;
use vm_memory::GuestAddress;

/// Bytes from the first ring on that change: rings, descriptors and the first buffers.
const CHANGING: u64 = 16 << 10;
/// Most that this process may grow by after its first cases.
const GROWTH_MIB: u64 = 48;

/// Panics of devices' threads, which only ask for a reset where panics unwind, as in tests.
static PANICS: AtomicU32 = AtomicU32::new(0);

struct Link(OwnedFd);

impl NetBackend for Link {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

struct NoMemory;

impl RegionMemory for NoMemory {
    fn plug(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn unplug(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rng,
    Block,
    Net,
    Vsock,
    Fs,
    Mem,
}

/// A device, the queue that takes requests, a good request, and what has to live as long.
struct Bench {
    device: Box<dyn VirtioDevice>,
    features: u64,
    queue: usize,
    request: Vec<u8>,
    room: u32,
    /// Bytes that the used ring reports for the request.
    used: u32,
    /// The host's end of a link, for frames to the guest.
    host: Option<OwnedFd>,
    _alive: Box<dyn std::any::Any>,
}

fn bench(kind: Kind) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    match kind {
        Kind::Rng => Bench {
            device: Box::new(Rng::new("rng")),
            features: RING_FEATURES,
            queue: 0,
            request: Vec::new(),
            room: 16,
            used: 16,
            host: None,
            _alive: Box::new(()),
        },
        Kind::Block => {
            let path = dir.path().join("disk");
            std::fs::write(&path, vec![7; 1 << 20]).unwrap();
            let config = BlockDeviceConfig { id: "blk".into(), path, read_only: false, serial: None };
            Bench {
                device: Box::new(Block::new(config).unwrap()),
                features: RING_FEATURES,
                queue: 0,
                request: vec![0; 16],
                room: 513,
                used: 513,
                host: None,
                _alive: Box::new(dir),
            }
        }
        Kind::Net => {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let (fd, host) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
            let net = Net::with_backend("net".into(), Arc::new(Link(fd)), [2, 0, 0, 0, 0, 1], None).unwrap();
            Bench {
                device: Box::new(net),
                features: RING_FEATURES | 1 << 15,
                queue: 1,
                request: vec![0; 72],
                room: 0,
                used: 0,
                host: Some(host),
                _alive: Box::new(()),
            }
        }
        Kind::Vsock => {
            let (device, handle) = Vsock::new(VsockDeviceConfig { guest_cid: 3 });
            let listener = handle.listen(1024).unwrap();
            let mut request = vec![0; 44];
            (request[0], request[8], request[16], request[28], request[30]) = (3, 2, 9, 1, 1);
            request[21] = 4;
            Bench {
                device: Box::new(device),
                features: RING_FEATURES,
                queue: 1,
                request,
                room: 0,
                used: 0,
                host: None,
                _alive: Box::new((handle, listener)),
            }
        }
        Kind::Fs => {
            std::fs::write(dir.path().join("file"), "contents").unwrap();
            let config = FsDeviceConfig {
                id: "fs".into(),
                tag: "fs".into(),
                path: dir.path().to_owned(),
                ..FsDeviceConfig::default()
            };
            // INIT of protocol 7.31, and its answer.
            let mut request = vec![0; 56];
            (request[0], request[4], request[8], request[40], request[44]) = (56, 26, 1, 7, 31);
            Bench {
                device: Box::new(Fs::new(config).unwrap()),
                features: RING_FEATURES,
                queue: 1,
                request,
                room: 80,
                used: 80,
                host: None,
                _alive: Box::new(dir),
            }
        }
        Kind::Mem => {
            let addr = 4_u64 << 30;
            let map = Arc::new(PlugMap::new(addr, 8 * BLOCK_SIZE, BLOCK_SIZE));
            let (device, handle) = Mem::new("mem", map, Arc::new(NoMemory));
            handle.request(4 * BLOCK_SIZE);
            let mut request = vec![0; 24];
            request[0] = 3;
            request[8..16].copy_from_slice(&addr.to_le_bytes());
            request[16] = 1;
            Bench {
                device: Box::new(device),
                features: RING_FEATURES | 2,
                queue: 0,
                request,
                room: 10,
                used: 10,
                host: None,
                _alive: Box::new(handle),
            }
        }
    }
}

/// Buffers of a request: to be read if there are bytes, then to be written if there is room, the last byte alone.
fn buffers(request: &[u8], room: u32) -> Vec<Buffer<'_>> {
    let mut all = Vec::new();
    if !request.is_empty() {
        all.push(Readable(request));
    }
    if room > 0 {
        all.extend([Writable(room - 1), Writable(1)]);
    }
    all
}

/// A value written again and again.
#[derive(Clone, Debug)]
struct Change {
    at: u64,
    bytes: Vec<u8>,
}

fn change() -> impl Strategy<Value = Change> {
    // Small numbers are indices, flags and lengths; others are addresses of memory, or nothing at all.
    let word = prop_oneof![0..70_u64, 0..9_u64 << 20, any::<u64>()];
    let bytes = (word, prop::sample::select(&[1_usize, 2, 2, 4, 8][..]));
    let bytes = bytes.prop_map(|(word, len)| word.to_le_bytes()[..len].to_vec());
    (prop_oneof![0..2048_u64, 0..CHANGING - 8], bytes).prop_map(|(at, bytes)| Change { at, bytes })
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Attacks a device, with a reset after each attack. Returns the number of attacks that broke it.
fn attack(kind: Kind, changes: &[Change], rounds: u32, resets: u32) -> u32 {
    let Bench { device, features, queue, request, room, used, host, _alive } = bench(kind);
    let mut driver = Driver::new(device);
    let mut broken = 0;
    for _ in 0..resets {
        driver.start(features);
        let first = driver.queues[0].addresses()[0];
        let over = AtomicBool::new(false);
        let ram = driver.ram.again();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for change in changes {
                        ram.write(GuestAddress(first + change.at), &change.bytes);
                    }
                }
            });
            for _ in 0..rounds {
                for at in 0..driver.queues.len() {
                    driver.queues[at].add(&buffers(&request, if at == queue { room } else { room.max(64) }));
                    driver.queues[at].kick();
                }
                if let Some(host) = &host {
                    // The device may take none.
                    let _ = send(host.as_raw_fd(), &[0; 112], MsgFlags::MSG_DONTWAIT);
                }
                driver.status();
            }
            over.store(true, Ordering::Relaxed);
        });
        broken += u32::from(driver.needs_reset());
    }
    driver.start(features);
    let queue = &mut driver.queues[queue];
    assert_eq!(queue.transact(&buffers(&request, room)).0.len, used, "a good request of {kind:?}");
    assert!(!driver.needs_reset());
    broken
}

/// The cases so far. After the first ones memory must not grow.
#[derive(Default)]
struct Progress {
    cases: u32,
    mib: u64,
    attacks: u32,
    broken: u32,
}

#[test]
fn devices_bear_rings_that_change() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let devices = ["rng", "blk", "net", "vsock", "fs", "mem"];
        if std::thread::current().name().is_some_and(|name| devices.iter().any(|device| name.starts_with(device))) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        report(panic);
    }));
    let kinds = [Kind::Rng, Kind::Block, Kind::Net, Kind::Vsock, Kind::Fs, Kind::Mem];
    let progress = std::cell::RefCell::new(Progress::default());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let changes = prop::collection::vec(change(), 1..40);
    let strategy = (prop::sample::select(kinds.to_vec()), changes, 1..20_u32, 1..4_u32);
    let result = runner.run(&strategy, |(kind, changes, rounds, resets)| {
        let before = descriptors();
        let broken = attack(kind, &changes, rounds, resets);
        prop_assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a device's thread panicked");
        prop_assert_eq!(descriptors(), before, "descriptors");
        let mut progress = progress.borrow_mut();
        progress.cases += 1;
        progress.attacks += resets;
        progress.broken += broken;
        if progress.cases == 30 {
            progress.mib = resident_mib();
        }
        prop_assert!(progress.cases <= 30 || resident_mib() <= progress.mib + GROWTH_MIB, "memory");
        Ok(())
    });
    result.unwrap();
    let Progress { attacks, broken, .. } = progress.into_inner();
    assert!(0 < broken && broken < attacks, "the changes reach devices that work: {broken} of {attacks} broke");
}
