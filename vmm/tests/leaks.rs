//! Machines leave nothing behind. The test has a program of its own because it counts the process' resources.

mod guests;

use std::fs;

use guests::Bench;
use hutch_vmm::config::VsockConfig;
use hutch_vmm::{Machine, MachineExit};

/// Entries of a directory of `/proc/self`, without the descriptor that lists them.
fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).expect("Linux").count()
}

/// Memory mappings that belong to KVM or eventfds, or look like guest memory.
fn mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    maps.lines().filter(|line| line.contains("kvm")).count()
}

#[test]
fn machines_built_run_stopped_and_dropped_leave_no_thread_descriptor_or_mapping() {
    let bench = |code: &[u8]| {
        let mut bench = Bench::new(code);
        bench.config.vcpus = 2;
        bench.config.rng = true;
        bench.config.vsock = Some(VsockConfig { guest_cid: 3 });
        bench
    };
    let (ending, spinning) = (bench(guests::hello()), bench(guests::spin()));
    let mut before = None;
    for round in 0..10 {
        assert_eq!(ending.run().1, MachineExit::PowerOff);
        let machine = spinning.start();
        machine.stopper().stop();
        machine.shutdown().expect("everything leaves");
        drop(spinning.start());
        drop(Machine::build(&spinning.config).expect("bare-metal guests need /dev/kvm"));
        let mut failing = bench(guests::hello());
        failing.config.kernel = "/nowhere".into();
        assert!(Machine::build(&failing.config).is_err());

        let now = (count("fd"), count("task"), mappings());
        // The first round may leave resources that a process needs only once.
        match before {
            None => before = Some(now),
            Some(before) => assert_eq!(now, before, "after round {round}"),
        }
    }
    assert_eq!(mappings(), 0);
}
