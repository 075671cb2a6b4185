//! Failures of a run.

use std::time::Duration;

use hutch_agent_proto::RemoteError;
use hutch_vmm::MachineExit;

use crate::agent_client::AgentError;
use crate::stdio::RelayError;

/// The reason for which a run has no exit status of its command.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine ended, and the run had not stopped it.
    #[error("the guest ended unasked {when}: {exit}")]
    GuestEnded {
        /// Phase of the run, such as "while booting".
        when: &'static str,
        /// How the machine ended.
        exit: MachineExit,
    },
    /// The agent in the guest is lost, but the machine still runs.
    #[error("lost the guest's agent {when}")]
    AgentLost {
        /// Phase of the run.
        when: &'static str,
        /// Failure of the last call.
        source: AgentError,
    },
    /// The agent did not report in time.
    #[error(
        "the guest did not report within {} s: see the console (--console FILE), or rebuild the guest assets with \
         `hutch guest build`", .0.as_secs_f32()
    )]
    BootTimeout(Duration),
    /// The guest could not be set up as asked.
    #[error("set up the guest")]
    SetUp(#[source] AgentError),
    /// The program could not be started.
    #[error("start the command")]
    Start(#[source] AgentError),
    /// The program does not exist.
    #[error("exec {program:?}")]
    ProgramNotFound {
        /// Program as the caller gave it.
        program: String,
        /// The agent's own error.
        source: RemoteError,
    },
    /// The program cannot be executed.
    #[error("exec {program:?}")]
    ProgramNotExecutable {
        /// Program as the caller gave it.
        program: String,
        /// The agent's own error.
        source: RemoteError,
    },
    /// The timeout of the whole run has passed; the guest still answered.
    #[error("time is up {when}: the run was given {} s", .after.as_secs_f32())]
    Timeout {
        /// Phase of the run.
        when: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The timeout of the whole run has passed, and the guest does not answer, or has not yet.
    #[error("time is up {when} after {} s, and the guest does not answer: it hangs, or is slow", .after.as_secs_f32())]
    Hung {
        /// Phase of the run.
        when: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The command has ended, but the guest did not write its data back in time. There may be no timeout of the run.
    #[error("the command has ended, but the guest did not flush its file systems within {} s: data may be lost", .0.as_secs_f32())]
    FlushTimeout(Duration),
    /// A signal ended the run before the command, or against a guest that does not take signals.
    #[error("ended by signal {signal} {when}")]
    Interrupted {
        /// Signal number.
        signal: i32,
        /// Phase of the run.
        when: &'static str,
    },
    /// The command's streams could not be relayed.
    #[error("relay the command's streams")]
    Relay(#[from] RelayError),
    /// The host could not create a thread.
    #[error("start a thread of the run")]
    Thread(#[source] std::io::Error),
}

impl RunError {
    /// Whether the guest's console may explain the failure.
    pub fn is_guests_fault(&self) -> bool {
        matches!(
            self,
            RunError::GuestEnded { .. }
                | RunError::AgentLost { .. }
                | RunError::BootTimeout(_)
                | RunError::FlushTimeout(_)
                | RunError::Hung { .. }
        )
    }
}
