//! One hook: a process group of its own, the state on its stdin, its output captured, its time bounded. Everything
//! happens on the calling thread, so that the hook is born in that thread's namespaces (P-165).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};
use rustix::io::Errno;
use rustix::process::{kill_process_group, pidfd_open, Pid, PidfdFlags, Signal};

use super::{HookCause, HookFailure, HookState};
use crate::spec::HookSpec;

/// Kept of each output stream; what is beyond is read and dropped.
const MAX_OUTPUT: usize = 64 << 10;
/// After the hook has ended, its output is read for this long at most: something it left behind may hold the pipes.
const DRAIN: Duration = Duration::from_millis(100);

/// Runs a hook to its end.
pub(crate) fn run(hook: &HookSpec, state: &HookState) -> Result<(), HookFailure> {
    let fail = |cause| HookFailure { cause, stdout: String::new(), stderr: String::new() };
    let mut child = spawn(hook).map_err(|e| fail(HookCause::Launch(e)))?;
    let timeout = (hook.timeout > 0).then(|| Duration::from_secs(hook.timeout));
    let watched = Watch::new(&mut child, state).and_then(|mut watch| {
        let ended = watch.run(timeout)?;
        Ok((ended, watch))
    });
    match watched {
        Ok((true, watch)) => match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(watch.failure(HookCause::Status(status))),
            Err(e) => Err(watch.failure(HookCause::Watch(e))),
        },
        Ok((false, watch)) => {
            kill_group(&mut child);
            Err(watch.failure(HookCause::Timeout(timeout.unwrap_or_default())))
        }
        Err(e) => {
            kill_group(&mut child);
            Err(fail(HookCause::Watch(e)))
        }
    }
}

fn spawn(hook: &HookSpec) -> io::Result<Child> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).spawn()
}

/// Kills the hook and everything it started in its group, and collects it (P-163).
fn kill_group(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        // Not yet collected, so the PID and with it the group are still the hook's.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// The descriptors of a running hook.
struct Watch {
    pidfd: OwnedFd,
    stdin: Option<File>,
    input: Vec<u8>,
    stdout: Captured,
    stderr: Captured,
}

struct Captured {
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl Watch {
    fn new(child: &mut Child, state: &HookState) -> io::Result<Self> {
        let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let stdin = child.stdin.take().map(|pipe| file(pipe.into())).transpose()?;
        let stdout = child.stdout.take().map(|pipe| file(pipe.into())).transpose()?;
        let stderr = child.stderr.take().map(|pipe| file(pipe.into())).transpose()?;
        let captured = |pipe| Captured { pipe, bytes: Vec::new() };
        let input = serde_json::to_vec(state)?;
        Ok(Self { pidfd, stdin, input, stdout: captured(stdout), stderr: captured(stderr) })
    }

    /// Feeds and reads until the process has ended; `false` if it did not in time.
    fn run(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        while !self.step(deadline)? {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
        }
        let drained = Instant::now() + DRAIN;
        self.stdin = None;
        while (self.stdout.pipe.is_some() || self.stderr.pipe.is_some()) && Instant::now() < drained {
            self.step(Some(drained))?;
            if self.quiet()? {
                break;
            }
        }
        Ok(true)
    }

    /// Whether nothing is left in the pipes right now.
    fn quiet(&self) -> io::Result<bool> {
        let mut fds: Vec<PollFd<'_>> = [&self.stdout.pipe, &self.stderr.pipe]
            .into_iter()
            .flatten()
            .map(|p| PollFd::new(p, PollFlags::IN))
            .collect();
        let count = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(count == 0)
    }

    /// Waits for one thing to happen and handles it; tells whether the process has ended.
    fn step(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() });
        let idle = self.pidfd.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(idle, PollFlags::IN),
            watched(self.stdin.as_ref(), idle, PollFlags::OUT),
            watched(self.stdout.pipe.as_ref(), idle, PollFlags::IN),
            watched(self.stderr.pipe.as_ref(), idle, PollFlags::IN),
        ];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = fds.map(|fd| !fd.revents().is_empty());
        if ready[1] && self.stdin.is_some() {
            self.feed();
        }
        if ready[2] {
            self.stdout.read();
        }
        if ready[3] {
            self.stderr.read();
        }
        Ok(ready[0])
    }

    /// A hook that does not read its state is not a failure.
    fn feed(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        match pipe.write(&self.input) {
            Ok(count) if count > 0 && count < self.input.len() => {
                self.input.drain(..count);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => self.stdin = None,
        }
    }

    fn failure(&self, cause: HookCause) -> HookFailure {
        HookFailure { cause, stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

impl Captured {
    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = MAX_OUTPUT.saturating_sub(self.bytes.len()).min(count);
                self.bytes.extend_from_slice(&buffer[..room]);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A stream to wait for; a closed one waits for nothing.
fn watched<'a>(pipe: Option<&'a File>, idle: BorrowedFd<'a>, flags: PollFlags) -> PollFd<'a> {
    match pipe {
        Some(pipe) => PollFd::from_borrowed_fd(pipe.as_fd(), flags),
        None => PollFd::from_borrowed_fd(idle, PollFlags::empty()),
    }
}

/// A pipe end that never blocks.
fn file(fd: OwnedFd) -> io::Result<File> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(File::from(fd))
}
