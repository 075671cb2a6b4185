//! The failure of a command: an error and an exit code.

use std::error::Error;
use std::io::{self, Write as _};

use hutch_agent_proto::error_chain;

/// Exit code for failures of hutch itself in `hutch run`.
pub const RUN_FAILED: u8 = 125;
/// Exit code for failures of all other commands.
pub const FAILED: u8 = 1;

/// A shell's exit code for a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;

/// An error on its way to [`Failure::report`].
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Ends the program with `code` because of `error`.
    pub fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, error: error.into() }
    }

    /// The same failure, ending the program with `code`.
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Prints the error and its causes on one line, and returns the exit code. Prints nothing if stdout was closed, as
    /// in `hutch schema | head`.
    pub fn report(&self) -> u8 {
        if self.error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return BROKEN_PIPE;
        }
        // A single write, so that the line does not mix with the command's last output.
        let line = format!("hutch: {}\n", error_chain(&*self.error));
        // There is no other place to report a closed stderr.
        let _ = std::io::stderr().write_all(line.as_bytes());
        self.code
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(FAILED, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as _)
        }
    }

    #[test]
    fn causes_are_printed_once_each() {
        let inner = Layer("no such file", None);
        let middle = Layer("no such file", Some(Box::new(inner)));
        let outer = Layer("open the kernel", Some(Box::new(middle)));
        assert_eq!(error_chain(&outer), "open the kernel: no such file");
    }
}
