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
