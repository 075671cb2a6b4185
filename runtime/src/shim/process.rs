//! Shim processes, seen from the runtime.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use hutch_agent_proto::write_frame;
use nix::sched::{setns, unshare, CloneFlags};

use super::{StartMessage, SYNC_PIPE};
use crate::backend::{BackendError, BackendResult, PidNamespace, Shim, ShimSpec, Shims};
use crate::process::ProcessIdentity;
use crate::vm_host::{Apart, ReExec};

/// Stack of a reaper, which makes one system call.
const REAPER_STACK: usize = 64 << 10;

/// Shims as processes.
#[derive(Debug, Clone)]
pub struct ProcessShims {
    /// Starts such a process.
    pub reexec: ReExec,
    /// Put the shims into the requested namespaces (P-097). Needs CAP_SYS_ADMIN.
    pub namespaces: bool,
    /// Reap the processes as soon as they have ended, each on a small thread. For long-lived programs: the container's
    /// shim is pid 1 of a namespace and ends only after all others in there, those of execs, were reaped. A program
    /// that ends soon leaves its children to init.
    pub reap: bool,
}

struct Waiting {
    process: ProcessIdentity,
    sync_pipe: UnixStream,
}

impl ProcessShims {
    /// Shims that `reexec` starts.
    pub fn new(reexec: ReExec) -> Self {
        Self { reexec, namespaces: true, reap: false }
    }

    /// Spawns on a thread of its own, whose namespaces the process is born into; the thread ends with that.
    fn spawn_process(&self, spec: &ShimSpec, sync_pipe: &UnixStream) -> io::Result<Child> {
        let spawn = || {
            if self.namespaces {
                enter_namespaces(spec)?;
            }
            // Its own session: a terminal's signals are the guest's business, and a console can become its own.
            let name = format!("hutch-shim {}", spec.container);
            let mut command =
                self.reexec.command(&name, Some(sync_pipe.as_fd()), super::signals::passed(), Apart::No)?;
            command.env(SYNC_PIPE, sync_pipe.as_raw_fd().to_string()).current_dir("/");
            if spec.detach || spec.console.is_some() {
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            }
            spec.stdio.give_to(&mut command)?;
            command.spawn()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("shim".into()).spawn_scoped(scope, spawn)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// The network namespace for the thread itself, the PID namespace for the children it makes.
fn enter_namespaces(spec: &ShimSpec) -> io::Result<()> {
    if let Some(path) = &spec.network_namespace {
        let file = File::open(path)?;
        setns(&file, CloneFlags::CLONE_NEWNET)?;
    }
    match spec.pid_namespace {
        PidNamespace::New => unshare(CloneFlags::CLONE_NEWPID)?,
        PidNamespace::Join(process) => {
            let file = File::open(format!("/proc/{}/ns/pid_for_children", process.pid))?;
            if !process.is_alive() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the container's own shim has ended"));
            }
            setns(&file, CloneFlags::CLONE_NEWPID)?;
        }
    }
    Ok(())
}

impl Shims for ProcessShims {
    fn spawn(&self, spec: &ShimSpec) -> BackendResult<Box<dyn Shim>> {
        let fail = |e| BackendError::system(format!("start a shim for container {}", spec.container), e);
        let (sync_pipe, other) = UnixStream::pair().map_err(fail)?;
        let mut child = self.spawn_process(spec, &other).map_err(fail)?;
        drop(other);
        let waiting = ProcessIdentity::of(child.id() as i32).map(|process| Waiting { process, sync_pipe });
        let sent = waiting.and_then(|mut waiting| {
            write_frame(&mut waiting.sync_pipe, &StartMessage::Spec(Box::new(spec.clone())))
                .map_err(io::Error::other)?;
            Ok(waiting)
        });
        match sent {
            Ok(waiting) => {
                if self.reap {
                    let collect = move || drop(child.wait());
                    let small = std::thread::Builder::new().name("reaper".into()).stack_size(REAPER_STACK);
                    small.spawn(collect).map_err(fail)?;
                }
                Ok(Box::new(waiting))
            }
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(fail(e))
            }
        }
    }

    fn is_alive(&self, process: ProcessIdentity) -> bool {
        process.is_alive()
    }

    fn wait_end(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<bool> {
        process.wait_end(timeout).map_err(|e| BackendError::system(format!("wait for the shim {}", process.pid), e))
    }

    fn kill(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<()> {
        let fail = |e| BackendError::system(format!("kill the shim {}", process.pid), e);
        if !process.kill_and_wait(timeout).map_err(fail)? {
            return Err(BackendError::Timeout { after: timeout });
        }
        Ok(())
    }
}

impl Shim for Waiting {
    fn process(&self) -> ProcessIdentity {
        self.process
    }

    fn start(mut self: Box<Self>) -> BackendResult<()> {
        write_frame(&mut self.sync_pipe, &StartMessage::Go)
            .map_err(|e| BackendError::Lost(format!("the shim ended before it was started: {e}")))
    }
}
