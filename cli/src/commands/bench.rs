//! `hutch bench`.

use std::io::Write;

use crate::args::bench::{BenchArgs, BenchCommand};
use crate::bench::{boot, compare, density};
use crate::failure::Failure;

/// Measures, or compares measurements.
pub fn run(args: &BenchArgs) -> Result<u8, Failure> {
    match &args.what {
        BenchCommand::Boot(args) => boot::run(args),
        BenchCommand::Density(args) => density::run(args),
        BenchCommand::Compare { before, after } => {
            let text = compare::compare(&compare::read(before)?, &compare::read(after)?)?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(0)
        }
    }
}
