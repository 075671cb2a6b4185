//! x86-64: the guest's physical layout, processor state, and the tables that describe the machine to the guest.

pub mod acpi;
pub mod cpuid;
pub mod layout;
pub mod memmap;
pub mod mptable;
pub mod msr;
pub mod regs;
