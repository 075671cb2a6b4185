//! Why a call to the agent failed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{ErrorKind, FrameError, RemoteError, StdStream, PROTOCOL_VERSION};

/// A call or a connection to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another version of the protocol lives in the guest.
    #[error(
        "the guest's agent ({program}) speaks protocol version {agent}, this hutch speaks {}: \
         rebuild the guest assets with `hutch guest build`",
        PROTOCOL_VERSION
    )]
    Version {
        /// What the agent said.
        agent: u32,
        /// Its program, as it calls itself.
        program: String,
    },
    /// No greeting came in time.
    #[error("the guest's agent did not greet within {} s", .0.as_secs_f32())]
    Greeting(Duration),
    /// The answer did not come in time. The session is dead since.
    #[error("the guest's agent did not answer {what} within {} s", .after.as_secs_f32())]
    Deadline {
        /// The request.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The agent refused or failed.
    #[error("{what}")]
    Remote {
        /// The request.
        what: &'static str,
        /// What the agent says.
        source: RemoteError,
    },
    /// The answer is of another kind than the request asks for.
    #[error("the guest's agent gave an answer to {0} that does not belong to it")]
    Unexpected(&'static str),
    /// The request does not fit a frame.
    #[error("{what} is too large to send to the guest")]
    Encode {
        /// The request.
        what: &'static str,
        /// The cause.
        source: FrameError,
    },
    /// The session had ended, or ended while the answer was awaited.
    #[error("the channel to the guest's agent is closed")]
    Dead(#[source] Arc<ChannelDeath>),
    /// A standard stream could not be opened.
    #[error("open {} of the process in the guest", stream_name(*.stream))]
    OpenStream {
        /// Which.
        stream: StdStream,
        /// The cause.
        source: io::Error,
    },
    /// The agent could not be reached.
    #[error("connect to the guest's agent")]
    Connect(#[source] io::Error),
    /// The host could not give a thread or a socket option.
    #[error("set up the agent session")]
    Host(#[source] io::Error),
}

/// What ended a session.
#[derive(Debug, thiserror::Error)]
pub enum ChannelDeath {
    /// The guest closed it, or the guest is gone.
    #[error("the guest closed it")]
    ClosedByGuest,
    /// This side closed it.
    #[error("it was closed by hutch")]
    ClosedByHost,
    /// It failed, or the agent sent something outside the protocol.
    #[error(transparent)]
    Broken(#[from] FrameError),
    /// A reply carries an id that was never given out.
    #[error("the agent answered request {0}, which was never made")]
    UnknownReply(u64),
    /// A request was not answered in time.
    #[error("the agent did not answer {what} within {} s", .after.as_secs_f32())]
    Silent {
        /// The request.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
}

impl AgentError {
    /// What the agent said, if it was the agent that refused.
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            AgentError::Remote { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Class of the agent's refusal.
    pub fn remote_kind(&self) -> Option<ErrorKind> {
        self.remote().map(|e| e.kind)
    }

    /// Whether no later call on the same session can succeed.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, AgentError::Remote { .. } | AgentError::Encode { .. } | AgentError::OpenStream { .. })
    }
}

/// The stream's usual name.
pub(crate) fn stream_name(stream: StdStream) -> &'static str {
    match stream {
        StdStream::Stdin => "stdin",
        StdStream::Stdout => "stdout",
        StdStream::Stderr => "stderr",
        StdStream::Terminal => "the terminal",
    }
}
