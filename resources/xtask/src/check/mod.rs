//! `cargo xtask check`: the checks that need no virtual machine. All of them run, and all failures are reported.
//!
//! | file | contents |
//! |---|---|
//! | `sources`, `language` | small rules for files; plain English and one vocabulary |
//! | `modules`, `circles`, `graph` | no circles of modules: the check, the search, the graph of uses |
//! | `heads` | the head of a folder with many files has a table of them |
//! | `names` | public names are unique |
//! | `tree`, `analysis` | the crates as `syn` reads them; read once for all checks |
//! | `dependencies`, `licences`, `metadata` | which crate may use which; licences; what cargo knows of both |

mod analysis;
mod circles;
mod dependencies;
mod graph;
mod heads;
mod language;
mod licences;
mod metadata;
mod modules;
mod names;
mod sources;
mod tree;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use clap::builder::PossibleValuesParser;

use crate::suite::{self, Report};
use crate::{build, Result};

/// A check: its name and its function.
type Check = (&'static str, fn() -> Result<()>);

/// In the order they run: the fastest come first.
const CHECKS: [Check; 9] = [
    ("format", || build::run(build::cargo().args(["fmt", "--all", "--check"]))),
    ("sources", sources::check),
    ("language", language::check),
    ("modules", modules::check),
    ("names", names::check),
    ("dependencies", dependencies::check),
    ("licences", licences::check),
    ("clippy", clippy),
    ("docs", docs),
];

/// Options of `check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these checks
    #[arg(value_parser = PossibleValuesParser::new(CHECKS.map(|(name, _)| name).into_iter().chain([UNIT_TESTS])))]
    names: Vec<String>,
}

/// Not one of [`CHECKS`], because the unit tests write their own lines of the report.
const UNIT_TESTS: &str = "tests";

/// Runs the checks and the unit tests.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    let mut report = Report::default();
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|n| n == name);
    run(&mut report, wanted);
    if wanted(UNIT_TESTS) {
        suite::unit_tests(&mut report)?;
    }
    Ok(report.close())
}

/// Runs the checks whose names are `wanted` and adds their results to `report`.
pub(crate) fn run(report: &mut Report, wanted: impl Fn(&str) -> bool) {
    for (name, check) in CHECKS.into_iter().filter(|(name, _)| wanted(name)) {
        println!("\n   Checking {name}");
        let begin = Instant::now();
        let result = check();
        match &result {
            Ok(()) => println!("check {name} ... ok"),
            Err(error) => println!("{error}\ncheck {name} ... FAILED"),
        }
        report.check(name, result.is_ok(), begin.elapsed());
    }
}

fn clippy() -> Result<()> {
    build::run(build::cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn docs() -> Result<()> {
    let mut command = build::cargo();
    command.args(["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    build::run(&mut command)
}

/// One error for a list of findings; none for an empty one.
fn findings(found: Vec<String>) -> Result<()> {
    match found.is_empty() {
        true => Ok(()),
        false => Err(found.join("\n").into()),
    }
}

/// Inputs of the fuzz targets: bytes as the fuzzer found them, even where they happen to be text.
const INPUTS: &str = "tests/fuzz/corpus/";

/// The text files git knows, without the inputs of fuzz targets, by their paths from the root of the repository.
fn repository_files() -> Result<Vec<(String, String)>> {
    let root = build::root();
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&root);
    let output = git.output().map_err(|e| format!("cannot run git: {e}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let names = String::from_utf8(output.stdout)?;
    // git still lists a file that was removed without a commit.
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root.join(name)).ok()?));
    Ok(names.split_terminator('\0').filter(|name| !name.starts_with(INPUTS)).filter_map(read).collect())
}
