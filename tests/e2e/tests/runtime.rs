//! The runtime as a library, with real machines: the contract's tables, which its own tests walk with fakes, and many
//! pods in one process.

use std::time::Instant;

use hutch_e2e::{quick, Machines, Snapshot, HANG_TIMEOUT};
use hutch_runtime::StopOptions;
use hutch_runtime_fakes::table::{covering_walks, Step, Subject, Walk};

/// Rows of machines side by side: the testbed has two processors.
const ROWS: usize = 2;

#[test]
fn p_013_every_cell_of_the_matrices_is_as_the_contract_says_with_real_machines() {
    let before = Snapshot::take();
    let (walks, cells) = covering_walks(ROWS);
    let count = walks.iter().flatten().count();
    let boots = walks.iter().flatten().filter(|step| matches!(step, Step::CreatePod(_))).count();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for steps in walks {
            scope.spawn(move || {
                let machines = Machines::new();
                let mut walk = Walk::default();
                for step in steps {
                    walk.step(&machines, step).unwrap_or_else(|problem| panic!("{problem}"));
                }
                walk.finish(&machines).expect("deletions");
                machines.pods.expect_none();
            });
        }
    });
    println!("{} cells, {count} steps, {boots} pods in {:.0?}", cells.len(), begun.elapsed());
    before.expect_no_leaks();
}

/// Open descriptors, number of record files and resident memory (KiB) of this process.
fn holdings(rows: &[Machines]) -> (usize, usize, usize) {
    let count = |dir: &std::path::Path| std::fs::read_dir(dir).map_or(0, Iterator::count);
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let resident = resident.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number");
    let files = rows.iter().map(|machines| count(&machines.pods.configs()) + count(&machines.pods.states())).sum();
    (count("/proc/self/fd".as_ref()), files, resident)
}

fn cycle(machines: &Machines) {
    let runtime = machines.runtime();
    let containers = vec![machines.container("a")];
    runtime.create_pod(hutch_runtime::spec::PodConfig { containers, ..machines.pod("p") }).expect("a pod");
    runtime.start_pod("p").expect("a start");
    machines.started("p", "a");
    runtime.kill_container("p", "a", libc::SIGTERM, false).expect("a signal");
    let exit = runtime.wait_container("p", "a", HANG_TIMEOUT).expect("a wait").expect("its end");
    assert_eq!(exit.code, Some(15));
    runtime.stop_pod("p", StopOptions::default()).expect("a stop");
    runtime.delete_pod("p", Default::default()).expect("a deletion");
}

/// Creates and deletes forty pods in two rows, or `HUTCH_E2E_PODS`.
#[test]
fn a_process_that_makes_many_pods_does_not_grow() {
    let before = Snapshot::take();
    let mut rows = [(); ROWS].map(|()| Machines::new());
    let mut cycles = |number: usize| {
        std::thread::scope(|scope| {
            for machines in &mut rows {
                scope.spawn(|| (0..number).for_each(|_| cycle(machines)));
            }
        });
        holdings(&rows)
    };
    // The first rounds allocate what stays for good.
    let at_first = cycles(3);
    let default = if quick() { 5 } else { 40 };
    let pods: usize = std::env::var("HUTCH_E2E_PODS").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let begun = Instant::now();
    let at_last = cycles(pods.div_ceil(ROWS));
    println!("{pods} pods, {:.2} s each; {at_first:?} {at_last:?}", begun.elapsed().as_secs_f64() / pods as f64);
    assert_eq!((at_last.0, at_last.1), (at_first.0, at_first.1), "descriptors, files");
    assert!(at_last.2 < at_first.2 + 512 + 5 * pods, "KiB: {at_first:?} {at_last:?}");
    rows.iter().for_each(|machines| machines.pods.expect_none());
    drop(rows);
    before.expect_no_leaks();
}
