//! Exits from guest mode, as plain data.

use std::fmt;

/// An exit from guest mode. Slices alias the vCPU's exchange area: fill in input before the next run.
#[derive(Debug, PartialEq, Eq)]
pub enum VmExit<'a> {
    /// `in`: items of `size` bytes from `port`.
    PioIn {
        /// Port number.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        size: usize,
        /// The items, one after the other (`rep ins` asks for several).
        data: &'a mut [u8],
    },
    /// `out`: items of `size` bytes to `port`.
    PioOut {
        /// Port number.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        size: usize,
        /// The items, one after the other.
        data: &'a [u8],
    },
    /// A load from an address without memory.
    MmioRead {
        /// Guest physical address.
        address: u64,
        /// Buffer for the value that the guest loads.
        data: &'a mut [u8],
    },
    /// A store to an address without memory.
    MmioWrite {
        /// Guest physical address.
        address: u64,
        /// Bytes that the guest stored.
        data: &'a [u8],
    },
    /// A `hlt` that the kernel did not handle. Does not happen with an in-kernel interrupt controller.
    Hlt,
    /// A triple fault (KVM_EXIT_SHUTDOWN).
    Shutdown,
    /// The guest asked for a power-off by hypercall or the like (KVM_EXIT_SYSTEM_EVENT).
    SystemEvent(SystemEvent),
    /// A signal or the immediate-exit flag ended the run.
    Interrupted,
    /// The hypervisor could not emulate an instruction (KVM_INTERNAL_ERROR_EMULATION), with the bytes it gives.
    EmulationFailure(Vec<u8>),
    /// Another KVM_EXIT_INTERNAL_ERROR.
    InternalError(u32),
    /// The processor refused to enter the guest.
    FailEntry(u64),
    /// The guest touched pluggable memory that is not plugged in, at this guest physical address.
    NotPlugged(u64),
    /// An exit reason that hutch neither enables nor knows.
    Other(u32),
}

/// Kinds of KVM_EXIT_SYSTEM_EVENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// KVM_SYSTEM_EVENT_SHUTDOWN: power-off.
    Shutdown,
    /// KVM_SYSTEM_EVENT_RESET.
    Reset,
    /// KVM_SYSTEM_EVENT_CRASH: the guest reports that it has crashed.
    Crash,
    /// An event type that hutch does not know.
    Other(u32),
}

/// Position of a guest that could not continue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultContext {
    /// The instruction pointer.
    pub rip: u64,
    /// Bytes of the instruction at `rip`; empty if they could not be read.
    pub instruction: Vec<u8>,
}

impl fmt::Display for FaultContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rip {:#x}", self.rip)?;
        if !self.instruction.is_empty() {
            write!(f, ", instruction bytes")?;
            for byte in &self.instruction {
                write!(f, " {byte:02x}")?;
            }
        }
        Ok(())
    }
}
