//! `hutch bench density`: starts N machines and leaves them idle; measures the rate of starts and the host's memory for
//! each machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::plan::{self, Scratch};
use super::sample::Sample;
use super::target::{kernel_path, INIT_LINE};
use super::{initrd, proc, report};
use crate::args::bench::DensityArgs;
use crate::failure::Failure;
use crate::resolve::size;

/// The machines of a measurement. Dropping this value ends them.
struct Machines(Vec<Child>);

impl Drop for Machines {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("machine {number} of {count} did not reach its init within {seconds} s: {what}")]
struct NotUp {
    number: usize,
    count: u32,
    seconds: u64,
    what: String,
}

/// Runs the measurement and prints the results.
pub fn run(args: &DensityArgs) -> Result<u8, Failure> {
    let memory_mib = size::mib(&args.memory).filter(|m| *m > 0).ok_or_else(|| BenchError::Size(args.memory.clone()))?;
    let kernel = kernel_path(&args.kernel, args.guest_dir.as_deref());
    let scratch = Scratch::new()?;
    let initrd = scratch.path().join("initrd");
    std::fs::write(&initrd, initrd::bench_initrd())?;
    let mut samples = Vec::new();
    for (round, count) in args.counts.iter().copied().enumerate() {
        let mut machines = Machines(Vec::new());
        let available_before = available_kib();
        let start = Instant::now();
        for _ in 0..count {
            let child = Command::new(std::env::current_exe()?)
                .args([
                    "boot",
                    "--append",
                    "console=ttyS0 quiet panic=-1 benchhold",
                    "--memory",
                    &format!("{memory_mib}M"),
                ])
                .arg("--kernel")
                .arg(&kernel)
                .arg("--initrd")
                .arg(&initrd)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            machines.0.push(child);
        }
        let deadline = start + Duration::from_secs(args.timeout);
        for (number, child) in machines.0.iter_mut().enumerate() {
            wait_for_init(child, deadline).map_err(|what| NotUp {
                number: number + 1,
                count,
                seconds: args.timeout,
                what,
            })?;
        }
        let took = start.elapsed();
        let mut sample = Sample { target: format!("{count} machines"), round: round as u32, ..Sample::default() };
        sample.marks.insert("all up".into(), took.as_nanos() as u64);
        record_memory(&machines.0, memory_mib, count, took, available_before, &mut sample);
        samples.push(sample);
    }
    let settings =
        BTreeMap::from([("guest kernel".to_owned(), args.kernel.clone()), ("memory".to_owned(), args.memory.clone())]);
    report::print(&plan::results(samples, settings), args.format)?;
    Ok(0)
}

/// Waits for the guest's first line, until the deadline. After an error, `Machines` ends the child.
fn wait_for_init(child: &mut Child, deadline: Instant) -> Result<(), String> {
    let Some(stdout) = child.stdout.take() else { return Err("no standard output".into()) };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let found =
            BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains(INIT_LINE.trim_end()));
        let _ = sender.send(found);
    });
    match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it ended".into()),
        Err(_) => Err("no output".into()),
    }
}

fn record_memory(machines: &[Child], guest_mib: u64, count: u32, took: Duration, before_kib: u64, sample: &mut Sample) {
    let memories: Vec<proc::Memory> = machines
        .iter()
        .filter_map(|c| std::fs::read_to_string(format!("/proc/{}/smaps", c.id())).ok())
        .map(|smaps| proc::memory(&smaps, guest_mib))
        .collect();
    let n = f64::from(count.max(1));
    let mean = |f: fn(&proc::Memory) -> u64| memories.iter().map(f).sum::<u64>() as f64 / n;
    let used = before_kib.saturating_sub(available_kib()) as f64;
    for (name, value) in [
        ("machines_per_second", n / took.as_secs_f64().max(f64::MIN_POSITIVE)),
        ("vmm_rss_kib_each", mean(|m| m.rss_kib)),
        ("vmm_pss_kib_each", mean(|m| m.pss_kib)),
        ("guest_rss_kib_each", mean(|m| m.guest_rss_kib)),
        ("host_memory_kib_each", used / n),
    ] {
        sample.figures.insert(name.into(), value);
    }
}

/// `MemAvailable` of the host.
fn available_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
