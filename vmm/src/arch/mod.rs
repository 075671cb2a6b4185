//! What depends on the processor architecture. hutch runs on x86-64.

pub mod x86_64;

pub use x86_64::regs::EntryState;
