//! A scripted hypervisor: each vCPU plays a list of exits. For tests of everything above the backend.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use hutch_devices::GuestRam;
use nix::unistd::geteuid;
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

use super::exit::SystemEvent;
use super::{FaultContext, HvError, Hypervisor, ImmediateExit, Ioeventfd, Vcpu, Vm, VmExit};
use crate::arch::EntryState;
use crate::confine::capabilities::CapabilitySet;
use crate::sync::{lock, wait};

/// One step of a scripted guest.
#[derive(Clone, Debug)]
pub enum Scripted {
    /// `out` of `data` in items of `size` bytes.
    Out {
        /// Port number.
        port: u16,
        /// Bytes of one item.
        size: usize,
        /// The items, one after the other.
        data: Vec<u8>,
    },
    /// `in`; [`FakeHypervisor::inputs`] returns the answer.
    In {
        /// Port number.
        port: u16,
        /// Bytes of one item.
        size: usize,
        /// Bytes of all items together.
        len: usize,
    },
    /// A load from an address, and its length in bytes.
    Load(u64, usize),
    /// A store to an address.
    Store(u64, Vec<u8>),
    /// Stays in the guest until it is kicked, as a halted or looping guest does.
    Stay,
    /// Stays in the guest and ignores kicks until the test releases it, as a vCPU does that waits for a device.
    Busy(Release),
    /// A signal ended the run.
    Interrupted,
    /// A triple fault.
    TripleFault,
    /// Plays [`VmExit::SystemEvent`].
    SystemEvent(SystemEvent),
    /// Plays [`VmExit::EmulationFailure`] with these instruction bytes.
    EmulationFailure(Vec<u8>),
    /// Plays [`VmExit::InternalError`] with this suberror.
    InternalError(u32),
    /// Plays [`VmExit::FailEntry`] with this hardware reason.
    FailEntry(u64),
    /// Plays [`VmExit::NotPlugged`] with this address.
    NotPlugged(u64),
    /// Plays [`VmExit::Hlt`].
    Hlt,
    /// KVM_RUN fails with this errno.
    Fail(i32),
    /// The code that runs the vCPU panics.
    Bug,
}

/// Releases vCPUs that play [`Scripted::Busy`]. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Release(Arc<(Mutex<ReleaseState>, Condvar)>);

#[derive(Debug, Default)]
struct ReleaseState {
    entered: bool,
    open: bool,
}

impl Release {
    /// Waits until a vCPU plays the step.
    pub fn wait_entered(&self) {
        self.wait(|state| !state.entered);
    }

    /// Ends the step for vCPUs that play it, now or later.
    pub fn open(&self) {
        self.change(|state| state.open = true);
    }

    fn play(&self) {
        self.change(|state| state.entered = true);
        self.wait(|state| !state.open);
    }

    fn change(&self, change: impl FnOnce(&mut ReleaseState)) {
        change(&mut lock(&self.0 .0));
        self.0 .1.notify_all();
    }

    fn wait(&self, waiting: impl Fn(&ReleaseState) -> bool) {
        let mut state = lock(&self.0 .0);
        while waiting(&state) {
            state = wait(&self.0 .1, state);
        }
    }
}

/// State that all fake objects of one machine share.
#[derive(Default)]
struct Record {
    scripts: VecDeque<Vec<Scripted>>,
    inputs: Vec<Vec<u8>>,
    irqfds: Vec<u32>,
    ioeventfds: Vec<Ioeventfd>,
    entries: Vec<Option<EntryState>>,
    creators: Vec<(u32, CapabilitySet)>,
    resumed: usize,
}

/// Creates scripted machines.
#[derive(Clone)]
pub struct FakeHypervisor {
    record: Arc<Mutex<Record>>,
}

impl FakeHypervisor {
    /// vCPU *n* plays `scripts[n]`, then stays in the guest.
    pub fn new(scripts: impl IntoIterator<Item = Vec<Scripted>>) -> Self {
        let record = Record { scripts: scripts.into_iter().collect(), ..Record::default() };
        Self { record: Arc::new(Mutex::new(record)) }
    }

    /// User and capabilities of the threads that created vCPUs so far, in order.
    pub fn creators(&self) -> Vec<(u32, CapabilitySet)> {
        lock(&self.record).creators.clone()
    }

    /// Answers to the `in`s and loads so far, in order.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        lock(&self.record).inputs.clone()
    }

    /// Interrupt pins with an irqfd, in order of registration.
    pub fn irqfds(&self) -> Vec<u32> {
        lock(&self.record).irqfds.clone()
    }

    /// Registered ioeventfds, in order.
    pub fn ioeventfds(&self) -> Vec<Ioeventfd> {
        lock(&self.record).ioeventfds.clone()
    }

    /// The entry each vCPU was created with.
    pub fn entries(&self) -> Vec<Option<EntryState>> {
        lock(&self.record).entries.clone()
    }

    /// Number of calls of [`Vcpu::resumed`].
    pub fn resumed(&self) -> usize {
        lock(&self.record).resumed
    }

    /// A vCPU that belongs to no machine.
    pub fn vcpu(&self) -> FakeVcpu {
        let script = lock(&self.record).scripts.pop_front().unwrap_or_default();
        FakeVcpu {
            script: script.into(),
            record: self.record.clone(),
            input: None,
            output: Vec::new(),
            flag: Arc::new(FakeFlag::default()),
        }
    }
}

impl Hypervisor for FakeHypervisor {
    fn max_vcpus(&self) -> u32 {
        288
    }

    fn create_vm(&self) -> Result<Box<dyn Vm>, HvError> {
        Ok(Box::new(FakeVm(self.clone())))
    }
}

struct FakeVm(FakeHypervisor);

impl Vm for FakeVm {
    fn map_ram(&mut self, _ram: &GuestRam) -> Result<(), HvError> {
        Ok(())
    }

    fn register_irqfd(&self, gsi: u32) -> Result<EventFd, HvError> {
        lock(&self.0.record).irqfds.push(gsi);
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| HvError { operation: "eventfd", source })
    }

    fn register_ioeventfd(&self, ioeventfd: Ioeventfd, _event: &EventFd) -> Result<(), HvError> {
        lock(&self.0.record).ioeventfds.push(ioeventfd);
        Ok(())
    }

    fn create_vcpu(&self, _index: u32, _count: u32, entry: Option<&EntryState>) -> Result<Box<dyn Vcpu>, HvError> {
        let creator = (geteuid().as_raw(), CapabilitySet::of_this_thread().unwrap_or_default());
        let mut record = lock(&self.0.record);
        record.entries.push(entry.cloned());
        record.creators.push(creator);
        drop(record);
        Ok(Box::new(self.0.vcpu()))
    }
}

/// A scripted vCPU.
pub struct FakeVcpu {
    script: VecDeque<Scripted>,
    record: Arc<Mutex<Record>>,
    input: Option<Vec<u8>>,
    output: Vec<u8>,
    flag: Arc<FakeFlag>,
}

#[derive(Default)]
struct FakeFlag {
    on: Mutex<bool>,
    changed: Condvar,
}

impl ImmediateExit for FakeFlag {
    fn set(&self, on: bool) {
        *lock(&self.on) = on;
        self.changed.notify_all();
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> Result<VmExit<'_>, HvError> {
        if let Some(input) = self.input.take() {
            lock(&self.record).inputs.push(input);
        }
        let mut on = lock(&self.flag.on);
        if *on {
            return Ok(VmExit::Interrupted);
        }
        let step = self.script.pop_front().unwrap_or(Scripted::Stay);
        if let Scripted::Stay = step {
            while !*on {
                on = wait(&self.flag.changed, on);
            }
            return Ok(VmExit::Interrupted);
        }
        drop(on);
        Ok(match step {
            Scripted::Out { port, size, data } => {
                self.output = data;
                VmExit::PioOut { port, size, data: &self.output }
            }
            Scripted::In { port, size, len } => VmExit::PioIn { port, size, data: self.input.insert(vec![0; len]) },
            Scripted::Load(address, len) => VmExit::MmioRead { address, data: self.input.insert(vec![0; len]) },
            Scripted::Store(address, data) => {
                self.output = data;
                VmExit::MmioWrite { address, data: &self.output }
            }
            Scripted::Busy(release) => {
                release.play();
                VmExit::Interrupted
            }
            Scripted::Interrupted | Scripted::Stay => VmExit::Interrupted,
            Scripted::TripleFault => VmExit::Shutdown,
            Scripted::SystemEvent(event) => VmExit::SystemEvent(event),
            Scripted::EmulationFailure(bytes) => VmExit::EmulationFailure(bytes),
            Scripted::InternalError(number) => VmExit::InternalError(number),
            Scripted::FailEntry(reason) => VmExit::FailEntry(reason),
            Scripted::NotPlugged(address) => VmExit::NotPlugged(address),
            Scripted::Hlt => VmExit::Hlt,
            Scripted::Fail(errno) => {
                return Err(HvError { operation: "running a vCPU", source: io::Error::from_raw_os_error(errno) })
            }
            Scripted::Bug => panic!("scripted bug"),
        })
    }

    fn immediate_exit(&self) -> Arc<dyn ImmediateExit> {
        self.flag.clone()
    }

    fn resumed(&mut self) {
        lock(&self.record).resumed += 1;
    }

    fn fault_context(&mut self) -> FaultContext {
        FaultContext { rip: 0x1234, instruction: vec![0x0f, 0x0b] }
    }
}
