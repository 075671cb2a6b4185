//! The host's side of vsock: connects to ports of the guest and listens for it. [`VsockHandle`] is used from any
//! thread; what it wants goes through a queue to the device's worker.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

/// Connections that wait to be taken from a listener; further ones are refused.
const BACKLOG: usize = 128;

/// The host's side of a vsock device.
///
/// Streams end like a TCP connection: a half-close reaches the other side, everything written before the end is
/// delivered, and when the guest's driver goes away all of them end.
#[derive(Clone, Debug)]
pub struct VsockHandle(Arc<VsockShared>);

impl VsockHandle {
    pub(super) fn new(shared: Arc<VsockShared>) -> Self {
        Self(shared)
    }

    /// Connects to a port of the guest and returns when the guest has accepted. May be called before the guest has
    /// booted: the request waits for its driver.
    ///
    /// # Errors
    /// `ConnectionRefused`: the guest is there and nobody listens. `TimedOut`: no answer within `timeout`.
    /// `NotConnected`: the device is gone.
    pub fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let (reply, answer) = mpsc::sync_channel(1);
        let id = self.0.submit(port, reply)?;
        match answer.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                self.0.cancel(id);
                // An answer in this very moment is as good as one in time; a later one ends the connection.
                answer.try_recv().unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Takes connections of the guest to a port of the host. They end when the receiver is dropped; after that, and
    /// on all other ports, connections are refused.
    ///
    /// # Errors
    /// `AddrInUse`: the port has a listener.
    pub fn listen(&self, port: u32) -> io::Result<Receiver<UnixStream>> {
        let mut listeners = self.0.listeners();
        if listeners.contains_key(&port) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("vsock port {port} has a listener; choose another port or `unlisten` it first"),
            ));
        }
        let (sender, receiver) = mpsc::sync_channel(BACKLOG);
        listeners.insert(port, sender);
        Ok(receiver)
    }

    /// Refuses further connections to a port of the host. Accepted ones go on.
    pub fn unlisten(&self, port: u32) {
        self.0.unlisten(port);
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the virtual machine's vsock device is gone")
}

/// A connection that the host wants.
#[derive(Debug)]
pub(super) struct ConnectRequest {
    /// To cancel it by.
    pub id: u64,
    /// The guest's port.
    pub port: u32,
    reply: SyncSender<io::Result<UnixStream>>,
}

impl ConnectRequest {
    /// Tells whoever waits. If nobody does, a stream in `result` is closed, which ends the connection.
    pub fn answer(self, result: io::Result<UnixStream>) {
        drop(self.reply.try_send(result));
    }
}

/// What a handle wants from the worker.
#[derive(Debug)]
pub(super) enum MuxerCommand {
    /// A connection.
    Connect(ConnectRequest),
    /// Not any more.
    Cancel(u64),
}

/// What handles and the device share.
#[derive(Debug, Default)]
pub(super) struct VsockShared {
    inbox: Mutex<Inbox>,
    listeners: Mutex<HashMap<u32, SyncSender<UnixStream>>>,
}

#[derive(Debug, Default)]
struct Inbox {
    commands: Vec<MuxerCommand>,
    next_id: u64,
    /// Of the worker, while there is one.
    wake: Option<EventFd>,
    closed: bool,
}

impl Inbox {
    fn push(&mut self, command: MuxerCommand) {
        self.commands.push(command);
        if let Some(wake) = &self.wake {
            if let Err(error) = wake.write(1) {
                // Only a full counter refuses, and that wakes too.
                log::debug!("wake-up of a vsock worker: {error}");
            }
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

    fn submit(&self, port: u32, reply: SyncSender<io::Result<UnixStream>>) -> io::Result<u64> {
        let mut inbox = self.inbox();
        if inbox.closed {
            return Err(gone());
        }
        let id = inbox.next_id;
        inbox.next_id += 1;
        inbox.push(MuxerCommand::Connect(ConnectRequest { id, port, reply }));
        Ok(id)
    }

    fn cancel(&self, id: u64) {
        let mut inbox = self.inbox();
        let waiting = |command: &MuxerCommand| matches!(command, MuxerCommand::Connect(connect) if connect.id == id);
        if let Some(index) = inbox.commands.iter().position(waiting) {
            inbox.commands.remove(index);
        } else if inbox.wake.is_some() {
            inbox.push(MuxerCommand::Cancel(id));
        }
    }

    /// From now on the worker is woken by `wake`, or there is none.
    pub fn set_wake(&self, wake: Option<EventFd>) {
        self.inbox().wake = wake;
    }

    /// All commands since the last time.
    pub fn take_commands(&self) -> Vec<MuxerCommand> {
        std::mem::take(&mut self.inbox().commands)
    }

    /// Requests that wait for the next worker.
    pub fn put_back(&self, requests: impl Iterator<Item = ConnectRequest>) {
        self.inbox().commands.extend(requests.map(MuxerCommand::Connect));
    }

    /// Whether no command waits.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.inbox().commands.is_empty()
    }

    /// Where connections to `port` go.
    pub fn listener(&self, port: u32) -> Option<SyncSender<UnixStream>> {
        self.listeners().get(&port).cloned()
    }

    /// Forgets the listener of `port`.
    pub fn unlisten(&self, port: u32) {
        self.listeners().remove(&port);
    }

    /// The device is gone: nobody waits any longer.
    pub fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.wake = None;
        inbox.commands.clear();
        drop(inbox);
        self.listeners().clear();
    }
}
