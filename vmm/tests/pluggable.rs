//! Guests that touch memory which the host has not given them. A program of its own, because it measures its memory.

mod guests;

use guests::{Bench, LOAD};
use hutch_vmm::config::{BootProtocol, MemoryBacking};
use hutch_vmm::testing::PvhImage;
use hutch_vmm::MachineExit;

/// Most memory of this process, test harness included: a guest of 4 MiB and what the tests need.
const MOST_KIB: u64 = 16 << 10;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process with memory");
    line.trim().trim_end_matches(" kB").parse().expect("a size")
}

#[test]
fn a_guest_that_touches_memory_that_is_not_plugged_in_ends_and_takes_none() {
    for backing in [MemoryBacking::Anonymous, MemoryBacking::Memfd] {
        let code = guests::touch_pluggable();
        let mut bench = Bench::with_image(&PvhImage { load: LOAD, code, pvh: false, ..PvhImage::default() });
        bench.config.boot = BootProtocol::Linux64;
        bench.config.memory.pluggable_mib = 64;
        bench.config.memory.backing = backing;
        let (machine, exit) = bench.run();
        let resident = resident_kib();
        assert!(resident < MOST_KIB, "{backing:?}: {resident} KiB");
        match exit {
            MachineExit::NotPlugged(address) => assert_eq!(address, (4 << 30) + (64 << 20) - 0x1000),
            // A KVM that does not report the address.
            MachineExit::Host(text) => assert!(text.contains("not plugged in"), "{text}"),
            other => panic!("{other:?}"),
        }
        machine.shutdown().expect("everything leaves");
    }
}
