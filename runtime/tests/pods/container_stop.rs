//! StopContainer (pod contract, §7.4).

use std::time::{Duration, Instant};

use hutch_runtime::{ErrorKind, Options, Runtime, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{finish, kind, new, running, state};

/// State in the record, without the reconciling stop of a status call.
fn recorded(host: &hutch_runtime_fakes::FakeHost, id: &str) -> String {
    let text = std::fs::read_to_string(host.dir().join("run/p").join(id).join("state.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["data"]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn p_106_stopping_a_stopped_container_does_nothing_in_any_pod() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    host.calls();
    runtime.stop_container("p", "a", Default::default()).unwrap();
    runtime.pause_pod("p").unwrap();
    runtime.stop_container("p", "a", Default::default()).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.stop_container("p", "a", Default::default()).unwrap();
    let calls = host.calls();
    assert!(!calls.iter().any(|call| call.starts_with("agent.") && call.ends_with(" a")), "{calls:?}");
    finish(&host, &runtime);
}

/// P-083.
#[test]
fn p_107_a_container_in_a_paused_pod_can_be_stopped() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.pause_pod("p").unwrap();
    runtime.stop_container("p", "a", Default::default()).unwrap();
    assert_eq!((state(&runtime, "a"), state(&runtime, "b")), (Some(State::Stopped), Some(State::Paused)));
    assert!(host.is_paused("p"), "its pod stays paused");
    runtime.resume_pod("p").unwrap();
    assert_eq!((state(&runtime, "a"), state(&runtime, "b")), (Some(State::Stopped), Some(State::Running)));
    finish(&host, &runtime);
}

#[test]
fn p_108_no_signal_is_sent_before_the_wait_is_over() {
    let (host, runtime) = new();
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    host.calls();
    let start = Instant::now();
    runtime.stop_container("p", "a", StopOptions::without_signal()).unwrap();
    assert!(start.elapsed() >= host.options().stop_timeout);
    let calls = host.calls();
    let wait = calls.iter().position(|call| call == "shim.wait-end").unwrap();
    let kill = calls.iter().position(|call| call.starts_with("agent.kill-container")).unwrap();
    assert!(wait < kill, "{calls:?}");
    assert_eq!(calls[kill], "agent.kill-container a 9 all");
    assert_eq!(runtime.status_container("p", "a").unwrap().exit.unwrap().signal, Some(9));
    finish(&host, &runtime);
}

#[test]
fn p_108_a_process_that_has_ended_is_not_waited_for() {
    let (host, _) = running(&["a"]);
    // It would be waited for until the test runs out of time.
    let options = Options { stop_timeout: Duration::from_secs(1_000_000), ..host.options() };
    let runtime = Runtime::new(host.store(), host.backends(), options);
    runtime.kill_container("p", "a", 15, false).unwrap();
    runtime.stop_container("p", "a", Default::default()).unwrap();
    assert_eq!(runtime.status_container("p", "a").unwrap().exit.unwrap().signal, Some(15));
    finish(&host, &runtime);
}

#[test]
fn p_109_a_guest_process_without_shim_is_killed_before_it_is_removed() {
    let (host, runtime) = running(&["a"]);
    let pid = runtime.status_container("p", "a").unwrap().pid;
    host.kill_shim(pid);
    host.calls();
    runtime.stop_container("p", "a", StopOptions::without_signal()).unwrap();
    let calls = host.calls();
    let kill = calls.iter().position(|call| call.starts_with("agent.kill-container a 9")).unwrap();
    let remove = calls.iter().position(|call| call == "agent.remove-container a").unwrap();
    assert!(kill < remove, "{calls:?}");
    let exit = runtime.status_container("p", "a").unwrap().exit.unwrap();
    assert_eq!(exit.signal, Some(9), "the guest reports how it ended");
    finish(&host, &runtime);
}

/// P-170, P-171, P-173, P-174: nothing is deleted, the state stays, status works, the call can be repeated.
#[test]
fn p_110_a_failed_stop_leaves_everything_as_it_was() {
    for call in ["agent.kill-container", "agent.remove-container", "mounts.unbind"] {
        let (host, runtime) = running(&["a", "b"]);
        host.fail(call, Failing::Refuses);
        assert_eq!(kind(runtime.stop_container("p", "a", StopOptions::without_signal())), ErrorKind::Backend, "{call}");
        assert_eq!(recorded(&host, "a"), "running", "{call}");
        assert_eq!(kind(runtime.delete_container("p", "a")), ErrorKind::WrongState, "{call}");
        runtime.status_pod("p").unwrap();
        runtime.stop_container("p", "a", StopOptions::without_signal()).unwrap();
        assert_eq!(state(&runtime, "b"), Some(State::Running), "{call}");
        runtime.delete_container("p", "a").unwrap();
        finish(&host, &runtime);
    }
}

#[test]
fn p_110_a_process_that_survives_sigkill_fails_the_stop_with_a_timeout() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &[]);
    config.containers = vec![host.container_with("a", &["undead"])];
    runtime.run_pod(config).unwrap();
    let start = Instant::now();
    assert_eq!(kind(runtime.stop_container("p", "a", Default::default())), ErrorKind::Timeout);
    assert!(start.elapsed() >= host.options().stop_timeout + host.options().kill_timeout, "two full waits");
    assert_eq!(recorded(&host, "a"), "running");
    assert!(host.shim("a").is_none(), "whatever the outcome, its shim is dead");
    finish(&host, &runtime);
}

#[test]
fn p_111_stopped_is_recorded_only_when_the_hosts_side_is_released() {
    let (host, runtime) = running(&["a"]);
    host.fail_always("mounts.unbind", Failing::Refuses);
    assert_eq!(kind(runtime.stop_container("p", "a", StopOptions::forced())), ErrorKind::Backend);
    assert_eq!(recorded(&host, "a"), "running", "not even by force");
    assert_eq!(host.mounts().len(), 1);
    host.heal();
    // Force ignores the guest, and nothing else.
    host.fail_always("agent.connect", Failing::Refuses);
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    assert_eq!(recorded(&host, "a"), "stopped");
    assert!(host.mounts().is_empty());
    finish(&host, &runtime);
}

#[test]
fn p_111_without_force_a_guest_that_does_not_answer_fails_the_stop() {
    let (host, runtime) = running(&["a"]);
    host.guest("p", |guest| guest.hangs = true);
    assert_eq!(kind(runtime.stop_container("p", "a", StopOptions::without_signal())), ErrorKind::Timeout);
    assert_eq!(recorded(&host, "a"), "running");
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    assert_eq!(recorded(&host, "a"), "stopped");
    finish(&host, &runtime);
}

#[test]
fn p_112_the_exit_status_stays_until_deletion() {
    let (host, runtime) = running(&["a", "b", "c"]);
    host.guest("p", |guest| guest.exit("a", 7));
    runtime.kill_container("p", "b", 15, false).unwrap();
    host.guest("p", |guest| guest.out_of_memory("c"));
    for _ in 0..2 {
        let status = host.runtime().status_pod("p").unwrap();
        let exits: Vec<_> = status.containers.iter().map(|c| c.exit.clone().unwrap()).collect();
        assert_eq!(exits[0].code, Some(7));
        assert_eq!((exits[1].signal, exits[1].shell_code()), (Some(15), 143));
        assert_eq!(exits[2].signal, Some(9));
        assert!(status.containers[2].oom_killed && !status.containers[0].oom_killed);
    }
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(runtime.status_container("p", "a").unwrap().exit.unwrap().code, Some(7));
    finish(&host, &runtime);
}

#[test]
fn p_113_a_recorded_pid_that_names_a_group_is_never_used() {
    let (host, runtime) = running(&["a"]);
    let path = host.dir().join("run/p/a/process.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    for pid in [0, -1] {
        record["data"]["pid"] = pid.into();
        std::fs::write(&path, record.to_string()).unwrap();
        host.calls();
        assert_eq!(state(&runtime, "a"), Some(State::Running), "there is no shim that could be dead");
        assert!(!host.calls().iter().any(|call| call.starts_with("shim.")));
    }
    runtime.stop_container("p", "a", Default::default()).unwrap();
    assert!(!host.calls().iter().any(|call| call.starts_with("shim.")));
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
}
