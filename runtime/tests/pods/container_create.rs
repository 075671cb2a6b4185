//! CreateContainer (pod contract, §7.1).

use hutch_runtime::backend::{AgentCapabilities, RootDisk, VmCapabilities};
use hutch_runtime::spec::{DeviceInfo, Resources};
use hutch_runtime::{fault, ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::{Failing, FakeHost};

use crate::support::{error, finish, kind, new, running, snapshot, state, states};

/// Everything can be plugged.
fn capable() -> (FakeHost, Runtime) {
    let (host, runtime) = new();
    let vm = VmCapabilities { block_hotplug: true, block_slots: false, cpu_hotplug: true, memory_hotplug: true };
    host.set_vm_capabilities(vm);
    host.set_agent_capabilities(AgentCapabilities { block_devices: true, device_nodes: true, seccomp: false });
    let mut pod = host.pod("p", &["a"]);
    (pod.hypervisor.memory_mib, pod.hypervisor.max_memory_mib) = (256, 1024);
    runtime.run_pod(pod).unwrap();
    host.calls();
    (host, runtime)
}

fn disk() -> RootDisk {
    RootDisk { device: "/dev/dm-3".into(), fstype: "ext4".into(), path: "rootfs".into() }
}

#[test]
fn p_090_a_created_container_is_ready_last_and_has_a_shim() {
    let (host, runtime) = running(&["a"]);
    let (pod, container) = runtime.create_container("p", host.container("b")).unwrap();
    assert_eq!((pod.containers(), container.pod()), (["a".to_owned(), "b".to_owned()].as_slice(), "p"));
    assert!(container.pid() > 0 && !container.token().is_empty());
    let other = runtime.status_container("p", "a").unwrap();
    assert_ne!(other.pid, container.pid());
    assert_eq!(states(&runtime).last(), Some(&("b".to_owned(), Some(State::Ready))));
    let tokens: Vec<_> = ["a", "b"].map(|id| host.guest("p", |guest| guest.init(id)).unwrap()).into();
    assert_ne!(tokens[0], tokens[1]);
    assert_eq!(tokens[1], container.token());
    finish(&host, &runtime);
}

#[test]
fn p_091_a_container_is_created_in_a_ready_and_in_a_running_pod() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &[])).unwrap();
    runtime.create_container("p", host.container("a")).unwrap();
    runtime.start_pod("p").unwrap();
    runtime.create_container("p", host.container("b")).unwrap();
    assert_eq!(states(&runtime), [("a".into(), Some(State::Running)), ("b".into(), Some(State::Ready))]);
    finish(&host, &runtime);
}

#[test]
fn p_033_no_container_is_created_in_a_paused_or_stopped_pod() {
    let (host, runtime) = running(&["a"]);
    runtime.pause_pod("p").unwrap();
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.create_container("p", host.container("b"))), ErrorKind::WrongState);
    assert_eq!(snapshot(&host), before);
    runtime.stop_pod("p", Default::default()).unwrap();
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.create_container("p", host.container("b"))), ErrorKind::WrongState);
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    finish(&host, &runtime);
}

#[test]
fn p_095_a_container_id_in_use_is_refused_and_the_container_untouched() {
    let (host, runtime) = running(&["a"]);
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.create_container("p", host.container("a"))), ErrorKind::AlreadyExists);
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    let mut config = host.pod("q", &["x"]);
    config.containers.push(host.container("x"));
    assert_eq!(kind(runtime.create_pod(config)), ErrorKind::AlreadyExists);
    finish(&host, &runtime);
}

/// Every backend, every kind of failure: the container is gone, its sibling runs with its mounts.
#[test]
fn p_096_a_creation_that_fails_takes_back_exactly_its_own() {
    let calls = [
        "mounts.root-disk",
        "vm.plug-block",
        "vm.set-vcpus",
        "agent.online-cpus",
        "vm.set-memory",
        "agent.await-memory",
        "mounts.resolve",
        "mounts.bind",
        "agent.mount",
        "agent.create-container",
        "shim.spawn",
        "shim.start",
    ];
    for call in calls {
        for how in [Failing::Refuses, Failing::AfterDoing] {
            let (host, runtime) = capable();
            let rootfs = host.dir().join("disk");
            std::fs::create_dir(&rootfs).unwrap();
            host.set_root_disk(&rootfs, disk());
            let mut config = host.container("b");
            config.rootfs = rootfs;
            let (cpu_quota, cpu_period, memory) = (Some(150_000), Some(100_000), Some(100 << 20));
            config.resources = Resources { cpu_quota, cpu_period, memory, ..Default::default() };
            config.mounts = vec![hutch_runtime::spec::MountSpec {
                source: host.dir().display().to_string(),
                destination: "/data".into(),
                kind: "bind".into(),
                ..Default::default()
            }];
            let (mounts, vcpus) = (host.mounts(), host.vcpus("p"));
            host.fail(call, how);
            assert_eq!(kind(runtime.create_container("p", config.clone())), ErrorKind::Backend, "{call} {how:?}");
            assert_eq!(host.mounts(), mounts, "{call} {how:?}");
            assert_eq!((host.vcpus("p"), host.memory_mib("p")), (vcpus, 256), "{call} {how:?}");
            assert!(host.devices("p").is_empty(), "{call} {how:?}");
            assert_eq!(states(&runtime), [("a".into(), Some(State::Running))], "{call} {how:?}");
            host.guest("p", |guest| assert_eq!(guest.containers().len(), 1, "{call} {how:?}"));
            assert!(!host.dir().join("run/p/b").exists() && !host.dir().join("config/p/b").exists());
            runtime.create_container("p", config).unwrap_or_else(|e| panic!("{call} {how:?}: retry: {e}"));
            assert_eq!((host.vcpus("p"), host.memory_mib("p")), (vcpus + 2, 356));
            finish(&host, &runtime);
        }
    }
}

/// The same for every fault point; the record writes after the last backend too: what counts is the final result.
#[test]
fn p_096_a_creation_that_fails_at_any_point_is_taken_back() {
    let points = {
        let (host, runtime) = running(&["a"]);
        let _recording = fault::arm("", 1, fault::Action::Error);
        runtime.create_container("p", host.container("b")).unwrap();
        fault::passed()
    };
    assert!(points.len() > 20, "{points:?}");
    for (number, name) in points.iter().enumerate() {
        let nth = points[..=number].iter().filter(|other| *other == name).count();
        let (host, runtime) = running(&["a"]);
        {
            let _armed = fault::arm(name, nth, fault::Action::Error);
            assert!(runtime.create_container("p", host.container("b")).is_err(), "{name}#{nth}");
        }
        assert_eq!(states(&runtime), [("a".into(), Some(State::Running))], "{name}#{nth}");
        runtime.create_container("p", host.container("b")).unwrap_or_else(|e| panic!("{name}#{nth}: retry: {e}"));
        runtime.start_container("p", "b").unwrap();
        finish(&host, &runtime);
    }
}

#[test]
fn p_048_a_retry_starts_from_its_config_and_not_from_old_records() {
    let (host, runtime) = running(&["a"]);
    // As a runtime leaves it that dies in the middle of a creation.
    let dir = host.dir().join("run/p/b");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(host.dir().join("run/p/a/mounts.json"), dir.join("mounts.json")).unwrap();
    std::fs::write(dir.join("state.json"), "{ half a rec").unwrap();
    std::fs::write(dir.join("state.json 77.0"), "temporary").unwrap();
    let mut mounts = host.mounts();
    runtime.create_container("p", host.container("b")).unwrap();
    mounts.retain(|mount| host.mounts().contains(mount));
    assert_eq!(state(&runtime, "b"), Some(State::Ready));
    assert!(!dir.join("state.json 77.0").exists());
    finish(&host, &runtime);
}

/// P-185, P-186, P-187: index, id, and how the guest finds the disk.
#[test]
fn p_200_a_root_disk_is_plugged_in_if_everybody_can_deal_with_it() {
    let (host, runtime) = capable();
    let rootfs = host.dir().join("disk");
    std::fs::create_dir(&rootfs).unwrap();
    host.set_root_disk(&rootfs, disk());
    let mut config = host.container("b");
    config.rootfs = rootfs.clone();
    runtime.create_container("p", config.clone()).unwrap();
    let devices = host.devices("p");
    assert_eq!(devices.len(), 1);
    assert!(devices[0].len() <= 20, "{devices:?} fits a serial number");
    host.guest("p", |guest| {
        assert!(guest.mounts().contains(&"/run/hutch/disks/b".to_owned()));
        assert_eq!(guest.spec("b").unwrap()["root"]["path"], "/run/hutch/disks/b/rootfs");
    });
    runtime.delete_container("p", "b").unwrap();
    assert!(host.devices("p").is_empty());
    finish(&host, &runtime);
    // One that says no is enough.
    for case in ["vm", "agent", "config"] {
        let (host, runtime) = new();
        let vm = VmCapabilities { block_hotplug: case != "vm", ..Default::default() };
        host.set_vm_capabilities(vm);
        let agent = AgentCapabilities { block_devices: case != "agent", ..Default::default() };
        host.set_agent_capabilities(agent);
        std::fs::create_dir(host.dir().join("disk")).unwrap();
        host.set_root_disk(&host.dir().join("disk"), disk());
        let mut pod = host.pod("p", &["a"]);
        pod.hypervisor.disable_block = case == "config";
        pod.containers[0].rootfs = host.dir().join("disk");
        runtime.create_pod(pod).unwrap();
        assert!(host.devices("p").is_empty(), "{case}");
        let root = host.guest("p", |guest| guest.spec("a")).unwrap()["root"]["path"].as_str().unwrap().to_owned();
        assert!(root.starts_with("/run/hutch/shared/a-"), "{case}: {root}");
        finish(&host, &runtime);
    }
}

/// P-188: a slot per plugged device, kept across calls.
#[test]
fn p_185_block_indices_are_given_back_and_used_again() {
    let (host, runtime) = capable();
    let index = |id: &str| -> Option<u64> {
        let text = std::fs::read(host.dir().join("run/p").join(id).join("state.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["data"]["block_index"].as_u64()
    };
    let slots = || -> usize {
        let text = std::fs::read(host.dir().join("run/p/hypervisor.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        record["data"]["bridges"][0]["slots"].as_object().unwrap().len()
    };
    let config = |id: &str| {
        let rootfs = host.dir().join(format!("disk-{id}"));
        std::fs::create_dir_all(&rootfs).unwrap();
        host.set_root_disk(&rootfs, disk());
        let mut config = host.container(id);
        config.rootfs = rootfs;
        config
    };
    for id in ["b", "c", "d"] {
        runtime.create_container("p", config(id)).unwrap();
    }
    assert_eq!([index("b"), index("c"), index("d")], [Some(0), Some(1), Some(2)]);
    assert_eq!(slots(), 3);
    runtime.delete_container("p", "c").unwrap();
    assert_eq!(slots(), 2);
    host.fail("vm.plug-block", Failing::Refuses);
    assert_eq!(kind(runtime.create_container("p", config("e"))), ErrorKind::Backend);
    assert_eq!(slots(), 2);
    runtime.create_container("p", config("f")).unwrap();
    assert_eq!(index("f"), Some(1), "the one that was given back twice: by the deletion and by the failure");
    finish(&host, &runtime);
}

#[test]
fn p_188_a_full_bridge_is_an_error() {
    let (host, runtime) = capable();
    let config = |id: &str| {
        let rootfs = host.dir().join(format!("disk-{id}"));
        std::fs::create_dir_all(&rootfs).unwrap();
        host.set_root_disk(&rootfs, disk());
        let mut config = host.container(id);
        config.rootfs = rootfs;
        config
    };
    for number in 0..30 {
        runtime.create_container("p", config(&format!("c{number}"))).unwrap();
    }
    assert_eq!(kind(runtime.create_container("p", config("over"))), ErrorKind::InvalidConfig);
    runtime.delete_container("p", "c7").unwrap();
    runtime.create_container("p", config("over")).unwrap();
    finish(&host, &runtime);
}

/// The sum of the shares is rounded up once, and the machine follows what lives in it.
#[test]
fn p_183_the_machine_has_the_vcpus_that_its_containers_may_use() {
    let (host, runtime) = capable();
    let config = |id: &str, quota: i64| {
        let mut config = host.container(id);
        config.resources = Resources { cpu_quota: Some(quota), cpu_period: Some(100_000), ..Default::default() };
        config
    };
    assert_eq!(host.vcpus("p"), 1);
    runtime.create_container("p", config("b", 50_000)).unwrap();
    assert_eq!(host.vcpus("p"), 2);
    runtime.create_container("p", config("c", 50_000)).unwrap();
    assert_eq!(host.vcpus("p"), 2, "two halves are one");
    runtime.create_container("p", config("d", -1)).unwrap();
    assert_eq!(host.vcpus("p"), 2, "-1 means unlimited");
    host.guest("p", |guest| assert_eq!(guest.cpus(), 2));
    runtime.stop_container("p", "b", StopOptions::forced()).unwrap();
    runtime.delete_container("p", "c").unwrap();
    assert_eq!(host.vcpus("p"), 1);
    runtime
        .update_container(
            "p",
            "d",
            &hutch_runtime::Limits { cpu_quota: Some(300_000), cpu_period: Some(100_000), ..Default::default() },
        )
        .unwrap();
    assert_eq!(host.vcpus("p"), 4);
    finish(&host, &runtime);
    // A machine that cannot grow has them from the start.
    let (host, runtime) = new();
    let mut pod = host.pod("p", &[]);
    pod.containers = vec![config("a", 150_000), config("b", 100_000)];
    for container in &mut pod.containers {
        container.rootfs = host.dir().join("rootfs");
    }
    runtime.create_pod(pod).unwrap();
    assert_eq!(host.vcpus("p"), 4);
    finish(&host, &runtime);
}

/// Memory on top of the machine's own is the sum of the limits, up to the most that was configured.
#[test]
fn p_184_the_machine_has_the_memory_that_its_containers_may_use() {
    let (host, runtime) = capable();
    let config = |id: &str, memory: i64| {
        let mut config = host.container(id);
        config.resources = Resources { memory: Some(memory), ..Default::default() };
        config
    };
    assert_eq!((host.memory_mib("p"), host.machine("p").unwrap().max_memory_mib), (256, 1024));
    runtime.create_container("p", config("b", 100 << 20)).unwrap();
    runtime.create_container("p", config("c", (100 << 20) + 1)).unwrap();
    runtime.create_container("p", config("d", -1)).unwrap();
    assert_eq!(host.memory_mib("p"), 256 + 100 + 101, "rounded up; -1 means unlimited");
    host.guest("p", |guest| assert_eq!(guest.memory_more(), 457 << 20, "it was waited for"));
    let record = std::fs::read_to_string(host.dir().join("run/p/hypervisor.json")).unwrap();
    assert!(record.contains("\"hotplugged_mib\": 201") || record.contains("\"hotplugged_mib\":201"), "{record}");

    let limits = |memory| hutch_runtime::Limits { memory: Some(memory), ..Default::default() };
    runtime.update_container("p", "b", &limits(300 << 20)).unwrap();
    assert_eq!(host.memory_mib("p"), 256 + 300 + 101);
    runtime.update_container("p", "b", &limits(4 << 30)).unwrap();
    assert_eq!(host.memory_mib("p"), 1024, "there is no more");
    runtime.start_container("p", "b").unwrap();
    runtime.stop_container("p", "b", StopOptions::forced()).unwrap();
    assert_eq!(host.memory_mib("p"), 256 + 101);
    runtime.start_container("p", "b").unwrap();
    assert_eq!(host.memory_mib("p"), 1024, "a restart counts again");
    host.fail("shim.spawn", Failing::Refuses);
    runtime.stop_container("p", "b", StopOptions::forced()).unwrap();
    assert_eq!(kind(runtime.start_container("p", "b")), ErrorKind::Backend);
    assert_eq!(host.memory_mib("p"), 256 + 101, "and one that failed does not");
    runtime.delete_container("p", "c").unwrap();
    assert_eq!(host.memory_mib("p"), 256);
    finish(&host, &runtime);
}

/// A change of size that was cut short after it was recorded is made by the next call.
#[test]
fn p_206_a_change_of_size_that_was_cut_short_is_made_later() {
    let (host, runtime) = capable();
    let limits = |memory| hutch_runtime::Limits { memory: Some(memory), ..Default::default() };
    host.fail("vm.set-memory", Failing::Refuses);
    assert_eq!(kind(runtime.update_container("p", "a", &limits(128 << 20))), ErrorKind::Backend);
    assert_eq!(host.memory_mib("p"), 256);
    runtime.update_container("p", "a", &limits(128 << 20)).unwrap();
    assert_eq!(host.memory_mib("p"), 384);
    finish(&host, &runtime);
}

/// A paused guest is not asked for it: the first call that checks the size of a running machine makes the change.
#[test]
fn p_206_a_change_of_size_that_was_cut_short_waits_while_the_pod_is_paused() {
    let (host, runtime) = capable();
    runtime.create_container("p", host.container("b")).unwrap();
    runtime.start_container("p", "b").unwrap();
    runtime.stop_container("p", "b", StopOptions::forced()).unwrap();
    let limits = hutch_runtime::Limits { memory: Some(128 << 20), ..Default::default() };
    host.fail("vm.set-memory", Failing::Refuses);
    assert_eq!(kind(runtime.update_container("p", "a", &limits)), ErrorKind::Backend);
    runtime.pause_pod("p").unwrap();
    runtime.delete_container("p", "b").unwrap();
    assert_eq!(host.memory_mib("p"), 256);
    runtime.resume_pod("p").unwrap();
    runtime.create_container("p", host.container("c")).unwrap();
    assert_eq!(host.memory_mib("p"), 384);
    finish(&host, &runtime);
}

/// Without a most, or with a machine that cannot, memory stays as it was.
#[test]
fn m_06_a_machine_that_was_not_made_to_grow_does_not() {
    for max_memory_mib in [0, 1024] {
        let (host, runtime) = new();
        host.set_vm_capabilities(VmCapabilities { memory_hotplug: max_memory_mib == 0, ..Default::default() });
        let mut pod = host.pod("p", &["a"]);
        (pod.hypervisor.memory_mib, pod.hypervisor.max_memory_mib) = (256, max_memory_mib);
        runtime.run_pod(pod).unwrap();
        let limits = hutch_runtime::Limits { memory: Some(128 << 20), ..Default::default() };
        runtime.update_container("p", "a", &limits).unwrap();
        assert_eq!((host.memory_mib("p"), host.machine("p").unwrap().max_memory_mib), (256, 0));
        assert!(!host.calls().iter().any(|call| call.contains("memory")));
        finish(&host, &runtime);
    }
}

/// P-050: the list round-trips; a generic device is recorded and not passed.
#[test]
fn p_046_devices_come_from_their_record() {
    let (host, runtime) = capable();
    let device = |path: &str, kind: &str, major: u32, minor: u32| DeviceInfo {
        container_path: path.into(),
        kind: kind.into(),
        major,
        minor,
        ..DeviceInfo::default()
    };
    let mut config = host.container("b");
    config.devices = vec![device("/dev/null", "c", 1, 3), device("/dev/loop9", "b", 7, 9), device("/fifo", "p", 0, 0)];
    runtime.create_container("p", config).unwrap();
    let text = std::fs::read(host.dir().join("run/p/b/devices.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let kinds: Vec<_> = record["data"].as_array().unwrap().iter().map(|d| d["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["generic", "block"], "a fifo is not supported and ignored");
    assert_eq!(host.devices("p").len(), 1);
    runtime.start_container("p", "b").unwrap();
    runtime.stop_container("p", "b", StopOptions::forced()).unwrap();
    assert!(host.devices("p").is_empty());
    finish(&host, &runtime);
}

/// A device that the machine cannot be given is refused before anything is made; one that stays on the host is not.
#[test]
fn devices_that_cannot_be_passed_are_refused() {
    let (host, runtime) = running(&[]);
    let device = |path: &str, kind: &str| DeviceInfo {
        container_path: path.into(),
        host_path: Some(path.into()),
        kind: kind.into(),
        ..DeviceInfo::default()
    };
    for (path, kind_of, what) in [("/dev/loop9", "b", "a block device"), ("/dev/vfio/7", "c", "a VFIO device")] {
        let mut config = host.container("b");
        config.devices = vec![device("/dev/null", "c"), device(path, kind_of)];
        host.calls();
        let refused = error(runtime.create_container("p", config.clone()));
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
        let text = refused.to_string();
        assert!(text.contains("container b") && text.contains(path) && text.contains(what), "{text}");
        assert!(host.calls().is_empty());
        let mut pod = host.pod("q", &[]);
        pod.containers = vec![config];
        assert_eq!(kind(runtime.create_pod(pod)), ErrorKind::InvalidConfig);
        assert_eq!(runtime.list_pods().unwrap().len(), 1);
    }
    let mut config = host.container("b");
    config.devices = vec![device("/dev/null", "c")];
    runtime.create_container("p", config).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_047_creation_order_is_kept() {
    let (host, runtime) = running(&["z", "m"]);
    runtime.create_container("p", host.container("a")).unwrap();
    runtime.create_container("p", host.container("k")).unwrap();
    runtime.delete_container("p", "a").unwrap();
    runtime.create_container("p", host.container("a")).unwrap();
    let again = host.runtime();
    let order: Vec<String> = again.status_pod("p").unwrap().containers.into_iter().map(|c| c.id).collect();
    assert_eq!(order, ["z", "m", "k", "a"]);
    finish(&host, &runtime);
}

#[test]
fn p_204_an_error_of_a_backend_keeps_its_kind() {
    let (host, runtime) = running(&[]);
    host.fail("agent.create-container", Failing::Refuses);
    let refused = error(runtime.create_container("p", host.container("a")));
    assert!(matches!(refused, hutch_runtime::Error::Backend { component: hutch_runtime::error::Component::Agent, .. }));
    assert!(refused.chain().contains("made to fail"), "{}", refused.chain());
    host.fail("mounts.bind", Failing::Refuses);
    let refused = error(runtime.create_container("p", host.container("a")));
    assert!(matches!(
        refused,
        hutch_runtime::Error::Backend { component: hutch_runtime::error::Component::Mounts, .. }
    ));
    host.fail("agent.create-container", Failing::TimesOut);
    assert_eq!(kind(runtime.create_container("p", host.container("a"))), ErrorKind::Timeout);
    finish(&host, &runtime);
}

/// The guest made the container, but its answer came too late: the host rolled back without it.
#[test]
fn p_096_a_container_that_the_guest_made_too_late_does_not_spoil_the_next_attempt() {
    let (host, runtime) = running(&[]);
    host.fail("agent.create-container", Failing::TooLate);
    assert_eq!(kind(runtime.create_container("p", host.container("a"))), ErrorKind::Timeout);
    assert_eq!(host.guest("p", |guest| guest.containers().len()), 1, "the guest has it");
    runtime.create_container("p", host.container("a")).unwrap();
    runtime.start_container("p", "a").unwrap();
    assert_eq!(state(&runtime, "a"), Some(State::Running));
    finish(&host, &runtime);
}
