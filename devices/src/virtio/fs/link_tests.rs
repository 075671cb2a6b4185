//! Hard links by a file server without CAP_DAC_READ_SEARCH.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use caps::{CapSet, Capability};
use fuse_backend_rs::abi::fuse_abi::{EntryOut, LinkIn, Opcode, ROOT_ID};
use vm_memory::ByteValued;

use super::client::{name, value, Client};
use super::tests::{share, tree};

const INSIDE: &str = "HUTCH_TEST_SHARE_OF_ORDINARY_USER";
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

#[test]
fn an_ordinary_user_makes_hard_links() {
    if let Some(path) = std::env::var_os(INSIDE) {
        let share = PathBuf::from(path);
        return check_links(&mut Client::read_write(&share), &share);
    }
    let dir = tree();
    let share = share(&dir);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "virtio::fs::link_tests::an_ordinary_user_makes_hard_links", "--nocapture"]);
    command.env(INSIDE, &share).env("TMPDIR", dir.path()).current_dir("/");
    // An ordinary user runs the test as itself.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETUID).unwrap_or(false) {
        let all = Command::new("chown").arg("-R").arg(format!("{USER}:{USER}")).arg(dir.path()).status();
        assert!(all.unwrap().success());
        command.uid(USER).gid(USER);
    }
    match command.output() {
        Ok(output) => {
            let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
            assert!(output.status.success() && ran, "{output:?}");
        }
        // Written directly, since the test harness would swallow it: skipped tests are counted.
        Err(error) => {
            let text = format!("SKIPPED: user {USER} cannot run this test program: {error}\n");
            std::io::stdout().write_all(text.as_bytes()).unwrap();
        }
    }
}
