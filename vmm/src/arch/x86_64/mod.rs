//! x86-64: the guest's physical layout, processor state, and the tables that describe the machine to the guest.

pub(crate) mod acpi;
pub(crate) mod cpuid;
pub mod layout;
pub(crate) mod memmap;
pub(crate) mod mptable;
pub(crate) mod msr;
pub mod regs;
