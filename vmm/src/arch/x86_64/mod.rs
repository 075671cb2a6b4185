//! x86-64: the guest's physical layout, processor state, and the tables that describe the machine to the guest.
//!
//! | file | contents |
//! |---|---|
//! | `layout`, `memmap` | physical addresses and I/O ports; the memory map |
//! | `acpi`, `mptable` | ACPI tables (RSDP, XSDT, FADT, MADT, DSDT); MultiProcessor tables. `builder.rs` writes both |
//! | `cpuid`, `msr`, `regs` | processor state at the entry to the kernel |

pub(crate) mod acpi;
pub(crate) mod cpuid;
pub mod layout;
pub(crate) mod memmap;
pub(crate) mod mptable;
pub(crate) mod msr;
pub mod regs;
