//! Who starts, holds and resumes a guest, one after the other: its owner, and who has to move memory under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hutch_devices::virtio::mmio::MmioTransport;

use crate::driver::{MachineError, StateDriver};
use crate::state::{Event, Illegal, MachineState};

/// See the module.
pub(crate) struct Gate {
    driver: Arc<StateDriver>,
    transports: Vec<Arc<MmioTransport>>,
    turn: Mutex<()>,
}

impl Gate {
    pub fn new(driver: Arc<StateDriver>, transports: Vec<Arc<MmioTransport>>) -> Self {
        Self { driver, transports, turn: Mutex::new(()) }
    }

    /// Lets the guest run for the first time.
    pub fn start(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        self.driver.run(Event::Start)
    }

    /// See [`crate::Machine::pause`].
    pub fn pause(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        self.hold()
    }

    /// See [`crate::Machine::resume`].
    pub fn resume(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        self.go_on()
    }

    /// Ends the guest and stops its devices.
    pub fn shutdown(&self) -> Result<(), MachineError> {
        // Before waiting for a turn: who holds the guest then does not wait for it.
        self.driver.end(crate::MachineExit::Stopped);
        let _turn = self.turn();
        let joined = self.driver.join();
        for transport in &self.transports {
            transport.device_shutdown();
        }
        joined
    }

    /// Does something while neither guest nor devices touch the guest's memory, and lets them go on if they were running.
    ///
    /// # Errors
    /// The guest cannot be held; nothing was done.
    pub fn held<T>(&self, action: impl FnOnce() -> T) -> Result<T, MachineError> {
        let _turn = self.turn();
        match self.hold() {
            Ok(()) => {
                let answer = action();
                // Stopped meanwhile: there is nothing to go on with.
                match self.go_on() {
                    Ok(()) | Err(MachineError::Over(_)) => Ok(answer),
                    Err(error) => Err(error),
                }
            }
            Err(
                MachineError::State(Illegal { state: MachineState::Built | MachineState::Paused, .. })
                | MachineError::Over(_),
            ) => Ok(action()),
            Err(error) => Err(error),
        }
    }

    fn hold(&self) -> Result<(), MachineError> {
        self.driver.pause()?;
        for transport in &self.transports {
            transport.device_pause();
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), MachineError> {
        // Devices first: a guest that runs may wait for them without end if they had no time to look at their queues.
        for transport in &self.transports {
            transport.device_resume();
        }
        self.driver.run(Event::Resume)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
