//! StopPod (§6.3).

use std::time::{Duration, Instant};

use hutch_runtime::{ErrorKind, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{finish, kind, new, pod_state, running, state, states};

#[test]
fn p_081_the_first_failure_ends_the_stop_and_nothing_is_undone() {
    let (world, runtime) = running(&["a", "b", "c"]);
    for id in ["a", "b", "c"] {
        runtime.kill_container("p", id, 9, true).unwrap();
    }
    world.fail_nth("agent.remove-container", 2, Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    // Read from the records: a status would stop the rest by itself, since their processes have ended.
    let read = |id: &str| -> String {
        let text = std::fs::read_to_string(world.dir().join("run/p").join(id).join("state.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["data"]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!([read("a"), read("b"), read("c")], ["stopped", "running", "running"]);
    assert_eq!(read("."), "running");
    // P-082: the second call goes on from there.
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(pod_state(&runtime), State::Stopped);
    finish(&world, &runtime);
}

#[test]
fn p_082_status_works_after_a_failed_stop() {
    let (world, runtime) = running(&["a"]);
    world.fail("agent.kill-container", Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    assert_eq!(pod_state(&runtime), State::Running);
    runtime.stop_pod("p", Default::default()).unwrap();
    finish(&world, &runtime);
}

#[test]
fn p_083_a_paused_pod_can_be_stopped() {
    let (world, runtime) = running(&["a", "b"]);
    runtime.pause_pod("p").unwrap();
    let start = Instant::now();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Stopped)));
    assert!(world.calls().iter().any(|call| call == "vm.resume"));
    finish(&world, &runtime);
}

#[test]
fn p_083_a_paused_machine_that_does_not_resume_is_killed() {
    let (world, runtime) = running(&["a"]);
    runtime.pause_pod("p").unwrap();
    world.fail_always("vm.resume", Failing::Refuses);
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!((pod_state(&runtime), state(&runtime, "a")), (State::Stopped, Some(State::Stopped)));
    finish(&world, &runtime);
}

#[test]
fn p_084_stopping_a_stopped_pod_succeeds() {
    let (world, runtime) = running(&["a"]);
    runtime.stop_pod("p", StopOptions { force: true }).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(pod_state(&runtime), State::Stopped);
    finish(&world, &runtime);
}

/// Dead machine, hung agent, lost channel: the stop succeeds, soon, and nothing is left on the host.
#[test]
fn p_085_a_dead_or_deaf_guest_does_not_keep_the_pod_from_being_stopped() {
    for case in ["machine dead", "agent hangs", "channel lost", "agent hangs, forced"] {
        let (world, runtime) = running(&["a", "b"]);
        match case {
            "machine dead" => world.kill_vm("p"),
            "channel lost" => world.fail_always("agent.connect", Failing::Lost),
            _ => world.guest("p", |guest| guest.hangs = true),
        }
        let start = Instant::now();
        runtime.stop_pod("p", StopOptions { force: case.contains("forced") }).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(start.elapsed() < Duration::from_secs(2), "{case}");
        assert_eq!(pod_state(&runtime), State::Stopped, "{case}");
        assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Stopped)), "{case}");
        let left: Vec<String> = world.leaks().into_iter().filter(|leak| !leak.starts_with("file ")).collect();
        assert!(left.is_empty(), "{case}: {left:?}");
        finish(&world, &runtime);
    }
}

#[test]
fn p_085_a_refusal_of_the_guest_fails_a_stop_unless_it_is_forced() {
    let (world, runtime) = running(&["a"]);
    world.fail_always("agent.remove-container", Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    runtime.stop_pod("p", StopOptions { force: true }).unwrap();
    finish(&world, &runtime);
}

/// P-205: once the guest was found not to answer, nobody asks it again in the same call.
#[test]
fn p_205_a_lost_guest_is_asked_once() {
    let (world, runtime) = running(&["a", "b", "c"]);
    world.fail_always("agent.connect", Failing::TimesOut);
    runtime.stop_pod("p", Default::default()).unwrap();
    let asked = world.calls().iter().filter(|call| call.starts_with("agent.connect")).count();
    assert_eq!(asked, 1);
    finish(&world, &runtime);
}

/// A ready pod has nothing to wait for.
#[test]
fn p_080_a_ready_pod_is_stopped_at_once() {
    let (world, runtime) = new();
    runtime.create_pod(world.pod("p", &["a", "b"])).unwrap();
    world.calls();
    runtime.stop_pod("p", Default::default()).unwrap();
    assert!(!world.calls().iter().any(|call| call.starts_with("vm.wait-end") && call.contains("timeout")));
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Stopped)));
    finish(&world, &runtime);
}

/// One wait serves all containers of a pod.
#[test]
fn p_108_containers_of_a_pod_share_one_wait() {
    let (world, runtime) = running(&["a", "b", "c", "d"]);
    let start = Instant::now();
    runtime.stop_pod("p", Default::default()).unwrap();
    // Four waits of 40 ms one after the other would take 160.
    assert!(start.elapsed() >= world.options().stop_timeout);
    finish(&world, &runtime);
}
