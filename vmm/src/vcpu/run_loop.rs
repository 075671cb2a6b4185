//! One step of a vCPU: run the guest, answer its exit. No thread, no channel: a test can take a single step.

use std::sync::Arc;

use hutch_devices::bus::Bus;

use crate::counters::{ExitKind, VcpuCounters};
use crate::hv::exit::SystemEvent;
use crate::hv::{FaultContext, HvError, Vcpu, VmExit};

/// Who answers the guest's I/O. Shared by all vCPUs.
#[derive(Clone)]
pub struct IoSpace {
    /// Memory-mapped.
    pub mmio: Arc<Bus>,
    /// Ports.
    pub pio: Arc<Bus>,
}

/// What came of a step.
#[derive(Debug)]
pub enum Step {
    /// The exit was answered; run again.
    Continue,
    /// Somebody called the vCPU back.
    Interrupted,
    /// The guest cannot or does not want to go on.
    End(GuestEnd),
}

/// Why a vCPU does not go on.
#[derive(Debug)]
pub enum GuestEnd {
    /// Power-off by hypervisor call.
    PowerOff,
    /// Reset by hypervisor call.
    Reset,
    /// The guest told the hypervisor that it crashed.
    Crash,
    /// A triple fault.
    TripleFault,
    /// An instruction the hypervisor cannot emulate.
    EmulationFailure(FaultContext),
    /// An exit nobody handles.
    Unhandled(String),
    /// The host failed.
    Host(HvError),
    /// A bug of ours: the vCPU's thread panicked.
    Bug,
}

/// Runs the guest until its next exit and answers that.
pub fn step(vcpu: &mut dyn Vcpu, io: &IoSpace, counters: &VcpuCounters) -> Step {
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => {
            counters.count(ExitKind::Other);
            return Step::End(GuestEnd::Host(error));
        }
    };
    let (kind, step) = match exit {
        VmExit::PioOut { port, size, data } => {
            log::trace!("out {port:#x}: {data:02x?}");
            for item in data.chunks(size.max(1)) {
                // Nobody there: on a PC such a write is lost.
                io.pio.write(port.into(), item);
            }
            (ExitKind::PioOut, Step::Continue)
        }
        VmExit::PioIn { port, size, data } => {
            log::trace!("in {port:#x}: {} bytes", data.len());
            for item in data.chunks_mut(size.max(1)) {
                read(&io.pio, port.into(), item);
            }
            (ExitKind::PioIn, Step::Continue)
        }
        VmExit::MmioRead { address, data } => {
            log::trace!("load {address:#x}: {} bytes", data.len());
            read(&io.mmio, address, data);
            (ExitKind::MmioRead, Step::Continue)
        }
        VmExit::MmioWrite { address, data } => {
            log::trace!("store {address:#x}: {data:02x?}");
            io.mmio.write(address, data);
            (ExitKind::MmioWrite, Step::Continue)
        }
        VmExit::Interrupted => (ExitKind::Interrupted, Step::Interrupted),
        VmExit::Shutdown => (ExitKind::Other, Step::End(GuestEnd::TripleFault)),
        VmExit::SystemEvent(event) => (ExitKind::Other, Step::End(system_event(event))),
        VmExit::EmulationFailure(instruction) => {
            let mut context = vcpu.fault_context();
            if !instruction.is_empty() {
                context.instruction = instruction;
            }
            (ExitKind::Other, Step::End(GuestEnd::EmulationFailure(context)))
        }
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

/// Nobody there: all ones, as on a PC.
fn read(bus: &Bus, address: u64, data: &mut [u8]) {
    if !bus.read(address, data) {
        data.fill(0xff);
    }
}

fn system_event(event: SystemEvent) -> GuestEnd {
    match event {
        SystemEvent::Shutdown => GuestEnd::PowerOff,
        SystemEvent::Reset => GuestEnd::Reset,
        SystemEvent::Crash => GuestEnd::Crash,
        SystemEvent::Other(number) => GuestEnd::Unhandled(format!("KVM system event {number}")),
    }
}

fn unhandled(vcpu: &mut dyn Vcpu, what: &str) -> Step {
    Step::End(GuestEnd::Unhandled(format!("{what} ({})", vcpu.fault_context())))
}

#[cfg(test)]
#[path = "run_loop_tests.rs"]
mod tests;
