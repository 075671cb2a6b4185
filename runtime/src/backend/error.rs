//! How a backend fails.

use std::io;
use std::time::Duration;

use hutch_agent_proto::{RemoteError, RemoteErrorKind};

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A bounded wait ran out.
    #[error("not within {} s", .after.as_secs_f32())]
    Timeout {
        /// The bound.
        after: Duration,
    },
    /// The other side is gone; nothing further on this channel can succeed.
    #[error("{0}")]
    Lost(String),
    /// The guest agent refused.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The other side refused, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The reply is of another kind than the request asks for.
    #[error("{0} gave an answer that does not belong to the request")]
    UnexpectedReply(&'static str),
    /// The VMM process was started by another version of hutch and speaks another control protocol.
    #[error(
        "the machine's process is of another version of hutch ({theirs}, this is {ours}); stop the pod with that one"
    )]
    OtherVersion {
        /// The version of the process.
        theirs: String,
        /// The version of this program.
        ours: String,
    },
    /// The other side cannot do that at all.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A system call failed.
    #[error("{what}")]
    System {
        /// The operation.
        what: String,
        /// The error of the system.
        source: io::Error,
    },
}

impl BackendError {
    /// A failed system call.
    pub fn system(what: impl Into<String>, source: io::Error) -> Self {
        BackendError::System { what: what.into(), source }
    }

    /// Whether later requests on the same channel will fail as well (P-205).
    pub fn is_lost(&self) -> bool {
        matches!(self, BackendError::Lost(_) | BackendError::Timeout { .. })
    }

    /// Class of the guest agent's refusal, if it is one.
    pub fn remote_kind(&self) -> Option<RemoteErrorKind> {
        match self {
            BackendError::Remote(error) => Some(error.kind),
            _ => None,
        }
    }

    /// Whether the guest reports that the process or container no longer exists.
    pub fn is_gone(&self) -> bool {
        match self {
            BackendError::Remote(error) => error.kind == RemoteErrorKind::NotFound || error.errno == Some(libc::ESRCH),
            _ => false,
        }
    }
}

/// Result of a backend.
pub type BackendResult<T> = Result<T, BackendError>;
