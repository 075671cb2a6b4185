//! The agent's side of the helper: starts it, hears what it has to say, waits for its end. Connection threads.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hutch_agent::failure::{system, Outcome};
use hutch_agent::server::Agent;
use hutch_agent::spawn::{spawn, Child, Plan, SpawnError};
use hutch_agent::sys::{kill_pidfd, wait_for_any};
use hutch_agent::user::Identity;
use hutch_agent_proto::{ErrorKind, RemoteError};
use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};

use crate::helper::VERB;
use crate::wire::{receive, Word};

/// How long a helper may take. Mounting and forking takes milliseconds; a file system of the host may be slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a program may take to be executed once its container is started: hooks of the container run before.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// What a helper has made.
pub struct Made {
    /// The container's process.
    pub child: Child,
    /// Tells when it executes its program, and why not.
    pub channel: Channel,
}

/// The agent's end of the channel.
pub struct Channel(OwnedFd);

impl Channel {
    /// Waits until the program has been executed (or its process has died, which is an end like others).
    ///
    /// # Errors
    /// Why it was not executed; `Timeout`.
    pub fn wait_for_program(&self, process: BorrowedFd) -> Outcome<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match receive(self.0.as_fd()) {
                Ok(None) => return Ok(()),
                Ok(Some((Word::Failed(error), _))) => return Err(error),
                Ok(Some((Word::Made { .. } | Word::Done, _))) => continue,
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(system("waiting for the container's program", errno)),
            }
            match wait_for_any(&[self.0.as_fd(), process], deadline)[..] {
                // What it said last is still to be read.
                [false, true] => return Ok(()),
                [true, _] => {}
                _ => {
                    return Err(RemoteError::new(
                        ErrorKind::Timeout,
                        "the container's program was not executed in time",
                    ))
                }
            }
        }
    }
}

/// Runs a helper with `job`; its standard descriptors become those of the container's process.
///
/// # Errors
/// What the helper says, `Timeout`, `System`.
pub fn summon(agent: &Agent, job: &[&str], stdio: [BorrowedFd; 3]) -> Outcome<Made> {
    let (ours, theirs) = pair()?;
    let helper = start(agent, job, stdio, theirs.as_fd())?;
    drop(theirs);
    let channel = Channel(ours);
    let result = listen(&channel, &helper, PATIENCE);
    let child = match result {
        Ok(Heard { made: Some(child), .. }) => Ok(child),
        Ok(_) => Err(died()),
        Err(error) => Err(error),
    };
    if child.is_err() {
        // Usually gone already.
        let _ = kill_pidfd(helper.pidfd.as_fd(), libc::SIGKILL);
    }
    child.map(|child| Made { child, channel })
}

/// Runs a helper with a `job` that leaves no process.
///
/// # Errors
/// What the helper says, `Timeout`, `System`.
pub fn request(agent: &Agent, job: &[&str], stdio: [BorrowedFd; 3], limit: Duration) -> Outcome<()> {
    let (ours, theirs) = pair()?;
    let helper = start(agent, job, stdio, theirs.as_fd())?;
    drop(theirs);
    let result = match listen(&Channel(ours), &helper, limit) {
        Ok(Heard { done: true, .. }) => Ok(()),
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

fn start(agent: &Agent, job: &[&str], stdio: [BorrowedFd; 3], channel: BorrowedFd) -> Outcome<Child> {
    let words = ["hutch-agent", VERB].into_iter().chain(job.iter().copied());
    let args = words.map(CString::new).collect::<Result<Vec<_>, _>>();
    let args = args.map_err(|_| RemoteError::new(ErrorKind::Invalid, "an argument contains a NUL byte"))?;
    let plan = Plan {
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
    agent.processes().helper(|| spawn(&plan)).map_err(|error| match error {
        SpawnError::Failed(error) => error,
        SpawnError::NoWorkingDirectory => system("starting a helper", Errno::ENOENT),
    })
}

/// What a helper said, apart from failures.
#[derive(Default)]
struct Heard {
    made: Option<Child>,
    done: bool,
}

/// Hears the helper until it has ended, so that it has cleaned up after a failure and let go of what it made.
fn listen(channel: &Channel, helper: &Child, limit: Duration) -> Outcome<Heard> {
    let deadline = Instant::now() + limit;
    let mut heard = Heard::default();
    let mut failure: Option<RemoteError> = None;
    let mut over = false;
    loop {
        match receive(channel.0.as_fd()) {
            Ok(Some((Word::Made { pid }, Some(pidfd)))) => heard.made = Some(Child { pid, pidfd }),
            Ok(Some((Word::Done, _))) => heard.done = true,
            Ok(Some((Word::Made { .. }, None))) => {}
            // The first is the cause; the others tell of consequences.
            Ok(Some((Word::Failed(error), _))) => failure = failure.or(Some(error)),
            Ok(None) if over => break,
            Err(Errno::EAGAIN) if over => break,
            Ok(None) => {
                over = true;
                if !wait_for_any(&[helper.pidfd.as_fd()], deadline)[0] {
                    return Err(late());
                }
            }
            Err(Errno::EAGAIN) => match wait_for_any(&[channel.0.as_fd(), helper.pidfd.as_fd()], deadline)[..] {
                [false, false] => return Err(late()),
                [_, ended] => over = ended,
                _ => return Err(late()),
            },
            Err(errno) => return Err(system("hearing a helper", errno)),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(heard),
    }
}

fn died() -> RemoteError {
    RemoteError::new(ErrorKind::System, "the container's helper died")
}

fn late() -> RemoteError {
    RemoteError::new(ErrorKind::Timeout, "the container's helper did not finish in time")
}
