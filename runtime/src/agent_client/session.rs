//! One control connection: ids, the table of pending calls, the reader thread.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hutch_agent_proto::{
    read_frame, read_payload, write_frame, AgentFrame, Deadline, Event, FrameError, Hello, HostFrame, Open, Request,
    Response, StdStream, PROTOCOL_VERSION,
};

use super::error::{AgentError, ChannelDeath};
use super::quota::Quota;
use super::text::{cleaned, is_sound, printable, LogQuota, TEXT_MAX};
use super::Connector;
use crate::sync;

/// The session ends if the guest does not take a frame within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events kept for a slow listener. Later ones are dropped, so that the guest cannot fill the host's memory.
pub(super) const EVENT_QUEUE: usize = 1024;
/// Buffer of the reader thread; most frames fit.
const READ_BUFFER: usize = 8 << 10;

/// Takes the answer. Runs on the reader thread, or on the caller's thread if the session is already dead; must not
/// block.
pub(super) type OnReply = Box<dyn FnOnce(Result<Response, AgentError>) + Send>;

/// A control connection to the agent. The [module](super) describes its life.
///
/// Dropping it closes the connection and ends the reader thread.
pub struct Session {
    shared: Arc<Shared>,
    connector: Arc<dyn Connector>,
    reader: Option<JoinHandle<()>>,
    agent: Hello,
}

/// State that callers and the reader thread share.
struct Shared {
    stream: UnixStream,
    /// Held while a frame is written, so that frames do not interleave.
    writing: Mutex<()>,
    table: Mutex<Table>,
}

/// Pending requests and the receivers of their answers.
#[derive(Default)]
struct Table {
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    listeners: Vec<SyncSender<Event>>,
    death: Option<Arc<ChannelDeath>>,
}

struct Pending {
    what: &'static str,
    on_reply: OnReply,
}

impl Session {
    /// Takes the connection that a ready agent opened (to [`hutch_agent_proto::HOST_PORT`]).
    ///
    /// # Errors
    /// [`AgentError::Version`] if the agent has another protocol version, [`AgentError::Greeting`] if it sends nothing
    /// before the `deadline`, [`AgentError::Dead`] if it sends anything but a greeting.
    pub fn accept(
        stream: UnixStream,
        connector: Arc<dyn Connector>,
        deadline: Duration,
    ) -> Result<Session, AgentError> {
        Self::accept_with(stream, connector, deadline, Quota::new(Instant::now()))
    }

    /// As [`Self::accept`], with a bound for what the agent sends unasked.
    pub(super) fn accept_with(
        stream: UnixStream,
        connector: Arc<dyn Connector>,
        deadline: Duration,
        quota: Quota,
    ) -> Result<Session, AgentError> {
        Self::start(stream, connector, deadline, Role::Accepting, quota)
    }

    /// Opens a new control connection to an agent that is ready.
    ///
    /// # Errors
    /// As [`Self::accept`], and [`AgentError::Connect`].
    pub fn connect(connector: Arc<dyn Connector>, deadline: Duration) -> Result<Session, AgentError> {
        let until = Deadline::after(deadline);
        let stream = connector.connect(deadline).map_err(AgentError::Connect)?;
        let (now, role) = (Instant::now(), Role::Opening);
        Self::start(stream, connector, until.saturating_duration_since(now), role, Quota::new(now))
    }

    fn start(
        stream: UnixStream,
        connector: Arc<dyn Connector>,
        deadline: Duration,
        role: Role,
        quota: Quota,
    ) -> Result<Session, AgentError> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(AgentError::Host)?;
        let shared = Arc::new(Shared { stream, writing: Mutex::new(()), table: Mutex::default() });
        if let Err(error) = greet(&shared.stream, role) {
            return Err(AgentError::Dead(Arc::new(error.into())));
        }
        let (tell, greeting) = mpsc::sync_channel(1);
        let reader = thread::Builder::new()
            .name("agent-reader".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || read_all(&shared, role, quota, tell)
            })
            .map_err(AgentError::Host)?;
        // Returning from here drops the session, which ends the reader.
        let empty = Hello { version: PROTOCOL_VERSION, program: String::new(), kernel: String::new() };
        let mut session = Session { shared, connector, reader: Some(reader), agent: empty };
        let hello = match greeting.recv_timeout(deadline) {
            Ok(greeting) => greeting?,
            Err(_) => return Err(AgentError::Greeting(deadline)),
        };
        session.agent = Hello {
            version: hello.version,
            program: printable(&hello.program, 100),
            kernel: printable(&hello.kernel, 100),
        };
        if session.agent.version != PROTOCOL_VERSION {
            let Hello { version, program, .. } = session.agent.clone();
            return Err(AgentError::Version { agent: version, program });
        }
        Ok(session)
    }

    /// The agent's greeting: its program and the guest's kernel.
    pub fn agent(&self) -> &Hello {
        &self.agent
    }

    /// Sends `request` and waits for the answer. The session dies if none comes before the `deadline` (P-205).
    ///
    /// # Errors
    /// Every variant of [`AgentError`] except those of the session's start.
    pub fn call(&self, request: Request, deadline: Duration) -> Result<Response, AgentError> {
        let what = name_of(&request);
        let (answer, id) = self.send(request);
        match answer.recv_timeout(deadline) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                self.forget(id);
                self.shared.die(ChannelDeath::Silent { what, after: deadline });
                Err(AgentError::Deadline { what, after: deadline })
            }
            // Only the table owns the sender, and it always sends: an answer or the death of the session.
            Err(RecvTimeoutError::Disconnected) => Err(AgentError::Dead(self.shared.cause())),
        }
    }

    /// Like [`Self::call`] for requests that may stay unanswered: once `timeout` has passed, drops the answer, returns
    /// `None` and keeps the session. Without `timeout` it waits as long as the session lives.
    ///
    /// # Errors
    /// As [`Self::call`], except for the deadline.
    pub fn call_with_timeout(
        &self,
        request: Request,
        timeout: Option<Duration>,
    ) -> Result<Option<Response>, AgentError> {
        let (answer, id) = self.send(request);
        let received = match timeout {
            Some(timeout) => answer.recv_timeout(timeout),
            None => answer.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(result) => result.map(Some),
            Err(RecvTimeoutError::Timeout) => {
                self.forget(id);
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err(AgentError::Dead(self.shared.cause())),
        }
    }

    /// Sends `request`. `on_reply` gets the answer, or the session's death, exactly once. It runs on the reader thread
    /// (on the caller's if the request cannot be sent) and must not block.
    pub fn call_then(&self, request: Request, on_reply: impl FnOnce(Result<Response, AgentError>) + Send + 'static) {
        self.shared.send(request, Box::new(on_reply));
    }

    /// Subscribes to events. The session's death disconnects the receiver. A listener that falls behind by more than a
    /// thousand events loses some; use `WaitProcess` to learn reliably about an exit.
    pub fn events(&self) -> Receiver<Event> {
        let (tell, events) = mpsc::sync_channel(EVENT_QUEUE);
        let mut table = self.shared.table();
        if table.death.is_none() {
            table.listeners.push(tell);
        }
        events
    }

    /// Opens a connection for one standard stream of the process `token`. [`Open::Stream`] defines the directions.
    ///
    /// # Errors
    /// [`AgentError::OpenStream`]; [`AgentError::Dead`] at once if the session is.
    pub fn open_stream(&self, token: &str, stream: StdStream, deadline: Duration) -> Result<UnixStream, AgentError> {
        if let Some(cause) = self.shared.table().death.clone() {
            return Err(AgentError::Dead(cause));
        }
        open_stream(&*self.connector, token, stream, deadline)
    }

    /// The connector, for opening streams without a session.
    pub fn connector(&self) -> Arc<dyn Connector> {
        Arc::clone(&self.connector)
    }

    /// The reason of the session's death; `None` while it lives.
    pub fn death(&self) -> Option<Arc<ChannelDeath>> {
        self.shared.table().death.clone()
    }

    /// Waits until the session has died, as it does after a power-off; returns false on a time-out.
    pub fn wait_death(&self, timeout: Duration) -> bool {
        let events = self.events();
        let until = Deadline::after(timeout);
        loop {
            match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                // A guest may send events faster than they are taken.
                Ok(_) if Instant::now() >= until => return self.death().is_some(),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    fn send(&self, request: Request) -> (Receiver<Result<Response, AgentError>>, Option<u64>) {
        let (tell, answer) = mpsc::sync_channel(1);
        let id = self.shared.send(request, Box::new(move |result| drop(tell.try_send(result))));
        (answer, id)
    }

    /// Requests that wait for an answer.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.shared.table().pending.len()
    }

    /// Drops a pending request; a late answer is ignored.
    fn forget(&self, id: Option<u64>) {
        if let Some(id) = id {
            self.shared.table().pending.remove(&id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.die(ChannelDeath::ClosedByHost);
        if let Some(reader) = self.reader.take() {
            // A callback may own the last handle of its session; the reader cannot join itself.
            if reader.thread().id() != thread::current().id() && reader.join().is_err() {
                log::error!("the agent session's reader panicked");
            }
        }
    }
}

/// Like [`Session::open_stream`], without a session.
///
/// # Errors
/// [`AgentError::OpenStream`].
pub fn open_stream(
    connector: &dyn Connector,
    token: &str,
    stream: StdStream,
    deadline: Duration,
) -> Result<UnixStream, AgentError> {
    let fail = |source| AgentError::OpenStream { stream, source };
    let connection = connector.connect(deadline).map_err(fail)?;
    write_frame(&mut &connection, &Open::Stream { token: token.to_owned(), stream }).map_err(|error| {
        fail(match error {
            FrameError::Io(error) => error,
            other => std::io::Error::new(std::io::ErrorKind::InvalidInput, other),
        })
    })?;
    Ok(connection)
}

/// The side that opened the connection.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Accepting,
    Opening,
}

/// Sends the first frame of this side.
fn greet(mut stream: &UnixStream, role: Role) -> Result<(), FrameError> {
    if role == Role::Opening {
        write_frame(&mut stream, &Open::Control)?;
    }
    let program = concat!("hutch ", env!("CARGO_PKG_VERSION")).to_owned();
    write_frame(&mut stream, &Hello { version: PROTOCOL_VERSION, program, kernel: String::new() })
}

/// The reader thread: first the greeting, then replies and events until the end.
fn read_all(shared: &Shared, role: Role, quota: Quota, tell: SyncSender<Result<Hello, AgentError>>) {
    let mut input = BufReader::with_capacity(READ_BUFFER, &shared.stream);
    match read_greeting(&mut input, role) {
        Ok(hello) => {
            let stranger = hello.version != PROTOCOL_VERSION;
            let _ = tell.try_send(Ok(hello));
            if stranger {
                return;
            }
        }
        Err(death) => {
            let cause = shared.die(death);
            let _ = tell.try_send(Err(AgentError::Dead(cause)));
            return;
        }
    }
    drop(tell);
    let mut quotas = (quota, LogQuota::new());
    while take_frame(shared, &mut input, &mut quotas).map_err(|death| shared.die(death)).is_ok() {}
}

/// Takes one frame of the agent.
fn take_frame(
    shared: &Shared,
    input: &mut BufReader<&UnixStream>,
    (quota, log): &mut (Quota, LogQuota),
) -> Result<(), ChannelDeath> {
    let payload = read_payload(input)?.ok_or(ChannelDeath::ClosedByGuest)?;
    let event = match serde_json::from_slice(&payload).map_err(FrameError::from)? {
        AgentFrame::Reply { id, result } => {
            if shared.deliver(id, result)? {
                return Ok(());
            }
            None
        }
        AgentFrame::Event(event) => Some(event),
    };
    quota.take(payload.len(), Instant::now())?;
    match event {
        None => {}
        Some(Event::Log { level, message }) => log.log(&level, &message),
        // An event that names nothing that can exist is not worth its memory: a frame may have megabytes.
        Some(event) if !is_sound(&event) => {}
        Some(event) => shared.announce(event),
    }
    Ok(())
}

fn read_greeting(input: &mut BufReader<&UnixStream>, role: Role) -> Result<Hello, ChannelDeath> {
    if role == Role::Accepting {
        match read_frame::<Open>(input)?.ok_or(ChannelDeath::ClosedByGuest)? {
            Open::Control => {}
            Open::Stream { .. } => {
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "the agent opened a stream");
                return Err(ChannelDeath::Broken(error.into()));
            }
        }
    }
    read_frame::<Hello>(input)?.ok_or(ChannelDeath::ClosedByGuest)
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        sync::lock(&self.table)
    }

    /// Writes the request. `on_reply` is always called, at once if the request cannot be sent. Returns the id of a
    /// pending request.
    fn send(&self, request: Request, on_reply: OnReply) -> Option<u64> {
        let what = name_of(&request);
        let id = {
            let mut table = self.table();
            if let Some(cause) = table.death.clone() {
                drop(table);
                on_reply(Err(AgentError::Dead(cause)));
                return None;
            }
            let id = table.next_id;
            table.next_id += 1;
            table.pending.insert(id, Pending { what, on_reply });
            id
        };
        let written = {
            let _writing = sync::lock(&self.writing);
            write_frame(&mut &self.stream, &HostFrame { id, request })
        };
        match written {
            Ok(()) => Some(id),
            Err(FrameError::Io(error)) => {
                // Part of the frame may have been sent: the channel cannot be used again.
                self.die(ChannelDeath::Broken(FrameError::Io(error)));
                None
            }
            Err(source) => {
                if let Some(pending) = self.table().pending.remove(&id) {
                    (pending.on_reply)(Err(AgentError::Encode { what, source }));
                }
                None
            }
        }
    }

    /// Passes a reply to the receiver that waits for it; `false` if none does.
    fn deliver(&self, id: u64, result: Result<Response, hutch_agent_proto::RemoteError>) -> Result<bool, ChannelDeath> {
        let mut table = self.table();
        if id >= table.next_id {
            return Err(ChannelDeath::UnknownReply(id));
        }
        let Some(pending) = table.pending.remove(&id) else { return Ok(false) };
        drop(table);
        let what = pending.what;
        (pending.on_reply)(result.map(cleaned).map_err(|mut source| {
            source.message = printable(&source.message, TEXT_MAX);
            AgentError::Remote { what, source }
        }));
        Ok(true)
    }

    /// Passes an event to the listeners that are still connected.
    fn announce(&self, event: Event) {
        self.table().listeners.retain(|listener| match listener.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                log::debug!("an event of the guest was dropped: its listener is too slow");
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
    }

    /// Ends the session; the first reason stays. Every waiting caller gets it.
    fn die(&self, death: ChannelDeath) -> Arc<ChannelDeath> {
        let (cause, pending) = {
            let mut table = self.table();
            if let Some(cause) = &table.death {
                return Arc::clone(cause);
            }
            let cause = Arc::new(death);
            table.death = Some(Arc::clone(&cause));
            table.listeners.clear();
            (cause, std::mem::take(&mut table.pending))
        };
        // Fails only if the other side has gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
        for (_, pending) in pending {
            (pending.on_reply)(Err(AgentError::Dead(Arc::clone(&cause))));
        }
        cause
    }

    fn cause(&self) -> Arc<ChannelDeath> {
        self.table().death.clone().unwrap_or_else(|| Arc::new(ChannelDeath::ClosedByHost))
    }
}

/// The request in the words of a message.
fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Ping => "ping",
        Request::SetupSandbox(_) => "set up the sandbox",
        Request::SetClock { .. } => "set the clock",
        Request::StartProcess { .. } => "start the process",
        Request::WaitProcess { .. } => "wait for the process",
        Request::SignalProcess { .. } => "signal the process",
        Request::ResizeTerminal { .. } => "resize the terminal",
        Request::CloseStdin { .. } => "close stdin",
        Request::ForgetProcess { .. } => "forget the process",
        Request::CreateContainer { .. } => "create the container",
        Request::StartContainer { .. } => "start the container",
        Request::KillContainer { .. } => "signal the container",
        Request::RemoveContainer { .. } => "remove the container",
        Request::PauseContainer { .. } => "pause the container",
        Request::ResumeContainer { .. } => "resume the container",
        Request::UpdateContainer { .. } => "update the container",
        Request::ListProcesses { .. } => "list processes",
        Request::Stats { .. } => "read statistics",
        Request::Mount(_) => "mount in the guest",
        Request::Unmount { .. } => "unmount in the guest",
        Request::ConfigureNetwork(_) => "configure the network",
        Request::OnlineCpus { .. } => "bring CPUs online",
        Request::AwaitMemory { .. } => "wait for memory",
        Request::PowerOff => "power off",
        _ => "a request",
    }
}
