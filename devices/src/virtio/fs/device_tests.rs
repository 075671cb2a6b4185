//! The device from the guest's side.

use std::fs;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use fuse_backend_rs::abi::fuse_abi::{
    EntryOut, FallocateIn, ForgetIn, FsOptions, GetxattrIn, LinkIn, LseekIn, LseekOut, MkdirIn, MknodIn, Opcode,
    OutHeader, ReadIn, ReleaseIn, Rename2In, RenameIn, SetxattrIn, WriteIn, ROOT_ID,
};
use tempfile::TempDir;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::ByteValued;

use super::client::{config, linux_6_1, name, value, Client};
use super::device::Fs;
use super::{FsCache, FsDeviceConfig, FsError};
use crate::testing::{Buffer, Descriptor, Line, TestRam};
use crate::virtio::{ActivateError, Activation, DeviceInterrupt, VirtioDevice};

/// `outside/secret` and `share/{file,dir/inner,link,hard}`.
pub fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().join("share");
    fs::create_dir_all(share.join("dir")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    fs::write(share.join("file"), "contents").unwrap();
    fs::write(share.join("dir/inner"), "inner").unwrap();
    fs::hard_link(share.join("file"), share.join("hard")).unwrap();
    symlink("../outside/secret", share.join("link")).unwrap();
    dir
}

pub fn share(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("share")
}

#[test]
fn configuration_space_is_tag_and_one_queue() {
    let dir = tree();
    let device = Fs::new(config(dir.path())).unwrap();
    let mut space = [0xee; 44];
    device.read_config(0, &mut space);
    assert_eq!(&space[..6], b"share\0");
    assert_eq!(&space[6..36], [0; 30]);
    assert_eq!(space[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
    device.read_config(36, &mut space[..2]);
    assert_eq!(space[..2], [1, 0]);
    device.read_config(u64::MAX, &mut space);
    assert_eq!(space, [0; 44]);
}

#[test]
fn paths_that_cannot_be_shared_are_named() {
    let dir = tree();
    let long = "x".repeat(37);
    for tag in ["", "a\0b", &long] {
        let error = Fs::new(FsDeviceConfig { tag: tag.into(), ..config(dir.path()) }).err().unwrap();
        assert!(matches!(error, FsError::Tag { .. }), "{error}");
    }
    Fs::new(FsDeviceConfig { tag: "ä".repeat(18), ..config(dir.path()) }).unwrap();
    let error = Fs::new(config(&dir.path().join("none"))).err().unwrap();
    assert!(error.to_string().contains("none does not exist"), "{error}");
    let error = Fs::new(config(&share(&dir).join("file"))).err().unwrap();
    assert!(error.to_string().contains("file cannot be shared: it is not a directory"), "{error}");
}

#[test]
fn a_driver_without_request_queue_is_refused() {
    let dir = tree();
    let mut device = Fs::new(config(dir.path())).unwrap();
    let ram = TestRam::new();
    let line = Arc::new(Line::default());
    let queue = crate::testing::DriverQueue::new(&ram, &line, 16, 0);
    let activation = Activation {
        mem: ram.share(),
        queues: vec![Some(queue.device_side()), None],
        interrupt: Arc::new(DeviceInterrupt::new(Box::new(line))),
        features: 0,
        threads: Default::default(),
    };
    assert!(matches!(device.activate(activation), Err(ActivateError::MissingQueue(1))));
}

#[test]
fn init_agrees_on_large_requests_and_nothing_that_is_not_served() {
    let dir = tree();
    let mut client = Client::new(Fs::new(config(dir.path())).unwrap(), 0);
    let out = client.init(linux_6_1());
    assert_eq!((out.major, out.max_pages, out.max_write), (7, 256, 1 << 20));
    let flags = FsOptions::from_bits_truncate(u64::from(out.flags) | u64::from(out.flags2) << 32);
    let wanted = FsOptions::ASYNC_READ
        | FsOptions::BIG_WRITES
        | FsOptions::MAX_PAGES
        | FsOptions::ATOMIC_O_TRUNC
        | FsOptions::PARALLEL_DIROPS
        | FsOptions::DO_READDIRPLUS
        | FsOptions::HANDLE_KILLPRIV_V2
        | FsOptions::AUTO_INVAL_DATA;
    assert!(flags.contains(wanted), "{flags:?}");
    let unwanted = FsOptions::WRITEBACK_CACHE
        | FsOptions::EXPORT_SUPPORT
        | FsOptions::POSIX_LOCKS
        | FsOptions::FLOCK_LOCKS
        | FsOptions::POSIX_ACL
        | FsOptions::PERFILE_DAX
        | FsOptions::SUBMOUNTS
        | FsOptions::ZERO_MESSAGE_OPEN;
    assert!(!flags.intersects(unwanted), "{flags:?}");
    // The reply has no flags that the guest did not offer.
    assert_eq!(client.init(0).flags, 0);
}

#[test]
fn files_are_found_read_written_made_and_removed() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    assert_eq!(client.cat("file"), b"contents");
    assert_eq!(client.cat("dir/inner"), b"inner");
    let file = client.walk("file");
    assert_eq!(client.lookup(ROOT_ID, "hard").unwrap().nodeid, file, "hard links are one file");
    assert_eq!(client.getattr(file).unwrap().nlink, 2);

    let (entry, fh) = client.create(ROOT_ID, "new", libc::O_RDWR | libc::O_EXCL, 0o640).unwrap();
    assert_eq!(client.write(entry.nodeid, fh, 3, b"data").unwrap(), 4);
    assert_eq!(client.read(entry.nodeid, fh, 0, 100).unwrap(), b"\0\0\0data");
    assert_eq!(fs::read(share(&dir).join("new")).unwrap(), b"\0\0\0data");
    assert_eq!(client.getattr(entry.nodeid).unwrap().mode & 0o7777, 0o640);
    assert_eq!(client.create(ROOT_ID, "new", libc::O_RDWR | libc::O_EXCL, 0o640).unwrap_err(), libc::EEXIST);
    // Without O_EXCL the existing file is opened; O_TRUNC empties it.
    let (again, _) = client.create(ROOT_ID, "new", libc::O_RDWR | libc::O_TRUNC, 0o640).unwrap();
    assert_eq!(again.nodeid, entry.nodeid);
    assert_eq!(fs::read(share(&dir).join("new")).unwrap(), b"");

    client.call(Opcode::Unlink, ROOT_ID, &[&name("new")], 0).unwrap();
    assert_eq!(client.lookup(ROOT_ID, "new").unwrap_err(), libc::ENOENT);
    // The handle still works.
    assert_eq!(client.write(entry.nodeid, fh, 0, b"x").unwrap(), 1);
    let body = ReleaseIn { fh, ..ReleaseIn::default() };
    client.call(Opcode::Release, entry.nodeid, &[body.as_slice()], 0).unwrap();
    assert_eq!(client.read(entry.nodeid, fh, 0, 1).unwrap_err(), libc::EBADF);
}

#[test]
fn directories_are_listed_with_the_numbers_that_files_have() {
    let dir = tree();
    for index in 0..200 {
        fs::write(share(&dir).join(format!("dir/file-with-a-longer-name-{index}")), "").unwrap();
    }
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("dir");
    for (plus, size) in [(true, 4096), (false, 4096), (true, 512), (false, 128)] {
        let list = client.list(node, plus, size);
        assert_eq!(list.len(), 201);
        for listed in list {
            let ino = fs::metadata(share(&dir).join("dir").join(&listed.name)).unwrap().ino();
            assert_eq!(listed.ino, ino, "{listed:?}");
            assert_eq!(listed.entry.is_some(), plus);
            assert!(listed.entry.is_none_or(|entry| entry.attr.ino == ino && entry.nodeid != 0));
        }
    }
}

#[test]
fn a_megabyte_goes_in_one_request() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let data: Vec<u8> = (0..1u32 << 20).map(|at| (at ^ at >> 8) as u8).collect();
    let (entry, fh) = client.create(ROOT_ID, "big", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(client.write(entry.nodeid, fh, 0, &data).unwrap(), 1 << 20);
    assert!(client.read(entry.nodeid, fh, 0, 1 << 20).unwrap() == data);
    assert_eq!(client.read(entry.nodeid, fh, (1 << 20) - 2, 4096).unwrap(), data[(1 << 20) - 2..]);
    assert_eq!(client.read(entry.nodeid, fh, 1 << 30, 4096).unwrap(), b"");
}

#[test]
fn a_megabyte_goes_in_pages_of_an_indirect_table() {
    let dir = tree();
    let data: Vec<u8> = (0..1u32 << 20).map(|at| (at ^ at >> 9) as u8).collect();
    fs::write(share(&dir).join("big"), &data).unwrap();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("big");
    let fh = client.open(node, libc::O_RDONLY).unwrap();
    let body = ReadIn { fh, size: 1 << 20, ..ReadIn::default() };
    let header = client.header(Opcode::Read, node, size_of::<ReadIn>());
    let mut buffers = vec![Buffer::Readable(header.as_slice()), Buffer::Readable(body.as_slice())];
    buffers.push(Buffer::Writable(size_of::<OutHeader>() as u32));
    buffers.extend(vec![Buffer::Writable(4096); 256]);
    let request = client.requests().add_indirect(&buffers);
    client.requests().kick();
    assert_eq!(client.requests().wait_used().len, (1 << 20) + size_of::<OutHeader>() as u32);
    assert!(request.response(&client.session.ram)[size_of::<OutHeader>()..] == data);
}

#[test]
fn sparse_files_stay_sparse() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let (entry, fh) = client.create(ROOT_ID, "sparse", libc::O_RDWR, 0o600).unwrap();
    client.write(entry.nodeid, fh, 8 << 20, b"end").unwrap();
    let mut seek = |offset, whence: i32| {
        let body = LseekIn { fh, offset, whence: whence as u32, padding: 0 };
        let reply = client.call(Opcode::Lseek, entry.nodeid, &[body.as_slice()], size_of::<LseekOut>())?;
        Ok(value::<LseekOut>(&reply).offset)
    };
    assert_eq!(seek(0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(seek(0, libc::SEEK_DATA), Ok(8 << 20));
    assert_eq!(seek(9 << 20, libc::SEEK_DATA), Err(libc::ENXIO));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let body = FallocateIn { fh, offset: 0, length: 4096, mode: punch as u32, padding: 0 };
    client.call(Opcode::Fallocate, entry.nodeid, &[body.as_slice()], 0).unwrap();
    assert_eq!(fs::metadata(share(&dir).join("sparse")).unwrap().len(), (8 << 20) + 3);
}

#[test]
fn extended_attributes_pass_through() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    let set = SetxattrIn { size: 5, flags: 0 };
    client.call(Opcode::Setxattr, node, &[set.as_slice(), &name("user.test"), b"value"], 0).unwrap();
    let get = |size| GetxattrIn { size, padding: 0 };
    let mut read = |size, room| client.call(Opcode::Getxattr, node, &[get(size).as_slice(), &name("user.test")], room);
    assert_eq!(read(100, 100).unwrap(), b"value");
    assert_eq!(read(0, 8).unwrap(), [5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(4, 4).unwrap_err(), libc::ERANGE);
    // The device does not allocate a size that no attribute can have.
    assert_eq!(read(u32::MAX, 100).unwrap(), b"value");
    let list = client.call(Opcode::Listxattr, node, &[get(u32::MAX).as_slice()], 4096).unwrap();
    assert!(list.windows(10).any(|window| window == b"user.test\0"));
    client.call(Opcode::Removexattr, node, &[&name("user.test")], 0).unwrap();
    let gone = client.call(Opcode::Getxattr, node, &[get(9).as_slice(), &name("user.test")], 9);
    assert_eq!(gone.unwrap_err(), libc::ENODATA);
}

#[test]
fn directories_links_nodes_and_renames_work() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let room = size_of::<EntryOut>();
    let mkdir = MkdirIn { mode: 0o777, umask: 0o027 };
    client.call(Opcode::Mkdir, ROOT_ID, &[mkdir.as_slice(), &name("made")], room).unwrap();
    assert_eq!(fs::metadata(share(&dir).join("made")).unwrap().mode() & 0o7777, 0o750);
    // A socket, as bind(2) creates it in the guest, and a pipe.
    for (kind, text) in [(libc::S_IFSOCK, "socket"), (libc::S_IFIFO, "pipe")] {
        let mknod = MknodIn { mode: kind | 0o600, ..MknodIn::default() };
        let reply = client.call(Opcode::Mknod, ROOT_ID, &[mknod.as_slice(), &name(text)], room).unwrap();
        // The host never opens them: a pipe would block.
        assert_eq!(client.open(value::<EntryOut>(&reply).nodeid, libc::O_RDONLY).unwrap_err(), libc::EBADF);
    }
    assert!(fs::metadata(share(&dir).join("socket")).unwrap().file_type().is_socket());
    client.call(Opcode::Symlink, ROOT_ID, &[&name("soft"), &name("/anywhere")], room).unwrap();
    assert_eq!(fs::read_link(share(&dir).join("soft")).unwrap(), Path::new("/anywhere"));
    let link = LinkIn { oldnodeid: client.walk("file") };
    client.call(Opcode::Link, ROOT_ID, &[link.as_slice(), &name("third")], room).unwrap();
    assert_eq!(fs::metadata(share(&dir).join("file")).unwrap().nlink(), 3);

    let (made, inner) = (client.walk("made"), client.walk("dir"));
    let rename = RenameIn { newdir: made };
    client.call(Opcode::Rename, inner, &[rename.as_slice(), &name("inner"), &name("moved")], 0).unwrap();
    assert_eq!(client.cat("made/moved"), b"inner");
    let exchange = Rename2In { newdir: made, flags: libc::RENAME_EXCHANGE, padding: 0 };
    client.call(Opcode::Rename2, ROOT_ID, &[exchange.as_slice(), &name("file"), &name("moved")], 0).unwrap();
    assert_eq!((client.cat("file"), client.cat("made/moved")), (b"inner".to_vec(), b"contents".to_vec()));
    let once = Rename2In { newdir: made, flags: libc::RENAME_NOREPLACE, padding: 0 };
    let taken = client.call(Opcode::Rename2, ROOT_ID, &[once.as_slice(), &name("hard"), &name("moved")], 0);
    assert_eq!(taken.unwrap_err(), libc::EEXIST);
    client.call(Opcode::Rmdir, ROOT_ID, &[&name("dir")], 0).unwrap();
    assert!(!share(&dir).join("dir").exists());
}

#[test]
fn files_belong_to_the_user_of_the_guest_that_made_them() {
    let dir = tree();
    fs::set_permissions(share(&dir), fs::Permissions::from_mode(0o755)).unwrap();
    // Only root can create files of other users.
    let own = fs::metadata(share(&dir)).map(|data| (data.uid(), data.gid())).unwrap();
    let expected = if own.0 == 0 { (1234, 567) } else { own };
    let mut client = Client::read_write(&share(&dir));
    (client.uid, client.gid) = (1234, 567);
    // The guest's kernel has permitted this by a group of the user that the request does not contain.
    let (entry, _) = client.create(ROOT_ID, "mine", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), expected);
    let mkdir = MkdirIn { mode: 0o700, umask: 0 };
    client.call(Opcode::Mkdir, ROOT_ID, &[mkdir.as_slice(), &name("ours")], size_of::<EntryOut>()).unwrap();
    assert_eq!(fs::metadata(share(&dir).join("ours")).unwrap().uid(), expected.0);
    // The thread has its own ids again.
    (client.uid, client.gid) = (0, 0);
    let (entry, _) = client.create(ROOT_ID, "roots", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), own);
}

#[test]
fn writing_clears_the_set_user_id_bit_when_the_guest_asks_for_it() {
    let dir = tree();
    let program = share(&dir).join("file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    let fh = client.open(node, libc::O_RDWR).unwrap();
    const WRITE_KILL_SUIDGID: u32 = 4;
    let body = WriteIn { fh, size: 1, fuse_flags: WRITE_KILL_SUIDGID, ..WriteIn::default() };
    client.call(Opcode::Write, node, &[body.as_slice(), b"x"], 8).unwrap();
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn the_guest_gets_the_time_for_which_it_may_cache() {
    let dir = tree();
    let mut auto = Client::read_write(&share(&dir));
    let entry = auto.lookup(ROOT_ID, "file").unwrap();
    assert_eq!((entry.entry_valid, entry.attr_valid), (1, 1));
    assert_eq!(auto.lookup(ROOT_ID, "missing").unwrap_err(), libc::ENOENT);
    let mut always = Client::always(&share(&dir));
    assert!(always.lookup(ROOT_ID, "file").unwrap().entry_valid > 3600);
    let missing = always.lookup(ROOT_ID, "missing").unwrap();
    assert_eq!(missing.nodeid, 0);
    assert!(missing.entry_valid > 3600);
    let mut never = Client::mount(FsDeviceConfig { cache: FsCache::Never, ..config(&share(&dir)) });
    let entry = never.lookup(ROOT_ID, "file").unwrap();
    assert_eq!((entry.entry_valid, entry.entry_valid_nsec), (0, 0));
}

#[test]
fn files_are_forgotten_over_the_high_priority_queue() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    client.walk("file");
    let header = client.header(Opcode::Forget, node, size_of::<ForgetIn>());
    let message = [header.as_slice(), ForgetIn { nlookup: 2 }.as_slice()].concat();
    let hiprio = &mut client.session.queues[0];
    hiprio.send(&[Buffer::Readable(&message)]);
    assert_eq!(hiprio.wait_used().len, 0);
    assert_eq!(client.getattr(node).unwrap_err(), libc::EBADF);
    assert_ne!(client.walk("file"), node, "numbers are not used again");
}

#[test]
fn requests_that_make_no_sense_get_an_error_or_nothing() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    // No header, no room for a reply, a name without NUL, a missing body, an unknown request.
    let (used, _) = client.requests().transact(&[Buffer::Readable(&[1; 39]), Buffer::Writable(100)]);
    assert_eq!(used.len, 0);
    let header = client.header(Opcode::Getattr, ROOT_ID, 16);
    let (used, _) = client.requests().transact(&[Buffer::Readable(header.as_slice()), Buffer::Readable(&[0; 16])]);
    assert_eq!(used.len, 0);
    assert_eq!(client.call(Opcode::Lookup, ROOT_ID, &[b"file"], 200).unwrap_err(), libc::EINVAL);
    assert_eq!(client.call(Opcode::Rename, ROOT_ID, &[&[0; 8], b"file\0"], 200).unwrap_err(), libc::EINVAL);
    assert_eq!(client.call(Opcode::Getattr, ROOT_ID, &[], 200).unwrap_err(), libc::EINVAL);
    assert_eq!(client.call(Opcode::Ioctl, ROOT_ID, &[&[0; 32]], 200).unwrap_err(), libc::ENOSYS);
    // The reply does not fit.
    assert_eq!(client.call(Opcode::Lookup, ROOT_ID, &[&name("file")], 10).unwrap_err(), libc::EINVAL);
    assert_eq!(client.read(ROOT_ID, 1, 0, 10).unwrap_err(), libc::EBADF);
    let mut header = client.header(Opcode::Lookup, ROOT_ID, 5);
    header.len = 1000;
    let message = [header.as_slice(), b"file\0"].concat();
    let (used, reply) = client.requests().transact(&[Buffer::Readable(&message), Buffer::Writable(200)]);
    assert_eq!((used.len, value::<OutHeader>(&reply).error), (16, -libc::EIO));
    assert_eq!(client.cat("file"), b"contents");
}

#[test]
fn broken_chains_ask_for_a_reset_and_the_next_driver_starts_anew() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let outside = Descriptor { addr: TestRam::OUTSIDE.0, len: 100, flags: 0, next: 0 };
    let head = client.requests().write_chain(&[outside]);
    client.requests().publish(head);
    client.requests().kick();
    let mut seen = 0;
    while !client.session.interrupt.needs_reset() {
        client.session.line.wait_past(seen);
        seen += 1;
    }
    let mut client = Client::new(client.device, 1 << VIRTIO_RING_F_EVENT_IDX);
    assert_eq!(client.lookup(ROOT_ID, "file").unwrap_err(), libc::EBADF, "not before INIT");
    client.init(linux_6_1());
    assert_eq!(client.cat("file"), b"contents");
}

#[test]
fn a_paused_share_does_nothing_and_goes_on() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    client.device.pause().unwrap();
    let header = client.header(Opcode::Readlink, ROOT_ID, 0);
    client.requests().send(&[Buffer::Readable(header.as_slice()), Buffer::Writable(200)]);
    thread::sleep(std::time::Duration::from_millis(20));
    assert!(client.requests().used().is_none());
    client.device.resume();
    client.requests().wait_used();
    assert_eq!(client.cat("file"), b"contents");
}

#[test]
fn many_requests_at_a_time_are_all_answered() {
    let dir = tree();
    for features in [0, 1 << VIRTIO_RING_F_EVENT_IDX] {
        let mut client = Client::new(Fs::new(config(&share(&dir))).unwrap(), features);
        client.init(linux_6_1());
        for _ in 0..100 {
            let mut waiting = std::collections::HashMap::new();
            for _ in 0..20 {
                let header = client.header(Opcode::Lookup, ROOT_ID, 5);
                let message = [header.as_slice(), b"file\0"].concat();
                let request = client.requests().add_indirect(&[Buffer::Readable(&message), Buffer::Writable(200)]);
                waiting.insert(u32::from(request.head), (header.unique, request));
            }
            client.requests().kick();
            while !waiting.is_empty() {
                let used = client.requests().wait_used();
                let (unique, request) = waiting.remove(&used.id).unwrap();
                let out: OutHeader = value(&request.response(&client.session.ram));
                assert_eq!((out.unique, out.error), (unique, 0));
            }
        }
    }
}

#[test]
fn the_processs_umask_is_left_alone() {
    let umask = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find(|line| line.starts_with("Umask:")).unwrap().to_owned()
    };
    let before = umask();
    assert_ne!(before, "Umask:\t0000", "this test needs a umask");
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let (entry, _) = client.create(ROOT_ID, "open to all", libc::O_RDWR, 0o666).unwrap();
    assert_eq!(entry.attr.mode & 0o777, 0o666);
    assert_eq!(umask(), before);
}

#[test]
fn without_driver_nothing_of_the_session_is_left() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let file = client.walk("file");
    client.open(file, 0).unwrap();
    let pool = client.device.pool();
    let alive = pool.upgrade().is_some();
    client.device.deactivate().unwrap();
    assert!(alive && pool.upgrade().is_none());
    client.device.deactivate().unwrap();
}
