//! What a boot may cost, checked in CI: figures that do not depend on the machine or on what else runs on it.
//!
//! hutch and QEMU's microvm boot the kernel from source turn by turn in the bed's deterministic time, where one emulated
//! instruction takes one nanosecond. Raise a limit only with a reason in the commit.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hutch_test_harness::kvm::{self, HostKvm};
use serde_json::Value;

use crate::bed::{self, Errand};
use crate::kernel::Choice;
use crate::stage::Stage;
use crate::suite::Report;
use crate::{build, Result};

/// The most that a figure may come to, for a machine with one vCPU and 128 MiB: what was measured, and some slack.
const LIMITS: [(&str, &str, f64); 7] = [
    // 8
    ("exits to user space until init", "user_exits_until_init", 12.0),
    // 993 to 1003; the host's timer interrupts the guest now and then
    ("exits altogether", "kvm_exits", 1060.0),
    // 3190 to 3240, depending on how much of the program the page cache brings along
    ("resident memory of the VMM in KiB", "vmm_rss_kib", 3400.0),
    // 200 to 216
    ("private and written memory of the VMM in KiB", "vmm_private_dirty_kib", 250.0),
    // 29000 to 29008
    ("resident memory of the guest in KiB", "guest_rss_kib", 30_500.0),
    // 423 to 428
    ("page faults", "minor_faults", 470.0),
    // 74.6
    ("milliseconds from spawn to init", "init", 78.3),
];

/// The most system calls until init, of the program and all its threads: 223, and some more where threads meet.
const SYSCALLS: f64 = 240.0;

/// Rounds that count, after two that warm the caches.
const ROUNDS: &str = "5";
/// How much longer a boot with 8 GiB may take than one with 128 MiB: a machine that has much boots with a part of it.
const FLAT: f64 = 1.03;

/// Boots and compares.
pub fn check(stage: &Stage, report: &mut Report) -> Result<()> {
    if kvm::host() == HostKvm::Usable {
        report.skipped("limits of a boot", LIMITS.len() as u64 + 3, "this host's time is not deterministic");
        return Ok(());
    }
    println!("\n     Checking the limits of a boot in deterministic time");
    let begin = Instant::now();
    let (samples, syscalls) = bench(stage, &["--peer", "qemu=@qemu-microvm"], 2048)?;
    for (what, name, limit) in LIMITS {
        let value = usual(&samples, "hutch", name)?;
        println!("{what}: {value:.1}, at most {limit}");
        report.check(what, value <= limit, begin.elapsed());
    }
    let value = syscalls.iter().find(|count| count["target"] == "hutch").and_then(|count| count["total"].as_f64());
    let value = value.ok_or("hutch has no count of system calls")?;
    println!("system calls until init: {value:.0}, at most {SYSCALLS}");
    report.check("system calls until init", value <= SYSCALLS, begin.elapsed());
    let (ours, theirs) = (usual(&samples, "hutch", "init")?, usual(&samples, "qemu", "init")?);
    println!("spawn to init beside QEMU's microvm: {ours:.1} ms and {theirs:.1} ms, {:.2} of it", ours / theirs);
    report.check("faster to init than QEMU's microvm", ours < theirs, begin.elapsed());
    let begin = Instant::now();
    let (samples, _) = bench(stage, &["--no-syscalls", "--sweep", "mem=128M,8G"], 10 << 10)?;
    let (small, large) = (usual(&samples, "hutch 128M", "init")?, usual(&samples, "hutch 8192M", "init")?);
    println!("spawn to init with 128 MiB and with 8 GiB: {small:.1} ms and {large:.1} ms");
    report.check("as fast to init with 8 GiB as with 128 MiB", large <= small * FLAT, begin.elapsed());
    Ok(())
}

/// What `hutch bench boot` measures in deterministic time, in a bed with so much memory: samples, and counts of system
/// calls.
fn bench(stage: &Stage, more: &[&str], memory_mib: u64) -> Result<(Vec<Value>, Vec<Value>)> {
    let shared = build::target_dir().join("bed-results");
    fs::create_dir_all(&shared)?;
    let results = shared.join("boot.json");
    let _ = fs::remove_file(&results);
    // The program and the file for its results, then its arguments.
    let script = "program=$1 file=$2; shift 2; exec \"$program\" bench boot --kernel source \"$@\" > \"$file\"";
    let mut args: Vec<OsString> = vec!["/bin/sh".into(), "-c".into(), script.into(), "sh".into()];
    args.extend([stage.hutch.clone().into(), results.clone().into()]);
    // Deterministic time leaps ahead while a program is read from the host's disk, hence the long --timeout.
    args.extend(["--rounds", ROUNDS, "--format", "json", "--timeout", "1000"].iter().chain(more).map(OsString::from));
    let code = bed::wherever(&Errand {
        args,
        env: stage.env(),
        write: vec![shared],
        kernel: Choice::Own,
        deterministic: true,
        memory_mib,
        timeout: Duration::from_secs(600),
    })?;
    if code != 0 {
        return Err(format!("hutch bench boot ended with {code}").into());
    }
    read(&results)
}

/// Samples, and counts of system calls.
fn read(path: &Path) -> Result<(Vec<Value>, Vec<Value>)> {
    let results: Value = serde_json::from_slice(&fs::read(path)?)?;
    let samples = results["samples"].as_array().cloned();
    let samples = samples.ok_or_else(|| format!("{} has no samples", path.display()))?;
    // Absent where they were not counted.
    Ok((samples, results["syscalls"].as_array().cloned().unwrap_or_default()))
}

/// The median of a figure, or the least of a mark in milliseconds: whoever waits for the host's disk takes longer, and
/// nothing is faster than it is.
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
