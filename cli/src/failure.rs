//! How a command fails: an error and an exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Exit code for failures of hutch itself in `hutch run`.
pub const RUN_FAILED: u8 = 125;
/// Exit code for failures of all other commands.
pub const FAILED: u8 = 1;

/// What a shell makes of a program that SIGPIPE has ended.
const NOBODY_READS: u8 = 128 + 13;

/// An error on its way to [`Failure::report`].
#[derive(Debug)]
pub struct Failure {
    /// Exit code of the program.
    pub code: u8,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// `error` ends the program with `code`.
    pub fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, error: error.into() }
    }

    /// The same failure, ending the program with `code`.
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Prints the error and its causes on one line; the exit code. Nothing is printed if all that went wrong is that
    /// nobody reads the output any more, as in `hutch schema | head`.
    pub fn report(&self) -> u8 {
        if self.error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return NOBODY_READS;
        }
        // Whole in one write, so that it does not mix with the command's last output.
        let line = format!("hutch: {}\n", chain(&*self.error));
        // Where that can't be written there is nowhere to say so.
        let _ = std::io::stderr().write_all(line.as_bytes());
        self.code
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(FAILED, error)
    }
}

/// `error: cause: cause`, leaving out a cause that its effect already repeats.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        source = cause.source();
    }
    text
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
        assert_eq!(chain(&outer), "open the kernel: no such file");
    }
}
