//! `cargo xtask check`: everything that needs no virtual machine. All checks run; all that failed are reported.

mod dependencies;
mod graph;
mod licences;
mod metadata;
mod modules;
mod names;
mod sources;
mod tree;

use std::process::ExitCode;
use std::time::Instant;

use clap::builder::PossibleValuesParser;

use crate::suite::{self, Report};
use crate::{build, Result};

/// A check: its name, and what runs it.
type Check = (&'static str, fn() -> Result<()>);

/// In the order they run: what fails fastest comes first.
const CHECKS: [Check; 8] = [
    ("format", || build::run(build::cargo().args(["fmt", "--all", "--check"]))),
    ("sources", sources::check),
    ("modules", modules::check),
    ("names", names::check),
    ("dependencies", dependencies::check),
    ("licences", licences::check),
    ("clippy", clippy),
    ("docs", docs),
];

/// Options of `check`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these
    #[arg(value_parser = PossibleValuesParser::new(CHECKS.map(|(name, _)| name).into_iter().chain([UNIT_TESTS])))]
    names: Vec<String>,
}

/// The name of what is not in [`CHECKS`], since it reports for itself.
const UNIT_TESTS: &str = "tests";

/// Runs the checks and the unit tests.
pub fn main(args: Args) -> Result<ExitCode> {
    let mut report = Report::default();
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|n| n == name);
    run(&mut report, wanted);
    if wanted(UNIT_TESTS) {
        suite::unit_tests(&mut report)?;
    }
    Ok(report.close())
}

/// Runs the checks whose names are `wanted` and adds their results to `report`.
pub fn run(report: &mut Report, wanted: impl Fn(&str) -> bool) {
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
