//! `cargo xtask test`: all checks and tests, as in CI.
//!
//! 1. The checks of `cargo xtask check`.
//! 2. Unit tests and the documentation's examples.
//! 3. Each fuzz target for half a minute.
//! 4. Bare-metal guests on any `/dev/kvm` of this host.
//! 5. The built program on a KVM that only emulates, if this host has one.
//! 6. The limits of a boot in exits, memory and deterministic time.
//! 7. Bare-metal and real guests on a KVM that runs stock kernels: the host's, or the testbed's in one boot of it.
//!
//! Tests that cannot run here are reported and counted as skipped. The last line is
//! `N passed, N failed, N skipped`.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hutch_testbed_host::kvm::{self, HostKvm};

use crate::kernel::Choice;
use crate::setup::{self, Need};
use crate::stage::Stage;
use crate::suite::{self, Binary, Kind, Plan, Report};
use crate::testbed::{self, RunRequest};
use crate::tools::Tools;
use crate::{build, check, fuzz, kernel, limits, Result};

/// Wall-clock limit for all real-guest tests in the testbed.
const TESTBED_TIMEOUT: Duration = Duration::from_secs(50 * 60);

/// Memory of the testbed: enough for a 5 GiB guest. The host allocates only touched pages.
const TESTBED_MEMORY_MIB: u64 = 8192;

/// Prefix of the names of tests that need the guest kernel built from source.
const NEEDS_SOURCE_KERNEL: &str = "source_kernel_";

/// Variables that set the length of long tests. The testbed gets them too.
const LENGTHS: [&str; 3] = ["HUTCH_E2E_BOOTS", "HUTCH_E2E_PODS", "HUTCH_E2E_STREAM_MIB"];

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Use only Debian's kernels (build none from source), shorten the long tests, and do not fuzz
    #[arg(long)]
    quick: bool,
    /// Run only tests whose names contain NAME, and no checks
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Run the tests N times
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u32,
}

/// Runs the task.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    let mut report = Report::default();
    setup::ensure(&[Need::RootFs])?;
    if args.only.is_none() {
        check::run(&mut report, |_| true);
    }
    match suite::build_all() {
        Ok(binaries) => tests(&args, binaries, &mut report),
        Err(error) => report.failure("building the tests", &error.to_string()),
    }
    Ok(report.close())
}

fn tests(args: &Args, binaries: Vec<Binary>, report: &mut Report) {
    let of = |kind| binaries.iter().filter(|b| b.kind == kind).cloned().collect::<Vec<Binary>>();
    let plan = |binaries| {
        let mut plan = Plan { repeat: args.repeat, ..Plan::new(binaries, args.only.as_deref()) };
        if args.only.is_some() {
            plan.drop_empty();
        }
        plan
    };
    suite::on_host(&plan(of(Kind::Unit)), report);
    if args.only.is_none() {
        suite::doc_tests(report);
        fuzz::check(args.quick, report);
    }

    let here = Plan { serial: true, label: " on this host's /dev/kvm".to_owned(), ..plan(of(Kind::BareMetal)) };
    match open_kvm() {
        Ok(_) => suite::on_host(&here, report),
        Err(error) => report.skipped("bare-metal guests on this host", here.total(), &format!("/dev/kvm: {error}")),
    }

    let emulated = Plan { serial: true, ..plan(of(Kind::EmulatedKvm)) };
    let guests = Plan { serial: true, ..plan([of(Kind::BareMetal), of(Kind::RealGuest)].concat()) };
    // If the filter of --only matches no guest test, neither guest assets nor the testbed are necessary.
    if emulated.binaries.is_empty() && guests.binaries.is_empty() && !wants_limits(args) {
        return;
    }
    if let Err(error) = with_product(args, emulated, guests, report) {
        report.failure("preparing the guest tests", &error.to_string());
    }
}

/// Name of the limits, for `--only`.
const LIMITS: &str = "limits of a boot";

fn wants_limits(args: &Args) -> bool {
    args.only.as_deref().is_none_or(|only| LIMITS.contains(only))
}

/// Skipped in a quick run, because the limits need the kernel from source.
fn limits_of_a_boot(args: &Args, stage: &Stage, report: &mut Report) {
    if !wants_limits(args) {
        return;
    }
    if args.quick {
        return report.skipped(LIMITS, 1, "--quick");
    }
    if let Err(error) = limits::check(stage, report) {
        report.failure(LIMITS, &error.to_string());
    }
}

fn open_kvm() -> io::Result<fs::File> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm")
}

/// The tests that run the built program.
fn with_product(args: &Args, mut emulated: Plan, mut guests: Plan, report: &mut Report) -> Result<()> {
    let kernels: &[&str] = if args.quick { &["distro"] } else { &["distro", "source"] };
    setup::ensure(&[Need::Kernel, Need::Network])?;
    let stage = Stage::build()?.for_tests()?;
    kernels.iter().try_for_each(|kernel| stage.make_guest(kernel))?;
    limits_of_a_boot(args, &stage, report);
    emulated.env = stage.env();
    guests.env = stage.env();
    guests.env.extend(LENGTHS.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
    guests.env.push(("HUTCH_E2E_KERNELS".to_owned(), kernels.join(",")));
    if args.quick {
        guests.env.push(("HUTCH_E2E_QUICK".to_owned(), "1".to_owned()));
        let all = guests.total();
        guests.skip = Some(NEEDS_SOURCE_KERNEL.to_owned());
        report.skipped("tests with a kernel from source", all - guests.total(), "--quick");
    }
    match (kvm::host(), open_kvm()) {
        (HostKvm::NoExtensions, Ok(_)) => suite::on_host(&emulated, report),
        _ if emulated.binaries.is_empty() => {}
        _ => report.skipped("tests of an emulating KVM", emulated.total(), "this host's KVM is not one"),
    }
    if kvm::host() == HostKvm::Usable {
        guests.label = " on this host's KVM".to_owned();
        suite::on_host(&guests, report);
        return Ok(());
    }
    guests.label = " in the testbed".to_owned();
    setup::ensure(&[Need::Testbed])?;
    let choice = if args.quick { Choice::Distro } else { Choice::Own };
    kernel::testbed(&choice, true, &stage.tools)?;
    in_testbed(choice, guests, stage.tools, report)
}

/// Runs a plan in one boot of the testbed, by a copy of this program.
fn in_testbed(kernel: Choice, mut plan: Plan, tools: Tools, report: &mut Report) -> Result<()> {
    let shared = build::target_dir().join("testbed-results");
    fs::create_dir_all(&shared)?;
    let (plan_file, results) = (shared.join("plan.json"), shared.join("results.json"));
    // A copy, because building the tests has replaced this program's file.
    let myself = shared.join("xtask");
    fs::copy("/proc/self/exe", &myself)?;
    remove(&results)?;
    plan.results = Some(results.clone());
    fs::write(&plan_file, serde_json::to_vec(&plan)?)?;
    let code = testbed::wherever(&RunRequest {
        args: vec![myself.into(), "run-plan".into(), plan_file.into()],
        env: Vec::new(),
        write: vec![shared],
        kernel,
        deterministic: false,
        memory_mib: TESTBED_MEMORY_MIB,
        timeout: TESTBED_TIMEOUT,
        tools,
    })?;
    collect(&plan, &results, report)?;
    if code != 0 {
        report.failure("the testbed", &format!("its command ended with {code}"));
    }
    Ok(())
}

/// Adds the results from the testbed. A binary without a result is a failure.
fn collect(plan: &Plan, results: &Path, report: &mut Report) -> Result<()> {
    let inside: Report = match fs::read(results) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => Report::default(),
    };
    let done: Vec<String> = inside.names().map(str::to_owned).collect();
    report.append(inside);
    for name in plan.names().filter(|name| !done.contains(name)) {
        report.failure(&name, "it did not run to its end");
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
