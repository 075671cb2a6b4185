//! What all connections share, and who accepts them. `serve` runs on the main thread, everything else on the threads
//! of connections.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hutch_agent_proto::{encode_frame, read_frame, AgentFrame, Event, Open, ProcessSpec, StdStream};

use crate::connection::{Connection, Listener};
use crate::container::Containers;
use crate::failure::Outcome;
use crate::log::{self, Level};
use crate::outbox::Outbox;
use crate::power::Power;
use crate::process::{Obituary, Processes, Streams};
use crate::rlimits::ReadyLimit;
use crate::sandbox::Sandbox;
use crate::spawn::Child;
use crate::stdio::Relay;
use crate::{launch, marks, reaper, session};

/// Bytes of stack of every thread but the first. The deepest use is parsing JSON of bounded depth.
pub const STACK: usize = 256 << 10;
/// Connections at a time: control and three streams for each of some hundred processes.
const MAX_CONNECTIONS: usize = 1024;
/// Processes, running or ended and not forgotten.
const MAX_PROCESSES: usize = 4096;
/// How long a connection may take to say what it is.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for a connection to end when the system has no descriptors left.
const ACCEPT_PATIENCE: Duration = Duration::from_secs(1);

/// What distinguishes one agent from another.
pub struct Options {
    /// Directory of the agent's own files.
    pub run_dir: PathBuf,
    /// Limits of processes that the host does not name.
    pub limits: Vec<ReadyLimit>,
    /// `uname -r`.
    pub kernel: String,
    /// Memory of the guest before the host knew of it, in bytes.
    pub memory_at_boot: u64,
    /// Who runs containers.
    pub containers: Box<dyn Containers>,
    /// How to switch off.
    pub power: Box<dyn Power>,
}

/// The agent.
pub struct Agent {
    pub(crate) options: Options,
    processes: Processes,
    sandbox: Mutex<Arc<Sandbox>>,
    /// `SetupSandbox` has begun.
    pub(crate) set_up: AtomicBool,
    /// Mount points made at the host's request in the agent's own namespace, in order.
    pub(crate) mounts: Mutex<Vec<String>>,
    sessions: Mutex<Vec<Weak<Outbox>>>,
    connections: AtomicUsize,
    /// The last connection was one too many.
    refusing: AtomicBool,
    /// Signalled when a connection ends.
    ended: (Mutex<()>, Condvar),
    /// A program has been executed.
    ran: AtomicBool,
}

impl Agent {
    /// An agent without connections. Its reaper takes all children of this process.
    ///
    /// # Errors
    /// If the root or a thread cannot be had.
    pub fn new(options: Options) -> io::Result<Arc<Self>> {
        let agent = Arc::new(Self {
            options,
            processes: Processes::new(MAX_PROCESSES),
            sandbox: Mutex::new(Arc::new(Sandbox::initial()?)),
            set_up: AtomicBool::new(false),
            mounts: Mutex::default(),
            sessions: Mutex::default(),
            connections: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            ended: (Mutex::new(()), Condvar::new()),
            ran: AtomicBool::new(false),
        });
        let reaping = Arc::clone(&agent);
        spawn_thread("reaper", move || reaper::run(&reaping))?;
        Ok(agent)
    }

    /// Accepts connections for ever.
    ///
    /// # Errors
    /// If the listener fails.
    pub fn serve(self: &Arc<Self>, listener: &dyn Listener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok(connection) => self.adopt(connection, false),
                Err(error) if is_shortage(&error) => self.wait_for_an_end(),
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves a connection on a thread of its own. `ours`: the agent opened it and has greeted already.
    pub fn adopt(self: &Arc<Self>, connection: Connection, ours: bool) {
        let permit = Permit::new(Arc::clone(self));
        let refused = permit.number > MAX_CONNECTIONS;
        // Once per shortage.
        if refused && !self.refusing.load(Ordering::Relaxed) {
            log::write(Level::Warn, format_args!("more than {MAX_CONNECTIONS} connections; some are refused"));
        }
        self.refusing.store(refused, Ordering::Relaxed);
        if refused {
            return;
        }
        let run = move || {
            let agent = &permit.agent;
            let connection = Arc::new(connection);
            if ours {
                session::run(agent, &connection);
            } else {
                agent.welcome(connection);
            }
        };
        // On failure the closure is dropped, and with it connection and permit.
        if let Err(error) = spawn_thread("connection", run) {
            log::write(Level::Error, format_args!("a connection is refused: {error}"));
        }
    }

    /// First words of a connection that the host opened.
    fn welcome(self: &Arc<Self>, connection: Arc<Connection>) {
        let _ = connection.set_receive_timeout(Some(OPEN_PATIENCE));
        match read_frame::<Open>(&mut &*connection) {
            Ok(Some(Open::Control)) => {
                if session::greet(self, &connection).is_ok() {
                    session::run(self, &connection);
                }
            }
            Ok(Some(Open::Stream { token, stream })) => self.relay(connection, &token, stream),
            Ok(None) => {}
            Err(error) => self.warn(format!("a connection is closed: {error}")),
        }
    }

    fn relay(self: &Arc<Self>, connection: Arc<Connection>, token: &str, stream: StdStream) {
        match self.processes.take_stream(token, stream) {
            Ok((ends, close)) => {
                if let Err(errno) = Relay::new(connection, ends, close).run() {
                    self.warn(format!("{stream:?} of process {token:?}: {}", errno.desc()));
                }
            }
            Err(error) => self.warn(format!("a stream is refused: {error}")),
        }
    }

    /// The processes.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Where new processes live.
    pub fn sandbox(&self) -> Arc<Sandbox> {
        Arc::clone(&lock(&self.sandbox))
    }

    pub(crate) fn set_sandbox(&self, sandbox: Sandbox) {
        *lock(&self.sandbox) = Arc::new(sandbox);
    }

    /// Starts a process of the sandbox or of a container.
    ///
    /// # Errors
    /// What the host is to be told.
    pub fn start(&self, token: &str, container: Option<&str>, spec: &ProcessSpec) -> Outcome<i32> {
        let pid = self.register(token, || match container {
            Some(id) => self.options.containers.start(self, id, token, spec),
            None => launch::launch(&self.sandbox(), spec, &self.options.limits),
        })?;
        self.note_run();
        Ok(pid)
    }

    /// Marks the first execution of a program.
    pub fn note_run(&self) {
        if !self.ran.swap(true, Ordering::Relaxed) {
            marks::mark(b'C');
        }
    }

    /// Limits of processes that the host does not name.
    pub fn limits(&self) -> &[ReadyLimit] {
        &self.options.limits
    }

    /// Makes what `spawn` starts known as `token`.
    ///
    /// # Errors
    /// What the host is to be told.
    pub fn register(&self, token: &str, spawn: impl FnOnce() -> Outcome<(Child, Streams)>) -> Outcome<i32> {
        let (pid, obituary) = self.processes.start(token, spawn)?;
        if let Some(obituary) = obituary {
            self.publish(obituary);
        }
        Ok(pid)
    }

    /// Tells everybody who wants to know about the end of a process.
    pub(crate) fn publish(&self, obituary: Obituary) {
        obituary.reply();
        self.broadcast(Event::Exited { token: obituary.token, status: obituary.status });
    }

    /// Adds a control connection to those that hear events.
    pub(crate) fn enrol(&self, outbox: &Arc<Outbox>) {
        lock(&self.sessions).push(Arc::downgrade(outbox));
    }

    /// Removes it again.
    pub(crate) fn dismiss(&self, outbox: &Arc<Outbox>) {
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

    /// Logs something odd here and on the host.
    pub fn warn(&self, message: String) {
        log::write(Level::Warn, &message);
        self.broadcast(Event::Log { level: Level::Warn.name().to_string(), message });
    }

    fn wait_for_an_end(&self) {
        let guard = lock(&self.ended.0);
        let _ = self.ended.1.wait_timeout(guard, ACCEPT_PATIENCE);
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Locks, also after a panic elsewhere (which ends the agent anyway, but not a test).
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a connection for as long as it lives.
struct Permit {
    agent: Arc<Agent>,
    number: usize,
}

impl Permit {
    fn new(agent: Arc<Agent>) -> Self {
        let number = agent.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self { agent, number }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.agent.connections.fetch_sub(1, Ordering::Relaxed);
        self.agent.ended.1.notify_all();
    }
}

/// Starts a thread that nobody joins.
///
/// # Errors
/// If the system has no room for one.
pub fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_string()).stack_size(STACK).spawn(run).map(drop)
}
