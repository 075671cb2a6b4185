//! Detached copies of mounts, which get their attributes before they are mounted. Used for the root of a VMM process, and
//! by the runtime for what it shows to a running one.
//!
//! mount(2) can only bind first and make read-only then. In between the kernel has copied the bind into the namespaces that
//! get the host's mounts, and there it stays writable.
#![expect(unsafe_code, reason = "open_tree(2), mount_setattr(2) and move_mount(2) have no safe form")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Set-id bits, device nodes and programs do not count.
const INERT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
const EMPTY: &CStr = c"";

/// The differences between a copy and the mounts that it is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Nothing in it can be changed.
    pub read_only: bool,
    /// Set-id bits, device nodes and programs do not count in it.
    pub inert: bool,
    /// No symbolic link in it is followed.
    pub no_links: bool,
    /// Later mounts in it do not appear in the original, though those in the original may appear in it.
    pub slave: bool,
}

/// A detached copy of mounts. Dropping it takes it apart.
#[derive(Debug)]
pub struct MountTree(OwnedFd);

impl MountTree {
    /// Copies the mount at `path`, from there on, and all mounts below it. Needs CAP_SYS_ADMIN and Linux 5.12.
    ///
    /// # Errors
    /// Those of open_tree(2) and mount_setattr(2).
    pub fn copy(path: &Path, attributes: Attributes) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) })?;
        // SAFETY: the kernel has just made the descriptor; it has no other owner.
        let tree = Self(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(io::Error::other)?) });
        if attributes != Attributes::default() {
            tree.set(attributes)?;
        }
        Ok(tree)
    }

    fn set(&self, attributes: Attributes) -> io::Result<()> {
        let Attributes { read_only, inert, no_links, slave } = attributes;
        let of = |wanted: bool, bits: u64| if wanted { bits } else { 0 };
        // SAFETY: zero is a valid value for each of its numbers.
        let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
        attr.attr_set =
            of(read_only, libc::MOUNT_ATTR_RDONLY) | of(inert, INERT) | of(no_links, libc::MOUNT_ATTR_NOSYMFOLLOW);
        attr.propagation = of(slave, libc::MS_SLAVE);
        let (flags, size) = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, size_of_val(&attr));
        let fd = self.0.as_raw_fd();
        // SAFETY: the path is empty, as AT_EMPTY_PATH wants it; `attr` outlives the call and has the size that is given.
        check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, EMPTY.as_ptr(), flags, &raw const attr, size) })?;
        Ok(())
    }

    /// Mounts the copy at `target`: a directory, or a file if the copy is of a file. A link there is not followed.
    ///
    /// # Errors
    /// Those of move_mount(2).
    pub fn attach(self, target: &Path) -> io::Result<()> {
        let name = CString::new(target.as_os_str().as_bytes())?;
        let (fd, here, flags) = (self.0.as_raw_fd(), libc::AT_FDCWD, libc::MOVE_MOUNT_F_EMPTY_PATH);
        // SAFETY: both paths are NUL-terminated strings that outlive the call.
        check(unsafe { libc::syscall(libc::SYS_move_mount, fd, EMPTY.as_ptr(), here, name.as_ptr(), flags) })?;
        Ok(())
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
