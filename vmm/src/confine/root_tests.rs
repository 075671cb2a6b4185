//! As root of a user and mount namespace of its own. The thread that enters the root has a further mount namespace, as a
//! VMM process has.

use std::fs;
use std::process::Command;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;

use nix::sched::{unshare, CloneFlags};

use super::*;

fn inside(test: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().expect("this program"))
        .args([&format!("confine::root::tests::{test}"), "--exact", "--ignored", "--nocapture"])
        .env("HUTCH_TEST_DIR", dir.path())
        .output()
        .expect("unshare(1)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("checked inside"), "{text}");
}

fn dir() -> PathBuf {
    std::env::var_os("HUTCH_TEST_DIR").expect("run by another test").into()
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn the_root_holds_the_shares_and_nothing_else() {
    inside("inside_the_root");
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_the_root() {
    let dir = dir();
    let (shared, volume) = (dir.join("shared"), dir.join("volume"));
    for path in [&shared, &volume] {
        fs::create_dir(path).expect("a new directory");
        fs::write(path.join("file"), "text").expect("a new file");
    }
    fs::write(dir.join("secret"), "text").expect("a new file");
    std::os::unix::fs::symlink(dir.join("secret"), shared.join("link")).expect("a new link");
    let none = None::<&str>;
    mount(Some(&shared), &shared, none, MsFlags::MS_BIND, none).expect("a bind");
    mount(none, &shared, none, MsFlags::MS_SHARED, none).expect("a shared mount");

    let launcher = MountNamespace::of_this_thread().expect("/proc");
    let shares = [RootShare { path: shared.clone(), read_only: false }, RootShare { path: volume, read_only: true }];
    let error = PrivateRoot::prepare(&shared, &shares, launcher).expect_err("not in the launcher's namespace");
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);

    let (entered, wait) = channel();
    let (mounted, late) = channel();
    let secret = dir.join("secret");
    thread::scope(|scope| {
        let (at, shares, secret) = (&shared, &shares, &secret);
        let vmm = scope.spawn(move || as_a_vmm(at, shares, launcher, secret, &entered, &late));
        wait.recv().expect("the thread has entered its root");
        let point = shared.join("late");
        fs::create_dir(&point).expect("a new directory");
        let attributes = Attributes { read_only: true, ..Attributes::default() };
        MountTree::copy(&dir.join("volume"), attributes).expect("a copy").attach(&point).expect("a mount");
        mounted.send(()).expect("the thread waits");
        wait.recv().expect("the thread has seen the mount");
        umount2(&point, MntFlags::MNT_DETACH).expect("unmounted");
        mounted.send(()).expect("the thread waits");
        vmm.join().expect("no panic");
    });
    assert_eq!(fs::read(dir.join("secret")).expect("the caller's root is as before"), b"text");
    println!("checked inside");
}

fn as_a_vmm(
    at: &Path,
    shares: &[RootShare],
    launcher: MountNamespace,
    secret: &Path,
    entered: &Sender<()>,
    late: &Receiver<()>,
) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let root = PrivateRoot::prepare(at, shares, launcher).expect("prepared");
    assert_eq!(fs::read(root.share(0).join("file")).expect("there already"), b"text");
    assert_eq!(fs::read(secret).expect("still there"), b"text");
    root.enter().expect("entered");

    let entries = |path: &str| {
        let entries = fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    assert_eq!(entries("/"), ["proc", "shares"]);
    assert_eq!(entries("/proc"), ["self"]);
    assert_eq!(entries("/shares"), ["0", "1"]);
    assert_eq!(errno(fs::read(secret)), Some(libc::ENOENT));
    assert_eq!(errno(fs::write("/new", "")), Some(libc::EROFS));
    fs::read("/proc/self/mountinfo").expect("readable");

    let shared = PrivateRoot::share_inside(0);
    fs::write(shared.join("new"), "text").expect("writable");
    assert_eq!(errno(fs::read(shared.join("link"))), Some(libc::ELOOP), "links are not followed");
    let volume = PrivateRoot::share_inside(1);
    assert_eq!(fs::read(volume.join("file")).expect("readable"), b"text");
    assert_eq!(errno(fs::write(volume.join("file"), "")), Some(libc::EROFS));

    entered.send(()).expect("the caller waits");
    late.recv().expect("the caller has mounted");
    assert_eq!(fs::read(shared.join("late/file")).expect("a late mount appears"), b"text");
    assert_eq!(errno(fs::write(shared.join("late/file"), "")), Some(libc::EROFS), "read-only here too");
    entered.send(()).expect("the caller waits");
    late.recv().expect("the caller has unmounted");
    assert_eq!(errno(fs::read(shared.join("late/file"))), Some(libc::ENOENT), "and goes away");
}
