//! VMM processes, seen from the runtime.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::SigSet;

use super::client::ControlClient;
use super::reexec::{Apart, ReExec};
use crate::backend::{
    BackendError, BackendResult, VmCapabilities, VmHandle, VmHost, VmLaunch, VmReply, VmRequest, VmStats,
};
use crate::process::{self, reap, ProcessIdentity, ProcessStats};
use crate::store::VmRecord;

/// Machines in processes of their own.
#[derive(Debug, Clone)]
pub struct ProcessVmHost {
    /// Starts such a process.
    pub reexec: ReExec,
    /// Capabilities of the machines.
    pub capabilities: VmCapabilities,
    /// Reap child processes that have ended. For long-lived programs. A program that ends soon leaves its children to
    /// init.
    pub reap: bool,
}

struct Handle {
    process: ProcessIdentity,
    socket: PathBuf,
    /// The launcher's connection until the start; later the first one that was opened.
    client: Option<ControlClient>,
}

impl ProcessVmHost {
    /// Machines in processes that `reexec` starts.
    pub fn new(reexec: ReExec) -> Self {
        let capabilities =
            VmCapabilities { block_hotplug: true, block_slots: true, cpu_hotplug: true, memory_hotplug: true };
        Self { reexec, capabilities, reap: false }
    }

    fn spawn_process(&self, launch: &VmLaunch<'_>) -> io::Result<Handle> {
        match fs::remove_file(launch.socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(launch.socket)?;
        fs::set_permissions(launch.socket, Permissions::from_mode(0o600))?;
        // The first connection is the launcher's: if it breaks before the start, the process ends.
        let client = ControlClient::connect(launch.socket).map_err(io::Error::other)?;
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(launch.log)?;
        let name = format!("hutch-vmm {}", launch.pod);
        let alone = launch.jail.is_on();
        let apart = match (alone, launch.no_network) {
            (false, _) => Apart::No,
            (true, false) => Apart::ButNetwork,
            (true, true) => Apart::Entirely,
        };
        let mut command = self.reexec.with_program(launch.program).command(&name, None, SigSet::empty(), apart)?;
        command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(log.try_clone()?).stderr(log).current_dir("/");
        let child = if alone { spawn_alone(&mut command)? } else { command.spawn()? };
        let process = ProcessIdentity::of(child.id() as i32)?;
        Ok(Handle { process, socket: launch.socket.to_owned(), client: Some(client) })
    }

    fn collect(&self, record: &VmRecord) {
        if self.reap {
            reap(record.process);
        }
    }
}

/// Spawns the process as the first one of a PID namespace, if the caller may make such: it sees no other process, and
/// signals none. On a thread that ends with that, because all further children of the thread would be in the namespace.
fn spawn_alone(command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        let birth = move || {
            // Without the privilege the process shares the caller's namespace.
            let _ = unshare(CloneFlags::CLONE_NEWPID);
            command.spawn()
        };
        let thread = thread::Builder::new().name("vmm-birth".into()).spawn_scoped(scope, birth)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl VmHost for ProcessVmHost {
    fn capabilities(&self) -> VmCapabilities {
        self.capabilities
    }

    fn spawn(&self, launch: &VmLaunch<'_>) -> BackendResult<Box<dyn VmHandle>> {
        match self.spawn_process(launch) {
            Ok(handle) => Ok(Box::new(handle)),
            Err(e) => {
                let _ = fs::remove_file(launch.socket);
                Err(BackendError::system(format!("start {}", self.reexec.program.display()), e))
            }
        }
    }

    fn attach(&self, record: &VmRecord) -> BackendResult<Box<dyn VmHandle>> {
        if !record.process.is_alive() {
            return Err(BackendError::Lost("the virtual machine's process has ended".into()));
        }
        Ok(Box::new(Handle { process: record.process, socket: record.socket.clone(), client: None }))
    }

    fn is_alive(&self, record: &VmRecord) -> bool {
        record.process.is_alive()
    }

    fn kill(&self, record: &VmRecord, timeout: Duration) -> BackendResult<()> {
        let fail = |e| BackendError::system(format!("kill the virtual machine's process {}", record.process.pid), e);
        if !record.process.kill_and_wait(timeout).map_err(fail)? {
            return Err(BackendError::Timeout { after: timeout });
        }
        self.collect(record);
        match fs::remove_file(&record.socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(BackendError::system(format!("remove {}", record.socket.display()), e))
            }
            _ => Ok(()),
        }
    }

    fn wait_end(&self, record: &VmRecord, timeout: Duration) -> BackendResult<bool> {
        let fail =
            |e| BackendError::system(format!("wait for the virtual machine's process {}", record.process.pid), e);
        let ended = record.process.wait_end(timeout).map_err(fail)?;
        if ended {
            self.collect(record);
        }
        Ok(ended)
    }

    fn stats(&self, record: &VmRecord) -> BackendResult<VmStats> {
        let pid = record.process.pid;
        if !record.process.is_alive() {
            return Err(BackendError::Lost("the virtual machine's process has ended".into()));
        }
        let ProcessStats { cpu_us, resident_bytes, threads, descriptors } = process::stats(pid)
            .map_err(|e| BackendError::system(format!("read the statistics of process {pid}"), e))?;
        Ok(VmStats { cpu_us, resident_bytes, threads, descriptors })
    }
}

impl Handle {
    fn client(&mut self) -> BackendResult<&mut ControlClient> {
        let client = match self.client.take() {
            Some(client) => client,
            None => ControlClient::connect(&self.socket)?,
        };
        Ok(self.client.insert(client))
    }
}

impl VmHandle for Handle {
    fn process(&self) -> ProcessIdentity {
        self.process
    }

    fn call(&mut self, request: VmRequest) -> BackendResult<VmReply> {
        self.client()?.call(request)
    }
}
