//! `hutch bench boot` with real guests: the measurements of each target, and sweeps over the options of `hutch run`.

use std::fs;

use hutch_e2e::{kernels, Hutch, RootFs, HANG_TIMEOUT};
use serde_json::Value;

/// Measures one round and returns the results.
fn bench(root: &RootFs, args: &[&str], command: &[&str]) -> Value {
    let kernel = kernels().pop().expect("a kind of kernel");
    let run =
        Hutch::new("bench").args(["boot", "--kernel", &kernel, "--rounds", "1", "--warm-up", "0", "--timeout", "600"]);
    let run = run.args(["--format", "json", "--rootfs", root.path().to_str().expect("UTF-8")]);
    let run = run.args(args).args(["--"]).args(command).timeout(HANG_TIMEOUT * 4);
    let ended = run.end().expect_code(0);
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
}

fn targets(results: &Value) -> Vec<&str> {
    results["samples"].as_array().expect("samples").iter().filter_map(|s| s["target"].as_str()).collect()
}

/// The number of system calls of `target`, and how many of them were `name`.
fn calls(results: &Value, target: &str, name: &str) -> (u64, u64) {
    let counts = results["syscalls"].as_array().expect("syscalls");
    let count = counts.iter().find(|c| c["target"] == target).unwrap_or_else(|| panic!("no {target} in {counts:?}"));
    let of_name = count["by_name"][name].as_u64();
    (count["total"].as_u64().expect("a total"), of_name.unwrap_or_else(|| panic!("no {name} in {count}")))
}

#[test]
fn system_calls_of_hutch_and_of_a_peer_are_counted() {
    let root = RootFs::new();
    let results = bench(&root, &["--peer", "echo=sh -c 'echo 1; echo 2; echo 3'"], &["/bin/true"]);
    assert_eq!(targets(&results).len(), 3, "{results}");
    assert_eq!(calls(&results, "echo", "write").1, 3);
    // KVM's counts are per target: a boot to init enters the guest at least as often as it exits to user space.
    let exits = &results["samples"].as_array().expect("samples")[0]["figures"]["user_exits_until_init"];
    let (all, ioctls) = calls(&results, "hutch", "ioctl");
    assert!(all > ioctls && ioctls as f64 > exits.as_f64().expect("a count of exits"), "{results}");
    assert!(calls(&results, "hutch run", "ioctl").0 > all, "it does more, up to its end: {results}");
}

#[test]
fn two_measurements_are_compared() {
    let kernel = kernels().pop().expect("a kind of kernel");
    let dir = RootFs::new();
    let files = ["64M", "1G"].map(|memory| {
        let args =
            ["boot", "--kernel", &kernel, "--memory", memory, "--rounds", "5", "--warm-up", "0", "--no-syscalls"];
        let run = Hutch::new("bench").args(args).args(["--format", "json"]);
        let path = dir.at(&format!("/tmp/{memory}.json"));
        fs::write(&path, run.end().expect_code(0).stdout).expect("a file is written");
        path.to_string_lossy().into_owned()
    });
    let compare = |before: &str, after: &str| {
        let ended = Hutch::new("bench").args(["boot", "--compare", before, after]).end().expect_code(0);
        let line = ended.text().lines().find(|line| line.contains("guest_rss_kib")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("nothing about guest_rss_kib: {ended}"))
    };
    // The kernel has a descriptor for each page of memory.
    assert!(compare(&files[0], &files[1]).ends_with("higher"));
    assert!(compare(&files[1], &files[0]).ends_with("lower"));
    assert!(compare(&files[0], &files[0]).ends_with("no difference shown"));
    let refused = Hutch::new("bench").args(["compare", &files[0], "/etc/hostname"]).end();
    refused.expect_code(1).expect_complaint(&["/etc/hostname", "--format json"]);
}

#[test]
fn devices_are_swept_and_drawn() {
    let root = RootFs::new();
    let plot = root.at("/tmp/sweep.svg");
    let sweep = ["--plot", plot.to_str().expect("UTF-8"), "--sweep", "devices=none,net+block+fs+console"];
    let results = bench(&root, &sweep, &["/bin/true"]);
    let names = ["hutch run none", "hutch run net+block+fs+console"];
    assert_eq!(targets(&results), names, "{results}");
    for sample in results["samples"].as_array().expect("samples") {
        assert!(sample["marks"]["exit"].as_u64() > sample["marks"]["guest:init"].as_u64(), "{sample}");
    }
    // Each device has a thread or more, and an interrupt line.
    let threads = names.map(|name| calls(&results, name, "clone3").1);
    assert!(threads[1] >= threads[0] + 3, "{results}");
    let picture = fs::read_to_string(plot).expect("the plot");
    assert!(names.iter().all(|name| picture.contains(name)), "{picture}");
    assert!(!root.at("/dev/hutch-bench").exists(), "the root directory was changed");
}

#[test]
fn kinds_of_root_are_swept() {
    let (root, other) = (RootFs::new(), RootFs::new());
    let sweep = format!("rootfs=overlay,{}", other.path().display());
    let results = bench(&root, &["--sweep", &sweep], &["/bin/touch", "/tmp/made"]);
    assert_eq!(targets(&results).len(), 2, "{results}");
    assert!(other.at("/tmp/made").exists());
    assert!(!root.at("/tmp/made").exists(), "an overlay keeps writes to itself");
    let results = bench(&root, &["--sweep", "rootfs=dir,read-only", "--no-syscalls"], &["/bin/true"]);
    assert_eq!(targets(&results), ["hutch run dir", "hutch run read-only"]);
    assert!(results.get("syscalls").is_none(), "{results}");
}
