//! What can happen to a run, as values in one queue with one reader.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use hutch_agent_proto::{Response, WindowSize};
use hutch_vmm::MachineExit;

use crate::agent_client::{AgentError, Session};
use crate::stdio::{Drained, RelayError};

/// An answer of the agent.
type Answer = Result<Response, AgentError>;

/// Something happened.
pub enum Notice {
    /// A signal came to this process, to be passed on.
    Signal {
        /// Its number.
        number: i32,
        /// It came from the terminal, so it is meant for the whole foreground job.
        whole_job: bool,
    },
    /// The caller's terminal has a new size.
    Resize(WindowSize),
    /// The agent reported, or failed to.
    Ready(Result<Session, AgentError>),
    /// The machine ended.
    VmEnded(MachineExit),
    /// Answer to the sandbox's set-up.
    SetUp(Answer),
    /// Answer to the process's start.
    Started(Answer),
    /// Answer to the wait for the process.
    Exited(Answer),
    /// Answer to a passed-on signal.
    Delivered(Answer),
    /// All output is with the caller.
    Drained(Result<Drained, RelayError>),
    /// The agent closed the session after a power-off request.
    Flushed(Answer),
}

/// The queue's reading end.
pub struct Inbox {
    post: Post,
    notices: Receiver<Notice>,
}

/// The queue's writing end.
#[derive(Clone)]
pub struct Post(Sender<Notice>);

impl Post {
    /// Puts `notice` into the queue. A reader that has gone does not care any more.
    pub fn send(&self, notice: Notice) {
        let _ = self.0.send(notice);
    }
}

impl Inbox {
    /// An empty queue.
    #[allow(clippy::new_without_default, reason = "it is a resource, not a value")]
    pub fn new() -> Self {
        let (sender, notices) = mpsc::channel();
        Self { post: Post(sender), notices }
    }

    /// A writing end.
    pub fn post(&self) -> Post {
        self.post.clone()
    }

    /// The next notice; `None` when `until` has passed.
    pub(super) fn next(&self, until: Option<Instant>) -> Option<Notice> {
        match until {
            None => self.notices.recv().ok(),
            Some(until) => {
                // Only a time-out can end this with an error: `post` lives as long as the inbox.
                self.notices.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
            }
        }
    }
}
