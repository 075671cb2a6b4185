//! Runs one target: starts it, waits for its event, reads its memory and ends it.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;
use hutch_runtime::process::ProcessIdentity;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{getrusage, Usage, UsageWho};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::proc;
use super::sample::Sample;
use super::target::{Target, Until, INIT_LINE};
use crate::resolve::pod::BOOT_TIMEOUT_VARIABLE;

/// Bytes of output to keep, for the search for the line and for error messages.
const OUTPUT_LIMIT: usize = 256 << 10;
/// Time that a target has to end after SIGTERM.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of all runs.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// A run that takes longer fails.
    pub timeout: Duration,
    /// Mount point of debugfs.
    pub debugfs: PathBuf,
    /// Directory for marks files.
    pub scratch: PathBuf,
}

/// The failure of a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{target}: cannot start {program:?}: {source}; is it installed and in PATH?")]
    Spawn { target: String, program: String, source: std::io::Error },
    #[error("{target}: cannot trace it: {source}; use --no-syscalls to omit the count of system calls")]
    Trace { target: String, source: std::io::Error },
    /// The target ended before its event, or with a failure.
    #[error("{target}: {what}; its last output:\n{output}")]
    Failed { target: String, what: String, output: String },
    /// The target got stuck, or is too slow.
    #[error("{target}: {what}; its last output:\n{output}")]
    TimedOut { target: String, what: String, output: String },
    #[error("{target}: cannot read its output: {source}")]
    Io { target: String, source: std::io::Error },
}

/// A child that is killed and reaped when this value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Runs `target` once. The process does not remain, even after an error.
pub fn run(target: &Target, settings: &RunSettings) -> Result<Sample, RunError> {
    let (program, args) = target.argv.split_first().expect("a target has a program");
    let marks_file = settings.scratch.join("marks.jsonl");
    let mut command = Command::new(program);
    if target.own_marks {
        let _ = std::fs::remove_file(&marks_file);
        // hutch accepts the option directly after its verb.
        let (verb, rest) = args.split_first().expect("hutch targets have a verb");
        command.arg(verb).arg("--marks").arg(&marks_file).args(rest);
    } else {
        command.args(args);
    }
    allow_boot(&mut command, target, settings);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = rusage();
    let start = monotonic_ns();
    let mut child = Running(command.spawn().map_err(|source| RunError::Spawn {
        target: target.name.clone(),
        program: program.clone(),
        source,
    })?);
    let mut sample = Sample { target: target.name.clone(), ..Sample::default() };
    let arrived = watch(target, &mut child.0, settings, start, &mut sample);
    let output = arrived?;
    if target.until == Until::InitLine {
        observe(child.0.id(), target, settings, &mut sample);
        end(&mut child.0);
    }
    let status = child.0.wait().map_err(|source| RunError::Io { target: target.name.clone(), source })?;
    if target.until == Until::Exit {
        sample.marks.insert("exit".into(), monotonic_ns() - start);
        if !status.success() {
            let what = match status.signal() {
                Some(signal) => format!("signal {signal} ended it"),
                None => format!("it ended with status {}", status.code().unwrap_or(-1)),
            };
            return Err(RunError::Failed { target: target.name.clone(), what, output: tail(&output) });
        }
    }
    cpu_time(&before, &rusage(), &mut sample);
    if target.own_marks {
        read_marks(&marks_file, start, &mut sample);
    }
    Ok(sample)
}

/// Reads output until the target's event, and returns all output.
fn watch(
    target: &Target,
    child: &mut Child,
    settings: &RunSettings,
    start: u64,
    sample: &mut Sample,
) -> Result<Vec<u8>, RunError> {
    let io = |source| RunError::Io { target: target.name.clone(), source };
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut output, mut noise) = (Vec::new(), Vec::new());
    let deadline = Deadline::after(settings.timeout);
    while out.is_some() || (err.is_some() && target.until == Until::Exit) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            output.extend_from_slice(&noise);
            return Err(timed_out(target, format!("no output line within {} s", settings.timeout.as_secs()), &output));
        }
        let mut fds = Vec::new();
        fds.extend(out.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        fds.extend(err.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(1))).unwrap_or(PollTimeout::MAX);
        poll(&mut fds, timeout).map_err(|e| io(e.into()))?;
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
        let has_out = out.is_some();
        if has_out && ready[0] {
            let now = monotonic_ns();
            let n = read_some(&mut out, &mut output).map_err(io)?;
            if n > 0 && !sample.marks.contains_key("first_byte") {
                sample.marks.insert("first_byte".into(), now - start);
            }
            if let (Until::InitLine, Some(clock)) = (target.until, init_line(&output)) {
                sample.marks.insert("init".into(), now - start);
                sample.guest_clock_ns = Some(clock);
                return Ok(output);
            }
        }
        if err.is_some() && ready.last() == Some(&true) && ready.len() == 1 + usize::from(has_out) {
            read_some(&mut err, &mut noise).map_err(io)?;
        }
    }
    output.extend_from_slice(&noise);
    match target.until {
        Until::Exit => Ok(output),
        Until::InitLine => Err(failed(target, "it ended before its guest's first line".into(), &output)),
    }
}

/// Reads once; drops the stream at its end. Keeps at most [`OUTPUT_LIMIT`] bytes.
pub(super) fn read_some(stream: &mut Option<impl Read>, into: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut buffer = [0; 16384];
    let n = match stream.as_mut() {
        Some(s) => s.read(&mut buffer)?,
        None => 0,
    };
    if n == 0 {
        *stream = None;
    }
    into.extend_from_slice(&buffer[..n]);
    if into.len() > OUTPUT_LIMIT {
        into.drain(..into.len() - OUTPUT_LIMIT);
    }
    Ok(n)
}

/// The guest clock of a complete [`INIT_LINE`] in `output`.
pub(super) fn init_line(output: &[u8]) -> Option<u64> {
    let at = output.windows(INIT_LINE.len()).position(|w| w == INIT_LINE.as_bytes())?;
    let rest = &output[at + INIT_LINE.len()..];
    let end = rest.iter().position(|b| !b.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// Records memory and exits while the guest waits.
fn observe(pid: u32, target: &Target, settings: &RunSettings, sample: &mut Sample) {
    if let Ok(smaps) = std::fs::read_to_string(format!("/proc/{pid}/smaps")) {
        let m = proc::memory(&smaps, target.guest_mib);
        for (name, kib) in [
            ("vmm_rss_kib", m.rss_kib),
            ("vmm_pss_kib", m.pss_kib),
            ("vmm_private_dirty_kib", m.private_dirty_kib),
            ("guest_rss_kib", m.guest_rss_kib),
        ] {
            sample.figures.insert(name.into(), kib as f64);
        }
    }
    for (name, count) in proc::kvm_exits(&settings.debugfs, pid) {
        sample.figures.insert(format!("kvm_{name}"), count as f64);
    }
}

/// Sends SIGTERM, so that hutch can write its marks, and SIGKILL later.
fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    // Waits on a pidfd: SIGCHLD is left to the rest of the program.
    let _ = ProcessIdentity::of(child.id() as i32).and_then(|process| process.wait_end(END_TIMEOUT));
    let _ = child.kill();
}

/// Reads the marks that hutch wrote: one JSON object per line, with `name` and `at_ns` of CLOCK_MONOTONIC.
fn read_marks(path: &Path, start: u64, sample: &mut Sample) {
    #[derive(serde::Deserialize)]
    struct Line {
        name: String,
        #[serde(default)]
        at_ns: Option<u64>,
        #[serde(default)]
        count: Option<f64>,
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        match (line.at_ns, line.count) {
            (Some(at), _) if at >= start => {
                sample.marks.entry(line.name).or_insert(at - start);
            }
            (None, Some(count)) => {
                sample.figures.insert(line.name, count);
            }
            _ => {}
        }
    }
}

pub(super) fn failed(target: &Target, what: String, output: &[u8]) -> RunError {
    RunError::Failed { target: target.name.clone(), what, output: tail(output) }
}

pub(super) fn timed_out(target: &Target, what: String, output: &[u8]) -> RunError {
    RunError::TimedOut { target: target.name.clone(), what, output: tail(output) }
}

/// Gives `hutch run` as much time for its boot as the whole run has: one limit is enough, and a traced program is slow.
pub(super) fn allow_boot(command: &mut Command, target: &Target, settings: &RunSettings) {
    if target.own_marks {
        command.env(BOOT_TIMEOUT_VARIABLE, settings.timeout.as_secs().to_string());
    }
}

fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn rusage() -> Option<Usage> {
    getrusage(UsageWho::RUSAGE_CHILDREN).ok()
}

/// Records CPU time and page faults of the child that was just reaped.
fn cpu_time(before: &Option<Usage>, after: &Option<Usage>, sample: &mut Sample) {
    let (Some(before), Some(after)) = (before, after) else { return };
    let ms = |u: nix::sys::time::TimeVal| u.tv_sec() as f64 * 1e3 + u.tv_usec() as f64 / 1e3;
    let pairs: BTreeMap<&str, f64> = [
        ("user_ms", ms(after.user_time()) - ms(before.user_time())),
        ("system_ms", ms(after.system_time()) - ms(before.system_time())),
        ("minor_faults", (after.minor_page_faults() - before.minor_page_faults()) as f64),
        ("major_faults", (after.major_page_faults() - before.major_page_faults()) as f64),
    ]
    .into();
    sample.figures.extend(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)));
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of hutch's marks.
fn monotonic_ns() -> u64 {
    use nix::time::{clock_gettime, ClockId};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always works");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> RunSettings {
        RunSettings { timeout: Duration::from_secs(20), debugfs: dir.to_owned(), scratch: dir.to_owned() }
    }

    fn shell(name: &str, script: &str, until: Until, own_marks: bool) -> Target {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        Target { name: name.into(), argv, until, own_marks, guest_mib: 128 }
    }

    #[test]
    fn a_target_is_timed_to_its_line_and_then_ended() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo booting; echo 'hutch-bench-init 1234567'; exec sleep 1000";
        let sample = run(&shell("t", script, Until::InitLine, false), &settings(dir.path())).unwrap();
        assert_eq!(sample.guest_clock_ns, Some(1_234_567));
        assert!(sample.marks["init"] >= sample.marks["first_byte"]);
        assert!(sample.figures["vmm_rss_kib"] > 0.0);
    }

    #[test]
    fn a_line_in_pieces_is_found_once_whole() {
        assert_eq!(init_line(b"x hutch-bench-init 12"), None);
        assert_eq!(init_line(b"x hutch-bench-init 12\r\n"), Some(12));
        assert_eq!(init_line(b"hutch-bench-init \n"), None);
    }

    #[test]
    fn exits_failures_and_silence_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let ok = run(&shell("t", "echo hi", Until::Exit, false), &settings(dir.path())).unwrap();
        assert!(ok.marks["exit"] >= ok.marks["first_byte"]);
        let error = run(&shell("t", "echo why >&2; exit 3", Until::Exit, false), &settings(dir.path()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("status 3") && error.contains("why"), "{error}");
        let error = run(&shell("t", "echo nothing", Until::InitLine, false), &settings(dir.path())).unwrap_err();
        assert!(error.to_string().contains("before its guest's first line"));
        let short = RunSettings { timeout: Duration::from_millis(200), ..settings(dir.path()) };
        let error = run(&shell("t", "exec sleep 1000", Until::InitLine, false), &short).unwrap_err();
        assert!(matches!(&error, RunError::TimedOut { what, .. } if what.contains("no output line within")), "{error}");
        let missing = Target { argv: vec!["/no/such".into()], ..shell("t", "", Until::Exit, false) };
        assert!(matches!(run(&missing, &settings(dir.path())), Err(RunError::Spawn { .. })));
    }

    #[test]
    fn own_marks_become_times_since_spawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(
            &path,
            "{\"name\":\"late\",\"at_ns\":1500}\nnot json\n{\"name\":\"early\",\"at_ns\":10}\n{\"name\":\"exits\",\"count\":7}\n",
        )
        .unwrap();
        let mut sample = Sample::default();
        read_marks(&path, 1000, &mut sample);
        assert_eq!(sample.marks.get("late"), Some(&500));
        assert!(!sample.marks.contains_key("early"), "a mark from before the spawn is not ours");
        assert_eq!(sample.figures.get("exits"), Some(&7.0));
    }
}
