//! Files without names, and how child processes inherit them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};

/// An empty file in memory. The kernel frees it with its last descriptor.
pub(crate) fn file(name: &std::ffi::CStr) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into())
}

/// A path that opens `fd` in a process that inherited it.
pub(crate) fn path_of(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

/// Descriptors and file-system view of a child process.
pub(crate) struct Inheritance {
    /// Descriptors to inherit, with the same numbers as here.
    pub(crate) fds: Vec<OwnedFd>,
    /// Give the child a read-only view of the file system.
    pub(crate) read_only: bool,
}

/// Makes the child inherit its descriptors, and die with the calling thread.
#[expect(unsafe_code, reason = "code between fork and exec")]
pub(crate) fn bequeath(command: &mut Command, inheritance: Inheritance) {
    let parent = nix::unistd::getpid();
    let between = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from(io::ErrorKind::Interrupted)); // the parent died before the line above
        }
        // A new session, so that Ctrl-C at the terminal reaches only this program, which ends the children in order.
        nix::unistd::setsid()?;
        for fd in &inheritance.fds {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        if inheritance.read_only {
            read_only_view()?;
        }
        Ok(())
    };
    // SAFETY: only system calls, no allocation and no locks.
    unsafe { command.pre_exec(between) };
}

/// Moves this process into a mount namespace of its own and makes all mounts of that read-only.
///
/// Leaves the view as it is where namespaces are forbidden (some containers) or the kernel is older than 5.12. This is only
/// the second protection: the emulated host mounts the view read-only too.
#[expect(unsafe_code, reason = "mount_setattr(2) has no wrapper")]
fn read_only_view() -> io::Result<()> {
    use nix::mount::{mount, MsFlags};
    use nix::sched::{unshare, CloneFlags};
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return Ok(());
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string and the structure has the size passed; both outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            libc::AT_RECURSIVE,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Ok(())
}

/// The number of a descriptor, for a command line.
pub(crate) fn number(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}

/// The last `lines` lines of a file as text.
pub(crate) fn tail(file: &File, lines: usize) -> String {
    const MOST: u64 = 16 << 10;
    let len = file.metadata().map_or(0, |m| m.len());
    let mut bytes = vec![0; len.min(MOST) as usize];
    if file.read_exact_at(&mut bytes, len.saturating_sub(MOST)).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().map(str::trim_end).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}\n")).collect()
}
