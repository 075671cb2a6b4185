//! Failures of calls to the agent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{FrameError, RemoteError, RemoteErrorKind, StdStream, PROTOCOL_VERSION};

/// A call or a connection to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent in the guest speaks another version of the protocol.
    #[error(
        "the guest's agent ({program}) speaks protocol version {agent}, this hutch speaks {}: \
         rebuild the guest assets with `hutch guest build`",
        PROTOCOL_VERSION
    )]
    Version {
        /// Protocol version of the agent.
        agent: u32,
        /// Name and version of the agent's program.
        program: String,
    },
    /// The agent sent no greeting in time.
    #[error("the guest's agent did not greet within {} s", .0.as_secs_f32())]
    Greeting(Duration),
    /// The answer did not come in time. The session is dead from then on.
    #[error("the guest's agent did not answer {what} within {} s", .after.as_secs_f32())]
    Deadline {
        /// The request, in the words of a message.
        what: &'static str,
        /// Time that the call had.
        after: Duration,
    },
    /// The agent refused the request or failed.
    #[error("{what}")]
    Remote {
        /// The request, in the words of a message.
        what: &'static str,
        /// The agent's own error.
        source: RemoteError,
    },
    /// The answer is of another kind than the request requires.
    #[error("the guest's agent gave an answer to {0} that does not belong to it")]
    Unexpected(&'static str),
    /// The request exceeds the size of a frame.
    #[error("{what} is too large to send to the guest")]
    Encode {
        /// The request, in the words of a message.
        what: &'static str,
        /// Reported by the encoder.
        source: FrameError,
    },
    /// The session had ended, or ended while the answer was awaited.
    #[error("the channel to the guest's agent is closed")]
    Dead(#[source] Arc<ChannelDeath>),
    /// The host could not open a standard stream.
    #[error("open {} of the process in the guest", stream_name(*.stream))]
    OpenStream {
        /// The stream that could not be opened.
        stream: StdStream,
        /// Failure of the connection.
        source: io::Error,
    },
    /// The agent could not be reached.
    #[error("connect to the guest's agent")]
    Connect(#[source] io::Error),
    /// The host could not create a thread or set a socket option.
    #[error("set up the agent session")]
    Host(#[source] io::Error),
}

/// The reason for which a session ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelDeath {
    /// The guest closed the connection, or the machine is gone.
    #[error("the guest closed it")]
    ClosedByGuest,
    /// The host closed the connection.
    #[error("it was closed by hutch")]
    ClosedByHost,
    /// The connection failed, or the agent violated the protocol.
    #[error(transparent)]
    Broken(#[from] FrameError),
    /// A reply has an id that no request had.
    #[error("the agent answered request {0}, which was never made")]
    UnknownReply(u64),
    /// The agent sends events, or answers that no caller waits for, faster than an honest one can.
    #[error("the agent sent more events and log lines than hutch takes")]
    Flood,
    /// A request was not answered in time.
    #[error("the agent did not answer {what} within {} s", .after.as_secs_f32())]
    Silent {
        /// The request, in the words of a message.
        what: &'static str,
        /// Time that the call had.
        after: Duration,
    },
}

impl AgentError {
    /// The agent's own error, if the agent refused the request.
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            AgentError::Remote { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Kind of the agent's refusal.
    pub fn remote_kind(&self) -> Option<RemoteErrorKind> {
        self.remote().map(|e| e.kind)
    }

    /// Whether no later call on the same session can succeed.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, AgentError::Remote { .. } | AgentError::Encode { .. } | AgentError::OpenStream { .. })
    }
}

/// Name of the stream in messages.
pub(crate) fn stream_name(stream: StdStream) -> &'static str {
    match stream {
        StdStream::Stdin => "stdin",
        StdStream::Stdout => "stdout",
        StdStream::Stderr => "stderr",
        StdStream::Terminal => "the terminal",
    }
}
