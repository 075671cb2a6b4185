//! Constructors of the errors that go to the host. Every module that serves a request uses them.

use std::fmt::Display;

use hutch_agent_proto::{RemoteError, RemoteErrorKind};
use nix::errno::Errno;

/// Result of serving a request.
pub type Outcome<T> = Result<T, RemoteError>;

/// The request contradicts itself, the contract or the root file system.
pub fn invalid(message: impl Into<String>) -> RemoteError {
    RemoteError::new(RemoteErrorKind::Invalid, message)
}

/// The named object is not known to the agent.
pub fn not_found(message: impl Into<String>) -> RemoteError {
    RemoteError::new(RemoteErrorKind::NotFound, message)
}

/// The object is in a state that does not allow the request.
pub fn wrong_state(message: impl Into<String>) -> RemoteError {
    RemoteError::new(RemoteErrorKind::WrongState, message)
}

/// This guest cannot serve the request at all.
pub fn unsupported(message: impl Into<String>) -> RemoteError {
    RemoteError::new(RemoteErrorKind::Unsupported, message)
}

/// A system call failed while doing `what`.
pub fn system(what: impl Display, errno: Errno) -> RemoteError {
    RemoteError {
        kind: RemoteErrorKind::System,
        message: format!("{what}: {}", errno.desc()),
        errno: Some(errno as i32),
    }
}

/// As [`system`], for results of the standard library.
pub fn io(what: impl Display, error: &std::io::Error) -> RemoteError {
    RemoteError::system(what, error)
}
