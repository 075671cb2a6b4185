//! Attacks on the file server (VIRTIO 1.2, 5.11, and FUSE).

use super::driver::{descriptor, readable, start, wait_broken, writable, Buf, Device, Ring, INDIRECT, INDIRECT_DESC};
use super::driver::{start_with, NEXT, VERSION_1, WRITE};
use super::probes::{fuse, fuse_init, fuse_with_len, probe};
use super::script::{Script, RAM_END};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const READ: u32 = 15;
const WRITE_FILE: u32 = 16;
const RELEASE: u32 = 18;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const DESTROY: u32 = 38;
const IOCTL: u32 = 39;
const POLL: u32 = 40;
const BATCH_FORGET: u32 = 42;
const FALLOCATE: u32 = 43;
const SETUP_MAPPING: u32 = 48;

const ROOT: u64 = 1;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

/// A started share and its request queue.
struct Bench {
    requests: Ring,
    answer: u64,
}

impl Bench {
    #[track_caller]
    fn new(s: &mut Script) -> Self {
        let requests = start(s, Device::Fs).remove(1);
        Self { requests, answer: s.alloc(0x1000, 16) }
    }

    #[track_caller]
    fn mounted(s: &mut Script) -> Self {
        let mut bench = Self::new(s);
        bench.ask(s, &fuse(INIT, 0, &fuse_init()));
        s.expect(4, bench.answer + 4, 0);
        bench
    }

    /// Sends a request and waits for its answer, which may be an error.
    fn ask(&mut self, s: &mut Script, request: &[u8]) {
        self.ask_with(s, request, 0x1000);
    }

    /// Does the same with less room for the answer.
    fn ask_with(&mut self, s: &mut Script, request: &[u8], room: u32) {
        let at = s.put(request);
        s.fill(self.answer, 16, 0);
        let all = [readable(at, request.len() as u32), writable(self.answer, room)];
        self.requests.send(s, if room == 0 { &all[..1] } else { &all });
        self.requests.wait_all(s);
    }

    /// Sends a request whose answer must be this error.
    #[track_caller]
    fn refused(&mut self, s: &mut Script, request: &[u8], errno: i32) {
        self.ask(s, request);
        s.expect(4, self.answer + 4, u64::from((-errno).cast_unsigned()));
    }

    /// Sends a request whose answer must be an error.
    #[track_caller]
    fn fails(&mut self, s: &mut Script, request: &[u8]) {
        self.ask(s, request);
        s.load(4, self.answer + 4);
        s.check(0x8000_0000, 0x8000_0000);
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Adds the cases.
pub fn add(s: &mut Script) {
    sessions(s);
    lengths(s);
    operations(s);
    forgets(s);
    names(s);
    queues(s);
}

fn sessions(s: &mut Script) {
    s.case("INIT twice", "virtiofsd, FUSE protocol: INIT begins a session");
    let mut bench = Bench::mounted(s);
    bench.ask(s, &fuse(INIT, 0, &fuse_init()));
    bench.ask(s, &fuse(GETATTR, ROOT, &[0; 16]));
    s.expect(4, bench.answer + 4, 0);
    probe(s, Device::Fs);
    s.case("INIT of any version, and cut", "FUSE protocol: versions");
    let mut bench = Bench::new(s);
    for (major, minor) in [(0, 0), (6, 99), (8, 0), (u32::MAX, u32::MAX), (7, 0), (7, 26)] {
        let mut init = fuse_init();
        init[..4].copy_from_slice(&major.to_le_bytes());
        init[4..8].copy_from_slice(&minor.to_le_bytes());
        bench.ask(s, &fuse(INIT, 0, &init));
    }
    for len in [0, 4, 15] {
        bench.ask(s, &fuse(INIT, 0, &fuse_init()[..len]));
    }
    probe(s, Device::Fs);
    s.case("requests before INIT and after DESTROY", "FUSE protocol: sessions");
    let mut bench = Bench::new(s);
    bench.ask(s, &fuse(LOOKUP, ROOT, b"file\0"));
    bench.ask(s, &fuse(DESTROY, 0, &[]));
    bench.ask(s, &fuse(LOOKUP, ROOT, b"file\0"));
    bench.ask(s, &fuse(DESTROY, 0, &[]));
    probe(s, Device::Fs);
}

fn lengths(s: &mut Script) {
    s.case("requests shorter than a header", "Cloud Hypervisor #8401; FUSE protocol");
    let mut bench = Bench::new(s);
    for len in [1, 4, 39] {
        bench.ask(s, &fuse(GETATTR, ROOT, &[])[..len]);
    }
    probe(s, Device::Fs);
    s.case("a header whose length lies", "FUSE protocol: fuse_in_header.len");
    let mut bench = Bench::mounted(s);
    for len in [0, 39, 57, 0x1000, u32::MAX] {
        bench.refused(s, &fuse_with_len(GETATTR, ROOT, &[0; 16], len), EIO);
    }
    probe(s, Device::Fs);
    s.case("no room for the answer", "FUSE protocol; VIRTIO 5.11.6");
    let mut bench = Bench::mounted(s);
    for room in [0, 1, 15] {
        bench.ask_with(s, &fuse(GETATTR, ROOT, &[0; 16]), room);
    }
    for room in [16, 17, 100] {
        bench.ask_with(s, &fuse(GETATTR, ROOT, &[0; 16]), room);
    }
    probe(s, Device::Fs);
    s.case("bodies that are cut", "FUSE protocol");
    let mut bench = Bench::mounted(s);
    for opcode in 1..=52 {
        if opcode != FORGET && opcode != BATCH_FORGET && opcode != 36 {
            bench.ask(s, &fuse(opcode, ROOT, &[]));
            bench.ask(s, &fuse(opcode, ROOT, &[1, 2, 3]));
        }
    }
    probe(s, Device::Fs);
    s.case("sizes in bodies that lie", "QEMU CVE-2023-3180 (lengths that are trusted)");
    let mut bench = Bench::mounted(s);
    bench.fails(s, &fuse(READ, ROOT, &words(&[0, 0, 0xffff_ffff, 0, 0])));
    bench.fails(s, &fuse(WRITE_FILE, ROOT, &words(&[0, 0, 0xffff_ffff, 0, 0])));
    bench.fails(s, &fuse(WRITE_FILE, ROOT, &words(&[u64::MAX, u64::MAX, 0x7fff_ffff, 0, 0])));
    bench.fails(s, &fuse(SETXATTR, ROOT, &[&words(&[0xffff_ffff])[..], b"user.x\0y"].concat()));
    bench.fails(s, &fuse(GETXATTR, ROOT, &[&words(&[0xffff_ffff])[..], b"user.x\0"].concat()));
    bench.fails(s, &fuse(FALLOCATE, ROOT, &words(&[0, u64::MAX, u64::MAX, 0])));
    probe(s, Device::Fs);
}

fn operations(s: &mut Script) {
    s.case("operations that do not exist or are not offered", "FUSE protocol: opcodes");
    let mut bench = Bench::mounted(s);
    for opcode in [0, 7, 19, IOCTL, POLL, SETUP_MAPPING, 49, 99, 4096, u32::MAX] {
        bench.refused(s, &fuse(opcode, ROOT, &[0; 64]), ENOSYS);
    }
    probe(s, Device::Fs);
    s.case("nodes and handles that do not exist", "virtiofsd; FUSE protocol");
    let mut bench = Bench::mounted(s);
    for node in [0, 2, 0x1234_5678, u64::MAX] {
        bench.fails(s, &fuse(GETATTR, node, &[0; 16]));
        bench.fails(s, &fuse(LOOKUP, node, b"file\0"));
        bench.fails(s, &fuse(OPENDIR, node, &[0; 8]));
    }
    for handle in [77, u64::MAX] {
        bench.fails(s, &fuse(READDIR, ROOT, &words(&[handle, 0, 4096, 0, 0])));
        bench.fails(s, &fuse(READ, ROOT, &words(&[handle, 0, 4096, 0, 0])));
        bench.ask(s, &fuse(RELEASE, ROOT, &words(&[handle, 0, 0])));
    }
    probe(s, Device::Fs);
}

fn forgets(s: &mut Script) {
    s.case(
        "a flood of FORGET, for nodes that do not exist and more often than they were found",
        "FUSE protocol: nlookup",
    );
    let mut bench = Bench::mounted(s);
    let (root, other) = (fuse(FORGET, ROOT, &words(&[u64::MAX])), fuse(FORGET, 0x5555, &words(&[u64::MAX])));
    let (root, other) = (s.put(&root), s.put(&other));
    let ring = &mut bench.requests;
    for _ in 0..100 {
        ring.send(s, &[readable(root, 48)]);
        ring.send(s, &[readable(other, 48)]);
        ring.wait_all(s);
    }
    bench.ask(s, &fuse(GETATTR, ROOT, &[0; 16]));
    s.expect(4, bench.answer + 4, 0);
    probe(s, Device::Fs);
    s.case("BATCH_FORGET whose count lies", "FUSE protocol: fuse_batch_forget_in");
    let mut bench = Bench::mounted(s);
    for count in [1, 2, 0xffff, u32::MAX] {
        let body = [&count.to_le_bytes()[..], &[0; 4], &words(&[0x55])].concat();
        bench.ask_with(s, &fuse(BATCH_FORGET, 0, &body), 0);
    }
    bench.ask(s, &fuse(GETATTR, ROOT, &[0; 16]));
    s.expect(4, bench.answer + 4, 0);
    probe(s, Device::Fs);
}

fn names(s: &mut Script) {
    s.case("names without an end, with slashes, and the way out", "Kata CVE-2026-47243; virtiofsd CVE-2020-35517");
    let mut bench = Bench::mounted(s);
    for name in [&b".."[..], b"../outside\0", b"/etc/passwd\0", b"..\0", b"a/b\0", b"\0", b"file"] {
        bench.fails(s, &fuse(LOOKUP, ROOT, name));
    }
    bench.fails(s, &fuse(LOOKUP, ROOT, &[[b'a'; 4000].as_slice(), &[0]].concat()));
    probe(s, Device::Fs);
}

fn queues(s: &mut Script) {
    s.case("a request in pieces of one byte", "Cloud Hypervisor #7803");
    let mut rings = start_with(s, Device::Fs, VERSION_1 | INDIRECT_DESC, 16);
    let (request, answer) = (s.put(&fuse(INIT, 0, &fuse_init())), s.alloc(80, 16));
    let mut table = Vec::new();
    (0..104).for_each(|at| table.extend(descriptor(request + u64::from(at), 1, NEXT, at + 1)));
    (0..80_u16).for_each(|at| {
        let flags = if at < 79 { NEXT | WRITE } else { WRITE };
        table.extend(descriptor(answer + u64::from(at), 1, flags, 105 + at));
    });
    let at = s.put(&table);
    rings[1].send_raw(s, &[descriptor(at, table.len() as u32, INDIRECT, 0)]);
    rings[1].wait_len(s, 80);
    s.expect(4, answer + 4, 0);
    probe(s, Device::Fs);
    s.case("messages of more than 1 MiB", "VIRTIO 5.11; virtiofsd CVE-2020-10717 (resources without bound)");
    let mut bench = Bench::mounted(s);
    let large = RAM_END - (2 << 20);
    s.copy(large, &fuse(WRITE_FILE, ROOT, &[0; 40]));
    for buffers in [
        [readable(large, 2 << 20), writable(bench.answer, 0x1000)],
        [readable(large, 80), writable(large + 0x1000, (2 << 20) - 0x1000)],
    ] {
        let answer = buffers[1].address;
        bench.requests.send(s, &buffers);
        bench.requests.wait_all(s);
        s.expect(4, answer + 4, u64::from((-EIO).cast_unsigned()));
    }
    probe(s, Device::Fs);
    s.case("requests in the queue for urgent messages", "VIRTIO 5.11.2");
    let mut rings = start(s, Device::Fs);
    let (request, answer) = (s.put(&fuse(INIT, 0, &fuse_init())), s.alloc(80, 16));
    rings[0].send(s, &[readable(request, 104), writable(answer, 80)]);
    rings[0].wait_len(s, 80);
    probe(s, Device::Fs);
    s.case("the urgent queue breaks, and the device with it", "Cloud Hypervisor #8142");
    let mut rings = start(s, Device::Fs);
    rings[0].send(s, &[Buf { address: u64::MAX, len: 1, write: true }]);
    let base = s.base(Device::Fs);
    wait_broken(s, base);
    probe(s, Device::Fs);
}
