//! A thousand lives of a pod leave nothing: no descriptors, no memory to speak of, no files.

use hutch_runtime::{Runtime, StopOptions};
use hutch_runtime_fakes::FakeHost;

use crate::calls::{assert_no_leaks, pod, ROLE_TEST};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_kib() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn files(dir: &std::path::Path) -> usize {
    let mut count = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            count += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    count
}

/// Alone in its process, so that other tests' descriptors do not count.
#[test]
fn a_thousand_cycles_in_memory_leave_nothing() {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["cycles::inside_a_process_of_its_own", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    println!("{text}");
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_a_process_of_its_own() {
    let host = FakeHost::new();
    let mut options = host.options();
    options.stop_timeout = std::time::Duration::from_millis(1);
    let runtime = Runtime::new(host.store(), host.backends(), options);
    let cycle = || {
        runtime.create_pod(host.pod("p", &["a"])).unwrap();
        runtime.start_pod("p").unwrap();
        runtime.kill_container("p", "a", 9, true).unwrap();
        runtime.stop_pod("p", StopOptions::default()).unwrap();
        runtime.delete_pod("p", Default::default()).unwrap();
        host.calls();
        host.forget_the_dead();
    };
    for _ in 0..100 {
        cycle();
    }
    let before = (descriptors(), files(host.dir()), resident_kib());
    for _ in 0..1000 {
        cycle();
    }
    let after = (descriptors(), files(host.dir()), resident_kib());
    println!("descriptors, files, KiB: {before:?} {after:?}");
    assert_eq!((after.0, after.1), (before.0, before.1));
    assert!(after.2 < before.2 + 4096, "{before:?} {after:?}");
    assert!(host.leaks().is_empty());
}

#[test]
fn cycles_with_processes_leave_no_process() {
    let stage = hutch_runtime_fakes::process::Stage::new(ROLE_TEST);
    let runtime = stage.runtime();
    for _ in 0..30 {
        runtime.run_pod(pod(&stage, "p")).unwrap();
        runtime.kill_container("p", "a", 9, true).unwrap();
        runtime.stop_pod("p", StopOptions::default()).unwrap();
        runtime.delete_pod("p", Default::default()).unwrap();
        assert_no_leaks(&stage, "a cycle");
    }
}
