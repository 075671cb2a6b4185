//! ListProcesses, stats, update, wait, events (pod contract, §7.9, §12).

use std::time::Duration;

use hutch_runtime::{ErrorKind, Limits, ListProcessesOptions, PodEvent, State};

use crate::support::{finish, kind, new, running, state};

#[test]
fn p_150_a_process_list_is_bytes_in_the_asked_for_form() {
    let (host, runtime) = running(&["a"]);
    let table = runtime.list_processes("p", "a", &ListProcessesOptions::default()).unwrap();
    let text = String::from_utf8(table).unwrap();
    assert!(text.starts_with("UID") && text.contains("serve"), "{text}");
    let json = ListProcessesOptions { format: "json".into(), ..Default::default() };
    let list: serde_json::Value = serde_json::from_slice(&runtime.list_processes("p", "a", &json).unwrap()).unwrap();
    assert_eq!(list[0]["command"], "serve");
    host.calls();
    let unknown = ListProcessesOptions { format: "yaml".into(), ..Default::default() };
    assert_eq!(kind(runtime.list_processes("p", "a", &unknown)), ErrorKind::InvalidConfig);
    assert!(host.calls().is_empty(), "refused before the guest is asked");
    finish(&host, &runtime);
}

#[test]
fn p_151_swapped_ids_fail() {
    let (host, runtime) = running(&["a"]);
    assert_eq!(kind(runtime.list_processes("a", "p", &Default::default())), ErrorKind::NoSuchPod);
    assert_eq!(kind(runtime.list_processes("p", "p", &Default::default())), ErrorKind::NoSuchContainer);
    finish(&host, &runtime);
}

#[test]
fn p_150_only_a_running_container_has_a_process_list() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a"])).unwrap();
    assert_eq!(kind(runtime.list_processes("p", "a", &Default::default())), ErrorKind::WrongState);
    runtime.start_pod("p").unwrap();
    runtime.create_container("p", host.container("b")).unwrap();
    assert_eq!(kind(runtime.list_processes("p", "b", &Default::default())), ErrorKind::WrongState);
    finish(&host, &runtime);
}

#[test]
fn an_update_reaches_the_guest_and_the_configuration() {
    let (host, runtime) = running(&["a"]);
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    runtime.update_container("p", "a", &limits).unwrap();
    assert_eq!(runtime.stats_container("p", "a").unwrap().memory_limit_bytes, 64 << 20);
    let stored = std::fs::read_to_string(host.dir().join("config/p/config.json")).unwrap();
    assert!(stored.contains(&(64u64 << 20).to_string()), "{stored}");
    let bad = Limits { memory: Some(-7), ..Limits::default() };
    assert_eq!(kind(runtime.update_container("p", "a", &bad)), ErrorKind::InvalidConfig);
    finish(&host, &runtime);
}

/// Without a lock, and at once.
#[test]
fn a_wait_returns_at_the_end_of_the_process() {
    let (host, runtime) = running(&["a"]);
    assert!(runtime.wait_container("p", "a", Duration::from_millis(10)).unwrap().is_none());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| host.runtime().wait_container("p", "a", Duration::from_secs(20)).unwrap());
        std::thread::sleep(Duration::from_millis(30));
        runtime.create_container("p", host.container("b")).expect("a waiter holds no lock");
        host.guest("p", |guest| guest.exit("a", 9));
        assert_eq!(waiter.join().unwrap().unwrap().code, Some(9));
    });
    assert_eq!(state(&runtime, "a"), Some(State::Stopped));
    assert_eq!(runtime.wait_container("p", "a", Duration::ZERO).unwrap().unwrap().code, Some(9), "also afterwards");
    finish(&host, &runtime);
}

/// Out-of-memory kills, exits, the end of the machine.
#[test]
fn events_tell_what_happens_in_a_pod() {
    let (host, runtime) = running(&["a", "b"]);
    let mut events = runtime.events("p").unwrap();
    assert_eq!(events.next(Duration::from_millis(10)).unwrap(), None);
    host.guest("p", |guest| guest.out_of_memory("a"));
    let soon = Duration::from_secs(60);
    assert_eq!(events.next(soon).unwrap(), Some(PodEvent::OutOfMemory { container: "a".into() }));
    let Some(PodEvent::Exited { container, status, .. }) = events.next(soon).unwrap() else { panic!("no exit") };
    assert_eq!((container.as_deref(), status.code()), (Some("a"), 137));
    host.kill_vm("p");
    assert_eq!(events.next(soon).unwrap(), Some(PodEvent::MachineEnded));
    assert_eq!(events.next(Duration::ZERO).unwrap(), None);
    finish(&host, &runtime);
}

#[test]
fn waiting_for_a_pod_ends_with_its_machine() {
    let (host, runtime) = running(&["a"]);
    assert!(runtime.wait_pod("p", Duration::from_millis(5)).unwrap().is_none());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| host.runtime().wait_pod("p", Duration::from_secs(20)).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        host.kill_vm("p");
        assert!(waiter.join().unwrap().unwrap().reason.is_some());
    });
    finish(&host, &runtime);
}

/// A container that is started again has the limits that it had last, whether it came from a bundle or not.
#[test]
fn p_094_a_restart_keeps_limits_that_were_changed() {
    let (host, runtime) = running(&[]);
    let document = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["serve"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"resources": {
            "memory": {"limit": 50 << 20, "swap": 60 << 20, "swappiness": 7},
            "cpu": {"shares": 100, "quota": 50_000, "period": 100_000, "mems": "0"},
        }},
    });
    let mut bundled = host.container("bundled");
    bundled.annotations.insert("dev.hutch.oci.config".into(), document.to_string());
    bundled.resources =
        hutch_runtime::spec::Resources { memory: Some(50 << 20), memory_swap: Some(60 << 20), ..Default::default() };
    runtime.create_container("p", bundled).unwrap();
    runtime.create_container("p", host.container("plain")).unwrap();
    let limits = hutch_runtime::Limits {
        memory: Some(80 << 20),
        memory_reservation: Some(20 << 20),
        cpu_quota: Some(70_000),
        cpu_period: Some(200_000),
        cpu_shares: Some(300),
        cpuset_cpus: Some("0".into()),
        pids: Some(9),
        ..Default::default()
    };
    for id in ["bundled", "plain"] {
        runtime.update_container("p", id, &limits).unwrap();
        runtime.stop_container("p", id, hutch_runtime::StopOptions::forced()).unwrap();
        runtime.start_container("p", id).unwrap();
        let spec = host.guest("p", |guest| guest.spec(id)).unwrap();
        let get = |path: &str| spec.pointer(&format!("/linux/resources/{path}")).cloned().unwrap_or_default();
        assert_eq!(
            (get("memory/limit"), get("memory/reservation")),
            (serde_json::json!(80 << 20), serde_json::json!(20 << 20)),
            "{id}"
        );
        assert_eq!(
            (get("cpu/quota"), get("cpu/period")),
            (serde_json::json!(70_000), serde_json::json!(200_000)),
            "{id}"
        );
        assert_eq!(
            (get("cpu/shares"), get("cpu/cpus"), get("pids/limit")),
            (serde_json::json!(300), serde_json::json!("0"), serde_json::json!(9)),
            "{id}"
        );
        if id == "bundled" {
            assert_eq!(
                get("memory/swap"),
                serde_json::json!(90 << 20),
                "the swap beside the memory is as much as before"
            );
            assert_eq!(
                (get("memory/swappiness"), get("cpu/mems")),
                (serde_json::json!(7), serde_json::json!("0")),
                "what the document had"
            );
        }
    }
    finish(&host, &runtime);
}
