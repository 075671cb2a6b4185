//! Makes processes. Runs on connection threads, any number at a time.
//!
//! The child shares our memory until it executes its program (`CLONE_VM | CLONE_VFORK`, as in `posix_spawn`). The
//! kernel copies no page tables, the parent's thread resumes when the program runs or the child gives up, and the child
//! leaves the reason in our memory. Between clone and exec the child makes system calls only: no allocation, no locks,
//! and no wrappers of the C library that involve other threads (setuid and the like).
#![expect(unsafe_code, reason = "clone(2) and the system calls of the child")]

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use hutch_agent_proto::{RemoteError, RemoteErrorKind};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::failure::{invalid, Outcome};
use crate::rlimits::ReadyLimit;
use crate::user::Identity;

/// Bytes of stack for the child until its exec.
const STACK: usize = 64 << 10;
/// Highest signal number.
const SIGNALS: c_int = 64;
/// Number of the descriptor that [`SpawnPlan::channel`] becomes in the child.
pub const CHANNEL: RawFd = 3;

/// Everything that a child needs, made before the child.
pub struct SpawnPlan<'a> {
    /// Paths to try, in order.
    pub programs: Vec<CString>,
    /// Arguments, program name first.
    pub args: Vec<CString>,
    /// `KEY=value`.
    pub env: Vec<CString>,
    /// Working directory, absolute.
    pub cwd: CString,
    /// stdin, stdout, stderr. None of them is 0, 1 or 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// stdin is a terminal; it becomes the controlling one.
    pub terminal: bool,
    /// Mount namespace to enter.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Resource limits to set.
    pub limits: Vec<ReadyLimit>,
    /// User and groups of the process.
    pub identity: Identity,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// One more descriptor for the process; it becomes [`CHANNEL`].
    pub channel: Option<BorrowedFd<'a>>,
}

/// The step at which a child failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Session,
    Terminal,
    Stdio,
    Namespace,
    Limit,
    WorkingDirectory,
    Groups,
    Identity,
    NoNewPrivileges,
    /// The program exists, but not its interpreter or dynamic loader.
    Interpreter,
    Program,
}

/// A start that failed.
#[derive(Debug)]
pub enum SpawnError {
    /// The working directory does not exist.
    NoWorkingDirectory,
    /// Any other failure.
    Failed(RemoteError),
}

/// A process that has executed its program.
#[derive(Debug)]
pub struct Child {
    /// The process id.
    pub pid: i32,
    /// Refers to this process even after the kernel has reused its pid.
    pub pidfd: OwnedFd,
}

/// Memory of the parent that the child reads and writes.
struct Shared<'a> {
    plan: &'a SpawnPlan<'a>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    failure: Option<(Stage, i32)>,
}

/// Starts the program of `plan`; returns once the child has executed it.
///
/// The agent's reaper reaps the child, also one that failed.
///
/// # Errors
/// `NoWorkingDirectory` if only the working directory is missing: the caller may create it and try again.
pub fn spawn(plan: &SpawnPlan) -> Result<Child, SpawnError> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let mut shared = Shared { plan, argv: pointers(&plan.args), envp: pointers(&plan.env), failure: None };
    // 16-byte aligned top, as the ABI wants it; the vector's elements have that alignment.
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / 16);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: RawFd = -1;

    // No handler may run in the child while it shares our memory.
    let all = SigSet::all();
    let before = all.thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(|errno| failed("blocking signals", errno))?;
    // SAFETY: `stack` has room for STACK bytes below `top`; CLONE_PIDFD stores into `pidfd`. The child runs `child`
    // with `shared`. Both outlive the child: CLONE_VFORK stops this thread until the child has executed a program or
    // exited.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(STACK / 16).cast::<c_void>();
        libc::clone(child, top, flags, (&raw mut shared).cast(), &raw mut pidfd)
    };
    let cloned = Errno::result(pid);
    let _ = before.thread_set_mask();
    let pid = cloned.map_err(|errno| failed("making a process", errno))?;
    // SAFETY: clone succeeded, so the kernel made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match shared.failure {
        None => Ok(Child { pid, pidfd }),
        Some((Stage::WorkingDirectory, libc::ENOENT)) => Err(SpawnError::NoWorkingDirectory),
        Some((stage, errno)) => Err(SpawnError::Failed(explain(plan, stage, Errno::from_raw(errno)))),
    }
}

fn failed(what: &str, errno: Errno) -> SpawnError {
    SpawnError::Failed(crate::failure::system(what, errno))
}

/// The error for the host.
fn explain(plan: &SpawnPlan, stage: Stage, errno: Errno) -> RemoteError {
    let program = plan.args.first().map(|arg| arg.to_string_lossy()).unwrap_or_default();
    let (kind, what) = match (stage, errno) {
        (Stage::Program, Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => {
            let place = if program.contains('/') { "the root file system" } else { "PATH of the root file system" };
            let message = format!("program {program:?} not found in {place}");
            return RemoteError { kind: RemoteErrorKind::ProgramNotFound, message, errno: Some(errno as i32) };
        }
        (Stage::Interpreter, _) => {
            let message =
                format!("program {program:?}: its interpreter or dynamic loader is not in the root file system");
            return RemoteError { kind: RemoteErrorKind::ProgramNotFound, message, errno: Some(errno as i32) };
        }
        (Stage::Program, Errno::E2BIG) => (RemoteErrorKind::Invalid, "arguments and environment".to_string()),
        (Stage::Program, Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EIO | Errno::EAGAIN) => {
            (RemoteErrorKind::System, format!("executing {program:?}"))
        }
        (Stage::Program, _) => {
            (RemoteErrorKind::ProgramNotExecutable, format!("program {program:?} cannot be executed"))
        }
        (Stage::WorkingDirectory, _) => {
            (RemoteErrorKind::Invalid, format!("working directory {:?}", plan.cwd.to_string_lossy()))
        }
        (Stage::Limit, _) => (RemoteErrorKind::Invalid, "setting a resource limit".to_string()),
        (Stage::Groups | Stage::Identity, _) => {
            let Identity { uid, gid, .. } = plan.identity;
            (RemoteErrorKind::System, format!("becoming user {uid}, group {gid}"))
        }
        (Stage::Session, _) => (RemoteErrorKind::System, "making a session".to_string()),
        (Stage::Terminal, _) => (RemoteErrorKind::System, "taking the terminal".to_string()),
        (Stage::Stdio, _) => (RemoteErrorKind::System, "setting up standard streams".to_string()),
        (Stage::Namespace, _) => (RemoteErrorKind::System, "entering the sandbox".to_string()),
        (Stage::NoNewPrivileges, _) => (RemoteErrorKind::System, "setting no_new_privs".to_string()),
    };
    RemoteError { kind, message: format!("{what}: {}", errno.desc()), errno: Some(errno as i32) }
}

/// First function of the child; never returns into the parent's frames.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Shared` and is stopped, so this is the only reference.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    let failure = prepare(shared.plan).and_then(|()| execute(shared)).err();
    shared.failure = failure;
    // SAFETY: ends this process only.
    unsafe { libc::_exit(127) }
}

/// Errno of a call that failed, as `stage`.
fn check(stage: Stage, result: impl Into<i64>) -> Result<(), (Stage, i32)> {
    match result.into() {
        -1 => Err((stage, Errno::last_raw())),
        _ => Ok(()),
    }
}

/// Everything before the exec. System calls only.
fn prepare(plan: &SpawnPlan) -> Result<(), (Stage, i32)> {
    // SAFETY: all of these are plain system calls on this process; pointers point into `plan`, which lives until exec.
    unsafe {
        default_signals();
        check(Stage::Session, libc::setsid())?;
        for (target, source) in plan.stdio.iter().enumerate() {
            check(Stage::Stdio, libc::dup2(source.as_raw_fd(), target as RawFd))?;
        }
        // Descriptors of the agent are close-on-exec; those that this process inherited may not be.
        let (first, last) = (3, libc::c_uint::MAX);
        check(Stage::Stdio, libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC))?;
        if let Some(channel) = &plan.channel {
            if channel.as_raw_fd() == CHANNEL {
                check(Stage::Stdio, libc::fcntl(CHANNEL, libc::F_SETFD, 0))?;
            } else {
                check(Stage::Stdio, libc::dup2(channel.as_raw_fd(), CHANNEL))?;
            }
        }
        if plan.terminal {
            check(Stage::Terminal, libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        if let Some(namespace) = &plan.namespace {
            check(Stage::Namespace, libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS))?;
        }
        for (resource, limit) in &plan.limits {
            check(Stage::Limit, libc::setrlimit(*resource, limit))?;
        }
        libc::umask(0o022);
        // Before the identity changes: the directory need not be accessible to the user, as with docker.
        check(Stage::WorkingDirectory, libc::chdir(plan.cwd.as_ptr()))?;
        become_user(&plan.identity)?;
        if plan.no_new_privileges {
            check(Stage::NoNewPrivileges, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        }
    }
    Ok(())
}

/// Sets every signal to its default action and unblocks it. No failure is possible for the signals that exist.
///
/// # Safety
/// Only in the child.
unsafe fn default_signals() {
    // The kernel's `struct sigaction` (handler, flags, restorer, mask), all zero: SIG_DFL. Its last field is an empty
    // set.
    let default = [0u64; 4];
    let (set_size, nothing) = (size_of::<u64>(), std::ptr::null::<u64>());
    // SAFETY: the kernel reads as much as `default` holds.
    unsafe {
        for signal in 1..=SIGNALS {
            libc::syscall(libc::SYS_rt_sigaction, signal, &default, nothing, set_size);
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &default[3], nothing, set_size);
    }
}

/// Raw calls: the C library's own would change all threads of a process it believes to be in.
///
/// # Safety
/// Only in the child.
unsafe fn become_user(identity: &Identity) -> Result<(), (Stage, i32)> {
    let Identity { uid, gid, groups, .. } = identity;
    // SAFETY: the length is that of `groups`; the rest are numbers.
    unsafe {
        // Without privilege no call can change user or groups; a request for the present ones must still succeed.
        let unchanged = libc::geteuid() != 0 && (libc::geteuid(), libc::getegid()) == (*uid, *gid);
        if unchanged {
            return Ok(());
        }
        check(Stage::Groups, libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(Stage::Identity, libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
        check(Stage::Identity, libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid))
    }
}

/// Tries the candidates as `execvp` does: a program that is missing or forbidden leaves a chance to the next candidate.
fn execute(shared: &Shared) -> Result<(), (Stage, i32)> {
    let mut failure = (Stage::Program, libc::ENOENT);
    for program in &shared.plan.programs {
        // SAFETY: path and both arrays are NUL-terminated and live in the parent, which is stopped.
        let errno = unsafe {
            libc::execve(program.as_ptr(), shared.argv.as_ptr(), shared.envp.as_ptr());
            Errno::last_raw()
        };
        match errno {
            libc::ENOENT if exists(program) => return Err((Stage::Interpreter, errno)),
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => failure = (Stage::Program, errno),
            _ => return Err((Stage::Program, errno)),
        }
    }
    Err(failure)
}

fn exists(path: &CStr) -> bool {
    // SAFETY: `path` is a C string.
    unsafe { libc::access(path.as_ptr(), libc::F_OK) == 0 }
}

/// The paths at which to look for `name`: `name` itself if it contains a slash, else `name` in each directory of
/// `path`. An empty directory in `path` is the working directory.
///
/// # Errors
/// `Invalid` if the name is empty or contains a NUL byte.
pub fn candidates(name: &str, path: &str) -> Outcome<Vec<CString>> {
    let c_string = |text: String| CString::new(text).map_err(|_| invalid("the program's name contains a NUL byte"));
    if name.is_empty() {
        return Err(invalid("the program's name is empty"));
    }
    if name.contains('/') {
        return Ok(vec![c_string(name.to_string())?]);
    }
    path.split(':').map(|dir| c_string(format!("{}/{name}", if dir.is_empty() { "." } else { dir }))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(name: &str, path: &str) -> Vec<String> {
        candidates(name, path).unwrap().into_iter().map(|c| c.into_string().unwrap()).collect()
    }

    #[test]
    fn names_without_slash_are_looked_up() {
        assert_eq!(paths("ls", "/bin:/usr/bin"), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(paths("ls", ":/bin"), ["./ls", "/bin/ls"]);
        assert_eq!(paths("./ls", "/bin"), ["./ls"]);
        assert_eq!(paths("/bin/ls", ""), ["/bin/ls"]);
        assert!(candidates("", "/bin").is_err());
        assert!(candidates("a\0b", "/bin").is_err());
    }
}
