//! Why a machine ended.

use std::fmt;

use crate::hv::FaultContext;
use crate::vcpu::VcpuExitReason;

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineExit {
    /// The guest powered off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// The guest's kernel panicked: it printed so on its console before it reset, or reported it to the hypervisor.
    GuestPanic,
    /// The guest faulted while handling a fault while handling a fault.
    TripleFault,
    /// KVM had to emulate an instruction and could not.
    EmulationFailure(FaultContext),
    /// The guest touched pluggable memory that is not plugged in, at this guest physical address.
    NotPlugged(u64),
    /// The guest caused a KVM exit that hutch does not handle.
    UnhandledExit(String),
    /// The host could not continue to run the machine.
    Host(String),
    /// The owner stopped the machine.
    Stopped,
}

impl fmt::Display for MachineExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest reset the machine"),
            Self::GuestPanic => write!(f, "the guest's kernel panicked"),
            Self::TripleFault => write!(f, "the guest died of a triple fault"),
            Self::EmulationFailure(context) => {
                write!(f, "KVM could not emulate an instruction of the guest ({context})")
            }
            Self::NotPlugged(address) => {
                write!(f, "the guest touched memory that is not plugged in, at {address:#x}")
            }
            Self::UnhandledExit(what) => write!(f, "unhandled KVM exit: {what}"),
            Self::Host(what) => write!(f, "the host failed the machine: {what}"),
            Self::Stopped => write!(f, "the machine was stopped"),
        }
    }
}

impl MachineExit {
    /// Translates a vCPU's report. With `panicked` the console has seen a panic: Linux ends one by a reset, or by a
    /// triple fault if nothing else works.
    pub fn from_guest(end: VcpuExitReason, panicked: bool) -> Self {
        match end {
            VcpuExitReason::Reset | VcpuExitReason::TripleFault if panicked => Self::GuestPanic,
            VcpuExitReason::Crash => Self::GuestPanic,
            VcpuExitReason::PowerOff => Self::PowerOff,
            VcpuExitReason::Reset => Self::Reset,
            VcpuExitReason::TripleFault => Self::TripleFault,
            VcpuExitReason::EmulationFailure(context) => Self::EmulationFailure(context),
            VcpuExitReason::NotPlugged(address) => Self::NotPlugged(address),
            VcpuExitReason::Unhandled(what) => Self::UnhandledExit(what),
            VcpuExitReason::Host(error) => Self::Host(format!("{error}: {}", error.source)),
            VcpuExitReason::Bug => Self::Host("a vCPU's thread panicked; this is a bug of hutch".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_distinguished_from_a_reset_and_a_triple_fault() {
        assert_eq!(MachineExit::from_guest(VcpuExitReason::Reset, false), MachineExit::Reset);
        assert_eq!(MachineExit::from_guest(VcpuExitReason::Reset, true), MachineExit::GuestPanic);
        assert_eq!(MachineExit::from_guest(VcpuExitReason::TripleFault, false), MachineExit::TripleFault);
        assert_eq!(MachineExit::from_guest(VcpuExitReason::TripleFault, true), MachineExit::GuestPanic);
        assert_eq!(MachineExit::from_guest(VcpuExitReason::Crash, false), MachineExit::GuestPanic);
        assert_eq!(MachineExit::from_guest(VcpuExitReason::PowerOff, true), MachineExit::PowerOff);
    }
}
