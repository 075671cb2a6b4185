//! The order of runs: every round runs each target once, so that disturbances of the host affect all targets alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::runner::{self, RunError, RunSettings};
use super::sample::{DroppedRun, Results, Sample, SyscallCount, RESULTS_VERSION};
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

/// Runs that a target may drop. After that it is left out of the other rounds: each of them would cost as long a wait.
const MOST_DROPPED: usize = 3;

/// The result of all rounds.
#[derive(Debug, Default)]
pub struct Measured {
    /// In the order of the runs.
    pub samples: Vec<Sample>,
    /// Runs that took too long.
    pub dropped: Vec<DroppedRun>,
}

impl Measured {
    /// Notes a run that took too long. Any other error is returned.
    fn drop_run(&mut self, error: RunError, round: String) -> Result<(), RunError> {
        let RunError::TimedOut { target, what, .. } = error else { return Err(error) };
        log::warn!("dropped: {target}, {round}: {what}");
        self.dropped.push(DroppedRun { target, round, what });
        Ok(())
    }

    fn gave_up(&self, target: &Target) -> bool {
        self.dropped.iter().filter(|run| run.target == target.name).count() >= MOST_DROPPED
    }
}

/// Runs all `targets` in turn, for all `rounds`. Calls `progress` before each run. A run that takes too long is dropped and
/// noted, so that a target that gets stuck does not cost the others their figures. The first run that fails otherwise ends the
/// measurement, as does hutch without one sample: incomplete results would mislead.
pub fn interleave(
    targets: &[Target],
    rounds: Rounds,
    settings: &RunSettings,
    mut progress: impl FnMut(u32, &str),
) -> Result<Measured, RunError> {
    let mut measured = Measured::default();
    for round in 0..rounds.warm_up + rounds.kept {
        // The order rotates, so that no target always follows the same one.
        for i in 0..targets.len() {
            let target = &targets[(i + round as usize) % targets.len()];
            if measured.gave_up(target) {
                continue;
            }
            progress(round, &target.name);
            match runner::run(target, settings) {
                Ok(sample) if round >= rounds.warm_up => {
                    measured.samples.push(Sample { round: round - rounds.warm_up, ..sample });
                }
                Ok(_) => {}
                Err(error) if round < rounds.warm_up => measured.drop_run(error, format!("warm-up round {round}"))?,
                Err(error) => measured.drop_run(error, format!("round {}", round - rounds.warm_up))?,
            }
        }
    }
    let has_sample = |target: &Target| measured.samples.iter().any(|sample| sample.target == target.name);
    let needed = |target: &&Target| rounds.kept > 0 && (target.own_marks || measured.samples.is_empty());
    for target in targets.iter().filter(needed) {
        if !has_sample(target) {
            let what = format!("it was too slow in every round; --timeout is {} s", settings.timeout.as_secs());
            return Err(runner::timed_out(target, what, &[]));
        }
    }
    Ok(measured)
}

/// Counts the system calls of all `targets`. Call this after the rounds, because tracing would distort their times. A count
/// that takes too long is dropped and noted.
pub fn count_syscalls(
    targets: &[Target],
    settings: &RunSettings,
    measured: &mut Measured,
    mut progress: impl FnMut(&str),
) -> Result<Vec<SyscallCount>, RunError> {
    let mut counts = Vec::new();
    for target in targets {
        if measured.gave_up(target) {
            continue;
        }
        progress(&target.name);
        match syscalls::count(target, settings) {
            Ok(count) => counts.push(count),
            Err(error) => measured.drop_run(error, "count of system calls".to_owned())?,
        }
    }
    Ok(counts)
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
        dropped: Vec::new(),
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
        let progress = |r: u32, name: &str| order.push(format!("{r}{name}"));
        let samples = interleave(&targets, rounds, &settings, progress).unwrap().samples;
        assert_eq!(order, ["0a", "0b", "1b", "1a", "2a", "2b"]);
        assert_eq!(
            samples.iter().map(|s| (s.round, s.target.as_str())).collect::<Vec<_>>(),
            [(0, "b"), (0, "a"), (1, "a"), (1, "b")]
        );
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    /// A target that gets stuck in every run after the first `good` ones. `dir` keeps the count.
    fn gets_stuck(dir: &Path, good: u32) -> Target {
        let script = format!(
            "n=$(cat {0}/n 2>/dev/null || echo 0); echo $((n + 1)) > {0}/n; [ $n -lt {good} ] || exec sleep 1000",
            dir.display()
        );
        Target {
            name: "stuck".into(),
            argv: ["sh", "-c", &script].map(str::to_owned).to_vec(),
            until: Until::Exit,
            own_marks: false,
            guest_mib: 0,
        }
    }

    fn well() -> Target {
        Target { name: "well".into(), argv: vec!["true".into()], ..gets_stuck(Path::new("/"), 0) }
    }

    #[test]
    fn a_target_that_gets_stuck_is_named_and_given_up_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let settings = RunSettings {
            timeout: Duration::from_secs(2),
            debugfs: dir.path().to_owned(),
            scratch: dir.path().to_owned(),
        };
        let rounds = Rounds { kept: 6, warm_up: 1 };
        let targets = [well(), gets_stuck(dir.path(), 2)];
        let mut measured = interleave(&targets, rounds, &settings, |_, _| {}).unwrap();
        let count = |name: &str| measured.samples.iter().filter(|sample| sample.target == name).count();
        assert_eq!((count("well"), count("stuck")), (6, 1));
        let rounds: Vec<_> = measured.dropped.iter().map(|run| (run.target.as_str(), run.round.as_str())).collect();
        assert_eq!(rounds, [("stuck", "round 1"), ("stuck", "round 2"), ("stuck", "round 3")]);
        let counts = count_syscalls(&targets, &settings, &mut measured, |_| {}).unwrap();
        assert_eq!(counts.iter().map(|count| count.target.as_str()).collect::<Vec<_>>(), ["well"]);
    }

    #[test]
    fn hutch_without_any_sample_and_a_failure_end_the_measurement() {
        let dir = tempfile::tempdir().unwrap();
        let settings = RunSettings {
            timeout: Duration::from_secs(1),
            debugfs: dir.path().to_owned(),
            scratch: dir.path().to_owned(),
        };
        let rounds = Rounds { kept: 1, warm_up: 0 };
        let error = interleave(&[gets_stuck(dir.path(), 0)], rounds, &settings, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("too slow in every round; --timeout is 1 s"), "{error}");
        // A peer alone gets by with none.
        let measured = interleave(&[well(), gets_stuck(dir.path(), 0)], rounds, &settings, |_, _| {}).unwrap();
        assert_eq!((measured.samples.len(), measured.dropped.len()), (1, 1));
        let fails = Target { argv: vec!["false".into()], ..well() };
        let error = interleave(&[fails], rounds, &settings, |_, _| {}).unwrap_err();
        assert!(matches!(error, RunError::Failed { .. }), "{error}");
    }
}
