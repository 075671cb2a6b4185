//! The tests that need neither the built product nor the testbed. `cargo xtask test` runs them in a process of its own, beside the
//! release build and the guest tests: these leave a processor idle most of the time. Its output is shown when both are over.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::suite::{self, Plan, Report};
use crate::{build, fuzz, Result};

/// The tests that the process is to run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Tests {
    pub(crate) units: Plan,
    /// Bare-metal guests, for any `/dev/kvm`.
    pub(crate) guests: Plan,
    /// Run the documentation's examples.
    pub(crate) documentation: bool,
    /// Run each fuzz target for half a minute.
    pub(crate) fuzz: bool,
}

impl Tests {
    /// Runs them here.
    pub(crate) fn run(&self, report: &mut Report) {
        suite::on_host(&self.units, report);
        match open_kvm() {
            Ok(_) => suite::on_host(&self.guests, report),
            Err(error) => {
                report.skipped("bare-metal guests on this host", self.guests.total(), &format!("/dev/kvm: {error}"));
            }
        }
        if self.documentation {
            suite::doc_tests(report);
        }
        if self.fuzz {
            fuzz::check(report);
        }
    }

    /// Starts the process.
    pub(crate) fn start(&self) -> Result<Running> {
        let dir = build::target_dir().join("beside");
        fs::create_dir_all(&dir)?;
        let (tests, results, log) = (dir.join("tests.json"), dir.join("results.json"), dir.join("output"));
        fs::write(&tests, serde_json::to_vec(self)?)?;
        fs::write(&results, "")?;
        let output = File::create(&log)?;
        // The builds and the testbed come first. Their snapshots of /tmp, which the testbed shows, are not to see these tests' files.
        let mut command = Command::new("nice");
        command.args(["-n", "5"]).arg(copy_of_this_program(&dir)?);
        command.args(["run-beside".as_ref(), tests.as_os_str(), results.as_os_str()]);
        command.env("TMPDIR", "/var/tmp").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        println!("\n     Running the tests that need no product beside the next steps: {}", log.display());
        let child = command.spawn().map_err(|e| format!("nice: {e}"))?;
        Ok(Running { child, log, results, begin: Instant::now() })
    }
}

/// The process.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    results: PathBuf,
    begin: Instant,
}

impl Running {
    /// Waits for its end, shows its output, and adds its results. A process without results is a failure.
    pub(crate) fn end(mut self, report: &mut Report) {
        report.step("waiting for the tests beside");
        let status = self.child.wait();
        println!("{}", String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()));
        println!("     {} s after their start, the tests beside have ended", self.begin.elapsed().as_secs());
        let results = fs::read(&self.results).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match (results, status) {
            (Some(results), Ok(status)) if status.success() => report.append(results),
            (_, status) => report.failure("the tests on this host", &format!("no results, {status:?}")),
        }
    }
}

/// The hidden task `run-beside`: runs the tests in one file and writes the results to another.
pub(crate) fn main(tests: &Path, results: &Path) -> Result<ExitCode> {
    let tests: Tests = serde_json::from_slice(&fs::read(tests)?)?;
    let mut report = Report::default();
    tests.run(&mut report);
    fs::write(results, serde_json::to_vec(&report)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn open_kvm() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm")
}

/// Copies this program's file to a directory: building the tests has replaced it. An earlier copy may be running.
pub(crate) fn copy_of_this_program(dir: &Path) -> Result<PathBuf> {
    let copy = dir.join("xtask");
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::copy("/proc/self/exe", &copy)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(script: &str, dir: &Path) -> Running {
        let (log, results) = (dir.join("output"), dir.join("results.json"));
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(dir);
        Running { child: command.spawn().unwrap(), log, results, begin: Instant::now() }
    }

    #[test]
    fn results_count_and_their_absence_is_a_failure() {
        let dir = std::env::temp_dir().join(format!("hutch-xtask-beside-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut good = Report::default();
        good.check("a", true, std::time::Duration::ZERO);
        fs::write(dir.join("results.json"), serde_json::to_vec(&good).unwrap()).unwrap();
        let mut report = Report::default();
        running("exit 0", &dir).end(&mut report);
        assert_eq!((report.total().passed, report.total().failed), (1, 0));
        running("exit 1", &dir).end(&mut report);
        running("kill -9 $$", &dir).end(&mut report);
        running("echo x > results.json", &dir).end(&mut report);
        assert_eq!((report.total().passed, report.total().failed), (1, 3));
        fs::remove_dir_all(&dir).unwrap();
    }
}
