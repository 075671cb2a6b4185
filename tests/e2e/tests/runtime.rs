//! The runtime as a library, with real machines: the contract's tables, which its own tests walk with fakes, and many
//! pods in one process.

use std::time::{Duration, Instant};

use hutch_e2e::{quick, Machines, Snapshot};
use hutch_runtime::StopOptions;
use hutch_runtime_fakes::table::{covering_walk, Step, Subject, Walk};

#[test]
fn p_013_every_cell_of_the_matrices_is_as_the_contract_says_with_real_machines() {
    let before = Snapshot::take();
    let machines = Machines::new();
    let (steps, cells) = covering_walk();
    let (begun, count) = (Instant::now(), steps.len());
    let mut walk = Walk::default();
    let mut boots = 0;
    for step in steps {
        boots += usize::from(matches!(step, Step::CreatePod(_)));
        walk.step(&machines, step).unwrap_or_else(|problem| panic!("{problem}"));
    }
    walk.finish(&machines).expect("deletions");
    println!("{} cells, {count} steps, {boots} pods in {:.0?}", cells.len(), begun.elapsed());
    machines.pods.expect_none();
    drop(machines);
    before.expect_no_leaks();
}

/// Open descriptors, number of record files and resident memory (KiB) of this process.
fn holdings(machines: &Machines) -> (usize, usize, usize) {
    let count = |dir: &std::path::Path| std::fs::read_dir(dir).map_or(0, Iterator::count);
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let resident = resident.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number");
    let files = count(&machines.pods.configs()) + count(&machines.pods.states());
    (count("/proc/self/fd".as_ref()), files, resident)
}

/// Creates and deletes a hundred pods, or `HUTCH_E2E_PODS`.
#[test]
fn a_process_that_makes_many_pods_does_not_grow() {
    let before = Snapshot::take();
    let machines = Machines::new();
    let runtime = machines.runtime();
    let cycle = || {
        let containers = vec![machines.container("a")];
        runtime.create_pod(hutch_runtime::spec::PodConfig { containers, ..machines.pod("p") }).expect("a pod");
        runtime.start_pod("p").expect("a start");
        machines.started("p", "a");
        runtime.kill_container("p", "a", libc::SIGTERM, false).expect("a signal");
        let exit = runtime.wait_container("p", "a", Duration::from_secs(60)).expect("a wait").expect("its end");
        assert_eq!(exit.code, Some(15));
        runtime.stop_pod("p", StopOptions::default()).expect("a stop");
        runtime.delete_pod("p", Default::default()).expect("a deletion");
    };
    // The first rounds allocate what stays for good.
    (0..3).for_each(|_| cycle());
    let at_first = holdings(&machines);
    let default = if quick() { 5 } else { 100 };
    let cycles: u32 = std::env::var("HUTCH_E2E_PODS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let begun = Instant::now();
    (0..cycles).for_each(|_| cycle());
    let at_last = holdings(&machines);
    println!(
        "{cycles} pods, {:.2} s each; {at_first:?} {at_last:?}",
        begun.elapsed().as_secs_f64() / f64::from(cycles)
    );
    assert_eq!((at_last.0, at_last.1), (at_first.0, at_first.1), "descriptors, files");
    assert!(at_last.2 < at_first.2 + 1024, "KiB: {at_first:?} {at_last:?}");
    machines.pods.expect_none();
    drop(machines);
    before.expect_no_leaks();
}
