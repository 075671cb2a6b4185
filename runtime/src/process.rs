//! Other processes, named so that a recycled PID is never mistaken for them (P-113, P-114).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::signal::{kill, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{waitpid, WaitPidFlag};
use nix::unistd::{sysconf, Pid, SysconfVar};
use serde::{Deserialize, Serialize};

use crate::sys::{pidfd_open, pidfd_send_signal};

/// A process: its PID and the moment it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
///
/// PID 0 stands for "none": it is never alive, never waited for, never signalled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The PID in this PID namespace.
    pub pid: i32,
    /// Start in clock ticks since boot.
    pub start_ticks: u64,
}

/// Cuts timeouts to what the kernel's time can hold.
const LONGEST_POLL: Duration = Duration::from_secs(1 << 40);

/// The used part of `/proc/PID/stat`.
struct Stat {
    state: char,
    start_ticks: u64,
}

impl ProcessIdentity {
    /// No process.
    pub const NONE: ProcessIdentity = ProcessIdentity { pid: 0, start_ticks: 0 };

    /// The process that has `pid` now.
    ///
    /// # Errors
    /// `NotFound` if there is none, `InvalidInput` for PIDs that name groups.
    pub fn of(pid: i32) -> io::Result<Self> {
        if pid <= 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not the PID of a process")));
        }
        let stat = stat(pid)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no process {pid}")))?;
        Ok(Self { pid, start_ticks: stat.start_ticks })
    }

    /// This process.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Whether this names a process at all.
    pub fn is_some(self) -> bool {
        self.pid > 0
    }

    fn raw(self) -> Option<Pid> {
        // The system calls take other numbers for groups of processes.
        self.is_some().then(|| Pid::from_raw(self.pid))
    }

    /// Whether the process still runs. One that has ended and waits for its parent to collect it does not.
    ///
    /// If `/proc` cannot be read (permission), the process counts as alive.
    pub fn is_alive(self) -> bool {
        if !self.is_some() {
            return false;
        }
        match stat(self.pid) {
            Ok(Some(stat)) => stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X' | 'x'),
            // A /proc mounted with hidepid hides other users' processes.
            Ok(None) => self.raw().is_some_and(|pid| kill(pid, None) == Err(Errno::EPERM)),
            Err(_) => true,
        }
    }

    /// A descriptor of the process, for waiting; `None` if it is gone.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = self.raw() else { return Ok(None) };
        let fd = match pidfd_open(pid) {
            Ok(fd) => fd,
            // EINVAL: the process is being reaped right now and only has a number left, or the number now belongs to a
            // thread, for which newer kernels return ENOENT.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // Checked after opening: the descriptor names the process that `/proc` describes, or that has ended since.
        Ok(self.is_alive().then_some(fd))
    }

    /// Sends `signal`; `false` if the process is gone. Never reaches another process.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(fd) = self.open()? else { return Ok(false) };
        match pidfd_send_signal(fd.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until the process has ended, at most `timeout`; returns whether it has.
    pub fn wait_end(self, timeout: Duration) -> io::Result<bool> {
        match self.open()? {
            None => Ok(true),
            Some(fd) => wait_readable(&fd, timeout),
        }
    }

    /// SIGKILL, then a bounded wait for the end; returns whether it is gone.
    pub fn kill_and_wait(self, timeout: Duration) -> io::Result<bool> {
        if !self.signal(Signal::SIGKILL)? {
            return Ok(true);
        }
        self.wait_end(timeout)
    }
}

/// Reaps a child of this process that has ended. Other processes are left alone.
pub(crate) fn reap(process: ProcessIdentity) {
    let zombie =
        matches!(stat(process.pid), Ok(Some(stat)) if stat.start_ticks == process.start_ticks && stat.state == 'Z');
    if let (true, Some(pid)) = (zombie, process.raw()) {
        // It may not be our child; then the kernel refuses.
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Statistics of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStats {
    /// CPU time, microseconds.
    pub(crate) cpu_us: u64,
    /// Resident memory, bytes.
    pub(crate) resident_bytes: u64,
    /// Number of threads.
    pub(crate) threads: u64,
    /// Number of open descriptors.
    pub(crate) descriptors: u64,
}

/// Reads the statistics of a process from `/proc`.
pub(crate) fn stats(pid: i32) -> io::Result<ProcessStats> {
    let odd = || io::Error::other(format!("/proc/{pid}/stat is not as expected"));
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or_else(odd)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields are counted from 1 and the first here is the third: user and system time are 14 and 15, threads 20,
    // resident pages 24 (proc_pid_stat(5)).
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).ok_or_else(odd);
    let ticks = field(14)? + field(15)?;
    let system = |variable| io::Result::Ok(sysconf(variable)?.unwrap_or_default().unsigned_abs());
    let per_second = system(SysconfVar::CLK_TCK)?.max(1);
    let page = system(SysconfVar::PAGE_SIZE)?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    Ok(ProcessStats {
        cpu_us: ticks * 1_000_000 / per_second,
        resident_bytes: field(24)? * page,
        threads: field(20)?,
        descriptors,
    })
}

/// Waits until `fd` is readable (a process descriptor is, once its process has ended), at most `timeout`.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let left = left.map(|d| TimeSpec::from_duration(d.min(LONGEST_POLL)));
        match ppoll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], left, None) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reads `/proc/PID/stat`; `None` if there is no such process.
fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let text = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(e) => return Err(e),
    };
    parse_stat(&text).map(Some).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as expected")))
}

/// The command in the second field may hold blanks and parentheses; the last parenthesis ends it (proc_pid_stat(5)).
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields are counted from 1; the state is the third, the start the 22nd.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("100").stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn p_113_pids_that_name_groups_are_never_used() {
        for pid in [0, -1, i32::MIN] {
            let identity = ProcessIdentity { pid, start_ticks: 1 };
            assert!(ProcessIdentity::of(pid).is_err());
            assert!(!identity.is_alive());
            assert!(!identity.signal(Signal::SIGKILL).unwrap(), "{pid}");
            assert!(identity.wait_end(Duration::ZERO).unwrap());
            assert!(identity.kill_and_wait(Duration::ZERO).unwrap());
        }
    }

    #[test]
    fn p_114_a_recycled_pid_is_not_the_process() {
        let mut child = sleeper();
        let real = ProcessIdentity::of(child.id() as i32).unwrap();
        let other = ProcessIdentity { start_ticks: real.start_ticks.wrapping_sub(1), ..real };
        assert!(real.is_alive());
        assert!(!other.is_alive());
        assert!(!other.signal(Signal::SIGKILL).unwrap());
        assert!(real.is_alive(), "the process that now has the PID was left alone");
        assert!(real.kill_and_wait(Duration::from_secs(10)).unwrap());
        assert!(!real.is_alive(), "an uncollected process has ended");
        child.wait().unwrap();
        assert!(!real.is_alive());
        assert!(real.wait_end(Duration::ZERO).unwrap());
    }

    #[test]
    fn p_114_the_number_of_a_thread_is_not_a_process() {
        let (send_id, receive_id) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send_id.send(nix::unistd::gettid().as_raw()).unwrap();
            ended.recv().unwrap_err();
        });
        let identity = ProcessIdentity::of(receive_id.recv().unwrap()).unwrap();
        assert!(identity.open().unwrap().is_none());
        assert!(identity.kill_and_wait(Duration::ZERO).unwrap());
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn p_114_a_process_can_be_looked_at_while_it_is_collected() {
        for _ in 0..200 {
            let mut child = Command::new("true").spawn().unwrap();
            let identity = ProcessIdentity::of(child.id() as i32).unwrap();
            let collected = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !collected.load(Ordering::Relaxed) {
                        identity.open().unwrap();
                    }
                });
                child.wait().unwrap();
                collected.store(true, Ordering::Relaxed);
            });
        }
    }

    /// Another user's process, in a /proc that hides it, as `hidepid` does.
    #[test]
    fn p_114_no_permission_means_alive() {
        let script = "sleep 100 & child=$!; \
                      mount -t proc -o hidepid=invisible proc /proc || exit 77; \
                      HUTCH_TEST_PID=$child setpriv --reuid=65534 --regid=65534 --clear-groups \"$1\" --exact \
                      process::tests::inside_another_user --ignored --nocapture; code=$?; kill $child; exit $code";
        // The test program must be readable for the other user.
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        for path in [dir.path(), &copy] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(path, mode).unwrap();
        }
        let output = Command::new("unshare").args(["--mount", "sh", "-c", script, "sh"]).arg(&copy).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !text.contains("running 1 test") {
            let line = format!("SKIPPED: this host cannot hide processes: {}\n", text.trim());
            return std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).unwrap();
        }
        assert!(output.status.success() && text.contains("checked inside"), "{text}");
    }

    #[test]
    #[ignore = "the inner half of the test above"]
    fn inside_another_user() {
        let pid: i32 = std::env::var("HUTCH_TEST_PID").unwrap().parse().unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the process is hidden");
        assert!(ProcessIdentity { pid, start_ticks: 1 }.is_alive());
        println!("checked inside");
    }

    #[test]
    fn a_wait_ends_at_its_bound() {
        let mut child = sleeper();
        let identity = ProcessIdentity::of(child.id() as i32).unwrap();
        let start = Instant::now();
        assert!(!identity.wait_end(Duration::from_millis(30)).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(30));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_has_statistics() {
        let stats = super::stats(std::process::id() as i32).unwrap();
        assert!(stats.resident_bytes > 100_000 && stats.threads >= 1 && stats.descriptors >= 3, "{stats:?}");
        assert!(super::stats(-1).is_err());
    }

    #[test]
    fn only_ended_children_are_reaped() {
        let mut child = sleeper();
        let identity = ProcessIdentity::of(child.id() as i32).unwrap();
        reap(identity);
        assert!(identity.is_alive());
        identity.kill_and_wait(Duration::from_secs(5)).unwrap();
        reap(ProcessIdentity { start_ticks: 1, ..identity });
        reap(identity);
        assert!(ProcessIdentity::of(identity.pid).is_err());
        assert!(child.wait().is_err(), "collected already");
    }

    #[test]
    fn commands_with_parentheses_do_not_confuse() {
        let stat = parse_stat("7 (a) b) (c) S 1 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1").unwrap();
        assert_eq!((stat.state, stat.start_ticks), ('S', 4242));
        assert!(parse_stat("7 (x").is_none());
    }
}
