//! The state that all connections share, and the traits behind which a guest's specialities lie.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use hutch_agent_proto::{encode_frame, AgentFrame, Event, ProcessSpec, Request, Response};

use crate::failure::Outcome;
use crate::log::{self, Level};
use crate::mount_ns::MountNs;
use crate::outbox::Outbox;
use crate::process::{ExitEvent, Processes, Streams};
use crate::rlimits::ReadyLimit;
use crate::spawn::Child;
use crate::thread::{lock, spawn_thread};
use crate::{launch, marks, reaper};

/// Processes in the table, running or ended and not forgotten.
const MAX_PROCESSES: usize = 4096;

/// Runs containers. The agent itself runs processes of the sandbox only.
pub trait Containers: Send + Sync {
    /// Serves one of the requests about containers (`is_about_containers`), on the thread of its connection.
    fn serve(&self, agent: &Arc<Agent>, request: Request) -> Outcome<Response>;

    /// Starts a process in container `id`. The caller registers it under `token`.
    fn start(&self, agent: &Agent, id: &str, token: &str, process: &ProcessSpec) -> Outcome<(Child, Streams)>;
}

/// Switches the guest off; tests replace it.
pub trait Power: Send + Sync {
    /// Ends every process and then the guest.
    fn off(&self, agent: &Agent) -> !;
}

/// The ways in which one agent differs from another.
pub struct AgentOptions {
    /// Directory of the agent's own files.
    pub run_dir: PathBuf,
    /// Limits of a process, unless the host sets others.
    pub limits: Vec<ReadyLimit>,
    /// `uname -r`.
    pub kernel: String,
    /// Bytes of memory that the guest booted with, before the host plugged in more.
    pub memory_at_boot: u64,
    /// Runs the containers.
    pub containers: Box<dyn Containers>,
    /// Switches the guest off.
    pub power: Box<dyn Power>,
}

/// The agent: its processes, its mounts, and the control connections that hear events.
pub struct Agent {
    pub(crate) options: AgentOptions,
    processes: Processes,
    mount_ns: Mutex<Arc<MountNs>>,
    /// `SetupSandbox` has begun.
    pub(crate) set_up: AtomicBool,
    /// Mount points made at the host's request in the agent's own namespace, in order.
    pub(crate) mounts: Mutex<Vec<String>>,
    sessions: Mutex<Vec<Weak<Outbox>>>,
    /// A program has been executed.
    ran: AtomicBool,
}

impl Agent {
    /// An agent without connections. Its reaper takes all children of this process.
    ///
    /// # Errors
    /// If `/` cannot be opened or the reaper's thread cannot be started.
    pub fn new(options: AgentOptions) -> io::Result<Arc<Self>> {
        let agent = Arc::new(Self {
            options,
            processes: Processes::new(MAX_PROCESSES),
            mount_ns: Mutex::new(Arc::new(MountNs::initial()?)),
            set_up: AtomicBool::new(false),
            mounts: Mutex::default(),
            sessions: Mutex::default(),
            ran: AtomicBool::new(false),
        });
        let reaping = Arc::clone(&agent);
        spawn_thread("reaper", move || reaper::run(&reaping.processes, |exit| reaping.publish(exit)))?;
        Ok(agent)
    }

    /// The processes that the host started.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The root and mount namespace of new processes.
    pub(crate) fn mount_ns(&self) -> Arc<MountNs> {
        Arc::clone(&lock(&self.mount_ns))
    }

    pub(crate) fn set_mount_ns(&self, mount_ns: MountNs) {
        *lock(&self.mount_ns) = Arc::new(mount_ns);
    }

    /// Starts a process of the sandbox or of a container.
    pub(crate) fn start(&self, token: &str, container: Option<&str>, spec: &ProcessSpec) -> Outcome<i32> {
        let pid = self.register(token, || match container {
            Some(id) => self.options.containers.start(self, id, token, spec),
            None => launch::launch(&self.mount_ns(), spec, &self.options.limits),
        })?;
        self.note_run();
        Ok(pid)
    }

    /// Writes the boot mark of the first program that is executed.
    pub fn note_run(&self) {
        if !self.ran.swap(true, Ordering::Relaxed) {
            marks::mark(b'C');
        }
    }

    /// Limits of a process, unless the host sets others.
    pub fn limits(&self) -> &[ReadyLimit] {
        &self.options.limits
    }

    /// Registers the process that `spawn` starts as `token` and returns its pid.
    ///
    /// # Errors
    /// `AlreadyExists`, `WrongState` if there are too many processes, or the error of `spawn`.
    pub fn register(&self, token: &str, spawn: impl FnOnce() -> Outcome<(Child, Streams)>) -> Outcome<i32> {
        let (pid, exit) = self.processes.start(token, spawn)?;
        if let Some(exit) = exit {
            self.publish(exit);
        }
        Ok(pid)
    }

    /// Answers the requests that wait for a process, and reports its end on all control connections.
    fn publish(&self, exit: ExitEvent) {
        exit.reply();
        self.broadcast(Event::Exited { token: exit.token, status: exit.status });
    }

    /// Adds a control connection to those that receive events.
    pub(crate) fn subscribe(&self, outbox: &Arc<Outbox>) {
        lock(&self.sessions).push(Arc::downgrade(outbox));
    }

    /// Removes a control connection, with the requests on it that still wait.
    pub(crate) fn unsubscribe(&self, outbox: &Arc<Outbox>) {
        lock(&self.sessions).retain(|other| other.upgrade().is_some_and(|other| !Arc::ptr_eq(&other, outbox)));
        self.processes.drop_waiters(outbox);
    }

    /// Ends all control connections.
    pub(crate) fn hang_up(&self) {
        let sessions: Vec<_> = lock(&self.sessions).iter().filter_map(Weak::upgrade).collect();
        for outbox in sessions {
            outbox.shut();
        }
    }

    /// Sends an event to all control connections.
    pub fn broadcast(&self, event: Event) {
        let Ok(bytes) = encode_frame(&AgentFrame::Event(event)) else { return };
        let sessions: Vec<_> = lock(&self.sessions).iter().filter_map(Weak::upgrade).collect();
        for outbox in sessions {
            outbox.send(bytes.clone());
        }
    }

    /// Logs a warning in the guest and on the host.
    pub fn warn(&self, message: String) {
        log::write(Level::Warn, &message);
        self.broadcast(Event::Log { level: Level::Warn.name().to_string(), message });
    }
}
