//! Accepts connections and gives each a thread. `serve` runs on the main thread, everything else on the threads of
//! connections.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hutch_agent_proto::{read_frame, Open, StdStream};

use crate::agent::Agent;
use crate::connection::{HostConnection, Listener};
use crate::log::{self, Level};
use crate::session;
use crate::stdio::Relay;
use crate::thread::{lock, spawn_thread};

/// Open connections: one for control and three streams for each of some hundred processes.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection may take to send its first frame.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a connection to end when the system has no descriptors left.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the agent protocol.
pub struct Server {
    agent: Arc<Agent>,
    connections: AtomicUsize,
    /// The last connection was over the limit.
    refusing: AtomicBool,
    /// Signalled when a connection ends.
    ended: (Mutex<()>, Condvar),
}

impl Server {
    /// A server of `agent` without connections.
    pub fn new(agent: Arc<Agent>) -> Arc<Self> {
        Arc::new(Self {
            agent,
            connections: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            ended: (Mutex::new(()), Condvar::new()),
        })
    }

    /// Accepts connections until the listener fails.
    ///
    /// # Errors
    /// The listener's error, except a lack of descriptors or memory, which passes.
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
    pub fn adopt(self: &Arc<Self>, connection: HostConnection, ours: bool) {
        let permit = Permit::new(Arc::clone(self));
        let refused = permit.number > MAX_CONNECTIONS;
        // Log the first refusal of a row only.
        if refused && !self.refusing.load(Ordering::Relaxed) {
            log::write(Level::Warn, format_args!("more than {MAX_CONNECTIONS} connections; some are refused"));
        }
        self.refusing.store(refused, Ordering::Relaxed);
        if refused {
            return;
        }
        let run = move || {
            let agent = &permit.server.agent;
            let connection = Arc::new(connection);
            if ours {
                session::run(agent, &connection);
            } else {
                handshake(agent, connection);
            }
        };
        // On failure the closure is dropped, and with it the connection and the permit.
        if let Err(error) = spawn_thread("connection", run) {
            log::write(Level::Error, format_args!("a connection is refused: {error}"));
        }
    }

    fn wait_for_an_end(&self) {
        let guard = lock(&self.ended.0);
        let _ = self.ended.1.wait_timeout(guard, ACCEPT_TIMEOUT);
    }
}

/// Reads the first frame of a connection that the host opened, and serves what it asks for.
fn handshake(agent: &Arc<Agent>, connection: Arc<HostConnection>) {
    let _ = connection.set_receive_timeout(Some(OPEN_TIMEOUT));
    match read_frame::<Open>(&mut &*connection) {
        Ok(Some(Open::Control)) => {
            if session::greet(agent, &connection).is_ok() {
                session::run(agent, &connection);
            }
        }
        Ok(Some(Open::Stream { token, stream })) => relay(agent, connection, &token, stream),
        Ok(None) => {}
        Err(error) => agent.warn(format!("a connection is closed: {error}")),
    }
}

fn relay(agent: &Agent, connection: Arc<HostConnection>, token: &str, stream: StdStream) {
    match agent.processes().take_stream(token, stream) {
        Ok((ends, close)) => {
            if let Err(errno) = Relay::new(connection, ends, close).run() {
                agent.warn(format!("{stream:?} of process {token:?}: {}", errno.desc()));
            }
        }
        Err(error) => agent.warn(format!("a stream is refused: {error}")),
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Counts a connection for as long as it lives.
struct Permit {
    server: Arc<Server>,
    number: usize,
}

impl Permit {
    fn new(server: Arc<Server>) -> Self {
        let number = server.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self { server, number }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.server.connections.fetch_sub(1, Ordering::Relaxed);
        self.server.ended.1.notify_all();
    }
}
