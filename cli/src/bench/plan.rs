//! The order of runs: every round runs each target once, so that disturbances of the host affect all targets alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::runner::{self, RunError, RunSettings};
use super::sample::{Results, Sample, SyscallCount, RESULTS_VERSION};
use super::syscalls;
use super::target::Target;

/// Numbers of rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// Rounds whose samples are kept.
    pub kept: u32,
    /// Earlier rounds, whose samples are dropped because caches are cold.
    pub warm_up: u32,
}

/// Runs all `targets` in turn, for all `rounds`. Calls `progress` before each run. The first run that fails ends the
/// measurement: incomplete results would mislead.
pub fn interleave(
    targets: &[Target],
    rounds: Rounds,
    settings: &RunSettings,
    mut progress: impl FnMut(u32, &str),
) -> Result<Vec<Sample>, RunError> {
    let mut kept = Vec::new();
    for round in 0..rounds.warm_up + rounds.kept {
        // The order rotates, so that no target always follows the same one.
        for i in 0..targets.len() {
            let target = &targets[(i + round as usize) % targets.len()];
            progress(round, &target.name);
            let mut sample = runner::run(target, settings)?;
            if round >= rounds.warm_up {
                sample.round = round - rounds.warm_up;
                kept.push(sample);
            }
        }
    }
    Ok(kept)
}

/// Counts the system calls of all `targets`. Call this after the rounds, because tracing would distort their times.
pub fn count_syscalls(
    targets: &[Target],
    settings: &RunSettings,
    mut progress: impl FnMut(&str),
) -> Result<Vec<SyscallCount>, RunError> {
    let count = |target: &Target| {
        progress(&target.name);
        syscalls::count(target, settings)
    };
    targets.iter().map(count).collect()
}

/// The samples, with the facts that are needed to repeat the measurement.
pub fn results(samples: Vec<Sample>, settings: BTreeMap<String, String>) -> Results {
    Results {
        version: RESULTS_VERSION,
        program: format!("hutch {}", env!("CARGO_PKG_VERSION")),
        host: super::proc::host(),
        settings,
        samples,
        syscalls: Vec::new(),
    }
}

/// A private directory for the initrd and marks files of one measurement; removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates the directory below the system's directory for temporary files.
    pub fn new() -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("hutch-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings of a run, with debugfs at its usual mount point.
pub fn run_settings(scratch: &Scratch, timeout: Duration) -> RunSettings {
    RunSettings { timeout, debugfs: "/sys/kernel/debug".into(), scratch: scratch.path().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::target::Until;
    use super::*;

    #[test]
    fn targets_alternate_and_warm_up_is_dropped() {
        let scratch = Scratch::new().unwrap();
        let targets: Vec<Target> = ["a", "b"]
            .iter()
            .map(|name| Target {
                name: (*name).into(),
                argv: vec!["true".into()],
                until: Until::Exit,
                own_marks: false,
                guest_mib: 0,
            })
            .collect();
        let mut order = Vec::new();
        let settings = run_settings(&scratch, Duration::from_secs(10));
        let rounds = Rounds { kept: 2, warm_up: 1 };
        let samples = interleave(&targets, rounds, &settings, |r, name| order.push(format!("{r}{name}"))).unwrap();
        assert_eq!(order, ["0a", "0b", "1b", "1a", "2a", "2b"]);
        assert_eq!(
            samples.iter().map(|s| (s.round, s.target.as_str())).collect::<Vec<_>>(),
            [(0, "b"), (0, "a"), (1, "a"), (1, "b")]
        );
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }
}
