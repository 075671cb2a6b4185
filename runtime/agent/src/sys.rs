//! Thin wrappers of system calls that neither the standard library nor nix wraps: the mount API of Linux 5.2, terminal
//! and entropy ioctls, pidfds.
#![expect(unsafe_code, reason = "raw system calls, each with its own SAFETY comment")]

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use hutch_agent_proto::{ExitStatus, WindowSize};
use nix::errno::Errno;

/// `open_tree` flags: a detached copy of the mount.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Turns the result of a call that returns a new descriptor into its owner.
fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as RawFd;
    // SAFETY: the kernel just returned this descriptor to us; no other owner exists.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a detached copy of the mount at `path` below `dir`; an empty path means `dir`
/// itself. With `recursive` the copy includes all mounts below.
pub fn clone_mount(dir: BorrowedFd, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    // SAFETY: `path` is a C string that lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// `move_mount(2)`: attaches the detached `mount` at the directory or file `target`, in the caller's mount namespace.
pub fn attach_mount(mount: BorrowedFd, target: BorrowedFd) -> Result<(), Errno> {
    let (empty, flags) = (c"".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    // SAFETY: both paths are the empty static C string.
    let result =
        unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), empty, target.as_raw_fd(), empty, flags) };
    Errno::result(result).map(drop)
}

/// Mirror of the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `mount_setattr(2)` on `mount`: `MOUNT_ATTR_…` bits to set and to clear, and `MS_PRIVATE` etc.; 0 keeps the
/// propagation.
pub fn set_mount_attributes(
    mount: BorrowedFd,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr { set, clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (fd, size) = (mount.as_raw_fd(), std::mem::size_of::<MountAttr>());
    // SAFETY: `attr` outlives the call and `size` is its size.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &attr, size) };
    Errno::result(result).map(drop)
}

/// A file system being configured (`fsopen(2)`).
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts to configure a file system of type `fstype`.
    ///
    /// # Errors
    /// `ENODEV` if the kernel does not have this type.
    pub fn open(fstype: &CStr) -> Result<Self, Errno> {
        // SAFETY: `fstype` is a C string that lives through the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) }).map(FsContext)
    }

    /// Sets `key` to `value`, or the flag `key`.
    ///
    /// # Errors
    /// `EINVAL` if the file system does not know the key; [`FsContext::complaint`] may give the reason.
    pub fn set(&self, key: &CStr, value: Option<&CStr>) -> Result<(), Errno> {
        let (command, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
            None => (FSCONFIG_SET_FLAG, std::ptr::null()),
        };
        self.configure(command, key.as_ptr(), value)
    }

    /// Creates the file system and returns it as a detached mount with `MOUNT_ATTR_…` bits.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd, Errno> {
        self.configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        // SAFETY: no pointers.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    /// The kernel's messages about the last failure; empty if there are none.
    pub fn complaint(&self) -> String {
        let mut lines = Vec::new();
        let mut line = [0; 256];
        let Ok(fd) = self.0.try_clone() else { return String::new() };
        let mut log = std::fs::File::from(fd);
        // Each read returns one message; the queue holds eight.
        for _ in 0..8 {
            match log.read(&mut line) {
                Ok(n) if n > 0 => lines.push(String::from_utf8_lossy(&line[..n]).trim_end().to_string()),
                _ => break,
            }
        }
        lines.join("; ")
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> Result<(), Errno> {
        // SAFETY: the callers pass null or C strings that live through the call, as the command requires.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(result).map(drop)
    }
}

/// Sets the size of a terminal.
pub fn set_window_size(terminal: BorrowedFd, size: WindowSize) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one `winsize`.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Unlocks the other side of the pseudo-terminal `master` and opens it without its device node.
pub fn open_terminal_peer(master: BorrowedFd) -> Result<OwnedFd, Errno> {
    let unlock: libc::c_int = 0;
    // SAFETY: the ioctl reads one int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the ioctl takes flags by value and returns a new descriptor.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Credits `entropy` to the kernel's random pool (`RNDADDENTROPY`). `pool` is `/dev/urandom`.
pub fn add_entropy(pool: impl AsFd, entropy: &[u8]) -> Result<(), Errno> {
    /// `_IOW('R', 0x03, int[2])`.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    let Ok(bytes) = i32::try_from(entropy.len()) else { return Err(Errno::EINVAL) };
    // `struct rand_pool_info`: bits credited, bytes that follow, the bytes.
    let mut info = Vec::with_capacity(8 + entropy.len());
    info.extend_from_slice(&bytes.saturating_mul(8).to_ne_bytes());
    info.extend_from_slice(&bytes.to_ne_bytes());
    info.extend_from_slice(entropy);
    // SAFETY: `info` holds two ints and then the number of bytes that the second int gives.
    Errno::result(unsafe { libc::ioctl(pool.as_fd().as_raw_fd(), RNDADDENTROPY, info.as_ptr()) }).map(drop)
}

/// Waits for child `pid` (any child if `None`) to end. With `look` the call blocks and leaves the child in the kernel.
/// Without `look` it does not block and reaps the child. (nix's `waitid` fails for children that a real-time signal
/// killed.)
///
/// # Errors
/// `ECHILD` if there is no such child.
pub fn wait_for_end(pid: Option<i32>, look: bool) -> Result<Option<(i32, ExitStatus)>, Errno> {
    let (kind, id) = pid.map_or((libc::P_ALL, 0), |pid| (libc::P_PID, pid as libc::id_t));
    let flags = libc::WEXITED | if look { libc::WNOWAIT } else { libc::WNOHANG };
    // SAFETY: an all-zero `siginfo_t` is valid; the call fills it in. For WEXITED the accessors' fields are set, or
    // zero as we left them if no child has ended.
    let (pid, code, status) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        Errno::result(libc::waitid(kind, id, &mut info, flags))?;
        (info.si_pid(), info.si_code, info.si_status())
    };
    let status = if code == libc::CLD_EXITED { ExitStatus::Code(status as u8) } else { ExitStatus::Signal(status) };
    Ok((pid != 0).then_some((pid, status)))
}

/// Sends any signal, also a real-time one, to `pid`; -1 is every process but this one and init.
///
/// # Errors
/// `ESRCH` if there is no such process.
pub fn send_signal(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Whether the process of a pidfd has been reaped, so that not even a zombie is left.
pub fn is_reaped(pidfd: BorrowedFd) -> bool {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: signal 0 only checks; no info is passed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, nothing, 0) };
    Errno::result(result) == Err(Errno::ESRCH)
}

/// Sends a signal to the process of a pidfd.
///
/// # Errors
/// `ESRCH` if the process has ended.
pub fn kill_pidfd(pidfd: BorrowedFd, signal: i32) -> Result<(), Errno> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no info is passed, as for kill(2).
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0) };
    Errno::result(result).map(drop)
}

/// Waits until at least one of `fds` is readable or has hung up, at most until `deadline`. Returns which ones are.
pub fn wait_for_any(fds: &[BorrowedFd], deadline: Instant) -> Vec<bool> {
    wait_for(fds, libc::POLLIN, deadline)
}

/// Waits like [`wait_for_any`], for other `events`.
pub fn wait_for(fds: &[BorrowedFd], events: i16, deadline: Instant) -> Vec<bool> {
    let mut watches: Vec<Watch> = fds.iter().map(|fd| Watch::new(*fd, events)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, lest the last wait returns too early and the loop spins.
        let millis = left.as_millis().saturating_add(1).min(60_000) as libc::c_int;
        // SAFETY: as in `poll`.
        let result = unsafe { libc::poll(watches.as_mut_ptr().cast(), watches.len() as libc::nfds_t, millis) };
        if result > 0 || left.is_zero() {
            return watches.iter().map(|watch| result > 0 && watch.seen() != 0).collect();
        }
    }
}

/// A descriptor to poll, and the events that the poll returned (`POLLIN`, …; nix does not know `POLLRDHUP`).
#[repr(transparent)]
pub struct Watch<'fd>(libc::pollfd, std::marker::PhantomData<BorrowedFd<'fd>>);

impl<'fd> Watch<'fd> {
    /// Waits for `events` of `fd`; the kernel reports hang-ups and errors in any case.
    pub fn new(fd: BorrowedFd<'fd>, events: i16) -> Self {
        Self(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }, std::marker::PhantomData)
    }

    /// The events that [`poll`] returned.
    pub fn seen(&self) -> i16 {
        self.0.revents
    }
}

/// `poll(2)`: waits for an event, or without `wait` returns at once.
///
/// # Errors
/// `EINTR`, `ENOMEM`.
pub fn poll(watches: &mut [Watch], wait: bool) -> Result<(), Errno> {
    let (count, timeout) = (watches.len() as libc::nfds_t, if wait { -1 } else { 0 });
    // SAFETY: `Watch` is a transparent `pollfd`, and there are `count` of them; their descriptors are borrowed.
    Errno::result(unsafe { libc::poll(watches.as_mut_ptr().cast(), count, timeout) }).map(drop)
}

/// Limits the allocator to one arena: the agent has many threads, idle and small, and each arena costs address space
/// and page tables.
pub fn use_one_arena() {
    // SAFETY: sets a number in the allocator before threads exist.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// `accept4(2)` of a vsock listener, close-on-exec: the connection and the CID of its other end.
pub fn accept_vsock(listener: BorrowedFd) -> Result<(OwnedFd, u32), Errno> {
    let mut len = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: an all-zero address is a valid one; the kernel writes at most `len` bytes of it.
    let (socket, address) = unsafe {
        let mut address: libc::sockaddr_vm = std::mem::zeroed();
        let pointer = (&raw mut address).cast::<libc::sockaddr>();
        (libc::accept4(listener.as_raw_fd(), pointer, &mut len, libc::SOCK_CLOEXEC), address)
    };
    Ok((owned(socket.into())?, address.svm_cid))
}

/// Whether descriptor `fd` is open in this process.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD of any number is harmless.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Ends the process at once, without unwinding or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Converts `text` to a C string.
///
/// # Errors
/// `EINVAL` if it contains a NUL byte.
pub fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}
