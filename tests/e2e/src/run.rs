//! Running the program under test.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::{hutch_path, in_testbed, kernels, RootFs, HANG_TIMEOUT};

/// Seconds that a boot may take.
const BOOT_SECONDS: &str = "300";

/// Builds a command line of `hutch`.
pub struct Hutch {
    command: Command,
    args: Vec<OsString>,
    /// Value of `--kernel`, which goes right after the verb.
    kernel: Option<OsString>,
    input: Option<Vec<u8>>,
    timeout: Duration,
}

impl Hutch {
    /// Starts with `hutch VERB`.
    pub fn new(verb: &str) -> Hutch {
        Hutch::program(hutch_path()).args([verb])
    }

    /// Starts with `hutch run --rootfs ROOT` and the last of [`kernels`], which in CI boots fastest.
    pub fn run(root: &RootFs) -> Hutch {
        let kernel = kernels().pop().expect("a kind of kernel");
        Hutch::new("run").args(["--rootfs".as_ref(), root.path().as_os_str()]).kernel(kernel)
    }

    /// Starts with another program instead of `hutch`.
    pub fn program(path: impl AsRef<OsStr>) -> Hutch {
        let mut command = Command::new(path);
        // The emulated host is slow, and sometimes runs several machines.
        command.env("HUTCH_BOOT_TIMEOUT", BOOT_SECONDS);
        Hutch { command, args: Vec::new(), kernel: None, input: None, timeout: HANG_TIMEOUT }
    }

    /// Sets `--kernel`.
    pub fn kernel(mut self, kernel: impl Into<OsString>) -> Hutch {
        self.kernel = Some(kernel.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Hutch {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Ends the command line with `-- /bin/sh -c SCRIPT`.
    pub fn sh(self, script: &str) -> Hutch {
        self.args(["--", "/bin/sh", "-c", script])
    }

    /// Sets a variable of `hutch`'s own environment.
    pub fn env(mut self, key: &str, value: &str) -> Hutch {
        self.command.env(key, value);
        self
    }

    /// Bytes for stdin, followed by its end. The default is /dev/null.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Hutch {
        self.input = Some(bytes.into());
        self
    }

    /// Sets the limit of this run.
    pub fn timeout(mut self, timeout: Duration) -> Hutch {
        self.timeout = timeout;
        self
    }

    /// The command, for a test that connects its stdio itself.
    pub fn into_command(mut self) -> Command {
        let kernel = self.kernel.take().map(|kernel| [OsString::from("--kernel"), kernel]);
        let verb = self.args.len().min(1);
        self.args.splice(verb..verb, kernel.into_iter().flatten());
        self.command.args(&self.args);
        self.command
    }

    /// Runs the command to its end. In the testbed a run whose guest lost QEMU's race is tried again, twice at most.
    pub fn end(mut self) -> Ended {
        let (timeout, input) = (self.timeout, self.input.take());
        let mut command = self.into_command();
        let mut tries = 0;
        loop {
            let ended = start(&mut command, input.clone()).end(timeout);
            tries += 1;
            if tries == 3 || !in_testbed() || !ended.lost_a_race() {
                return ended;
            }
            println!("QEMU raced with a kernel that patches itself, once more: {}", ended.line);
        }
    }

    /// Starts the command and returns at once.
    pub fn start(mut self) -> Running {
        let input = self.input.take();
        start(&mut self.into_command(), input)
    }
}

fn start(command: &mut Command, input: Option<Vec<u8>>) -> Running {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().expect("hutch starts");
    let input = input.map(|bytes| feed(child.stdin.take().expect("a stdin"), bytes));
    let stdout = collect(child.stdout.take().expect("a stdout"));
    let stderr = collect(child.stderr.take().expect("a stderr"));
    Running { child, input, stdout, stderr, begin, line: format!("{command:?}") }
}

/// A running `hutch`. Dropping it kills the process.
pub struct Running {
    child: Child,
    input: Option<JoinHandle<()>>,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    begin: Instant,
    line: String,
}

impl Running {
    /// Process id of `hutch`.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends `hutch` a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a signal is sent");
    }

    /// Waits for the end, at most `timeout`. Then kills the process and panics with its output.
    pub fn end(mut self, timeout: Duration) -> Ended {
        let status = wait(&mut self.child, timeout);
        let late = status.is_none();
        if late {
            let _ = self.child.kill();
        }
        let status = status.unwrap_or_else(|| self.child.wait().expect("hutch can be waited for"));
        let text = |thread: JoinHandle<Vec<u8>>| thread.join().expect("the output can be read");
        let ended = Ended {
            status,
            stdout: text(self.stdout),
            stderr: String::from_utf8_lossy(&text(self.stderr)).into_owned(),
            time: self.begin.elapsed(),
            line: self.line,
        };
        if let Some(feeder) = self.input {
            // A command may end without reading all its input.
            let _ = feeder.join();
        }
        assert!(!late, "not over after {timeout:?}: {ended}");
        ended
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Ended {
    /// Exit code or signal of `hutch` itself.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: String,
    /// Wall-clock time from start to end.
    pub time: Duration,
    line: String,
}

impl Ended {
    /// Exit code; `None` if a signal killed `hutch` itself.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether the guest's kernel died as it does when QEMU's threads race with it: it patches its code while it runs on several
    /// processors, and one of them executes what it should not see ("Oops: int3"). That line may be gone from what is shown.
    fn lost_a_race(&self) -> bool {
        let panicked = self.stderr.contains("the guest's kernel panicked") && self.stderr.contains("Fatal exception");
        panicked || self.stderr.contains("Oops: int3") || self.text().contains("Oops: int3")
    }

    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Ended {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Checks that stdout equals `text`.
    #[track_caller]
    pub fn expect_text(self, text: &str) -> Ended {
        assert_eq!(self.text(), text, "{self}");
        self
    }

    /// Checks that stderr contains each of these words, in any case.
    #[track_caller]
    pub fn expect_complaint(self, words: &[&str]) -> Ended {
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(stderr.contains(&word.to_lowercase()), "stderr does not say {word:?}: {self}");
        }
        self
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match self.status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("code {:?}", self.code()),
        };
        writeln!(f, "{} ended with {end} after {:?}", self.line, self.time)?;
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}\n---", self.text(), self.stderr)
    }
}

/// Waits at most `timeout`. Polls a pid descriptor, which wakes up at the end of the process.
fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + timeout;
    let pid = pidfd(child.id());
    loop {
        if let Some(status) = child.try_wait().expect("hutch can be waited for") {
            return Some(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&pid), nix::poll::PollFlags::POLLIN)];
        let left = nix::poll::PollTimeout::try_from(left).unwrap_or(nix::poll::PollTimeout::MAX);
        let _ = nix::poll::poll(&mut fds, left);
    }
}

#[expect(unsafe_code, reason = "pidfd_open(2) has no wrapper in nix")]
fn pidfd(pid: u32) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the call takes two numbers; the result is checked below.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and has no other owner.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) }
}

fn feed(mut stdin: ChildStdin, bytes: Vec<u8>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _ = stdin.write_all(&bytes);
    })
}

trait Output: Read + Send + 'static {}
impl Output for ChildStdout {}
impl Output for ChildStderr {}

fn collect(mut from: impl Output) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}
