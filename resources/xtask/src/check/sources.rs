//! Small rules for the files of the repository that no compiler checks.

use std::path::Path;

use super::{findings, repository_files};
use crate::Result;

/// Split a source file past 500 lines; this check refuses one past this limit.
const MAX_LINES: usize = 600;

/// The sign of a section, and the only document whose sections the code cites by it.
const SECTION: char = '\u{a7}';
const CONTRACT: &str = "contract";

/// Runs the check over the files git knows.
pub(crate) fn check() -> Result<()> {
    let mut found = Vec::new();
    for (name, text) in repository_files()? {
        found.extend(problems(Path::new(&name), &text));
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
    let sections = rust && text.contains(SECTION);
    for (number, line) in (1..).zip(text.lines()) {
        let mut complain = |what: String| found.push(format!("{name}:{number}: {what}"));
        if ["<<<<<<< ", ">>>>>>> "].iter().any(|marker| line.starts_with(marker)) {
            complain("a merge conflict".to_owned());
        }
        if line.ends_with([' ', '\t']) && path.extension().is_none_or(|e| e != "md") {
            complain("white space at its end".to_owned());
        }
        if sections && line.contains(SECTION) && !line.contains(CONTRACT) {
            complain(format!("a section of what? Write {CONTRACT:?} on the same line"));
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
        let bare = format!("// Stops ({SECTION}6.3).\n");
        assert_eq!(problems(Path::new("a.rs"), &bare).len(), 1);
        assert_eq!(problems(Path::new("a.rs"), &bare.replace('(', "(pod contract, ")).len(), 0);
        assert_eq!(problems(Path::new("a.sh"), "x \n"), ["a.sh:1: white space at its end"]);
        assert_eq!(problems(Path::new("a.md"), "x  \ny"), ["a.md: no newline at its end"]);
        assert_eq!(problems(Path::new("a.rs"), &"x\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(problems(Path::new("a.rs"), &"x\n".repeat(MAX_LINES)).len(), 0);
    }
}
