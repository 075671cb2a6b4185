//! The testbed: an emulated machine with a real `/dev/kvm`, for hosts whose own KVM cannot run a stock guest.
//!
//! [`run`] starts QEMU's TCG with an emulated AMD processor including SVM, boots a Linux kernel in it whose root is a
//! throw-away overlay on this host's `/`, runs one command there and brings back its output and exit code. Used by
//! `cargo xtask testbed`, `test` and `demo`; `resources/docs/explanation/testing.md` has the figures and the reasons.
//!
//! | module | contents |
//! |---|---|
//! | [`kernel`] | kernels for the testbed in the cache: Debian's, or one built from source |
//! | [`kvm`] | the test whether this host needs the testbed |
//! | `initramfs` | `testbed-init`, modules and the job as a cpio archive |
//! | `host_root` | virtiofsd processes that serve host directories |
//! | `machine` | the QEMU process |
//! | `relay` | the loop that moves frames, signals and stdin until the command ends |
//!
//! A run leaves nothing behind, however the caller ends. Apart from the kernel image, all files of the processes are
//! anonymous and passed as descriptors, and the kernel kills the processes when the thread that called [`run`] is gone.

mod anonymous;
mod host_root;
mod initramfs;
pub mod kernel;
pub mod kvm;
mod machine;
mod relay;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use hutch_testbed::{Job, Share};
use kernel::Kernel;

/// A command, and the machine that runs it.
#[derive(Clone, Debug)]
pub struct TestbedConfig {
    /// Kernel of the emulated host.
    pub kernel: Kernel,
    /// The `testbed-init` binary, statically linked.
    pub init: PathBuf,
    /// Number of processors, at most [`Kernel::max_cpus`].
    pub cpus: u32,
    /// Memory of the emulated host.
    pub memory_mib: u64,
    /// One emulated instruction takes one virtual nanosecond and idle time jumps. One processor only.
    pub deterministic: bool,
    /// Wall-clock limit.
    pub timeout: Duration,
    /// The limit starts again whenever the command prints something: it bounds a silence, not the whole run.
    pub until_silent: bool,
    /// Host directories that the command may write to; all its other writes are lost.
    pub write: Vec<PathBuf>,
    /// Program and arguments.
    pub args: Vec<OsString>,
    /// The whole environment, as `KEY=VALUE`.
    pub env: Vec<OsString>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Source of the command's stdin.
    pub input: Input,
}

/// The command's stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// /dev/null.
    Null,
    /// This process's stdin, through a pipe.
    Pipe,
    /// This process's terminal, through a terminal in the testbed, which also takes stdout and stderr.
    Terminal,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this code (128 + n for signal n, 126 and 127 as a shell has them).
    Exited(u8),
    /// [`TestbedConfig::timeout`] passed. Holds the last lines of the console.
    TimedOut(String),
    /// The emulated machine failed. Holds the cause and the last lines of its console.
    Died(String),
    /// This process received this signal.
    Interrupted(i32),
}

/// An error that prevents a testbed from starting or being served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestbedError {
    /// The kernel is not stable with this many processors.
    #[error("the testbed's {kernel} kernel runs on at most {max} CPU(s), not {asked}: use the `own` kernel for more")]
    Cpus {
        /// Name of the kernel.
        kernel: &'static str,
        /// Its largest number.
        max: u32,
        /// The requested number.
        asked: u32,
    },
    /// A path to share is not a readable directory.
    #[error("cannot share {path} with the testbed: it must be an existing directory")]
    Share {
        /// As given in [`TestbedConfig::write`].
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// A file of the initramfs is missing.
    #[error("cannot make the testbed's initramfs from {path}")]
    Initramfs {
        /// The unreadable file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// A helper program could not be started.
    #[error("cannot start {program}: install the packages with `cargo xtask setup`")]
    Spawn {
        /// Name or path of QEMU or virtiofsd.
        program: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
    /// A system call failed.
    #[error("testbed: cannot {what}")]
    System {
        /// Completes "cannot".
        what: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
}

impl TestbedError {
    fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> TestbedError {
        move |source| TestbedError::System { what, source: source.into() }
    }
}

/// Runs a command in a new testbed and copies its output to `stdout` and `stderr` as it comes. Blocks until the end.
///
/// The kernel kills the testbed's processes when the calling thread ends.
///
/// # Errors
/// If the testbed cannot start, or if `stdout` or `stderr` fails. A failure inside the started testbed is an [`Outcome`].
pub fn run(config: &TestbedConfig, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<Outcome, TestbedError> {
    if config.cpus > config.kernel.max_cpus || (config.deterministic && config.cpus > 1) {
        let (kernel, max) = match config.deterministic {
            true => ("deterministic", 1),
            false => (config.kernel.name, config.kernel.max_cpus),
        };
        return Err(TestbedError::Cpus { kernel, max, asked: config.cpus });
    }
    let job = job_of(config)?;
    let initramfs = initramfs::build(&config.init, &config.kernel, &job)?;
    let mut directories = vec![host_root::serve(hutch_testbed::HOST_TAG, "/".as_ref(), host_root::Access::ReadOnly)?];
    for share in &job.shares {
        directories.push(host_root::serve(&share.tag, &share.path, host_root::Access::ReadWrite)?);
    }
    let mut machine = machine::Machine::start(config, initramfs, directories)?;
    relay::until_end(config, &mut machine, stdout, stderr)
}

/// Directory for files that runs and clones share: `HUTCH_CACHE_DIR`, else `hutch` below `XDG_CACHE_HOME` or `~/.cache`.
pub fn cache_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache"))).map(|dir| dir.join("hutch"));
    var("HUTCH_CACHE_DIR").or_else(base).unwrap_or_else(|| "/var/cache/hutch".into())
}

fn job_of(config: &TestbedConfig) -> Result<Job, TestbedError> {
    let mut shares = Vec::new();
    for (n, path) in config.write.iter().enumerate() {
        let error = |source| TestbedError::Share { path: path.clone(), source };
        let path = path.canonicalize().map_err(error)?;
        std::fs::read_dir(&path).map_err(error)?;
        shares.push(Share { tag: format!("write{n}"), path });
    }
    Ok(Job {
        args: config.args.clone(),
        env: config.env.clone(),
        cwd: config.cwd.clone(),
        shares,
        modules: config.kernel.modules.clone(),
        terminal: (config.input == Input::Terminal).then(relay::terminal_size),
        stdin: config.input != Input::Null,
    })
}
