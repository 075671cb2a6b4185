//! Runs a hook in a process group of its own: with the state on its stdin, captured output and a timeout. Runs on the
//! calling thread of a process that reaps its own children: a helper, or a container's process before its program.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hutch_agent::failure::{invalid, Outcome};
use hutch_agent::sys::wait_for_any;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::seccomp::Filter;

/// Kept of a hook's output, so that an error with it fits into a message.
const MAX_OUTPUT: usize = 1500;
/// "No limit" for waiting.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// A hook of the OCI configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// Arguments, name first; if empty, the path is the only one.
    pub args: Vec<String>,
    /// Environment; if empty, that of the caller.
    pub env: Vec<String>,
    /// Timeout in seconds; without a timeout `None` or zero.
    pub timeout: Option<u64>,
}

impl Hook {
    /// Checks a hook from the host.
    pub fn check(&self) -> Outcome<()> {
        if !self.path.starts_with('/') {
            return Err(invalid(format!("hook {:?} is not an absolute path", self.path)));
        }
        if [&self.path].into_iter().chain(&self.args).chain(&self.env).any(|text| text.contains('\0')) {
            return Err(invalid(format!("hook {:?} contains a NUL byte", self.path)));
        }
        Ok(())
    }

    fn limit(&self) -> Duration {
        self.timeout.filter(|seconds| *seconds > 0).map_or(LONG, |seconds| Duration::from_secs(seconds).min(LONG))
    }
}

/// The state of the OCI runtime specification, which a hook reads on its stdin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the specification.
    pub version: String,
    /// Id of the container.
    pub id: String,
    /// Directory of the container's configuration in the guest.
    pub bundle: String,
    /// Annotations of the container; an object.
    pub annotations: Value,
}

impl State {
    /// The JSON text for a container with this status, and with the pid of its process if it has one.
    pub fn text(&self, status: &str, pid: Option<i32>) -> String {
        let annotations = if self.annotations.is_object() { self.annotations.clone() } else { json!({}) };
        let mut state = json!({
            "ociVersion": self.version, "id": self.id, "status": status, "bundle": self.bundle, "annotations": annotations,
        });
        if let Some(pid) = pid {
            state["pid"] = json!(pid);
        }
        state.to_string()
    }
}

/// A file without a name that holds `text`, positioned at its beginning.
pub fn text_file(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Runs a hook to its end, under `filter` if there is one.
///
/// # Errors
/// A text with the hook's path, the failure and the hook's output.
pub fn run(hook: &Hook, state: File, filter: Option<&Filter>) -> Result<(), String> {
    let failed = |why: String| format!("hook {:?} {why}", hook.path);
    let (mut child, output) = spawn(hook, state, filter).map_err(|error| failed(format!("cannot be run: {error}")))?;
    let mut output = Output { pipe: Some(output), bytes: Vec::new() };
    match watch(&child, &mut output, hook.limit()) {
        Ok(true) => {}
        Ok(false) => {
            end(&mut child);
            output.drain();
            let limit = hook.limit().as_secs();
            return Err(failed(format!("was killed after {limit} s{}", output.text())));
        }
        Err(errno) => {
            end(&mut child);
            return Err(failed(format!("cannot be watched: {}", errno.desc())));
        }
    }
    output.drain();
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited with code {code}"),
                (_, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
            };
            Err(failed(format!("{how}{}", output.text())))
        }
        Err(error) => Err(failed(format!("cannot be waited for: {error}"))),
    }
}

#[expect(unsafe_code, reason = "code between fork and exec")]
fn spawn(hook: &Hook, state: File, filter: Option<&Filter>) -> io::Result<(Child, File)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    if !hook.env.is_empty() {
        command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    }
    command.stdin(Stdio::from(state)).stdout(Stdio::from(theirs.try_clone()?)).stderr(Stdio::from(theirs));
    command.process_group(0);
    if let Some(filter) = filter.cloned() {
        // SAFETY: `load` makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || Ok(filter.load()?)) };
    }
    Ok((command.spawn()?, File::from(ours)))
}

/// Reads until the process has ended; `false` if it did not in time.
fn watch(child: &Child, output: &mut Output, limit: Duration) -> Result<bool, Errno> {
    let process = pidfd(child)?;
    let deadline = Instant::now() + limit;
    loop {
        let ended = match &output.pipe {
            Some(pipe) => {
                let seen = wait_for_any(&[process.as_fd(), pipe.as_fd()], deadline);
                if seen == [false, false] {
                    return Ok(false);
                }
                output.drain();
                seen[0]
            }
            None => match wait_for_any(&[process.as_fd()], deadline)[0] {
                true => true,
                false => return Ok(false),
            },
        };
        if ended {
            return Ok(true);
        }
    }
}

#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
fn pidfd(child: &Child) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; on success the kernel has made a descriptor for us.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, child.id(), 0))? as RawFd;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Kills the hook with its group and collects it.
fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // Not yet collected, so the group still is the hook's.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = child.wait();
}

struct Output {
    /// `None`: at its end.
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl Output {
    /// Reads what is there. Something that the hook left behind may hold the pipe, so its end is not waited for.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let room = MAX_OUTPUT.saturating_sub(self.bytes.len()).min(count);
                    self.bytes.extend_from_slice(&buffer[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match text.trim() {
            "" => String::new(),
            text => format!("; it said: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook { path: "/bin/sh".into(), args: vec!["sh".into(), "-c".into(), script.into()], ..Hook::default() }
    }

    fn outcome(hook: &Hook) -> Result<(), String> {
        run(hook, text_file("{\"id\":\"c\"}").unwrap(), None)
    }

    #[test]
    fn p_166_a_hook_reads_the_state_and_its_environment() {
        let hook =
            Hook { env: vec!["A=b=c".into()], ..shell("read x; [ \"$x\" = '{\"id\":\"c\"}' ] && [ \"$A\" = b=c ]") };
        outcome(&hook).unwrap();
        // A hook may ignore the state, and may print more than is kept.
        outcome(&shell("exec </dev/null; head -c 200000 /dev/zero")).unwrap();
    }

    #[test]
    fn p_166_a_failure_tells_what_the_hook_said() {
        let error = outcome(&shell("echo out; echo err >&2; exit 3")).unwrap_err();
        assert!(error.contains("exited with code 3") && error.contains("out\nerr"), "{error}");
        let error = outcome(&shell("kill -9 $$")).unwrap_err();
        assert!(error.contains("signal 9"), "{error}");
        let error = outcome(&Hook { path: "/no/such".into(), ..Hook::default() }).unwrap_err();
        assert!(error.contains("\"/no/such\" cannot be run"), "{error}");
    }

    #[test]
    fn p_166_a_hook_that_takes_too_long_is_killed_with_all_it_started() {
        let begin = Instant::now();
        let mark = tempfile::tempdir().unwrap();
        let script = format!("echo started; (sleep 3; echo late > {}/mark) & wait", mark.path().display());
        let error = outcome(&Hook { timeout: Some(1), ..shell(&script) }).unwrap_err();
        assert!(error.contains("killed after 1 s") && error.contains("started"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(3));
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!mark.path().join("mark").exists());
    }

    #[test]
    fn p_166_what_a_hook_leaves_behind_does_not_hold_it_up() {
        let begin = Instant::now();
        outcome(&shell("sleep 5 & echo done")).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn hooks_are_checked() {
        for bad in ["", "relative", "/a\0b"] {
            assert!(Hook { path: bad.into(), ..Hook::default() }.check().is_err(), "{bad:?}");
        }
        assert!(Hook { args: vec!["a\0".into()], ..shell("") }.check().is_err());
        assert!(shell("true").check().is_ok());
    }

    #[test]
    fn p_161_the_state_has_what_the_specification_asks_for() {
        let state =
            State { version: "1.2.0".into(), id: "c".into(), bundle: "/b".into(), annotations: json!({"a": "b"}) };
        let value: Value = serde_json::from_str(&state.text("created", Some(7))).unwrap();
        assert_eq!(
            value,
            json!({"ociVersion": "1.2.0", "id": "c", "status": "created", "pid": 7, "bundle": "/b",
            "annotations": {"a": "b"}})
        );
        let value: Value = serde_json::from_str(&State::default().text("stopped", None)).unwrap();
        assert_eq!((value.get("pid"), &value["annotations"]), (None, &json!({})));
    }
}
