//! Files without names, and handing them to child processes.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};

/// An empty file in memory that goes away with its last descriptor.
pub fn file(name: &std::ffi::CStr) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into())
}

/// A path that opens `fd` in a process that inherited it.
pub fn path_of(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

/// What a child process gets besides its command line.
pub struct Inheritance {
    /// Descriptors it inherits, under the numbers they have here.
    pub fds: Vec<OwnedFd>,
    /// Give it a view of the file system in which nothing can be written.
    pub read_only: bool,
}

/// Makes `command` inherit what it should and die with the calling thread.
#[allow(unsafe_code)] // code between fork and exec
pub fn bequeath(command: &mut Command, inheritance: Inheritance) {
    let parent = nix::unistd::getpid();
    let between = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from(io::ErrorKind::Interrupted)); // it died before the line above
        }
        // A session of its own: a Ctrl-C at the terminal is ours to handle, in order.
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
/// Where namespaces are forbidden (some containers) or the kernel is older than 5.12 the view stays as it is: the
/// emulated host mounts it read-only anyway, and this is only the second lock on that door.
#[allow(unsafe_code)] // mount_setattr(2) has no wrapper
fn read_only_view() -> io::Result<()> {
    use nix::mount::{mount, MsFlags};
    use nix::sched::{unshare, CloneFlags};
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return Ok(());
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string and the structure has the size that is passed; both outlive the call.
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
pub fn number(fd: &impl AsRawFd) -> RawFd {
    fd.as_raw_fd()
}
