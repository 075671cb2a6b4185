//! DeleteContainer (pod contract, §7.2).

use hutch_runtime::{ErrorKind, State, StopOptions};

use crate::support::{finish, kind, running, snapshot, state, states};

#[test]
fn p_102_a_ready_or_stopped_container_is_deleted_in_any_pod() {
    let (host, runtime) = running(&["a", "b", "c", "d"]);
    runtime.create_container("p", host.container("ready")).unwrap();
    assert_eq!(kind(runtime.delete_container("p", "a")), ErrorKind::WrongState);
    runtime.stop_container("p", "b", StopOptions::forced()).unwrap();
    runtime.stop_container("p", "c", StopOptions::forced()).unwrap();
    runtime.delete_container("p", "b").unwrap();
    runtime.delete_container("p", "ready").unwrap();
    assert!(!host.dir().join("run/p/b").exists() && !host.dir().join("config/p/b").exists());
    runtime.pause_pod("p").unwrap();
    runtime.delete_container("p", "c").unwrap();
    assert_eq!(kind(runtime.delete_container("p", "a")), ErrorKind::WrongState, "a paused one is not deleted");
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.delete_container("p", "a").unwrap();
    assert_eq!(states(&runtime), [("d".to_owned(), Some(State::Stopped))]);
    assert_eq!(kind(runtime.delete_container("p", "a")), ErrorKind::NoSuchContainer);
    let stored = std::fs::read_to_string(host.dir().join("config/p/config.json")).unwrap();
    assert!(!stored.contains("\"id\":\"a\""), "{stored}");
    finish(&host, &runtime);
}

#[test]
fn p_103_deleting_a_ready_container_frees_everything_it_has() {
    let (host, runtime) = running(&["a"]);
    let mounts = host.mounts();
    let (_, container) = runtime.create_container("p", host.container("b")).unwrap();
    assert!(container.pid() > 0);
    runtime.delete_container("p", "b").unwrap();
    host.guest("p", |guest| assert_eq!(guest.containers().len(), 1));
    assert_eq!(host.mounts(), mounts);
    assert!(host.shim("b").is_none(), "its shim is gone");
    finish(&host, &runtime);
}

#[test]
fn p_102_a_refused_deletion_changes_nothing() {
    let (host, runtime) = running(&["a"]);
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.delete_container("p", "a")), ErrorKind::WrongState);
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    assert_eq!(state(&runtime, "a"), Some(State::Running));
    finish(&host, &runtime);
}
