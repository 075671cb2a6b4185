//! The common parts of tests of shares: a suite of POSIX's rules for files, and programs that depend on a file system. The file
//! server's tests run them by the FUSE driver of the host's kernel, the end-to-end tests in a real guest.

mod posix;
mod programs;

use std::io::Write;
use std::path::Path;

pub use posix::{compare, results, Outcome, Results, CONFIG};
pub use programs::{database, package, repository, Script};

/// Whether this host has all these programs, where the scripts look for them. If not, reports the test as skipped.
#[must_use]
pub fn installed(programs: &[&str]) -> bool {
    let found = |name: &&str| ["/usr/bin", "/usr/local/bin"].iter().any(|place| Path::new(place).join(name).exists());
    let missing: Vec<_> = programs.iter().filter(|name| !found(name)).collect();
    if !missing.is_empty() {
        // Not by println!: the test runner hides it.
        let _ = writeln!(std::io::stdout(), "SKIPPED: this host has no {missing:?}");
    }
    missing.is_empty()
}
