//! The host's side of vsock: connects to ports of the guest and listens for its connections. Any thread may use a
//! [`VsockHandle`]; its commands go to the device's worker through a queue.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

/// Most connections that wait to be accepted at a listener; further ones are refused.
const BACKLOG: usize = 128;

/// The host's side of a vsock device.
///
/// Streams end like TCP connections: a half-close reaches the other side, and all bytes written before the end are
/// delivered. When the guest's driver goes away, all streams end.
#[derive(Clone, Debug)]
pub struct VsockHandle(Arc<VsockShared>);

impl VsockHandle {
    pub(super) fn new(shared: Arc<VsockShared>) -> Self {
        Self(shared)
    }

    /// Connects to a port of the guest and returns when the guest has accepted. May be called before the guest has
    /// booted: the request then waits for the guest's driver.
    ///
    /// # Errors
    /// `ConnectionRefused`: nothing in the guest listens. `TimedOut`: no answer within `timeout`.
    /// `NotConnected`: the device is gone.
    pub fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let (reply, answer) = mpsc::sync_channel(1);
        let id = self.0.submit(port, reply)?;
        match answer.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                self.0.cancel(id);
                // Accept an answer that has come in this moment. A later one ends the connection.
                answer.try_recv().unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Asks for a connection to a port of the guest without waiting for the answer.
    ///
    /// # Errors
    /// `NotConnected`: the device is gone.
    #[cfg(any(test, feature = "testing"))]
    pub fn connect_later(&self, port: u32) -> io::Result<Receiver<io::Result<UnixStream>>> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.0.submit(port, reply)?;
        Ok(answer)
    }

    /// Accepts connections of the guest to a port of the host. Connections to a port whose receiver was dropped, or
    /// that was never listened on, are refused.
    ///
    /// # Errors
    /// `AddrInUse`: the port has a listener.
    pub fn listen(&self, port: u32) -> io::Result<Receiver<UnixStream>> {
        let mut listeners = self.0.listeners();
        if listeners.contains_key(&port) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("vsock port {port} has a listener: choose another port or call `unlisten` first"),
            ));
        }
        let (sender, receiver) = mpsc::sync_channel(BACKLOG);
        listeners.insert(port, sender);
        Ok(receiver)
    }

    /// Refuses further connections to a port of the host. Accepted ones stay open.
    pub fn unlisten(&self, port: u32) {
        self.0.unlisten(port);
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the virtual machine's vsock device is gone")
}

/// A request of the host for a connection.
#[derive(Debug)]
pub(super) struct ConnectRequest {
    /// Identifies the request in [`MuxerCommand::Cancel`].
    pub id: u64,
    /// The guest's port.
    pub port: u32,
    reply: SyncSender<io::Result<UnixStream>>,
}

impl ConnectRequest {
    /// Sends the result to the caller of `connect`. If it does not wait any more, a stream in `result` is closed, which
    /// ends the connection.
    pub fn answer(self, result: io::Result<UnixStream>) {
        drop(self.reply.try_send(result));
    }
}

/// A command from a handle to the worker.
#[derive(Debug)]
pub(super) enum MuxerCommand {
    /// Establish a connection.
    Connect(ConnectRequest),
    /// Cancel the request with this id.
    Cancel(u64),
}

/// State that the handles and the device share.
#[derive(Debug, Default)]
pub(super) struct VsockShared {
    inbox: Mutex<Inbox>,
    listeners: Mutex<HashMap<u32, SyncSender<UnixStream>>>,
}

#[derive(Debug, Default)]
struct Inbox {
    commands: Vec<MuxerCommand>,
    next_id: u64,
    /// Wakes the worker, while there is one.
    wake: Option<EventFd>,
    closed: bool,
}

impl Inbox {
    fn push(&mut self, command: MuxerCommand) {
        self.commands.push(command);
        if let Some(wake) = &self.wake
            && let Err(error) = wake.write(1)
        {
            // Only a full counter refuses a write, and a full counter wakes the worker too.
            log::debug!("wake-up of a vsock worker: {error}");
        }
    }
}

impl VsockShared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u32, SyncSender<UnixStream>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request for a connection to `port` of the guest, and returns its id.
    pub fn submit(&self, port: u32, reply: SyncSender<io::Result<UnixStream>>) -> io::Result<u64> {
        let mut inbox = self.inbox();
        if inbox.closed {
            return Err(gone());
        }
        let id = inbox.next_id;
        inbox.next_id += 1;
        inbox.push(MuxerCommand::Connect(ConnectRequest { id, port, reply }));
        Ok(id)
    }

    /// Cancels the request with this id.
    pub fn cancel(&self, id: u64) {
        let mut inbox = self.inbox();
        let waiting = |command: &MuxerCommand| matches!(command, MuxerCommand::Connect(connect) if connect.id == id);
        if let Some(index) = inbox.commands.iter().position(waiting) {
            inbox.commands.remove(index);
        } else if inbox.wake.is_some() {
            inbox.push(MuxerCommand::Cancel(id));
        }
    }

    /// Sets the eventfd that wakes the worker, or `None` if there is no worker.
    pub fn set_wake(&self, wake: Option<EventFd>) {
        self.inbox().wake = wake;
    }

    /// Takes all commands since the last call.
    pub fn take_commands(&self) -> Vec<MuxerCommand> {
        std::mem::take(&mut self.inbox().commands)
    }

    /// Puts requests back, for the next worker.
    pub fn put_back(&self, requests: impl Iterator<Item = ConnectRequest>) {
        self.inbox().commands.extend(requests.map(MuxerCommand::Connect));
    }

    /// Whether there are no commands.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.inbox().commands.is_empty()
    }

    /// The listener of `port`.
    pub fn listener(&self, port: u32) -> Option<SyncSender<UnixStream>> {
        self.listeners().get(&port).cloned()
    }

    /// Removes the listener of `port`.
    pub fn unlisten(&self, port: u32) {
        self.listeners().remove(&port);
    }

    /// Fails all requests and removes all listeners, as the device is gone.
    pub fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.wake = None;
        inbox.commands.clear();
        drop(inbox);
        self.listeners().clear();
    }
}
