//! Parses the output of Rust's test runner.

use serde::{Deserialize, Serialize};

/// Results of one or more test binaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run.
    pub(crate) skipped: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The numbers of a closing line, `test result: ok. 1 passed; 0 failed; 2 ignored; …`. Ignores the count of filtered tests.
pub(crate) fn closing_line(line: &str) -> Option<Counts> {
    let (_, numbers) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    let mut seen = 0;
    for part in numbers.split("; ") {
        let Some((number, what)) = part.split_once(' ') else { continue };
        let field = match what {
            "passed" => &mut counts.passed,
            "failed" => &mut counts.failed,
            "ignored" => &mut counts.skipped,
            _ => continue,
        };
        *field = number.parse().ok()?;
        seen += 1;
    }
    (seen == 3).then_some(counts)
}

/// Whether a test reports in this line that this host cannot run it: `SKIPPED: why`. A test writes this to `io::stdout()`
/// directly, because the runner hides the output of passing tests. The text may follow the start of the runner's own line.
pub(crate) fn says_skipped(line: &str) -> bool {
    line.split(" ... ").any(|part| part.starts_with("SKIPPED: "))
}

/// The number of tests in the output of `--list --format terse`.
pub(crate) fn listed(output: &str) -> u64 {
    output.lines().filter(|line| line.ends_with(": test")).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read_and_nothing_else() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 9 filtered out; finished in 0.05s";
        assert_eq!(closing_line(line), Some(Counts { passed: 3, failed: 1, skipped: 2 }));
        for other in ["test result: ok", "test a ... ok", "", "test result: ok. x passed; 0 failed; 0 ignored"] {
            assert_eq!(closing_line(other), None, "{other}");
        }
    }

    #[test]
    fn skipping_is_said_at_the_start_of_a_line_or_after_the_tests_name() {
        assert!(says_skipped("SKIPPED: no such device"));
        assert!(says_skipped("test a::b ... SKIPPED: no such device"));
        assert!(!says_skipped("test a::b ... ok") && !says_skipped("it is SKIPPED: no"));
    }

    #[test]
    fn benches_are_not_listed_as_tests() {
        assert_eq!(listed("a::b: test\nc: bench\nd: test\n"), 2);
    }
}
