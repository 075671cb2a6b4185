//! Network namespaces that live as long as a file: a thread creates one and binds it to a path.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use hutch_netlink::{change_link, links, LinkChange, Netlink};
use nix::errno::Errno;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::sys::statfs::{statfs, FsType};

/// Most mounts that [`remove`] unmounts from one path before it gives up.
const MAX_STACKED: usize = 8;

/// Creates a namespace with its loopback interface up, and binds it to `path`.
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

/// Creates the file for the bind mount, and its directory. Another pod's removal may delete the directory meanwhile.
fn create(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    loop {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        match OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path) {
            Ok(_) => return Ok(()),
            // Ends: each time another process has made progress.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

/// Runs on a thread of its own: the thread enters a new namespace, binds it and ends.
fn fill(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open()?;
    if let Some(loopback) = links(&mut netlink)?.iter().find(|link| link.loopback) {
        change_link(&mut netlink, loopback.index, LinkChange { up: Some(true), ..LinkChange::default() })?;
    }
    let none = None::<&str>;
    mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// Removes the path. The namespace ends once no process is in it. A missing path is fine.
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
    // The last namespace removes the directory. It stays while others are in it, or a mount that is not ours.
    if let Some(dir) = path.parent() {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// Whether a namespace is bound at `path`; the bare file does not count.
pub(super) fn exists(path: &Path) -> bool {
    // Magic number of the namespace file system (statfs(2), NSFS_MAGIC).
    const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Opens the network namespace of the calling thread.
pub(super) fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}
