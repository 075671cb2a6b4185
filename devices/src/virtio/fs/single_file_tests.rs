//! A share of a single file, with a guest that tries to reach more.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;

use fuse_backend_rs::abi::fuse_abi::{
    EntryOut, GetxattrIn, LinkIn, MkdirIn, Opcode, ReadIn, RenameIn, SetattrIn, ROOT_ID,
};
use vm_memory::ByteValued;

use super::client::{config, name, Client};
use super::FsDeviceConfig;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["file", "secret", "file2"] {
        fs::write(dir.path().join(file), file).unwrap();
    }
    fs::create_dir(dir.path().join("dir")).unwrap();
    dir
}

fn mount(dir: &tempfile::TempDir) -> Client {
    Client::mount(FsDeviceConfig { single_file: Some("file".into()), ..config(dir.path()) })
}

#[test]
fn the_file_is_there_and_can_be_written() {
    let dir = directory();
    let mut client = mount(&dir);
    assert_eq!(client.cat("file"), b"file");
    let node = client.walk("file");
    let fh = client.open(node, libc::O_RDWR).unwrap();
    client.write(node, fh, 0, b"FILE").unwrap();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"FILE");
    for plus in [false, true] {
        let names: Vec<String> = client.list(ROOT_ID, plus, 4096).into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["file"]);
    }
}

#[test]
fn nothing_else_is_there() {
    let dir = directory();
    let mut client = mount(&dir);
    for other in ["secret", "file2", "dir", "none"] {
        assert_eq!(client.lookup(ROOT_ID, other).unwrap_err(), libc::ENOENT, "{other}");
    }
    assert!(client.lookup(ROOT_ID, "..").is_err());
}

#[test]
fn the_directory_cannot_be_changed() {
    let dir = directory();
    let mut client = mount(&dir);
    let room = size_of::<EntryOut>();
    assert_eq!(client.create(ROOT_ID, "new", libc::O_WRONLY, 0o644).unwrap_err(), libc::EPERM);
    assert_eq!(client.create(ROOT_ID, "secret", libc::O_RDWR, 0o644).unwrap_err(), libc::EPERM);
    let mkdir = MkdirIn { mode: 0o755, umask: 0 };
    let link = LinkIn { oldnodeid: client.walk("file") };
    let rename = RenameIn { newdir: ROOT_ID };
    let getxattr = GetxattrIn { size: 100, padding: 0 };
    let setattr = SetattrIn { valid: 1, mode: 0o777, ..SetattrIn::default() };
    let requests: &[(Opcode, &[&[u8]])] = &[
        (Opcode::Unlink, &[&name("file")]),
        (Opcode::Unlink, &[&name("secret")]),
        (Opcode::Rmdir, &[&name("dir")]),
        (Opcode::Mkdir, &[mkdir.as_slice(), &name("made")]),
        (Opcode::Symlink, &[&name("soft"), &name("secret")]),
        (Opcode::Link, &[link.as_slice(), &name("hard")]),
        (Opcode::Rename, &[rename.as_slice(), &name("secret"), &name("file")]),
        (Opcode::Setattr, &[setattr.as_slice()]),
        (Opcode::Getxattr, &[getxattr.as_slice(), &name("user.x")]),
    ];
    for (opcode, body) in requests {
        assert_eq!(client.call(*opcode, ROOT_ID, body, room.max(200)).unwrap_err(), libc::EPERM, "{opcode:?}");
    }
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!((left, fs::read(dir.path().join("secret")).unwrap()), (4, b"secret".to_vec()));
}

/// A request for entries with too little room for the only one: the guest does not know the file.
#[test]
fn an_entry_that_does_not_fit_is_forgotten() {
    let dir = directory();
    let mut client = mount(&dir);
    let fh = client.opendir(ROOT_ID).unwrap();
    let path = fs::canonicalize(dir.path().join("file")).unwrap();
    let open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        descriptors.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == path)).count()
    };
    for opcode in [Opcode::Readdir, Opcode::Readdirplus] {
        let body = ReadIn { fh, offset: 0, size: 8, ..ReadIn::default() };
        assert_eq!(client.call(opcode, ROOT_ID, &[body.as_slice()], 8).unwrap(), b"");
        assert_eq!(open(), 0, "{opcode:?}");
    }
    assert_eq!(client.walk("file"), ROOT_ID + 1, "the first file that the guest has a reference to");
}

#[test]
fn a_replaced_file_is_seen_but_a_directory_or_link_in_its_place_is_not() {
    let dir = directory();
    let mut client = mount(&dir);
    fs::rename(dir.path().join("file2"), dir.path().join("file")).unwrap();
    assert_eq!(client.cat("file"), b"file2");
    fs::remove_file(dir.path().join("file")).unwrap();
    symlink("secret", dir.path().join("file")).unwrap();
    assert_eq!(client.lookup(ROOT_ID, "file").unwrap_err(), libc::ENOENT);
    fs::remove_file(dir.path().join("file")).unwrap();
    fs::rename(dir.path().join("dir"), dir.path().join("file")).unwrap();
    assert_eq!(client.lookup(ROOT_ID, "file").unwrap_err(), libc::ENOENT);
    assert!(client.list(ROOT_ID, true, 4096).is_empty());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for bad in ["", ".", "..", "dir/file"] {
        assert!(super::single_file::SingleFile::new(Some(&OsString::from(bad))).is_err(), "{bad:?}");
    }
}
