//! Licences of all linked packages: an allow-list over SPDX expressions.

use super::{findings, metadata::Metadata};
use crate::{build, Result};

/// Licences that require only a notice.
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

/// Packages that are acceptable although their licence is not on the list, and the reason.
const REVIEWED: [(&str, &str); 2] = [
    ("pathrs", "MPL-2.0 covers changes to its own files only, and there are none"),
    ("rust-criu", "names no identifier; the text in its LICENSE file is that of MIT"),
];

/// Libraries of other languages that packages bundle or link: package, library, licence of the library. The package's own
/// licence does not cover them. Empty entries: the name ends in `-sys`, but there is no such library.
const FOREIGN: [(&str, &str, &str); 6] = [
    ("libbz2-rs-sys", "", ""),
    ("liblzma-sys", "liblzma", "0BSD"),
    // Statically, from Debian's package libseccomp-dev, into hutch-agent-oci alone.
    ("libseccomp-sys", "libseccomp", "LGPL-2.1"),
    ("linux-raw-sys", "", ""),
    ("netlink-sys", "", ""),
    ("zstd-sys", "zstd", "BSD-3-Clause"),
];

/// Runs the check.
pub(crate) fn check() -> Result<()> {
    let notice = std::fs::read_to_string(build::root().join("resources/NOTICE"))?;
    findings(problems(&Metadata::load()?, &notice))
}

fn problems(metadata: &Metadata, notice: &str) -> Vec<String> {
    let mut found = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("");
        let name = format!("{} {}", package.name, package.version);
        if !allowed(licence) && !REVIEWED.iter().any(|(name, _)| *name == package.name) {
            found.push(format!("{name}: licence {licence:?} is not on the list"));
        }
        let listed = FOREIGN.iter().find(|(sys, ..)| *sys == package.name);
        match listed {
            Some((_, "", _)) => {}
            // NOTICE fulfils a licence that requires more than those on the list.
            Some((_, library, licence)) => {
                let kept = allowed(licence) || notice.contains(library) && notice.contains(licence);
                found.extend(
                    (!kept).then(|| format!("{name}: NOTICE does not name {library} and its licence, {licence}")),
                );
            }
            None if package.links.is_some() || package.name.ends_with("-sys") => {
                found.push(format!("{name}: which library does it link? Add that and its licence to FOREIGN"));
            }
            None => {}
        }
    }
    found
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
    use super::*;

    #[test]
    fn foreign_libraries_are_listed_and_their_licences_kept() {
        let package = |name: &str, links: Option<&str>| {
            serde_json::json!({ "id": name, "name": name, "version": "1", "license": "MIT", "links": links,
                "dependencies": [] })
        };
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "packages": [package("a", None), package("b", Some("b")), package("c-sys", None), package("zstd-sys", Some("zstd")),
                package("libseccomp-sys", None)],
            "workspace_members": [],
        }))
        .unwrap();
        let unlisted = ["b", "c-sys"]
            .map(|name| format!("{name} 1: which library does it link? Add that and its licence to FOREIGN"));
        assert_eq!(problems(&metadata, "libseccomp, LGPL-2.1"), unlisted);
        let found = problems(&metadata, "");
        assert_eq!(found[2..], ["libseccomp-sys 1: NOTICE does not name libseccomp and its licence, LGPL-2.1"]);
    }

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
