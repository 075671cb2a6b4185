use std::fs;
use std::os::unix::fs::{chown, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{EntryOut, GetxattrIn, MkdirIn, MknodIn, Opcode, SetattrIn, SetxattrIn, ROOT_ID};
use vm_memory::ByteValued;

use super::*;
use crate::virtio::fs::client::{config, name, Client};
use crate::virtio::fs::sys::is_root;
use crate::virtio::fs::tests::{share, tree};
use crate::virtio::fs::FsDeviceConfig;

fn mount(path: &Path, privileges: FsPrivileges) -> Client {
    Client::mount(FsDeviceConfig { privileges, ..config(path) })
}

fn mknod(client: &mut Client, text: &str, mode: u32, rdev: u32) -> Result<(), i32> {
    let body = MknodIn { mode, rdev, ..MknodIn::default() };
    client.call(Opcode::Mknod, ROOT_ID, &[body.as_slice(), &name(text)], size_of::<EntryOut>()).map(drop)
}

fn chmod(client: &mut Client, node: u64, mode: u32) {
    let body = SetattrIn { valid: 1, mode, ..SetattrIn::default() };
    client.call(Opcode::Setattr, node, &[body.as_slice()], 200).unwrap();
}

fn set(client: &mut Client, node: u64, text: &str, bytes: &[u8]) -> Result<(), i32> {
    let body = SetxattrIn { size: bytes.len() as u32, flags: 0 };
    client.call(Opcode::Setxattr, node, &[body.as_slice(), &name(text), bytes], 0).map(drop)
}

/// `VFS_CAP_REVISION_2` with no capabilities.
const CAPABILITY: [u8; 20] = {
    let mut bytes = [0; 20];
    bytes[3] = 2;
    bytes
};

#[test]
fn device_nodes_are_whiteouts_only_while_pipes_and_sockets_are_made() {
    let dir = tree();
    for privileges in [FsPrivileges::Keep, FsPrivileges::Strip] {
        let mut client = mount(&share(&dir), privileges);
        let disk = 8 << 8;
        for (kind, rdev) in
            [(libc::S_IFBLK, disk), (libc::S_IFBLK, 0), (libc::S_IFCHR, 0x103), (libc::S_IFCHR, 1 << 20)]
        {
            assert_eq!(mknod(&mut client, "node", kind | 0o666, rdev), Err(libc::EPERM), "{kind:o} {rdev:#x}");
            assert!(!share(&dir).join("node").exists());
        }
        for (kind, text) in [(libc::S_IFIFO, "pipe"), (libc::S_IFSOCK, "socket"), (libc::S_IFREG, "plain")] {
            mknod(&mut client, text, kind | 0o600, 0).unwrap();
            fs::remove_file(share(&dir).join(text)).unwrap();
        }
        // An ordinary user may make whiteouts too.
        mknod(&mut client, "whiteout", libc::S_IFCHR, 0).unwrap();
        let data = fs::symlink_metadata(share(&dir).join("whiteout")).unwrap();
        assert!(data.file_type().is_char_device() && data.rdev() == 0);
        fs::remove_file(share(&dir).join("whiteout")).unwrap();
    }
}

#[test]
fn set_id_bits_follow_the_policy_of_the_share() {
    for (privileges, kept) in [(FsPrivileges::Keep, 0o6755), (FsPrivileges::Strip, 0o755)] {
        let dir = tree();
        let share = share(&dir);
        let mode = |text: &str| fs::metadata(share.join(text)).unwrap().mode() & 0o7777;
        let mut client = mount(&share, privileges);
        client.create(ROOT_ID, "made", libc::O_RDWR, 0o6755).unwrap();
        assert_eq!(mode("made"), kept, "create");
        mknod(&mut client, "node", libc::S_IFREG | 0o6755, 0).unwrap();
        assert_eq!(mode("node"), kept, "mknod");
        let file = client.walk("file");
        // A guest may claim that the file is a directory.
        for kind in [0, libc::S_IFREG, libc::S_IFDIR] {
            chmod(&mut client, file, kind | 0o6755);
            assert_eq!(mode("file"), kept, "chmod with type {kind:o}");
        }
        // Without the right to execute they are not in force, but `chmod g+x` by a user of the host would arm them.
        chmod(&mut client, file, 0o6640);
        assert_eq!(mode("file"), kept & 0o6000 | 0o640);
        chmod(&mut client, file, 0o1640);
        assert_eq!(mode("file"), 0o1640);
        // Directories pass their group on, to what is made in them too.
        let inner = client.walk("dir");
        chmod(&mut client, inner, libc::S_IFDIR | 0o2775);
        assert_eq!(mode("dir"), 0o2775);
        if is_root() {
            chown(share.join("dir"), None, Some(2000)).unwrap();
            fs::set_permissions(share.join("dir"), fs::Permissions::from_mode(0o2775)).unwrap();
        }
        let group = fs::metadata(share.join("dir")).unwrap().gid();
        let body = MkdirIn { mode: 0o750, umask: 0 };
        client.call(Opcode::Mkdir, inner, &[body.as_slice(), &name("below")], size_of::<EntryOut>()).unwrap();
        assert_eq!(mode("dir/below"), 0o2750);
        client.create(inner, "made", libc::O_RDWR, 0o2771).unwrap();
        assert_eq!(mode("dir/made"), kept & 0o2000 | 0o771);
        let of = |text: &str| fs::metadata(share.join(text)).unwrap().gid();
        assert_eq!((of("dir/below"), of("dir/made")), (group, group));
    }
}

/// A program of the host with set-id bits must not run what a guest writes into it.
#[test]
fn a_set_id_program_of_the_host_loses_its_bits_before_a_guest_writes_it() {
    let dir = tree();
    let program = share(&dir).join("file");
    let mut client = mount(&share(&dir), FsPrivileges::Strip);
    let file = client.walk("file");
    let arm = || fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let mode = || fs::metadata(&program).unwrap().mode() & 0o7777;
    arm();
    client.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(mode(), 0o6755);
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        arm();
        client.open(file, flags).unwrap();
        assert_eq!(mode(), 0o755, "{flags:#x}");
    }
    arm();
    client.create(ROOT_ID, "file", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(mode(), 0o755, "create of a file that exists");
    arm();
    let truncate = SetattrIn { valid: 8, size: 1, ..SetattrIn::default() };
    client.call(Opcode::Setattr, file, &[truncate.as_slice()], 200).unwrap();
    assert_eq!(mode(), 0o755, "truncate");
}

#[test]
fn file_capabilities_follow_the_policy_of_the_share() {
    if !is_root() {
        return;
    }
    let dir = tree();
    for (privileges, expected) in [(FsPrivileges::Keep, Ok(())), (FsPrivileges::Strip, Err(libc::EPERM))] {
        let mut client = mount(&share(&dir), privileges);
        let file = client.walk("file");
        assert_eq!(set(&mut client, file, "security.capability", &CAPABILITY), expected);
        // Removing power is allowed.
        if expected.is_err() {
            client.call(Opcode::Removexattr, file, &[&name("security.capability")], 0).unwrap();
        }
        set(&mut client, file, "user.x", b"1").unwrap();
    }
}

#[test]
fn trusted_attributes_are_hidden_unless_the_share_allows_them() {
    if !is_root() {
        return;
    }
    let dir = tree();
    let get = GetxattrIn { size: 100, padding: 0 };
    let list = |client: &mut Client, node| {
        let names = client.call(Opcode::Listxattr, node, &[get.as_slice()], 200).unwrap();
        let names = names.split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned());
        names.filter(|name| name.contains(".")).collect::<Vec<_>>()
    };
    let mut open = Client::mount(FsDeviceConfig { trusted_xattrs: true, ..config(&share(&dir)) });
    let file = open.walk("file");
    set(&mut open, file, "user.a", b"1").unwrap();
    set(&mut open, file, "trusted.b", b"2").unwrap();
    set(&mut open, file, "user.c", b"3").unwrap();
    assert_eq!(list(&mut open, file).len(), 3);
    let mut client = Client::read_write(&share(&dir));
    let file = client.walk("file");
    assert_eq!(list(&mut client, file), ["user.a", "user.c"]);
    assert_eq!(set(&mut client, file, "trusted.b", b"x"), Err(libc::EPERM));
    let removed = client.call(Opcode::Removexattr, file, &[&name("trusted.b")], 0);
    assert_eq!(removed.unwrap_err(), libc::EPERM);
    let read = client.call(Opcode::Getxattr, file, &[get.as_slice(), &name("trusted.b")], 100);
    assert_eq!(read.unwrap_err(), libc::ENODATA);
}
