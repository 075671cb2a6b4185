//! System calls of the file server that neither the standard library nor `nix` has, or only for one C library.

#![expect(
    unsafe_code,
    reason = "plain system calls; each takes numbers, NUL-terminated strings and buffers that outlive it"
)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{openat2, OFlag, OpenHow, ResolveFlag};

#[cfg(test)]
use crate::virtio::faults::{self, Operation};

/// Attributes that the server wants.
const WANTED: libc::c_uint = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;

/// The attributes of the entry `name` of a directory. Links are not followed, and nothing is mounted.
pub fn stat_entry(directory: impl AsFd, name: &CStr) -> io::Result<libc::statx> {
    #[cfg(test)]
    faults::check(&directory, Operation::Stat)?;
    stat(directory, name, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
}

/// The attributes of an open file.
pub fn stat_open(file: impl AsFd) -> io::Result<libc::statx> {
    #[cfg(test)]
    faults::check(&file, Operation::Stat)?;
    stat(file, c"", libc::AT_EMPTY_PATH)
}

fn stat(file: impl AsFd, name: &CStr, flags: libc::c_int) -> io::Result<libc::statx> {
    let mut stat = MaybeUninit::zeroed();
    // SAFETY: `name` is a NUL-terminated string, and `stat` a place for the result.
    check(unsafe { libc::statx(file.as_fd().as_raw_fd(), name.as_ptr(), flags, WANTED, stat.as_mut_ptr()) })?;
    // SAFETY: the kernel has filled it in; all bytes were 0 before, which is valid too.
    Ok(unsafe { stat.assume_init() })
}

/// An `O_PATH` descriptor of the entry `name` of a directory. The kernel refuses everything that would leave the
/// directory; of a link, the descriptor is the link itself.
pub fn open_entry(directory: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    #[cfg(test)]
    faults::check(&directory, Operation::Open)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(directory, name, how)?)
}

/// Reads directory entries from the position of an open directory on (`getdents64(2)`). Returns the number of bytes.
pub fn read_entries(directory: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    #[cfg(test)]
    faults::check(&directory, Operation::List)?;
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_fd().as_raw_fd(),
            buffer.as_mut_ptr(),
            libc::c_uint::try_from(buffer.len()).unwrap_or(libc::c_uint::MAX),
        )
    };
    length(result)
}

/// Sets an extended attribute of the file that `path` leads to.
pub fn set_xattr(path: &CStr, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
    let (data, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: `path` and `name` are NUL-terminated strings, and the kernel reads `len` bytes of `value`.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), data, len, flags.cast_signed()) })
}

/// Reads an extended attribute into `value`, or returns its length if `value` is empty.
pub fn get_xattr(path: &CStr, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let (data, len) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: as above; the kernel writes at most `len` bytes.
    let result = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), data, len) };
    length(result.try_into().map_err(io::Error::other)?)
}

/// Reads the names of extended attributes, each with a NUL at its end, or returns their length if `names` is empty.
pub fn list_xattr(path: &CStr, names: &mut [u8]) -> io::Result<usize> {
    let (data, len) = (names.as_mut_ptr().cast(), names.len());
    // SAFETY: as above.
    let result = unsafe { libc::listxattr(path.as_ptr(), data, len) };
    length(result.try_into().map_err(io::Error::other)?)
}

/// Removes an extended attribute.
pub fn remove_xattr(path: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: `path` and `name` are NUL-terminated strings that outlive the call.
    check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
}

/// Renames an entry as `renameat2(2)` does.
pub fn rename(from: impl AsFd, old: &CStr, to: impl AsFd, new: &CStr, flags: u32) -> io::Result<()> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: `old` and `new` are NUL-terminated strings that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, from, old.as_ptr(), to, new.as_ptr(), flags) };
    length(result).map(drop)
}

/// Copies bytes between open files, as `copy_file_range(2)` does.
pub fn copy_range(from: impl AsFd, start: i64, to: impl AsFd, end: i64, len: usize) -> io::Result<usize> {
    #[cfg(test)]
    faults::check(&to, Operation::Transfer)?;
    let (mut start, mut end) = (start, end);
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: the kernel reads and writes the two offsets, which outlive the call.
    length(unsafe { libc::syscall(libc::SYS_copy_file_range, from, &mut start, to, &mut end, len, 0) })
}

/// Closes another descriptor of an open file, as a process of the guest has done: the file system of the host reports
/// errors of earlier writes here.
pub fn close_again(file: impl AsFd) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    #[cfg(test)]
    faults::check(&file, Operation::Sync)?;
    let fd = file.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: nothing else has the descriptor, which was just made.
    check(unsafe { libc::close(fd) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn length(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
