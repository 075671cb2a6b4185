//! Counts the system calls of a target by ptrace(2): those of the program, its threads and its children, each with
//! its name. Needs no privileges. A traced program is many times slower, so this is a run of its own, in which
//! nothing else is measured.
//!
//! The kernel knows a tracer by its thread: program and tracer live on one that is made for the run.

#![allow(
    unsafe_code,
    reason = "CommandExt::pre_exec, struct ptrace_syscall_info, and real-time signals, which nix does not know"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::ptrace;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use syscalls::x86_64::Sysno;

use super::runner::{self, failed, RunError, RunSettings, END_TIMEOUT};
use super::target::{Target, Until};

/// How often the tracer looks for the next stop before it sleeps: most tasks go from one to the next at once.
const LOOKS: u32 = 10;
/// How long it sleeps then, and twice as long each time after that, up to the second.
const IDLE: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(2));
/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;

/// The system calls of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallCount {
    /// Name of the target.
    pub target: String,
    /// All of them: to the guest's first line, or to the program's end.
    pub total: u64,
    /// By name.
    pub by_name: BTreeMap<String, u64>,
}

impl SyscallCount {
    /// The `n` most frequent ones, most frequent first.
    pub fn most_frequent(&self, n: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> = self.by_name.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.truncate(n);
        all
    }
}

/// Runs `target` once and counts.
///
/// # Errors
/// See [`RunError`]; all processes are gone in every case.
pub fn count(target: &Target, settings: &RunSettings) -> Result<SyscallCount, RunError> {
    let counted = std::thread::scope(|scope| scope.spawn(|| Tracer::start(target, settings)?.follow()).join());
    counted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct Tracer<'a> {
    target: &'a Target,
    child: Child,
    root: Pid,
    /// Every process and thread that has stopped once and not ended.
    tasks: BTreeSet<Pid>,
    /// How the program itself ended.
    end: Option<ExitStatus>,
    deadline: Instant,
    output: Vec<u8>,
    noise: Vec<u8>,
    count: SyscallCount,
    /// Nothing is counted any more.
    arrived: bool,
    /// Everything has been told to end.
    killed: bool,
}

impl<'a> Tracer<'a> {
    fn start(target: &'a Target, settings: &RunSettings) -> Result<Self, RunError> {
        let (program, args) = target.argv.split_first().expect("a target has a program");
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: ptrace(2) is a bare system call, as is allowed between fork and exec.
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
            deadline: Instant::now() + settings.timeout,
            output: Vec::new(),
            noise: Vec::new(),
            count: SyscallCount { target: target.name.clone(), ..SyscallCount::default() },
            arrived: false,
            killed: false,
        })
    }

    /// Sees the program and all that it has started to the end.
    fn follow(mut self) -> Result<SyscallCount, RunError> {
        let mut idle = (0, IDLE.0);
        loop {
            match next_stop() {
                Stop::None if !self.in_time() => break,
                Stop::None => {
                    if idle.0 < LOOKS {
                        idle.0 += 1;
                        std::thread::yield_now();
                        continue;
                    }
                    // Whoever waits for room in a pipe does not stop.
                    self.drain()?;
                    std::thread::sleep(idle.1);
                    idle.1 = IDLE.1.min(idle.1 * 2);
                }
                Stop::Task(task, status) => {
                    self.stopped(task, status)?;
                    idle = (0, IDLE.0);
                }
                Stop::NobodyLeft => break,
            }
        }
        self.drain()?;
        self.output.append(&mut self.noise);
        let complaint = match (self.target.until, self.end) {
            (Until::InitLine, _) if self.arrived => return Ok(std::mem::take(&mut self.count)),
            (Until::Exit, Some(end)) if end.success() => return Ok(std::mem::take(&mut self.count)),
            (_, end) if self.killed && end.is_none_or(|end| end.code().is_none()) => "it did not end in time".into(),
            (Until::InitLine, _) => "it ended before its guest's first line".into(),
            (Until::Exit, Some(end)) => match end.signal() {
                Some(signal) => format!("it was ended by signal {signal}"),
                None => format!("it ended with status {}", end.code().unwrap_or(-1)),
            },
            (Until::Exit, None) => "it was lost".into(),
        };
        Err(failed(self.target, format!("while its system calls were counted, {complaint}"), &self.output))
    }

    /// Kills everything when time is up; `false` if even that did not help.
    fn in_time(&mut self) -> bool {
        if Instant::now() < self.deadline {
            return true;
        }
        if std::mem::replace(&mut self.killed, true) {
            return false;
        }
        self.kill_all();
        self.deadline = Instant::now() + END_TIMEOUT;
        true
    }

    fn kill_all(&self) {
        // The program is not among the tasks until its exec.
        let root = Some(&self.root).filter(|root| self.end.is_none() && !self.tasks.contains(root));
        for task in self.tasks.iter().chain(root) {
            // What has ended in the meantime needs no signal; its number is not given away before it is waited for.
            let _ = kill(*task, Signal::SIGKILL);
        }
    }

    fn stopped(&mut self, task: Pid, status: libc::c_int) -> Result<(), RunError> {
        if !libc::WIFSTOPPED(status) {
            self.tasks.remove(&task);
            if task == self.root {
                self.end = Some(ExitStatus::from_raw(status));
                // What it has left running is not part of it.
                self.deadline = self.deadline.min(Instant::now() + END_TIMEOUT);
            }
            return Ok(());
        }
        let signal = match (libc::WSTOPSIG(status), status >> 16) {
            (SYSTEM_CALL, _) => {
                self.system_call(task)?;
                0
            }
            // The program after its exec. From here on the kernel attaches all that it starts.
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
            // How a task that the kernel has attached begins.
            (libc::SIGSTOP, 0) if self.tasks.insert(task) => 0,
            (signal, 0) => signal,
            // It has cloned, forked or executed something.
            (_, _event) => 0,
        };
        self.resume(task, signal);
        Ok(())
    }

    /// A task is about to make a system call, or has made one.
    fn system_call(&mut self, task: Pid) -> Result<(), RunError> {
        // A task that has just been killed has no more to say.
        let Ok(info) = ptrace::syscall_info(task) else { return Ok(()) };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY if !self.arrived => {
                // SAFETY: the kernel fills in this member for stops at the entry.
                let number = unsafe { info.u.entry.nr };
                self.count.total += 1;
                *self.count.by_name.entry(name(info.arch, number)).or_default() += 1;
            }
            // Looked at whenever something may have been written, so that the count does not depend on the time.
            libc::PTRACE_SYSCALL_INFO_EXIT if !self.arrived && self.target.until == Until::InitLine => {
                self.drain()?;
                if runner::init_line(&self.output).is_some() {
                    self.arrived = true;
                    let _ = kill(self.root, Signal::SIGTERM);
                    self.deadline = Instant::now() + END_TIMEOUT;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets a task go on, and has it take `signal` if that is not 0.
    fn resume(&self, task: Pid, signal: libc::c_int) {
        let request = if self.arrived { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL };
        let none = std::ptr::null_mut::<libc::c_void>();
        // A task that has just been killed cannot be resumed and need not be.
        // SAFETY: the request touches no memory of ours; the signal goes in the place of the pointer.
        unsafe { libc::ptrace(request, task.as_raw(), none, signal as usize) };
    }

    /// Reads what has been written so far, without waiting.
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
    /// After an error, too, nothing stays behind.
    fn drop(&mut self) {
        self.kill_all();
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            match next_stop() {
                Stop::None => std::thread::sleep(IDLE.0),
                // On its way to its end, which SIGKILL has begun.
                Stop::Task(task, status) if libc::WIFSTOPPED(status) => self.resume(task, libc::SIGKILL),
                Stop::Task(..) => {}
                Stop::NobodyLeft => break,
            }
        }
    }
}

/// How waitpid(2) tells of a system call: SIGTRAP, marked as such (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL: libc::c_int = libc::SIGTRAP | 0x80;

/// What [`next_stop`] has found.
enum Stop {
    /// Nothing has happened.
    None,
    /// A task has stopped or ended, with this status of waitpid(2).
    Task(Pid, libc::c_int),
    /// There is nothing to wait for.
    NobodyLeft,
}

/// Of what this thread has started, and only that.
fn next_stop() -> Stop {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one integer, to `status`.
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD) } {
        0 => Stop::None,
        -1 if Errno::last() == Errno::EINTR => Stop::None,
        -1 => Stop::NobodyLeft,
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
    fn failures_and_silence_are_told_apart_and_nothing_stays() {
        let fails = |script: &str, until, ms| count(&shell(script, until), &settings(ms)).unwrap_err().to_string();
        let error = fails("echo why >&2; exit 3", Until::Exit, 60_000);
        assert!(error.contains("status 3") && error.contains("why"), "{error}");
        let error = fails("echo nothing", Until::InitLine, 60_000);
        assert!(error.contains("before its guest's first line"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.display());
        let error = fails(&script, Until::Exit, 2000);
        assert!(error.contains("did not end in time"), "{error}");
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            // Whoever is init here may not have waited for it yet.
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
    fn so_do_real_time_signals() {
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

    #[test]
    fn the_most_frequent_come_first() {
        let by_name = [("a", 1), ("b", 9), ("c", 5)].map(|(name, n)| (name.to_owned(), n)).into();
        let count = SyscallCount { target: String::new(), total: 15, by_name };
        assert_eq!(count.most_frequent(2), [("b", 9), ("c", 5)]);
    }
}
