//! The bound of the host's memory that a pod uses (P-207).

use hutch_runtime::backend::VmCapabilities;
use hutch_runtime::spec::{HypervisorConfig, PodConfig};
use hutch_runtime::{Limits, Runtime, StopOptions};
use hutch_runtime_fakes::{Failing, FakeHost};

use crate::support::{finish, kind, new};

/// A pod of 256 MiB that can grow to 1024, in a group of its own.
fn config(host: &FakeHost, id: &str, group: &str) -> PodConfig {
    let pod = host.pod(id, &["a"]);
    let hypervisor = HypervisorConfig { memory_mib: 256, max_memory_mib: 1024, ..pod.hypervisor };
    PodConfig { hypervisor, cgroup: group.into(), ..pod }
}

fn growing() -> (FakeHost, Runtime) {
    let (host, runtime) = new();
    host.set_vm_capabilities(VmCapabilities { memory_hotplug: true, ..VmCapabilities::default() });
    runtime.run_pod(config(&host, "p", "g/p")).unwrap();
    host.calls();
    (host, runtime)
}

fn limits(mib: i64) -> Limits {
    Limits { memory: Some(mib << 20), ..Limits::default() }
}

/// The calls that matter here, in their order.
fn order(host: &FakeHost) -> Vec<String> {
    let calls = host.calls().into_iter();
    let names = calls.map(|call| call.split(' ').next().unwrap_or_default().to_owned());
    names.filter(|call| ["cgroup.limit-memory", "vm.set-memory"].contains(&call.as_str())).collect()
}

#[test]
fn p_207_the_limit_is_there_before_a_process_and_has_room_for_the_machine() {
    let (host, runtime) = new();
    runtime.create_pod(config(&host, "p", "g/p")).unwrap();
    let calls = host.calls();
    let at = |name: &str| calls.iter().position(|call| call.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
    assert!(at("cgroup.create") < at("cgroup.limit-memory") && at("cgroup.limit-memory") < at("vm.spawn"), "{calls:?}");
    assert!(host.memory_limit_mib("g/p").unwrap() > 256 + 64);
    let status = runtime.status_pod("p").unwrap();
    assert_eq!((status.memory_limited_mib, status.memory_unlimited), (Some(256), None));
    finish(&host, &runtime);
}

#[test]
fn p_207_the_limit_rises_before_memory_comes_and_falls_after_it_went() {
    let (host, runtime) = growing();
    let first = host.memory_limit_mib("g/p").unwrap();
    let now = || (host.memory_limit_mib("g/p").unwrap(), runtime.status_pod("p").unwrap().memory_limited_mib);
    runtime.update_container("p", "a", &limits(300)).unwrap();
    assert_eq!(order(&host), ["cgroup.limit-memory", "vm.set-memory"]);
    let (grown, counted) = now();
    assert!(grown >= first + 300, "{first} {grown}");
    assert_eq!(counted, Some(556));
    host.calls();
    runtime.update_container("p", "a", &limits(100)).unwrap();
    assert_eq!(order(&host), ["vm.set-memory", "cgroup.limit-memory"]);
    let (shrunk, counted) = now();
    assert!(shrunk < grown && shrunk >= first + 100, "{first} {shrunk} {grown}");
    assert_eq!(counted, Some(356));
    finish(&host, &runtime);
}

/// A guest gives memory back when it can. Until then the pod needs its old limit.
#[test]
fn p_207_the_limit_stays_while_the_guest_keeps_its_memory() {
    let (host, runtime) = growing();
    runtime.update_container("p", "a", &limits(300)).unwrap();
    let grown = host.memory_limit_mib("g/p").unwrap();
    host.keep_memory("p", 556);
    runtime.update_container("p", "a", &limits(100)).unwrap();
    assert_eq!(host.memory_limit_mib("g/p"), Some(grown));
    host.keep_memory("p", 400);
    runtime.update_container("p", "a", &Limits::default()).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().memory_limited_mib, Some(400));
    host.keep_memory("p", 0);
    runtime.update_container("p", "a", &Limits::default()).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().memory_limited_mib, Some(356));
    assert!(host.memory_limit_mib("g/p").unwrap() < grown);
    // A machine that does not say keeps its limit, and the call succeeds.
    runtime.update_container("p", "a", &limits(300)).unwrap();
    host.fail("vm.memory-size", Failing::Refuses);
    runtime.update_container("p", "a", &limits(100)).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().memory_limited_mib, Some(556));
    finish(&host, &runtime);
}

/// Without room on the host's side no memory is plugged in: the pod would be ended for using it.
#[test]
fn p_207_no_memory_comes_if_the_limit_cannot_rise() {
    let (host, runtime) = growing();
    host.fail("cgroup.limit-memory", Failing::Refuses);
    assert_eq!(kind(runtime.update_container("p", "a", &limits(300))), hutch_runtime::ErrorKind::Backend);
    assert_eq!(host.memory_mib("p"), 256);
    runtime.update_container("p", "a", &limits(300)).unwrap();
    assert_eq!(host.memory_mib("p"), 556);
    finish(&host, &runtime);
}

/// Each shim needs memory of its own.
#[test]
fn p_207_the_limit_counts_the_shims() {
    let (host, runtime) = growing();
    let first = host.memory_limit_mib("g/p").unwrap();
    let command = hutch_runtime::spec::Command { args: vec!["serve".into()], ..Default::default() };
    for _ in 0..5 {
        runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    }
    assert_eq!(host.memory_limit_mib("g/p"), Some(first + 5 * 8));
    finish(&host, &runtime);
}

/// A container that comes later may bring a file system in memory along.
#[test]
fn p_207_the_limit_counts_the_tmpfs_of_a_later_container() {
    let (host, runtime) = growing();
    let on_tmpfs = tempfile::tempdir_in("/dev/shm").unwrap();
    let size = nix::sys::statvfs::statvfs(on_tmpfs.path()).unwrap();
    let mib = (size.blocks() * size.fragment_size()) >> 20;
    let first = host.memory_limit_mib("g/p").unwrap();
    let late = hutch_runtime::spec::ContainerConfig { rootfs: on_tmpfs.path().into(), ..host.container("late") };
    runtime.create_container("p", late).unwrap();
    let grown = host.memory_limit_mib("g/p").unwrap();
    // It counts once, also if the other root lies on it; the container's shim counts too.
    let others = host.container("a").rootfs;
    let same = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(on_tmpfs.path()).unwrap())
        == std::fs::metadata(others).map_or(0, |found| std::os::unix::fs::MetadataExt::dev(&found));
    let expected = if same { first + 8 } else { first + 8 + mib };
    assert_eq!(grown, expected);
    finish(&host, &runtime);
}

/// A volume that does not exist yet lies where all volumes lie.
#[test]
fn p_207_the_limit_counts_the_tmpfs_of_a_named_volume() {
    let (host, runtime) = new();
    let on_tmpfs = tempfile::tempdir_in("/dev/shm").unwrap();
    std::os::unix::fs::symlink(on_tmpfs.path(), host.dir().join("volumes")).unwrap();
    let size = nix::sys::statvfs::statvfs(on_tmpfs.path()).unwrap();
    let mib = (size.blocks() * size.fragment_size()) >> 20;
    let device = |path: &std::path::Path| std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(path).unwrap());
    let limit = |id: &str, options: &[&str]| {
        let mut pod = config(&host, id, &format!("g/{id}"));
        pod.containers[0].mounts.push(hutch_runtime::spec::MountSpec {
            kind: "volume".into(),
            source: "data".into(),
            destination: "/data".into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Default::default()
        });
        let rootfs = pod.containers[0].rootfs.clone();
        runtime.create_pod(pod).unwrap();
        let root = if device(&rootfs) == device(on_tmpfs.path()) { mib } else { 0 };
        host.memory_limit_mib(&format!("g/{id}")).unwrap() - root
    };
    let without = limit("q", &["ro"]);
    assert_eq!(limit("p", &[]), without + if device(host.dir()) == device(on_tmpfs.path()) { 0 } else { mib });
    for id in ["q", "p"] {
        runtime.stop_pod(id, StopOptions::forced()).unwrap();
        runtime.delete_pod(id, Default::default()).unwrap();
    }
}

#[test]
fn p_207_a_pod_without_a_limit_says_why() {
    let (host, runtime) = new();
    let reason = |id: &str| {
        let status = runtime.status_pod(id).unwrap();
        assert_eq!(status.memory_limited_mib, None, "{id}");
        status.memory_unlimited.unwrap()
    };
    runtime.create_pod(config(&host, "none", "")).unwrap();
    assert!(reason("none").contains("no control group"));
    host.make_cgroup("given");
    runtime.create_pod(config(&host, "given", "given")).unwrap();
    assert!(reason("given").contains("not made by hutch"));
    assert_eq!(host.memory_limit_mib("given"), None);
    // A group of two pods cannot have the limit of one. The first has it until the second comes, and never again.
    host.set_vm_capabilities(VmCapabilities { memory_hotplug: true, ..VmCapabilities::default() });
    runtime.create_pod(config(&host, "p", "shared")).unwrap();
    assert!(host.memory_limit_mib("shared").is_some());
    runtime.create_pod(config(&host, "q", "shared/inner")).unwrap();
    assert!(reason("q").contains("pod p"));
    assert_eq!(host.memory_limit_mib("shared"), None);
    runtime.update_container("p", "a", &limits(300)).unwrap();
    assert!(reason("p").contains("removed"));
    assert_eq!(host.memory_limit_mib("shared"), None);
    for id in ["none", "given", "q"] {
        runtime.stop_pod(id, StopOptions::forced()).unwrap();
        runtime.delete_pod(id, Default::default()).unwrap();
    }
    host.remove_cgroup("given");
    finish(&host, &runtime);
}
