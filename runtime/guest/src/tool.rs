//! Runs the host's programs (apt, dpkg, tar, make): found through PATH, in the C locale; keeps the end of their stderr.

#![expect(unsafe_code, reason = "one call between fork and exec, so that a killed build takes its compiler with it")]

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// Lines of standard error kept for the message.
const KEPT_LINES: usize = 12;

/// A program that did not start or failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ToolError {
    #[error("`{program}` is not installed; {remedy}")]
    NotInstalled { program: String, remedy: &'static str },
    #[error("cannot run `{program}`")]
    Spawn { program: String, source: io::Error },
    #[error("cannot read the output of `{program}`")]
    Read { program: String, source: io::Error },
    #[error("`{command}` ended with {status}{}", last_words(stderr))]
    Failed { command: String, status: ExitStatus, stderr: String },
}

fn last_words(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(":\n  {}", stderr.trim_end().replace('\n', "\n  "))
    }
}

/// How programs are found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tools {
    /// PATH for the programs; `None`: the PATH of this process. Tests bring their own apt.
    path: Option<OsString>,
}

impl Tools {
    #[cfg(test)]
    pub(crate) fn with_path(path: impl Into<OsString>) -> Tools {
        Tools { path: Some(path.into()) }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// Runs a program to its end and returns its standard output.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, ToolError> {
        let mut command = self.command(program);
        command.args(args);
        run(command, |out| {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).map(|_| bytes)
        })
    }
}

/// Sends SIGTERM to the program when the calling thread (which waits for it) dies. Not for programs that must not be
/// interrupted, such as `apt-get install`.
pub(crate) fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl(PR_SET_PDEATHSIG) is one system call and thus fine between fork and exec; it takes no pointer.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Starts `command`, passes its standard output to `reader`, waits, and keeps the end of its standard error.
pub(crate) fn run<T>(
    mut command: Command,
    reader: impl FnOnce(&mut ChildStdout) -> io::Result<T>,
) -> Result<T, ToolError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let shown = shown(&command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            ToolError::NotInstalled { program: program.clone(), remedy: remedy(&program) }
        } else {
            ToolError::Spawn { program: program.clone(), source }
        }
    })?;
    let stderr = keep_last_lines(&mut child);
    let mut stdout = child.stdout.take();
    let read = match &mut stdout {
        Some(stdout) => reader(stdout),
        None => unreachable!("standard output was piped above"),
    };
    drop(stdout); // a program that is not read to its end gets EPIPE and ends
    let status = child.wait().map_err(|source| ToolError::Spawn { program: program.clone(), source })?;
    let stderr = stderr.join().unwrap_or_default();
    let value = match read {
        Ok(value) => value,
        Err(_) if !status.success() => return Err(ToolError::Failed { command: shown, status, stderr }),
        Err(source) => return Err(ToolError::Read { program, source }),
    };
    if status.success() {
        Ok(value)
    } else {
        Err(ToolError::Failed { command: shown, status, stderr })
    }
}

/// Reads standard error on a thread of its own, so that neither pipe can fill up while the other is read.
fn keep_last_lines(child: &mut Child) -> JoinHandle<String> {
    let stderr = child.stderr.take();
    std::thread::spawn(move || {
        let mut lines = std::collections::VecDeque::new();
        let Some(stderr) = stderr else { return String::new() };
        for line in io::BufRead::split(io::BufReader::new(stderr), b'\n').map_while(Result::ok) {
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(&line).into_owned());
        }
        Vec::from(lines).join("\n")
    })
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}

fn remedy(program: &str) -> &'static str {
    match program {
        "apt-get" | "apt-cache" | "dpkg-deb" | "dpkg-query" => {
            "kernel packages are taken from Debian's archive. On another system use `--kernel host` or `--kernel PATH`"
        }
        _ => "install it and try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned_and_failure_tells_the_last_words() {
        let tools = Tools::default();
        assert_eq!(tools.output("sh", &["-c", "echo hi"]).unwrap(), b"hi\n");
        let error = tools.output("sh", &["-c", "echo out; echo no such thing >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no such thing") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_missing_program_names_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let tools = Tools::with_path(dir.path());
        let text = tools.output("apt-get", &[]).unwrap_err().to_string();
        assert!(text.contains("--kernel host"), "{text}");
    }

    #[test]
    fn a_flood_on_both_pipes_does_not_block() {
        let script =
            "i=0; while [ $i -lt 20000 ]; do echo oooooooooooooooo; echo eeeeeeeeeeeeeeee >&2; i=$((i+1)); done";
        assert_eq!(Tools::default().output("sh", &["-c", script]).unwrap().len(), 17 * 20_000);
    }
}
