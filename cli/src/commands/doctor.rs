//! `hutch doctor`.

use std::io::{self, Write};

use crate::args::doctor::DoctorArgs;
use crate::args::format::Format;
use crate::doctor::{examine, Report, ThisHost};
use crate::failure::{Failure, FAILED};

/// Examines this host; the exit code is 0 if `hutch run` would work.
pub fn run(args: &DoctorArgs) -> Result<u8, Failure> {
    let report = Report::new(examine(&ThisHost::new(args.guest_dir.as_deref())));
    let text = match args.format {
        Format::Table => report.table(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if report.usable { 0 } else { FAILED })
}
