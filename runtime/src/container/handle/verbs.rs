//! The verbs of containers on a handle. Each is the call of [`Runtime`](crate::Runtime) with the handle's ids.

use std::time::Duration;

use hutch_agent_proto::ContainerStats;

use super::ContainerHandle;
use crate::capture::StdioConfig;
use crate::container::{ExecHandle, ExecOptions, ExecOutput, Limits, ListProcessesOptions, Process};
use crate::error::Result;
use crate::pod::StopOptions;
use crate::spec::{Command, ContainerStatus, Exit};

impl ContainerHandle {
    /// [`Runtime::start_container`](crate::Runtime::start_container). A stopped container gets the streams again that
    /// this handle knows; for pipes, [`take_pipes`](Self::take_pipes) returns the new ones.
    pub fn start(&self) -> Result<ContainerHandle> {
        self.runtime.start_container_with(&self.pod, &self.id, &self.stdio)
    }

    /// [`Runtime::stop_container`](crate::Runtime::stop_container) with SIGTERM first, then SIGKILL.
    pub fn stop(&self) -> Result<ContainerHandle> {
        self.stop_with(StopOptions::default())
    }

    /// [`Runtime::stop_container`](crate::Runtime::stop_container).
    pub fn stop_with(&self, options: StopOptions) -> Result<ContainerHandle> {
        Ok(self.runtime.stop_container(&self.pod, &self.id, options)?.with_stdio(self.stdio.clone()))
    }

    /// [`Runtime::delete_container`](crate::Runtime::delete_container).
    pub fn delete(&self) -> Result<()> {
        self.runtime.delete_container(&self.pod, &self.id).map(drop)
    }

    /// [`Runtime::kill_container`](crate::Runtime::kill_container) for the init process.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.runtime.kill_container(&self.pod, &self.id, signal, false)
    }

    /// [`Runtime::kill_container`](crate::Runtime::kill_container) for all processes.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        self.runtime.kill_container(&self.pod, &self.id, signal, true)
    }

    /// [`Runtime::status_container`](crate::Runtime::status_container).
    pub fn status(&self) -> Result<ContainerStatus> {
        self.runtime.status_container(&self.pod, &self.id)
    }

    /// [`Runtime::stats_container`](crate::Runtime::stats_container).
    pub fn stats(&self) -> Result<ContainerStats> {
        self.runtime.stats_container(&self.pod, &self.id)
    }

    /// [`Runtime::wait_container`](crate::Runtime::wait_container).
    pub fn wait(&self, timeout: Duration) -> Result<Option<Exit>> {
        self.runtime.wait_container(&self.pod, &self.id, timeout)
    }

    /// [`Runtime::update_container`](crate::Runtime::update_container).
    pub fn update(&self, limits: &Limits) -> Result<()> {
        self.runtime.update_container(&self.pod, &self.id, limits)
    }

    /// [`Runtime::list_processes`](crate::Runtime::list_processes).
    pub fn list_processes(&self, options: &ListProcessesOptions) -> Result<Vec<u8>> {
        self.runtime.list_processes(&self.pod, &self.id, options)
    }

    /// [`Runtime::list_execs`](crate::Runtime::list_execs).
    pub fn list_execs(&self) -> Result<Vec<Process>> {
        self.runtime.list_execs(&self.pod, &self.id)
    }

    /// [`Runtime::exec_container`](crate::Runtime::exec_container), with the caller's ends of the pipes that
    /// `command.stdio` asks for.
    pub fn exec(&self, command: &Command, options: ExecOptions) -> Result<ExecHandle> {
        // Pipes of its own: another thread may use the same command.
        let command = Command { stdio: command.stdio.renewed(), ..command.clone() };
        let (_, _, process) = self.runtime.exec_container(&self.pod, &self.id, &command, options)?;
        Ok(ExecHandle::new(&self.runtime, self, process, command.stdio.take_pipes()))
    }

    /// Runs a command without stdin to its end, and returns what it wrote and how it ended.
    ///
    /// # Examples
    /// ```no_run
    /// # use hutch_runtime::{spec::Command, ContainerHandle};
    /// # fn show(container: ContainerHandle) -> hutch_runtime::Result<()> {
    /// let command = Command { args: vec!["/bin/uname".into(), "-r".into()], ..Command::default() };
    /// let output = container.output(&command)?;
    /// println!("{} ({})", String::from_utf8_lossy(&output.stdout), output.exit.shell_code());
    /// # Ok(())
    /// # }
    /// ```
    pub fn output(&self, command: &Command) -> Result<ExecOutput> {
        let command = Command { stdio: StdioConfig::captured(), stdin: false, ..command.clone() };
        self.exec(&command, ExecOptions::default())?.wait_with_output()
    }
}
