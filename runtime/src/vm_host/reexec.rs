//! Starting hutch again with a hidden verb: the VMM process and the shims are born here.
//!
//! Such a process must not inherit the caller's descriptors beyond the three standard ones (they would keep a lock or a
//! pipe of the caller alive, P-031), its session, nor its ignored and blocked signals.
#![expect(unsafe_code, reason = "the calls between fork and exec have no safe form")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::SigSet;

/// This very program; works also when its file was replaced meanwhile.
const ITSELF: &str = "/proc/self/exe";
/// Variables of the caller's environment that such a process gets. The others may hold secrets, and it has no use for them.
const KEPT_ENV: [&str; 3] = ["HUTCH_LOG", "RUST_BACKTRACE", "LD_LIBRARY_PATH"];
/// The names of all hidden verbs begin with this.
const VERB_PREFIX: &str = "__";

/// This program does the work of a hidden verb when it is started for one.
static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Notes that this program, started again with a hidden verb, does the verb's work. Without it such a process would run
/// the program's own `main` once more, and start further ones.
pub(crate) fn allow_reexec() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// The program cannot be started again for a hidden verb.
#[derive(Debug, thiserror::Error)]
#[error(
    "this program has not called hutch_runtime::init(), which it needs to hold machines and guest processes: \
     call hutch_runtime::init() first thing in main"
)]
struct NotInitialized;

/// The namespaces that a process does not share with its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apart {
    /// None.
    No,
    /// Mount, IPC and UTS namespaces.
    ButNetwork,
    /// These, and a network namespace, in which there is nothing.
    Entirely,
}

/// How to start hutch again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReExec {
    /// Path of the program.
    pub program: PathBuf,
    /// Its arguments: the hidden verb.
    pub args: Vec<OsString>,
    /// Added to the environment.
    pub env: Vec<(OsString, OsString)>,
}

impl ReExec {
    /// This very program with a hidden verb. It must have called [`init`](crate::init()).
    pub fn itself(verb: &str) -> Self {
        Self { program: ITSELF.into(), args: vec![verb.into()], env: Vec::new() }
    }

    /// The same with another program.
    pub fn with_program(&self, program: Option<&Path>) -> Self {
        let mut other = self.clone();
        if let Some(program) = program {
            other.program = program.to_owned();
        }
        other
    }

    /// A command for it, in a session of its own. `kept`: one descriptor beside the standard ones that the process
    /// inherits, under the same number. `blocked`: signals that it has blocked from its first instruction on. `apart`: the
    /// namespaces of its own that it has, if the caller may make such.
    ///
    /// Fails if the process would run the `main` of a program that knows nothing of hidden verbs.
    pub(crate) fn command(
        &self,
        name: &str,
        kept: Option<BorrowedFd<'_>>,
        blocked: SigSet,
        apart: Apart,
    ) -> io::Result<Command> {
        let hidden = self.args.first().is_some_and(|verb| verb.to_string_lossy().starts_with(VERB_PREFIX));
        if self.program == Path::new(ITSELF) && hidden && !ALLOWED.load(Ordering::Relaxed) {
            return Err(io::Error::other(NotInitialized));
        }
        let mut command = Command::new(&self.program);
        command.arg0(name).args(&self.args).env_clear();
        let kept_env = KEPT_ENV.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(kept_env).envs(self.env.iter().cloned());
        let kept = kept.map(|fd| fd.as_raw_fd());
        // SAFETY: the closure runs between fork and exec in the child and makes system calls only; it neither
        // allocates nor takes a lock. `kept` is open in the parent until the spawn is over, hence in the child.
        unsafe { command.pre_exec(move || before_exec(kept, &blocked, apart)) };
        Ok(command)
    }
}

/// Runs in the child. Async-signal-safe.
fn before_exec(kept: Option<RawFd>, blocked: &SigSet, apart: Apart) -> io::Result<()> {
    // SAFETY: plain system calls on this process; the arguments are numbers and, for sigaction, a zeroed structure,
    // which means the default disposition.
    unsafe {
        // Also std's own pipe for errors of the exec, which is close-on-exec already.
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(fd) = kept
            && libc::fcntl(fd, libc::F_SETFD, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
        // Without the privilege it shares the caller's; the process finds out.
        if apart != Apart::No {
            libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS);
        }
        // By itself: a kernel may have no such namespaces.
        if apart == Apart::Entirely {
            libc::unshare(libc::CLONE_NEWNET);
        }
        if libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            // Fails for SIGKILL, SIGSTOP and those that libc keeps for itself.
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
        if libc::sigprocmask(libc::SIG_SETMASK, blocked.as_ref(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
