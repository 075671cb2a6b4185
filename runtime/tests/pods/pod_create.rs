//! CreatePod and RunPod (pod contract, §6.1, §6.4).

use std::collections::BTreeMap;

use hutch_runtime::spec::oci::CONFIG_KEY;
use hutch_runtime::spec::{HypervisorConfig, Jail, KernelParameter, PodConfig};
use hutch_runtime::{fault, ErrorKind, State};
use hutch_runtime_fakes::Failing;

use crate::support::{assert_clean, error, finish, kind, new, snapshot, states};

#[test]
fn p_060_a_created_pod_is_ready_and_nothing_runs() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a", "b"])).unwrap();
    let status = runtime.status_pod("p").unwrap();
    assert_eq!(status.state, Some(State::Ready));
    assert!(status.vmm_pid > 0);
    assert_eq!(states(&runtime), [("a".into(), Some(State::Ready)), ("b".into(), Some(State::Ready))]);
    host.guest("p", |guest| {
        assert!(guest.sandbox().is_some());
        assert!(guest.containers().iter().all(|(_, state)| *state == hutch_runtime_fakes::GuestState::Created));
    });
    assert!(!host.calls().iter().any(|call| call.starts_with("agent.start-container")));
    finish(&host, &runtime);
}

/// The VMM puts its own before them.
#[test]
fn p_182_a_machine_gets_the_configured_kernel_parameters_in_their_order_and_none_without_a_key() {
    let (host, runtime) = new();
    let with = |parameters: &[(&str, &str)]| {
        let parameter = |(key, value): &(&str, &str)| KernelParameter { key: (*key).into(), value: (*value).into() };
        let mut pod = host.pod("p", &[]);
        pod.hypervisor.kernel_parameters = parameters.iter().map(parameter).collect();
        pod
    };
    assert_eq!(kind(runtime.create_pod(with(&[("panic", "9"), ("", "x")]))), ErrorKind::InvalidConfig);
    assert!(host.calls().is_empty());
    assert_clean(&host);
    runtime.create_pod(with(&[("panic", "9"), ("ro", ""), ("panic", "8")])).unwrap();
    assert_eq!(host.machine("p").unwrap().kernel_parameters, ["panic=9", "ro", "panic=8"]);
    finish(&host, &runtime);
}

#[test]
fn p_061_an_empty_config_id_or_hypervisor_config_starts_no_machine() {
    let (host, runtime) = new();
    assert_eq!(kind(runtime.create_pod(PodConfig::default())), ErrorKind::NeedPodId);
    let no_id = PodConfig { id: String::new(), ..host.pod("p", &[]) };
    assert_eq!(kind(runtime.create_pod(no_id)), ErrorKind::NeedPodId);
    let no_machine = PodConfig { hypervisor: HypervisorConfig::default(), ..host.pod("p", &[]) };
    assert_eq!(kind(runtime.create_pod(no_machine)), ErrorKind::InvalidConfig);
    let mut no_file = host.pod("p", &[]);
    no_file.hypervisor.kernel = host.dir().join("nowhere");
    assert_eq!(kind(runtime.create_pod(no_file)), ErrorKind::InvalidConfig);
    assert!(host.calls().is_empty());
    assert_clean(&host);
}

/// The VMM process itself says what confines it; on record, and shown, until the machine is gone.
#[test]
fn the_jail_of_a_pod_is_what_its_machine_says() {
    let (host, runtime) = new();
    for (jail, shown) in [(Jail::On, "scripted"), (Jail::Off, "off")] {
        let mut config = host.pod("p", &[]);
        config.hypervisor.jail = jail;
        runtime.create_pod(config).unwrap();
        assert_eq!(runtime.status_pod("p").unwrap().jail.as_deref(), Some(shown));
        runtime.start_pod("p").unwrap();
        runtime.stop_pod("p", Default::default()).unwrap();
        assert_eq!(runtime.status_pod("p").unwrap().jail, None, "no machine, no jail");
        runtime.start_pod("p").unwrap();
        assert_eq!(runtime.status_pod("p").unwrap().jail.as_deref(), Some(shown), "the next machine");
        runtime.stop_pod("p", Default::default()).unwrap();
        runtime.delete_pod("p", Default::default()).unwrap();
    }
    assert_clean(&host);
}

#[test]
fn p_062_a_pod_without_containers_is_legal() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &[])).unwrap();
    runtime.start_pod("p").unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().state, Some(State::Running));
    finish(&host, &runtime);
}

#[test]
fn p_066_a_second_pod_with_the_id_is_refused_and_the_first_untouched() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a"])).unwrap();
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.create_pod(host.pod("p", &["b"]))), ErrorKind::AlreadyExists);
    let invalid = PodConfig { hypervisor: HypervisorConfig::default(), ..host.pod("p", &[]) };
    assert_eq!(kind(runtime.create_pod(invalid)), ErrorKind::AlreadyExists, "the id comes first");
    assert!(host.calls().is_empty());
    assert_eq!(snapshot(&host), before);
    finish(&host, &runtime);
}

/// Every step that can fail, one after the other: nothing is left, the id is free, a corrected attempt succeeds.
/// P-175.
#[test]
fn p_067_a_creation_that_fails_at_any_backend_is_rolled_back() {
    let calls = [
        "network.plan",
        "network.create",
        "network.run",
        "vm.spawn",
        "network.scan",
        "network.attach",
        "vm.start",
        "vm.wait-ready",
        "agent.connect",
        "agent.setup-sandbox",
        "mounts.bind",
        "mounts.resolve",
        "agent.create-container",
        "shim.spawn",
        "shim.start",
    ];
    for call in calls {
        for how in [Failing::Refuses, Failing::TimesOut, Failing::AfterDoing] {
            let (host, runtime) = new();
            host.set_interfaces(&host.namespace("p"), vec![crate::network::endpoint("eth0")]);
            host.fail(call, how);
            let error = error(runtime.create_pod(host.pod("p", &["a", "b"])));
            assert!(matches!(error.kind(), ErrorKind::Backend | ErrorKind::Timeout), "{call} {how:?}: {error}");
            assert!(runtime.list_pods().unwrap().is_empty(), "{call} {how:?}");
            assert_clean(&host);
            runtime.create_pod(host.pod("p", &["a", "b"])).unwrap_or_else(|e| panic!("{call} {how:?}: retry: {e}"));
            finish(&host, &runtime);
        }
    }
}

/// The same for every fault point that a creation passes, disk writes among them.
#[test]
fn p_067_a_creation_that_fails_at_any_point_is_rolled_back() {
    let points = {
        let (host, runtime) = new();
        host.set_interfaces(&host.namespace("p"), vec![crate::network::endpoint("eth0")]);
        let _recording = fault::arm("", 1, fault::Action::Error);
        runtime.create_pod(host.pod("p", &["a", "b"])).unwrap();
        fault::passed()
    };
    assert!(points.len() > 60, "{points:?}");
    for (number, name) in points.iter().enumerate() {
        let nth = points[..=number].iter().filter(|other| *other == name).count();
        let (host, runtime) = new();
        host.set_interfaces(&host.namespace("p"), vec![crate::network::endpoint("eth0")]);
        let failed = {
            let _armed = fault::arm(name, nth, fault::Action::Error);
            runtime.create_pod(host.pod("p", &["a", "b"]))
        };
        // A failure after the last record was written is a failure all the same: the caller gets no handle.
        assert!(failed.is_err(), "{name}#{nth}");
        assert!(runtime.list_pods().unwrap().is_empty(), "{name}#{nth}");
        runtime.cleanup().unwrap();
        assert_clean(&host);
        runtime.create_pod(host.pod("p", &["a", "b"])).unwrap_or_else(|e| panic!("{name}#{nth}: retry: {e}"));
        finish(&host, &runtime);
    }
}

#[test]
fn p_067_an_invalid_container_in_a_pod_leaves_nothing() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a", "b"]);
    config.containers[1].rootfs = host.dir().join("nowhere");
    assert_eq!(kind(runtime.create_pod(config)), ErrorKind::Backend);
    assert_clean(&host);
}

#[test]
fn p_068_a_rollback_leaves_alone_what_was_given() {
    let (host, runtime) = new();
    let given = host.dir().join("given-netns");
    let mut config = host.pod("p", &["a"]);
    config.network.namespace = Some(given.clone());
    host.set_interfaces(&given, vec![crate::network::endpoint("eth0")]);
    host.fail("agent.create-container", Failing::Refuses);
    assert_eq!(kind(runtime.create_pod(config.clone())), ErrorKind::Backend);
    assert!(!host.calls().iter().any(|call| call.starts_with("network.delete")));
    assert!(host.dir().join("rootfs").is_dir());
    runtime.create_pod(config).unwrap();
    finish(&host, &runtime);
    assert!(!host.calls().iter().any(|call| call.starts_with("network.delete")));
}

#[test]
fn p_068_a_failed_creation_does_not_touch_other_pods() {
    let (host, runtime) = new();
    runtime.run_pod(host.pod("other", &["x"])).unwrap();
    let mounts = host.mounts();
    host.fail("agent.create-container", Failing::Refuses);
    assert_eq!(kind(runtime.create_pod(host.pod("p", &["a"]))), ErrorKind::Backend);
    assert_eq!(host.mounts(), mounts);
    assert_eq!(runtime.status_container("other", "x").unwrap().state, Some(State::Running));
}

#[test]
fn p_069_a_machine_that_does_not_answer_in_time_is_a_timeout() {
    let (host, runtime) = new();
    host.fail("vm.wait-ready", Failing::TimesOut);
    assert_eq!(kind(runtime.create_pod(host.pod("p", &["a"]))), ErrorKind::Timeout);
    assert_clean(&host);
}

#[test]
fn p_021_another_call_sees_nothing_of_a_half_made_pod() {
    let (host, runtime) = new();
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| {
            let mut config = host.pod("p", &["a"]);
            config.hooks.prestart = vec![crate::hooks::shell("sleep 0.3")];
            runtime.create_pod(config).map(drop)
        });
        let lock = host.dir().join("run/p/lock");
        while !lock.exists() && !creating.is_finished() {
            std::thread::yield_now();
        }
        // Waits for the creation to be complete: it finds the whole pod.
        let other = host.runtime();
        loop {
            match other.start_pod("p") {
                Ok(_) => break,
                Err(e) => assert!(e.is_not_found(), "{e}"),
            }
            // The lock was taken between the directory and the creator's own lock: no pod yet.
            std::thread::yield_now();
        }
        creating.join().unwrap().unwrap();
    });
    finish(&host, &runtime);
}

#[test]
fn p_014_without_config_record_there_is_no_pod_whatever_the_state_says() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &[])).unwrap();
    std::fs::remove_file(host.dir().join("config/p/config.json")).unwrap();
    assert!(host.dir().join("run/p/state.json").exists());
    assert_eq!(kind(runtime.status_pod("p")), ErrorKind::NoSuchPod);
    assert!(runtime.list_pods().unwrap().is_empty());
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::NoSuchPod);
    assert_clean(&host);
}

#[test]
fn p_089_run_is_create_and_start() {
    let (host, runtime) = new();
    host.fail("agent.setup-sandbox", Failing::Refuses);
    assert_eq!(kind(runtime.run_pod(host.pod("p", &["a"]))), ErrorKind::Backend);
    assert_clean(&host);
    host.fail("agent.start-container", Failing::Refuses);
    assert_eq!(kind(runtime.run_pod(host.pod("p", &["a"]))), ErrorKind::Backend);
    assert_eq!(runtime.status_pod("p").unwrap().state, Some(State::Running), "the second half leaves the pod");
    finish(&host, &runtime);
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    assert_eq!(states(&runtime), [("a".into(), Some(State::Running))]);
    finish(&host, &runtime);
}

/// The types leave no room for a handle beside an error. Left to check: of the things that a failed call would have returned,
/// no handle can be had by another way, and handles from before stay valid.
#[test]
fn p_003_no_handle_comes_with_an_error() {
    let (host, runtime) = new();
    host.fail("vm.start", Failing::Refuses);
    assert_eq!(kind(runtime.create_pod(host.pod("p", &["a"]))), ErrorKind::Backend);
    assert_eq!(kind(runtime.get_pod("p")), ErrorKind::NoSuchPod);
    assert_eq!(kind(runtime.get_container("p", "a")), ErrorKind::NoSuchPod);
    let pod = runtime.run_pod(host.pod("p", &["a"])).unwrap();
    host.fail("agent.create-container", Failing::Refuses);
    assert_eq!(kind(runtime.create_container("p", host.container("b"))), ErrorKind::Backend);
    assert_eq!(kind(runtime.get_container("p", "b")), ErrorKind::NoSuchContainer);
    let ids = |pod: &hutch_runtime::PodHandle| pod.containers().to_vec();
    assert_eq!(ids(&runtime.get_pod("p").unwrap()), ["a"]);
    assert_eq!(ids(&pod), ["a"]);
    let command = hutch_runtime::spec::Command { args: vec!["x".into()], ..Default::default() };
    host.fail("shim.spawn-exec", Failing::Refuses);
    host.fail("shim.spawn", Failing::Refuses);
    assert_eq!(kind(runtime.exec_container("p", "a", &command, Default::default())), ErrorKind::Backend);
    let execs = std::fs::read_dir(host.dir().join("run/p/a/exec")).into_iter().flatten().count();
    assert_eq!(execs, 0, "no process can be waited for");
    host.heal();
    finish(&host, &runtime);
}

/// P-002, P-004.
#[test]
fn p_001_bad_ids_are_refused_by_every_entry_point_before_the_files() {
    let (host, runtime) = new();
    let (c, none) = (host.container("c"), Default::default());
    let command = hutch_runtime::spec::Command { args: vec!["x".into()], ..Default::default() };
    for (pod, container, expected) in [
        ("", "c", ErrorKind::NeedPodId),
        ("", "", ErrorKind::NeedPodId),
        ("../p", "c", ErrorKind::InvalidConfig),
        ("a/b", "c", ErrorKind::InvalidConfig),
    ] {
        let results = [
            kind(runtime.delete_pod(pod, none)),
            kind(runtime.start_pod(pod)),
            kind(runtime.stop_pod(pod, Default::default())),
            kind(runtime.status_pod(pod)),
            kind(runtime.pause_pod(pod)),
            kind(runtime.resume_pod(pod)),
            kind(runtime.stats_pod(pod)),
            kind(runtime.wait_pod(pod, Default::default())),
            kind(runtime.events(pod).map(drop)),
            kind(runtime.create_container(pod, c.clone())),
            kind(runtime.delete_container(pod, container)),
            kind(runtime.start_container(pod, container)),
            kind(runtime.stop_container(pod, container, Default::default())),
            kind(runtime.status_container(pod, container)),
            kind(runtime.kill_container(pod, container, 9, false)),
            kind(runtime.exec_container(pod, container, &command, Default::default())),
            kind(runtime.list_processes(pod, container, &Default::default())),
            kind(runtime.stats_container(pod, container)),
            kind(runtime.update_container(pod, container, &Default::default())),
            kind(runtime.wait_container(pod, container, Default::default())),
        ];
        assert!(results.iter().all(|kind| *kind == expected), "{pod:?} {container:?}: {results:?}");
    }
    for (container, expected) in [("", ErrorKind::NeedContainerId), ("..", ErrorKind::InvalidConfig)] {
        let mut config = c.clone();
        config.id = container.into();
        let results = [
            kind(runtime.create_container("p", config)),
            kind(runtime.delete_container("p", container)),
            kind(runtime.start_container("p", container)),
            kind(runtime.stop_container("p", container, Default::default())),
            kind(runtime.status_container("p", container)),
            kind(runtime.kill_container("p", container, 9, false)),
            kind(runtime.exec_container("p", container, &command, Default::default())),
            kind(runtime.list_processes("p", container, &Default::default())),
        ];
        assert!(results.iter().all(|kind| *kind == expected), "{container:?}: {results:?}");
    }
    assert_clean(&host);
}

#[test]
fn p_052_a_socket_path_that_is_too_long_is_refused_at_creation() {
    let (host, runtime) = new();
    let id = "p".repeat(120);
    let error = error(runtime.create_pod(host.pod(&id, &[])));
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("107"), "{error}");
    assert_clean(&host);
}

#[test]
fn p_101_an_agent_that_wants_the_oci_configuration_gets_it_or_nothing() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a"]);
    config.agent.require_oci_config = true;
    let missing = error(runtime.create_pod(config.clone()));
    assert_eq!(missing.kind(), ErrorKind::InvalidConfig);
    assert!(missing.to_string().contains(CONFIG_KEY), "{missing}");
    assert_clean(&host);
    let oci = r#"{"process":{"args":["serve"]},"root":{"path":"rootfs"}}"#;
    config.containers[0].annotations = BTreeMap::from([(CONFIG_KEY.to_owned(), oci.to_owned())]);
    runtime.create_pod(config).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_180_a_long_hostname_is_cut_for_the_guest_only() {
    let (host, runtime) = new();
    let name = "n".repeat(70);
    let config = PodConfig { hostname: name.clone(), ..host.pod("p", &[]) };
    runtime.create_pod(config).unwrap();
    host.guest("p", |guest| assert_eq!(guest.sandbox().unwrap().hostname, name[..64]));
    let stored = std::fs::read_to_string(host.dir().join("config/p/config.json")).unwrap();
    assert!(stored.contains(&name));
    finish(&host, &runtime);
}

/// P-019.
#[test]
fn p_181_status_shows_the_defaults_filled_in() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["b", "a"]);
    config.annotations.insert("org.example.key".into(), "value".into());
    config.resources.memory_mib = 512;
    runtime.create_pod(config).unwrap();
    let status = runtime.status_pod("p").unwrap();
    assert_eq!((status.hypervisor.vcpus, status.hypervisor.memory_mib, status.hypervisor.bridges), (1, 512, 1));
    assert!(status.hypervisor.max_vcpus > 1);
    assert_eq!(status.annotations["org.example.key"], "value");
    assert_eq!(status.containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!((status.hypervisor_type.name(), status.agent_type.name()), ("hutch", "hutch"));
    finish(&host, &runtime);
}

/// P-087: nothing of a pod without network is made or deleted. Also §11 of the pod contract: every backend has a form
/// that does nothing.
#[test]
fn p_120_the_whole_api_works_with_backends_that_do_nothing() {
    use hutch_runtime::spec::{AgentKind, HypervisorKind, NetworkKind, ShimKind};
    let host = hutch_runtime_fakes::FakeHost::new();
    let runtime = hutch_runtime::Runtime::new(host.store(), hutch_runtime::Backends::noop(), host.options());
    let mut config = host.pod("p", &["a"]);
    config.hypervisor.kind = HypervisorKind::None;
    config.agent.kind = AgentKind::None;
    config.shim.kind = ShimKind::None;
    config.network.kind = NetworkKind::None;
    runtime.run_pod(config).unwrap();
    let status = runtime.status_container("p", "a").unwrap();
    assert_eq!((status.state, status.pid), (Some(State::Running), 0), "PID 0 is never taken for dead");
    runtime.pause_pod("p").unwrap();
    runtime.resume_pod("p").unwrap();
    runtime.create_container("p", host.container("b")).unwrap();
    runtime.start_container("p", "b").unwrap();
    runtime.kill_container("p", "b", 15, true).unwrap();
    runtime.stop_container("p", "b", Default::default()).unwrap();
    runtime.delete_container("p", "b").unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    assert_clean(&host);
}

/// P-197: the pod's processes are in its control group before the call returns, and the group goes with them.
#[test]
fn p_197_the_pods_processes_are_in_its_control_group() {
    let (host, runtime) = new();
    let config = PodConfig { cgroup: "a.slice/p".into(), ..host.pod("p", &["a"]) };
    runtime.run_pod(config.clone()).unwrap();
    let status = runtime.status_pod("p").unwrap();
    let mut pids = vec![status.vmm_pid, status.containers[0].pid];
    let command = hutch_runtime::spec::Command { args: vec!["x".into()], ..Default::default() };
    let (_, _, process) = runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    pids.push(process.pid);
    pids.sort();
    assert_eq!(host.cgroup("a.slice/p"), Some(pids));
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(host.cgroup("a.slice/p"), None);
    finish(&host, &runtime);
    for call in ["cgroup.plan", "cgroup.create", "cgroup.add"] {
        host.fail(call, Failing::Refuses);
        assert_eq!(kind(runtime.create_pod(config.clone())), ErrorKind::Backend, "{call}");
        assert_clean(&host);
    }
    let bad = PodConfig { cgroup: "../x".into(), ..config };
    assert_eq!(kind(runtime.create_pod(bad)), ErrorKind::InvalidConfig);
}

/// P-068: a group that was there before stays; those that hutch made go with the last pod that uses them.
#[test]
fn p_068_control_groups_of_others_stay_and_own_ones_go() {
    let (host, runtime) = new();
    let pod = |id: &str| PodConfig { cgroup: "a.slice/b/p".into(), ..host.pod(id, &[]) };
    host.make_cgroup("a.slice");
    runtime.create_pod(pod("p")).unwrap();
    runtime.create_pod(pod("q")).unwrap();
    // Either may go first; the other one's processes stay where they are.
    for (first, second) in [("p", "q"), ("q", "p")] {
        runtime.stop_pod(first, hutch_runtime::StopOptions::default()).unwrap();
        assert_eq!(host.cgroup("a.slice/b/p").map(|members| members.is_empty()), Some(false), "{second} is in it");
        runtime.delete_pod(first, Default::default()).unwrap();
        runtime.delete_pod(second, Default::default()).unwrap();
        assert_eq!(host.cgroup("a.slice/b/p"), None);
        assert_eq!(host.cgroup("a.slice/b"), None, "the one in between was hutch's too");
        assert!(host.cgroup("a.slice").is_some(), "it was there before");
        runtime.create_pod(pod("p")).unwrap();
        runtime.create_pod(pod("q")).unwrap();
    }
    for id in ["p", "q"] {
        runtime.delete_pod(id, Default::default()).unwrap();
    }
    // The whole group was there.
    host.make_cgroup("a.slice/b/p");
    runtime.create_pod(pod("p")).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    assert!(host.cgroup("a.slice/b/p").is_some());
    host.remove_cgroup("a.slice/b/p");
    assert_clean(&host);
}
