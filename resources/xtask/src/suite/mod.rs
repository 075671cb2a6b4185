//! Builds test binaries, runs them here or in the testbed, and adds up their results.

mod binary;
mod libtest;
mod report;
mod run;
mod speed;

use std::time::Instant;

pub(crate) use binary::{build_all, Binary, Kind};
#[cfg(test)]
pub(crate) use libtest::Counts;
#[cfg(test)]
pub(crate) use report::End;
pub(crate) use report::Report;
pub(crate) use run::{in_testbed, on_host, Plan};
pub(crate) use speed::slowness;

use crate::{build, Result};

/// Runs all unit tests and the documentation's examples on this host.
pub(crate) fn unit_tests(report: &mut Report) -> Result<()> {
    let binaries = build_all()?;
    let units: Vec<Binary> = binaries.into_iter().filter(|b| b.kind == Kind::Unit).collect();
    on_host(&Plan::new(units, None), report);
    doc_tests(report);
    Ok(())
}

/// Runs the examples in the documentation. cargo builds and runs them in one call.
pub(crate) fn doc_tests(report: &mut Report) {
    println!("\n     Running documentation examples");
    let begin = Instant::now();
    let mut command = build::cargo();
    command.args(["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"]);
    let (counts, end) = run::tee(&mut command, run::binary_timeout(), &mut std::io::stdout());
    report.binary("documentation examples", counts, end, begin.elapsed());
}
