//! StopPod (pod contract, §6.3).

use std::time::{Duration, Instant};

use hutch_runtime::{ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::{Failing, FakeHost};

use crate::support::{finish, kind, pod_state, running, state, states};

#[test]
fn p_081_the_first_failure_ends_the_stop_and_nothing_is_undone() {
    let (host, runtime) = running(&["a", "b", "c"]);
    for id in ["a", "b", "c"] {
        runtime.kill_container("p", id, 9, true).unwrap();
    }
    host.fail_nth("agent.remove-container", 2, Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    // Read from the records: a status would stop the rest by itself, since their processes have ended.
    let read = |id: &str| -> String {
        let text = std::fs::read_to_string(host.dir().join("run/p").join(id).join("state.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["data"]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!([read("a"), read("b"), read("c")], ["stopped", "running", "running"]);
    assert_eq!(read("."), "running");
    // P-082: the second call goes on from there.
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(pod_state(&runtime), State::Stopped);
    finish(&host, &runtime);
}

#[test]
fn p_082_status_works_after_a_failed_stop() {
    let (host, runtime) = running(&["a"]);
    host.fail("agent.kill-container", Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", StopOptions::without_signal())), ErrorKind::Backend);
    assert_eq!(pod_state(&runtime), State::Running);
    runtime.stop_pod("p", Default::default()).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_083_a_paused_pod_can_be_stopped() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.pause_pod("p").unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Stopped)));
    assert!(host.calls().iter().any(|call| call == "vm.resume"));
    finish(&host, &runtime);
}

#[test]
fn p_083_a_paused_machine_that_does_not_resume_is_killed() {
    let (host, runtime) = running(&["a"]);
    runtime.pause_pod("p").unwrap();
    host.fail_always("vm.resume", Failing::Refuses);
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!((pod_state(&runtime), state(&runtime, "a")), (State::Stopped, Some(State::Stopped)));
    finish(&host, &runtime);
}

#[test]
fn p_084_stopping_a_stopped_pod_succeeds() {
    let (host, runtime) = running(&["a"]);
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(pod_state(&runtime), State::Stopped);
    finish(&host, &runtime);
}

/// Dead machine, hung agent, lost channel: the stop succeeds and nothing is left on the host.
#[test]
fn p_085_a_dead_or_deaf_guest_does_not_keep_the_pod_from_being_stopped() {
    for case in ["machine dead", "agent hangs", "channel lost", "agent hangs, forced"] {
        let (host, runtime) = running(&["a", "b"]);
        match case {
            "machine dead" => host.kill_vm("p"),
            "channel lost" => host.fail_always("agent.connect", Failing::Lost),
            _ => host.guest("p", |guest| guest.hangs = true),
        }
        runtime
            .stop_pod("p", StopOptions { force: case.contains("forced"), signal: None })
            .unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(pod_state(&runtime), State::Stopped, "{case}");
        assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Stopped)), "{case}");
        let left: Vec<String> = host.leaks().into_iter().filter(|leak| !leak.starts_with("file ")).collect();
        assert!(left.is_empty(), "{case}: {left:?}");
        finish(&host, &runtime);
    }
}

#[test]
fn p_085_a_refusal_of_the_guest_fails_a_stop_unless_it_is_forced() {
    let (host, runtime) = running(&["a"]);
    host.fail_always("agent.remove-container", Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    finish(&host, &runtime);
}

/// Without a signal the stop only waits (P-108).
#[test]
fn p_108_a_stop_begins_with_the_signal_that_the_caller_names() {
    let signals = |host: &FakeHost| {
        let calls = host.calls();
        calls
            .into_iter()
            .filter(|call| call.starts_with("agent.kill-container") && !call.contains(" 9"))
            .collect::<Vec<_>>()
    };
    let ends = |runtime: &Runtime| {
        let containers = runtime.status_pod("p").unwrap().containers;
        containers.into_iter().map(|container| container.exit.unwrap().signal).collect::<Vec<_>>()
    };
    let term = StopOptions::default();
    assert_eq!(term.signal, Some(libc::SIGTERM), "as of the commands");
    for (options, sent, end) in [
        (term, vec!["agent.kill-container a 15", "agent.kill-container b 15"], libc::SIGTERM),
        (StopOptions::without_signal(), vec![], libc::SIGKILL),
        (StopOptions { force: true, ..term }, vec![], libc::SIGKILL),
    ] {
        let (host, runtime) = running(&["a", "b"]);
        runtime.stop_pod("p", options).unwrap();
        assert_eq!(
            (signals(&host), ends(&runtime)),
            (sent.iter().map(|s| s.to_string()).collect(), vec![Some(end); 2])
        );
        finish(&host, &runtime);
    }
    let (host, runtime) = running(&["a", "b"]);
    runtime.stop_container("p", "b", term).unwrap();
    assert_eq!(signals(&host), ["agent.kill-container b 15"]);
    // A guest that refuses the signal does not keep the pod from being stopped.
    host.fail("agent.kill-container", Failing::Refuses);
    runtime.stop_pod("p", term).unwrap();
    assert_eq!(ends(&runtime), [Some(libc::SIGKILL), Some(libc::SIGTERM)]);
    assert_eq!(kind(runtime.stop_pod("p", StopOptions { signal: Some(65), ..term })), ErrorKind::InvalidConfig);
    finish(&host, &runtime);
    let (host, runtime) = running(&["a"]);
    runtime.pause_pod("p").unwrap();
    runtime.stop_pod("p", term).unwrap();
    assert!(signals(&host).is_empty(), "the processes of a paused pod cannot end by themselves");
    finish(&host, &runtime);
}

/// P-205: a call does not ask a guest again that did not answer.
#[test]
fn p_205_a_lost_guest_is_asked_once() {
    let (host, runtime) = running(&["a", "b", "c"]);
    host.fail_always("agent.connect", Failing::TimesOut);
    runtime.stop_pod("p", Default::default()).unwrap();
    let asked = host.calls().iter().filter(|call| call.starts_with("agent.connect")).count();
    assert_eq!(asked, 1);
    finish(&host, &runtime);
}

/// A ready pod has nothing to wait for: none of the waits has the bound that processes get to end by themselves.
#[test]
fn p_080_a_ready_pod_is_stopped_at_once() {
    let host = FakeHost::new();
    let options = hutch_runtime::Options { stop_timeout: Duration::from_secs(3600), ..host.options() };
    let runtime = Runtime::new(host.store(), host.backends(), options.clone());
    runtime.create_pod(host.pod("p", &["a", "b"])).unwrap();
    host.shim_waits();
    runtime.stop_pod("p", Default::default()).unwrap();
    let waits = host.shim_waits();
    assert!(waits.iter().all(|wait| *wait <= options.kill_timeout), "{waits:?}");
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Stopped)));
    finish(&host, &runtime);
}

/// One wait serves all containers of a pod: the first takes the time of all, the others are only looked at.
#[test]
fn p_108_containers_of_a_pod_share_one_wait() {
    let (host, runtime) = running(&["a", "b", "c", "d"]);
    let start = Instant::now();
    host.shim_waits();
    runtime.stop_pod("p", StopOptions::without_signal()).unwrap();
    let options = host.options();
    assert!(start.elapsed() >= options.stop_timeout);
    // The waits after the kill have a bound of their own.
    let mut waits = host.shim_waits();
    waits.retain(|wait| *wait != options.kill_timeout);
    assert_eq!(waits.len(), 4, "{waits:?}");
    assert!(!waits[0].is_zero() && waits[0] <= options.stop_timeout, "{waits:?}");
    assert!(waits[1..].iter().all(Duration::is_zero), "{waits:?}");
    finish(&host, &runtime);
}

/// A caller's "for ever" must not end the caller: additions to the clock overflow.
#[test]
fn bounds_without_end_are_bounds_like_others() {
    let (host, _) = running(&[]);
    let ever = Duration::MAX;
    let options = hutch_runtime::Options {
        lock_timeout: ever,
        list_lock_timeout: ever,
        boot_timeout: ever,
        stop_timeout: ever,
        agent_timeout: ever,
        power_off_timeout: ever,
        kill_timeout: ever,
        ..host.options()
    };
    let runtime = hutch_runtime::Runtime::new(host.store(), host.backends(), options);
    runtime.create_container("p", host.container("a")).unwrap();
    runtime.start_container("p", "a").unwrap();
    let mut events = runtime.events("p").unwrap();
    host.guest("p", |guest| guest.out_of_memory("a"));
    assert!(events.next(ever).unwrap().is_some());
    runtime.stop_container("p", "a", StopOptions::default()).unwrap();
    assert!(runtime.wait_container("p", "a", ever).unwrap().is_some());
    runtime.list_pods().unwrap();
    runtime.stop_pod("p", StopOptions::default()).unwrap();
    runtime.wait_pod("p", ever).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    finish(&host, &runtime);
}

/// The machine gets the time of the options to power off, then it is killed.
#[test]
fn p_080_a_guest_that_does_not_power_off_is_killed_after_the_time_it_was_given() {
    let host = FakeHost::new();
    let timeout = Duration::from_millis(70);
    let options = hutch_runtime::Options { power_off_timeout: timeout, ..host.options() };
    let runtime = Runtime::new(host.store(), host.backends(), options);
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    host.guest("p", |guest| guest.stays_on = true);
    host.calls();
    let start = Instant::now();
    runtime.stop_pod("p", StopOptions::forced()).unwrap();
    assert!(start.elapsed() >= timeout);
    let calls = host.calls();
    let at = |name: &str| calls.iter().position(|call| call == name).unwrap_or_else(|| panic!("{name}: {calls:?}"));
    assert!(at("agent.power-off") < at("vm.wait-end 70 ms") && at("vm.wait-end 70 ms") < at("vm.kill"), "{calls:?}");
    finish(&host, &runtime);
}
