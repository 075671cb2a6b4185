//! Bind mounts made and removed with mount(2).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hutch_vmm::confine::tree::{Attributes, MountTree};
use nix::errno::Errno;
use nix::mount::{mount, umount2, MntFlags, MsFlags};

use super::disk::file_system_of;
use super::table;
use crate::backend::{BackendError, BackendResult, HostMounts, RootDisk};
use crate::store::BindRecord;

/// Most mounts that are unmounted from one point before we give up.
const MAX_STACKED: usize = 16;

/// Bind mounts in this process's mount namespace. Needs CAP_SYS_ADMIN.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindMounts;

fn fail(what: &str, path: &Path, error: impl Into<io::Error>) -> BackendError {
    BackendError::system(format!("{what} {}", path.display()), error.into())
}

/// Creates a directory or an empty file, like the source that will be bound on it.
fn make_point(bind: &BindRecord) -> BackendResult<()> {
    let source = fs::metadata(&bind.source).map_err(|e| fail("stat", &bind.source, e))?;
    let made = if source.is_dir() {
        fs::create_dir(&bind.target)
    } else {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&bind.target).map(drop)
    };
    match made {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(fail("make the mount point", &bind.target, e)),
        _ => Ok(()),
    }
}

fn remove_point(target: &Path) -> BackendResult<()> {
    let removed = match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        // Removes only what we have made: a mount point is an empty file.
        Ok(found) if found.is_file() && found.len() == 0 => fs::remove_file(target),
        Ok(_) => return Err(fail("remove the mount point", target, io::Error::other("it is not empty"))),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail("remove the mount point", target, e)),
        _ => Ok(()),
    }
}

/// Unmounts all that is mounted at `target`, which may be nothing, and need not exist.
fn unmount_all(target: &Path) -> Result<(), Errno> {
    for _ in 0..MAX_STACKED {
        // Detached: a file that a guest still has open does not block the host, and the mount point is free at once.
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any longer), or it does not exist.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    // More mounts are stacked there than hutch makes.
    Err(Errno::ELOOP)
}

impl HostMounts for BindMounts {
    fn root_disk(&self, rootfs: &Path) -> BackendResult<Option<RootDisk>> {
        let device = rootfs.canonicalize().map_err(|e| fail("find", rootfs, e))?;
        let kind = fs::metadata(&device).map_err(|e| fail("stat", &device, e))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Ok(None);
        }
        let fstype = file_system_of(&device).map_err(|e| fail("read", &device, e))?.unwrap_or_default();
        Ok(Some(RootDisk { device, fstype: fstype.to_owned(), path: PathBuf::new() }))
    }

    fn resolve(&self, source: &Path) -> BackendResult<PathBuf> {
        source.canonicalize().map_err(|e| fail("find", source, e))
    }

    fn bind(&self, bind: &BindRecord) -> BackendResult<()> {
        make_point(bind)?;
        // Later mounts in the bind must not appear in the source. Read-only before it is mounted: once it is, the VMM
        // process has it too.
        let attributes = Attributes { read_only: bind.read_only, slave: true, ..Attributes::default() };
        MountTree::copy(&bind.source, attributes)
            .and_then(|tree| tree.attach(&bind.target))
            .map_err(|e| fail("bind", &bind.source, e))
    }

    fn publish(&self, dir: &Path) -> BackendResult<()> {
        let none = None::<&str>;
        match mount(Some(dir), dir, none, MsFlags::MS_BIND, none) {
            // Such a user makes no binds either, and has no namespaces for its processes.
            Err(Errno::EPERM) => return Ok(()),
            other => other.map_err(|e| fail("mount on itself", dir, e))?,
        }
        mount(none, dir, none, MsFlags::MS_SHARED, none).map_err(|e| {
            let _ = self.unpublish(dir);
            fail("share the mounts below", dir, e)
        })
    }

    fn unpublish(&self, dir: &Path) -> BackendResult<()> {
        match unmount_all(dir) {
            // Nor has this user published anything.
            Ok(()) | Err(Errno::EPERM) => Ok(()),
            Err(e) => Err(fail("unmount", dir, e)),
        }
    }

    fn unbind(&self, target: &Path) -> BackendResult<()> {
        unmount_all(target).map_err(|e| fail("unmount", target, e))?;
        remove_point(target)
    }

    fn below(&self, dir: &Path) -> BackendResult<Vec<PathBuf>> {
        // Links are resolved, as in the table; a directory that is gone has nothing mounted in it.
        let Ok(dir) = dir.canonicalize() else { return Ok(Vec::new()) };
        let mounts = table::read().map_err(|e| BackendError::system("read the mount table", e))?;
        let mut below: Vec<PathBuf> = mounts.into_iter().map(|mount| mount.point).collect();
        below.retain(|point| point.starts_with(&dir) && *point != dir);
        // The outermost mounts only. Mounts inside them go with them; their mount points belong to the owner of the
        // volume and must not be removed.
        below.sort();
        below.dedup();
        let mut outermost: Vec<PathBuf> = Vec::new();
        for point in below {
            if !outermost.iter().any(|outer| point.starts_with(outer)) {
                outermost.push(point);
            }
        }
        Ok(outermost)
    }
}
