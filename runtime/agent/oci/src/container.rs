//! One container as the agent knows it: from its creation to its removal.
//!
//! ```text
//!   created ──start──▶ started ──┐
//!      └──────────killed─────────┴──init ends──▶ stopped ──remove──▶ (gone)
//! ```
//!
//! Whether it has stopped is the kernel's to tell: its init's pidfd is readable then.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hutch_agent::failure::{io, system, wrong_state, Outcome};
use hutch_agent::sys::{kill_pidfd, wait_for_any};
use hutch_agent_proto::Token;
use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;

use crate::cgroup::Cgroup;
use crate::config::Heritage;
use crate::guest_hooks::GuestHooks;
use crate::summon::Channel;

/// How long processes may take to stop or go on.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);

/// Directories of containers.
#[derive(Debug, Clone)]
pub struct Places {
    /// libcontainer's own files, one directory for each container.
    pub state: PathBuf,
    /// Configurations.
    pub bundles: PathBuf,
}

impl Places {
    /// Below the agent's directory.
    pub fn below(run_dir: &Path) -> Self {
        Self { state: run_dir.join("oci/state"), bundles: run_dir.join("oci/bundles") }
    }

    /// Directory of one container's configuration.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.bundles.join(id)
    }

    /// Makes a container's directories.
    ///
    /// # Errors
    /// `System`.
    pub fn make(&self, id: &str) -> Outcome<()> {
        for dir in [&self.state, &self.bundle(id)] {
            fs::create_dir_all(dir).map_err(|error| io(format_args!("making {}", dir.display()), &error))?;
        }
        Ok(())
    }

    /// Removes a container's directories.
    pub fn remove(&self, id: &str) {
        for dir in [self.state.join(id), self.bundle(id)] {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Created,
    Started,
}

/// See the module.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its control group.
    pub group: Cgroup,
    /// What later processes inherit.
    pub heritage: Heritage,
    /// Pid of its init.
    pub pid: i32,
    /// Hooks of the guest that run for it.
    pub guest_hooks: Option<GuestHooks>,
    init: OwnedFd,
    channel: Channel,
    stage: Mutex<Stage>,
    paused: Mutex<bool>,
    tokens: Mutex<Vec<Token>>,
}

/// Whether a process without a handler ends by this signal: signal(7), "Standard signals".
fn ends_by_default(signal: i32) -> bool {
    use libc::{SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
    ![SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH].contains(&signal)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    /// A container whose init waits.
    pub fn new(
        id: &str,
        token: &str,
        heritage: Heritage,
        (pid, init): (i32, OwnedFd),
        channel: Channel,
        guest_hooks: Option<GuestHooks>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            group: Cgroup::of(id),
            heritage,
            pid,
            guest_hooks,
            init,
            channel,
            stage: Mutex::new(Stage::Created),
            paused: Mutex::new(false),
            tokens: Mutex::new(vec![token.to_owned()]),
        }
    }

    /// Whether its init has ended.
    pub fn has_stopped(&self) -> bool {
        wait_for_any(&[self.init.as_fd()], Instant::now())[0]
    }

    /// An error unless its init lives.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn check_alive(&self) -> Outcome<()> {
        match self.has_stopped() {
            true => Err(wrong_state(format!("container {:?} has stopped", self.id))),
            false => Ok(()),
        }
    }

    /// An error if a process that enters it would be stopped on its way.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn check_not_paused(&self) -> Outcome<()> {
        match *lock(&self.paused) {
            true => Err(wrong_state(format!("container {:?} is paused", self.id))),
            false => Ok(()),
        }
    }

    /// Lets the init execute its program.
    ///
    /// # Errors
    /// `WrongState`, or why the program was not executed; the init has ended then.
    pub fn start(&self, places: &Places) -> Outcome<()> {
        let mut stage = lock(&self.stage);
        self.check_alive()?;
        self.check_not_paused()?;
        if *stage != Stage::Created {
            return Err(wrong_state(format!("container {:?} was started already", self.id)));
        }
        *stage = Stage::Started;
        self.knock(&places.state.join(&self.id))?;
        self.channel.wait_for_program(self.init.as_fd())
    }

    /// The init listens on a socket and waits for anything to come.
    fn knock(&self, dir: &Path) -> Outcome<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(dir, flags, Mode::empty()).map_err(|errno| system(dir.display(), errno))?;
        // The path may be longer than an address of a socket.
        let socket = UnixStream::connect(format!("/proc/self/fd/{}/notify.sock", fd.as_raw_fd()));
        let sent = socket.and_then(|mut socket| socket.write_all(b"start container"));
        sent.map_err(|error| io(format_args!("starting container {:?}", self.id), &error))
    }

    /// Signals the init, or all members. An init that waits has no handlers yet and, as pid 1 of its namespace, is spared
    /// by what would end any other process without them: it gets SIGKILL instead (P-131).
    ///
    /// # Errors
    /// `WrongState` if there is nobody to signal.
    pub fn signal(&self, signal: i32, all: bool) -> Outcome<()> {
        // Held, so that it does not execute its program in between.
        let stage = lock(&self.stage);
        let waits = *stage == Stage::Created;
        if all {
            if !self.group.is_populated() {
                self.check_alive()?;
            }
            self.group.signal(signal);
            if waits && ends_by_default(signal) {
                let _ = kill_pidfd(self.init.as_fd(), libc::SIGKILL);
            }
            return Ok(());
        }
        self.check_alive()?;
        let signal = if waits && ends_by_default(signal) { libc::SIGKILL } else { signal };
        match kill_pidfd(self.init.as_fd(), signal) {
            Err(Errno::ESRCH) => self.check_alive(),
            result => result.map_err(|errno| system(format_args!("signalling container {:?}", self.id), errno)),
        }
    }

    /// Stops all members, or lets them go on.
    ///
    /// # Errors
    /// `WrongState`, `Timeout`, `System`.
    pub fn freeze(&self, frozen: bool) -> Outcome<()> {
        let mut paused = lock(&self.paused);
        self.check_alive()?;
        let result = self.group.freeze(frozen, FREEZE_PATIENCE);
        // After a failure it may be half stopped: better not to enter it.
        *paused = frozen;
        result
    }

    /// Notes that `token` is one of its processes.
    pub fn adopt(&self, token: &str) {
        lock(&self.tokens).push(token.to_owned());
    }

    /// Tokens of its processes.
    pub fn tokens(&self) -> Vec<Token> {
        lock(&self.tokens).clone()
    }

    /// Kills all members and waits for their end. Whether they have ended.
    pub fn kill(&self, limit: Duration) -> bool {
        self.group.signal(libc::SIGKILL);
        let _ = kill_pidfd(self.init.as_fd(), libc::SIGKILL);
        let deadline = Instant::now() + limit;
        wait_for_any(&[self.init.as_fd()], deadline)[0] && self.group.wait_event("populated", 0, limit)
    }
}
