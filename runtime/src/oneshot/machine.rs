//! A [`Machine`] of this process: built, listening for its agent, started.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::Arc;
use std::time::Duration;

use hutch_agent_proto::{ExitStatus, AGENT_PORT, HOST_PORT};
use hutch_vmm::confine::root::PrivateRoot;
use hutch_vmm::footprint::{drop_program_pages, ProgramPages};
use hutch_vmm::{BuildError, Machine, MachineConfig, MachineError, MachineExit, Stopper};

use super::{run, OneshotTask, OneshotVm, PhaseMarks, RunError, RunEventQueue};
use crate::agent_client::Connector;

/// The reason for which no machine runs.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The machine has no vsock device, through which the agent is reached.
    #[error("the machine has no vsock device")]
    NoVsock,
    /// The host cannot listen for the agent's report.
    #[error("listen for the guest's agent")]
    Listen(#[source] io::Error),
    /// The vCPUs could not be started.
    #[error("start the machine")]
    Start(#[from] MachineError),
}

/// A running machine and the connection to its agent. Dropping it ends the guest and frees all resources.
pub struct OneshotMachine {
    vm: Arc<MachineVm>,
    connector: Arc<dyn Connector>,
    push: Receiver<UnixStream>,
}

struct MachineVm {
    machine: Machine,
    stopper: Stopper,
}

impl OneshotVm for MachineVm {
    fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit> {
        self.machine.wait(timeout)
    }

    fn stop(&self) {
        self.stopper.stop();
    }

    fn grow(&self) -> u64 {
        self.machine.memory().map_or(0, |memory| memory.request(memory.capacity()))
    }
}

impl OneshotMachine {
    /// Builds the machine and starts it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left of the machine then.
    pub fn launch(config: &MachineConfig) -> Result<Self, LaunchError> {
        Self::launch_in(config, None)
    }

    /// Does the same in a root directory of its own ([`Machine::build_in`]).
    ///
    /// # Errors
    /// As for [`Self::launch`].
    pub fn launch_in(config: &MachineConfig, root: Option<PrivateRoot>) -> Result<Self, LaunchError> {
        let mut machine = Machine::build_in(config, root)?;
        let vsock = machine.vsock().ok_or(LaunchError::NoVsock)?;
        // Before the start, so that the agent cannot report too early.
        let push = vsock.listen(HOST_PORT).map_err(LaunchError::Listen)?;
        drop_program_pages(ProgramPages::Data);
        machine.start()?;
        let connector: Arc<dyn Connector> = Arc::new(move |timeout| vsock.connect(AGENT_PORT, timeout));
        let stopper = machine.stopper();
        Ok(Self { vm: Arc::new(MachineVm { machine, stopper }), connector, push })
    }

    /// Runs one command; the machine has been stopped when it returns ([`run`]).
    ///
    /// # Errors
    /// [`RunError`], and the machine for its console and counters.
    pub fn run(
        self,
        task: OneshotTask,
        queue: &RunEventQueue,
        marks: &mut PhaseMarks,
    ) -> (Result<ExitStatus, RunError>, OneshotEnd) {
        let vm: Arc<dyn OneshotVm> = Arc::clone(&self.vm) as _;
        let result = run(vm, self.push, self.connector, task, queue, marks);
        (result, OneshotEnd(self.vm))
    }
}

/// A machine that has been stopped.
pub struct OneshotEnd(Arc<MachineVm>);

impl OneshotEnd {
    /// The machine, for its boot marks, counters and console.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Leaves the machine to the end of the process, which frees it faster than dropping it, above all with
    /// [`MachineConfig::deferred_teardown`].
    pub fn leave(self) {
        std::mem::forget(self);
    }
}
