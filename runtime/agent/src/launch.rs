//! Turns the host's description of a process into a running process: checks, look-ups in the root, streams, spawn.
//! Runs on connection threads.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::Path;
use std::sync::Arc;

use hutch_agent_proto::ProcessSpec;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::{pipe2, Uid};

use crate::failure::{invalid, io, system, unsupported, Outcome};
use crate::mount_ns::MountNs;
use crate::process::Streams;
use crate::pty;
use crate::rlimits::{self, ReadyLimit};
use crate::spawn::{candidates, spawn, Child, SpawnError, SpawnPlan};
use crate::user::{self, Identity};

/// `PATH` of a process whose environment has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts `spec` in the sandbox `mount_ns`. `defaults` are the limits that `spec` does not set.
///
/// # Errors
/// `ProgramNotFound`, `ProgramNotExecutable`, `Invalid` for the rest of the description, `Unsupported` for capabilities,
/// `System`.
pub fn launch(mount_ns: &MountNs, spec: &ProcessSpec, defaults: &[ReadyLimit]) -> Outcome<(Child, Streams)> {
    let program = spec.args.first().ok_or_else(|| invalid("there is no program to run"))?;
    if spec.capabilities.is_some() {
        return Err(unsupported("a process of the sandbox itself has all capabilities; run it in a container"));
    }
    let identity = user::look_up(mount_ns.root(), &spec.user, &spec.groups)?;
    let path = spec.env.iter().rev().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    if !cwd.starts_with('/') {
        return Err(invalid(format!("working directory {cwd:?} is not absolute")));
    }
    let stdio = ChildStdio::open(mount_ns, spec, &identity)?;
    let plan = SpawnPlan {
        programs: candidates(program, path)?,
        args: c_strings("an argument", spec.args.iter().cloned())?,
        env: environment(spec, &identity)?,
        cwd: c_strings("the working directory", [cwd.to_string()])?.remove(0),
        stdio: stdio.process_sides(),
        terminal: spec.terminal.is_some(),
        namespace: mount_ns.namespace(),
        limits: rlimits::prepare(&spec.rlimits, defaults)?,
        identity,
        no_new_privileges: spec.no_new_privileges,
        channel: None,
    };
    let child = start(mount_ns, &plan, cwd)?;
    drop(plan);
    Ok((child, stdio.into_streams()))
}

/// Spawns the process; creates its working directory if that is missing.
fn start(mount_ns: &MountNs, plan: &SpawnPlan, cwd: &str) -> Outcome<Child> {
    let missing = |errno: Errno| {
        let message = format!("working directory {cwd:?} does not exist and cannot be created: {}", errno.desc());
        invalid(message)
    };
    match spawn(plan) {
        Err(SpawnError::NoWorkingDirectory) => {
            mount_ns.root().make_directory(Path::new(cwd)).map_err(missing)?;
            spawn(plan).map_err(|error| match error {
                SpawnError::NoWorkingDirectory => missing(Errno::ENOENT),
                SpawnError::Failed(error) => error,
            })
        }
        Err(SpawnError::Failed(error)) => Err(error),
        Ok(child) => Ok(child),
    }
}

/// `KEY=value` strings; `HOME` is added if it is missing.
fn environment(spec: &ProcessSpec, identity: &Identity) -> Outcome<Vec<CString>> {
    check_environment(spec.env.iter().map(|(key, _)| key))?;
    check_environment(spec.env_bytes.iter().map(|(key, _)| key))?;
    let mut keys = spec.env.iter().map(|(key, _)| key).chain(spec.env_bytes.iter().map(|(key, _)| key));
    let home = (!keys.any(|key| key == "HOME")).then(|| format!("HOME={}", identity.home).into_bytes());
    let text = spec.env.iter().map(|(key, value)| format!("{key}={value}").into_bytes());
    let bytes = spec.env_bytes.iter().map(|(key, value)| [key.as_bytes(), b"=", value].concat());
    c_strings("an environment variable", text.chain(bytes).chain(home))
}

/// Checks the names of environment variables.
///
/// # Errors
/// `Invalid` for an empty name or one with `=`.
pub fn check_environment<'a>(names: impl IntoIterator<Item = &'a String>) -> Outcome<()> {
    match names.into_iter().find(|key| key.is_empty() || key.contains('=')) {
        Some(key) => Err(invalid(format!("environment variable {key:?}: a name is not empty and has no '='"))),
        None => Ok(()),
    }
}

fn c_strings<T: Into<Vec<u8>>>(what: &str, strings: impl IntoIterator<Item = T>) -> Outcome<Vec<CString>> {
    let convert = |string| CString::new(string).map_err(|_| invalid(format!("{what} contains a NUL byte")));
    strings.into_iter().map(convert).collect()
}

/// Both sides of a new process's standard streams.
pub struct ChildStdio {
    process: ProcessSide,
    streams: Streams,
}

enum ProcessSide {
    Terminal(OwnedFd),
    Pipes([OwnedFd; 3]),
}

impl ChildStdio {
    /// A terminal of the sandbox or pipes, as `spec` asks for.
    fn open(mount_ns: &MountNs, spec: &ProcessSpec, identity: &Identity) -> Outcome<Self> {
        let stdio = match spec.terminal {
            Some(size) => {
                let (master, peer) = pty::open_pair(mount_ns.root(), size)?;
                let streams = Streams { terminal: Some(Arc::new(master)), ..Streams::default() };
                ChildStdio { process: ProcessSide::Terminal(peer), streams }
            }
            None => Self::pipes(spec.stdin)?,
        };
        stdio.give_to(identity)?;
        Ok(stdio)
    }

    /// Three pipes. Without `with_stdin` the process's stdin is `/dev/null`.
    pub fn pipes(with_stdin: bool) -> Outcome<Self> {
        let mut streams = Streams::default();
        let stdin = if with_stdin {
            let (theirs, ours) = pipe(false)?;
            streams.stdin = Some(ours);
            theirs
        } else {
            let null = File::options().read(true).write(true).open("/dev/null");
            null.map_err(|error| io("/dev/null", &error))?.into()
        };
        let (stdout, out) = pipe(true)?;
        let (stderr, err) = pipe(true)?;
        (streams.stdout, streams.stderr) = (Some(out), Some(err));
        Ok(ChildStdio { process: ProcessSide::Pipes([stdin, stdout, stderr]), streams })
    }

    /// Makes the process's user the owner of its streams, so that the process may open `/dev/stdout` and the like by
    /// name.
    pub fn give_to(&self, identity: &Identity) -> Outcome<()> {
        if identity.uid == 0 || !Uid::effective().is_root() {
            return Ok(());
        }
        let give = |fd: BorrowedFd| {
            fchown(fd, Some(identity.uid), None).map_err(|error| io("giving a standard stream to its user", &error))
        };
        match &self.process {
            ProcessSide::Terminal(peer) => give(peer.as_fd()),
            ProcessSide::Pipes(pipes) => {
                // /dev/null keeps its owner.
                let own = if self.streams.stdin.is_some() { &pipes[..] } else { &pipes[1..] };
                own.iter().try_for_each(|pipe| give(pipe.as_fd()))
            }
        }
    }

    /// Drops the process's sides and returns the agent's.
    pub fn into_streams(self) -> Streams {
        self.streams
    }

    /// The process's stdin, stdout and stderr.
    pub fn process_sides(&self) -> [BorrowedFd<'_>; 3] {
        match &self.process {
            ProcessSide::Terminal(peer) => [peer.as_fd(); 3],
            ProcessSide::Pipes(pipes) => [pipes[0].as_fd(), pipes[1].as_fd(), pipes[2].as_fd()],
        }
    }
}

/// A pipe as (the process's end, the agent's); the agent's end does not block.
fn pipe(output: bool) -> Outcome<(OwnedFd, OwnedFd)> {
    let failed = |errno| system("making a pipe", errno);
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (theirs, ours) = if output { (write_end, read_end) } else { (read_end, write_end) };
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    Ok((theirs, ours))
}
