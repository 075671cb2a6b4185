//! Development tasks of hutch: `cargo xtask help`. Each task has a file, prints its steps, and ends with an exit code for
//! scripts.
//!
//! | file | contents |
//! |---|---|
//! | `build`, `stage`, `tools` | runs cargo; builds the product in `target/dist`; programs that run the testbed |
//! | `setup`, `kernel` | Debian packages; the kernel of the testbed |
//! | `check` | `cargo xtask check` |
//! | `test`, `beside`, `suite` | `cargo xtask test`: what is run; the part that runs beside the rest; how test binaries are run |
//! | `testbed`, `demo`, `perf`, `spec` | the tasks of these names |
//! | `limits` | the limits for the cost of a boot |
//! | `fuzz` | builds the fuzz targets and runs them |
//! | `mutants` | changes of the product that no unit test notices, by hand |

mod beside;
mod build;
mod check;
mod demo;
mod fuzz;
mod kernel;
mod limits;
mod mutants;
mod perf;
mod setup;
mod spec;
mod stage;
mod suite;
mod test;
mod testbed;
mod tools;

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
    /// Run a command in an emulated machine with a real /dev/kvm
    Testbed(testbed::Args),
    /// Install the Debian packages that the other tasks need, and fetch the testbed's kernel
    Setup,
    /// Build static programs of hutch and its agents, man pages and completions into target/dist
    Build,
    /// Write the tables of options in resources/docs/reference/cli.md
    Docs,
    /// Build hutch quickly and run a command in a real guest
    Demo(demo::Args),
    /// Run the static checks and the unit tests, which need no virtual machine
    Check(check::Args),
    /// Run all checks and tests, as CI does
    Test(test::Args),
    /// Attack what reads bytes of others with arbitrary ones (cargo-fuzz)
    Fuzz(fuzz::Args),
    /// List small changes of the product that no unit test notices (cargo-mutants)
    Mutants(mutants::Args),
    /// Measure boot times beside QEMU's microvm, in deterministic time
    Perf(perf::Args),
    /// List the numbered requirements of the pod contract that have no test
    #[command(alias = "coverage-spec")]
    SpecCoverage,
    /// Run the test binaries in a file, inside the testbed
    #[command(hide = true)]
    RunPlan {
        /// Written by `test`
        plan: std::path::PathBuf,
    },
    /// Run the tests in a file, beside other steps of `test`
    #[command(hide = true)]
    RunBeside {
        /// Written by `test`
        tests: std::path::PathBuf,
        /// Where the results go
        results: std::path::PathBuf,
    },
}

/// Result of a task. `main` prints an error with its causes and ends with exit code 125.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Testbed(args) => testbed::main(args),
        Task::Setup => setup::main(),
        Task::Build => stage::main(),
        Task::Docs => stage::write_reference(),
        Task::Demo(args) => demo::main(args),
        Task::Check(args) => check::main(args),
        Task::Test(args) => test::main(args),
        Task::Fuzz(args) => fuzz::main(args),
        Task::Mutants(args) => mutants::main(args),
        Task::Perf(args) => perf::main(args),
        Task::SpecCoverage => spec::main(),
        Task::RunPlan { plan } => suite::in_testbed(&plan),
        Task::RunBeside { tests, results } => beside::main(&tests, &results),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {}", hutch_agent_proto::error_chain(&*error));
        ExitCode::from(125)
    })
}
