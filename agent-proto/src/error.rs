//! Errors that cross the channel, and the text of an error with its causes.

use std::error::Error;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Class of a failure in the guest, in terms that the host can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RemoteErrorKind {
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
    /// A system call failed; `errno` says how.
    System,
}

/// An error reported by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// Class of the failure.
    pub kind: RemoteErrorKind,
    /// One line for people, naming the object.
    pub message: String,
    /// Linux errno, if a system call caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

impl RemoteError {
    /// An error of `kind` with a `message` that names the object.
    pub fn new(kind: RemoteErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    /// A failed system call: `what` was attempted and failed with `source`.
    pub fn system(what: impl std::fmt::Display, source: &std::io::Error) -> Self {
        Self { kind: RemoteErrorKind::System, message: format!("{what}: {source}"), errno: source.raw_os_error() }
    }
}

/// The text of `error` and its causes in one line: `a: b: c`.
///
/// Leaves out a cause whose text the line already ends with: many errors print their cause themselves.
///
/// ```
/// use std::io::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Other, Error::from_raw_os_error(2));
/// assert_eq!(hutch_agent_proto::error_chain(&error), "No such file or directory (os error 2)");
/// ```
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn chain(texts: &[&'static str]) -> String {
        let mut layers = texts.iter().rev();
        let mut error = Layer { text: layers.next().unwrap(), source: None };
        for text in layers {
            error = Layer { text, source: Some(Box::new(error)) };
        }
        error_chain(&error)
    }

    #[test]
    fn causes_follow_their_effects() {
        assert_eq!(chain(&["alone"]), "alone");
        assert_eq!(chain(&["start", "open the kernel", "no such file"]), "start: open the kernel: no such file");
    }

    #[test]
    fn a_cause_is_printed_once() {
        assert_eq!(chain(&["open the kernel", "no such file", "no such file"]), "open the kernel: no such file");
        assert_eq!(chain(&["open: no such file", "no such file"]), "open: no such file");
        assert_eq!(chain(&["a: b: c", "b: c", "c"]), "a: b: c");
    }
}
