//! Counts the system calls of a target with ptrace(2): those of the program, its threads and its children, by name.
//! This needs no privileges. Tracing makes a program many times slower, so the count takes a run of its own, which
//! measures nothing else.
//!
//! To the kernel a thread is the tracer, not a process. Each run therefore has a thread that starts the program and
//! traces it.

#![expect(
    unsafe_code,
    reason = "CommandExt::pre_exec, struct ptrace_syscall_info, and real-time signals, which nix does not support"
)]

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hutch_agent_proto::Deadline;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::ptrace;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use syscalls::x86_64::Sysno;

use super::runner::{self, failed, timed_out, RunError, RunSettings, END_TIMEOUT};
use super::sample::SyscallCount;
use super::target::{Target, Until};

/// Number of polls for the next stop before the tracer sleeps: most tasks reach their next stop at once.
const POLLS_BEFORE_SLEEP: u32 = 10;
/// First and longest sleep of the tracer; each sleep is twice as long as the previous one.
const SLEEP: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(2));
/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;

/// Runs `target` once and counts its system calls. No process of the target remains, even after an error.
pub fn count(target: &Target, settings: &RunSettings) -> Result<SyscallCount, RunError> {
    let counted = std::thread::scope(|scope| scope.spawn(|| Tracer::start(target, settings)?.follow()).join());
    counted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct Tracer<'a> {
    target: &'a Target,
    child: Child,
    root: Pid,
    /// Every process and thread that has stopped at least once and has not ended.
    tasks: BTreeSet<Pid>,
    /// Exit status of the program itself.
    end: Option<ExitStatus>,
    deadline: Instant,
    output: Vec<u8>,
    noise: Vec<u8>,
    count: SyscallCount,
    /// The guest has printed its line; the count is complete.
    arrived: bool,
    /// All tasks have been sent SIGKILL.
    killed: bool,
}

impl<'a> Tracer<'a> {
    fn start(target: &'a Target, settings: &RunSettings) -> Result<Self, RunError> {
        let (program, args) = target.argv.split_first().expect("a target has a program");
        let mut command = Command::new(program);
        runner::allow_boot(&mut command, target, settings);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: ptrace(2) is a plain system call, which is allowed between fork and exec.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
        let child = command.spawn().map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => RunError::Trace { target: target.name.clone(), source },
            _ => RunError::Spawn { target: target.name.clone(), program: program.clone(), source },
        })?;
        Ok(Self {
            target,
            root: Pid::from_raw(child.id() as i32),
            child,
            tasks: BTreeSet::new(),
            end: None,
            deadline: Deadline::after(settings.timeout),
            output: Vec::new(),
            noise: Vec::new(),
            count: SyscallCount { target: target.name.clone(), ..SyscallCount::default() },
            arrived: false,
            killed: false,
        })
    }

    /// Traces the program and everything that it starts, to the end.
    fn follow(mut self) -> Result<SyscallCount, RunError> {
        let mut idle = (0, SLEEP.0);
        loop {
            match next_stop() {
                Stop::None if !self.in_time() => break,
                Stop::None => {
                    if idle.0 < POLLS_BEFORE_SLEEP {
                        idle.0 += 1;
                        std::thread::yield_now();
                        continue;
                    }
                    // A task that waits for space in a pipe does not stop: empty the pipes.
                    self.drain()?;
                    std::thread::sleep(idle.1);
                    idle.1 = SLEEP.1.min(idle.1 * 2);
                }
                Stop::Task(task, status) => {
                    self.stopped(task, status)?;
                    idle = (0, SLEEP.0);
                }
                Stop::NoTasks => break,
            }
        }
        self.drain()?;
        self.output.append(&mut self.noise);
        let complaint = match (self.target.until, self.end) {
            (Until::InitLine, _) if self.arrived => return Ok(std::mem::take(&mut self.count)),
            (Until::Exit, Some(end)) if end.success() => return Ok(std::mem::take(&mut self.count)),
            (_, end) if self.killed && end.is_none_or(|end| end.code().is_none()) => {
                let what = "while its system calls were counted, it did not end in time".to_owned();
                return Err(timed_out(self.target, what, &self.output));
            }
            (Until::InitLine, _) => "it ended before its guest's first line".into(),
            (Until::Exit, Some(end)) => match end.signal() {
                Some(signal) => format!("signal {signal} ended it"),
                None => format!("it ended with status {}", end.code().unwrap_or(-1)),
            },
            (Until::Exit, None) => "its end was not observed".into(),
        };
        Err(failed(self.target, format!("while its system calls were counted, {complaint}"), &self.output))
    }

    /// Kills all tasks at the deadline. Returns `false` if they still exist some time after that.
    fn in_time(&mut self) -> bool {
        if Instant::now() < self.deadline {
            return true;
        }
        if std::mem::replace(&mut self.killed, true) {
            return false;
        }
        self.kill_all();
        self.deadline = Deadline::after(END_TIMEOUT);
        true
    }

    fn kill_all(&self) {
        // The program is not among the tasks until its exec.
        let root = Some(&self.root).filter(|root| self.end.is_none() && !self.tasks.contains(root));
        for task in self.tasks.iter().chain(root) {
            // A task that has ended meanwhile needs no signal; the kernel does not reuse its id before waitpid(2).
            let _ = kill(*task, Signal::SIGKILL);
        }
    }

    fn stopped(&mut self, task: Pid, status: libc::c_int) -> Result<(), RunError> {
        if !libc::WIFSTOPPED(status) {
            self.tasks.remove(&task);
            if task == self.root {
                self.end = Some(ExitStatus::from_raw(status));
                // Processes that it left running are not part of the count.
                self.deadline = self.deadline.min(Deadline::after(END_TIMEOUT));
            }
            return Ok(());
        }
        let signal = match (libc::WSTOPSIG(status), status >> 16) {
            (SYSTEM_CALL, _) => {
                self.system_call(task)?;
                0
            }
            // The program after its exec. From now on the kernel attaches everything that the program starts.
            (libc::SIGTRAP, 0) if task == self.root && self.tasks.insert(task) => {
                let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
                    | ptrace::Options::PTRACE_O_TRACECLONE
                    | ptrace::Options::PTRACE_O_TRACEFORK
                    | ptrace::Options::PTRACE_O_TRACEVFORK
                    | ptrace::Options::PTRACE_O_TRACEEXEC
                    | ptrace::Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(task, options).map_err(|errno| self.lost(errno))?;
                0
            }
            // The first stop of a task that the kernel has attached.
            (libc::SIGSTOP, 0) if self.tasks.insert(task) => 0,
            (signal, 0) => signal,
            // It has called clone, fork or exec.
            (_, _event) => 0,
        };
        self.resume(task, signal);
        Ok(())
    }

    /// Handles a task that enters or leaves a system call.
    fn system_call(&mut self, task: Pid) -> Result<(), RunError> {
        // A task that was just killed has no information.
        let Ok(info) = ptrace::syscall_info(task) else { return Ok(()) };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY if !self.arrived => {
                // SAFETY: the kernel fills in this member for stops at the entry.
                let number = unsafe { info.u.entry.nr };
                self.count.total += 1;
                *self.count.by_name.entry(name(info.arch, number)).or_default() += 1;
            }
            // Check after every call that may have written, so that the count does not depend on timing.
            libc::PTRACE_SYSCALL_INFO_EXIT if !self.arrived && self.target.until == Until::InitLine => {
                self.drain()?;
                if runner::init_line(&self.output).is_some() {
                    self.arrived = true;
                    let _ = kill(self.root, Signal::SIGTERM);
                    self.deadline = Deadline::after(END_TIMEOUT);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Resumes a task, and delivers `signal` unless it is 0.
    fn resume(&self, task: Pid, signal: libc::c_int) {
        let request = if self.arrived { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL };
        let none = std::ptr::null_mut::<libc::c_void>();
        // Resuming fails for a task that was just killed, which does not matter.
        // SAFETY: the request does not access our memory; the signal takes the place of the pointer.
        unsafe { libc::ptrace(request, task.as_raw(), none, signal as usize) };
    }

    /// Reads the available output, without waiting.
    fn drain(&mut self) -> Result<(), RunError> {
        let now = PollTimeout::ZERO;
        let io = |source| RunError::Io { target: self.target.name.clone(), source };
        while let Some(stream) = &self.child.stdout {
            let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, now).map_err(|e| io(e.into()))? == 0 {
                break;
            }
            runner::read_some(&mut self.child.stdout, &mut self.output).map_err(io)?;
        }
        while let Some(stream) = &self.child.stderr {
            let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, now).map_err(|e| io(e.into()))? == 0 {
                break;
            }
            runner::read_some(&mut self.child.stderr, &mut self.noise).map_err(io)?;
        }
        Ok(())
    }

    fn lost(&self, errno: Errno) -> RunError {
        RunError::Trace { target: self.target.name.clone(), source: errno.into() }
    }
}

impl Drop for Tracer<'_> {
    /// No process remains, even after an error.
    fn drop(&mut self) {
        self.kill_all();
        let deadline = Deadline::after(END_TIMEOUT);
        while Instant::now() < deadline {
            match next_stop() {
                Stop::None => std::thread::sleep(SLEEP.0),
                // SIGKILL ends it after it has resumed.
                Stop::Task(task, status) if libc::WIFSTOPPED(status) => self.resume(task, libc::SIGKILL),
                Stop::Task(..) => {}
                Stop::NoTasks => break,
            }
        }
    }
}

/// Stop signal of a system call: SIGTRAP with the bit that PTRACE_O_TRACESYSGOOD sets.
const SYSTEM_CALL: libc::c_int = libc::SIGTRAP | 0x80;

/// The result of [`next_stop`].
enum Stop {
    /// No task has stopped or ended since the last call.
    None,
    /// A task has stopped or ended, with this status of waitpid(2).
    Task(Pid, libc::c_int),
    /// No task is left.
    NoTasks,
}

/// Polls for a stop or end of a task of this thread.
fn next_stop() -> Stop {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one integer, to `status`.
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD) } {
        0 => Stop::None,
        -1 if Errno::last() == Errno::EINTR => Stop::None,
        -1 => Stop::NoTasks,
        task => Stop::Task(Pid::from_raw(task), status),
    }
}

fn name(arch: u32, number: u64) -> String {
    match usize::try_from(number).ok().filter(|_| arch == X86_64).and_then(Sysno::new) {
        Some(call) => call.name().to_owned(),
        None if arch == X86_64 => format!("number_{number}"),
        None => format!("i386_{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(timeout_ms: u64) -> RunSettings {
        let dir = Path::new("/nonexistent");
        RunSettings { timeout: Duration::from_millis(timeout_ms), debugfs: dir.into(), scratch: dir.into() }
    }

    fn shell(script: &str, until: Until) -> Target {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        Target { name: "t".into(), argv, until, own_marks: false, guest_mib: 0 }
    }

    fn counted(script: &str, until: Until) -> SyscallCount {
        count(&shell(script, until), &settings(60_000)).unwrap()
    }

    #[test]
    fn calls_of_children_are_counted_by_name_and_repeat_exactly() {
        let one = counted("/bin/true", Until::Exit);
        assert_eq!(one.total, one.by_name.values().sum::<u64>());
        assert_eq!(one.by_name.get("exit_group"), Some(&2), "the shell's and its child's: {one:?}");
        assert_eq!(one, counted("/bin/true", Until::Exit));
        let three = counted("/bin/true; /bin/true; /bin/true", Until::Exit);
        assert_eq!(three.by_name.get("execve"), Some(&3), "those after the shell's own: {three:?}");
        assert!(three.total > one.total + 20);
    }

    #[test]
    fn the_count_ends_with_the_guests_line() {
        let before = counted("echo 'hutch-bench-init 1'; exec sleep 1000", Until::InitLine);
        assert_eq!(before.by_name.get("write"), Some(&1), "{before:?}");
        assert_eq!(before.by_name.get("execve"), None, "{before:?}");
        let more = "for i in 1 2 3 4 5 6 7; do echo $i; done; echo 'hutch-bench-init 1'; exec sleep 1000";
        assert_eq!(counted(more, Until::InitLine).by_name.get("write"), Some(&8));
    }

    #[test]
    fn much_output_does_not_block() {
        let count = counted("dd if=/dev/zero bs=1M count=4 2>/dev/null; echo >&2", Until::Exit);
        assert!(count.by_name["read"] >= 4, "{count:?}");
    }

    #[test]
    fn failures_and_silence_are_distinguished_and_no_process_remains() {
        let fails = |script: &str, until, ms| count(&shell(script, until), &settings(ms)).unwrap_err().to_string();
        let error = fails("echo why >&2; exit 3", Until::Exit, 60_000);
        assert!(error.contains("status 3") && error.contains("why"), "{error}");
        let error = fails("echo nothing", Until::InitLine, 60_000);
        assert!(error.contains("before its guest's first line"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.display());
        // A busy host may take longer than the first limits to get there.
        for limit in [2_000, 20_000, 200_000] {
            let error = fails(&script, Until::Exit, limit);
            assert!(error.contains("did not end in time"), "{error}");
            if pids.exists() {
                break;
            }
        }
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            // The init process here may not have reaped it yet.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z "), "{pid} is still there: {stat}");
        }
        let missing = Target { argv: vec!["/no/such".into()], ..shell("", Until::Exit) };
        assert!(matches!(count(&missing, &settings(1000)), Err(RunError::Spawn { .. })));
    }

    #[test]
    fn signals_reach_the_program() {
        let count = counted("trap 'exit 0' USR1; kill -USR1 $$; exit 5", Until::Exit);
        assert_eq!(count.by_name.get("kill"), Some(&1), "{count:?}");
    }

    #[test]
    fn real_time_signals_reach_the_program() {
        let count = counted("trap 'exit 0' 36; kill -36 $$; exit 5", Until::Exit);
        assert_eq!(count.by_name.get("kill"), Some(&1), "{count:?}");
    }

    #[test]
    fn threads_are_counted_too() {
        // This program, which runs each test on a thread.
        let program = std::env::current_exe().unwrap().display().to_string();
        let run = |filter: &str| {
            let argv = [&program, "--exact", filter].map(str::to_owned).to_vec();
            let target = Target { name: "t".into(), argv, until: Until::Exit, own_marks: false, guest_mib: 0 };
            count(&target, &settings(60_000)).unwrap()
        };
        let (none, one) = (run("no such test"), run("bench::syscalls::tests::numbers_without_a_name_are_shown"));
        assert!(one.by_name["clone3"] > none.by_name.get("clone3").copied().unwrap_or(0), "{one:?}");
    }

    #[test]
    fn numbers_without_a_name_are_shown() {
        assert_eq!(name(X86_64, 16), "ioctl");
        assert_eq!(name(X86_64, 100_000), "number_100000");
        assert_eq!(name(0x4000_0003, 4), "i386_4");
    }
}
