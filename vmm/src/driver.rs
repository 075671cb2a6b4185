//! The part of a machine that its threads share: state, exit, vCPU handles, behind one lock. vCPU threads report here;
//! the owner asks and waits here. Only this file changes the state, and only by [`MachineState::next`].

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hutch_devices::worker::WorkerError;

use crate::config::Timeouts;
use crate::console::GuestConsole;
use crate::exit::MachineExit;
use crate::marks::{names, Marks};
use crate::state::{Illegal, MachineEvent, MachineState};
use crate::sync::{lock, wait, wait_timeout};
use crate::vcpu::handle::VcpuCommand;
use crate::vcpu::{VcpuEvents, VcpuExitReason, VcpuHandle};

/// Why a request of the machine's owner failed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The machine's state does not allow it.
    #[error(transparent)]
    State(#[from] Illegal),
    /// The machine has ended.
    #[error("the machine has ended: {0}")]
    Over(MachineExit),
    /// vCPU threads did not react in time. After a pause that failed so, the guest goes on.
    #[error(
        "{count} vCPUs did not leave the guest within {timeout:?}: a device waits for the host; check the storage behind it"
    )]
    VcpuStuck {
        /// Number of such vCPUs.
        count: usize,
        /// The configured timeout.
        timeout: Duration,
    },
    /// A device did not come to rest in time. The machine goes on.
    #[error("the machine was not paused: {0}")]
    DeviceStuck(WorkerError),
}

/// Changes the machine's state and commands its vCPUs.
pub struct StateDriver {
    inner: Mutex<Inner>,
    changed: Condvar,
    console: Option<GuestConsole>,
    marks: Marks,
    timeouts: Timeouts,
}

struct Inner {
    state: MachineState,
    exit: Option<MachineExit>,
    /// The console has the guest's last line.
    finished: bool,
    vcpus: Vec<VcpuHandle>,
    /// Number of the last pause. A vCPU may report an earlier one late.
    pause: u64,
    /// vCPUs that have reported the last pause.
    paused: usize,
    /// vCPU threads that have ended.
    gone: usize,
}

impl Inner {
    fn apply(&mut self, event: MachineEvent) -> Result<(), MachineError> {
        match self.state.next(event) {
            Ok(next) => {
                self.state = next;
                Ok(())
            }
            Err(illegal) => Err(match &self.exit {
                Some(exit) => MachineError::Over(exit.clone()),
                None => illegal.into(),
            }),
        }
    }

    fn send(&self, command: VcpuCommand) {
        for vcpu in &self.vcpus {
            vcpu.send(command);
        }
    }
}

impl StateDriver {
    /// A driver in state `Built`, without vCPUs.
    pub fn new(console: Option<GuestConsole>, marks: Marks, timeouts: Timeouts) -> Self {
        let inner = Inner {
            state: MachineState::Built,
            exit: None,
            finished: false,
            vcpus: Vec::new(),
            pause: 0,
            paused: 0,
            gone: 0,
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), console, marks, timeouts }
    }

    /// Takes over a parked vCPU and sends it the command that the others got. During a pause it stays parked.
    pub fn adopt(&self, vcpu: VcpuHandle) {
        let mut inner = self.lock();
        match inner.state {
            MachineState::Running => vcpu.send(VcpuCommand::Run),
            _ if inner.exit.is_some() => vcpu.send(VcpuCommand::Stop),
            _ => {}
        }
        inner.vcpus.push(vcpu);
    }

    pub fn console(&self) -> Option<&GuestConsole> {
        self.console.as_ref()
    }

    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Runs the vCPUs: for the first time, or after a pause.
    pub fn run(&self, event: MachineEvent) -> Result<(), MachineError> {
        let mut inner = self.lock();
        inner.apply(event)?;
        if event == MachineEvent::Start {
            self.marks.add(names::START);
        }
        inner.send(VcpuCommand::Run);
        Ok(())
    }

    /// Kicks the vCPUs and waits until the last has left the guest. If one does not in time, all of them go on.
    pub fn pause(&self) -> Result<(), MachineError> {
        let timeout = self.timeouts.vcpu;
        let mut inner = self.lock();
        inner.apply(MachineEvent::Pause)?;
        inner.pause += 1;
        inner.paused = 0;
        inner.send(VcpuCommand::Pause(inner.pause));
        let all = inner.vcpus.len();
        let waiting = |inner: &Inner| inner.state == MachineState::Pausing && inner.paused < all;
        inner = self.wait_while(inner, timeout, waiting);
        if waiting(&inner) {
            let count = all - inner.paused;
            inner.apply(MachineEvent::PauseFailed)?;
            inner.send(VcpuCommand::Run);
            return Err(MachineError::VcpuStuck { count, timeout });
        }
        inner.apply(MachineEvent::AllPaused)
    }

    /// Ends the machine. Only the first call's reason counts. Never waits.
    pub fn end(&self, exit: MachineExit) {
        let mut inner = self.lock();
        if inner.exit.is_some() {
            return;
        }
        self.marks.add(names::END);
        inner.exit = Some(exit);
        inner.apply(MachineEvent::Exit).expect("a machine can end in every state");
        inner.send(VcpuCommand::Stop);
        drop(inner);
        // Without the lock: a vCPU thread may be about to write to the console, and a file may be slow.
        if let Some(console) = &self.console {
            console.finish();
        }
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Waits until the machine has ended, and then a moment for the reader of its console. Returns `None` after `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit> {
        let mut inner = self.lock();
        let waiting = |inner: &Inner| !inner.finished;
        match timeout {
            Some(timeout) => inner = self.wait_while(inner, timeout, waiting),
            None => {
                while waiting(&inner) {
                    inner = wait(&self.changed, inner);
                }
            }
        }
        let exit = if inner.finished { inner.exit.clone() } else { None };
        drop(inner);
        if let (Some(_), Some(console)) = (&exit, &self.console) {
            console.drain(self.timeouts.console);
        }
        exit
    }

    /// Ends the machine and waits until no vCPU thread is left.
    pub fn join(&self) -> Result<(), MachineError> {
        self.end(MachineExit::Stopped);
        let mut inner = self.lock();
        let all = inner.vcpus.len();
        let timeout = self.timeouts.vcpu;
        inner = self.wait_while(inner, timeout, |inner| inner.gone < all);
        if inner.gone < all {
            return Err(MachineError::VcpuStuck { count: all - inner.gone, timeout });
        }
        let vcpus = std::mem::take(&mut inner.vcpus);
        inner.gone = 0;
        drop(inner);
        for mut vcpu in vcpus {
            vcpu.join();
        }
        Ok(())
    }

    /// Ends the machine for a reason that a vCPU or a device register reported.
    pub fn end_by_guest(&self, end: VcpuExitReason) {
        let panicked = self.console.as_ref().is_some_and(GuestConsole::panicked);
        self.end(MachineExit::from_guest(end, panicked));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn wait_while<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        timeout: Duration,
        waiting: impl Fn(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        // A timeout too large to be a point in time means no timeout.
        let deadline = Instant::now().checked_add(timeout);
        while waiting(&inner) {
            let left = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
                Some(None) => break,
                Some(Some(left)) => left,
                None => Duration::from_secs(1 << 30),
            };
            inner = wait_timeout(&self.changed, inner, left);
        }
        inner
    }
}

impl VcpuEvents for StateDriver {
    fn paused(&self, _index: u32, pause: u64) {
        let mut inner = self.lock();
        if inner.pause == pause {
            inner.paused += 1;
        }
        drop(inner);
        self.changed.notify_all();
    }

    fn ended(&self, index: u32, end: VcpuExitReason) {
        log::debug!("vcpu{index} ends: {end:?}");
        self.end_by_guest(end);
    }

    fn gone(&self, _index: u32) {
        self.lock().gone += 1;
        self.changed.notify_all();
    }
}
