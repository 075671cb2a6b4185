//! Errors that cross the channel.

use serde::{Deserialize, Serialize};

/// What went wrong in the guest, in terms the host can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request contradicts itself or the contract.
    Invalid,
    /// The named process, container or path is not known to the agent.
    NotFound,
    /// The id or token is taken.
    AlreadyExists,
    /// The object is in a state that does not allow the request.
    WrongState,
    /// The program to run does not exist in the root file system (exit code 127).
    ProgramNotFound,
    /// The program exists but cannot be executed (exit code 126).
    ProgramNotExecutable,
    /// The agent does not know this request.
    Unsupported,
    /// A time limit inside the guest ran out.
    Timeout,
    /// A system call failed; `errno` tells more.
    System,
}

/// An error reported by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// Class of the failure.
    pub kind: ErrorKind,
    /// One line for people, naming the object.
    pub message: String,
    /// Linux errno, if a system call caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

impl RemoteError {
    /// An error of `kind` with a `message` that names the object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    /// A failed system call: `what` was attempted, `source` is the result.
    pub fn system(what: impl std::fmt::Display, source: &std::io::Error) -> Self {
        Self { kind: ErrorKind::System, message: format!("{what}: {source}"), errno: source.raw_os_error() }
    }
}
