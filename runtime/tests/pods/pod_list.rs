//! ListPod and StatusPod (pod contract, §6.6).

use std::time::Duration;

use hutch_runtime::store::LockMode;
use hutch_runtime::{ErrorKind, PodId, State};
use hutch_runtime_fakes::FakeHost;

use crate::support::{finish, kind, new, pod_state, running, states};

#[test]
fn p_017_no_config_root_is_an_empty_list() {
    let (host, runtime) = new();
    assert!(runtime.list_pods().unwrap().is_empty());
    std::fs::write(host.dir().join("config"), "not a directory").unwrap();
    assert_eq!(kind(runtime.list_pods()), ErrorKind::Store);
}

#[test]
fn p_018_damaged_pods_are_listed_with_a_marker_and_others_as_ever() {
    let (host, runtime) = new();
    for id in ["a", "b", "c"] {
        runtime.create_pod(host.pod(id, &["x"])).unwrap();
    }
    std::fs::write(host.dir().join("run/b/state.json"), "garbage").unwrap();
    std::fs::create_dir(host.dir().join("config/half-made")).unwrap();
    std::fs::write(host.dir().join("config/a-file"), "").unwrap();
    let list = runtime.list_pods().unwrap();
    let shown: Vec<_> = list.iter().map(|pod| (pod.id.as_str(), pod.state, pod.error.is_some())).collect();
    assert_eq!(shown, [("a", Some(State::Ready), false), ("b", None, true), ("c", Some(State::Ready), false)]);
    assert!(list[1].error.as_ref().unwrap().contains("state.json"), "{:?}", list[1].error);
    // Found, so that it can be deleted.
    runtime.delete_pod("b", hutch_runtime::DeleteOptions { force: true }).unwrap();
    assert_eq!(runtime.list_pods().unwrap().len(), 2);
}

#[test]
fn p_019_status_does_the_reconciling_stop_for_each_container() {
    let (host, runtime) = running(&["a", "b"]);
    host.guest("p", |guest| guest.exit("b", 1));
    let status = runtime.status_pod("p").unwrap();
    assert_eq!(status.containers[1].state, Some(State::Stopped));
    let listed = runtime.list_pods().unwrap();
    assert_eq!(listed[0], status);
    host.guest("p", |guest| guest.exit("a", 1));
    assert_eq!(runtime.list_pods().unwrap()[0].containers[0].state, Some(State::Stopped), "a list does it too");
    finish(&host, &runtime);
}

/// P-023: one lock at a time.
#[test]
fn p_029_a_busy_pod_is_shown_from_its_records_and_marked() {
    let (host, runtime) = running(&["a"]);
    runtime.create_pod(host.pod("q", &[])).unwrap();
    let id = PodId::new("p").unwrap();
    let held = host.store().lock(&id, LockMode::Exclusive, Duration::ZERO).unwrap().unwrap();
    let list = runtime.list_pods().unwrap();
    assert_eq!((list[0].id.as_str(), list[0].busy, list[0].state), ("p", true, Some(State::Running)));
    assert_eq!((list[1].id.as_str(), list[1].busy), ("q", false));
    drop(held);
    assert!(!runtime.list_pods().unwrap()[0].busy);
    runtime.delete_pod("q", Default::default()).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_049_a_pod_whose_host_was_restarted_is_listed_stopped_and_can_be_used_or_deleted() {
    for case in ["delete", "start", "stop", "containers", "status", "force delete", "create"] {
        let (host, runtime) = running(&["a", "b"]);
        // The host goes down: processes and the runtime root with it.
        host.host_restart();
        let list = runtime.list_pods().unwrap();
        assert_eq!((list.len(), list[0].state), (1, Some(State::Stopped)), "{case}");
        assert!(list[0].reason.as_ref().unwrap().contains("restarted"), "{case}");
        assert!(list[0].containers.iter().all(|container| container.state == Some(State::Stopped)));
        assert!(!host.dir().join("run/p").exists(), "reading changes nothing");
        match case {
            "start" => {
                runtime.start_pod("p").unwrap();
                let status = runtime.status_pod("p").unwrap();
                assert_eq!((status.state, status.reason), (Some(State::Running), None));
                assert!(status.containers.iter().all(|container| container.state == Some(State::Running)));
            }
            "stop" => {
                runtime.stop_pod("p", Default::default()).unwrap();
                assert_stopped(&runtime);
            }
            // P-106, P-133, P-134: containers of the pod are as stopped as others.
            "containers" => {
                runtime.stop_container("p", "a", Default::default()).unwrap();
                assert_stopped(&runtime);
                runtime.kill_container("p", "b", libc::SIGTERM, true).unwrap();
                runtime.kill_container("p", "b", libc::SIGKILL, true).unwrap();
                assert_eq!(kind(runtime.kill_container("p", "b", libc::SIGHUP, false)), ErrorKind::WrongState);
                assert_stopped(&runtime);
                assert!(runtime.status_pod("p").unwrap().reason.unwrap().contains("restarted"));
            }
            "status" => {
                assert_eq!(runtime.status_container("p", "a").unwrap().state, Some(State::Stopped));
                runtime.delete_container("p", "a").unwrap();
                assert_eq!(runtime.status_pod("p").unwrap().containers.len(), 1);
            }
            "create" => assert_eq!(kind(runtime.create_pod(host.pod("p", &[]))), ErrorKind::AlreadyExists),
            _ => {}
        }
        let force = case != "delete";
        runtime.delete_pod("p", hutch_runtime::DeleteOptions { force }).unwrap_or_else(|e| panic!("{case}: {e}"));
        crate::support::assert_clean(&host);
        runtime.create_pod(host.pod("p", &[])).unwrap();
        finish(&host, &runtime);
    }
}

#[test]
fn files_that_pods_boot_from_are_known() {
    let (host, runtime) = new();
    assert!(runtime.boot_files().unwrap().is_empty());
    runtime.create_pod(host.pod("p", &[])).unwrap();
    assert_eq!(runtime.boot_files().unwrap(), [host.dir().join("kernel"), host.dir().join("initrd")]);
    let path = host.dir().join("config/p/config.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert_eq!(kind(runtime.boot_files()), ErrorKind::Store, "that cannot be found out");
    std::fs::write(&path, text).unwrap();
    finish(&host, &runtime);
}

fn assert_stopped(runtime: &hutch_runtime::Runtime) {
    let stopped = Some(State::Stopped);
    assert_eq!(pod_state(runtime), State::Stopped);
    assert_eq!(states(runtime), [("a".to_owned(), stopped), ("b".to_owned(), stopped)]);
    let list = runtime.list_pods().unwrap();
    assert!(list[0].containers.iter().all(|container| container.state == stopped), "{list:?}");
}

/// A call that was killed while it gave the pod its runtime directory back does not damage it; a lost record does
/// (P-043).
#[test]
fn p_049_a_half_refreshed_pod_is_still_one_whose_host_was_restarted() {
    let record = r#"{"version":1,"record":"container-state","data":{"state":"stopped"}}"#;
    let leftovers: [&[(&str, &str)]; 4] = [
        &[],
        &[("lock", "")],
        &[("lock", ""), ("a/state.json 0123456789abcdef", "{"), ("state.json 0123456789abcdef", "")],
        &[("lock", ""), ("a/state.json", record)],
    ];
    for files in leftovers {
        let (host, runtime) = running(&["a", "b"]);
        let run = host.dir().join("run/p");
        let markers = [host.dir().join("run/.hutch-root.json"), run.join(".hutch-pod.json")];
        let markers = markers.map(|path| (std::fs::read(&path).unwrap(), path));
        host.host_restart();
        std::fs::create_dir_all(run.join("a")).unwrap();
        for (marker, path) in &markers {
            std::fs::write(path, marker).unwrap();
        }
        for (name, content) in files {
            std::fs::write(run.join(name), content).unwrap();
        }
        assert_stopped(&runtime);
        runtime.stop_container("p", "b", Default::default()).unwrap();
        assert_stopped(&runtime);
        runtime.start_pod("p").unwrap();
        finish(&host, &runtime);
    }
    let (host, runtime) = running(&["a"]);
    std::fs::remove_file(host.dir().join("run/p/state.json")).unwrap();
    std::fs::remove_file(host.dir().join("run/p/hypervisor.json")).unwrap();
    assert_eq!(kind(runtime.status_pod("p")), ErrorKind::Store);
    host.kill_vm("p");
    runtime.delete_pod("p", Default::default()).unwrap();
}

/// Dead shims and guests that do not answer: each bound of a list is the list's own, whatever other calls may wait, and
/// all pods share it.
#[test]
fn p_029_a_list_does_not_wait_for_guests() {
    let host = FakeHost::new();
    let bounds = hutch_runtime::Options {
        agent_timeout: Duration::from_secs(3600),
        sync_timeout: Duration::from_secs(3600),
        // The guests of the fake do not take time to be silent; a busy host does.
        reconcile_timeout: Duration::from_secs(60),
        ..host.options()
    };
    let runtime = hutch_runtime::Runtime::new(host.store(), host.backends(), bounds.clone());
    for pod in ["p", "q", "r"] {
        let mut config = host.pod(pod, &[]);
        config.containers = ["1", "2", "3"].map(|n| host.container(&format!("{pod}{n}"))).to_vec();
        runtime.run_pod(config).unwrap();
        for n in ["1", "2", "3"] {
            host.kill_shim(runtime.status_container(pod, &format!("{pod}{n}")).unwrap().pid);
        }
        host.guest(pod, |guest| {
            guest.hangs = true;
            guest.timeouts.clear();
        });
    }
    host.calls();
    let listed = runtime.list_pods().unwrap();
    assert_eq!(listed.len(), 3);
    // As the records have it: the guests did not say that anything has ended.
    assert!(listed.iter().all(|pod| pod.containers.iter().all(|c| c.state == Some(State::Running))), "{listed:?}");
    let asked = host.calls().iter().filter(|call| call.starts_with("agent.connect")).count();
    assert_eq!(asked, 3, "each guest once, not once for each container");
    for pod in ["p", "q", "r"] {
        let longest = host.guest(pod, |guest| guest.timeouts.values().copied().max()).unwrap_or_default();
        assert!(longest <= bounds.reconcile_timeout, "{pod}: {longest:?}");
    }
    runtime.status_pod("q").unwrap();
    runtime.status_container("r", "r1").unwrap();
    for pod in ["q", "r"] {
        let longest = host.guest(pod, |guest| guest.timeouts.values().copied().max()).unwrap_or_default();
        assert!(longest <= bounds.reconcile_timeout, "{pod}: {longest:?}");
    }
    for pod in ["p", "q", "r"] {
        host.guest(pod, |guest| guest.hangs = false);
        // The next status does what the list had no time for.
        assert!(runtime.status_pod(pod).unwrap().containers.iter().all(|c| c.state == Some(State::Stopped)));
        runtime.delete_pod(pod, hutch_runtime::DeleteOptions { force: true }).unwrap();
    }
    crate::support::assert_clean(&host);
}
