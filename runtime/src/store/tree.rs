//! Removal of a directory tree that never leaves it: no links followed, no mounts crossed (P-104).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{openat2, unlinkat, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;

/// Limit of depth. The trees that the runtime makes are four deep.
const MAX_DEPTH: usize = 64;

/// Removes the directory `path` and everything in it; a missing one is fine.
///
/// # Errors
/// `EXDEV` or `EBUSY` if something is mounted in the tree. The mounted files are not touched.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    match open_child(CWD, &name, false) {
        Ok(dir) => empty(&dir, MAX_DEPTH)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    ignore_missing(unlinkat(CWD, &name, AtFlags::REMOVEDIR))
}

/// Opens the directory `name`; `below`: only if that crosses no mount.
fn open_child(parent: BorrowedFd<'_>, name: &CStr, below: bool) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = if below {
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV
    } else {
        ResolveFlags::empty()
    };
    openat2(parent, name, flags, Mode::empty(), resolve)
}

fn empty(dir: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("the directory tree is deeper than anything hutch makes"));
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => open_child(dir.as_fd(), name, true).is_ok(),
            _ => false,
        };
        if is_dir {
            match open_child(dir.as_fd(), name, true) {
                Ok(child) => empty(&child, depth - 1)?,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            }
            ignore_missing(unlinkat(dir, name, AtFlags::REMOVEDIR))?;
        } else {
            ignore_missing(unlinkat(dir, name, AtFlags::empty()))?;
        }
    }
    Ok(())
}

fn ignore_missing(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
