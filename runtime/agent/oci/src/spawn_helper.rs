//! The agent's side of the helper: starts it, receives its messages, waits for its end. Runs on connection threads.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hutch_agent::failure::{invalid, system, Outcome};
use hutch_agent::sys::{kill_pidfd, wait_for_any};
use hutch_agent::{spawn, Agent, Child, Identity, SpawnError, SpawnPlan};
use hutch_agent_proto::{Deadline, RemoteError, RemoteErrorKind};
use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};

use crate::job::Job;
use crate::wire::{receive, Message};

/// How long a helper may take. Mounting and forking take milliseconds, but a file system of the host may be slow.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a started container may take to execute its program. Hooks of the container run before.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A process that a helper has made.
pub struct Spawned {
    pub child: Child,
    /// Ends when the process executes its program; a message on it says why the process could not.
    pub channel: Channel,
}

/// The agent's end of the channel.
pub struct Channel(OwnedFd);

impl Channel {
    /// Waits until the process has executed its program. A process that has died before counts as well: its end is
    /// reported as that of any process.
    ///
    /// # Errors
    /// The reason why the process could not execute its program, or `Timeout`.
    pub fn wait_for_program(&self, process: BorrowedFd) -> Outcome<()> {
        let deadline = Deadline::after(START_TIMEOUT);
        loop {
            match receive(self.0.as_fd()) {
                Ok(None) => return Ok(()),
                Ok(Some((Message::Failed(error), _))) => return Err(error),
                Ok(Some((Message::Spawned { .. } | Message::Done, _))) => continue,
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(system("waiting for the container's program", errno)),
            }
            match wait_for_any(&[self.0.as_fd(), process], deadline)[..] {
                // The process has ended; a last message may still wait.
                [false, true] => return Ok(()),
                [true, _] => {}
                _ => {
                    return Err(RemoteError::new(
                        RemoteErrorKind::Timeout,
                        "the container's program was not executed in time",
                    ))
                }
            }
        }
    }
}

/// Runs a helper with a `job` that makes a process. The standard descriptors become those of that process.
///
/// # Errors
/// The helper's error, or `Timeout`.
pub fn spawn_helper(agent: &Agent, job: &Job, stdio: [BorrowedFd; 3]) -> Outcome<Spawned> {
    let (ours, theirs) = pair()?;
    let helper = start(agent, job, stdio, theirs.as_fd())?;
    drop(theirs);
    let channel = Channel(ours);
    let result = listen(&channel, &helper, HELPER_TIMEOUT);
    let child = match result {
        Ok(Reply { child: Some(child), .. }) => Ok(child),
        Ok(_) => Err(died()),
        Err(error) => Err(error),
    };
    if child.is_err() {
        // Usually the helper has ended already.
        let _ = kill_pidfd(helper.pidfd.as_fd(), libc::SIGKILL);
    }
    child.map(|child| Spawned { child, channel })
}

/// Runs a helper with a `job` that leaves no process.
///
/// # Errors
/// The helper's error, or `Timeout`.
pub fn run_in_helper(agent: &Agent, job: &Job, stdio: [BorrowedFd; 3], limit: Duration) -> Outcome<()> {
    let (ours, theirs) = pair()?;
    let helper = start(agent, job, stdio, theirs.as_fd())?;
    drop(theirs);
    let result = match listen(&Channel(ours), &helper, limit) {
        Ok(Reply { done: true, .. }) => Ok(()),
        Ok(_) => Err(died()),
        Err(error) => Err(error),
    };
    if result.is_err() {
        let _ = kill_pidfd(helper.pidfd.as_fd(), libc::SIGKILL);
    }
    result
}

fn pair() -> Outcome<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    pair.map_err(|errno| system("making a socket pair", errno))
}

fn start(agent: &Agent, job: &Job, stdio: [BorrowedFd; 3], channel: BorrowedFd) -> Outcome<Child> {
    let job = job.to_args().ok_or_else(|| invalid(format!("{job:?}: a path is not text")))?;
    let args = ["hutch-agent".to_owned()].into_iter().chain(job).map(CString::new).collect::<Result<Vec<_>, _>>();
    let args = args.map_err(|_| invalid("an argument contains a NUL byte"))?;
    let plan = SpawnPlan {
        programs: vec![c"/proc/self/exe".to_owned()],
        args,
        env: Vec::new(),
        cwd: c"/".to_owned(),
        stdio,
        terminal: false,
        namespace: None,
        limits: agent.limits().to_vec(),
        identity: Identity { uid: 0, gid: 0, groups: vec![0], home: "/".to_owned() },
        no_new_privileges: false,
        channel: Some(channel),
    };
    agent.processes().spawn_unregistered(|| spawn(&plan)).map_err(|error| match error {
        SpawnError::Failed(error) => error,
        SpawnError::NoWorkingDirectory => system("starting a helper", Errno::ENOENT),
    })
}

/// The messages of a helper, apart from failures.
#[derive(Default)]
struct Reply {
    child: Option<Child>,
    done: bool,
}

/// Receives the helper's messages until it has ended. Only then has it cleaned up after a failure, and only then is the
/// process that it made a child of the agent.
fn listen(channel: &Channel, helper: &Child, limit: Duration) -> Outcome<Reply> {
    let deadline = Deadline::after(limit);
    let mut reply = Reply::default();
    let mut failure: Option<RemoteError> = None;
    let mut ended = false;
    loop {
        match receive(channel.0.as_fd()) {
            Ok(Some((Message::Spawned { pid }, Some(pidfd)))) => reply.child = Some(Child { pid, pidfd }),
            Ok(Some((Message::Done, _))) => reply.done = true,
            Ok(Some((Message::Spawned { .. }, None))) => {}
            // The first failure is the cause; the others are its consequences.
            Ok(Some((Message::Failed(error), _))) => failure = failure.or(Some(error)),
            Ok(None) if ended => break,
            Err(Errno::EAGAIN) if ended => break,
            Ok(None) => {
                ended = true;
                if !wait_for_any(&[helper.pidfd.as_fd()], deadline)[0] {
                    return Err(late());
                }
            }
            Err(Errno::EAGAIN) => match wait_for_any(&[channel.0.as_fd(), helper.pidfd.as_fd()], deadline)[..] {
                [false, false] => return Err(late()),
                [_, seen] => ended = seen,
                _ => return Err(late()),
            },
            Err(errno) => return Err(system("receiving from a helper", errno)),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(reply),
    }
}

fn died() -> RemoteError {
    RemoteError::new(RemoteErrorKind::System, "the container's helper died")
}

fn late() -> RemoteError {
    RemoteError::new(RemoteErrorKind::Timeout, "the container's helper did not finish in time")
}
