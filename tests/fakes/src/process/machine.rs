//! A machine without vCPUs: the guest model behind the agent's protocol, in a real VMM process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hutch_agent_proto::{
    read_frame, write_frame, AgentFrame, FrameError, Hello, HostFrame, Open, Response, StdStream, AGENT_PORT,
    PROTOCOL_VERSION,
};

use super::TEST_PORT;
use crate::guest::{Answer, FakeGuest};
use hutch_runtime::backend::{BackendError, BackendResult, BlockDevice, VmReply, VmRequest, VmSpec, VmState};
use hutch_runtime::vm_host::{confine_machine_process, GuestMachine, MachineEnd};

struct State {
    guest: FakeGuest,
    /// Drive slots.
    slots: usize,
    /// Disks in them.
    disks: BTreeSet<String>,
    paused: bool,
    end: Option<MachineEnd>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits for something; `None` if the machine ended first.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.end.is_some() {
                return None;
            }
            // A paused guest does nothing.
            if !state.paused
                && let Some(result) = ready(&mut state)
            {
                return Some(result);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A machine that consists of a [`FakeGuest`].
pub struct FakeMachine {
    shared: Arc<Shared>,
}

impl FakeMachine {
    /// "Boots" it.
    ///
    /// # Errors
    /// If the name of the pod is `unbootable`.
    pub fn launch(spec: &VmSpec) -> BackendResult<Self> {
        if spec.name == "unbootable" {
            return Err(BackendError::Refused("this machine does not boot".into()));
        }
        confine_machine_process(spec.jail)?;
        let state = State {
            guest: FakeGuest::new(),
            slots: spec.block_slots as usize,
            disks: BTreeSet::new(),
            paused: false,
            end: None,
        };
        Ok(Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) })
    }
}

fn end(shared: &Shared, reason: &str, expected: bool) {
    shared.change(|state| {
        state.end.get_or_insert_with(|| MachineEnd { reason: reason.into(), expected });
    });
}

impl GuestMachine for FakeMachine {
    fn handle(&self, request: VmRequest) -> BackendResult<VmReply> {
        self.shared.change(|state| {
            match request {
                VmRequest::State => {
                    return Ok(VmReply::State(if state.paused { VmState::Paused } else { VmState::Running }));
                }
                VmRequest::Pause => state.paused = true,
                VmRequest::Resume => state.paused = false,
                VmRequest::Unplug { id } => {
                    state.disks.remove(&id);
                }
                VmRequest::SetMemory { mib } => return Ok(VmReply::Memory(mib << 20)),
                VmRequest::MemorySize => return Ok(VmReply::Memory(0)),
                _ => {}
            }
            Ok(VmReply::Done)
        })
    }

    fn plug_block(&self, device: &BlockDevice, _: File) -> BackendResult<()> {
        self.shared.change(|state| {
            if state.disks.len() >= state.slots {
                return Err(BackendError::Refused("no drive slot is free".into()));
            }
            state.disks.insert(device.id.clone());
            Ok(())
        })
    }

    fn connect(&self, port: u32, _: Duration) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let shared = self.shared.clone();
        match port {
            AGENT_PORT => thread::Builder::new().spawn(move || drop(serve(&shared, ours)))?,
            TEST_PORT => thread::Builder::new().spawn(move || obey(&shared, ours))?,
            _ => return Err(io::ErrorKind::ConnectionRefused.into()),
        };
        Ok(theirs)
    }

    fn wait_end(&self) -> MachineEnd {
        let mut state = self.shared.lock();
        loop {
            if let Some(end) = &state.end {
                return end.clone();
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Carries out a command of a test.
fn obey(shared: &Shared, mut stream: UnixStream) {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["exit", container, code] => {
            shared.change(|state| state.guest.exit(container, code.parse().unwrap_or(255)));
        }
        ["oom", container] => shared.change(|state| state.guest.out_of_memory(container)),
        ["hang"] => shared.change(|state| state.guest.hangs = true),
        ["bug"] => {
            // On a thread with the name of one that can have a bug.
            let vcpu = thread::Builder::new().name("vcpu1".into()).spawn(|| panic!("a bug of the machine monitor"));
            let _ = vcpu.map(thread::JoinHandle::join);
        }
        ["forbidden"] => {
            // As an attacker who runs the first vCPU.
            let program = || nix::unistd::execv(c"/bin/true", &[c"true"]);
            let vcpu = thread::Builder::new().name("vcpu0".into()).spawn(program);
            let _ = vcpu.map(thread::JoinHandle::join);
        }
        ["panic"] => end(shared, "the guest's kernel panicked", false),
        other => eprintln!("not understood: {other:?}"),
    }
}

/// The agent's side of one connection.
fn serve(shared: &Arc<Shared>, mut stream: UnixStream) -> Result<(), FrameError> {
    match read_frame(&mut stream)? {
        Some(Open::Control) => control(shared, stream),
        Some(Open::Stream { token, stream: which }) => {
            standard_stream(shared, stream, &token, which);
            Ok(())
        }
        None => Ok(()),
    }
}

fn control(shared: &Arc<Shared>, mut stream: UnixStream) -> Result<(), FrameError> {
    let hello = Hello { version: PROTOCOL_VERSION, program: "fake agent".into(), kernel: "fake".into() };
    write_frame(&mut stream, &hello)?;
    if read_frame::<Hello>(&mut stream)?.is_none() {
        return Ok(());
    }
    let closed = Arc::new(AtomicBool::new(false));
    let writer = Arc::new(Mutex::new(stream.try_clone()?));
    send_events(shared, &writer, &closed)?;
    let result = requests(shared, &mut stream, &writer);
    closed.store(true, Ordering::SeqCst);
    shared.change(|_| {});
    // The event thread has a copy of the descriptor.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    result
}

fn send(writer: &Mutex<UnixStream>, frame: &AgentFrame) {
    let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = write_frame(&mut *stream, frame);
}

fn send_events(shared: &Arc<Shared>, writer: &Arc<Mutex<UnixStream>>, closed: &Arc<AtomicBool>) -> io::Result<()> {
    let (shared, writer, closed) = (shared.clone(), writer.clone(), closed.clone());
    let mut seen = shared.lock().guest.events_from(0).len();
    let run = move || loop {
        let next = shared.wait(|state| {
            if closed.load(Ordering::SeqCst) {
                return Some(None);
            }
            state.guest.events_from(seen).first().cloned().map(Some)
        });
        let Some(Some(event)) = next else {
            // The machine is over: so is the connection.
            let _ = writer.lock().unwrap_or_else(PoisonError::into_inner).shutdown(std::net::Shutdown::Both);
            return;
        };
        seen += 1;
        send(&writer, &AgentFrame::Event(event));
    };
    thread::Builder::new().spawn(run).map(drop)
}

fn requests(shared: &Arc<Shared>, stream: &mut UnixStream, writer: &Arc<Mutex<UnixStream>>) -> Result<(), FrameError> {
    while let Some(HostFrame { id, request }) = read_frame(stream)? {
        let mut request = Some(request);
        let answer = shared.wait(|state| match state.guest.hangs {
            true => None,
            false => request.take().map(|request| state.guest.handle(request)),
        });
        shared.changed.notify_all();
        match answer {
            None => return Ok(()),
            Some(Answer::Now(result)) => send(writer, &AgentFrame::Reply { id, result }),
            Some(Answer::PowerOff) => {
                end(shared, "the guest powered off", false);
                return Ok(());
            }
            Some(Answer::WhenEnded(token)) => {
                let (shared, writer) = (shared.clone(), writer.clone());
                let run = move || {
                    let status = shared.wait(|state| {
                        let gone = !state.guest.knows(&token);
                        state.guest.status(&token).map(Some).or_else(|| gone.then_some(None))
                    });
                    if let Some(Some(status)) = status {
                        send(&writer, &AgentFrame::Reply { id, result: Ok(Response::Exited(status)) });
                    }
                };
                thread::Builder::new().spawn(run)?;
            }
        }
    }
    Ok(())
}

/// Outputs say what they are and end with the process; an input is read to its end.
fn standard_stream(shared: &Shared, mut stream: UnixStream, token: &str, which: StdStream) {
    if which == StdStream::Stdin {
        let _ = io::copy(&mut stream, &mut io::sink());
        return;
    }
    let _ = writeln!(stream, "{which:?} of the fake process");
    shared.wait(|state| (!state.guest.knows(token) || state.guest.status(token).is_some()).then_some(()));
}
