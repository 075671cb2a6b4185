//! Model-specific registers that firmware would have set.

use kvm_bindings::kvm_msr_entry;

/// IA32_MISC_ENABLE.
const MISC_ENABLE: u32 = 0x1a0;
/// Bit 0: fast string instructions; Linux on Intel does not use `rep movsb` without it.
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE.
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on (bit 11), default type write-back (6). Without it all memory would count as uncached.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// MSRs that every vCPU starts with. All others are right after KVM's reset.
pub fn boot() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    [entry(MISC_ENABLE, MISC_ENABLE_FAST_STRINGS), entry(MTRR_DEF_TYPE, MTRR_WRITE_BACK)]
}
