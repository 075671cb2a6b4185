//! Small rules for the files of the repository that no compiler checks.

use std::fs;
use std::path::Path;

use super::findings;
use crate::{build, Result};

/// A source file past 500 lines wants to be two; this is where wanting ends.
const MAX_LINES: usize = 600;

/// Runs the check over the files git knows.
pub fn check() -> Result<()> {
    let root = build::root();
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&root);
    let output = git.output().map_err(|e| format!("cannot run git: {e}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let names = String::from_utf8(output.stdout)?;
    let mut found = Vec::new();
    for name in names.split_terminator('\0') {
        // A file removed but not yet committed as such is still listed; one that is not text has no lines to look at.
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            found.extend(problems(Path::new(name), &text));
        }
    }
    findings(found)
}

fn problems(path: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let rust = path.extension().is_some_and(|e| e == "rs");
    let name = path.display();
    if rust && text.lines().count() > MAX_LINES {
        found.push(format!("{name}: {} lines: split it", text.lines().count()));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{name}: no newline at its end"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let mut complain = |what: String| found.push(format!("{name}:{number}: {what}"));
        if ["<<<<<<< ", ">>>>>>> "].iter().any(|marker| line.starts_with(marker)) {
            complain("a merge conflict".to_owned());
        }
        if line.ends_with([' ', '\t']) && path.extension().is_none_or(|e| e != "md") {
            complain("white space at its end".to_owned());
        }
        let unfinished = unfinished_words();
        for word in unfinished.iter().filter(|word| rust && line.contains(word.as_str())) {
            complain(format!("{word}: finish it"));
        }
    }
    found
}

/// Marks of unfinished work, put together here so that this file does not contain them.
fn unfinished_words() -> [String; 5] {
    [("to", "do!("), ("unimplem", "ented!("), ("d", "bg!("), ("FIX", "ME"), ("XX", "X ")]
        .map(|(a, b)| format!("{a}{b}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_case() {
        let unfinished = format!("fn a() {{\n    {}\"later\")\n}}\n", unfinished_words()[0]);
        assert_eq!(problems(Path::new("a.rs"), &unfinished).len(), 1);
        assert_eq!(problems(Path::new("a.txt"), &unfinished).len(), 0);
        assert_eq!(problems(Path::new("a.sh"), "x \n"), ["a.sh:1: white space at its end"]);
        assert_eq!(problems(Path::new("a.md"), "x  \ny"), ["a.md: no newline at its end"]);
        assert_eq!(problems(Path::new("a.rs"), &"x\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(problems(Path::new("a.rs"), &"x\n".repeat(MAX_LINES)).len(), 0);
    }
}
