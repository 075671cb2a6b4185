//! Removal of a directory tree that never leaves it: no links followed, no mounts crossed (P-104).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{openat2, OFlag, OpenHow, ResolveFlag, AT_FDCWD};
use nix::sys::stat::Mode;
use nix::unistd::{unlinkat, UnlinkatFlags};

/// Limit of depth. The trees that the runtime makes are four deep.
const MAX_DEPTH: usize = 64;

/// Removes the directory `path` and everything in it; a missing one is fine.
///
/// # Errors
/// `EXDEV` or `EBUSY` if something is mounted in the tree. The mounted files are not touched.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    match open_child(AT_FDCWD, &name, false) {
        Ok(dir) => empty(&dir, MAX_DEPTH)?,
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    ignore_missing(unlinkat(AT_FDCWD, name.as_c_str(), UnlinkatFlags::RemoveDir))
}

/// Opens the directory `name`; `below`: only if that crosses no mount.
fn open_child(parent: BorrowedFd<'_>, name: &CStr, below: bool) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = if below {
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV
    } else {
        ResolveFlag::empty()
    };
    openat2(parent, name, OpenHow::new().flags(flags).resolve(resolve))
}

fn empty(dir: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("the directory tree is deeper than anything hutch makes"));
    }
    // A descriptor of its own: the reader takes it over.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for entry in Dir::openat(dir, c".", flags, Mode::empty())? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            Some(Type::Directory) => true,
            None => open_child(dir.as_fd(), name, true).is_ok(),
            _ => false,
        };
        if is_dir {
            match open_child(dir.as_fd(), name, true) {
                Ok(child) => empty(&child, depth - 1)?,
                Err(Errno::ENOENT) => continue,
                Err(e) => return Err(e.into()),
            }
            ignore_missing(unlinkat(dir, name, UnlinkatFlags::RemoveDir))?;
        } else {
            ignore_missing(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir))?;
        }
    }
    Ok(())
}

fn ignore_missing(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::ENOENT) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
