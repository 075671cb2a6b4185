//! Serialises start, pause and resume between the machine's owner and the lease thread, which pauses the guest to
//! replace mapped pages.

use std::sync::{Arc, Mutex};

use hutch_devices::virtio::mmio::MmioTransport;

use crate::driver::{MachineError, StateDriver};
use crate::exit::MachineExit;
use crate::state::{Illegal, MachineEvent, MachineState};
use crate::sync::lock;

/// Starts, pauses and resumes one guest with its devices, one request after the other.
pub(crate) struct RunControl {
    driver: Arc<StateDriver>,
    transports: Vec<Arc<MmioTransport>>,
    /// Locked for the whole of a request.
    turn: Mutex<()>,
}

impl RunControl {
    pub fn new(driver: Arc<StateDriver>, transports: Vec<Arc<MmioTransport>>) -> Self {
        Self { driver, transports, turn: Mutex::new(()) }
    }

    /// Runs the guest for the first time.
    pub fn start(&self) -> Result<(), MachineError> {
        let _turn = lock(&self.turn);
        self.driver.run(MachineEvent::Start)
    }

    /// Pauses the guest, then its devices.
    pub fn pause(&self) -> Result<(), MachineError> {
        let _turn = lock(&self.turn);
        self.pause_all()
    }

    /// Resumes the devices, then the guest.
    pub fn resume(&self) -> Result<(), MachineError> {
        let _turn = lock(&self.turn);
        self.resume_all()
    }

    /// Ends the guest and stops its devices.
    pub fn shutdown(&self) -> Result<(), MachineError> {
        // Before taking a turn: a request in progress then stops waiting for the guest.
        self.driver.end(MachineExit::Stopped);
        let _turn = lock(&self.turn);
        let joined = self.driver.join();
        for transport in &self.transports {
            transport.device_shutdown();
        }
        joined
    }

    /// Runs `action` while neither the guest nor its devices access guest memory, then resumes them if they were running.
    ///
    /// # Errors
    /// The guest could not be paused, so `action` did not run and the guest goes on; or it could not be resumed afterwards.
    pub fn with_guest_paused<T>(&self, action: impl FnOnce() -> T) -> Result<T, MachineError> {
        let _turn = lock(&self.turn);
        match self.pause_all() {
            Ok(()) => {
                let answer = action();
                // `Over`: the machine was stopped meanwhile, so there is nothing to resume.
                match self.resume_all() {
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

    fn pause_all(&self) -> Result<(), MachineError> {
        self.driver.pause()?;
        for transport in &self.transports {
            if let Err(error) = transport.device_pause() {
                // A machine is paused as a whole or not at all.
                self.resume_all()?;
                return Err(MachineError::DeviceStuck(error));
            }
        }
        Ok(())
    }

    fn resume_all(&self) -> Result<(), MachineError> {
        // Devices first: a running guest may wait for ever for a device that has not looked at its queues.
        for transport in &self.transports {
            transport.device_resume();
        }
        self.driver.run(MachineEvent::Resume)
    }
}
