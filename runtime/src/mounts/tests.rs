//! Bind mounts, made as root of a user and mount namespace of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use hutch_vmm::confine::root::{MountNamespace, PrivateRoot, RootShare};
use nix::sched::{unshare, CloneFlags};

use super::BindMounts;
use crate::backend::HostMounts;
use crate::store::BindRecord;

fn inside(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(me)
        .args([&format!("mounts::tests::{test}"), "--exact", "--ignored", "--nocapture"])
        .env("HUTCH_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("checked inside"), "{text}");
}

fn dir() -> PathBuf {
    std::env::var_os("HUTCH_TEST_DIR").expect("run by another test").into()
}

fn bind(source: &Path, target: &Path, read_only: bool) -> BindRecord {
    BindRecord { source: source.into(), target: target.into(), destination: "/x".into(), read_only }
}

/// P-100: a missing destination is created to match, links are resolved, read-only is enforced. P-104: removal does not
/// follow links.
#[test]
fn p_100_binds_are_made_and_taken_apart() {
    inside("inside_binds");
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_binds() {
    let (dir, mounts) = (dir(), BindMounts);
    let (volume, shared) = (dir.join("volume"), dir.join("shared"));
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::create_dir(&shared).unwrap();
    fs::write(volume.join("data"), "x").unwrap();
    fs::write(dir.join("single"), "y").unwrap();
    symlink(&volume, dir.join("link")).unwrap();
    assert_eq!(mounts.resolve(&dir.join("link")).unwrap(), volume.canonicalize().unwrap());
    assert!(mounts.resolve(&dir.join("nowhere")).is_err());
    // A mount below a read-only bind is read-only too.
    Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(volume.join("sub")).status().unwrap();

    let (a, b, c) = (shared.join("a dir"), shared.join("b"), shared.join("c"));
    mounts.bind(&bind(&volume, &a, false)).unwrap();
    mounts.bind(&bind(&volume, &b, true)).unwrap();
    mounts.bind(&bind(&dir.join("single"), &c, true)).unwrap();
    fs::write(a.join("new"), "z").unwrap();
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "z");
    for path in [b.join("new"), b.join("sub/new"), c.clone()] {
        let error = fs::write(&path, "no").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{}", path.display());
    }
    assert_eq!(fs::read_to_string(&c).unwrap(), "y");
    let below = mounts.below(&shared).unwrap();
    let expected = [&a, &b, &c].map(|path| path.canonicalize().unwrap());
    assert_eq!(below, expected, "and not the mounts inside of them");

    for target in below {
        mounts.unbind(&target).unwrap_or_else(|e| panic!("{}: {e}", target.display()));
    }
    for target in [&a, &b, &c] {
        mounts.unbind(target).unwrap();
        assert!(fs::symlink_metadata(target).is_err(), "{}", target.display());
    }
    assert_eq!(fs::read_to_string(volume.join("data")).unwrap(), "x");
    assert!(volume.join("sub").is_dir(), "a mount point in a volume is the owner's");
    assert!(mounts.below(&shared).unwrap().is_empty());
    assert!(mounts.below(&dir.join("nowhere")).unwrap().is_empty());

    // A path that is not one of our mount points is not removed.
    fs::write(shared.join("precious"), "data").unwrap();
    assert!(mounts.unbind(&shared.join("precious")).is_err());
    fs::create_dir_all(shared.join("full/of")).unwrap();
    assert!(mounts.unbind(&shared.join("full")).is_err());
    symlink(&volume, shared.join("link")).unwrap();
    assert!(mounts.unbind(&shared.join("link")).is_err());
    assert!(volume.join("data").exists());

    // An open file does not keep the host from unmounting.
    mounts.bind(&bind(&volume, &a, false)).unwrap();
    let open = fs::File::open(a.join("data")).unwrap();
    mounts.unbind(&a).unwrap();
    drop(open);
    assert!(mounts.bind(&bind(&dir.join("nowhere"), &a, false)).is_err());
    assert!(!a.exists());
    println!("checked inside");
}

/// A directory is shared through the shared directory on any file system; a file is a disk.
#[test]
fn p_200_an_image_is_a_disk_and_a_directory_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(BindMounts.root_disk(dir.path()).unwrap(), None);
    assert!(BindMounts.root_disk(&dir.path().join("x")).is_err());
    let image = dir.path().join("image");
    fs::write(&image, b"hsqs").unwrap();
    symlink(&image, dir.path().join("link")).unwrap();
    let disk = BindMounts.root_disk(&dir.path().join("link")).unwrap().unwrap();
    assert_eq!((disk.device, disk.fstype.as_str()), (image.canonicalize().unwrap(), "squashfs"));
    fs::write(&image, "nothing that is known").unwrap();
    assert_eq!(BindMounts.root_disk(&image).unwrap().unwrap().fstype, "");
    assert_eq!(BindMounts.root_disk(Path::new("/dev/null")).unwrap(), None);
}

/// P-100: read-only also for a VMM process, which has its own copy of each bind.
#[test]
fn p_100_a_late_bind_is_read_only_in_the_root_of_a_machine_too() {
    inside("inside_late_binds");
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_late_binds() {
    let (dir, mounts) = (dir(), BindMounts);
    let (volume, shared) = (dir.join("volume"), dir.join("shared"));
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("data"), "x").unwrap();
    fs::create_dir(&shared).unwrap();
    Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(volume.join("sub")).status().unwrap();
    mounts.publish(&shared).unwrap();
    let launcher = MountNamespace::of_this_thread().unwrap();
    let (say, heard) = channel();
    let (tell, told) = channel();
    thread::scope(|scope| {
        let share = RootShare { path: shared.clone(), read_only: false };
        let vmm = scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            PrivateRoot::prepare(&share.path, std::slice::from_ref(&share), launcher).unwrap().enter().unwrap();
            say.send(()).unwrap();
            let root = PrivateRoot::share_inside(0);
            told.recv().unwrap();
            fs::write(root.join("rw/data"), "y").unwrap();
            assert_eq!(fs::read(root.join("ro/data")).unwrap(), b"y");
            for file in ["ro/data", "ro/sub/new"] {
                let error = fs::write(root.join(file), "no").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{file}");
            }
            // It keeps a file open, which must not keep the host from unmounting.
            let kept = fs::File::open(root.join("rw/data")).unwrap();
            say.send(()).unwrap();
            told.recv().unwrap();
            for bind in ["rw", "ro"] {
                assert!(!root.join(bind).exists(), "{bind}");
            }
            drop(kept);
        });
        heard.recv().unwrap();
        mounts.bind(&bind(&volume, &shared.join("rw"), false)).unwrap();
        mounts.bind(&bind(&volume, &shared.join("ro"), true)).unwrap();
        tell.send(()).unwrap();
        heard.recv().unwrap();
        for target in mounts.below(&shared).unwrap() {
            mounts.unbind(&target).unwrap();
        }
        tell.send(()).unwrap();
        vmm.join().unwrap();
    });
    assert_eq!(mounts.below(&dir).unwrap().len(), 2, "the directory itself and the volume's tmpfs");
    mounts.unpublish(&shared).unwrap();
    mounts.unpublish(&shared).unwrap();
    assert!(mounts.below(&shared).unwrap().is_empty() && shared.is_dir());
    println!("checked inside");
}
