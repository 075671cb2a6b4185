//! `hutch bench`.

use std::io::Write;
use std::path::Path;

use crate::args::bench::{BenchArgs, BenchCommand};
use crate::bench::{boot, compare, density};
use crate::failure::Failure;

/// Runs `hutch bench …` and returns the exit code.
pub fn run(args: &BenchArgs) -> Result<u8, Failure> {
    match &args.what {
        BenchCommand::Boot(args) => match args.compare.as_deref() {
            Some([before, after]) => compare(before, after),
            _ => boot::run(args),
        },
        BenchCommand::Density(args) => density::run(args),
        BenchCommand::Compare { before, after } => compare(before, after),
    }
}

fn compare(before: &Path, after: &Path) -> Result<u8, Failure> {
    let text = compare::compare(&compare::read(before)?, &compare::read(after)?)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}
