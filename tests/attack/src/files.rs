//! Files of an input, in memory where the host has a file system for that.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{setrlimit, Resource};
use nix::sys::signal::{SigSet, Signal};

/// No input may make hutch write a file larger than this, in bytes.
const FILE_MAX: u64 = 64 << 20;

/// A directory that is removed with the value.
pub fn directory() -> tempfile::TempDir {
    limit_files();
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a directory for an input")
}

/// A file without a name, and a path to it.
pub fn unnamed(contents: &[u8]) -> (std::fs::File, PathBuf) {
    let mut file = std::fs::File::from(memfd_create("input", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
    file.write_all(contents).expect("room for an input");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

/// A request may ask for a file of exabytes. It fails then, with the signal blocked on this thread.
fn limit_files() {
    SigSet::from(Signal::SIGXFSZ).thread_block().expect("a signal can be blocked");
    setrlimit(Resource::RLIMIT_FSIZE, FILE_MAX, FILE_MAX).expect("a limit can be lowered");
}
