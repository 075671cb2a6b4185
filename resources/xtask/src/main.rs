//! Development tasks of hutch: `cargo xtask help`. One file per task; each prints what it does and ends with an exit
//! code a script can use.

#![forbid(unsafe_code)]

mod build;
mod check;
mod demo;
mod kernel;
mod limits;
mod perf;
mod setup;
mod spec;
mod stage;
mod suite;
mod test;
mod testbed;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of hutch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a command in an emulated machine with a true /dev/kvm
    Testbed(testbed::Args),
    /// Install the Debian packages the other tasks need and fetch the testbed's kernel
    Setup,
    /// Build hutch and the guest's agents, statically linked, into target/dist
    Build,
    /// Build everything and run a command in a real guest
    Demo(demo::Args),
    /// Formatting, clippy, docs, dependencies, licences, unit tests: what needs no virtual machine
    Check(check::Args),
    /// Everything CI runs
    Test(test::Args),
    /// Boot times beside QEMU's microvm, in deterministic time
    Perf(perf::Args),
    /// List the numbered behaviours of the pod API that have no test
    #[command(alias = "coverage-spec")]
    SpecCoverage,
    /// Run the test binaries in a file, inside the testbed
    #[command(hide = true)]
    RunPlan {
        /// Written by `test`
        plan: std::path::PathBuf,
    },
}

/// What a task returns; an error is printed with its chain and ends in exit code 125.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Testbed(args) => testbed::main(args),
        Task::Setup => setup::main(),
        Task::Build => stage::main(),
        Task::Demo(args) => demo::main(args),
        Task::Check(args) => check::main(args),
        Task::Test(args) => test::main(args),
        Task::Perf(args) => perf::main(args),
        Task::SpecCoverage => spec::main(),
        Task::RunPlan { plan } => suite::in_testbed(&plan),
    };
    result.unwrap_or_else(|error| {
        eprint!("xtask: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            eprint!(": {cause}");
            source = cause.source();
        }
        eprintln!();
        ExitCode::from(125)
    })
}
