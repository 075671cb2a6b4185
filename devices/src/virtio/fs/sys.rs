//! System calls that the standard library does not have: detached mounts, and the umask, the groups and the file system
//! ids of a thread.

#![expect(
    unsafe_code,
    reason = "plain system calls; each takes numbers and NUL-terminated strings or structs that outlive it"
)]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Flag of `open_tree(2)`: a copy instead of the mount itself.
const OPEN_TREE_CLONE: libc::c_uint = 1;
/// Attribute of `mount_setattr(2)`: read-only.
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A detached copy of the mount at `path` and all mounts below it. It goes away with the last descriptor into it. Not
/// read-only yet.
pub fn clone_tree(path: &CStr) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    owned(fd)
}

/// Makes every mount of a tree from [`clone_tree`] read-only and private.
pub fn make_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr { attr_set: MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the path is an empty string, which AT_EMPTY_PATH asks for; `attr` has the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &attr,
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

/// An `O_PATH` descriptor of the directory `path`.
pub fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    owned(libc::c_long::from(unsafe { libc::open(path.as_ptr(), flags) }))
}

/// Gives the calling thread its own umask and sets it to 0, since guests apply their umask themselves.
pub fn own_umask() -> io::Result<()> {
    // SAFETY: takes a number; from here on the thread's umask, root and working directory are its own.
    check(libc::c_long::from(unsafe { libc::unshare(libc::CLONE_FS) }))?;
    // SAFETY: takes a number and cannot fail.
    unsafe { libc::umask(0) };
    Ok(())
}

/// Sets the file system ids of the calling thread. False if that is not permitted.
pub fn set_fs_ids(uid: u32, gid: u32) -> bool {
    // The group first: without CAP_SETGID in effect it could not be changed any more. The wrappers of libc may change
    // all threads, so they are not used.
    //
    // SAFETY: takes a number. The result is the former id, whether it worked or not.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    // SAFETY: -1 is not an id: nothing changes, and the result is the current id.
    let current = unsafe { (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1)) };
    current == (libc::c_long::from(uid), libc::c_long::from(gid))
}

/// Sets the supplementary groups of the calling thread. The wrapper of libc would change all threads.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` ids.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Whether the process is root in its user namespace.
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Number of descriptors that the process may have.
pub fn open_files_limit() -> RawFd {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if result == 0 {
        RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX)
    } else {
        // The default of Linux.
        1024
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    check(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a system call has just returned it, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
