//! One step of a vCPU: run the guest, answer its exit. Needs no thread and no channel: a test can take a single step.

use std::sync::Arc;

use hutch_devices::bus::Bus;

use crate::counters::{ExitKind, VcpuCounters};
use crate::hv::exit::SystemEvent;
use crate::hv::{FaultContext, HvError, Vcpu, VmExit};

/// The buses that answer the guest's I/O. Shared by all vCPUs.
#[derive(Clone)]
pub struct IoSpace {
    /// Memory-mapped I/O.
    pub mmio: Arc<Bus>,
    /// Port I/O.
    pub pio: Arc<Bus>,
}

/// The result of a step.
#[derive(Debug)]
pub enum StepOutcome {
    /// The exit has been answered; run again.
    Continue,
    /// A kick or a signal interrupted the guest.
    Interrupted,
    /// The guest ended, or cannot continue.
    End(VcpuExitReason),
}

/// Why a vCPU stopped running the guest.
#[derive(Debug)]
pub enum VcpuExitReason {
    /// The guest powered off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// The guest reported to the hypervisor that it crashed.
    Crash,
    /// The guest had a triple fault.
    TripleFault,
    /// The hypervisor could not emulate an instruction.
    EmulationFailure(FaultContext),
    /// The guest touched pluggable memory that is not plugged in, at this guest physical address.
    NotPlugged(u64),
    /// hutch does not handle this exit.
    Unhandled(String),
    /// KVM_RUN failed.
    Host(HvError),
    /// The vCPU's thread panicked: a bug of hutch.
    Bug,
}

/// Runs the guest until its next exit and answers it.
pub fn step(vcpu: &mut dyn Vcpu, io: &IoSpace, counters: &VcpuCounters) -> StepOutcome {
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => {
            counters.count(ExitKind::Other);
            return StepOutcome::End(VcpuExitReason::Host(error));
        }
    };
    let (kind, step) = match exit {
        VmExit::PioOut { port, size, data } => {
            log::trace!("out {port:#x}: {data:02x?}");
            for item in data.chunks(size.max(1)) {
                // A write to a port without a device is lost, as on a PC.
                io.pio.write(port.into(), item);
            }
            (ExitKind::PioOut, StepOutcome::Continue)
        }
        VmExit::PioIn { port, size, data } => {
            log::trace!("in {port:#x}: {} bytes", data.len());
            for item in data.chunks_mut(size.max(1)) {
                read(&io.pio, port.into(), item);
            }
            (ExitKind::PioIn, StepOutcome::Continue)
        }
        VmExit::MmioRead { address, data } => {
            log::trace!("load {address:#x}: {} bytes", data.len());
            read(&io.mmio, address, data);
            (ExitKind::MmioRead, StepOutcome::Continue)
        }
        VmExit::MmioWrite { address, data } => {
            log::trace!("store {address:#x}: {data:02x?}");
            io.mmio.write(address, data);
            (ExitKind::MmioWrite, StepOutcome::Continue)
        }
        VmExit::Interrupted => (ExitKind::Interrupted, StepOutcome::Interrupted),
        VmExit::Shutdown => (ExitKind::Other, StepOutcome::End(VcpuExitReason::TripleFault)),
        VmExit::SystemEvent(event) => (ExitKind::Other, StepOutcome::End(system_event(event))),
        VmExit::EmulationFailure(instruction) => {
            let mut context = vcpu.fault_context();
            if !instruction.is_empty() {
                context.instruction = instruction;
            }
            (ExitKind::Other, StepOutcome::End(VcpuExitReason::EmulationFailure(context)))
        }
        VmExit::NotPlugged(address) => (ExitKind::Other, StepOutcome::End(VcpuExitReason::NotPlugged(address))),
        VmExit::Hlt => (ExitKind::Other, unhandled(vcpu, "a halt that the kernel should have handled")),
        VmExit::InternalError(number) => (ExitKind::Other, unhandled(vcpu, &format!("KVM internal error {number}"))),
        VmExit::FailEntry(reason) => {
            (ExitKind::Other, unhandled(vcpu, &format!("entry to the guest failed, hardware reason {reason:#x}")))
        }
        VmExit::Other(reason) => (ExitKind::Other, unhandled(vcpu, &format!("KVM exit reason {reason}"))),
    };
    counters.count(kind);
    step
}

/// A read without a device gives all ones, as on a PC.
fn read(bus: &Bus, address: u64, data: &mut [u8]) {
    if !bus.read(address, data) {
        data.fill(0xff);
    }
}

fn system_event(event: SystemEvent) -> VcpuExitReason {
    match event {
        SystemEvent::Shutdown => VcpuExitReason::PowerOff,
        SystemEvent::Reset => VcpuExitReason::Reset,
        SystemEvent::Crash => VcpuExitReason::Crash,
        SystemEvent::Other(number) => VcpuExitReason::Unhandled(format!("KVM system event {number}")),
    }
}

fn unhandled(vcpu: &mut dyn Vcpu, what: &str) -> StepOutcome {
    StepOutcome::End(VcpuExitReason::Unhandled(format!("{what} ({})", vcpu.fault_context())))
}

#[cfg(test)]
#[path = "run_loop_tests.rs"]
mod tests;
