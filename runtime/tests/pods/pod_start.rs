//! StartPod (pod contract, §6.2).

use hutch_runtime::{ErrorKind, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{error, finish, kind, new, pod_state, running, snapshot, state, states};

#[test]
fn p_070_starting_a_ready_pod_starts_every_container_in_order() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a", "b", "c"])).unwrap();
    host.calls();
    runtime.start_pod("p").unwrap();
    let started: Vec<String> =
        host.calls().into_iter().filter(|call| call.starts_with("agent.start-container")).collect();
    assert_eq!(started, ["agent.start-container a", "agent.start-container b", "agent.start-container c"]);
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Running)));
    assert_eq!(pod_state(&runtime), State::Running);
    finish(&host, &runtime);
}

/// P-013: nothing on disk changes, no backend is called.
#[test]
fn p_071_a_paused_pod_is_not_started() {
    let (host, runtime) = running(&["a"]);
    runtime.pause_pod("p").unwrap();
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.start_pod("p")), ErrorKind::WrongState);
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    finish(&host, &runtime);
}

#[test]
fn p_072_a_stopped_pod_gets_a_new_machine() {
    let (host, runtime) = running(&["a", "b"]);
    let first = runtime.status_pod("p").unwrap().vmm_pid;
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().vmm_pid, 0);
    runtime.start_pod("p").unwrap();
    let status = runtime.status_pod("p").unwrap();
    assert!(status.vmm_pid > 0 && status.vmm_pid != first);
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Running)));
    assert!(status.containers.iter().all(|container| container.exit.is_none()), "a new life has not ended yet");
    finish(&host, &runtime);
}

#[test]
fn p_072_a_boot_that_fails_leaves_the_pod_stopped() {
    let (host, runtime) = running(&["a"]);
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    for call in ["network.create", "vm.spawn", "vm.start", "vm.wait-ready", "agent.setup-sandbox"] {
        host.fail(call, Failing::Refuses);
        assert_eq!(kind(runtime.start_pod("p")), ErrorKind::Backend, "{call}");
        assert_eq!(pod_state(&runtime), State::Stopped, "{call}");
        let left: Vec<String> = host.leaks().into_iter().filter(|leak| !leak.starts_with("file ")).collect();
        assert!(left.is_empty(), "{call}: {left:?}");
    }
    runtime.start_pod("p").unwrap();
    assert_eq!(state(&runtime, "a"), Some(State::Running));
    finish(&host, &runtime);
}

#[test]
fn p_073_a_running_pod_is_not_started_again() {
    let (host, runtime) = running(&["a"]);
    let before = snapshot(&host);
    host.calls();
    assert_eq!(kind(runtime.start_pod("p")), ErrorKind::InvalidTransition);
    assert_eq!(snapshot(&host), before);
    assert!(host.calls().is_empty());
    finish(&host, &runtime);
}

/// P-075, P-093, P-170, P-171: the first failure ends the call, nothing is deleted, everything else goes on.
#[test]
fn p_074_the_first_container_that_fails_ends_the_start() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a", "b", "c"]);
    config.containers[1].command.args = vec!["missing".into()];
    config.hooks.poststart = vec![crate::hooks::shell(&format!("touch {}/poststart", host.dir().display()))];
    runtime.create_pod(config).unwrap();
    let error = error(runtime.start_pod("p"));
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.chain().contains("not found"), "{}", error.chain());
    let expected = [("a", State::Running), ("b", State::Stopped), ("c", State::Ready)];
    assert_eq!(states(&runtime), expected.map(|(id, state)| (id.to_owned(), Some(state))));
    assert_eq!(pod_state(&runtime), State::Running);
    assert!(!host.dir().join("poststart").exists());
    assert_eq!(runtime.list_pods().unwrap().len(), 1);
}

#[test]
fn p_075_after_a_failed_start_everything_else_works() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a", "b", "c"])).unwrap();
    host.fail_nth("agent.start-container", 2, Failing::Refuses);
    assert_eq!(kind(runtime.start_pod("p")), ErrorKind::Backend);
    for id in ["a", "b", "c"] {
        runtime.status_container("p", id).unwrap();
    }
    assert_eq!(kind(runtime.start_pod("p")), ErrorKind::InvalidTransition);
    runtime.start_container("p", "c").unwrap();
    runtime.start_container("p", "b").unwrap();
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Running)));
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    crate::support::assert_clean(&host);
}
