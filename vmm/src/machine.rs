//! A virtual machine as its owner sees it.

use std::sync::Arc;
use std::time::Duration;

use hutch_devices::virtio::block::BlockSlot;
use hutch_devices::virtio::mem::MemHandle;
use hutch_devices::virtio::mmio::MmioTransport;
use hutch_devices::virtio::vsock::VsockHandle;

use crate::boot::load::Loader;
use crate::builder::{self, BuildError};
use crate::config::MachineConfig;
use crate::counters::Counters;
use crate::driver::{MachineError, StateDriver};
use crate::exit::MachineExit;
use crate::gate::Gate;
use crate::hv::{Hypervisor, Vm};
use crate::marks::Mark;
use crate::vcpus::Vcpus;
use crate::virtio::Handles;

/// A machine. Its states and what leads from one to the other: [`crate::state`].
///
/// Dropping it ends the guest and takes everything away: threads, descriptors, memory.
pub struct Machine {
    driver: Arc<StateDriver>,
    vcpus: Vcpus,
    gate: Arc<Gate>,
    handles: Handles,
    down: bool,
    /// Kept while the guest's memory is used.
    _images: Loader,
    /// Last: descriptors of interrupts and doorbells go before it.
    vm: Box<dyn Vm>,
}

/// Everything the builder hands over.
pub(crate) struct Parts {
    pub driver: Arc<StateDriver>,
    pub vcpus: Vcpus,
    pub transports: Vec<Arc<MmioTransport>>,
    pub handles: Handles,
    pub images: Loader,
    pub vm: Box<dyn Vm>,
}

impl Machine {
    /// Checks `config` and builds the machine on `/dev/kvm`. No vCPU runs yet.
    ///
    /// # Errors
    /// The first thing that is wrong with the configuration, its files or the host.
    pub fn build(config: &MachineConfig) -> Result<Self, BuildError> {
        builder::build(config)
    }

    /// Builds the machine on another hypervisor.
    ///
    /// # Errors
    /// As of [`Self::build`].
    pub fn build_on(hypervisor: &dyn Hypervisor, config: &MachineConfig) -> Result<Self, BuildError> {
        builder::build_on(hypervisor, config)
    }

    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { driver, vcpus, transports, handles, images, vm } = parts;
        let gate = Arc::new(Gate::new(driver.clone(), transports));
        images.attach(gate.clone());
        Self { driver, vcpus, gate, handles, down: false, _images: images, vm }
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// It has run before.
    pub fn start(&mut self) -> Result<(), MachineError> {
        self.gate.start()
    }

    /// Holds the guest: when this returns, no vCPU runs and no device works.
    ///
    /// # Errors
    /// It does not run, ended meanwhile, or cannot be held.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        self.gate.pause()
    }

    /// Goes on after [`Self::pause`].
    ///
    /// # Errors
    /// It is not paused.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        self.gate.resume()
    }

    /// The way to the guest's sockets, if the machine has that device.
    pub fn vsock(&self) -> Option<VsockHandle> {
        self.handles.vsock.clone()
    }

    /// The disks whose image may change while the guest runs; as many as the configuration's `block_slots`.
    pub fn block_slots(&self) -> &[BlockSlot] {
        &self.handles.slots
    }

    /// Makes sure that the guest can bring `count` vCPUs online, or as many as there may be. May be called from any thread,
    /// also while the guest is held. There are never fewer afterwards: one that the guest takes offline sleeps.
    ///
    /// # Errors
    /// The hypervisor's; what was made before stays.
    pub fn ensure_vcpus(&self, count: u32) -> Result<(), BuildError> {
        self.vcpus.ensure(self.vm.as_ref(), count, None)
    }

    /// Memory that can be plugged in, if the machine has any.
    pub fn memory(&self) -> Option<MemHandle> {
        self.handles.memory.clone()
    }

    /// Ends the machine from anywhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.driver.clone())
    }

    /// Waits until the guest has ended, by itself or because it was stopped. `None`: not within `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit> {
        self.driver.wait(timeout)
    }

    /// The last lines the guest wrote to its console.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        self.driver.console().map(|console| console.tail(lines)).unwrap_or_default()
    }

    /// What happened when, so far.
    pub fn marks(&self) -> Vec<Mark> {
        self.driver.marks().all()
    }

    /// Numbers, so far.
    pub fn counters(&self) -> Counters {
        Counters { exits: self.vcpus.exits() }
    }

    /// For a process that ends now and takes the machine along, which is faster than [`Self::shutdown`]. Afterwards the
    /// machine must not be dropped.
    pub fn process_ends(&self) {
        self.vm.process_ends();
    }

    /// Ends the guest if it has not ended, waits for its vCPUs, stops the devices, and takes everything away.
    ///
    /// # Errors
    /// [`MachineError::VcpuStuck`]: a thread could not be ended and is left behind, together with what it uses.
    pub fn shutdown(mut self) -> Result<(), MachineError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), MachineError> {
        if self.down {
            return Ok(());
        }
        self.down = true;
        self.gate.shutdown()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            log::error!("{error}");
        }
    }
}

/// Ends a machine from any thread, also after the [`Machine`] itself is gone.
#[derive(Clone)]
pub struct Stopper(Arc<StateDriver>);

impl Stopper {
    /// vCPUs leave at once and [`Machine::wait`] returns [`MachineExit::Stopped`], unless the machine was over already.
    pub fn stop(&self) {
        self.0.end(MachineExit::Stopped);
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
