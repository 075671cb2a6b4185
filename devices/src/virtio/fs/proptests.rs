//! Arbitrary bytes as requests: every request is answered or given back, nothing outside the share changes, a read-only
//! share does not change at all, and the share still works.

use std::fs;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader, ROOT_ID};
use proptest::prelude::*;
use vm_memory::ByteValued;

use super::client::{name, value, Client};
use crate::testing::Buffer;

/// A request that may refer to existing nodes and handles.
#[derive(Clone, Debug)]
struct Attempt {
    opcode: u32,
    node: usize,
    body: Vec<Part>,
    /// Replaces the real length.
    len: Option<u32>,
    room: u32,
    user: u32,
}

#[derive(Clone, Debug)]
enum Part {
    Bytes(Vec<u8>),
    Number(u64),
    Node(usize),
    Handle(usize),
    Name(&'static str),
}

const NAMES: [&str; 8] = ["file", "dir", "inner", "link", "new", "..", ".", "../outside/secret"];

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Part::Bytes),
        4 => prop_oneof![4 => 0..70_000u64, 1 => any::<u64>()].prop_map(Part::Number),
        2 => (0..5usize).prop_map(Part::Node),
        3 => (0..3usize).prop_map(Part::Handle),
        4 => prop::sample::select(&NAMES[..]).prop_map(Part::Name),
    ]
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let opcode = prop_oneof![30 => 1..53u32, 1 => any::<u32>()];
    let body = prop::collection::vec(part(), 0..8);
    let len = prop_oneof![10 => Just(None), 1 => (0..300u32).prop_map(Some), 1 => any::<u32>().prop_map(Some)];
    let room = prop_oneof![Just(4096u32), 0..300u32];
    let user = prop_oneof![3 => Just(0), 1 => Just(1000), 1 => any::<u32>()];
    (opcode, 0..6usize, body, len, room, user).prop_map(|(opcode, node, body, len, room, user)| Attempt {
        opcode,
        node,
        body,
        len,
        room,
        user,
    })
}

/// A mounted share with nodes and handles that requests may misuse.
struct Bench {
    client: Client,
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

impl Bench {
    fn new(mut client: Client) -> Self {
        let nodes = vec![ROOT_ID, client.walk("file"), client.walk("dir"), client.walk("link"), 0, u64::MAX];
        let handles = vec![client.open(nodes[1], libc::O_RDONLY).unwrap(), client.opendir(nodes[2]).unwrap(), 77];
        Self { client, nodes, handles }
    }

    fn body(&self, parts: &[Part]) -> Vec<u8> {
        let mut body = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => body.extend(bytes),
                Part::Number(number) => body.extend(number.to_le_bytes()),
                Part::Node(index) => body.extend(self.nodes[*index].to_le_bytes()),
                Part::Handle(index) => body.extend(self.handles[*index].to_le_bytes()),
                Part::Name(text) => body.extend(name(text)),
            }
        }
        body
    }

    fn send(&mut self, attempt: &Attempt) {
        let body = self.body(&attempt.body);
        let header = InHeader {
            len: attempt.len.unwrap_or((size_of::<InHeader>() + body.len()) as u32),
            opcode: attempt.opcode,
            unique: 99,
            nodeid: self.nodes[attempt.node],
            uid: attempt.user,
            gid: attempt.user,
            pid: 1,
            padding: 0,
        };
        let message = [header.as_slice(), &body].concat();
        let buffers = [Buffer::Readable(&message), Buffer::Writable(attempt.room)];
        let (used, reply) = self.client.requests().transact(&buffers);
        assert!(used.len <= attempt.room);
        if used.len > 0 {
            let out: OutHeader = value(&reply);
            assert_eq!((out.unique, out.len), (99, used.len));
        }
    }
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["share/dir", "outside"] {
        fs::create_dir_all(dir.path().join(sub)).unwrap();
    }
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    fs::write(dir.path().join("share/file"), "contents").unwrap();
    fs::write(dir.path().join("share/dir/inner"), "inner").unwrap();
    std::os::unix::fs::symlink("../outside/secret", dir.path().join("share/link")).unwrap();
    dir
}

/// Names, attributes and contents of everything below `dir`.
fn state(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = path.symlink_metadata().unwrap();
        let text = if data.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.push(format!("{path:?} {:?} {:?} {:?} {text:?}", data.permissions(), data.file_type(), data.modified()));
        if data.is_dir() {
            all.extend(state(&path));
        }
    }
    all.sort();
    all
}

/// Fewer cases than usual, because each starts and stops threads.
fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(4), ..usual }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn any_requests_leave_a_read_only_share_as_it_is(attempts in prop::collection::vec(attempt(), 1..40)) {
        let dir = tree();
        let before = state(dir.path());
        let mut bench = Bench::new(Client::read_only(&dir.path().join("share")));
        for attempt in &attempts {
            bench.send(attempt);
        }
        bench.client.init(0);
        prop_assert_eq!(bench.client.cat("file"), b"contents");
        prop_assert_eq!(state(dir.path()), before);
    }

    #[test]
    fn any_requests_stay_in_a_writable_share(attempts in prop::collection::vec(attempt(), 1..40)) {
        let dir = tree();
        let before = state(&dir.path().join("outside"));
        let mut bench = Bench::new(Client::read_write(&dir.path().join("share")));
        for attempt in &attempts {
            // A test must not allocate that much disk space.
            if attempt.opcode != Opcode::Fallocate as u32 {
                bench.send(attempt);
            }
        }
        bench.client.init(0);
        prop_assert!(bench.client.list(ROOT_ID, true, 4096).len() < 100);
        prop_assert_eq!(state(&dir.path().join("outside")), before);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        prop_assert_eq!(names, ["outside", "share"]);
    }
}
