//! Executes the program of a container's process. Runs inside the container, on the process's only thread.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

use hutch_agent::sys::set_window_size;
use hutch_agent::{candidates, DEFAULT_PATH};
use hutch_agent_proto::{RemoteError, RemoteErrorKind, WindowSize};
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::unistd::execv;

use crate::pre_exec::ExecPrep;
use crate::wire::{channel, send_failure};

/// Runs the last steps and executes the program, or reports to the agent why it could not. A program that cannot be
/// executed fails the start of a container, not its creation.
#[derive(Clone)]
pub struct Execute {
    pub prep: ExecPrep,
}

impl Executor for Execute {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Some(process) = spec.process() {
            set_terminal_size(process);
        }
        let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        let error = self.prep.run().err().unwrap_or_else(|| execute(&args));
        let message = error.message.clone();
        let _ = send_failure(channel(), error);
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

/// Sets the size here, since a process that enters a container does not wait for the agent before it runs its program.
fn set_terminal_size(process: &Process) {
    let (true, Some(size)) = (process.terminal().unwrap_or_default(), process.console_size()) else { return };
    let limit = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let size = WindowSize { rows: limit(size.height()), cols: limit(size.width()) };
    // On failure the program runs with the default size.
    let _ = set_window_size(std::io::stdin().as_fd(), size);
}

/// Tries the candidates as `execvp` does. Returns only on failure.
fn execute(args: &[String]) -> RemoteError {
    let invalid = |message: &str| RemoteError::new(RemoteErrorKind::Invalid, message);
    let Some(program) = args.first() else { return invalid("there is no program to run") };
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    let programs = match candidates(program, &path) {
        Ok(programs) => programs,
        Err(error) => return error,
    };
    let Ok(argv) = args.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<Vec<_>, _>>() else {
        return invalid("an argument contains a NUL byte");
    };
    let mut last = Errno::ENOENT;
    for candidate in &programs {
        let Err(errno) = execv(candidate, &argv);
        match errno {
            Errno::ENOENT if exists(candidate) => return missing_interpreter(program, errno),
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => last = errno,
            _ => return explain(program, errno),
        }
    }
    explain(program, last)
}

fn exists(path: &CStr) -> bool {
    path.to_str().is_ok_and(|path| Path::new(path).exists())
}

fn missing_interpreter(program: &str, errno: Errno) -> RemoteError {
    let message = format!("program {program:?}: its interpreter or dynamic loader is not in the root file system");
    RemoteError { kind: RemoteErrorKind::ProgramNotFound, message, errno: Some(errno as i32) }
}

fn explain(program: &str, errno: Errno) -> RemoteError {
    let (kind, message) = match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => {
            let place = if program.contains('/') { "the root file system" } else { "PATH of the root file system" };
            (RemoteErrorKind::ProgramNotFound, format!("program {program:?} not found in {place}"))
        }
        Errno::E2BIG => (RemoteErrorKind::Invalid, format!("arguments and environment: {}", errno.desc())),
        Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EIO | Errno::EAGAIN => {
            (RemoteErrorKind::System, format!("executing {program:?}: {}", errno.desc()))
        }
        _ => {
            (RemoteErrorKind::ProgramNotExecutable, format!("program {program:?} cannot be executed: {}", errno.desc()))
        }
    };
    RemoteError { kind, message, errno: Some(errno as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let run = |program: &str| execute(&[program.to_owned()]);
        assert_eq!(run("/none/such").kind, RemoteErrorKind::ProgramNotFound);
        assert_eq!(run("no-such-program-anywhere").kind, RemoteErrorKind::ProgramNotFound);
        assert_eq!(run("/etc/passwd").kind, RemoteErrorKind::ProgramNotExecutable);
        assert_eq!(run("/etc").kind, RemoteErrorKind::ProgramNotExecutable);
        assert_eq!(run("").kind, RemoteErrorKind::Invalid);
        assert_eq!(run("a\0b").kind, RemoteErrorKind::Invalid);
        assert_eq!(execute(&[]).kind, RemoteErrorKind::Invalid);
    }
}
