//! Errors of the host's file system below a share: each fails its request with its own number, and nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use fuse_backend_rs::abi::fuse_abi::{FallocateIn, MkdirIn, Opcode, ReadIn, ReleaseIn, SetattrIn, SetxattrIn, ROOT_ID};
use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use proptest::prelude::*;
use vm_memory::ByteValued;

use super::client::{config, name, Client};
use super::device::Fs;
use super::sys::is_root;
use super::tests::{share, tree};
use super::FsDeviceConfig;
use crate::virtio::faults::{self, Fault, Operation};

const SETATTR_SIZE: u32 = 1 << 3;

/// A request about the file with this node and handle.
type Ask = fn(&mut Client, u64, u64) -> Result<(), i32>;

fn fsync(client: &mut Client, node: u64, fh: u64) -> Result<(), i32> {
    client.call(Opcode::Fsync, node, &[&fh.to_le_bytes(), &[0; 8]], 0).map(drop)
}

fn flush(client: &mut Client, node: u64, fh: u64) -> Result<(), i32> {
    client.call(Opcode::Flush, node, &[&fh.to_le_bytes(), &[0; 16]], 0).map(drop)
}

fn truncate(client: &mut Client, node: u64, size: u64) -> Result<(), i32> {
    let body = SetattrIn { valid: SETATTR_SIZE, size, ..SetattrIn::default() };
    client.call(Opcode::Setattr, node, &[body.as_slice()], 200).map(drop)
}

fn allocate(client: &mut Client, node: u64, fh: u64, length: u64) -> Result<(), i32> {
    let body = FallocateIn { fh, length, ..FallocateIn::default() };
    client.call(Opcode::Fallocate, node, &[body.as_slice()], 0).map(drop)
}

fn list(client: &mut Client, _: u64, _: u64) -> Result<(), i32> {
    let fh = client.opendir(ROOT_ID)?;
    let body = ReadIn { fh, size: 4096, ..ReadIn::default() };
    let reply = client.call(Opcode::Readdir, ROOT_ID, &[body.as_slice()], 4096);
    let release = ReleaseIn { fh, ..ReleaseIn::default() };
    client.call(Opcode::Releasedir, ROOT_ID, &[release.as_slice()], 0)?;
    reply.map(drop)
}

/// Requests, the call that fails below each, and whether that is about the share's directory instead of the file.
const REQUESTS: [(&str, Operation, bool, Ask); 12] = [
    ("read", Operation::Transfer, false, |client, node, fh| client.read(node, fh, 0, 8).map(drop)),
    ("write", Operation::Transfer, false, |client, node, fh| client.write(node, fh, 0, b"contents").map(drop)),
    ("fsync", Operation::Sync, false, fsync),
    ("flush", Operation::Sync, false, flush),
    ("fallocate", Operation::Allocate, false, |client, node, fh| allocate(client, node, fh, 8)),
    ("truncate", Operation::Truncate, false, |client, node, _| truncate(client, node, 8)),
    ("getattr", Operation::Stat, false, |client, node, _| client.getattr(node).map(drop)),
    ("lookup", Operation::Stat, true, |client, _, _| client.lookup(ROOT_ID, "file").map(drop)),
    ("open", Operation::Open, false, |client, node, _| client.open(node, libc::O_RDONLY).map(drop)),
    ("create", Operation::Open, true, |client, _, _| client.create(ROOT_ID, "new", libc::O_RDWR, 0o600).map(drop)),
    ("opendir", Operation::Open, true, list),
    ("readdir", Operation::List, true, list),
];

#[test]
fn an_error_of_the_host_fails_its_request_only_and_reaches_the_guest() {
    let dir = tree();
    let path = share(&dir);
    let (file, root) = (File::open(path.join("file")).unwrap(), File::open(&path).unwrap());
    let mut client = Client::read_write(&path);
    let node = client.walk("file");
    let fh = client.open(node, libc::O_RDWR).unwrap();
    for (what, operation, of_directory, ask) in REQUESTS {
        let target = if of_directory { &root } else { &file };
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ESTALE] {
            faults::inject(target, operation, [Fault::Error(errno)]);
            assert_eq!(ask(&mut client, node, fh), Err(errno), "{what}");
            assert_eq!(faults::forget(target), 0, "{what}: the fault occurred");
            assert_eq!(ask(&mut client, node, fh), Ok(()), "{what} after {errno}");
        }
        // To a guest's kernel ENOSYS means that the server never has this request: it would not ask again, and report
        // success to all callers of fsync(2).
        faults::inject(target, operation, [Fault::Error(libc::ENOSYS)]);
        assert_eq!(ask(&mut client, node, fh), Err(libc::EOPNOTSUPP), "{what}");
    }
    assert_eq!(client.cat("file"), b"contents");
    assert_eq!(fs::read(path.join("new")).unwrap(), b"");
}

#[test]
fn a_share_of_a_single_file_is_not_empty_because_the_host_fails() {
    let dir = tree();
    let root = File::open(share(&dir)).unwrap();
    let mut client = Client::mount(FsDeviceConfig { single_file: Some("file".into()), ..config(&share(&dir)) });
    for errno in [libc::EIO, libc::ENOMEM] {
        faults::inject(&root, Operation::Stat, [Fault::Error(errno)]);
        assert_eq!(list(&mut client, 0, 0), Err(errno));
        assert_eq!(client.list(ROOT_ID, false, 4096).len(), 1);
    }
}

/// To a guest's kernel a short reply is the end of the file: it would put zeroes after it and believe in that size.
#[test]
fn a_short_read_of_the_host_is_continued_and_an_error_in_its_midst_is_not_the_end_of_the_file() {
    let dir = tree();
    let path = share(&dir).join("file");
    let data: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
    fs::write(&path, &data).unwrap();
    let file = File::open(&path).unwrap();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    let fh = client.open(node, libc::O_RDONLY).unwrap();
    faults::inject(&file, Operation::Transfer, [Fault::Short(1), Fault::Error(libc::EINTR), Fault::Short(4096)]);
    assert!(client.read(node, fh, 0, 8192).unwrap() == data[..8192]);
    assert_eq!(faults::forget(&file), 0, "every fault occurred");
    for errno in [libc::EIO, libc::ENOMEM, libc::ESTALE] {
        faults::inject(&file, Operation::Transfer, [Fault::Short(4096), Fault::Error(errno)]);
        assert_eq!(client.read(node, fh, 0, 8192).err(), Some(errno));
        assert!(client.read(node, fh, 4096, 8192).unwrap() == data[4096..]);
    }
    assert_eq!(client.read(node, fh, 10_000, 8192).unwrap(), b"");
}

/// A guest's kernel passes a short write on to its caller, who writes the rest and gets the reason.
#[test]
fn a_short_write_of_the_host_is_one_of_the_guest() {
    let dir = tree();
    let path = share(&dir).join("file");
    let file = File::open(&path).unwrap();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    let fh = client.open(node, libc::O_RDWR).unwrap();
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EIO] {
        let faults = [Fault::Error(libc::EINTR), Fault::Short(3), Fault::Error(errno)];
        faults::inject(&file, Operation::Transfer, faults);
        assert_eq!(client.write(node, fh, 0, b"CONTENTS"), Ok(3));
        assert_eq!(client.write(node, fh, 3, b"TENTS"), Err(errno));
        assert_eq!(faults::forget(&file), 0, "every fault occurred");
    }
    assert_eq!(fs::read(&path).unwrap(), b"CONtents");
}

/// A host without descriptors cannot keep a file that the guest removes reachable by its name, but by its handle.
#[test]
fn a_file_that_cannot_be_pinned_is_removed_and_its_handle_works() {
    let dir = tree();
    let root = File::open(share(&dir)).unwrap();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("hard");
    let fh = client.open(node, libc::O_RDWR).unwrap();
    for text in ["hard", "file"] {
        faults::inject(&root, Operation::Open, [Fault::Error(libc::EMFILE)]);
        client.call(Opcode::Unlink, ROOT_ID, &[&name(text)], 0).unwrap();
        assert_eq!(faults::forget(&root), 0, "the fault occurred");
        assert_eq!(client.lookup(ROOT_ID, text).unwrap_err(), libc::ENOENT);
    }
    assert_eq!(client.write(node, fh, 0, b"C"), Ok(1));
    assert_eq!(client.read(node, fh, 0, 100).unwrap(), b"Contents");
    // Another file of this name is another file.
    let (other, _) = client.create(ROOT_ID, "hard", libc::O_RDWR, 0o600).unwrap();
    assert_ne!(other.nodeid, node);
    assert_eq!(client.getattr(node).unwrap().nlink, 0);
}

/// Runs `body` with the path of an empty tmpfs with `options`, if that is possible here.
fn on_tmpfs(options: &'static str, body: impl FnOnce(&Path) + Send + 'static) {
    if !is_root() {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), b"SKIPPED: mounting a tmpfs needs root\n");
        return;
    }
    let run = move || {
        // The mount goes away with the last thread that has this namespace.
        let target = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("full"), target.path(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        body(target.path());
        nix::mount::umount2(target.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    };
    thread::spawn(run).join().unwrap();
}

#[test]
fn a_file_system_of_the_host_that_is_full_refuses_and_works_again() {
    on_tmpfs("size=64k", |path| {
        let mut client = Client::new(Fs::new(config(path)).unwrap(), 0);
        client.init(u64::MAX);
        let (entry, fh) = client.create(ROOT_ID, "data", libc::O_RDWR, 0o600).unwrap();
        let node = entry.nodeid;
        // All that fits is written, and the length says so.
        let (mut written, mut last) = (0, Ok(0));
        while let Ok(count @ 0..) = last {
            written += u64::from(count);
            last = client.write(node, fh, written, &[7; 3 * 4096]);
        }
        assert_eq!(last, Err(libc::ENOSPC));
        assert_eq!(fs::metadata(path.join("data")).unwrap().len(), written);
        assert!(written > 32 << 10, "{written}");
        assert_eq!(allocate(&mut client, node, fh, 1 << 20), Err(libc::ENOSPC));
        assert!(client.read(node, fh, 0, 65536).unwrap() == vec![7; written.min(65536) as usize]);
        assert_eq!(fsync(&mut client, node, fh), Ok(()));
        // The guest makes room.
        truncate(&mut client, node, 4096).unwrap();
        assert_eq!(client.write(node, fh, 4096, &[8; 4096]), Ok(4096));
        client.call(Opcode::Unlink, ROOT_ID, &[&name("data")], 0).unwrap();
    });
}

#[test]
fn a_file_system_of_the_host_without_inodes_refuses_and_works_again() {
    on_tmpfs("size=1m,nr_inodes=4", |path| {
        let mut client = Client::new(Fs::new(config(path)).unwrap(), 0);
        client.init(u64::MAX);
        let made = (0..10).take_while(|file| client.create(ROOT_ID, &file.to_string(), libc::O_RDWR, 0o600).is_ok());
        let made = made.count();
        assert!((1..4).contains(&made), "{made}");
        assert_eq!(client.create(ROOT_ID, "x", libc::O_RDWR, 0o600).unwrap_err(), libc::ENOSPC);
        let mkdir = MkdirIn { mode: 0o755, umask: 0 };
        let mkdir = |client: &mut Client| client.call(Opcode::Mkdir, ROOT_ID, &[mkdir.as_slice(), &name("d")], 200);
        assert_eq!(mkdir(&mut client).unwrap_err(), libc::ENOSPC);
        let symlink = |client: &mut Client| client.call(Opcode::Symlink, ROOT_ID, &[b"s\0to\0"], 200);
        assert_eq!(symlink(&mut client).unwrap_err(), libc::ENOSPC);
        assert!(client.lookup(ROOT_ID, "d").is_err() && client.lookup(ROOT_ID, "s").is_err());
        client.call(Opcode::Unlink, ROOT_ID, &[&name("0")], 0).unwrap();
        // Its inode stays until the guest forgets it and closes it.
        client.init(u64::MAX);
        mkdir(&mut client).unwrap();
        assert_eq!(client.list(ROOT_ID, true, 4096).len(), made);
    });
}

/// The largest attribute is larger than what a file system on a disk takes.
#[test]
fn an_attribute_that_the_host_refuses_leaves_the_others() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    let mut set = |value: &[u8]| {
        let body = SetxattrIn { size: value.len() as u32, flags: 0 };
        client.call(Opcode::Setxattr, node, &[body.as_slice(), &name("user.a"), value], 0).map(drop)
    };
    match set(b"small") {
        Err(libc::EOPNOTSUPP) => {
            let text = b"SKIPPED: the file system of temporary files has no attributes of users\n";
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text);
        }
        small => {
            small.unwrap();
            // Some file systems take it.
            let large = set(&[1; 65536]);
            assert!([Ok(()), Err(libc::ENOSPC), Err(libc::E2BIG), Err(libc::ENOMEM)].contains(&large), "{large:?}");
            set(b"small again").unwrap();
        }
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    let errors = [libc::EIO, libc::ENOSPC, libc::ENOMEM, libc::EINTR, libc::EINTR, libc::EDQUOT];
    prop_oneof![prop::sample::select(errors.to_vec()).prop_map(Fault::Error), (1..3000_usize).prop_map(Fault::Short)]
}

const SIZE: usize = 16 << 10;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A read that succeeds returns all that is there, as it was written last; after a write that failed, its part of the
    /// file may hold either.
    #[test]
    fn a_share_tells_the_truth_whatever_the_host_does(
        steps in prop::collection::vec(
            (0..SIZE, 1..5000_usize, any::<u8>(), any::<bool>(), prop::collection::vec(fault(), 0..4)), 1..30)
    ) {
        let dir = tree();
        fs::write(share(&dir).join("file"), vec![0; SIZE]).unwrap();
        let file = File::open(share(&dir).join("file")).unwrap();
        let mut client = Client::read_write(&share(&dir));
        let node = client.walk("file");
        let fh = client.open(node, libc::O_RDWR).unwrap();
        let mut known = vec![Some(0_u8); SIZE];
        for (offset, len, byte, write, planned) in steps {
            let len = len.min(SIZE - offset);
            faults::inject(&file, Operation::Transfer, planned);
            if write {
                let done = client.write(node, fh, offset as u64, &vec![byte; len]).map(|count| count as usize);
                prop_assert!(done.is_err() || done.is_ok_and(|done| (1..=len).contains(&done)));
                match done {
                    Ok(done) => known[offset..offset + done].fill(Some(byte)),
                    Err(_) => known[offset..offset + len].fill(None),
                }
            } else if let Ok(data) = client.read(node, fh, offset as u64, len as u32) {
                prop_assert_eq!(data.len(), len, "the file does not end here");
                let same = known[offset..].iter().zip(&data).all(|(known, data)| known.is_none_or(|known| known == *data));
                prop_assert!(same);
            }
            faults::forget(&file);
        }
        prop_assert_eq!(client.write(node, fh, 0, &[1; 512]), Ok(512));
    }
}
