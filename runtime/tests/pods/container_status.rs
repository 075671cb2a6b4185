//! StatusContainer and the reconciling stop (pod contract, §7.5).

use std::sync::Barrier;
use std::time::Duration;

use hutch_runtime::{ErrorKind, State};
use hutch_runtime_fakes::Failing;

use crate::support::{finish, kind, new, running, states};

#[test]
fn p_115_status_tells_id_state_pid_start_rootfs_and_annotations() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &["a"]);
    config.containers[0].annotations.insert("org.example.k".into(), "v".into());
    runtime.run_pod(config).unwrap();
    let status = runtime.status_container("p", "a").unwrap();
    assert_eq!((status.id.as_str(), status.state), ("a", Some(State::Running)));
    assert!(status.pid > 0 && status.started_at.is_some());
    assert_eq!(status.rootfs, host.dir().join("rootfs"));
    assert_eq!(status.annotations["org.example.k"], "v");
    assert_eq!(kind(runtime.status_container("q", "a")), ErrorKind::NoSuchPod);
    assert_eq!(kind(runtime.status_container("p", "x")), ErrorKind::NoSuchContainer);
    finish(&host, &runtime);
}

/// P-016, P-118: the answer is the state after the reconciling stop.
#[test]
fn p_116_a_container_whose_process_has_ended_is_stopped_by_the_status_call() {
    for case in ["ready", "running", "paused"] {
        let (host, runtime) = running(&[]);
        runtime.create_container("p", host.container("a")).unwrap();
        if case != "ready" {
            runtime.start_container("p", "a").unwrap();
        }
        host.guest("p", |guest| guest.exit("a", 1));
        if case == "paused" {
            runtime.pause_pod("p").unwrap();
        }
        let status = runtime.status_container("p", "a").unwrap();
        assert_eq!(status.state, Some(State::Stopped), "{case}");
        assert_eq!(status.exit.unwrap().code, Some(1), "{case}");
        assert!(host.mounts().is_empty(), "{case}: stopped as by a stop");
        finish(&host, &runtime);
    }
}

#[test]
fn p_117_a_reconciling_stop_that_fails_does_not_fail_the_status() {
    let (host, runtime) = running(&["a"]);
    host.guest("p", |guest| guest.exit("a", 1));
    host.fail("agent.remove-container", Failing::Refuses);
    assert_eq!(runtime.status_container("p", "a").unwrap().state, Some(State::Running));
    assert_eq!(runtime.status_container("p", "a").unwrap().state, Some(State::Stopped), "the next call tries again");
    finish(&host, &runtime);
}

#[test]
fn p_118_status_never_reports_a_running_container_that_has_ended() {
    let (host, runtime) = running(&["a"]);
    runtime.kill_container("p", "a", 9, true).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().containers[0].state, Some(State::Stopped));
    finish(&host, &runtime);
}

#[test]
fn p_119_all_ended_containers_are_stopped_by_one_call() {
    let (host, runtime) = running(&["a", "b", "c"]);
    host.guest("p", |guest| {
        guest.exit("a", 1);
        guest.exit("c", 3);
    });
    runtime.status_pod("p").unwrap();
    host.calls();
    let expected = [("a", State::Stopped), ("b", State::Running), ("c", State::Stopped)];
    assert_eq!(states(&runtime), expected.map(|(id, state)| (id.to_owned(), Some(state))));
    assert!(!host.calls().iter().any(|call| call.starts_with("agent.")), "it was done before");
    finish(&host, &runtime);
}

/// A broken container does not keep the others from being stopped.
#[test]
fn p_032_a_stop_that_fails_does_not_end_the_others() {
    let (host, runtime) = running(&["a", "b", "c"]);
    host.guest("p", |guest| ["a", "b", "c"].map(|id| guest.exit(id, 1)));
    host.fail("agent.remove-container", Failing::Refuses);
    let status = runtime.status_pod("p").unwrap();
    let states = status.containers.iter().map(|container| container.state).collect::<Vec<_>>();
    assert_eq!(states, [Some(State::Running), Some(State::Stopped), Some(State::Stopped)]);
    finish(&host, &runtime);
}

/// The status itself fails after it has begun them.
#[test]
fn p_032_a_status_that_fails_has_finished_the_reconciling_stops_it_began() {
    let (host, runtime) = running(&["a", "b"]);
    host.guest("p", |guest| ["a", "b"].map(|id| guest.exit(id, 1)));
    {
        // To look, to stop, to look again: the third lock.
        let _armed = hutch_runtime::fault::arm("lock.held", 3, hutch_runtime::fault::Action::Error);
        runtime.status_pod("p").unwrap_err();
    }
    for id in ["a", "b"] {
        let text = std::fs::read_to_string(host.dir().join("run/p").join(id).join("state.json")).unwrap();
        assert!(text.contains("stopped"), "{id}: {text}");
    }
    // A damaged record of one container: an error, and nothing half done.
    let (other, runtime) = running(&["a", "b"]);
    other.guest("p", |guest| guest.exit("a", 1));
    std::fs::write(other.dir().join("run/p/b/state.json"), "{").unwrap();
    assert_eq!(kind(runtime.status_pod("p")), ErrorKind::Store);
    let text = std::fs::read_to_string(other.dir().join("run/p/a/state.json")).unwrap();
    assert!(text.contains("running"), "{text}");
    finish(&host, &host.runtime());
}

/// P-024: neither waits for the other for ever.
#[test]
fn p_024_two_status_calls_that_both_find_a_dead_process_both_finish() {
    for _ in 0..20 {
        let (host, runtime) = running(&["a"]);
        host.guest("p", |guest| guest.exit("a", 1));
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let runtime = host.runtime();
                    barrier.wait();
                    assert_eq!(runtime.status_pod("p").unwrap().containers[0].state, Some(State::Stopped));
                });
            }
        });
        let removed = host.calls().iter().filter(|call| call.starts_with("agent.remove-container")).count();
        assert_eq!(removed, 1, "P-025: stopped once");
        finish(&host, &runtime);
    }
}

/// The gap between the two locks of a reconciling stop is forced in `crash/deaths.rs`. Here: many of them, beside calls that
/// change everything.
#[test]
fn p_018_a_status_beside_other_calls_finds_a_pod_or_none() {
    // Deleted meanwhile: nothing is written into the directory of a pod that is gone.
    let (host, runtime) = running(&["a"]);
    host.guest("p", |guest| guest.exit("a", 1));
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let status = scope.spawn(|| {
            barrier.wait();
            for _ in 0..50 {
                match host.runtime().status_pod("p") {
                    Ok(status) => assert_ne!(status.containers.first().and_then(|c| c.state), Some(State::Paused)),
                    Err(e) => assert!(e.is_not_found(), "{e}"),
                }
            }
        });
        barrier.wait();
        for _ in 0..10 {
            let _ = runtime.stop_pod("p", Default::default());
            let _ = runtime.delete_pod("p", Default::default());
            runtime.run_pod(host.pod("p", &["a"])).unwrap();
            host.guest("p", |guest| guest.exit("a", 1));
        }
        status.join().unwrap();
    });
    finish(&host, &runtime);
    // Restarted meanwhile: the new process is not stopped for the old one's death.
    let (host, runtime) = running(&["a"]);
    let old = runtime.status_container("p", "a").unwrap().pid;
    host.guest("p", |guest| guest.exit("a", 1));
    runtime.status_pod("p").unwrap();
    runtime.start_container("p", "a").unwrap();
    host.kill_shim(old);
    assert_eq!(runtime.status_container("p", "a").unwrap().state, Some(State::Running));
    finish(&host, &runtime);
}

/// A machine that dies is noticed by the next look, with a reason, and the pod can be ended.
#[test]
fn p_116_a_dead_machine_is_noticed_and_recorded() {
    let (host, runtime) = running(&["a", "b"]);
    host.kill_vm("p");
    let status = runtime.status_pod("p").unwrap();
    assert!(status.reason.as_deref().is_some_and(|reason| reason.contains("ended unexpectedly")), "{status:?}");
    assert!(status.containers.iter().all(|container| container.state == Some(State::Stopped)), "{status:?}");
    let exit = status.containers[0].exit.clone().unwrap();
    assert_eq!((exit.code, exit.signal, exit.shell_code()), (None, None, 255));
    assert!(host.dir().join("run/p/failure.json").exists());
    assert_eq!(runtime.list_pods().unwrap().len(), 1);
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    crate::support::assert_clean(&host);
}

/// Without a shim only the records say whether a container has ended. A wait for it waits, instead of returning at once
/// to a caller that would ask again at once.
#[test]
fn a_wait_for_a_container_without_shim_takes_its_time() {
    let (host, runtime) = crate::support::new();
    let mut config = host.pod("p", &["a"]);
    config.shim.kind = hutch_runtime::spec::ShimKind::None;
    runtime.run_pod(config).unwrap();
    let timeout = Duration::from_millis(60);
    let begun = std::time::Instant::now();
    assert!(runtime.wait_container("p", "a", timeout).unwrap().is_none());
    assert!(begun.elapsed() >= timeout);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| host.runtime().wait_container("p", "a", Duration::from_secs(60)).unwrap());
        runtime.stop_container("p", "a", hutch_runtime::StopOptions::forced()).unwrap();
        assert!(waiter.join().unwrap().is_some());
    });
    finish(&host, &runtime);
}
