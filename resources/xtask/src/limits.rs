//! Limits for the cost of a boot, checked in CI. The figures do not depend on the machine or its load.
//!
//! hutch and QEMU's microvm take turns to boot the kernel from source in the testbed's deterministic time, where one emulated
//! instruction takes one nanosecond. Only hutch's figures are judged; QEMU's are printed beside them. A run that gets stuck costs
//! [`RUN_TIMEOUT`] seconds of that time, and its sample: one of hutch's is a failure, one of QEMU's is printed. Raise a limit only
//! with a reason in the commit.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hutch_testbed_host::kvm::{self, HostKvm};
use serde_json::Value;

use crate::kernel::{self, Choice};
use crate::stage::Stage;
use crate::suite::{self, Report};
use crate::testbed::{self, RunRequest};
use crate::{build, Result};

/// Upper limits for a machine with one vCPU and 128 MiB: the measured value and some slack.
const LIMITS: [(&str, &str, f64); 7] = [
    // 8
    ("exits to user space until init", "user_exits_until_init", 12.0),
    // 736 to 746; the host's timer sometimes interrupts the guest
    ("exits altogether", "kvm_exits", 790.0),
    // 3404 to 3540, depending on how much of the program the page cache brings along; some 130 less without the jail
    ("resident memory of the VMM in KiB", "vmm_rss_kib", 3600.0),
    // 256, of which the jail takes 20: the thread that makes the others
    ("private and written memory of the VMM in KiB", "vmm_private_dirty_kib", 270.0),
    // 27020 to 27028
    ("resident memory of the guest in KiB", "guest_rss_kib", 28_400.0),
    // 422
    ("page faults", "minor_faults", 450.0),
    // 65.1, of which an empty network namespace takes 0.9; 63.6 without the jail
    ("milliseconds from spawn to init", "init", 66.6),
];

/// Upper limit for system calls until init, of the program and all its threads: 354, and some more when threads contend. Without the
/// jail they are 260: each thread gives up capabilities and puts a filter on, two take on a user of the machine's own, one more
/// thread makes the others, and the root directory takes some 20.
const SYSCALLS: f64 = 368.0;

/// Upper limits for the testbed's own kernel. It is large, so the figures show how much of it is copied and mapped.
const LARGE_KERNEL_LIMITS: [(&str, &str, f64); 2] = [
    // 1068 to 1073; with all of it copied 763, with all of it mapped 3877
    ("exits altogether, with a large kernel", "kvm_exits", 1130.0),
    // 100.0; without the jail 97.5
    ("milliseconds from spawn to init, with a large kernel", "init", 102.5),
];
/// Upper limit for the VMM's part of these milliseconds, which the guest's clock does not count: 32.4, of which an empty network
/// namespace takes 0.9; 30.0 without the jail.
const VMM_SHARE: f64 = 33.5;

/// Number of checks: the limits, and the four that [`check`] makes besides.
const CHECKS: u64 = (LIMITS.len() + LARGE_KERNEL_LIMITS.len()) as u64 + 4;

/// Limit for each run in seconds of deterministic time, a hundred times what a boot takes. A traced program, whose system calls
/// are counted, takes some ten times as long as another.
const RUN_TIMEOUT: &str = "10";

/// Wall-clock limit for a measurement on the machine that runs CI, if that does nothing else. An idle second of deterministic
/// time takes some 20 seconds, and a target may get stuck three times before `hutch bench boot` gives it up.
const WALL_TIMEOUT: Duration = Duration::from_secs(25 * 60);

/// Measured rounds. Two come before, to warm the caches.
const ROUNDS: &str = "5";
/// A boot with 8 GiB may take this many times as long as one with 128 MiB. (A large machine boots with a part of its memory.)
const MAX_GROWTH: f64 = 1.03;

/// Boots and compares the figures with the limits.
pub(crate) fn check(stage: &Stage, report: &mut Report) -> Result<()> {
    if kvm::host() == HostKvm::Usable {
        report.skipped("limits of a boot", CHECKS, "this host's time is not deterministic");
        return Ok(());
    }
    println!("\n     Checking the limits of a boot in deterministic time");
    let begin = Instant::now();
    let source = OsStr::new("source");
    let results = bench(stage, source, &["--peer", "qemu=@qemu-microvm"], 2048)?;
    compare(&results.samples, &LIMITS, begin, report)?;
    let value = results.syscalls.iter().find(|count| count["target"] == "hutch");
    let value = value.and_then(|count| count["total"].as_f64()).ok_or("hutch has no count of system calls")?;
    println!("system calls until init: {value:.0}, at most {SYSCALLS}");
    report.check("system calls until init", value <= SYSCALLS, begin.elapsed());
    match (usual(&results.samples, "hutch", "init"), usual(&results.samples, "qemu", "init")) {
        (Ok(ours), Ok(theirs)) => {
            println!("beside QEMU's microvm, not judged: {:.2} of its {theirs:.1} ms", ours / theirs)
        }
        _ => println!("QEMU's microvm has no figures"),
    }
    let mut stuck = results.stuck();
    let begin = Instant::now();
    let results = bench(stage, source, &["--no-syscalls", "--sweep", "mem=128M,8G"], 10 << 10)?;
    let samples = &results.samples;
    stuck += results.stuck();
    let (small, large) = (usual(samples, "hutch 128M", "init")?, usual(samples, "hutch 8192M", "init")?);
    println!("spawn to init with 128 MiB and with 8 GiB: {small:.1} ms and {large:.1} ms");
    report.check("as fast to init with 8 GiB as with 128 MiB", large <= small * MAX_GROWTH, begin.elapsed());
    stuck += large_kernel(stage, report)?;
    report.check("no boot of hutch that gets stuck", stuck == 0, begin.elapsed());
    Ok(())
}

/// Compares hutch's figures with their limits.
fn compare(samples: &[Value], limits: &[(&str, &str, f64)], begin: Instant, report: &mut Report) -> Result<()> {
    for (what, name, limit) in limits {
        let value = usual(samples, "hutch", name)?;
        println!("{what}: {value:.1}, at most {limit}");
        report.check(what, value <= *limit, begin.elapsed());
    }
    Ok(())
}

/// Boots a kernel that is not made for hutch: a guest uses little of it.
/// Returns the number of boots of hutch that got stuck.
fn large_kernel(stage: &Stage, report: &mut Report) -> Result<usize> {
    let begin = Instant::now();
    let kernel = kernel::testbed(&Choice::Own, false, &stage.tools)?.vmlinux;
    let results = bench(stage, kernel.as_os_str(), &["--no-syscalls"], 2048)?;
    let samples = &results.samples;
    compare(samples, &LARGE_KERNEL_LIMITS, begin, report)?;
    let share = |sample: &Value| Some((sample["marks"]["init"].as_f64()? - sample["guest_clock_ns"].as_f64()?) / 1e6);
    let least = samples.iter().filter_map(share).min_by(f64::total_cmp).ok_or("the guest reported no time")?;
    println!("milliseconds of it that are the VMM's: {least:.1}, at most {VMM_SHARE}");
    report.check("milliseconds of the VMM, with a large kernel", least <= VMM_SHARE, begin.elapsed());
    Ok(results.stuck())
}

/// The measurements of `hutch bench boot`.
struct Measured {
    samples: Vec<Value>,
    /// Counts of system calls.
    syscalls: Vec<Value>,
    /// Runs that took too long.
    dropped: Vec<Value>,
}

impl Measured {
    /// Number of hutch's own runs that took too long.
    fn stuck(&self) -> usize {
        self.dropped.iter().filter(|run| run["target"].as_str().is_some_and(|name| name.starts_with("hutch"))).count()
    }
}

/// Runs `hutch bench boot` in deterministic time, in a testbed with `memory_mib` of memory.
fn bench(stage: &Stage, kernel: &OsStr, more: &[&str], memory_mib: u64) -> Result<Measured> {
    let shared = build::target_dir().join("testbed-results");
    fs::create_dir_all(&shared)?;
    let results = shared.join("boot.json");
    let _ = fs::remove_file(&results);
    // The program and the file for its results, then its arguments.
    let script = "program=$1 file=$2; shift 2; exec \"$program\" bench boot \"$@\" > \"$file\"";
    let mut args: Vec<OsString> = vec!["/bin/sh".into(), "-c".into(), script.into(), "sh".into()];
    args.extend([stage.hutch.clone().into(), results.clone().into(), "--kernel".into(), kernel.into()]);
    args.extend(
        ["--rounds", ROUNDS, "--format", "json", "--timeout", RUN_TIMEOUT].iter().chain(more).map(OsString::from),
    );
    let code = testbed::wherever(&RunRequest {
        args,
        env: stage.env(),
        write: vec![shared],
        kernel: Choice::Own,
        deterministic: true,
        memory_mib,
        timeout: WALL_TIMEOUT.mul_f64(suite::slowness()),
        tools: stage.tools.clone(),
    })?;
    if code != 0 {
        return Err(format!("hutch bench boot ended with {code}").into());
    }
    let measured = read(&results)?;
    for run in &measured.dropped {
        println!("dropped: {}, {}: {}", run["target"], run["round"], run["what"]);
    }
    Ok(measured)
}

fn read(path: &Path) -> Result<Measured> {
    let results: Value = serde_json::from_slice(&fs::read(path)?)?;
    let samples = results["samples"].as_array().cloned();
    let samples = samples.ok_or_else(|| format!("{} has no samples", path.display()))?;
    // Each of the others is absent if it is empty.
    let list = |name: &str| results[name].as_array().cloned().unwrap_or_default();
    Ok(Measured { samples, syscalls: list("syscalls"), dropped: list("dropped") })
}

/// The median of a figure, or the least value of a mark in milliseconds. Waits for the host's disk only make a mark later, so
/// the least value is the best estimate.
fn usual(samples: &[Value], target: &str, name: &str) -> Result<f64> {
    let of = |kind: &str| {
        let mut values: Vec<f64> =
            samples.iter().filter(|s| s["target"] == target).filter_map(|s| s[kind][name].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (marks, figures) = (of("marks"), of("figures"));
    let value = marks.first().map(|ns| ns / 1e6).or_else(|| figures.get(figures.len() / 2).copied());
    value.ok_or_else(|| format!("{target} has no {name}").into())
}
