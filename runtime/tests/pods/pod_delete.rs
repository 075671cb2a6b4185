//! DeletePod (pod contract, §6.5).

use hutch_runtime::{DeleteOptions, ErrorKind, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{assert_clean, finish, kind, new, pod_state, running, snapshot};

#[test]
fn p_053_a_deleted_pod_is_gone_and_its_id_free() {
    let (host, runtime) = running(&["a"]);
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    assert_eq!(runtime.delete_pod("p", Default::default()).unwrap().id(), "p");
    assert_eq!(kind(runtime.status_pod("p")), ErrorKind::NoSuchPod);
    assert!(!host.dir().join("run/p").exists() && !host.dir().join("config/p").exists());
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_054_a_running_pod_is_not_deleted() {
    let (host, runtime) = running(&["a"]);
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.delete_pod("p", Default::default())), ErrorKind::WrongState);
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    runtime.delete_pod("p", DeleteOptions { force: true }).unwrap();
    assert_clean(&host);
}

#[test]
fn p_055_a_paused_pod_is_deleted_with_all_its_containers() {
    let (host, runtime) = running(&["a", "b", "c"]);
    runtime.pause_pod("p").unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    assert_clean(&host);
}

#[test]
fn p_055_a_deletion_that_cannot_stop_the_pod_removes_nothing() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.pause_pod("p").unwrap();
    host.fail_always("vm.kill", Failing::Refuses);
    assert_eq!(kind(runtime.delete_pod("p", Default::default())), ErrorKind::Backend);
    assert_eq!(runtime.status_pod("p").unwrap().containers.len(), 2);
    host.heal();
    runtime.delete_pod("p", Default::default()).unwrap();
    assert_clean(&host);
}

#[test]
fn p_056_a_ready_pod_is_torn_down_before_its_records_go() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a"])).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    assert_clean(&host);
}

#[test]
fn p_057_any_number_of_containers_is_deleted() {
    for count in [0, 1, 2, 3, 7] {
        let ids: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (host, runtime) = running(&ids);
        runtime.stop_pod("p", StopOptions::forced()).unwrap();
        runtime.delete_pod("p", Default::default()).unwrap();
        assert_clean(&host);
    }
}

#[test]
fn p_058_a_deletion_that_failed_is_finished_by_the_next() {
    let points = {
        let (host, runtime) = running(&["a", "b"]);
        runtime.stop_pod("p", StopOptions::forced()).unwrap();
        let _recording = hutch_runtime::fault::arm("", 1, hutch_runtime::fault::Action::Error);
        runtime.delete_pod("p", Default::default()).unwrap();
        drop(host);
        hutch_runtime::fault::passed()
    };
    assert!(points.len() > 8, "{points:?}");
    for (number, name) in points.iter().enumerate() {
        let nth = points[..=number].iter().filter(|other| *other == name).count();
        let (host, runtime) = running(&["a", "b"]);
        runtime.stop_pod("p", StopOptions::forced()).unwrap();
        {
            let _armed = hutch_runtime::fault::arm(name, nth, hutch_runtime::fault::Action::Error);
            // A container's own leftovers are logged, everything else is the call's error.
            let _ = runtime.delete_pod("p", Default::default());
        }
        match runtime.delete_pod("p", Default::default()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSuchPod, "{name}#{nth}: {error}"),
        }
        runtime.cleanup().unwrap();
        assert_clean(&host);
        runtime.run_pod(host.pod("p", &["a"])).unwrap_or_else(|e| panic!("{name}#{nth}: {e}"));
        finish(&host, &runtime);
    }
}

#[test]
fn p_059_deleting_an_unknown_pod_is_no_such_pod_and_makes_no_files() {
    let (host, runtime) = new();
    let error = runtime.delete_pod("p", Default::default()).unwrap_err();
    assert!(error.is_not_found());
    assert!(!host.dir().join("run").exists() && !host.dir().join("config").exists());
}

#[test]
fn p_006_not_found_is_told_apart() {
    let (host, runtime) = running(&["a"]);
    assert_eq!(kind(runtime.status_pod("q")), ErrorKind::NoSuchPod);
    assert_eq!(kind(runtime.status_container("q", "a")), ErrorKind::NoSuchPod);
    assert_eq!(kind(runtime.status_container("p", "x")), ErrorKind::NoSuchContainer);
    assert_eq!(kind(runtime.delete_container("p", "x")), ErrorKind::NoSuchContainer);
    assert_eq!(pod_state(&runtime), State::Running);
    finish(&host, &runtime);
}

#[test]
fn p_045_stop_and_delete_need_no_boot_assets() {
    let (host, runtime) = running(&["a"]);
    std::fs::remove_file(host.dir().join("kernel")).unwrap();
    std::fs::remove_file(host.dir().join("initrd")).unwrap();
    assert_eq!(pod_state(&runtime), State::Running);
    assert_eq!(runtime.list_pods().unwrap().len(), 1);
    finish(&host, &runtime);
}
