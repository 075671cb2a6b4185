//! The file server from the guest's side: what a share of ordinary size does not show.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{
    CopyFileRangeIn, CreateIn, EntryOut, GetattrIn, InHeader, LinkIn, MkdirIn, MknodIn, Opcode, OpenOut, OutHeader,
    ReleaseIn, RenameIn, SetattrIn, WriteIn, WriteOut, ROOT_ID,
};
use vm_memory::ByteValued;

use super::client::{config, name, value, Client};
use super::device::Fs;
use super::sys::is_root;
use super::tests::{share, tree};
use super::{FsCache, FsDeviceConfig};
use crate::testing::Buffer;

/// `FUSE_TMPFILE`.
const TMPFILE: u32 = 51;

/// Descriptors of this process below `path`.
fn descriptors(path: &Path) -> usize {
    let path = fs::canonicalize(path).unwrap();
    let all = fs::read_dir("/proc/self/fd").unwrap();
    all.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.starts_with(&path))).count()
}

/// A share that keeps at most `limit` descriptors of files that are not open in the guest.
fn limited(path: &Path, limit: usize) -> Client {
    let mut device = Fs::new(config(path)).unwrap();
    device.set_budget(limit);
    let mut client = Client::new(device, 0);
    client.init(u64::MAX);
    client
}

fn release(client: &mut Client, node: u64, fh: u64) {
    let body = ReleaseIn { fh, ..ReleaseIn::default() };
    client.call(Opcode::Release, node, &[body.as_slice()], 0).unwrap();
}

/// Descriptors must not grow with the number of files that the guest knows.
#[test]
fn a_tree_larger_than_the_limit_of_descriptors_can_be_walked_read_and_removed() {
    let dir = tree();
    let share = share(&dir);
    for directory in 0..40 {
        fs::create_dir(share.join(format!("d{directory}"))).unwrap();
        for file in 0..50 {
            fs::write(share.join(format!("d{directory}/{file}")), format!("{directory}.{file}")).unwrap();
        }
    }
    let mut client = limited(&share, 16);
    for _ in 0..2 {
        for directory in 0..40 {
            let node = client.walk(&format!("d{directory}"));
            assert_eq!(client.list(node, true, 4096).len(), 50);
        }
    }
    for directory in 0..40 {
        for file in 0..50 {
            let node = client.walk(&format!("d{directory}/{file}"));
            assert_eq!(client.getattr(node).unwrap().nlink, 1);
        }
    }
    // Those kept, one for each open directory of `list`, which it does not close, and the root's.
    assert!(descriptors(&share) <= 16 + 80 + 4, "{} descriptors", descriptors(&share));
    let last = client.walk("d39");
    for file in 0..50 {
        client.call(Opcode::Unlink, last, &[&name(&file.to_string())], 0).unwrap();
    }
    client.call(Opcode::Rmdir, ROOT_ID, &[&name("d39")], 0).unwrap();
    assert!(!share.join("d39").exists());
}

/// A member of a directory's group keeps the set-group-id bit of a file that it makes there, others lose it.
#[test]
fn files_are_made_with_the_supplementary_group_that_the_guest_sends() {
    if !is_root() {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), b"SKIPPED: only root acts for other users\n");
        return;
    }
    let dir = tree();
    let group = share(&dir).join("dir");
    std::os::unix::fs::chown(&group, Some(0), Some(2000)).unwrap();
    fs::set_permissions(&group, fs::Permissions::from_mode(0o2775)).unwrap();
    let mut client = Client::read_write(&share(&dir));
    let parent = client.walk("dir");
    (client.uid, client.gid) = (1000, 1000);
    let mut make = |text: &str, groups: &[u32]| {
        let body = CreateIn { flags: libc::O_RDWR as u32, mode: 0o2771, umask: 0, fuse_flags: 0 };
        let words = [&[12 + 4 * groups.len() as u32, 32, groups.len() as u32], groups].concat();
        let mut extension: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        extension.resize(extension.len().next_multiple_of(8), 0);
        let size = (extension.len() as u32).to_le_bytes();
        extension[..4].copy_from_slice(&size);
        let body = [body.as_slice(), &name(text), &extension].concat();
        let mut header = client.header(Opcode::Create, parent, body.len());
        header.padding = extension.len() as u32 / 8;
        let message = [header.as_slice(), &body].concat();
        let (_, reply) = client.requests().transact(&[Buffer::Readable(&message), Buffer::Writable(200)]);
        assert_eq!(value::<OutHeader>(&reply).error, 0);
        let data = fs::metadata(group.join(text)).unwrap();
        assert_eq!((data.uid(), data.gid()), (1000, 2000));
        data.mode() & 0o7777
    };
    assert_eq!(make("member", &[2000]), 0o2771);
    assert_eq!(make("stranger", &[2001]), 0o771);
    assert_eq!(make("nobody", &[]), 0o771);
    // The server's thread has its own groups again, and so root's power.
    (client.uid, client.gid) = (0, 0);
    client.create(parent, "root", libc::O_RDWR, 0o2771).unwrap();
    assert_eq!(fs::metadata(group.join("root")).unwrap().mode() & 0o7777, 0o2771);
}

fn tmpfile(client: &mut Client, parent: u64, flags: i32) -> Result<(EntryOut, u64), i32> {
    let body = CreateIn { flags: flags as u32, mode: 0o640, umask: 0, fuse_flags: 0 };
    let body = [body.as_slice(), &name("#1")].concat();
    let header = InHeader { opcode: TMPFILE, ..client.header(Opcode::Create, parent, body.len()) };
    let message = [header.as_slice(), &body].concat();
    let (_, reply) = client.requests().transact(&[Buffer::Readable(&message), Buffer::Writable(200)]);
    match value::<OutHeader>(&reply).error {
        0 => Ok((value(&reply[16..]), value::<OpenOut>(&reply[16 + size_of::<EntryOut>()..]).fh)),
        error => Err(-error),
    }
}

#[test]
fn a_file_without_a_name_can_be_written_linked_and_used() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let parent = client.walk("dir");
    let (entry, fh) = tmpfile(&mut client, parent, libc::O_RDWR | libc::O_TMPFILE).unwrap();
    assert_eq!((entry.attr.nlink, entry.attr.mode & 0o7777), (0, 0o640));
    client.write(entry.nodeid, fh, 0, b"data").unwrap();
    // It is reached when it is closed, too.
    release(&mut client, entry.nodeid, fh);
    assert_eq!(client.getattr(entry.nodeid).unwrap().size, 4);
    let link = LinkIn { oldnodeid: entry.nodeid };
    client.call(Opcode::Link, ROOT_ID, &[link.as_slice(), &name("named")], size_of::<EntryOut>()).unwrap();
    assert_eq!(fs::read(share(&dir).join("named")).unwrap(), b"data");
    assert_eq!(client.walk("named"), entry.nodeid);
    let mut client = Client::read_only(&share(&dir));
    assert_eq!(tmpfile(&mut client, ROOT_ID, libc::O_RDWR).unwrap_err(), libc::EROFS);
}

#[test]
fn removed_and_renamed_files_stay_what_they_are() {
    let dir = tree();
    let share = share(&dir);
    let mut client = limited(&share, 2);
    let (file, inner, directory) = (client.walk("file"), client.walk("dir/inner"), client.walk("dir"));
    let rename = |client: &mut Client, old: u64, from: &str, new: u64, to: &str| {
        let body = RenameIn { newdir: new };
        client.call(Opcode::Rename, old, &[body.as_slice(), &name(from), &name(to)], 0).unwrap();
    };
    rename(&mut client, ROOT_ID, "dir", ROOT_ID, "moved");
    assert_eq!(client.getattr(inner).unwrap().size, 5);
    rename(&mut client, directory, "inner", ROOT_ID, "out");
    assert_eq!(client.getattr(inner).unwrap().size, 5);
    // Over another file, which lives on without a name.
    fs::write(share.join("victim"), "victim's").unwrap();
    let victim = client.walk("victim");
    rename(&mut client, ROOT_ID, "out", ROOT_ID, "victim");
    assert_eq!((client.getattr(victim).unwrap().nlink, client.getattr(victim).unwrap().size), (0, 8));
    assert_eq!(client.walk("victim"), inner);
    let fh = client.open(victim, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(victim, fh, 0, 100).unwrap(), b"victim's");
    // Unlinked under one of two names, and a directory.
    client.call(Opcode::Unlink, ROOT_ID, &[&name("file")], 0).unwrap();
    assert_eq!(client.getattr(file).unwrap().nlink, 1);
    let chmod = SetattrIn { valid: 1, mode: 0o600, ..SetattrIn::default() };
    client.call(Opcode::Setattr, victim, &[chmod.as_slice()], 200).unwrap();
    client.call(Opcode::Rmdir, ROOT_ID, &[&name("moved")], 0).unwrap();
    assert_eq!(client.lookup(directory, "x").unwrap_err(), libc::ENOENT);
}

#[test]
fn a_file_that_the_host_moved_is_stale_for_the_guest_but_not_if_it_is_open() {
    let dir = tree();
    let share = share(&dir);
    let mut client = limited(&share, 0);
    let (file, inner) = (client.walk("file"), client.walk("dir/inner"));
    let fh = client.open(file, libc::O_RDWR).unwrap();
    fs::rename(share.join("file"), share.join("elsewhere")).unwrap();
    fs::rename(share.join("dir/inner"), share.join("dir/outer")).unwrap();
    assert_eq!(client.write(file, fh, 0, b"C").unwrap(), 1);
    let chmod = SetattrIn { valid: 1, mode: 0o600, ..SetattrIn::default() };
    client.call(Opcode::Setattr, file, &[chmod.as_slice()], 200).unwrap();
    assert_eq!(fs::metadata(share.join("elsewhere")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(client.open(inner, libc::O_RDONLY).unwrap_err(), libc::ESTALE);
    assert_eq!(client.cat("dir/outer"), b"inner");
    let get = GetattrIn::default();
    client.call(Opcode::Getattr, file, &[get.as_slice()], 200).unwrap();
}

#[test]
fn a_file_that_the_host_moved_is_reached_while_any_of_its_handles_is_open() {
    let dir = tree();
    let share = share(&dir);
    let mut client = limited(&share, 0);
    let file = client.walk("file");
    let chmod = |client: &mut Client, mode| {
        let body = SetattrIn { valid: 1, mode, ..SetattrIn::default() };
        client.call(Opcode::Setattr, file, &[body.as_slice()], 200).map(drop)
    };
    // In whatever order they are closed, the last one decides.
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let handles = [libc::O_RDONLY, libc::O_RDWR, libc::O_RDONLY].map(|flags| client.open(file, flags).unwrap());
        fs::rename(share.join("file"), share.join("elsewhere")).unwrap();
        for (left, index) in (0..3).rev().zip(order) {
            release(&mut client, file, handles[index]);
            let expected = if left > 0 { Ok(()) } else { Err(libc::ESTALE) };
            assert_eq!(chmod(&mut client, 0o600 + left), expected, "{left} left of {order:?}");
        }
        assert_eq!(fs::metadata(share.join("elsewhere")).unwrap().mode() & 0o777, 0o601);
        fs::rename(share.join("elsewhere"), share.join("file")).unwrap();
    }
}

#[test]
fn writes_append_only_if_they_come_from_a_system_call() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("file");
    let fh = client.open(node, libc::O_RDWR | libc::O_APPEND).unwrap();
    let mut write = |offset, fuse_flags, data: &[u8]| {
        let flags = (libc::O_RDWR | libc::O_APPEND) as u32;
        let body = WriteIn { fh, offset, size: data.len() as u32, flags, fuse_flags, ..WriteIn::default() };
        client.call(Opcode::Write, node, &[body.as_slice(), data], size_of::<WriteOut>()).unwrap();
    };
    // The guest's idea of the end may be old.
    write(0, 0, b"+");
    // A page of the guest's cache (FUSE_WRITE_CACHE).
    write(0, 1, b"C");
    assert_eq!(fs::read(share(&dir).join("file")).unwrap(), b"Contents+");
}

#[test]
fn ranges_are_copied_between_files() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let (from, to) = (client.walk("file"), client.walk("dir/inner"));
    let fh_in = client.open(from, libc::O_RDONLY).unwrap();
    let fh_out = client.open(to, libc::O_RDWR).unwrap();
    let mut body =
        CopyFileRangeIn { fh_in, nodeid_out: to, fh_out, offset_out: 5, len: u64::MAX, ..Default::default() };
    let reply = client.call(Opcode::CopyFileRange, from, &[body.as_slice()], size_of::<WriteOut>()).unwrap();
    assert_eq!(value::<WriteOut>(&reply).size, 8);
    assert_eq!(fs::read(share(&dir).join("dir/inner")).unwrap(), b"innercontents");
    body.flags = 1;
    assert_eq!(client.call(Opcode::CopyFileRange, from, &[body.as_slice()], 8).unwrap_err(), libc::EINVAL);
    body.fh_out = fh_in;
    assert_eq!(client.call(Opcode::CopyFileRange, from, &[body.as_slice()], 8).unwrap_err(), libc::EBADF);
}

/// An operation for a user of the guest in a directory that is a link, or whose name is one by now.
#[test]
fn directories_that_became_links_lead_nowhere() {
    let dir = tree();
    let share = share(&dir);
    let mut client = limited(&share, 0);
    let below = client.walk("dir");
    fs::rename(share.join("dir"), dir.path().join("gone")).unwrap();
    symlink("../outside", share.join("dir")).unwrap();
    let link = client.walk("dir");
    for parent in [below, link] {
        let mkdir = MkdirIn { mode: 0o755, umask: 0 };
        drop(client.call(Opcode::Mkdir, parent, &[mkdir.as_slice(), &name("made")], 200));
        let mknod = MknodIn { mode: libc::S_IFREG | 0o600, ..MknodIn::default() };
        drop(client.call(Opcode::Mknod, parent, &[mknod.as_slice(), &name("node")], 200));
        assert!(client.lookup(parent, "secret").is_err());
        let _: Result<_, _> = client.create(parent, "file", libc::O_RDWR | libc::O_CREAT, 0o600);
        drop(client.call(Opcode::Unlink, parent, &[&name("secret")], 0));
    }
    let outside: Vec<_> = fs::read_dir(dir.path().join("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(outside, ["secret"]);
}

#[test]
fn open_files_follow_the_cache_mode() {
    let dir = tree();
    for (cache, flags) in [(FsCache::Never, 1), (FsCache::Auto, 0), (FsCache::Always, 2)] {
        let mut client = Client::mount(FsDeviceConfig { cache, ..config(&share(&dir)) });
        let node = client.walk("file");
        let open = [(libc::O_RDONLY as u32).to_le_bytes(), [0; 4]].concat();
        let reply = client.call(Opcode::Open, node, &[&open], size_of::<OpenOut>()).unwrap();
        assert_eq!(value::<OpenOut>(&reply).open_flags, flags, "{cache:?}");
    }
}
