//! The part of a machine that its threads share: state, exit, vCPU handles, behind one lock. vCPU threads report here;
//! the owner asks and waits here. The state is changed in this file only, and only by [`MachineState::next`].

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::exit::MachineExit;
use crate::marks::{names, Marks};
use crate::state::{Event, Illegal, MachineState};
use crate::vcpu::handle::Command;
use crate::vcpu::{GuestEnd, VcpuEvents, VcpuHandle};

/// vCPUs leave the guest within microseconds; a device that holds one longer than this is broken.
const VCPU_PATIENCE: Duration = Duration::from_secs(5);

/// What an owner of a machine can be refused.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Not in this state.
    #[error(transparent)]
    State(#[from] Illegal),
    /// The machine ended meanwhile.
    #[error("the machine is over: {0}")]
    Over(MachineExit),
    /// A vCPU does not react.
    #[error("{count} vCPUs did not leave the guest within {} s; a device holds them: stop this process", VCPU_PATIENCE.as_secs())]
    VcpuStuck {
        /// How many.
        count: usize,
    },
}

/// See the module.
pub struct StateDriver {
    inner: Mutex<Inner>,
    changed: Condvar,
    console: Option<Console>,
    marks: Marks,
}

struct Inner {
    state: MachineState,
    exit: Option<MachineExit>,
    vcpus: Vec<VcpuHandle>,
    /// vCPUs that have reported to be paused since they were asked.
    paused: usize,
    /// vCPU threads that have ended.
    gone: usize,
}

impl Inner {
    fn apply(&mut self, event: Event) -> Result<(), MachineError> {
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

    fn send(&self, command: Command) {
        for vcpu in &self.vcpus {
            vcpu.send(command);
        }
    }
}

impl StateDriver {
    /// Without vCPUs.
    pub fn new(console: Option<Console>, marks: Marks) -> Self {
        let inner = Inner { state: MachineState::Built, exit: None, vcpus: Vec::new(), paused: 0, gone: 0 };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), console, marks }
    }

    /// Takes over a vCPU, which is parked, and lets it do what the others do. During a pause it stays parked.
    pub fn adopt(&self, vcpu: VcpuHandle) {
        let mut inner = self.lock();
        match inner.state {
            MachineState::Running => vcpu.send(Command::Run),
            _ if inner.exit.is_some() => vcpu.send(Command::Stop),
            _ => {}
        }
        inner.vcpus.push(vcpu);
    }

    /// The guest's console.
    pub fn console(&self) -> Option<&Console> {
        self.console.as_ref()
    }

    /// The machine's marks.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Lets the vCPUs run: for the first time, or after a pause.
    pub fn run(&self, event: Event) -> Result<(), MachineError> {
        let mut inner = self.lock();
        inner.apply(event)?;
        if event == Event::Start {
            self.marks.add(names::START);
        }
        inner.send(Command::Run);
        Ok(())
    }

    /// Calls the vCPUs back and waits until the last has left the guest.
    pub fn pause(&self) -> Result<(), MachineError> {
        let mut inner = self.lock();
        inner.apply(Event::Pause)?;
        inner.paused = 0;
        inner.send(Command::Pause);
        let all = inner.vcpus.len();
        let waiting = |inner: &Inner| inner.state == MachineState::Pausing && inner.paused < all;
        inner = self.wait_while(inner, VCPU_PATIENCE, waiting);
        if waiting(&inner) {
            return Err(MachineError::VcpuStuck { count: all - inner.paused });
        }
        inner.apply(Event::AllPaused)
    }

    /// Ends the machine, if it has not ended before: the first reason counts. Never waits.
    pub fn end(&self, exit: MachineExit) {
        let mut inner = self.lock();
        if inner.exit.is_some() {
            return;
        }
        self.marks.add(names::END);
        inner.exit = Some(exit);
        inner.apply(Event::Exit).expect("a machine can end in every state");
        inner.send(Command::Stop);
        if let Some(console) = &self.console {
            console.finish();
        }
        self.changed.notify_all();
    }

    /// Waits for the end.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit> {
        let mut inner = self.lock();
        let waiting = |inner: &Inner| inner.exit.is_none();
        match timeout {
            Some(timeout) => inner = self.wait_while(inner, timeout, waiting),
            None => {
                while waiting(&inner) {
                    inner = self.changed.wait(inner).expect("nothing panics while holding the machine's lock");
                }
            }
        }
        inner.exit.clone()
    }

    /// Ends the machine and waits until no vCPU thread is left.
    pub fn join(&self) -> Result<(), MachineError> {
        self.end(MachineExit::Stopped);
        let mut inner = self.lock();
        let all = inner.vcpus.len();
        inner = self.wait_while(inner, VCPU_PATIENCE, |inner| inner.gone < all);
        if inner.gone < all {
            return Err(MachineError::VcpuStuck { count: all - inner.gone });
        }
        let vcpus = std::mem::take(&mut inner.vcpus);
        inner.gone = 0;
        drop(inner);
        for mut vcpu in vcpus {
            vcpu.join();
        }
        Ok(())
    }

    /// A power or reset request by a device register.
    pub fn end_by_guest(&self, end: GuestEnd) {
        let panicked = self.console.as_ref().is_some_and(Console::panicked);
        self.end(MachineExit::from_guest(end, panicked));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while holding the machine's lock")
    }

    fn wait_while<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        timeout: Duration,
        waiting: impl Fn(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        // A timeout too large to be a point in time is as good as none.
        let deadline = Instant::now().checked_add(timeout);
        while waiting(&inner) {
            let left = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
                Some(None) => break,
                Some(Some(left)) => left,
                None => Duration::from_secs(1 << 30),
            };
            let (guard, _) =
                self.changed.wait_timeout(inner, left).expect("nothing panics while holding the machine's lock");
            inner = guard;
        }
        inner
    }
}

impl VcpuEvents for StateDriver {
    fn paused(&self, _index: u32) {
        self.lock().paused += 1;
        self.changed.notify_all();
    }

    fn ended(&self, index: u32, end: GuestEnd) {
        log::debug!("vcpu{index} ends: {end:?}");
        self.end_by_guest(end);
    }

    fn gone(&self, _index: u32) {
        self.lock().gone += 1;
        self.changed.notify_all();
    }
}
