//! One container as the agent knows it: from its creation to its removal.
//!
//! ```text
//!   created ──start──▶ started ──┐
//!      └──────────killed─────────┴──init ends──▶ stopped ──remove──▶ (gone)
//! ```
//!
//! The container has stopped when the pidfd of its init is readable.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hutch_agent::failure::{io, system, wrong_state, Outcome};
use hutch_agent::lock;
use hutch_agent::sys::{kill_pidfd, wait_for_any};
use hutch_agent_proto::{Deadline, Token};
use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;

use crate::cgroup::Cgroup;
use crate::config::ExecTemplate;
use crate::guest_hooks::GuestHooks;
use crate::spawn_helper::Channel;

/// How long the kernel may take to freeze or thaw a container.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// Directories of the files of containers.
#[derive(Debug, Clone)]
pub struct Places {
    /// libcontainer's own files, one directory for each container.
    pub state: PathBuf,
    /// Configurations, one directory for each container.
    pub bundles: PathBuf,
}

impl Places {
    /// The directories below the agent's own.
    pub fn below(run_dir: &Path) -> Self {
        Self { state: run_dir.join("oci/state"), bundles: run_dir.join("oci/bundles") }
    }

    /// Directory of one container's configuration.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.bundles.join(id)
    }

    /// Makes a container's directories.
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

/// A container from its creation to its removal.
pub struct Container {
    pub id: String,
    pub group: Cgroup,
    pub exec_template: ExecTemplate,
    /// Pid of the container's init.
    pub pid: i32,
    /// Hooks of the guest that run for this container.
    pub guest_hooks: Option<GuestHooks>,
    init: OwnedFd,
    channel: Channel,
    stage: Mutex<Stage>,
    paused: Mutex<bool>,
    tokens: Mutex<Vec<Token>>,
}

/// Whether this signal ends a process that has no handler for it: signal(7), "Standard signals".
fn ends_by_default(signal: i32) -> bool {
    use libc::{SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
    ![SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH].contains(&signal)
}

impl Container {
    /// A container whose init waits to be started.
    pub fn new(
        id: &str,
        token: &str,
        exec_template: ExecTemplate,
        (pid, init): (i32, OwnedFd),
        channel: Channel,
        guest_hooks: Option<GuestHooks>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            group: Cgroup::of(id),
            exec_template,
            pid,
            guest_hooks,
            init,
            channel,
            stage: Mutex::new(Stage::Created),
            paused: Mutex::new(false),
            tokens: Mutex::new(vec![token.to_owned()]),
        }
    }

    /// Whether the container's init has ended.
    pub fn has_stopped(&self) -> bool {
        wait_for_any(&[self.init.as_fd()], Instant::now())[0]
    }

    /// Fails with `WrongState` if the container's init has ended.
    pub fn check_alive(&self) -> Outcome<()> {
        match self.has_stopped() {
            true => Err(wrong_state(format!("container {:?} has stopped", self.id))),
            false => Ok(()),
        }
    }

    /// Fails with `WrongState` if the container is paused, and would freeze a process that enters it.
    pub fn check_not_paused(&self) -> Outcome<()> {
        match *lock(&self.paused) {
            true => Err(wrong_state(format!("container {:?} is paused", self.id))),
            false => Ok(()),
        }
    }

    /// Makes the init execute its program.
    ///
    /// # Errors
    /// `WrongState`, or the reason why the init could not execute its program; then the init has ended.
    pub fn start(&self, places: &Places) -> Outcome<()> {
        let mut stage = lock(&self.stage);
        self.check_alive()?;
        self.check_not_paused()?;
        if *stage != Stage::Created {
            return Err(wrong_state(format!("container {:?} was started already", self.id)));
        }
        *stage = Stage::Started;
        self.notify_start(&places.state.join(&self.id))?;
        self.channel.wait_for_program(self.init.as_fd())
    }

    /// Connects to the socket on which the init waits, and sends the start message.
    fn notify_start(&self, dir: &Path) -> Outcome<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(dir, flags, Mode::empty()).map_err(|errno| system(dir.display(), errno))?;
        // The path may be longer than an address of a socket.
        let socket = UnixStream::connect(format!("/proc/self/fd/{}/notify.sock", fd.as_raw_fd()));
        let sent = socket.and_then(|mut socket| socket.write_all(b"start container"));
        sent.map_err(|error| io(format_args!("starting container {:?}", self.id), &error))
    }

    /// Signals the init, or with `all` every process of the container. An init that waits to be started has no handlers
    /// yet, and as pid 1 of its namespace it ignores signals that would end another process. It gets SIGKILL for those
    /// (P-131).
    ///
    /// # Errors
    /// `WrongState` if the container has no process left.
    pub fn signal(&self, signal: i32, all: bool) -> Outcome<()> {
        // Held, so that no request starts the init in between.
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

    /// Freezes or thaws all processes of the container.
    pub fn freeze(&self, frozen: bool) -> Outcome<()> {
        let mut paused = lock(&self.paused);
        self.check_alive()?;
        let result = self.group.freeze(frozen, FREEZE_TIMEOUT);
        // After a failure the container may be half frozen: refuse to enter it then, too.
        *paused = frozen;
        result
    }

    /// Records that `token` is a process of the container.
    pub fn adopt(&self, token: &str) {
        lock(&self.tokens).push(token.to_owned());
    }

    /// Tokens of the container's processes.
    pub fn tokens(&self) -> Vec<Token> {
        lock(&self.tokens).clone()
    }

    /// Kills all processes of the container and waits for their end. Returns whether they have ended.
    pub fn kill(&self, limit: Duration) -> bool {
        self.group.signal(libc::SIGKILL);
        let _ = kill_pidfd(self.init.as_fd(), libc::SIGKILL);
        let deadline = Deadline::after(limit);
        wait_for_any(&[self.init.as_fd()], deadline)[0] && self.group.wait_event("populated", 0, limit)
    }
}
