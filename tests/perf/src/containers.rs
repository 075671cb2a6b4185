//! `cargo xtask perf --containers`: the start of a container in a running pod, beside the same bundle under crun.
//!
//! For both, the time is that of `create` and `start`, each in a process of its own, with a busybox root directory and a
//! command that keeps running. Removal is not timed. The two take turns; the results are medians with quartiles.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hutch_perf::measure::quartiles;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The command of every container.
const COMMAND: [&str; 2] = ["/bin/sleep", "100000"];

/// Times of one program.
#[derive(Default)]
struct Times {
    create: Vec<Duration>,
    start: Vec<Duration>,
    both: Vec<Duration>,
}

impl Times {
    /// A line of text, and the median of `both` in milliseconds.
    fn row(&mut self, name: &str) -> (String, f64) {
        let (mut text, mut median) = (format!("{name:<8}"), 0.0);
        for times in [&mut self.create, &mut self.start, &mut self.both] {
            let [low, middle, high] = quartiles(times).map(|time| time.as_secs_f64() * 1e3);
            text += &format!(" {middle:>8.2} ms {:>15}", format!("{low:.2}-{high:.2}"));
            median = middle;
        }
        (text, median)
    }
}

fn main() -> Result<()> {
    let [hutch, kernel, root, bundle, rounds] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| {
            "usage: container-start HUTCH KERNEL ROOT BUNDLE ROUNDS: the program, distro or source, a root directory, \
             the same with its command for crun, how often"
        })?;
    let rounds: usize = rounds.parse()?;
    let place = tempfile::tempdir()?;
    let bench = Bench { hutch, root, records: place.path().join("pods"), bundle };
    let pod = ["pod", "run", "-d", "--kernel", &kernel, "-m", "192M", "--name", "p", "--rootfs", &bench.root, "--"];
    timed(bench.hutch(&pod).args(COMMAND))?;
    let measured = bench.measure(rounds);
    timed(&mut bench.hutch(&["pod", "rm", "-f", "p"]))?;
    let (mut hutch, mut crun) = measured?;
    println!("{:<8} {:>11} {:>15} {:>11} {:>15} {:>11} {:>15}", "", "create", "", "start", "", "both", "quartiles");
    let (hutch, crun) = (hutch.row("hutch"), crun.row("crun"));
    println!("{}\n{}", hutch.0, crun.0);
    println!("ratio of both: {:.2} ({rounds} rounds)", hutch.1 / crun.1);
    Ok(())
}

struct Bench {
    hutch: String,
    root: String,
    records: PathBuf,
    bundle: String,
}

/// Runs a command that must succeed and returns its time.
fn timed(command: &mut Command) -> Result<Duration> {
    // The container keeps these files open, so a pipe would never close.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status()?;
    let time = begin.elapsed();
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(time)
}

impl Bench {
    fn hutch(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.hutch);
        command.args(words).env("HUTCH_ROOT", self.records.join("etc"));
        command.env("HUTCH_STATE_ROOT", self.records.join("run")).env("HUTCH_BOOT_TIMEOUT", "120");
        command
    }

    fn measure(&self, rounds: usize) -> Result<(Times, Times)> {
        let (mut hutch, mut peer) = (Times::default(), Times::default());
        // The first two rounds have cold caches.
        for round in 0..rounds + 2 {
            let create = timed(
                self.hutch(&["container", "create", "p", "--name", "c", "--rootfs", &self.root, "--"]).args(COMMAND),
            )?;
            let start = timed(&mut self.hutch(&["container", "start", "p", "c"]))?;
            timed(&mut self.hutch(&["container", "rm", "-f", "p", "c"]))?;
            let crun = |words: &[&str]| timed(Command::new("crun").args(words));
            let crun_create = crun(&["create", "-b", &self.bundle, "hutch-perf"])?;
            let crun_start = crun(&["start", "hutch-perf"])?;
            crun(&["delete", "-f", "hutch-perf"])?;
            if round >= 2 {
                for (times, create, start) in [(&mut hutch, create, start), (&mut peer, crun_create, crun_start)] {
                    times.create.push(create);
                    times.start.push(start);
                    times.both.push(create + start);
                }
            }
        }
        Ok((hutch, peer))
    }
}
