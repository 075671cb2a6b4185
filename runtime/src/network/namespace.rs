//! Network namespaces that live as long as a file: made on a thread of its own and bound to a path.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};

use super::netlink::{links, set_up, Netlink};

/// Mounts stacked on one path that are taken apart before something must be wrong.
const MAX_STACKED: usize = 8;

/// Makes a namespace with its loopback interface up, and binds it to `path`.
pub(super) fn make(path: &Path) -> io::Result<()> {
    create(path)?;
    let made = std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("new-netns".into()).spawn_scoped(scope, || fill(path))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if made.is_err() {
        let _ = remove(path);
    }
    made
}

/// The file to bind it to, and its directory, which the removal of another one may take away at any moment.
fn create(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    loop {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        match OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path) {
            Ok(_) => return Ok(()),
            // Ends: each time somebody else has made progress.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

/// On the thread that becomes the first of the namespace, and ends then.
fn fill(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open()?;
    if let Some(loopback) = links(&mut netlink)?.iter().find(|link| link.loopback) {
        set_up(&mut netlink, loopback.index, 0)?;
    }
    let none = None::<&str>;
    mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// Takes the path away, and with it the namespace once no process is in it; a missing one is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..MAX_STACKED {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The last one takes the directory along; with others in it, or somebody else's mount, it stays.
    if let Some(dir) = path.parent() {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// Whether there is a namespace at `path`, and not only the file for one.
pub(super) fn exists(path: &Path) -> bool {
    // Magic number of the file system of namespaces (statfs(2), NSFS_MAGIC).
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS_MAGIC)
}

/// Opens the namespace of this thread.
pub(super) fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}
