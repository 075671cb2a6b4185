//! The acts that no thread of a confined process may do.

use crate::{Outcome, Taken};

/// A system call of an attacker.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// For messages.
    pub what: &'static str,
    /// Number.
    pub call: libc::c_long,
    /// Arguments.
    pub args: [u64; 6],
    /// A string that the argument of this index points to.
    pub path: Option<(usize, &'static str)>,
}

const fn act(what: &'static str, call: libc::c_long, args: [u64; 6]) -> Act {
    Act { what, call, args, path: None }
}

const fn with_path(what: &'static str, call: libc::c_long, index: usize, path: &'static str) -> Act {
    Act { what, call, args: [0; 6], path: Some((index, path)) }
}

/// A process or thread that does not exist, and is never the caller.
const OTHER: u64 = i32::MAX as u64;

/// The acts that every filter of system calls traps. `stack`: an address on the thread's stack.
pub fn forbidden(stack: u64) -> Vec<Act> {
    vec![
        with_path("a program", libc::SYS_execve, 0, "/bin/true"),
        with_path("a program at a directory", libc::SYS_execveat, 1, "/bin/true"),
        act("a socket", libc::SYS_socket, [libc::AF_INET as u64, 1, 0, 0, 0, 0]),
        act("a packet socket", libc::SYS_socket, [libc::AF_PACKET as u64, 3, 0, 0, 0, 0]),
        act("a netlink socket", libc::SYS_socket, [libc::AF_NETLINK as u64, 3, 0, 0, 0, 0]),
        act("tracing", libc::SYS_ptrace, [libc::PTRACE_ATTACH as u64, 1, 0, 0, 0, 0]),
        act("another's memory", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0]),
        act("writing another's memory", libc::SYS_process_vm_writev, [1, 0, 0, 0, 0, 0]),
        act("killing", libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
        act("killing a thread", libc::SYS_tgkill, [OTHER, OTHER, 0, 0, 0, 0]),
        act("killing any thread", libc::SYS_tkill, [OTHER, 0, 0, 0, 0, 0]),
        act("the limits of another", libc::SYS_prlimit64, [OTHER, 0, 0, 0, 0, 0]),
        act("a pidfd", libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0]),
        act("a new process", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        act("fork", libc::SYS_fork, [0; 6]),
        act("vfork", libc::SYS_vfork, [0; 6]),
        act("a namespace", libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]),
        act("joining a namespace", libc::SYS_setns, [0; 6]),
        with_path("a mount", libc::SYS_mount, 0, "/etc/passwd"),
        with_path("an unmount", libc::SYS_umount2, 0, "/"),
        with_path("another root directory", libc::SYS_chroot, 0, "/"),
        act("a tree of mounts", libc::SYS_open_tree, [0; 6]),
        act("moving a mount", libc::SYS_move_mount, [0; 6]),
        act("code", libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0]),
        act("making code", libc::SYS_mprotect, [stack & !0xfff, 4096, 7, 0, 0, 0]),
        act("a file for code", libc::SYS_memfd_create, [0; 6]),
        act("another machine", libc::SYS_ioctl, [0, 0xae01, 0, 0, 0, 0]),
        act("typing into the terminal", libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]),
        act("io_uring", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        act("bpf", libc::SYS_bpf, [0; 6]),
        act("keys", libc::SYS_keyctl, [0; 6]),
        act("a module", libc::SYS_init_module, [0; 6]),
        act("events of the processor", libc::SYS_perf_event_open, [0; 6]),
        act("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        act("files by handle", libc::SYS_open_by_handle_at, [0; 6]),
    ]
}

/// Makes the thread do all of [`forbidden`], and a harmless call before and after. `pid`: its process's id, as it sees it.
///
/// # Panics
/// If an act is not refused as it must be, or the harmless call is.
#[track_caller]
pub fn expect_forbidden(taken: &Taken, name: &str, pid: u32) {
    let harmless = || taken.act(libc::SYS_getpid, [0; 6], None);
    assert_eq!(harmless(), Outcome::Result(pid.into()), "the instrument works: {name}");
    for Act { what, call, args, path } in forbidden(taken.stack()) {
        assert_eq!(taken.act(call, args, path), Outcome::Trapped, "{what} in {name}");
    }
    // Its flags lie in memory, where a filter cannot look; libraries then use clone.
    let enosys = Outcome::Result(-i64::from(libc::ENOSYS));
    assert_eq!(taken.act(libc::SYS_clone3, [0; 6], None), enosys, "a new process in {name}");
    assert_eq!(harmless(), Outcome::Result(pid.into()), "the instrument still works: {name}");
}
