//! A virtual machine as its owner sees it.

use std::sync::Arc;
use std::time::Duration;

use hutch_devices::virtio::block::BlockSlot;
use hutch_devices::virtio::mem::MemHandle;
use hutch_devices::virtio::mmio::MmioTransport;
use hutch_devices::virtio::vsock::VsockHandle;

use crate::boot::loader::Loader;
use crate::confine::report::JailReport;
use crate::confine::MachineThreads;
use crate::counters::Counters;
use crate::driver::{MachineError, StateDriver};
use crate::error::BuildError;
use crate::exit::MachineExit;
use crate::hv::Vm;
use crate::marks::Mark;
use crate::run_control::RunControl;
use crate::vcpus::Vcpus;
use crate::virtio::Handles;

/// A virtual machine. [`Machine::build`] makes it, [`Machine::start`] runs the guest, and [`Machine::wait`] returns how
/// the guest ended.
///
/// Dropping it ends the guest and frees everything: threads, descriptors, memory.
pub struct Machine {
    driver: Arc<StateDriver>,
    vcpus: Vcpus,
    control: Arc<RunControl>,
    handles: Handles,
    down: bool,
    boot_memory_mib: u64,
    /// Kept while the guest's memory is used.
    _images: Loader,
    /// After devices: the descriptors of irqfds and ioeventfds must be closed before it.
    vm: Box<dyn Vm>,
    private_root: bool,
    /// After everything that has threads.
    threads: MachineThreads,
}

/// Everything that the builder hands over.
pub(crate) struct Parts {
    pub driver: Arc<StateDriver>,
    pub vcpus: Vcpus,
    pub transports: Vec<Arc<MmioTransport>>,
    pub handles: Handles,
    pub images: Loader,
    pub vm: Box<dyn Vm>,
    pub threads: MachineThreads,
    pub private_root: bool,
    pub boot_memory_mib: u64,
}

impl Machine {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { driver, vcpus, transports, handles, images, vm, threads, private_root, boot_memory_mib } = parts;
        let control = Arc::new(RunControl::new(driver.clone(), transports));
        images.attach(control.clone());
        Self {
            driver,
            vcpus,
            control,
            handles,
            down: false,
            boot_memory_mib,
            _images: images,
            vm,
            private_root,
            threads,
        }
    }

    /// Runs the guest for the first time.
    pub fn start(&mut self) -> Result<(), MachineError> {
        self.control.start()
    }

    /// Pauses the guest. When this returns `Ok`, no vCPU runs and no device works.
    ///
    /// # Errors
    /// [`MachineError::VcpuStuck`]: the guest was not paused and goes on; try again.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        self.control.pause()
    }

    /// Resumes the guest after [`Self::pause`].
    pub fn resume(&mut self) -> Result<(), MachineError> {
        self.control.resume()
    }

    /// Connects to the guest's sockets. `None` if the machine was built without that device.
    pub fn vsock(&self) -> Option<VsockHandle> {
        self.handles.vsock.clone()
    }

    /// The disks whose image may change while the guest runs: the configuration's `block_slots`, in order.
    pub fn block_slots(&self) -> &[BlockSlot] {
        &self.handles.slots
    }

    /// Makes sure that the guest can bring `count` vCPUs online, or the configured maximum. Any thread may call this,
    /// also while the guest is paused. vCPUs are never removed: one that the guest takes offline sleeps.
    ///
    /// # Errors
    /// KVM or the host refused a vCPU or its thread. Those created before stay.
    pub fn ensure_vcpus(&self, count: u32) -> Result<(), BuildError> {
        self.vcpus.ensure(self.vm.as_ref(), count, None)
    }

    /// Plugs memory in and out. `None` if the machine was built without pluggable memory.
    pub fn memory(&self) -> Option<MemHandle> {
        self.handles.memory.clone()
    }

    /// Memory that the guest has without plugging any in: the configured size, or more if pluggable memory was moved
    /// there because kernel and initrd need it.
    pub fn boot_memory_mib(&self) -> u64 {
        self.boot_memory_mib
    }

    /// A handle that stops the machine from any thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.driver.clone())
    }

    /// Waits until the guest has ended or was stopped. Returns `None` after `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<MachineExit> {
        self.driver.wait(timeout)
    }

    /// The last lines that the guest wrote to its console, the oldest first.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        self.driver.console().map(|console| console.tail(lines)).unwrap_or_default()
    }

    /// The boot marks so far, in order of time.
    pub fn marks(&self) -> Vec<Mark> {
        self.driver.marks().all()
    }

    /// The counters at this moment.
    pub fn counters(&self) -> Counters {
        Counters { exits: self.vcpus.exits() }
    }

    /// The layers that confine the machine's threads; `None` if nothing does.
    pub fn jail(&self) -> Option<JailReport> {
        let report = self.threads.report()?;
        Some(JailReport { private_root: self.private_root, ..report })
    }

    /// Ends the guest if it has not ended, waits for its vCPUs, stops the devices, and frees everything.
    ///
    /// # Errors
    /// [`MachineError::VcpuStuck`]: a thread did not end and is left behind, together with everything it uses.
    pub fn shutdown(mut self) -> Result<(), MachineError> {
        self.take_down()
    }

    #[cfg(test)]
    pub(crate) fn control(&self) -> &RunControl {
        &self.control
    }

    fn take_down(&mut self) -> Result<(), MachineError> {
        if self.down {
            return Ok(());
        }
        self.down = true;
        self.control.shutdown()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            log::error!("{error}");
        }
    }
}

/// Stops a machine from any thread, also after the [`Machine`] itself is gone.
#[derive(Clone)]
pub struct Stopper(Arc<StateDriver>);

impl Stopper {
    /// Stops the guest at once. [`Machine::wait`] then returns [`MachineExit::Stopped`], unless the machine was over
    /// already.
    pub fn stop(&self) {
        self.0.end(MachineExit::Stopped);
    }
}
