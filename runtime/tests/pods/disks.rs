//! Disks of containers in a machine with drive slots (P-185 to P-188, P-200), by the fakes.

use std::path::PathBuf;

use hutch_runtime::backend::{AgentCapabilities, RootDisk, VmCapabilities};
use hutch_runtime::spec::{ContainerConfig, DeviceInfo, MountSpec, PodConfig};
use hutch_runtime::{fault, ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::{Failing, FakeHost};

use crate::support::{error, finish, kind, new, state};

const FORCE: StopOptions = StopOptions::forced();

/// As the product: disks go into slots that the machine has had from its boot.
fn with_slots() -> (FakeHost, Runtime) {
    let (host, runtime) = new();
    host.set_vm_capabilities(VmCapabilities { block_hotplug: true, block_slots: true, ..Default::default() });
    host.set_agent_capabilities(AgentCapabilities { block_devices: true, ..Default::default() });
    (host, runtime)
}

/// An image that holds `fstype`.
fn image(host: &FakeHost, name: &str, fstype: &str) -> PathBuf {
    let path = host.dir().join(name);
    std::fs::write(&path, name).unwrap();
    let disk = RootDisk { device: path.clone(), fstype: fstype.into(), path: PathBuf::new() };
    host.set_root_disk(&path, disk);
    path
}

fn on_disk(host: &FakeHost, id: &str) -> ContainerConfig {
    ContainerConfig { rootfs: image(host, &format!("{id}.img"), "ext4"), ..host.container(id) }
}

fn block_volume(source: PathBuf, destination: &str, options: &[&str]) -> MountSpec {
    MountSpec {
        kind: "block".into(),
        source: source.to_string_lossy().into_owned(),
        destination: destination.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..MountSpec::default()
    }
}

/// A running pod `p` with `slots` free slots and these containers on disks.
fn running(slots: u32, containers: &[&str]) -> (FakeHost, Runtime) {
    let (host, runtime) = with_slots();
    let config = PodConfig {
        containers: containers.iter().map(|id| on_disk(&host, id)).collect(),
        ..pod_with_slots(&host, slots)
    };
    runtime.run_pod(config).unwrap();
    host.calls();
    (host, runtime)
}

fn pod_with_slots(host: &FakeHost, slots: u32) -> PodConfig {
    let mut pod = host.pod("p", &[]);
    pod.hypervisor.block_slots = slots;
    pod
}

fn record(host: &FakeHost, path: &str) -> serde_json::Value {
    let text = std::fs::read(host.dir().join("run/p").join(path)).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["data"].clone()
}

/// Devices in slots, as the records have it.
fn taken(host: &FakeHost) -> usize {
    let bridges = record(host, "hypervisor.json")["bridges"].clone();
    bridges.as_array().unwrap().iter().map(|bridge| bridge["slots"].as_object().unwrap().len()).sum()
}

fn indices(host: &FakeHost) -> Vec<u64> {
    record(host, "state.json")["blocks"].as_array().unwrap().iter().map(|index| index.as_u64().unwrap()).collect()
}

#[test]
fn p_188_a_slot_is_taken_by_each_disk_and_used_again() {
    let (host, runtime) = running(1, &["a"]);
    assert_eq!(host.machine("p").unwrap().block_slots, 2, "one of its own for each configured disk");
    runtime.create_container("p", on_disk(&host, "b")).unwrap();
    assert_eq!((taken(&host), indices(&host)), (2, vec![0, 1]));
    let full = error(runtime.create_container("p", on_disk(&host, "c")));
    assert_eq!(full.kind(), ErrorKind::InvalidConfig);
    let text = full.to_string();
    for part in ["container c", "c.img", "all 2", "hypervisor.block_slots", "--block-slots"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!((taken(&host), indices(&host)), (2, vec![0, 1]), "as before");
    // Known to another process, too.
    let again = host.runtime();
    assert_eq!(kind(again.create_container("p", on_disk(&host, "c"))), ErrorKind::InvalidConfig);
    again.stop_container("p", "a", FORCE).unwrap();
    assert_eq!((taken(&host), indices(&host)), (1, vec![1]), "a stopped container holds nothing");
    again.create_container("p", on_disk(&host, "c")).unwrap();
    assert_eq!(indices(&host), [0, 1]);
    assert_eq!(kind(again.start_container("p", "a")), ErrorKind::InvalidConfig, "its slot is taken now");
    assert_eq!(state(&again, "a"), Some(State::Stopped));
    again.delete_container("p", "c").unwrap();
    again.start_container("p", "a").unwrap();
    assert_eq!(indices(&host), [0, 1]);
    finish(&host, &runtime);
}

/// P-094, P-072: whatever was in the slots, a new machine begins with empty ones.
#[test]
fn p_185_indices_and_slots_follow_a_pod_that_boots_again() {
    let (host, runtime) = running(2, &["a"]);
    runtime.create_container("p", on_disk(&host, "b")).unwrap();
    runtime.start_container("p", "b").unwrap();
    runtime.stop_pod("p", FORCE).unwrap();
    assert_eq!(indices(&host), [0u64; 0]);
    runtime.start_pod("p").unwrap();
    assert_eq!(host.machine("p").unwrap().block_slots, 4, "both are configured now, two more are free");
    assert_eq!((taken(&host), indices(&host)), (2, vec![0, 1]));
    host.host_restart();
    runtime.start_pod("p").unwrap();
    assert_eq!((taken(&host), indices(&host)), (2, vec![0, 1]));
    finish(&host, &runtime);
}

/// Records that a killed call has left inconsistent are repaired by the next one.
#[test]
fn p_185_an_index_without_an_owner_is_free() {
    let (host, runtime) = running(3, &["a"]);
    let path = host.dir().join("run/p/state.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for wrong in ["[0,1,2]", "[]"] {
        std::fs::write(&path, text.replace("[0]", wrong)).unwrap();
        assert_ne!(indices(&host), [0], "{text}");
        runtime.create_container("p", on_disk(&host, "b")).unwrap();
        assert_eq!(indices(&host), [0, 1], "{wrong}");
        runtime.delete_container("p", "b").unwrap();
        assert_eq!(indices(&host), [0], "{wrong}");
    }
    finish(&host, &runtime);
}

/// P-187 is about the ids, which the guest knows the disks by.
#[test]
fn p_186_the_guest_finds_the_disk_in_a_slot_by_its_serial_number() {
    let (host, runtime) = running(2, &[]);
    // The same for longer than a serial number is.
    let long = "container-with-a-long-name-number-";
    for number in 0..2 {
        runtime.create_container("p", on_disk(&host, &format!("{long}{number}"))).unwrap();
    }
    let disks = host.disks("p");
    assert_ne!(disks[0].id, disks[1].id);
    host.guest("p", |guest| {
        for (mount, disk) in guest.mounted().iter().zip(&disks) {
            assert!(disk.id.len() <= 20);
            assert_eq!((mount.source.clone(), mount.fstype.as_str()), (format!("slot:{}", disk.id), "ext4"));
        }
        let root = guest.spec(&format!("{long}0")).unwrap()["root"]["path"].clone();
        assert_eq!(root, format!("/run/hutch/disks/{long}0"));
    });
    finish(&host, &runtime);
}

#[test]
fn a_read_only_root_is_read_only_for_the_machine_and_for_the_guest() {
    let (host, runtime) = running(2, &[]);
    for (id, read_only) in [("b", true), ("c", false)] {
        let config = ContainerConfig { readonly_rootfs: read_only, ..on_disk(&host, id) };
        runtime.create_container("p", config).unwrap();
    }
    assert_eq!(host.disks("p").iter().map(|disk| disk.read_only).collect::<Vec<_>>(), [true, false]);
    let options = host.guest("p", |guest| guest.mounted().iter().map(|m| m.options.clone()).collect::<Vec<_>>());
    assert_eq!(options, [vec!["ro".to_owned()], vec![]]);
    finish(&host, &runtime);
}

/// Unmounted first, so that all is written; then taken out of the machine.
#[test]
fn the_guest_lets_go_of_a_disk_before_it_is_taken_away() {
    for end in ["stop", "delete", "failure"] {
        let (host, runtime) = running(1, &[]);
        if end == "failure" {
            host.fail("agent.create-container", Failing::Refuses);
            assert_eq!(kind(runtime.create_container("p", on_disk(&host, "b"))), ErrorKind::Backend);
        } else {
            runtime.create_container("p", on_disk(&host, "b")).unwrap();
            host.calls();
            match end {
                "stop" => drop(runtime.stop_container("p", "b", FORCE).unwrap()),
                _ => drop(runtime.delete_container("p", "b").unwrap()),
            }
        }
        let calls = host.calls();
        let at = |name: &str| calls.iter().rposition(|call| call.starts_with(name));
        let unmounted = calls.iter().position(|call| call.starts_with("agent.unmount"));
        assert!(unmounted.is_some() && unmounted < at("vm.unplug"), "{end}: {calls:#?}");
        host.guest("p", |guest| assert!(!guest.mounts().iter().any(|m| m.contains("disks")), "{end}"));
        assert!(host.devices("p").is_empty());
        finish(&host, &runtime);
    }
}

/// A guest that does not let go keeps the container from stopping, but not from being stopped by force.
#[test]
fn a_disk_that_the_guest_does_not_let_go_stays_where_it_is() {
    let (host, runtime) = running(1, &[]);
    runtime.create_container("p", on_disk(&host, "b")).unwrap();
    host.fail("agent.unmount", Failing::Refuses);
    assert_eq!(kind(runtime.stop_container("p", "b", Default::default())), ErrorKind::Backend);
    assert_eq!((host.devices("p").len(), taken(&host)), (1, 1));
    host.fail("agent.unmount", Failing::Refuses);
    runtime.stop_container("p", "b", FORCE).unwrap();
    assert_eq!((host.devices("p").len(), taken(&host)), (0, 0));
    finish(&host, &runtime);
}

/// Slot, index, disk and volumes go back wherever the creation fails; the next one finds everything free.
#[test]
fn p_096_a_failed_creation_gives_its_disks_back() {
    let config = |host: &FakeHost| {
        let mut config = on_disk(host, "b");
        config.mounts = vec![block_volume(image(host, "v.img", "xfs"), "/v", &["ro"])];
        config
    };
    let points = {
        let (host, runtime) = running(2, &["a"]);
        let _recording = fault::arm("", 1, fault::Action::Error);
        runtime.create_container("p", config(&host)).unwrap();
        fault::passed()
    };
    assert!(points.iter().any(|point| point.starts_with("vm.plug-block")), "{points:?}");
    for (number, name) in points.iter().enumerate() {
        let nth = points[..=number].iter().filter(|other| *other == name).count();
        let (host, runtime) = running(2, &["a"]);
        {
            let _armed = fault::arm(name, nth, fault::Action::Error);
            assert!(runtime.create_container("p", config(&host)).is_err(), "{name}#{nth}");
        }
        assert_eq!((taken(&host), indices(&host)), (1, vec![0]), "{name}#{nth}: only what a has");
        assert_eq!(host.devices("p").len(), 1, "{name}#{nth}");
        assert_eq!(state(&runtime, "a"), Some(State::Running), "{name}#{nth}");
        runtime.create_container("p", config(&host)).unwrap_or_else(|e| panic!("{name}#{nth}: retry: {e}"));
        finish(&host, &runtime);
    }
}

#[test]
fn p_067_a_pod_whose_disk_is_no_file_system_is_not_created() {
    let (host, runtime) = with_slots();
    let garbage = image(&host, "garbage.img", "");
    let config = |host: &FakeHost, fstype: &str| {
        let container = ContainerConfig { rootfs: garbage.clone(), rootfs_type: fstype.into(), ..host.container("b") };
        PodConfig { containers: vec![container], ..pod_with_slots(host, 0) }
    };
    let refused = error(runtime.create_pod(config(&host, "")));
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    let text = refused.to_string();
    assert!(text.contains("container b") && text.contains("garbage.img") && text.contains("rootfs_type"), "{text}");
    assert!(host.leaks().is_empty(), "{:?}", host.leaks());
    // A configured type is not questioned.
    runtime.create_pod(config(&host, "btrfs")).unwrap();
    host.guest("p", |guest| assert_eq!(guest.mounted()[0].fstype, "btrfs"));
    finish(&host, &runtime);
}

/// One no is enough, and an image has no other way into the guest.
#[test]
fn p_200_an_image_that_cannot_be_a_disk_is_refused_with_the_reason() {
    for (case, reason) in
        [("vm", "takes no disks"), ("agent", "cannot mount disks"), ("config", "hypervisor.disable_block")]
    {
        let (host, runtime) = new();
        let able = |what: &str| case != what;
        host.set_vm_capabilities(VmCapabilities { block_hotplug: able("vm"), block_slots: true, ..Default::default() });
        host.set_agent_capabilities(AgentCapabilities { block_devices: able("agent"), ..Default::default() });
        let mut pod = pod_with_slots(&host, 0);
        pod.hypervisor.disable_block = case == "config";
        pod.containers = vec![on_disk(&host, "b")];
        let refused = error(runtime.create_pod(pod.clone()));
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig, "{case}");
        let text = refused.to_string();
        assert!(text.contains("b.img") && text.contains(reason), "{case}: {text}");
        pod.containers = vec![host.container("b")];
        pod.containers[0].mounts = vec![block_volume(image(&host, "v.img", "ext4"), "/v", &[])];
        let text = error(runtime.create_pod(pod)).to_string();
        assert!(text.contains("v.img") && text.contains(reason), "{case}: {text}");
        assert!(host.leaks().is_empty());
    }
}

#[test]
fn a_block_volume_is_mounted_in_the_guest_and_bound_into_the_container() {
    let (host, runtime) = running(3, &[]);
    let mut config = host.container("b");
    config.mounts = vec![
        block_volume(image(&host, "data.img", "xfs"), "/data", &["ro"]),
        block_volume(image(&host, "other.img", ""), "/other", &["fstype=btrfs"]),
    ];
    runtime.create_container("p", config).unwrap();
    let disks = host.disks("p");
    assert_eq!(disks.iter().map(|disk| disk.read_only).collect::<Vec<_>>(), [true, false]);
    host.guest("p", |guest| {
        let types: Vec<_> = guest.mounted().iter().map(|mount| mount.fstype.clone()).collect();
        assert_eq!(types, ["xfs", "btrfs"]);
        let spec = guest.spec("b").unwrap();
        let mounts = spec["mounts"].as_array().unwrap();
        let of = |destination: &str| mounts.iter().find(|m| m["destination"] == destination).unwrap().clone();
        let source = format!("/run/hutch/block-volumes/b/{}", disks[0].id);
        assert_eq!((of("/data")["type"].clone(), of("/data")["source"].clone()), ("bind".into(), source.into()));
        assert_eq!(of("/data")["options"], serde_json::json!(["rbind", "ro"]));
        assert_eq!(of("/other")["options"], serde_json::json!(["rbind"]));
    });
    assert_eq!(host.mounts().len(), 1, "the root; nothing of a disk is bound on the host");
    runtime.start_container("p", "b").unwrap();
    runtime.stop_container("p", "b", FORCE).unwrap();
    assert_eq!((taken(&host), indices(&host)), (0, vec![]));
    runtime.start_container("p", "b").unwrap();
    assert_eq!(taken(&host), 2);
    finish(&host, &runtime);
}

#[test]
fn block_volumes_are_checked() {
    let (host, runtime) = running(1, &[]);
    let directory = host.dir().join("rootfs");
    for (mount, part) in [
        (block_volume("relative".into(), "/v", &[]), "absolute"),
        (block_volume(image(&host, "v.img", "ext4"), "/v", &["noexec"]), "noexec"),
        (block_volume(image(&host, "v.img", "ext4"), "/v", &["fstype=../x"]), "../x"),
        (block_volume(image(&host, "empty.img", ""), "/v", &[]), "fstype=NAME"),
        (block_volume(directory, "/v", &[]), "type bind"),
    ] {
        let mut config = host.container("b");
        config.mounts = vec![mount];
        let refused = error(runtime.create_container("p", config));
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
        assert!(refused.to_string().contains(part), "{refused}");
    }
    assert_eq!((taken(&host), indices(&host)), (0, vec![]));
    // A device that needs a node is still refused.
    let mut config = host.container("b");
    config.devices = vec![DeviceInfo {
        container_path: "/dev/loop9".into(),
        host_path: Some("/dev/loop9".into()),
        kind: "b".into(),
        ..DeviceInfo::default()
    }];
    let refused = error(runtime.create_container("p", config)).to_string();
    assert!(refused.contains("/dev/loop9") && refused.contains("type block"), "{refused}");
    let mut pod = pod_with_slots(&host, 17);
    pod.id = "q".into();
    assert!(error(runtime.create_pod(pod)).to_string().contains("block_slots 17"));
    finish(&host, &runtime);
}

/// The guest takes longer to write than the agent's other answers may take: it is given that time, and a stop that had
/// to end the machine before says so.
#[test]
fn p_085_a_stop_that_lost_writes_does_not_report_success() {
    for how in [Failing::TimesOut, Failing::Lost] {
        let (host, runtime) = running(1, &["a"]);
        host.fail("agent.unmount", how);
        let lost = error(runtime.stop_pod("p", StopOptions::default()));
        assert_eq!(lost.kind(), ErrorKind::LostWrites, "{}", lost.chain());
        assert!(lost.to_string().contains("pod p") && lost.to_string().contains("container a"), "{lost}");
        assert_eq!(runtime.status_pod("p").unwrap().state, Some(State::Stopped), "it is stopped all the same");
        runtime.stop_pod("p", StopOptions::default()).unwrap();
        runtime.start_pod("p").unwrap();
        // The guest falls silent before it can be asked to unmount.
        host.fail("agent.kill-container", how);
        assert_eq!(kind(runtime.stop_pod("p", StopOptions::without_signal())), ErrorKind::LostWrites);
        // Force asks for exactly that.
        runtime.start_pod("p").unwrap();
        host.fail("agent.unmount", how);
        runtime.stop_pod("p", FORCE).unwrap();
        finish(&host, &runtime);
    }
    let (host, runtime) = running(1, &["a"]);
    runtime.stop_container("p", "a", StopOptions::default()).unwrap();
    let bound = host.guest("p", |guest| guest.timeouts["unmount"]);
    assert_eq!(bound, runtime.options().sync_timeout, "not that of other requests");
    finish(&host, &runtime);
    assert!(hutch_runtime::Options::default().sync_timeout >= std::time::Duration::from_secs(120));
    // Nothing to lose: no disk, or none that is written to; a machine that had died before.
    let (host, runtime) = running(1, &["a"]);
    host.kill_vm("p");
    runtime.stop_pod("p", StopOptions::default()).unwrap();
    finish(&host, &runtime);
    let (host, runtime) = with_slots();
    let mut config = on_disk(&host, "a");
    config.readonly_rootfs = true;
    runtime.run_pod(PodConfig { containers: vec![config], ..pod_with_slots(&host, 1) }).unwrap();
    host.fail("agent.unmount", Failing::TimesOut);
    runtime.stop_pod("p", StopOptions::default()).unwrap();
    finish(&host, &runtime);
}
