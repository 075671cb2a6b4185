//! CPUID of the vCPUs: the host's features as far as KVM supports them, and a topology of N cores in one package.
//!
//! Numbers are from Intel's SDM (volume 2A, CPUID) and AMD's APM (volume 3, appendix E).

use std::ops::RangeInclusive;

use kvm_bindings::{kvm_cpuid_entry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

/// Leaves that KVM defines for its guests (Documentation/virt/kvm/x86/cpuid.rst).
const KVM_SIGNATURE: u32 = 0x4000_0000;
/// "Timing information": EAX = TSC in kHz, EBX = local APIC timer in kHz.
const KVM_TIMING: u32 = 0x4000_0010;
/// KVM's local APIC timer counts nanoseconds.
const APIC_TIMER_KHZ: u32 = 1_000_000;

/// A vCPU's position in the package. Its index is its APIC id.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Index of the vCPU.
    pub index: u32,
    /// Number of vCPUs in the package.
    pub count: u32,
}

impl Topology {
    /// Number of APIC id bits that identify the core.
    fn core_bits(&self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }
}

/// CPUID of one vCPU, derived from the features that KVM supports. With `tsc_khz` it reports the TSC's frequency, which the
/// guest then need not measure.
pub fn guest(supported: &[kvm_cpuid_entry2], topology: &Topology, tsc_khz: Option<u32>) -> Vec<kvm_cpuid_entry2> {
    let intel = is_intel(supported);
    let replaced = |leaf: u32| matches!(leaf, 0xb | 0x1f | 0x8000_0026) || leaf == KVM_TIMING;
    let mut entries: Vec<_> = supported.iter().filter(|entry| !replaced(entry.function)).copied().collect();
    for entry in &mut entries {
        adapt(entry, topology, tsc_khz);
    }
    if supported.iter().any(|entry| entry.function == 0xb) {
        entries.extend(extended_topology(topology));
    }
    if let Some(khz) = tsc_khz {
        entries.push(kvm_cpuid_entry2 { function: KVM_TIMING, eax: khz, ebx: APIC_TIMER_KHZ, ..Default::default() });
        if intel {
            frequency(&mut entries, khz);
        }
    }
    entries
}

/// Whether the processor's TSC always runs at the same frequency (leaf 0x80000007, EDX bit 8).
pub fn has_invariant_tsc(supported: &[kvm_cpuid_entry2]) -> bool {
    supported.iter().any(|entry| entry.function == 0x8000_0007 && entry.edx & 1 << 8 != 0)
}

fn is_intel(entries: &[kvm_cpuid_entry2]) -> bool {
    entries.iter().any(|e| e.function == 0 && (e.ebx, e.edx, e.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e))
}

fn adapt(entry: &mut kvm_cpuid_entry2, topology: &Topology, tsc_khz: Option<u32>) {
    let Topology { index, count } = *topology;
    let several = count > 1;
    match entry.function {
        1 => {
            set_bits(&mut entry.ebx, 24..=31, index);
            set_bits(&mut entry.ebx, 16..=23, count.next_power_of_two().min(255));
            set_bit(&mut entry.ecx, 5, false); // VMX: no nested guests
            set_bit(&mut entry.ecx, 15, false); // performance capabilities: no PMU
            set_bit(&mut entry.ecx, 21, true); // x2APIC
            set_bit(&mut entry.ecx, 24, true); // TSC deadline timer, which KVM supports but does not list here
            set_bit(&mut entry.ecx, 31, true); // under a hypervisor
            set_bit(&mut entry.edx, 28, several); // more than one logical processor
        }
        // Caches: all but the last level belong to one core.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let last_level = (entry.eax >> 5) & 7 >= 3;
            set_bits(&mut entry.eax, 14..=25, if last_level { count - 1 } else { 0 });
            if entry.function == 4 {
                set_bits(&mut entry.eax, 26..=31, ((1 << topology.core_bits()) - 1u32).min(63));
            }
        }
        // MONITOR/MWAIT would be emulated as NOPs; performance counters would cost the guest's boot a useless detection.
        5 | 0xa | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        KVM_SIGNATURE if tsc_khz.is_some() => entry.eax = entry.eax.max(KVM_TIMING),
        0x8000_0001 => {
            let amd_topology = entry.ecx >> 22 & 1 == 1;
            set_bit(&mut entry.ecx, 1, several && amd_topology); // legacy multi-core method
            set_bit(&mut entry.ecx, 2, false); // SVM
            for counters in [23, 24, 28] {
                set_bit(&mut entry.ecx, counters, false);
            }
        }
        0x8000_0008 => {
            set_bits(&mut entry.ecx, 0..=7, count - 1);
            set_bits(&mut entry.ecx, 12..=15, topology.core_bits());
        }
        0x8000_001e => {
            entry.eax = index;
            entry.ebx = index & 0xff; // core id; one thread per core
            entry.ecx = 0; // one node, number 0
        }
        _ => (),
    }
}

/// Leaf 0xB: one thread per core, `count` cores per package.
fn extended_topology(topology: &Topology) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, kind: u32, shift: u32, processors: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: kind << 8 | index,
        edx: topology.index,
        ..Default::default()
    };
    [level(0, 1, 0, 1), level(1, 2, topology.core_bits(), topology.count), level(2, 0, 0, 0)]
}

/// Adds leaves 0x15 and 0x16 if the highest basic leaf includes them: crystal ratio and base frequency. Linux then does
/// not measure the TSC's frequency, even if it lacks KVM's clock.
fn frequency(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32) {
    let highest = entries.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    if highest >= 0x15 {
        entries.retain(|e| e.function != 0x15);
        // TSC = crystal × EBX / EAX. KVM's APIC timer runs at 1 GHz, like a crystal of that frequency.
        entries.push(kvm_cpuid_entry2 {
            function: 0x15,
            eax: APIC_TIMER_KHZ,
            ebx: tsc_khz,
            ecx: APIC_TIMER_KHZ * 1000,
            ..Default::default()
        });
    }
    if highest >= 0x16 {
        entries.retain(|e| e.function != 0x16);
        entries.push(kvm_cpuid_entry2 {
            function: 0x16,
            eax: tsc_khz / 1000,
            ebx: tsc_khz / 1000,
            ..Default::default()
        });
    }
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    *register = *register & !(1 << bit) | u32::from(on) << bit;
}

/// Sets bits `low..=high`.
fn set_bits(register: &mut u32, bits: RangeInclusive<u32>, value: u32) {
    let (low, high) = (*bits.start(), *bits.end());
    let mask = (u64::MAX >> (63 - (high - low))) << low;
    *register = (u64::from(*register) & !mask | u64::from(value) << low & mask) as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invariant_tsc_is_known_by_its_bit() {
        let other = leaf(0x8000_0008, 0, 0, 0, 0, 1 << 8);
        assert!(has_invariant_tsc(&[other, leaf(0x8000_0007, 0, 0, 0, 0, 1 << 8)]));
        assert!(!has_invariant_tsc(&[other, leaf(0x8000_0007, 0, 0x100, 0x100, 0x100, !(1 << 8))]));
        assert!(!has_invariant_tsc(&[other]));
    }

    fn leaf(function: u32, index: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, 0, 0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
            leaf(1, 0, 0x806f2, 0xff10_0800, 0x0000_8020, 0x1fa9_fbff),
            leaf(4, 0, 0xfc00_4121, 0x02c0_003f, 0x3f, 0),
            leaf(4, 3, 0xfc1f_c163, 0x02c0_003f, 0x3f, 0),
            leaf(0xa, 0, 0x0830_0805, 0, 0, 0x8604),
            leaf(0xb, 0, 1, 2, 0x100, 17),
            leaf(0xb, 1, 7, 128, 0x201, 17),
            leaf(0x1f, 0, 1, 2, 0x100, 17),
            leaf(0x4000_0000, 0, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
            leaf(0x4000_0001, 0, 0x0100_7efb, 0, 0, 0),
            leaf(0x8000_0001, 0, 0, 0, 0x0040_0005 | 1 << 23, 0),
            leaf(0x8000_0008, 0, 0x302e, 0, 0, 0),
            leaf(0x8000_001e, 0, 99, 99, 99, 0),
        ]
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found: Vec<_> = entries.iter().filter(|e| e.function == function && e.index == index).collect();
        assert_eq!(found.len(), 1, "leaf {function:#x}.{index} once");
        *found[0]
    }

    #[test]
    fn every_way_to_ask_for_the_topology_gives_the_same_answer() {
        for count in [1, 2, 3, 4, 254] {
            for index in [0, count - 1] {
                let entries = guest(&host(), &Topology { index, count }, None);
                assert_eq!(find(&entries, 1, 0).ebx >> 24, index);
                assert_eq!(find(&entries, 1, 0).edx >> 28 & 1, u32::from(count > 1));
                let core = find(&entries, 0xb, 1);
                assert_eq!((core.edx, core.ebx, core.ecx), (index, count, 0x201));
                assert!(1 << core.eax >= count, "ids of {count} cores fit into {} bits", core.eax);
                assert_eq!(find(&entries, 0xb, 0).ebx, 1, "one thread per core");
                assert_eq!(find(&entries, 0x8000_0008, 0).ecx & 0xff, count - 1);
                assert_eq!(find(&entries, 0x8000_0008, 0).ecx >> 12 & 0xf, core.eax);
                assert_eq!(find(&entries, 0x8000_001e, 0).eax, index);
            }
        }
    }

    #[test]
    fn a_hosts_own_topology_leaves_are_gone() {
        let entries = guest(&host(), &Topology { index: 0, count: 1 }, None);
        assert!(!entries.iter().any(|e| e.function == 0x1f));
        assert_eq!(entries.iter().filter(|e| e.function == 0xb).count(), 3);
    }

    #[test]
    fn guests_get_no_nested_virtualisation_and_no_pmu_but_timer_and_x2apic() {
        let entries = guest(&host(), &Topology { index: 0, count: 1 }, None);
        let features = find(&entries, 1, 0).ecx;
        for (bit, wanted) in [(5, 0), (15, 0), (21, 1), (24, 1), (31, 1)] {
            assert_eq!(features >> bit & 1, wanted, "bit {bit}");
        }
        assert_eq!(find(&entries, 0x8000_0001, 0).ecx & (1 << 2 | 1 << 23), 0);
        assert_eq!(find(&entries, 0xa, 0).eax, 0);
    }

    #[test]
    fn the_last_cache_is_shared_and_the_others_are_not() {
        let entries = guest(&host(), &Topology { index: 1, count: 4 }, None);
        assert_eq!(find(&entries, 4, 0).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&entries, 4, 3).eax >> 14 & 0xfff, 3);
        assert_eq!(find(&entries, 4, 3).eax >> 26, 3);
    }

    #[test]
    fn the_tsc_frequency_is_reported_in_kvms_and_in_intels_way() {
        let entries = guest(&host(), &Topology { index: 0, count: 1 }, Some(2_300_000));
        assert_eq!(find(&entries, KVM_TIMING, 0).eax, 2_300_000);
        assert_eq!(find(&entries, KVM_SIGNATURE, 0).eax, KVM_TIMING);
        let crystal = find(&entries, 0x15, 0);
        let hz = u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
        assert_eq!(hz, 2_300_000_000);
        assert_eq!(find(&entries, 0x16, 0).eax, 2300);
    }

    #[test]
    fn nothing_is_said_of_an_unknown_frequency() {
        let entries = guest(&host(), &Topology { index: 0, count: 1 }, None);
        assert!(!entries.iter().any(|e| [KVM_TIMING, 0x15, 0x16].contains(&e.function)));
        assert_eq!(find(&entries, KVM_SIGNATURE, 0).eax, 0x4000_0001);
    }

    #[test]
    fn set_bits_leaves_the_others_alone() {
        let mut register = 0xffff_ffff;
        set_bits(&mut register, 16..=23, 0x12);
        assert_eq!(register, 0xff12_ffff);
        set_bits(&mut register, 0..=31, 5);
        assert_eq!(register, 5);
    }
}
