//! The code that depends on the processor architecture. hutch runs on x86-64.

pub mod x86_64;

pub use x86_64::regs::EntryState;

/// Converts a length or an offset: `usize` has 64 bits on the only architecture that hutch runs on.
#[expect(clippy::cast_possible_truncation, reason = "asserted in the function")]
pub(crate) const fn to_usize(value: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) };
    value as usize
}
