//! Errors of the host below a device, for tests: system calls on a file fail, or transfer less than they were asked for,
//! as its plan says. The code that makes those calls asks [`next`] first, in tests only.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Kinds of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `readv`, `preadv`, `writev`, `pwritev`.
    Transfer,
    /// `fdatasync`, `fsync`, and `close` of a file that may have been written to.
    Sync,
    /// `fallocate`.
    Allocate,
    /// `pwrite` of zeroes.
    Zeroes,
    /// `openat` and `openat2`: by the directory, or by the file that is opened once more.
    Open,
    /// `ftruncate`.
    Truncate,
    /// `statx` of an open file, or of an entry of a directory.
    Stat,
    /// `getdents64`.
    List,
}

/// An unhappy end of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this number.
    Error(i32),
    /// It transfers at most this many bytes, which is not 0.
    Short(usize),
}

/// A file: its device and its inode. A socket has both too.
type File = (u64, u64);

type Plans = HashMap<(File, Operation), VecDeque<Fault>>;

fn plans() -> MutexGuard<'static, Plans> {
    static PLANS: LazyLock<Mutex<Plans>> = LazyLock::new(Mutex::default);
    PLANS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file(fd: impl AsFd) -> File {
    let stat = nix::sys::stat::fstat(fd).expect("an open file");
    (stat.st_dev, stat.st_ino)
}

/// Adds to the plan of a file. The next operations of this kind end so, one after the other, through whatever descriptor.
pub fn inject(fd: impl AsFd, operation: Operation, faults: impl IntoIterator<Item = Fault>) {
    plans().entry((file(fd), operation)).or_default().extend(faults);
}

/// Number of faults of a file that have not occurred, all of which are dropped.
pub fn forget(fd: impl AsFd) -> usize {
    let file = file(fd);
    let mut left = 0;
    plans().retain(|(other, _), faults| {
        left += if *other == file { faults.len() } else { 0 };
        *other != file
    });
    left
}

/// The end of the next operation, if it is an unhappy one.
pub fn next(fd: impl AsFd, operation: Operation) -> Option<Fault> {
    let mut plans = plans();
    // Most tests have no plan: they need not know the file.
    if plans.is_empty() {
        return None;
    }
    plans.get_mut(&(file(fd), operation))?.pop_front()
}

/// Does [`next`] for an operation that cannot be short.
///
/// # Errors
/// The planned one.
pub fn check(fd: impl AsFd, operation: Operation) -> io::Result<()> {
    match next(fd, operation) {
        Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(()),
    }
}
