//! `cargo xtask fuzz`: builds the fuzz targets in `tests/fuzz` once, and runs them, one on each processor at a time.
//! `cargo xtask test` calls [`check`].
//!
//! cargo-fuzz builds the programs; they are run from here, so that several can run at a time and their numbers of
//! executions can be reported. New inputs go to `tests/fuzz/found`, an input that shows a fault to `tests/fuzz/artifacts`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::builder::RangedU64ValueParser;

use crate::setup::{self, Need};
use crate::suite::Report;
use crate::{build, Result};

/// Time for each target in `cargo xtask test`.
const CI_SECONDS: u64 = 30;
/// There the inputs are the same ones each time, as far as the time reaches: a fault that it finds can be found again.
const CI_SEED: u32 = 1;
/// Memory that a target may use, in MiB. A leak shows sooner or later.
const MEMORY_MIB: u32 = 1024;
/// Time that one input may take, in seconds: thousands of times of what is usual.
const INPUT_SECONDS: u32 = 60;
/// Time that a target may take to end when its time is up: the last input and the report.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// Memory that LeakSanitizer takes for leaked: glibc's list of a thread's destructors, while the thread ends.
const NO_LEAKS: &str = "leak:__cxa_thread_atexit_impl\n";
/// Lines of a failed target's output that are shown.
const SHOWN: usize = 60;

/// Options of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this target
    target: Option<String>,
    /// Time for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    seconds: u64,
}

/// Runs the task.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    let mut report = Report::default();
    let mut targets = targets()?;
    if let Some(wanted) = &args.target {
        targets.retain(|target| target == wanted);
        if targets.is_empty() {
            return Err(format!("{wanted} is not a target: see tests/fuzz/targets").into());
        }
    }
    run(&targets, args.seconds, 0, &mut report);
    Ok(report.close())
}

/// Runs each target for half a minute, or says why not.
pub(crate) fn check(report: &mut Report) {
    match targets() {
        Ok(targets) => run(&targets, CI_SECONDS, CI_SEED, report),
        Err(error) => report.failure("fuzz targets", &error.to_string()),
    }
}

/// Names of the targets, sorted.
fn targets() -> Result<Vec<String>> {
    let dir = root().join("targets");
    let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn root() -> PathBuf {
    build::root().join("tests/fuzz")
}

/// cargo of the nightly toolchain.
fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(build::root()).env("CARGO_TARGET_DIR", target_dir());
    command
}

/// The targets have a directory of their own: the flags of cargo-fuzz would invalidate the rest of the build.
fn target_dir() -> PathBuf {
    build::target_dir().join("fuzz")
}

/// A `seed` of 0 lets the fuzzer choose one.
fn run(targets: &[String], seconds: u64, seed: u32, report: &mut Report) {
    println!("\n     Building the fuzz targets (takes minutes the first time)");
    if let Err(why) = ensure_tools() {
        return report.skipped("fuzz targets", targets.len() as u64, &why);
    }
    let begin = Instant::now();
    if let Err(error) = build::run(nightly().args(["fuzz", "build", "--fuzz-dir", "tests/fuzz"])) {
        return report.failure("building the fuzz targets", &error.to_string());
    }
    report.check("fuzz build", true, begin.elapsed());
    println!("     Running {} fuzz targets, {seconds} s each", targets.len());
    let queue = Mutex::new(targets.iter());
    let report = Mutex::new(report);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(target) = next() {
            let begin = Instant::now();
            let result = run_target(target, seconds, seed);
            match &result {
                Ok(executions) => println!("fuzz {target} ... ok, {executions} executions"),
                Err(error) => println!("{error}\nfuzz {target} ... FAILED"),
            }
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.check(&format!("fuzz {target}"), result.is_ok(), begin.elapsed());
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..processors).for_each(|_| drop(scope.spawn(work))));
}

/// Makes the nightly compiler, cargo-fuzz and a C++ compiler available. The error says why that cannot be.
fn ensure_tools() -> std::result::Result<(), String> {
    let works = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !works(nightly().arg("--version")) {
        return Err("there is no nightly toolchain: rustup toolchain install nightly".to_owned());
    }
    if !works(nightly().args(["fuzz", "--version"])) {
        println!("     Installing cargo-fuzz");
        let mut install = build::cargo();
        install.args(["install", "--locked", "--quiet", "cargo-fuzz"]);
        build::run(&mut install).map_err(|error| format!("cargo-fuzz cannot be installed: {error}"))?;
    }
    setup::ensure(&[Need::Fuzz, Need::Seccomp]).map_err(|error| error.to_string())
}

/// Runs a target. Returns the number of inputs that were executed.
fn run_target(target: &str, seconds: u64, seed: u32) -> Result<u64> {
    let dir = |kind: &str| root().join(kind).join(target);
    for kind in ["found", "artifacts", "corpus"] {
        fs::create_dir_all(dir(kind))?;
    }
    let no_leaks = target_dir().join("no-leaks");
    fs::write(&no_leaks, NO_LEAKS)?;
    let log = target_dir().join(format!("{target}.log"));
    let output = File::create(&log)?;
    let program = target_dir().join(build::STATIC_TARGET).join("release").join(target);
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", &(seconds + END_TIMEOUT.as_secs()).to_string()])
        .arg(program)
        .args([dir("found"), dir("corpus")])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", dir("artifacts").display()))
        .arg("-print_final_stats=1")
        // The names of new functions come from another program, whose pipes would pass for leaks.
        .arg("-print_funcs=0")
        .env("ASAN_OPTIONS", "detect_odr_violation=0")
        .env("LSAN_OPTIONS", format!("print_suppressions=0:suppressions={}", no_leaks.display()))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let status = command.status().map_err(|e| format!("cannot run timeout: {e}"))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    match (status.success(), executions(&text)) {
        (true, Some(count)) if count > 0 => Ok(count),
        _ => Err(format!("{}{target} ended with {status}; {} has all of its output", tail(&text), shown(&log)).into()),
    }
}

/// The number of executions in libFuzzer's closing statistics.
fn executions(output: &str) -> Option<u64> {
    let line = output.lines().rev().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(SHOWN)).map(|line| format!("{line}\n")).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(build::root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_statistics_are_read() {
        let output = "#5 DONE\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     7\n";
        assert_eq!(executions(output), Some(1234));
        assert_eq!(executions("==1== ERROR: libFuzzer: deadly signal\n"), None);
    }

    #[test]
    fn every_target_has_inputs() {
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let inputs = fs::read_dir(root().join("corpus").join(&target));
            assert!(inputs.is_ok_and(|inputs| inputs.count() > 0), "{target}");
        }
    }
}
