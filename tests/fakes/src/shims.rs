//! Shims in memory.

use std::time::Duration;

use super::fake_host::{FakeHost, State};
use super::processes::FakeShim;
use hutch_runtime::backend::{BackendError, BackendResult, Shim, ShimSpec, Shims};
use hutch_runtime::process::ProcessIdentity;

/// One that waits to be started; dropped before, it ends.
struct Waiting {
    host: FakeHost,
    process: ProcessIdentity,
}

fn is_alive(state: &State, process: ProcessIdentity) -> bool {
    state.shims.get(&process.pid).is_some_and(|shim| shim.alive && shim.process == process)
}

impl Shims for FakeHost {
    fn spawn(&self, spec: &ShimSpec) -> BackendResult<Box<dyn Shim>> {
        // A fake process writes nothing to its streams: pipes end at once.
        let streams = spec.stdio.open().map_err(|e| BackendError::system("make the standard streams of a shim", e))?;
        drop(streams);
        let mut spawned = None;
        let result = self.called("shim.spawn", &spec.container, |state| {
            let pid = state.fresh_pid();
            let process = ProcessIdentity { pid, start_ticks: pid as u64 };
            let shim = FakeShim { spec: spec.clone(), process, alive: true, started: false };
            state.shims.insert(pid, shim);
            spawned = Some(process);
            Ok(process)
        });
        match result {
            Ok(process) => Ok(Box::new(Waiting { host: self.clone(), process })),
            Err(error) => {
                // The contract of a spawn: a failed one leaves no process.
                self.change(|state| spawned.map(|process| state.shims.remove(&process.pid)));
                Err(error)
            }
        }
    }

    fn is_alive(&self, process: ProcessIdentity) -> bool {
        is_alive(&self.lock(), process)
    }

    fn wait_end(&self, process: ProcessIdentity, timeout: Duration) -> BackendResult<bool> {
        self.called("shim.wait-end", "", |state| {
            state.shim_waits.push(timeout);
            Ok(())
        })?;
        Ok(self.wait(timeout, |state| (!is_alive(state, process)).then_some(())).is_some())
    }

    fn kill(&self, process: ProcessIdentity, _: Duration) -> BackendResult<()> {
        self.called("shim.kill", "", |state| {
            if let Some(shim) = state.shims.get_mut(&process.pid).filter(|s| s.process == process) {
                shim.alive = false;
            }
            Ok(())
        })
    }
}

impl Shim for Waiting {
    fn process(&self) -> ProcessIdentity {
        self.process
    }

    fn start(self: Box<Self>) -> BackendResult<()> {
        self.host.called("shim.start", "", |state| {
            if let Some(shim) = state.shims.get_mut(&self.process.pid) {
                shim.started = true;
            }
            Ok(())
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.host.change(|state| {
            if let Some(shim) = state.shims.get_mut(&self.process.pid).filter(|s| !s.started) {
                shim.alive = false;
            }
        });
    }
}
