//! The testbed: an emulated machine with a true `/dev/kvm`, for hosts whose own cannot run a stock guest.
//!
//! [`run`] starts QEMU's TCG with an emulated AMD processor including SVM, boots a Linux kernel in it whose root is a
//! throw-away overlay on this host's `/`, runs one command there and brings back its output and exit code. Used by
//! `cargo xtask testbed`, `test` and `demo`; `resources/docs/explanation/testing.md` has the figures and the reasons.
//!
//! | module | what |
//! |---|---|
//! | [`kernel`] | kernels for the testbed in the cache: Debian's, or one built from source |
//! | [`kvm`] | whether this host needs the testbed at all |
//! | `initramfs` | `testbed-init`, modules and the job as a cpio archive |
//! | `host_root` | virtiofsd processes that serve host directories |
//! | `machine` | the QEMU process |
//! | `relay` | the loop that moves frames, signals and stdin until the command ends |
//!
//! Nothing is left behind, whatever ends the caller: every file the processes need besides the kernel is an anonymous
//! one handed over as a descriptor, and the kernel kills the processes when the thread that called [`run`] is gone.

#![deny(unsafe_code)]

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

/// What to run and on what machine.
#[derive(Clone, Debug)]
pub struct TestbedConfig {
    /// Kernel of the emulated host.
    pub kernel: Kernel,
    /// The `testbed-init` binary, statically linked.
    pub init: PathBuf,
    /// Processors. More than [`Kernel::max_cpus`] are refused.
    pub cpus: u32,
    /// Memory of the emulated host.
    pub memory_mib: u64,
    /// One emulated instruction takes one virtual nanosecond and idle time jumps. One processor only.
    pub deterministic: bool,
    /// Wall-clock limit for the whole run.
    pub timeout: Duration,
    /// Host directories the command may write to; everything else it writes is lost.
    pub write: Vec<PathBuf>,
    /// Program and arguments.
    pub args: Vec<OsString>,
    /// The whole environment, as `KEY=VALUE`.
    pub env: Vec<OsString>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Where the command's stdin comes from.
    pub input: Input,
}

/// The command's stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// /dev/null.
    Null,
    /// This process's stdin, through a pipe.
    Pipe,
    /// This process's terminal, through a terminal of the testbed's; stdout and stderr go there too.
    Terminal,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this code (128 + n for signal n, 126 and 127 as a shell has them).
    Exited(u8),
    /// [`TestbedConfig::timeout`] passed. The last lines of the console.
    TimedOut(String),
    /// The emulated machine died or could not serve. Why, and the last lines of its console.
    Died(String),
    /// This process was sent this signal.
    Interrupted(i32),
}

/// Why a testbed could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestbedError {
    /// More processors than the kernel survives.
    #[error("the testbed's {kernel} kernel runs on at most {max} CPU(s), not {asked}: use the `own` kernel for more")]
    Cpus {
        /// Name of the kernel.
        kernel: &'static str,
        /// Its limit.
        max: u32,
        /// What was asked for.
        asked: u32,
    },
    /// A directory to be shared is none.
    #[error("cannot share {path} with the testbed: it must be an existing directory")]
    Share {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The initramfs could not be put together.
    #[error("cannot make the testbed's initramfs from {path}")]
    Initramfs {
        /// What could not be read.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A helper program could not be started.
    #[error("cannot start {program}: install the packages with `cargo xtask setup`")]
    Spawn {
        /// The program.
        program: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A system call failed.
    #[error("testbed: cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl TestbedError {
    fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> TestbedError {
        move |source| TestbedError::System { what, source: source.into() }
    }
}

/// Runs a command in a new testbed; its output goes to `stdout` and `stderr` as it comes. Blocks until all is over.
///
/// Call it on a thread that lives until it returns (any ordinary call does): the kernel ends the testbed's processes with
/// the thread that started them.
///
/// # Errors
/// If the testbed could not be started, or `stdout` or `stderr` failed. What happens in a started testbed is an [`Outcome`].
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

/// What may be kept between runs and clones: `HUTCH_CACHE_DIR`, else `hutch` below `XDG_CACHE_HOME` or `~/.cache`.
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
