//! Hooks of the OCI configuration and their state. [`hutch_hook`] runs them, on the calling thread of a process that reaps
//! its own children: a helper, or a container's process before its program.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

use hutch_agent::failure::{invalid, Outcome};
use hutch_hook::{Capture, HookCause};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::seccomp::Filter;

/// Bytes kept of a hook's output, so that an error with it fits into a message.
const MAX_OUTPUT: usize = 1500;
/// Timeout of a hook that has none.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// A hook of the OCI configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciHook {
    /// Absolute path of the program.
    pub path: String,
    /// Arguments, name first; if empty, the path is the only one.
    pub args: Vec<String>,
    /// Environment; if empty, that of the caller.
    pub env: Vec<String>,
    /// Timeout in seconds; without a timeout `None` or zero.
    pub timeout: Option<u64>,
}

impl OciHook {
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
pub struct OciState {
    /// Version of the specification.
    pub version: String,
    /// Id of the container.
    pub id: String,
    /// Directory of the container's configuration in the guest.
    pub bundle: String,
    /// Annotations of the container; an object.
    pub annotations: Value,
}

impl OciState {
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

/// Runs a hook to its end, under `filter` if there is one.
///
/// # Errors
/// A text with the hook's path, the failure and the hook's output.
pub fn run(hook: &OciHook, state: File, filter: Option<&Filter>) -> Result<(), String> {
    let mut command = hutch_hook::command(&hook.path, &hook.args);
    if !hook.env.is_empty() {
        hutch_hook::set_environment(&mut command, &hook.env);
    }
    if let Some(filter) = filter {
        load_before_exec(&mut command, filter.clone());
    }
    hutch_hook::run(command, state, Some(hook.limit()), Capture::Merged(MAX_OUTPUT)).map_err(|failure| {
        let output = match failure.stdout.trim() {
            "" => String::new(),
            text => format!("; it said: {text}"),
        };
        format!("hook {:?} {}{output}", hook.path, explain(&failure.cause))
    })
}

fn explain(cause: &HookCause) -> String {
    match cause {
        HookCause::Launch(error) => format!("cannot be run: {error}"),
        HookCause::Watch(error) => format!("cannot be watched: {error}"),
        HookCause::Timeout(limit) => format!("was killed after {} s", limit.as_secs()),
        HookCause::Status(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
        },
    }
}

#[expect(unsafe_code, reason = "code between fork and exec")]
fn load_before_exec(command: &mut Command, filter: Filter) {
    // SAFETY: `load` makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || Ok(filter.load()?)) };
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use hutch_hook::state_file;

    use super::*;

    fn shell(script: &str) -> OciHook {
        OciHook { path: "/bin/sh".into(), args: vec!["sh".into(), "-c".into(), script.into()], ..OciHook::default() }
    }

    fn outcome(hook: &OciHook) -> Result<(), String> {
        run(hook, state_file(b"{\"id\":\"c\"}").unwrap(), None)
    }

    #[test]
    fn p_166_a_hook_reads_the_state_and_its_environment() {
        let hook =
            OciHook { env: vec!["A=b=c".into()], ..shell("read x; [ \"$x\" = '{\"id\":\"c\"}' ] && [ \"$A\" = b=c ]") };
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
        let error = outcome(&OciHook { path: "/no/such".into(), ..OciHook::default() }).unwrap_err();
        assert!(error.contains("\"/no/such\" cannot be run"), "{error}");
    }

    #[test]
    fn p_166_a_hook_that_takes_too_long_is_killed_with_all_it_started() {
        let mark = tempfile::tempdir().unwrap();
        let script = format!("echo started; (sleep 4; echo late > {}/mark) & wait", mark.path().display());
        let error = outcome(&OciHook { timeout: Some(1), ..shell(&script) }).unwrap_err();
        assert!(error.contains("killed after 1 s") && error.contains("started"), "{error}");
        std::thread::sleep(Duration::from_millis(4500));
        assert!(!mark.path().join("mark").exists());
    }

    #[test]
    fn p_166_what_a_hook_leaves_behind_does_not_hold_it_up() {
        let begin = Instant::now();
        outcome(&shell("sleep 30 & echo done")).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn hooks_are_checked() {
        for bad in ["", "relative", "/a\0b"] {
            assert!(OciHook { path: bad.into(), ..OciHook::default() }.check().is_err(), "{bad:?}");
        }
        assert!(OciHook { args: vec!["a\0".into()], ..shell("") }.check().is_err());
        assert!(shell("true").check().is_ok());
    }

    #[test]
    fn p_161_the_state_has_what_the_specification_asks_for() {
        let state =
            OciState { version: "1.2.0".into(), id: "c".into(), bundle: "/b".into(), annotations: json!({"a": "b"}) };
        let value: Value = serde_json::from_str(&state.text("created", Some(7))).unwrap();
        assert_eq!(
            value,
            json!({"ociVersion": "1.2.0", "id": "c", "status": "created", "pid": 7, "bundle": "/b",
            "annotations": {"a": "b"}})
        );
        let value: Value = serde_json::from_str(&OciState::default().text("stopped", None)).unwrap();
        assert_eq!((value.get("pid"), &value["annotations"]), (None, &json!({})));
    }
}
