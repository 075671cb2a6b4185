//! Licences of everything that is linked in: an allow-list over SPDX expressions.

use super::{findings, metadata::Metadata};
use crate::Result;

/// Licences that ask for no more than a notice.
const ALLOWED: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Packages that are fine although the list does not say so, and why.
const LOOKED_AT: [(&str, &str); 2] = [
    ("pathrs", "MPL-2.0 asks for changes of its own files only, and there are none"),
    ("rust-criu", "names no identifier; the text in its LICENSE file is that of MIT"),
];

/// Runs the check.
pub fn check() -> Result<()> {
    let metadata = Metadata::load()?;
    let mut found = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("");
        if !allowed(licence) && !LOOKED_AT.iter().any(|(name, _)| *name == package.name) {
            found.push(format!("{} {}: licence {licence:?} is not on the list", package.name, package.version));
        }
    }
    findings(found)
}

/// Whether an SPDX expression can be satisfied with the list. The old form `A/B` means `A OR B`.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    either(&mut words) == Some(true) && words.is_empty()
}

/// `both [OR both]…`; `None` is a syntax error.
fn either(words: &mut &[&str]) -> Option<bool> {
    let mut result = both(words)?;
    while take(words, "OR") {
        result |= both(words)?;
    }
    Some(result)
}

/// `one [AND one]…`
fn both(words: &mut &[&str]) -> Option<bool> {
    let mut result = one(words)?;
    while take(words, "AND") {
        result &= one(words)?;
    }
    Some(result)
}

/// `( either )` or `LICENCE [WITH EXCEPTION]`
fn one(words: &mut &[&str]) -> Option<bool> {
    if take(words, "(") {
        let result = either(words)?;
        return take(words, ")").then_some(result);
    }
    let (first, rest) = words.split_first()?;
    *words = rest;
    if ["OR", "AND", "WITH", ")"].contains(first) {
        return None;
    }
    let mut name = (*first).to_owned();
    if take(words, "WITH") {
        let (exception, rest) = words.split_first()?;
        *words = rest;
        name = format!("{name} WITH {exception}");
    }
    Some(ALLOWED.contains(&name.as_str()))
}

fn take(words: &mut &[&str], wanted: &str) -> bool {
    match words.split_first() {
        Some((first, rest)) if *first == wanted => {
            *words = rest;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn expressions_are_satisfied_or_not() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in
            ["", "GPL-2.0", "MIT AND GPL-2.0", "(MIT OR Apache-2.0", "MIT OR", "MIT MIT", "MPL-2.0", "MIT WITH X"]
        {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
