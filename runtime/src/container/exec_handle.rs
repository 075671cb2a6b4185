//! A process that was started in a container, with its pipes.

use std::io::{PipeReader, PipeWriter, Read};
use std::time::Duration;

use hutch_agent_proto::WindowSize;

use crate::backend::BackendError;
use crate::capture::StdioPipes;
use crate::container::{ContainerHandle, Process};
use crate::error::{Component, Error, Result};
use crate::runtime::Runtime;
use crate::spec::Exit;

/// A wait without limit is repeated in slices of this length.
const SLICE: Duration = Duration::from_secs(3600);

/// A process that [`ContainerHandle::exec`] started. Dropping this leaves the process as it is, apart from the ends of
/// its pipes.
#[derive(Debug)]
pub struct ExecHandle {
    runtime: Runtime,
    pod: String,
    container: String,
    process: Process,
    /// Feeds the process's stdin, if that is piped; drop it to end the stdin.
    pub stdin: Option<PipeWriter>,
    /// The process's stdout, if that is piped.
    pub stdout: Option<PipeReader>,
    /// The process's stderr, if that is piped.
    pub stderr: Option<PipeReader>,
}

/// The output of a process, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub exit: Exit,
    /// Empty, if stdout was not piped.
    pub stdout: Vec<u8>,
    /// Empty, if stderr was not piped.
    pub stderr: Vec<u8>,
}

impl ExecHandle {
    pub(crate) fn new(runtime: &Runtime, container: &ContainerHandle, process: Process, pipes: StdioPipes) -> Self {
        let StdioPipes { stdin, stdout, stderr } = pipes;
        let (pod, container) = (container.pod().to_owned(), container.id().to_owned());
        Self { runtime: runtime.clone(), pod, container, process, stdin, stdout, stderr }
    }

    /// Its token and the PID of its shim.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// [`Runtime::wait_process`].
    pub fn wait(&self, timeout: Duration) -> Result<Option<Exit>> {
        self.runtime.wait_process(&self.pod, &self.container, &self.process.token, timeout)
    }

    /// [`Runtime::signal_process`] for the process alone.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.runtime.signal_process(&self.pod, &self.container, &self.process.token, signal, false)
    }

    /// [`Runtime::signal_process`] for the process and its descendants.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        self.runtime.signal_process(&self.pod, &self.container, &self.process.token, signal, true)
    }

    /// [`Runtime::resize_process`].
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        self.runtime.resize_process(&self.pod, &self.container, &self.process.token, size)
    }

    /// [`Runtime::forget_process`], for a process that has ended.
    pub fn forget(self) -> Result<()> {
        self.runtime.forget_process(&self.pod, &self.container, &self.process.token)
    }

    /// Ends the process's stdin, reads its outputs to their ends, waits for the process and forgets it.
    ///
    /// # Errors
    /// [`Error::Backend`] if an output cannot be read; the process goes on then. Else as [`Runtime::wait_process`].
    pub fn wait_with_output(mut self) -> Result<ExecOutput> {
        drop(self.stdin.take());
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        // Both at the same time: the process may fill either pipe first.
        let (stdout, stderr) = std::thread::scope(|scope| {
            let errors = scope.spawn(|| read(stderr));
            (read(stdout), errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (stdout, stderr) = (stdout?, stderr?);
        let exit = loop {
            if let Some(exit) = self.wait(SLICE)? {
                break exit;
            }
        };
        self.forget()?;
        Ok(ExecOutput { exit, stdout, stderr })
    }
}

fn read(pipe: Option<PipeReader>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let fail = |e| Error::backend(Component::Shim, "read-output", BackendError::system("read a pipe", e));
        pipe.read_to_end(&mut bytes).map_err(fail)?;
    }
    Ok(bytes)
}
