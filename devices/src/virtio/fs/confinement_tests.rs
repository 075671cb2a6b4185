//! Operations that must fail for every guest.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{
    FallocateIn, LinkIn, MkdirIn, MknodIn, Opcode, ReadIn, Rename2In, RenameIn, SetattrIn, SetxattrIn, WriteIn, ROOT_ID,
};
use vm_memory::ByteValued;

use super::client::{name, Client};
use super::tests::{share, tree};

#[test]
fn nothing_outside_is_reached() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let inner = client.walk("dir");
    for parent in [ROOT_ID, inner] {
        for text in ["..", ".", "", "../outside", "dir/..", "/", "/etc", "link/x"] {
            let error = client.lookup(parent, text).unwrap_err();
            assert_eq!(error, libc::EINVAL, "{text}");
            assert!(client.create(parent, text, libc::O_RDWR, 0o600).is_err());
            let mkdir = MkdirIn { mode: 0o700, umask: 0 };
            assert!(client.call(Opcode::Mkdir, parent, &[mkdir.as_slice(), &name(text)], 200).is_err());
            assert!(client.call(Opcode::Symlink, parent, &[&name(text), &name("x")], 200).is_err());
            assert!(client.call(Opcode::Unlink, parent, &[&name(text)], 0).is_err());
            assert!(client.call(Opcode::Rmdir, parent, &[&name(text)], 0).is_err());
            let rename = RenameIn { newdir: ROOT_ID };
            let names: [&[u8]; 2] = [&name("file"), &name(text)];
            assert!(client.call(Opcode::Rename, ROOT_ID, &[rename.as_slice(), names[0], names[1]], 0).is_err());
            assert!(client.call(Opcode::Rename, parent, &[rename.as_slice(), names[1], names[0]], 0).is_err());
        }
    }
    // The guest reads the target of a link, but the host does not follow it.
    let link = client.walk("link");
    assert_eq!(client.call(Opcode::Readlink, link, &[], 4096).unwrap(), b"../outside/secret");
    assert_eq!(client.open(link, libc::O_RDONLY).unwrap_err(), libc::EBADF);
    assert_eq!(client.lookup(link, "x").unwrap_err(), libc::ENOTDIR);
    let chmod = SetattrIn { valid: 1, mode: 0o777, ..SetattrIn::default() };
    drop(client.call(Opcode::Setattr, link, &[chmod.as_slice()], 200));
    let truncate = SetattrIn { valid: 8, ..SetattrIn::default() };
    assert!(client.call(Opcode::Setattr, link, &[truncate.as_slice()], 200).is_err());
    let secret = dir.path().join("outside/secret");
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_ne!(fs::metadata(&secret).unwrap().mode() & 0o777, 0o777);
}

#[test]
fn open_flags_that_a_guest_must_not_use_are_dropped() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    let node = client.walk("dir");
    // O_TMPFILE would create a file.
    client.open(node, libc::O_TMPFILE | libc::O_RDONLY).unwrap();
    assert_eq!(client.open(node, libc::O_TMPFILE | libc::O_RDWR).unwrap_err(), libc::EISDIR);
    let file = client.walk("file");
    let fh = client.open(file, libc::O_PATH | libc::O_DIRECT | libc::O_ASYNC | libc::O_NOATIME).unwrap();
    let body = ReadIn { fh, size: 100, flags: libc::O_DIRECT as u32, ..ReadIn::default() };
    assert_eq!(client.call(Opcode::Read, file, &[body.as_slice()], 100).unwrap(), b"contents");
}

/// Every request that changes something, with its body.
fn changes(client: &mut Client) -> Vec<(Opcode, u64, Vec<u8>)> {
    let (file, dir) = (client.walk("file"), client.walk("dir"));
    let fh = client.open(file, libc::O_RDONLY).unwrap();
    let body = |head: &[u8], rest: &[u8]| [head, rest].concat();
    let open = |flags: i32| [(flags as u32).to_le_bytes(), [0; 4]].concat();
    let setattr = |valid| body(SetattrIn { valid, mode: 0o777, fh, ..SetattrIn::default() }.as_slice(), &[]);
    let create = [(libc::O_RDWR as u32).to_le_bytes(), 0o600u32.to_le_bytes(), [0; 4], [0; 4]].concat();
    let create_to_read = [[0; 4], 0o600u32.to_le_bytes(), [0; 4], [0; 4]].concat();
    let write = WriteIn { fh, size: 1, ..WriteIn::default() };
    let fallocate = FallocateIn { fh, length: 100, ..FallocateIn::default() };
    let two = [name("file"), name("other")].concat();
    let mut all = vec![
        (Opcode::Symlink, ROOT_ID, body(&name("new"), &name("target"))),
        (Opcode::Mknod, ROOT_ID, body(MknodIn { mode: 0o100_600, ..MknodIn::default() }.as_slice(), &name("new"))),
        (Opcode::Mkdir, ROOT_ID, body(MkdirIn { mode: 0o700, umask: 0 }.as_slice(), &name("new"))),
        (Opcode::Unlink, ROOT_ID, name("file")),
        (Opcode::Rmdir, ROOT_ID, name("empty")),
        (Opcode::Rename, ROOT_ID, body(RenameIn { newdir: dir }.as_slice(), &two)),
        (Opcode::Rename2, ROOT_ID, body(Rename2In { newdir: dir, ..Rename2In::default() }.as_slice(), &two)),
        (Opcode::Link, ROOT_ID, body(LinkIn { oldnodeid: file }.as_slice(), &name("new"))),
        (Opcode::Create, ROOT_ID, body(&create, &name("new"))),
        (Opcode::Create, ROOT_ID, body(&create_to_read, &name("file"))),
        (Opcode::Write, file, body(write.as_slice(), b"x")),
        (Opcode::Fallocate, file, body(fallocate.as_slice(), &[])),
        (Opcode::Setxattr, file, body(SetxattrIn { size: 1, flags: 0 }.as_slice(), b"user.a\0x")),
        (Opcode::Removexattr, file, name("user.a")),
        (Opcode::Access, file, [(libc::W_OK as u32).to_le_bytes(), [0; 4]].concat()),
    ];
    // Mode, owner, group, size, times, all with and without the open file.
    all.extend(
        [1, 2, 4, 8, 0x10, 0x20, 0x80, 0x100, 0x41, 0x48, 0x7f].map(|bits| (Opcode::Setattr, file, setattr(bits))),
    );
    let modes = [libc::O_WRONLY, libc::O_RDWR, 3, libc::O_TRUNC, libc::O_TRUNC | libc::O_RDWR, libc::O_TMPFILE | 2];
    all.extend(modes.map(|flags| (Opcode::Open, file, open(flags))));
    all.push((Opcode::Open, dir, open(libc::O_TMPFILE | libc::O_RDWR)));
    all
}

/// Names, modes, times and contents of everything below.
fn snapshot(path: &Path) -> Vec<(String, u32, i64, i64, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let data = path.symlink_metadata().unwrap();
        let text = if data.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.push((path.display().to_string(), data.mode(), data.mtime(), data.ctime_nsec(), text));
        if data.is_dir() {
            all.extend(snapshot(&path));
        }
    }
    all.sort();
    all
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let dir = tree();
    fs::create_dir(share(&dir).join("empty")).unwrap();
    let before = snapshot(&share(&dir));
    let mut client = Client::read_only(&share(&dir));
    for (opcode, node, body) in changes(&mut client) {
        assert_eq!(client.call(opcode, node, &[&body], 4096).unwrap_err(), libc::EROFS, "{opcode:?} {body:?}");
    }
    assert_eq!(snapshot(&share(&dir)), before);
    // Requests that change nothing succeed.
    assert_eq!(client.cat("file"), b"contents");
    assert_eq!(client.list(ROOT_ID, true, 4096).len(), 5);
    // A read-write share executes all of them.
    let mut client = Client::read_write(&share(&dir));
    let refused = |client: &mut Client, (opcode, node, body): (Opcode, u64, Vec<u8>)| {
        client.call(opcode, node, &[&body], 4096).is_err_and(|errno| errno == libc::EROFS)
    };
    for change in changes(&mut client) {
        assert!(!refused(&mut client, change));
    }
    assert_ne!(snapshot(&share(&dir)), before);
}

#[test]
fn unknown_nodes_and_handles_are_errors() {
    let dir = tree();
    let mut client = Client::read_write(&share(&dir));
    for node in [0, 2, 12345, u64::MAX] {
        assert_eq!(client.getattr(node).unwrap_err(), libc::EBADF);
        assert_eq!(client.lookup(node, "file").unwrap_err(), libc::EBADF);
        assert_eq!(client.open(node, 0).unwrap_err(), libc::EBADF);
    }
    let (file, hard) = (client.walk("file"), client.walk("dir/inner"));
    let fh = client.open(file, 0).unwrap();
    assert_eq!(client.read(file, fh + 1, 0, 10).unwrap_err(), libc::EBADF);
    assert_eq!(client.read(hard, fh, 0, 10).unwrap_err(), libc::EBADF, "a handle of another file");
}
