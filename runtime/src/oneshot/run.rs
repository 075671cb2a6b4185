//! The run itself: one method per phase, one reader of the queue. Runs on the thread that calls [`run`].

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hutch_agent_proto::{
    Deadline, ExitStatus, ProcessSpec, RemoteErrorKind, Request, Response, SandboxSpec, WindowSize,
};
use hutch_vmm::MachineExit;
use nix::sys::signal::Signal;

use super::error::RunError;
use super::event_queue::{RunEvent, RunEventQueue, RunEventSender};
use crate::agent_client::{AgentError, Connector, Session};
use crate::stdio::{Drained, Relay, StdioFds};

/// Token of the only process.
const TOKEN: &str = "command";
/// Time by which a machine's end may lag behind the end of its channels.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the output that a guest wrote before it died.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time in which a live agent answers a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the greeting once the connection exists.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// After all processes were killed, an output that is still open counts as ended after this time without bytes.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// Usual time for the last output of an ended command; a thread is spent only on a longer wait.
const SHORT_DRAIN_TIMEOUT: Duration = Duration::from_millis(20);
/// Time to open a stream.
const OPEN_STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the guest to flush its file systems.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// The machine, as a run needs it.
pub trait OneshotVm: Send + Sync {
    /// Waits for the machine's end; `None` on a time-out. Any number of threads may wait.
    fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit>;
    /// Ends the machine at once: `wait` returns.
    fn stop(&self);
    /// Called when the agent is there: starts plugging in the rest of the machine's memory. Returns at once, with the
    /// bytes that will come.
    fn grow(&self) -> u64 {
        0
    }
}

/// The command and the conditions of its run.
pub struct OneshotTask {
    /// Set-up of the guest.
    pub sandbox: SandboxSpec,
    /// The command.
    pub process: ProcessSpec,
    /// The caller's ends of the command's streams.
    pub fds: StdioFds,
    /// Time from the machine's start to the agent's report.
    pub boot_timeout: Duration,
    /// Timeout of the whole run, and the moment at which it passes.
    pub timeout: Option<(Duration, Instant)>,
    /// The way to end the machine.
    pub stop: Stop,
    /// Called right before the command starts; until then the caller may use its terminal.
    pub on_start: Box<dyn FnOnce() + Send>,
}

/// The way a machine ends after its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The guest ends its processes and flushes its file systems, then the machine is stopped.
    Flush,
    /// Like `Flush`, and the guest unmounts its disks and powers off.
    PowerOff,
}

/// Points of the run in order: name and CLOCK_MONOTONIC in nanoseconds.
#[derive(Debug, Default)]
pub struct PhaseMarks(pub Vec<(&'static str, u64)>);

impl PhaseMarks {
    fn now(&mut self, what: &'static str) {
        self.0.push((what, hutch_vmm::now_ns()));
    }
}

/// Runs the command in a started machine. `push` returns the connection that a ready agent opens. When `run` returns it
/// has stopped the machine, whatever happened.
///
/// # Errors
/// [`RunError`] for everything except the command's own end.
pub fn run(
    vm: Arc<dyn OneshotVm>,
    push: Receiver<UnixStream>,
    connector: Arc<dyn Connector>,
    task: OneshotTask,
    queue: &RunEventQueue,
    marks: &mut PhaseMarks,
) -> Result<ExitStatus, RunError> {
    let mut run = Run { vm: &*vm, queue, timeout: task.timeout, undelivered: 0 };
    let result = watch(&vm, queue.sender())
        .and_then(|()| await_push(&vm, push, connector, task.boot_timeout, queue.sender()))
        .and_then(|()| run.whole(task, marks));
    vm.stop();
    result
}

/// Starts a thread that reports the machine's end to the queue.
fn watch(vm: &Arc<dyn OneshotVm>, sender: RunEventSender) -> Result<(), RunError> {
    let vm = Arc::clone(vm);
    spawn("vm-watch", move || {
        if let Some(exit) = vm.wait(None) {
            sender.send(RunEvent::VmEnded(exit));
        }
    })
}

/// Starts a thread that reports the agent to the queue.
fn await_push(
    vm: &Arc<dyn OneshotVm>,
    push: Receiver<UnixStream>,
    connector: Arc<dyn Connector>,
    timeout: Duration,
    sender: RunEventSender,
) -> Result<(), RunError> {
    let vm = Arc::clone(vm);
    spawn("agent-push", move || match push.recv_timeout(timeout) {
        Ok(stream) => {
            // Not later: the guest adds memory during the greeting.
            vm.grow();
            sender.send(RunEvent::Ready(Session::accept(stream, connector, GREETING_TIMEOUT)));
        }
        Err(RecvTimeoutError::Timeout) => sender.send(RunEvent::Ready(Err(AgentError::Greeting(timeout)))),
        // The machine is gone; the thread of [`watch`] reports that.
        Err(RecvTimeoutError::Disconnected) => {}
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(RunError::Thread)
}

/// State that outlives a phase.
struct Run<'a> {
    vm: &'a dyn OneshotVm,
    queue: &'a RunEventQueue,
    timeout: Option<(Duration, Instant)>,
    /// Forwarded signals that the agent has not acknowledged.
    undelivered: u32,
}

/// The phase of the run, for messages.
type When = &'static str;
const BOOTING: When = "while booting";
const SETTING_UP: When = "while being set up";
const RUNNING: When = "while the command ran";
const DRAINING: When = "after the command's end";

impl Run<'_> {
    fn whole(&mut self, task: OneshotTask, marks: &mut PhaseMarks) -> Result<ExitStatus, RunError> {
        let session = self.boot(task.boot_timeout)?;
        marks.now("agent ready");
        let program = task.process.args.first().cloned().unwrap_or_default();
        let terminal = task.process.terminal.is_some();
        self.set_up(&session, task.sandbox)?;
        (task.on_start)();
        let mut relay = self.start(&session, task.process, task.fds, &program)?;
        marks.now("command started");
        let ended = self.supervise(&session, terminal);
        marks.now("command ended");
        if let Some(first_byte) = relay.first_byte_ns() {
            marks.0.push(("first byte of output", first_byte));
        }
        let status = match ended {
            Ok(status) => status,
            Err(error) => {
                // The caller gets the output that the guest wrote before it died.
                let _ = relay.finish(Some(LAST_OUTPUT_TIMEOUT));
                return Err(error);
            }
        };
        let drained = self.drain(&session, relay);
        if let Ok(()) | Err(RunError::Relay(_)) = drained {
            self.end(&session, task.stop)?;
            marks.now("guest flushed");
        }
        drained.map(|()| status)
    }

    fn boot(&mut self, boot_timeout: Duration) -> Result<Session, RunError> {
        loop {
            match self.next(None, BOOTING)? {
                RunEvent::Ready(Ok(session)) => return Ok(session),
                RunEvent::Ready(Err(AgentError::Greeting(after))) if after == boot_timeout => {
                    return Err(RunError::BootTimeout(after));
                }
                RunEvent::Ready(Err(error)) => return Err(self.lost(error, BOOTING)),
                event => self.early(event, BOOTING)?,
            }
        }
    }

    fn set_up(&mut self, session: &Session, mut sandbox: SandboxSpec) -> Result<(), RunError> {
        sandbox.memory_more = self.vm.grow();
        sandbox.unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
        let sender = self.queue.sender();
        session.call_then(Request::SetupSandbox(Box::new(sandbox)), move |a| sender.send(RunEvent::SetUp(a)));
        loop {
            match self.next(Some(session), SETTING_UP)? {
                RunEvent::SetUp(Ok(Response::Done)) => return Ok(()),
                RunEvent::SetUp(Ok(_)) => return Err(RunError::SetUp(AgentError::Unexpected("set up the sandbox"))),
                RunEvent::SetUp(Err(error)) if error.is_fatal() => return Err(self.lost(error, SETTING_UP)),
                RunEvent::SetUp(Err(error)) => return Err(RunError::SetUp(error)),
                event => self.early(event, SETTING_UP)?,
            }
        }
    }

    /// Starts the command and, at the same time, its relays: the agent holds the streams until the process exists.
    fn start(
        &mut self,
        session: &Session,
        process: ProcessSpec,
        mut fds: StdioFds,
        program: &str,
    ) -> Result<Relay, RunError> {
        let terminal = process.terminal.is_some();
        if !process.stdin {
            fds.stdin = None;
        }
        let sender = self.queue.sender();
        let request = Request::StartProcess { token: TOKEN.into(), container: None, process: Box::new(process) };
        session.call_then(request, move |a| sender.send(RunEvent::Started(a)));
        // The agent handles requests in order, so it knows the process by then.
        let sender = self.queue.sender();
        let wait = Request::WaitProcess { token: TOKEN.into() };
        session.call_then(wait, move |a| sender.send(RunEvent::Exited(a)));
        let connector = session.connector();
        let open = move |stream| crate::agent_client::open_stream(&*connector, TOKEN, stream, OPEN_STREAM_TIMEOUT);
        let relay = Relay::start(Arc::new(open), fds, terminal, SILENCE_TIMEOUT)?;
        loop {
            match self.next(Some(session), SETTING_UP)? {
                RunEvent::Started(Ok(Response::Started { .. })) => return Ok(relay),
                RunEvent::Started(Ok(_)) => return Err(RunError::Start(AgentError::Unexpected("start the process"))),
                RunEvent::Started(Err(error)) => return Err(self.refused(error, program)),
                event => self.early(event, SETTING_UP)?,
            }
        }
    }

    /// Forwards signals and terminal sizes until the command has ended.
    fn supervise(&mut self, session: &Session, terminal: bool) -> Result<ExitStatus, RunError> {
        loop {
            match self.next(Some(session), RUNNING)? {
                RunEvent::Exited(Ok(Response::Exited(status))) => return Ok(status),
                RunEvent::Exited(Ok(_)) => {
                    return Err(self.lost(AgentError::Unexpected("wait for the process"), RUNNING))
                }
                RunEvent::Exited(Err(error)) => return Err(self.lost(error, RUNNING)),
                RunEvent::Signal { number, whole_job } => self.pass_on(session, number, whole_job)?,
                RunEvent::Delivered(answer) => self.delivered(answer),
                RunEvent::Resize(size) if terminal => resize(session, size),
                event => self.early(event, RUNNING)?,
            }
        }
    }

    fn pass_on(&mut self, session: &Session, signal: i32, all: bool) -> Result<(), RunError> {
        if is_deadly(signal) {
            if self.undelivered > 0 {
                // The guest has not taken the previous signal: it hangs. A repeated signal ends the run at once.
                return Err(RunError::Interrupted { signal, when: RUNNING });
            }
            self.undelivered += 1;
        }
        let sender = self.queue.sender();
        let deadly = is_deadly(signal);
        session.call_then(Request::SignalProcess { token: TOKEN.into(), signal, all }, move |answer| {
            if deadly {
                sender.send(RunEvent::Delivered(answer));
            }
        });
        Ok(())
    }

    fn delivered(&mut self, answer: Result<Response, AgentError>) {
        self.undelivered = self.undelivered.saturating_sub(1);
        match answer {
            Ok(_) => {}
            // The command ended at the same time; that event is on its way.
            Err(error) if error.is_fatal() => {}
            Err(error)
                if matches!(error.remote_kind(), Some(RemoteErrorKind::NotFound | RemoteErrorKind::WrongState)) => {}
            Err(error) => log::warn!("a signal was not passed on: {error}"),
        }
    }

    /// Waits until the caller has all output. Processes that the command left behind are killed, as in a container;
    /// that closes the streams they hold open.
    fn drain(&mut self, session: &Session, mut relay: Relay) -> Result<(), RunError> {
        if relay.finish(Some(SHORT_DRAIN_TIMEOUT))? == Drained::All {
            return Ok(());
        }
        let kill = Request::SignalProcess { token: TOKEN.into(), signal: Signal::SIGKILL as i32, all: true };
        session.call_then(kill, |answer| {
            if let Err(error) = answer {
                log::debug!("what the command left behind was not killed: {error}");
            }
        });
        let sender = self.queue.sender();
        spawn("stdio-drain", move || sender.send(RunEvent::Drained(relay.finish(None))))?;
        loop {
            match self.next(Some(session), DRAINING)? {
                RunEvent::Drained(result) => return result.map(drop).map_err(RunError::Relay),
                event => self.early(event, DRAINING)?,
            }
        }
    }

    /// Ends the guest after it has written its data.
    fn end(&mut self, session: &Session, stop: Stop) -> Result<(), RunError> {
        let sender = self.queue.sender();
        session.call_then(Request::PowerOff, move |answer| sender.send(RunEvent::Flushed(answer)));
        let until = Deadline::after(FLUSH_TIMEOUT);
        loop {
            match self.queue.next(Some(self.timeout.map_or(until, |(_, t)| t.min(until)))) {
                // The end of the session is the answer: file systems are flushed.
                Some(RunEvent::Flushed(Err(AgentError::Dead(_)) | Ok(_))) if stop == Stop::Flush => return Ok(()),
                Some(RunEvent::Flushed(Err(AgentError::Dead(_)) | Ok(_))) => {}
                Some(RunEvent::Flushed(Err(source))) => return Err(RunError::AgentLost { when: DRAINING, source }),
                Some(RunEvent::VmEnded(_)) => return Ok(()),
                Some(RunEvent::Signal { number, .. }) if is_deadly(number) => {
                    return Err(RunError::Interrupted { signal: number, when: DRAINING });
                }
                Some(_) => {}
                None => match self.timeout.filter(|(_, t)| *t < until) {
                    Some((after, _)) => return Err(self.time_is_up(Some(session), after, DRAINING)),
                    None => return Err(RunError::FlushTimeout(FLUSH_TIMEOUT)),
                },
            }
        }
    }

    /// Takes the next event; the machine's end and the timeout of the run are errors.
    fn next(&mut self, session: Option<&Session>, when: When) -> Result<RunEvent, RunError> {
        match self.queue.next(self.timeout.map(|(_, until)| until)) {
            Some(RunEvent::VmEnded(exit)) => Err(RunError::GuestEnded { when, exit }),
            Some(event) => Ok(event),
            None => {
                let after = self.timeout.map_or(Duration::ZERO, |(after, _)| after);
                Err(self.time_is_up(session, after, when))
            }
        }
    }

    /// Handles an event that this phase does not wait for.
    fn early(&self, event: RunEvent, when: When) -> Result<(), RunError> {
        match event {
            RunEvent::Signal { number, .. } if is_deadly(number) => Err(RunError::Interrupted { signal: number, when }),
            _ => Ok(()),
        }
    }

    fn time_is_up(&self, session: Option<&Session>, after: Duration, when: When) -> RunError {
        match session {
            Some(session) if session.ping(PING_TIMEOUT).is_ok() => RunError::Timeout { when, after },
            _ => RunError::Hung { when, after },
        }
    }

    /// The error for a lost agent. The machine's end is the better reason if it has ended.
    fn lost(&self, error: AgentError, when: When) -> RunError {
        if !matches!(error, AgentError::Dead(_)) {
            return RunError::AgentLost { when, source: error };
        }
        match self.vm.wait(Some(END_TIMEOUT)) {
            Some(exit) => RunError::GuestEnded { when, exit },
            None => RunError::AgentLost { when, source: error },
        }
    }

    fn refused(&self, error: AgentError, program: &str) -> RunError {
        let program = program.to_owned();
        match error {
            AgentError::Remote { source, .. } if source.kind == RemoteErrorKind::ProgramNotFound => {
                RunError::ProgramNotFound { program, source }
            }
            AgentError::Remote { source, .. } if source.kind == RemoteErrorKind::ProgramNotExecutable => {
                RunError::ProgramNotExecutable { program, source }
            }
            error if error.is_fatal() => self.lost(error, SETTING_UP),
            error => RunError::Start(error),
        }
    }
}

fn resize(session: &Session, size: WindowSize) {
    // The next size corrects one that did not arrive.
    session.call_then(Request::ResizeTerminal { token: TOKEN.into(), size }, drop);
}

/// Signals that users send to end a program.
fn is_deadly(signal: i32) -> bool {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].iter().any(|s| *s as i32 == signal)
}
