//! Stand-ins in memory.

use std::time::Duration;

use super::world::{State, World};
use crate::process::ProcessIdentity;
use crate::seam::{SeamResult, StandIn, StandInSpec, StandIns};

/// A stand-in.
pub(super) struct FakeStandIn {
    pub(super) spec: StandInSpec,
    pub(super) process: ProcessIdentity,
    pub(super) alive: bool,
    pub(super) released: bool,
}

/// One that waits to be released; dropped before, it ends.
struct Waiting {
    world: World,
    process: ProcessIdentity,
}

fn is_alive(state: &State, process: ProcessIdentity) -> bool {
    state.stand_ins.get(&process.pid).is_some_and(|stand_in| stand_in.alive && stand_in.process == process)
}

impl StandIns for World {
    fn spawn(&self, spec: &StandInSpec) -> SeamResult<Box<dyn StandIn>> {
        let mut spawned = None;
        let result = self.called("stand-in.spawn", &spec.container, |state| {
            let pid = state.fresh_pid();
            let process = ProcessIdentity { pid, start_ticks: pid as u64 };
            let stand_in = FakeStandIn { spec: spec.clone(), process, alive: true, released: false };
            state.stand_ins.insert(pid, stand_in);
            spawned = Some(process);
            Ok(process)
        });
        match result {
            Ok(process) => Ok(Box::new(Waiting { world: self.clone(), process })),
            Err(error) => {
                // The contract of a spawn: a failed one leaves no process.
                self.change(|state| spawned.map(|process| state.stand_ins.remove(&process.pid)));
                Err(error)
            }
        }
    }

    fn is_alive(&self, process: ProcessIdentity) -> bool {
        is_alive(&self.lock(), process)
    }

    fn wait_end(&self, process: ProcessIdentity, timeout: Duration) -> SeamResult<bool> {
        self.called("stand-in.wait-end", "", |_| Ok(()))?;
        Ok(self.wait(timeout, |state| (!is_alive(state, process)).then_some(())).is_some())
    }

    fn kill(&self, process: ProcessIdentity, _: Duration) -> SeamResult<()> {
        self.called("stand-in.kill", "", |state| {
            if let Some(stand_in) = state.stand_ins.get_mut(&process.pid).filter(|s| s.process == process) {
                stand_in.alive = false;
            }
            Ok(())
        })
    }

    fn signal(&self, process: ProcessIdentity, signal: i32) -> SeamResult<bool> {
        self.called("stand-in.signal", &signal.to_string(), |state| Ok(is_alive(state, process)))
    }
}

impl StandIn for Waiting {
    fn process(&self) -> ProcessIdentity {
        self.process
    }

    fn release(self: Box<Self>) -> SeamResult<()> {
        self.world.called("stand-in.release", "", |state| {
            if let Some(stand_in) = state.stand_ins.get_mut(&self.process.pid) {
                stand_in.released = true;
            }
            Ok(())
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.world.change(|state| {
            if let Some(stand_in) = state.stand_ins.get_mut(&self.process.pid).filter(|s| !s.released) {
                stand_in.alive = false;
            }
        });
    }
}
