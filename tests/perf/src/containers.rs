//! `cargo xtask perf --containers`: a container comes up in a running pod, beside the same bundle under crun.
//!
//! For both the time is that of `create` and `start`, each a process of its own, with a root directory of busybox and a
//! command that stays; what is removed afterwards is not timed. Turn by turn, medians with quartiles.
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Times of one program.
#[derive(Default)]
struct Times {
    create: Vec<Duration>,
    start: Vec<Duration>,
    both: Vec<Duration>,
}

impl Times {
    fn row(&mut self, name: &str) -> String {
        let mut text = format!("{name:<8}");
        for times in [&mut self.create, &mut self.start, &mut self.both] {
            times.sort();
            let at = |quarter: usize| times[(times.len() - 1) * quarter / 4].as_secs_f64() * 1e3;
            text += &format!(" {:>8.2} ms {:>15}", at(2), format!("{:.2}-{:.2}", at(1), at(3)));
        }
        text
    }

    fn median(&self) -> f64 {
        self.both[(self.both.len() - 1) / 2].as_secs_f64()
    }
}

fn main() -> Result<()> {
    let [hutch, kernel, root, rounds] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| {
        "usage: container-start HUTCH KERNEL ROOT ROUNDS: the program, distro or source, a root directory, how often"
    })?;
    let rounds: usize = rounds.parse()?;
    let place = tempfile::tempdir()?;
    let bundle = bundle(place.path(), Path::new(&root))?;
    let bench = Bench { hutch, root, records: place.path().join("pods"), bundle };
    bench
        .hutch(&["pod", "run", "-d", "--kernel", &kernel, "-m", "192M", "--name", "p", "--rootfs", &bench.root, "--"])
        .args(["/bin/sleep", "100000"])
        .ok()?;
    let measured = bench.measure(rounds);
    bench.hutch(&["pod", "rm", "-f", "p"]).ok()?;
    let (mut hutch, mut crun) = measured?;
    println!("{:<8} {:>11} {:>15} {:>11} {:>15} {:>11} {:>15}", "", "create", "", "start", "", "both", "quartiles");
    println!("{}\n{}", hutch.row("hutch"), crun.row("crun"));
    println!("ratio of both: {:.2} ({rounds} rounds)", hutch.median() / crun.median());
    Ok(())
}

struct Bench {
    hutch: String,
    root: String,
    records: PathBuf,
    bundle: PathBuf,
}

/// What a command line has to do: end well.
trait Ok {
    fn ok(&mut self) -> Result<Duration>;
}

impl Ok for Command {
    fn ok(&mut self) -> Result<Duration> {
        // The container keeps what it is given; nobody reads it.
        self.stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        let status = self.status()?;
        let time = begin.elapsed();
        if !status.success() {
            return Err(format!("{self:?} ended with {status}").into());
        }
        Ok(time)
    }
}

impl Bench {
    fn hutch(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.hutch);
        command.args(words).env("HUTCH_ROOT", self.records.join("etc"));
        command.env("HUTCH_STATE_ROOT", self.records.join("run")).env("HUTCH_BOOT_TIMEOUT", "120");
        command
    }

    fn crun(&self, words: &[&str]) -> Command {
        let mut command = Command::new("crun");
        command.args(words);
        command
    }

    fn measure(&self, rounds: usize) -> Result<(Times, Times)> {
        let (mut hutch, mut crun) = (Times::default(), Times::default());
        let bundle = self.bundle.display().to_string();
        // The first two of each come with cold caches.
        for round in 0..rounds + 2 {
            let create = self
                .hutch(&["container", "create", "p", "--name", "c", "--rootfs", &self.root, "--"])
                .args(["/bin/sleep", "100000"])
                .ok()?;
            let start = self.hutch(&["container", "start", "p", "c"]).ok()?;
            self.hutch(&["container", "rm", "-f", "p", "c"]).ok()?;
            let crun_create = self.crun(&["create", "-b", &bundle, "hutch-perf"]).ok()?;
            let crun_start = self.crun(&["start", "hutch-perf"]).ok()?;
            self.crun(&["delete", "-f", "hutch-perf"]).ok()?;
            if round >= 2 {
                for (times, create, start) in [(&mut hutch, create, start), (&mut crun, crun_create, crun_start)] {
                    times.create.push(create);
                    times.start.push(start);
                    times.both.push(create + start);
                }
            }
        }
        for times in [&mut hutch, &mut crun] {
            times.both.sort();
        }
        Ok((hutch, crun))
    }
}

/// The bundle: what `crun spec` says, with our root and command.
fn bundle(place: &Path, root: &Path) -> Result<PathBuf> {
    let bundle = place.join("bundle");
    std::fs::create_dir(&bundle)?;
    let status = Command::new("crun").args(["spec", "-b"]).arg(&bundle).status()?;
    if !status.success() {
        return Err("crun spec failed; is crun installed?".into());
    }
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
    config["root"] = serde_json::json!({"path": root, "readonly": false});
    std::fs::write(&path, config.to_string())?;
    Ok(bundle)
}
