//! `cargo xtask spec-coverage`: lists the numbered requirements of the pod contract that have no test.
//!
//! A test cites its numbers in its name (`fn p_042_...`, several as `fn p_042_p_043_...`) or in a comment above it or
//! inside it (`P-042`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::{build, Result};

/// The contract, from the root of the repository. A requirement begins with its number: `**P-005 [H]** text`.
const CONTRACT: &str = "resources/docs/reference/pod-contract.md";

/// Prints the numbers without a test; exit code 1 if there are any.
pub(crate) fn main() -> Result<ExitCode> {
    let root = build::root();
    let contract = fs::read_to_string(root.join(CONTRACT)).map_err(|e| format!("{CONTRACT}: {e}"))?;
    let wanted = parse_contract(&contract);
    let mut covered = BTreeSet::new();
    for path in rust_files(&root)? {
        covered.extend(cited_in_tests(&fs::read_to_string(&path)?));
    }
    let missing: Vec<_> = wanted.iter().filter(|(number, _)| !covered.contains(*number)).collect();
    for (number, about) in &missing {
        println!("P-{number:03} {about}");
    }
    for number in covered.iter().filter(|number| !wanted.contains_key(number)) {
        println!("P-{number:03} is cited by a test but is not in the contract");
    }
    println!("{} of {} numbers have a test", wanted.len() - missing.len(), wanted.len());
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The numbers of the contract's requirements, each with its text.
fn parse_contract(text: &str) -> BTreeMap<u32, String> {
    let mut requirements = BTreeMap::new();
    for line in text.lines() {
        for (at, mark) in line.match_indices("**P-") {
            let rest = &line[at + mark.len()..];
            let Some((head, about)) = rest.split_once("**") else { continue };
            let digits = head.split(' ').next().unwrap_or_default();
            if let Ok(number) = digits.parse() {
                requirements.entry(number).or_insert_with(|| about.trim().to_owned());
            }
        }
    }
    requirements
}

/// The sources but this program's, whose own tests cite numbers as examples.
fn rust_files(root: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.rs"]).current_dir(root);
    let names = String::from_utf8(git.output()?.stdout)?;
    let names = names.split_terminator('\0').filter(|name| !name.starts_with("resources/"));
    Ok(names.map(|name| root.join(name)).filter(|path| path.exists()).collect())
}

/// The numbers cited by the tests of one source file: in the comments and attributes right above a `#[test]` function,
/// in its name, and in its body. Numbers elsewhere in the code do not count.
fn cited_in_tests(source: &str) -> BTreeSet<u32> {
    let mut cited = BTreeSet::new();
    let lines: Vec<&str> = source.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.trim() != "#[test]" {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let above = lines[..at].iter().rev().take_while(|l| l.trim_start().starts_with(['/', '#']));
        let below = lines[at + 1..].iter().take_while(|l| **l != closing);
        above.chain(below).for_each(|l| cited.extend(numbers(l)));
    }
    cited
}

/// Every `P-042` and `p_042` in a line.
fn numbers(line: &str) -> impl Iterator<Item = u32> + '_ {
    let starts = line.match_indices("P-").chain(line.match_indices("p_"));
    starts.filter_map(|(at, _)| {
        if line[..at].ends_with(|c: char| c.is_ascii_alphanumeric()) {
            return None;
        }
        let digits = line.get(at + 2..at + 5)?;
        let more = line[at + 5..].starts_with(|c: char| c.is_ascii_digit());
        (digits.bytes().all(|b| b.is_ascii_digit()) && !more).then(|| digits.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_only_in_tests() {
        let source = "\
/// Follows the rule P-001.
fn code() {} // P-002

mod tests {
    /// P-003, P-004
    #[test]
    fn p_005_and_p_006_work() {
        check(); // P-007
    }

    fn helper() {} // P-008
}
";
        assert_eq!(cited_in_tests(source), [3, 4, 5, 6, 7].into());
    }

    #[test]
    fn only_whole_numbers_count() {
        assert_eq!(numbers("P-0421 xp_042 CP-042 p_04 P-").count(), 0);
        assert_eq!(numbers("fn p_042_x_p_043() // P-044").collect::<BTreeSet<_>>(), [42, 43, 44].into());
    }

    #[test]
    fn the_contract_in_the_repository_has_numbers() {
        let text = fs::read_to_string(build::root().join(CONTRACT)).unwrap();
        assert!(parse_contract(&text).len() > 100);
    }

    #[test]
    fn requirements_of_the_contract_begin_with_their_numbers() {
        let text = "# P-001\n\n- **P-005 [H]** A pod has an id. See P-006.\n  **P-007** Text.\n| **P-008 [M]** | Cell |\n**P-x**";
        let found = parse_contract(text);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [5, 7, 8]);
        assert_eq!(found[&5], "A pod has an id. See P-006.");
    }
}
