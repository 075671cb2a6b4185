//! A root directory for the process that holds only what its file servers need: the shares, and the process's own part of
//! `/proc`. Afterwards no path leads to another file of the host.
//!
//! The process must have a mount namespace of its own. Its mounts become slaves of the host's: what the host mounts
//! later below a share that is a shared mount (mount_namespaces(7)) appears here too, and goes away with it.
//!
//! ```text
//! PrivateRoot::prepare    copies each share's mounts, sets their attributes, and puts the copies below a small tmpfs
//!     … the machine is built: it opens kernel, disks, taps and shares by path …
//! PrivateRoot::enter      makes the tmpfs the root, read-only, and lets go of all other mounts
//! ```
//!
//! Attributes are set on a detached copy, before it gets its place: a bind that is made read-only later stays writable in
//! the copies of other namespaces.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::unistd::{chdir, pivot_root};

use super::tree::{Attributes, MountTree};
use crate::config::{MachineConfig, ShareConfig};

/// Options of the tmpfs: room for the mount points only.
const TMPFS_OPTIONS: &str = "size=64k,nr_inodes=128,mode=755";
/// Where the process's own part of `/proc` lies.
const OWN_PROC: &str = "proc/self";
/// A directory that the process may still reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootShare {
    /// Its path on the host.
    pub path: PathBuf,
    /// No file of it can be changed.
    pub read_only: bool,
}

impl RootShare {
    /// The shares of a machine.
    pub fn all_of(machine: &MachineConfig) -> Vec<Self> {
        let share = |share: &ShareConfig| Self { path: share.path.clone(), read_only: share.read_only };
        machine.shares.iter().map(share).collect()
    }
}

/// A mount namespace, by the number of its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountNamespace(pub u64);

impl MountNamespace {
    /// The calling thread's.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn of_this_thread() -> io::Result<Self> {
        fs::metadata("/proc/thread-self/ns/mnt").map(|found| Self(found.ino()))
    }
}

/// A prepared root. Dropping it leaves the process where it is.
#[derive(Debug)]
pub struct PrivateRoot {
    at: PathBuf,
}

impl PrivateRoot {
    /// Prepares the root at the directory `at`, whose contents the process cannot reach from then on but through a share.
    /// `launcher` is the namespace of the process that started this one.
    ///
    /// # Errors
    /// `Unsupported` if this process shares its mount namespace with the launcher; nothing was done then. Otherwise the
    /// first call that the kernel refused, with what was to be mounted.
    pub fn prepare(at: &Path, shares: &[RootShare], launcher: MountNamespace) -> io::Result<Self> {
        if MountNamespace::of_this_thread()? == launcher {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this process has no mount namespace of its own"));
        }
        Self::prepare_here(at, shares)
    }

    /// Does the same in a process that is known to have a mount namespace of its own.
    ///
    /// # Errors
    /// The first call that the kernel refused, with what was to be mounted.
    pub(super) fn prepare_here(at: &Path, shares: &[RootShare]) -> io::Result<Self> {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
            .map_err(|e| failed("separate the mounts from the host's", Path::new("/"), e))?;
        let copy = |path: &Path, attributes| {
            MountTree::copy(path, Attributes { inert: true, ..attributes })
                .map_err(|e| failed("copy the mounts at", path, e))
        };
        let share = |share: &RootShare| {
            copy(&share.path, Attributes { read_only: share.read_only, no_links: true, ..Attributes::default() })
        };
        let copies: Vec<MountTree> = shares.iter().map(share).collect::<io::Result<_>>()?;
        // The links in there are how a file server opens a file again that it has a descriptor of.
        let own_proc = copy(Path::new("/proc/self"), Attributes { read_only: true, ..Attributes::default() })?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(TMPFS_OPTIONS)).map_err(|e| failed("mount", at, e))?;
        let root = Self { at: at.to_owned() };
        place(own_proc, &at.join(OWN_PROC))?;
        for (index, copy) in copies.into_iter().enumerate() {
            place(copy, &root.share(index))?;
        }
        Ok(root)
    }

    /// Gives the shares of `machine`, for which this was prepared, their paths until [`Self::enter`].
    pub fn place_shares(&self, machine: &mut MachineConfig) {
        for (index, share) in machine.shares.iter_mut().enumerate() {
            share.path = self.share(index);
        }
    }

    /// The path of a share until [`Self::enter`].
    pub fn share(&self, index: usize) -> PathBuf {
        self.at.join(inside(index))
    }

    /// The path of a share after [`Self::enter`].
    pub fn share_inside(index: usize) -> PathBuf {
        Path::new("/").join(inside(index))
    }

    /// Makes this the root of the process, all of its threads included. Open descriptors stay.
    ///
    /// # Errors
    /// The call that the kernel refused. The process then has its old root, or, if letting go of that failed, the old
    /// root's mounts below the new root.
    pub fn enter(self) -> io::Result<()> {
        chdir(&self.at).map_err(|e| failed("go to", &self.at, e))?;
        // On top of the old root, which then lies below it (pivot_root(2), "pivot_root(".", ".")").
        if let Err(e) = pivot_root(".", ".") {
            chdir("/").map_err(|e| failed("go to", Path::new("/"), e))?;
            return Err(failed("make the root", &self.at, e));
        }
        umount2(".", MntFlags::MNT_DETACH).map_err(|e| failed("let go of", Path::new("the old root"), e))?;
        chdir("/").map_err(|e| failed("go to", Path::new("/"), e))?;
        let none = None::<&str>;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(none, "/", none, flags, none).map_err(|e| failed("make read-only", Path::new("/"), e))
    }
}

fn inside(index: usize) -> PathBuf {
    Path::new("shares").join(index.to_string())
}

fn failed(what: &str, path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Mounts a copy at `target`, which is made.
fn place(tree: MountTree, target: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(target).map_err(|e| failed("make", target, e))?;
    tree.attach(target).map_err(|e| failed("mount", target, e))
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
