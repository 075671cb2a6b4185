//! Hard links by a file server without CAP_DAC_READ_SEARCH.

use std::fs;
use std::os::unix::fs::{lchown, symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use caps::{CapSet, Capability};
use fuse_backend_rs::abi::fuse_abi::{EntryOut, LinkIn, Opcode, ROOT_ID};
use vm_memory::ByteValued;

use super::client::{name, value, Client};
use super::sys::is_root;
use super::tests::{share, tree};

const USER: u32 = 1000;

fn link(client: &mut Client, node: u64, parent: u64, text: &str) -> Result<EntryOut, i32> {
    let body = LinkIn { oldnodeid: node };
    let reply = client.call(Opcode::Link, parent, &[body.as_slice(), &name(text)], size_of::<EntryOut>())?;
    Ok(value(&reply))
}

/// Links files of every kind, and one whose first name is gone.
fn check_links(client: &mut Client, share: &Path) {
    symlink("nowhere", share.join("soft")).unwrap();
    nix::unistd::mkfifo(&share.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(share.join("dark"), "").unwrap();
    fs::set_permissions(share.join("dark"), fs::Permissions::from_mode(0o0)).unwrap();
    // Creating a file for a user changes the credentials of a thread of the device.
    (client.uid, client.gid) = (USER, USER);
    client.create(ROOT_ID, "new", libc::O_RDWR, 0o600).unwrap();
    client.create(ROOT_ID, "newer", libc::O_RDWR, 0o600).unwrap();
    let directory = client.walk("dir");
    for text in ["file", "soft", "pipe", "dark", "new"] {
        let node = client.walk(text);
        let entry = link(client, node, directory, text).unwrap_or_else(|errno| panic!("{text}: error {errno}"));
        assert_eq!((entry.nodeid, entry.attr.nlink), (node, if text == "file" { 3 } else { 2 }), "{text}");
        let ino = |path: PathBuf| path.symlink_metadata().unwrap().ino();
        assert_eq!(ino(share.join(text)), ino(share.join("dir").join(text)));
        assert_eq!(link(client, node, directory, text).unwrap_err(), libc::EEXIST);
    }
    // As git and dpkg do it: a second name, and the first one is removed.
    let node = client.walk("new");
    client.call(Opcode::Unlink, ROOT_ID, &[&name("new")], 0).unwrap();
    link(client, node, ROOT_ID, "again").unwrap();
    for text in ["again", "dir/new"] {
        fs::remove_file(share.join(text)).unwrap();
    }
    assert_eq!(link(client, node, ROOT_ID, "lost").unwrap_err(), libc::ENOENT);
}

/// The device's threads inherit the capabilities of the thread that makes them.
#[test]
fn root_without_the_capability_makes_hard_links() {
    let dir = tree();
    let share = share(&dir);
    thread::spawn(move || {
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::drop(None, set, Capability::CAP_DAC_READ_SEARCH).unwrap();
        }
        check_links(&mut Client::read_write(&share), &share);
    })
    .join()
    .unwrap();
}

/// The device's threads inherit the user of the thread that makes them. A child process would keep descriptors of other
/// tests, and with them the locks of their disk images, open until it has started.
#[test]
fn an_ordinary_user_makes_hard_links() {
    let dir = tree();
    let share = share(&dir);
    let root = is_root();
    if root {
        own(dir.path());
    }
    thread::spawn(move || {
        if root {
            become_user();
            assert!(!is_root());
        }
        check_links(&mut Client::read_write(&share), &share);
    })
    .join()
    .unwrap();
}

/// Gives a directory and everything in it to the user.
fn own(path: &Path) {
    lchown(path, Some(USER), Some(USER)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| own(&entry.unwrap().path()));
    }
}

/// The calling thread is an ordinary user from now on, without capabilities and further groups.
#[expect(unsafe_code, reason = "libc's functions change the ids of all threads")]
fn become_user() {
    // SAFETY: no list of groups is read, since its length is 0.
    let groups = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) };
    // SAFETY: takes numbers.
    let gid = unsafe { libc::syscall(libc::SYS_setresgid, USER, USER, USER) };
    // SAFETY: takes numbers.
    let uid = unsafe { libc::syscall(libc::SYS_setresuid, USER, USER, USER) };
    assert_eq!((groups, gid, uid), (0, 0, 0));
}
