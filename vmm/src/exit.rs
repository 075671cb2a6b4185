//! How a machine's life ended.

use std::fmt;

use crate::hv::FaultContext;
use crate::vcpu::GuestEnd;

/// Why a machine is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineExit {
    /// The guest powered off, in an orderly way.
    PowerOff,
    /// The guest reset the machine, in an orderly way.
    Reset,
    /// The guest's kernel panicked: it said so on its console before it reset, or told the hypervisor.
    GuestPanic,
    /// The guest faulted while handling a fault while handling a fault.
    TripleFault,
    /// The hypervisor came upon an instruction that it had to emulate and could not.
    EmulationFailure(FaultContext),
    /// The guest did something that nobody handles.
    UnhandledExit(String),
    /// The host failed the machine.
    Host(String),
    /// It was stopped from outside.
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
            Self::UnhandledExit(what) => write!(f, "the guest was left with an exit nobody handles: {what}"),
            Self::Host(what) => write!(f, "the host failed the machine: {what}"),
            Self::Stopped => write!(f, "the machine was stopped"),
        }
    }
}

impl MachineExit {
    /// What a vCPU's report means. `panicked` tells whether the console has seen a panic: Linux ends one by a reset,
    /// or by a triple fault if nothing else works.
    pub fn from_guest(end: GuestEnd, panicked: bool) -> Self {
        match end {
            GuestEnd::Reset | GuestEnd::TripleFault if panicked => Self::GuestPanic,
            GuestEnd::Crash => Self::GuestPanic,
            GuestEnd::PowerOff => Self::PowerOff,
            GuestEnd::Reset => Self::Reset,
            GuestEnd::TripleFault => Self::TripleFault,
            GuestEnd::EmulationFailure(context) => Self::EmulationFailure(context),
            GuestEnd::Unhandled(what) => Self::UnhandledExit(what),
            GuestEnd::Host(error) => Self::Host(format!("{error}: {}", error.source)),
            GuestEnd::Bug => Self::Host("a vCPU's thread panicked; this is a bug of hutch".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_apart_from_a_reset_and_a_triple_fault() {
        assert_eq!(MachineExit::from_guest(GuestEnd::Reset, false), MachineExit::Reset);
        assert_eq!(MachineExit::from_guest(GuestEnd::Reset, true), MachineExit::GuestPanic);
        assert_eq!(MachineExit::from_guest(GuestEnd::TripleFault, false), MachineExit::TripleFault);
        assert_eq!(MachineExit::from_guest(GuestEnd::TripleFault, true), MachineExit::GuestPanic);
        assert_eq!(MachineExit::from_guest(GuestEnd::Crash, false), MachineExit::GuestPanic);
        assert_eq!(MachineExit::from_guest(GuestEnd::PowerOff, true), MachineExit::PowerOff);
    }
}
