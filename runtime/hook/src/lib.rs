//! Runs one hook: a program in a process group of its own, with a state on its stdin, captured output and a timeout.
//!
//! The runtime runs hooks of the host with it, `hutch-agent-oci` hooks of the guest and of containers. Everything happens
//! on the calling thread, so that the hook is born in that thread's namespaces. The calling process must not reap the
//! hook elsewhere.
#![deny(unsafe_code)]

mod output;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use output::Output;

pub use output::Capture;

/// How long to read the output of a hook that has ended: a process that it left behind may keep the pipes open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// A hook that failed (P-162).
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", printed(.stdout, .stderr))]
pub struct HookFailure {
    /// The way in which the hook failed.
    pub cause: HookCause,
    /// Captured stdout; both streams with [`Capture::Merged`].
    pub stdout: String,
    /// Captured stderr.
    pub stderr: String,
}

/// The way in which a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookCause {
    /// The program could not be started.
    #[error("could not be started: {0}")]
    Launch(io::Error),
    /// The process could not be watched; it was killed.
    #[error("could not be watched: {0}")]
    Watch(io::Error),
    /// The process ended with a status other than 0.
    #[error("ended with {0}")]
    Status(ExitStatus),
    /// The process took longer than this and was killed with its process group (P-163).
    #[error("was killed after {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

fn printed(stdout: &str, stderr: &str) -> String {
    let streams = [("stdout", stdout.trim()), ("stderr", stderr.trim())];
    streams.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| format!("; {name}: {text}")).collect()
}

/// The command of a hook: `args` with the name first; without any, the path is the only argument.
pub fn command(path: impl AsRef<Path>, args: &[String]) -> Command {
    let mut command = Command::new(path.as_ref());
    if let Some((name, args)) = args.split_first() {
        command.arg0(name).args(args);
    }
    command
}

/// Replaces the environment of `command` by the `KEY=value` strings of `env`.
pub fn set_environment(command: &mut Command, env: &[String]) {
    command.env_clear().envs(env.iter().filter_map(|entry| entry.split_once('=')));
}

/// A file without a name that holds `state`, positioned at its beginning: the stdin of a hook, which need not read it.
///
/// # Errors
/// The system has no memory or descriptors left.
pub fn state_file(state: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(state)?;
    file.rewind()?;
    Ok(file)
}

/// Runs a hook to its end. After `timeout` its process group is killed. `None`: no timeout.
///
/// # Errors
/// A hook that could not run, ended with another status than 0 or took too long.
pub fn run(mut command: Command, state: File, timeout: Option<Duration>, capture: Capture) -> Result<(), HookFailure> {
    let launched = Output::new(capture).and_then(|(output, [stdout, stderr])| {
        command.stdin(Stdio::from(state)).stdout(stdout).stderr(stderr).process_group(0);
        Ok((command.spawn()?, output))
    });
    // The command keeps the write ends of the pipes.
    drop(command);
    let (mut child, mut output) = launched.map_err(|error| failure(HookCause::Launch(error), &[]))?;
    match watch(&child, &mut output, timeout) {
        Ok(true) => match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failure(HookCause::Status(status), &output)),
            Err(error) => Err(failure(HookCause::Watch(error), &output)),
        },
        Ok(false) => {
            kill_group(&mut child);
            output.iter_mut().for_each(Output::read);
            Err(failure(HookCause::Timeout(timeout.unwrap_or_default()), &output))
        }
        Err(error) => {
            kill_group(&mut child);
            Err(failure(HookCause::Watch(error), &output))
        }
    }
}

fn failure(cause: HookCause, output: &[Output]) -> HookFailure {
    let text = |index: usize| output.get(index).map(Output::text).unwrap_or_default();
    HookFailure { cause, stdout: text(0), stderr: text(1) }
}

/// Reads the output until the process has ended; `false` if it has not ended after `timeout`.
fn watch(child: &Child, output: &mut [Output], timeout: Option<Duration>) -> io::Result<bool> {
    let process = open_pidfd(child)?;
    // A timeout beyond the range of the clock never ends.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    while !wait(Some(&process), output, deadline)?.ended {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
    let ended = Instant::now();
    while output.iter().any(Output::is_open) && ended.elapsed() < DRAIN_TIMEOUT {
        // The hook has ended: stop as soon as the pipes are empty.
        if !wait(None, output, Some(Instant::now()))?.readable {
            break;
        }
    }
    Ok(true)
}

struct Ready {
    ended: bool,
    readable: bool,
}

/// Waits for the end of the process or for output, at most until `deadline`, and reads the output.
fn wait(process: Option<&OwnedFd>, output: &mut [Output], deadline: Option<Instant>) -> io::Result<Ready> {
    let ready = {
        let pipes = output.iter().filter_map(Output::pipe);
        let all = process.map(AsFd::as_fd).into_iter().chain(pipes);
        let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, poll_timeout(deadline)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready { ended: false, readable: true }),
            Err(errno) => return Err(errno.into()),
        }
        let mut seen = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        let ended = process.is_some() && seen.next().unwrap_or(false);
        Ready { ended, readable: seen.any(|seen| seen) }
    };
    if ready.readable {
        output.iter_mut().for_each(Output::read);
    }
    Ok(ready)
}

fn poll_timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return PollTimeout::ZERO;
    }
    // Rounded up, lest the last wait returns too early and the loop spins.
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper in nix")]
fn open_pidfd(child: &Child) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; on success the kernel has made a descriptor for us.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, child.id(), 0))? as RawFd;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Kills the hook with its process group and reaps it (P-163).
fn kill_group(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // The hook has not been reaped, so the group is still its own.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests;
