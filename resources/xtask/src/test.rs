//! `cargo xtask test`: all checks and tests, as in CI.
//!
//! 1. The checks of `cargo xtask check`.
//! 2. In a process beside the next two, which leave a processor idle most of the time ([`beside`]): unit tests, the
//!    documentation's examples, bare-metal guests on any `/dev/kvm` of this host, each fuzz target for half a minute.
//! 3. The limits of a boot in exits, memory and deterministic time.
//! 4. Bare-metal and real guests on a KVM that runs stock kernels: the host's, or the testbed's in one boot of it.
//! 5. The built program on a KVM that only emulates, if this host has one.
//!
//! With `--long` the long tests take their full length, and the guest tests run once more beside another emulated machine.
//!
//! Tests that cannot run here are reported and counted as skipped. At the end come the time of each step and the line
//! `N passed, N failed, N skipped`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use hutch_testbed_host::kvm::{self, HostKvm};

use crate::build::External;
use crate::kernel::Choice;
use crate::setup::{self, Need};
use crate::stage::Stage;
use crate::suite::{self, Binary, Kind, Plan, Report};
use crate::testbed::{self, RunRequest};
use crate::tools::Tools;
use crate::{beside, build, check, kernel, limits, Result};

/// The testbed may print nothing for this long beyond the limit of one test binary: its boot, and the binary's last words.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Memory of the testbed: enough for a 5 GiB guest. The host allocates only touched pages.
const TESTBED_MEMORY_MIB: u64 = 8192;

/// Prefix of the names of tests that need the guest kernel built from source.
const NEEDS_SOURCE_KERNEL: &str = "source_kernel_";

/// Variables that set the length of long tests, and their values with `--long`. The testbed gets them too.
const LENGTHS: [(&str, &str); 8] = [
    ("HUTCH_E2E_BOOTS", "600"),
    ("HUTCH_E2E_FSX_OPERATIONS", "10000"),
    ("HUTCH_E2E_POSIX", ""),
    ("HUTCH_E2E_PROGRAMS", "1"),
    ("HUTCH_FSX_OPERATIONS", "100000"),
    ("HUTCH_E2E_PODS", "100"),
    ("HUTCH_E2E_STREAM_MIB", "1024"),
    ("HUTCH_HAMMER_SECS", "60"),
];

/// With `--long`, the limit of a binary is this many times the usual one.
const LONG: u32 = 4;

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Use only Debian's kernels (build none from source), shorten the long tests, and do not fuzz
    #[arg(long)]
    quick: bool,
    /// Give the long tests their full length, and run the guest tests once more beside another emulated machine
    #[arg(long, conflicts_with = "quick")]
    long: bool,
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
        report.step("checks");
        check::run(&mut report, |_| true);
    }
    report.step("building the tests");
    match suite::build_all() {
        Ok(binaries) => tests(&args, binaries, &mut report),
        Err(error) => report.failure("building the tests", &error.to_string()),
    }
    Ok(report.close())
}

fn tests(args: &Args, binaries: Vec<Binary>, report: &mut Report) {
    let of = |kind| binaries.iter().filter(|b| b.kind == kind).cloned().collect::<Vec<Binary>>();
    let mut env = lengths(args);
    if !args.quick {
        report.step("programs of others");
        match file_system_tests() {
            Ok(programs) => env.extend(programs),
            Err(error) => report.failure("building programs of others", &error.to_string()),
        }
    }
    let plan = |binaries| {
        let mut plan = Plan { repeat: args.repeat, env: env.clone(), ..Plan::new(binaries, args.only.as_deref()) };
        if args.long {
            plan.limit *= LONG;
        }
        if args.only.is_some() {
            plan.drop_empty();
        }
        plan
    };
    let here = beside::Tests {
        units: plan(of(Kind::Unit)),
        guests: Plan { serial: true, label: " on this host's /dev/kvm".to_owned(), ..plan(of(Kind::BareMetal)) },
        documentation: args.only.is_none(),
        fuzz: args.only.is_none() && !args.quick,
    };
    let emulated = Plan { serial: true, ..plan(of(Kind::EmulatedKvm)) };
    let guests = Plan { serial: true, ..plan([of(Kind::BareMetal), of(Kind::RealGuest)].concat()) };
    // If the filter of --only matches no guest test, neither guest assets nor the testbed are necessary.
    if emulated.binaries.is_empty() && guests.binaries.is_empty() && !wants_limits(args) {
        report.step("tests on this host");
        return here.run(report);
    }
    if here.fuzz {
        // Here, since two processes cannot install packages at a time. Without them the targets are skipped, and counted.
        let _ = setup::ensure(&[Need::Fuzz]);
    }
    let mut beside = match here.start() {
        Ok(beside) => Some(beside),
        Err(error) => return report.failure("the tests on this host", &error.to_string()),
    };
    let embed = binaries.iter().find(|b| b.kind == Kind::Example && b.name == EMBED).map(|b| b.path.clone());
    if let Err(error) = with_product(args, embed, &mut beside, [emulated, guests], report) {
        report.failure("preparing the guest tests", &error.to_string());
    }
    end(&mut beside, report);
}

/// The lengths of long tests: the caller's, or those of `--long`.
fn lengths(args: &Args) -> Vec<(String, String)> {
    let length = |(name, long): (&str, &str)| {
        let given = std::env::var(name).ok().or_else(|| args.long.then(|| long.to_owned()))?;
        Some((name.to_owned(), given))
    };
    LENGTHS.into_iter().filter_map(length).collect()
}

/// Programs of others that test file systems, and the variables by which tests find them: one that checks random operations
/// on a file against memory, and a suite of what POSIX says of files.
const FILE_SYSTEM_TESTS: [(&str, External); 2] =
    [("HUTCH_E2E_FSX", ("fsx", "0.3.2")), ("HUTCH_E2E_PJDFSTEST", ("pjdfstest", "0.2.2"))];

/// Builds these programs, and what the tests that run them need.
fn file_system_tests() -> Result<Vec<(String, String)>> {
    setup::ensure(&[Need::Shares])?;
    let cache = hutch_testbed_host::cache_dir().join("tools");
    let paths = build::external_programs(FILE_SYSTEM_TESTS.map(|(_, program)| program), &cache)?;
    let pairs = FILE_SYSTEM_TESTS.iter().zip(paths);
    Ok(pairs.map(|((name, _), path)| ((*name).to_owned(), path.to_string_lossy().into_owned())).collect())
}

/// The example that a test runs, from the root of the repository.
const EMBED: &str = "runtime/examples/embed.rs";

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

/// The tests that run the built program. `embed` is the built example. Those that run it on this host wait until no others do.
fn with_product(
    args: &Args,
    embed: Option<PathBuf>,
    beside: &mut Option<beside::Running>,
    [mut emulated, mut guests]: [Plan; 2],
    report: &mut Report,
) -> Result<()> {
    let kernels: &[&str] = if args.quick { &["distro"] } else { &["distro", "source"] };
    setup::ensure(&[Need::Kernel, Need::Network])?;
    report.step("building the product");
    let stage = Stage::build()?.for_tests(embed)?;
    report.step("kernels and guest assets");
    kernels.iter().try_for_each(|kernel| stage.make_guest(kernel))?;
    report.step(LIMITS);
    limits_of_a_boot(args, &stage, report);
    report.step("guest tests");
    emulated.env.extend(stage.env());
    guests.env.extend(stage.env());
    guests.env.push(("HUTCH_E2E_KERNELS".to_owned(), kernels.join(",")));
    if args.quick {
        guests.env.push(("HUTCH_E2E_QUICK".to_owned(), "1".to_owned()));
        let all = guests.total();
        guests.skip = Some(NEEDS_SOURCE_KERNEL.to_owned());
        report.skipped("tests with a kernel from source", all - guests.total(), "--quick");
    }
    if kvm::host() == HostKvm::Usable {
        guests.label = " on this host's KVM".to_owned();
        end(beside, report);
        suite::on_host(&guests, report);
        on_emulating_kvm(&emulated, report);
        if args.long {
            report.skipped("guest tests beside another machine", guests.total(), "this host's KVM works");
        }
        return Ok(());
    }
    guests.label = " in the testbed".to_owned();
    setup::ensure(&[Need::Testbed])?;
    let choice = if args.quick { Choice::Distro } else { Choice::Own };
    kernel::testbed(&choice, true, &stage.tools)?;
    let done = in_testbed(choice.clone(), guests.clone(), stage.tools.clone(), report);
    end(beside, report);
    on_emulating_kvm(&emulated, report);
    done?;
    if args.long {
        report.step("guest tests beside another machine");
        let _load = Load::start()?;
        // Half of the processors' time, or less: the limit was measured without the load.
        let guests = Plan { label: " in a loaded testbed".to_owned(), limit: guests.limit * 3, ..guests };
        in_testbed(choice, guests, stage.tools, report)?;
    }
    Ok(())
}

fn end(beside: &mut Option<beside::Running>, report: &mut Report) {
    if let Some(beside) = beside.take() {
        beside.end(report);
    }
}

fn on_emulating_kvm(emulated: &Plan, report: &mut Report) {
    report.step("the product on this host's /dev/kvm");
    match (kvm::host(), beside::open_kvm()) {
        (HostKvm::NoExtensions, Ok(_)) => suite::on_host(emulated, report),
        _ if emulated.binaries.is_empty() => {}
        _ => report.skipped("tests of an emulating KVM", emulated.total(), "this host's KVM is not one"),
    }
}

/// Another emulated machine, whose processors are busy. Dropping it ends the machine.
struct Load(Child);

impl Load {
    fn start() -> Result<Load> {
        let busy = "while :; do :; done & while :; do :; done";
        let mut command = Command::new("/proc/self/exe");
        command.args(["testbed", "--always", "--kernel", "own", "--timeout", "1000000", "--", "/bin/sh", "-c", busy]);
        Ok(Load(command.current_dir(build::root()).stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // By a signal that lets it end its own processes.
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Runs a plan in the testbed, by a copy of this program. If the testbed dies or prints nothing for too long, the binary that
/// ran has failed, and the others go on in another boot of it.
fn in_testbed(kernel: Choice, mut plan: Plan, tools: Tools, report: &mut Report) -> Result<()> {
    let shared = build::target_dir().join("testbed-results");
    fs::create_dir_all(&shared)?;
    let (plan_file, results) = (shared.join("plan.json"), shared.join("results.json"));
    let myself = beside::copy_of_this_program(&shared)?;
    plan.results = Some(results.clone());
    while plan.next().is_some() {
        remove(&results)?;
        fs::write(&plan_file, serde_json::to_vec(&plan)?)?;
        let code = testbed::until_silent(&RunRequest {
            args: vec![myself.clone().into(), "run-plan".into(), plan_file.clone().into()],
            env: Vec::new(),
            write: vec![shared.clone()],
            kernel: kernel.clone(),
            deterministic: false,
            memory_mib: TESTBED_MEMORY_MIB,
            timeout: plan.limit + SILENCE_TIMEOUT,
            tools: tools.clone(),
        })?;
        let inside: Report = match fs::read(&results) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(_) => Report::default(),
        };
        if !collect(&mut plan, inside, code, report) {
            break;
        }
    }
    Ok(())
}

/// Adds the results of one boot of the testbed, whose command ended with `code`. A binary without a result ended the testbed,
/// and has failed. Returns whether the rest of the plan may go on in another boot.
fn collect(plan: &mut Plan, inside: Report, code: u8, report: &mut Report) -> bool {
    let done: Vec<String> = inside.names().map(str::to_owned).collect();
    let progress = !done.is_empty();
    report.append(inside);
    plan.done.extend(done);
    match plan.next() {
        None if code == 0 => {}
        None => report.failure("the testbed", &format!("its command ended with {code}")),
        Some(broken) => {
            report.failure(&broken, &format!("it did not run to its end; the testbed's command ended with {code}"));
            plan.done.push(broken);
        }
    }
    if !progress {
        // The testbed does not start, or breaks at once: more boots would show the same.
        while let Some(name) = plan.next() {
            report.failure(&name, "it did not run: the testbed did not get as far as the result of one test");
            plan.done.push(name);
        }
    }
    progress
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Counts, End};

    fn plan() -> Plan {
        let binary = |name: &str| Binary {
            name: name.to_owned(),
            kind: Kind::RealGuest,
            path: "/bin/true".into(),
            dir: "/".into(),
        };
        Plan::new(["a", "b", "c", "d"].map(binary).into(), None)
    }

    fn results(names: &[&str]) -> Report {
        let mut report = Report::default();
        let counts = Counts { passed: 1, failed: 0, skipped: 0 };
        names.iter().for_each(|name| report.binary(name, Some(counts), End::Good, Duration::ZERO));
        report
    }

    #[test]
    fn a_binary_that_breaks_the_testbed_fails_and_the_others_go_on() {
        let (mut plan, mut report) = (plan(), Report::default());
        assert!(collect(&mut plan, results(&["a"]), 124, &mut report));
        assert_eq!(plan.next().as_deref(), Some("c"), "b has failed");
        assert!(collect(&mut plan, results(&["c", "d"]), 0, &mut report));
        assert_eq!(plan.next(), None);
        assert_eq!(report.total(), Counts { passed: 3, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_testbed_that_does_not_start_is_not_tried_for_each_binary() {
        let (mut plan, mut report) = (plan(), Report::default());
        assert!(!collect(&mut plan, Report::default(), 125, &mut report));
        assert_eq!((plan.next(), report.total().failed), (None, 4));
    }

    #[test]
    fn a_testbed_that_fails_after_all_tests_is_a_failure() {
        let (mut plan, mut report) = (plan(), Report::default());
        assert!(collect(&mut plan, results(&["a", "b", "c", "d"]), 125, &mut report));
        assert_eq!((plan.next(), report.total().failed), (None, 1));
    }

    #[test]
    fn long_runs_set_every_length() {
        let args = |long| Args { quick: false, long, only: None, repeat: 1 };
        assert_eq!(lengths(&args(true)).len(), LENGTHS.len());
        assert!(lengths(&args(false)).len() < LENGTHS.len(), "the environment of this test sets them all");
    }
}
