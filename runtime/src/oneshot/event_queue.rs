//! The events of a run, in one queue with one reader.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use hutch_agent_proto::{Response, WindowSize};
use hutch_vmm::MachineExit;

use crate::agent_client::{AgentError, Session};
use crate::stdio::{Drained, RelayError};

/// An answer of the agent.
type Answer = Result<Response, AgentError>;

/// An event of the machine, the agent or the caller.
pub enum RunEvent {
    /// This process received a signal for the command.
    Signal {
        /// Signal number.
        number: i32,
        /// The signal came from the terminal, so it is meant for the whole foreground job.
        whole_job: bool,
    },
    /// The caller's terminal has a new size.
    Resize(WindowSize),
    /// The agent has reported, or failed to.
    Ready(Result<Session, AgentError>),
    /// The machine ended.
    VmEnded(MachineExit),
    /// Answer to the set-up of the guest.
    SetUp(Answer),
    /// Answer to the start of the process.
    Started(Answer),
    /// Answer to the wait for the process.
    Exited(Answer),
    /// Answer to a forwarded signal.
    Delivered(Answer),
    /// The caller has all output.
    Drained(Result<Drained, RelayError>),
    /// The agent closed the session after a power-off request.
    Flushed(Answer),
}

/// The queue's reading end.
pub struct RunEventQueue {
    sender: RunEventSender,
    events: Receiver<RunEvent>,
}

/// The queue's writing end.
#[derive(Clone)]
pub struct RunEventSender(Sender<RunEvent>);

impl RunEventSender {
    /// Puts `event` into the queue. An event without a reader is dropped.
    pub fn send(&self, event: RunEvent) {
        let _ = self.0.send(event);
    }
}

impl RunEventQueue {
    /// An empty queue.
    #[allow(clippy::new_without_default, reason = "it is a resource, not a value")]
    pub fn new() -> Self {
        let (sender, events) = mpsc::channel();
        Self { sender: RunEventSender(sender), events }
    }

    /// Returns another writing end.
    pub fn sender(&self) -> RunEventSender {
        self.sender.clone()
    }

    /// Takes the next event; `None` when `until` has passed.
    pub(super) fn next(&self, until: Option<Instant>) -> Option<RunEvent> {
        match until {
            None => self.events.recv().ok(),
            Some(until) => {
                // Only a time-out can be an error here: `sender` lives as long as the queue.
                self.events.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
            }
        }
    }
}
