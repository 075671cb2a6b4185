//! A scripted hypervisor: each vCPU plays a list of exits. For tests of everything above the backend.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use hutch_devices::GuestRam;
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

use super::exit::SystemEvent;
use super::{Doorbell, FaultContext, HvError, Hypervisor, ImmediateExit, Vcpu, Vm, VmExit};
use crate::arch::EntryState;

/// One thing a scripted guest does.
#[derive(Clone, Debug)]
pub enum Scripted {
    /// `out` of these items of `size` bytes.
    Out {
        /// Port.
        port: u16,
        /// Bytes of one item.
        size: usize,
        /// All items.
        data: Vec<u8>,
    },
    /// `in`; what arrives is found in [`FakeHypervisor::inputs`].
    In {
        /// Port.
        port: u16,
        /// Bytes of one item.
        size: usize,
        /// Bytes altogether.
        len: usize,
    },
    /// A load of so many bytes.
    Load(u64, usize),
    /// A store.
    Store(u64, Vec<u8>),
    /// Stays inside until called back, as a halted or looping guest does.
    Stay,
    /// A run that a signal ended.
    Interrupted,
    /// A triple fault.
    TripleFault,
    /// See [`VmExit::SystemEvent`].
    SystemEvent(SystemEvent),
    /// See [`VmExit::EmulationFailure`].
    EmulationFailure(Vec<u8>),
    /// See [`VmExit::InternalError`].
    InternalError(u32),
    /// See [`VmExit::FailEntry`].
    FailEntry(u64),
    /// See [`VmExit::Hlt`].
    Hlt,
    /// KVM_RUN fails with this errno.
    Fail(i32),
    /// The code that runs the vCPU has a bug.
    Bug,
}

/// What all fake objects of one machine share.
#[derive(Default)]
struct Record {
    scripts: VecDeque<Vec<Scripted>>,
    inputs: Vec<Vec<u8>>,
    lines: Vec<u32>,
    doorbells: Vec<Doorbell>,
    entries: Vec<Option<EntryState>>,
    resumed: usize,
}

/// Makes scripted machines.
#[derive(Clone)]
pub struct FakeHypervisor {
    record: Arc<Mutex<Record>>,
}

impl FakeHypervisor {
    /// vCPU *n* plays `scripts[n]`, then stays inside.
    pub fn new(scripts: impl IntoIterator<Item = Vec<Scripted>>) -> Self {
        let record = Record { scripts: scripts.into_iter().collect(), ..Record::default() };
        Self { record: Arc::new(Mutex::new(record)) }
    }

    /// What the `in`s and loads so far were answered, in order.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        self.record.lock().expect("no test panics with the lock").inputs.clone()
    }

    /// Interrupt pins connected.
    pub fn lines(&self) -> Vec<u32> {
        self.record.lock().expect("no test panics with the lock").lines.clone()
    }

    /// Doorbells connected.
    pub fn doorbells(&self) -> Vec<Doorbell> {
        self.record.lock().expect("no test panics with the lock").doorbells.clone()
    }

    /// The entry each vCPU was created with.
    pub fn entries(&self) -> Vec<Option<EntryState>> {
        self.record.lock().expect("no test panics with the lock").entries.clone()
    }

    /// How many times a vCPU was told that it had been paused.
    pub fn resumed(&self) -> usize {
        self.record.lock().expect("no test panics with the lock").resumed
    }

    /// A vCPU outside of any machine.
    pub fn vcpu(&self) -> FakeVcpu {
        let script = self.record.lock().expect("no test panics with the lock").scripts.pop_front().unwrap_or_default();
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

    fn interrupt_line(&self, gsi: u32) -> Result<EventFd, HvError> {
        self.0.record.lock().expect("no test panics with the lock").lines.push(gsi);
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| HvError { operation: "eventfd", source })
    }

    fn ring(&self, doorbell: Doorbell, _event: &EventFd) -> Result<(), HvError> {
        self.0.record.lock().expect("no test panics with the lock").doorbells.push(doorbell);
        Ok(())
    }

    fn create_vcpu(&self, _index: u32, _count: u32, entry: Option<&EntryState>) -> Result<Box<dyn Vcpu>, HvError> {
        self.0.record.lock().expect("no test panics with the lock").entries.push(entry.cloned());
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
        *self.on.lock().expect("no test panics with the lock") = on;
        self.changed.notify_all();
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> Result<VmExit<'_>, HvError> {
        if let Some(input) = self.input.take() {
            self.record.lock().expect("no test panics with the lock").inputs.push(input);
        }
        let mut on = self.flag.on.lock().expect("no test panics with the lock");
        if *on {
            return Ok(VmExit::Interrupted);
        }
        let step = self.script.pop_front().unwrap_or(Scripted::Stay);
        if let Scripted::Stay = step {
            while !*on {
                on = self.flag.changed.wait(on).expect("no test panics with the lock");
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
            Scripted::Interrupted | Scripted::Stay => VmExit::Interrupted,
            Scripted::TripleFault => VmExit::Shutdown,
            Scripted::SystemEvent(event) => VmExit::SystemEvent(event),
            Scripted::EmulationFailure(bytes) => VmExit::EmulationFailure(bytes),
            Scripted::InternalError(number) => VmExit::InternalError(number),
            Scripted::FailEntry(reason) => VmExit::FailEntry(reason),
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
        self.record.lock().expect("no test panics with the lock").resumed += 1;
    }

    fn fault_context(&mut self) -> FaultContext {
        FaultContext { rip: 0x1234, instruction: vec![0x0f, 0x0b] }
    }
}
