//! StartContainer (pod contract, §7.3).

use hutch_runtime::{error::Object, Error, ErrorKind, State, StopOptions};
use hutch_runtime_fakes::{Failing, GuestState};

use crate::support::{error, finish, kind, new, pod_state, running, state, states};

#[test]
fn p_092_a_start_needs_a_running_pod_and_a_ready_or_stopped_container() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a"])).unwrap();
    let wrong = error(runtime.start_container("p", "a"));
    assert!(matches!(&wrong, Error::WrongState { object: Object::Pod(id), .. } if id == "p"), "{wrong:?}");
    runtime.start_pod("p").unwrap();
    let wrong = error(runtime.start_container("p", "a"));
    assert!(matches!(&wrong, Error::WrongState { object: Object::Container(id), .. } if id == "a"), "{wrong:?}");
    runtime.create_container("p", host.container("b")).unwrap();
    runtime.start_container("p", "b").unwrap();
    assert_eq!(state(&runtime, "b"), Some(State::Running));
    host.guest("p", |guest| assert!(guest.containers().contains(&("b".into(), GuestState::Running))));
    finish(&host, &runtime);
}

/// P-105, P-170, P-174: stopped, not deleted; everything can be done with it.
#[test]
fn p_093_a_refused_start_stops_the_container_and_returns_the_guests_error() {
    let (host, runtime) = running(&["a"]);
    runtime.create_container("p", host.container_with("b", &["missing"])).unwrap();
    let refused = error(runtime.start_container("p", "b"));
    assert_eq!(refused.kind(), ErrorKind::Backend);
    assert!(refused.chain().contains("executable file not found in $PATH"), "{}", refused.chain());
    assert_eq!(states(&runtime), [("a".into(), Some(State::Running)), ("b".into(), Some(State::Stopped))]);
    assert_eq!(pod_state(&runtime), State::Running);
    runtime.stop_container("p", "b", Default::default()).unwrap();
    runtime.delete_container("p", "b").unwrap();
    assert_eq!(states(&runtime), [("a".into(), Some(State::Running))]);
    finish(&host, &runtime);
}

#[test]
fn p_093_the_start_error_is_returned_even_if_the_clean_up_fails() {
    let (host, runtime) = running(&["a"]);
    runtime.create_container("p", host.container_with("b", &["missing"])).unwrap();
    host.fail("agent.remove-container", Failing::Refuses);
    let refused = error(runtime.start_container("p", "b"));
    assert!(refused.chain().contains("not found"), "{}", refused.chain());
    let text = std::fs::read_to_string(host.dir().join("run/p/b/state.json")).unwrap();
    assert!(text.contains("\"state\":\"ready\""), "unchanged: {text}");
    // P-172: there is a way out.
    runtime.stop_container("p", "b", Default::default()).unwrap();
    runtime.delete_container("p", "b").unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_105_after_a_failed_start_siblings_and_machine_are_as_before() {
    let (host, runtime) = running(&["a"]);
    let before = runtime.status_pod("p").unwrap();
    runtime.create_container("p", host.container("b")).unwrap();
    host.fail("agent.start-container", Failing::Refuses);
    assert_eq!(kind(runtime.start_container("p", "b")), ErrorKind::Backend);
    let after = runtime.status_pod("p").unwrap();
    assert_eq!((after.vmm_pid, after.containers[0].clone()), (before.vmm_pid, before.containers[0].clone()));
    runtime.status_container("p", "b").unwrap();
    runtime.start_container("p", "b").unwrap();
    assert_eq!(state(&runtime, "b"), Some(State::Running));
    finish(&host, &runtime);
}

#[test]
fn p_094_a_stopped_container_is_created_in_the_guest_again() {
    let (host, runtime) = running(&["a"]);
    let first = runtime.status_container("p", "a").unwrap();
    host.guest("p", |guest| guest.exit("a", 5));
    assert_eq!(runtime.status_container("p", "a").unwrap().exit.unwrap().code, Some(5));
    runtime.start_container("p", "a").unwrap();
    let second = runtime.status_container("p", "a").unwrap();
    assert_eq!((second.state, second.exit), (Some(State::Running), None));
    assert_ne!(second.pid, first.pid);
    host.guest("p", |guest| assert_eq!(guest.containers(), [("a".into(), GuestState::Running)]));
    assert_eq!(host.mounts().len(), 1, "its root file system, once");
    finish(&host, &runtime);
}

#[test]
fn p_094_a_restart_that_fails_leaves_the_container_stopped() {
    for call in ["mounts.bind", "agent.create-container", "shim.spawn", "shim.start"] {
        let (host, runtime) = running(&["a"]);
        runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
        host.fail(call, Failing::Refuses);
        assert_eq!(kind(runtime.start_container("p", "a")), ErrorKind::Backend, "{call}");
        assert_eq!(state(&runtime, "a"), Some(State::Stopped), "{call}");
        assert!(host.mounts().is_empty(), "{call}");
        host.guest("p", |guest| assert!(guest.containers().is_empty(), "{call}"));
        runtime.start_container("p", "a").unwrap();
        finish(&host, &runtime);
    }
}

/// The answer of the guest may be lost with the caller; the next attempt finds the program running.
#[test]
fn p_173_a_start_whose_record_was_not_written_can_be_repeated() {
    let (host, runtime) = running(&[]);
    runtime.create_container("p", host.container("a")).unwrap();
    {
        let _armed = hutch_runtime::fault::arm("container-state:put", 2, hutch_runtime::fault::Action::Error);
        assert!(runtime.start_container("p", "a").is_err());
    }
    host.guest("p", |guest| assert_eq!(guest.containers(), [("a".into(), GuestState::Running)]));
    runtime.start_container("p", "a").unwrap();
    assert_eq!(state(&runtime, "a"), Some(State::Running));
    host.guest("p", |guest| assert_eq!(guest.containers(), [("a".into(), GuestState::Running)]));
    finish(&host, &runtime);
}

/// A program that ends at once counts as running until a status call, which finds it stopped with its code.
#[test]
fn p_112_a_short_program_leaves_its_code() {
    let (host, runtime) = running(&[]);
    runtime.create_container("p", host.container_with("a", &["exit", "42"])).unwrap();
    runtime.start_container("p", "a").unwrap();
    let status = runtime.status_container("p", "a").unwrap();
    assert_eq!((status.state, status.exit.unwrap().code), (Some(State::Stopped), Some(42)));
    finish(&host, &runtime);
}
