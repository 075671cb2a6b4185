//! Runs test binaries on this host or, as a copy of this program, inside the testbed.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::libtest::{closing_line, listed, says_skipped, Counts};
use super::report::{End, Report};
use super::{speed, Binary};
use crate::Result;

/// Limit for one test binary on the machine that runs CI, if that does nothing else: far longer than a good run, and shorter
/// than CI's own limit.
pub(crate) const BINARY_TIMEOUT: Duration = Duration::from_secs(25 * 60);

/// Limit for one test binary on this machine, as busy as it is now.
pub(crate) fn binary_timeout() -> Duration {
    BINARY_TIMEOUT.mul_f64(speed::slowness())
}

/// Test binaries and the way to run them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) binaries: Vec<Binary>,
    /// Run only tests whose names contain this.
    pub(crate) only: Option<String>,
    /// Leave out tests whose names contain this.
    pub(crate) skip: Option<String>,
    /// Number of times to run each binary.
    pub(crate) repeat: u32,
    /// Limit for each run of a binary.
    pub(crate) limit: Duration,
    /// Names of the runs that are over, if a plan goes on in another machine.
    pub(crate) done: Vec<String>,
    /// Run one test at a time, because the tests measure or change the machine.
    pub(crate) serial: bool,
    /// Suffix of each name in the report.
    pub(crate) label: String,
    /// Variables for the tests.
    pub(crate) env: Vec<(String, String)>,
    /// File for the results, written after each binary, if another process waits for them.
    pub(crate) results: Option<PathBuf>,
}

impl Plan {
    /// All binaries once.
    pub(crate) fn new(binaries: Vec<Binary>, only: Option<&str>) -> Plan {
        Plan {
            binaries,
            only: only.map(str::to_owned),
            skip: None,
            repeat: 1,
            limit: binary_timeout(),
            done: Vec::new(),
            serial: false,
            label: String::new(),
            env: Vec::new(),
            results: None,
        }
    }

    fn command(&self, binary: &Binary) -> Command {
        let mut command = Command::new(&binary.path);
        command.current_dir(&binary.dir).args(&self.only);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(skip) = &self.skip {
            command.args(["--skip", skip]);
        }
        if self.serial {
            command.arg("--test-threads=1");
        }
        command
    }

    fn name(&self, binary: &Binary, round: u32) -> String {
        let round = if self.repeat > 1 { format!(", round {}", round + 1) } else { String::new() };
        format!("{}{}{round}", binary.name, self.label)
    }

    /// The first run that is not over.
    pub(crate) fn next(&self) -> Option<String> {
        self.names().find(|name| !self.done.contains(name))
    }

    /// Every name that this plan reports.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.repeat).flat_map(move |round| self.binaries.iter().map(move |b| self.name(b, round)))
    }

    /// Number of tests in this plan.
    pub(crate) fn total(&self) -> u64 {
        self.binaries.iter().map(|binary| self.count(binary)).sum::<u64>() * u64::from(self.repeat)
    }

    /// Drops binaries in which the name filter finds no test.
    pub(crate) fn drop_empty(&mut self) {
        let keep: Vec<Binary> = self.binaries.iter().filter(|binary| self.count(binary) > 0).cloned().collect();
        self.binaries = keep;
    }

    fn count(&self, binary: &Binary) -> u64 {
        let output = self.command(binary).args(["--list", "--format=terse"]).output();
        output.map_or(0, |o| listed(&String::from_utf8_lossy(&o.stdout)))
    }
}

/// Runs a plan on this machine.
pub(crate) fn on_host(plan: &Plan, report: &mut Report) {
    for round in 0..plan.repeat {
        for binary in &plan.binaries {
            let name = plan.name(binary, round);
            if plan.done.contains(&name) {
                continue;
            }
            println!("\n     Running {name}");
            let begin = Instant::now();
            let (counts, end) = tee(&mut plan.command(binary), plan.limit, &mut io::stdout());
            report.binary(&name, counts, end, begin.elapsed());
            if let Some(path) = &plan.results {
                // If this fails, the waiting process reports the missing results.
                let _ = serde_json::to_vec(report).map(|bytes| fs::write(path, bytes));
            }
        }
    }
}

/// The hidden task `run-plan`: runs the plan in a file, as [`on_host`] does. The testbed runs this.
pub(crate) fn in_testbed(plan: &Path) -> Result<std::process::ExitCode> {
    let plan: Plan = serde_json::from_slice(&fs::read(plan)?)?;
    on_host(&plan, &mut Report::default());
    Ok(std::process::ExitCode::SUCCESS)
}

/// Runs a command, copies its stdout to `out` as it comes, and returns the sum of its closing lines, if any.
pub(crate) fn tee(command: &mut Command, timeout: Duration, out: &mut dyn Write) -> (Option<Counts>, End) {
    // A process group, so that processes that a test leaves behind end with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (None, End::Bad(format!("it cannot be started: {error}"))),
    };
    let (sender, chunks) = mpsc::channel();
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || stdout.map(|stdout| copy_chunks(stdout, &sender)));
    let deadline = Instant::now() + timeout;
    let mut scan = Scan::default();
    let mut late = false;
    loop {
        match chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => {
                let _ = out.write_all(&chunk).and_then(|()| out.flush());
                scan.read(&chunk);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                late = true;
                end_group(child.id());
                break;
            }
        }
    }
    let status = child.wait();
    if !late {
        let _ = reader.join();
    }
    let end = match status {
        _ if late => End::Bad(format!("it was stopped after {} s", timeout.as_secs())),
        Ok(status) if status.success() => End::Good,
        Ok(status) if status.code() == Some(101) => End::Failures,
        Ok(status) => End::Bad(format!("it ended with {status}")),
        Err(error) => End::Bad(format!("it cannot be waited for: {error}")),
    };
    (scan.counts, end)
}

fn end_group(leader: u32) {
    let group = nix::unistd::Pid::from_raw(leader as i32);
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
}

fn copy_chunks(mut from: impl Read, to: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 8 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if to.send(buffer[..n].to_vec()).is_err() => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Finds closing lines in output that arrives in chunks. The runner counts a skipped test as passed; this corrects the count.
#[derive(Default)]
struct Scan {
    line: Vec<u8>,
    skipped: u64,
    counts: Option<Counts>,
}

impl Scan {
    fn read(&mut self, chunk: &[u8]) {
        self.line.extend_from_slice(chunk);
        while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            self.skipped += u64::from(says_skipped(&line));
            if let Some(mut counts) = closing_line(&line) {
                let skipped = std::mem::take(&mut self.skipped).min(counts.passed);
                counts.passed -= skipped;
                counts.skipped += skipped;
                *self.counts.get_or_insert_default() += counts;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: Duration) -> (Option<Counts>, End) {
        tee(Command::new("sh").args(["-c", script]), timeout, &mut io::sink())
    }

    #[test]
    fn closing_lines_are_added_up_across_pieces() {
        let line = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured";
        let (counts, end) = run(&format!("printf 'test res'; echo '{}'; echo '{line}'", &line[8..]), BINARY_TIMEOUT);
        assert_eq!(counts, Some(Counts { passed: 4, failed: 0, skipped: 2 }));
        assert_eq!(end, End::Good);
    }

    #[test]
    fn a_test_that_says_it_is_skipped_has_not_passed() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured";
        let said = "echo SKIPPED: no io_uring; echo 'test a ... SKIPPED: no network'; echo ok";
        let (counts, _) = run(&format!("{said}; echo '{line}'; echo '{line}'"), BINARY_TIMEOUT);
        assert_eq!(counts, Some(Counts { passed: 4, failed: 0, skipped: 4 }));
        let (counts, _) = run(&format!("{said}; echo '{}'", line.replace('3', "1")), BINARY_TIMEOUT);
        assert_eq!(counts, Some(Counts { passed: 0, failed: 0, skipped: 2 }));
    }

    #[test]
    fn the_ways_in_which_a_binary_ends_are_distinguished() {
        assert_eq!(run("exit 101", BINARY_TIMEOUT).1, End::Failures);
        assert!(matches!(run("kill -9 $$", BINARY_TIMEOUT), (None, End::Bad(why)) if why.contains("signal: 9")));
        assert!(matches!(tee(&mut Command::new("/nonexistent"), BINARY_TIMEOUT, &mut io::sink()).1, End::Bad(_)));
    }

    #[test]
    fn a_hang_is_stopped_with_all_its_children() {
        let dir = std::env::temp_dir().join(format!("hutch-xtask-hang-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let script = format!("sleep 1000 & echo $! > {}/pid; wait", dir.display());
        let (_, end) = run(&script, Duration::from_secs(5));
        assert!(matches!(end, End::Bad(why) if why.contains("stopped")));
        let pid = fs::read_to_string(dir.join("pid")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        // The kernel has sent the signal; the process ends some time after.
        let path = format!("/proc/{}/stat", pid.trim());
        while fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_plan_goes_on_after_what_is_done() {
        let binary = |name: &str| Binary {
            name: name.to_owned(),
            kind: super::super::Kind::Unit,
            path: "/bin/true".into(),
            dir: "/".into(),
        };
        let mut plan = Plan { repeat: 2, ..Plan::new(vec![binary("a"), binary("b")], None) };
        plan.done = vec!["a, round 1".to_owned()];
        assert_eq!(plan.next().as_deref(), Some("b, round 1"));
        let mut report = Report::default();
        on_host(&plan, &mut report);
        assert_eq!(report.names().collect::<Vec<_>>(), ["b, round 1", "a, round 2", "b, round 2"]);
        plan.done.extend(report.names().map(str::to_owned));
        assert_eq!(plan.next(), None);
    }
}
