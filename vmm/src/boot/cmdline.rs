//! The kernel command line: collects parameters in order, checks them, and limits the length.

/// Why a command line cannot be given to a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// The parameter is `=value`, or empty.
    #[error("kernel parameter {0:?} has no name; write NAME or NAME=VALUE")]
    EmptyKey(String),
    /// The parameter has a character other than printable ASCII.
    #[error("kernel parameter {parameter:?} contains the character {character:?}; only printable ASCII can be passed")]
    BadCharacter { parameter: String, character: char },
    /// The line is longer than the kernel allows.
    #[error("the kernel command line is {len} bytes long, but this kernel takes {max}; remove parameters")]
    TooLong { len: usize, max: usize },
}

/// Kernel parameters in the order of insertion. A later parameter wins over an earlier one: the machine's own come first
/// and the configured parameters last (P-182).
#[derive(Clone, Debug, Default)]
pub struct Cmdline {
    parameters: Vec<String>,
}

impl Cmdline {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one parameter, `name` or `name=value`. Spaces are allowed, for quoted values.
    pub fn push(&mut self, parameter: impl Into<String>) -> Result<(), CmdlineError> {
        let parameter = parameter.into();
        let name = parameter.split('=').next().unwrap_or_default();
        if name.trim().is_empty() {
            return Err(CmdlineError::EmptyKey(parameter));
        }
        if let Some(character) = parameter.chars().find(|c| !matches!(c, ' '..='~')) {
            return Err(CmdlineError::BadCharacter { parameter, character });
        }
        self.parameters.push(parameter);
        Ok(())
    }

    /// Joins the parameters to a line of at most `max` bytes.
    pub fn finish(&self, max: usize) -> Result<String, CmdlineError> {
        let line = self.parameters.join(" ");
        if line.len() > max {
            return Err(CmdlineError::TooLong { len: line.len(), max });
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(parameters: &[&str]) -> Result<String, CmdlineError> {
        let mut cmdline = Cmdline::new();
        for parameter in parameters {
            cmdline.push(*parameter)?;
        }
        cmdline.finish(64)
    }

    /// P-182.
    #[test]
    fn p_182_order_is_kept_and_empty_keys_are_rejected() {
        assert_eq!(line(&["panic=-1", "quiet", "panic=5"]), Ok("panic=-1 quiet panic=5".into()));
        for bad in ["", "=1", " ", " =x"] {
            assert_eq!(line(&[bad]), Err(CmdlineError::EmptyKey(bad.into())));
        }
    }

    #[test]
    fn control_and_foreign_characters_are_rejected() {
        for bad in ["a=\n", "a=\0", "ä=1", "x\t"] {
            assert!(matches!(line(&[bad]), Err(CmdlineError::BadCharacter { .. })), "{bad:?}");
        }
        assert_eq!(line(&["dyndbg=\"file x +p\""]), Ok("dyndbg=\"file x +p\"".into()));
    }

    #[test]
    fn the_limit_counts_bytes_and_separators() {
        let (a, b) = ("a".repeat(32), "b".repeat(31));
        assert_eq!(line(&[&a, &b]).map(|line| line.len()), Ok(64));
        assert_eq!(line(&[&a, &b, "c"]), Err(CmdlineError::TooLong { len: 66, max: 64 }));
    }

    proptest! {
        #[test]
        fn any_strings_give_a_line_or_an_error(parameters in proptest::collection::vec(".{0,20}", 0..8)) {
            let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
            if let Ok(line) = line(&parameters) {
                prop_assert!(line.is_ascii() && line.len() <= 64 && !line.contains('\0'));
            }
        }
    }
}
