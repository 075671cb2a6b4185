//! PausePod and ResumePod (pod contract, §7.8).

use hutch_runtime::spec::Command;
use hutch_runtime::{ErrorKind, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{finish, kind, new, pod_state, running, snapshot, state, states};

/// P-015.
#[test]
fn p_140_pause_holds_the_vcpus_and_resume_lets_them_run() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.pause_pod("p").unwrap();
    assert!(host.is_paused("p"));
    assert_eq!(pod_state(&runtime), State::Paused);
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Paused)));
    runtime.resume_pod("p").unwrap();
    assert!(!host.is_paused("p"));
    assert_eq!(pod_state(&runtime), State::Running);
    assert!(states(&runtime).iter().all(|(_, state)| *state == Some(State::Running)));
    finish(&host, &runtime);
}

#[test]
fn p_140_a_machine_that_refuses_changes_no_state() {
    let (host, runtime) = running(&["a"]);
    let before = snapshot(&host);
    host.fail("vm.pause", Failing::Refuses);
    assert_eq!(kind(runtime.pause_pod("p")), ErrorKind::Backend);
    assert_eq!(snapshot(&host), before);
    runtime.pause_pod("p").unwrap();
    let before = snapshot(&host);
    host.fail("vm.resume", Failing::Refuses);
    assert_eq!(kind(runtime.resume_pod("p")), ErrorKind::Backend);
    assert_eq!(snapshot(&host), before);
    finish(&host, &runtime);
}

#[test]
fn p_141_only_a_running_pod_is_paused_and_only_a_paused_one_resumed() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a"])).unwrap();
    host.calls();
    assert_eq!(kind(runtime.pause_pod("p")), ErrorKind::WrongState);
    assert_eq!(kind(runtime.resume_pod("p")), ErrorKind::WrongState);
    runtime.start_pod("p").unwrap();
    assert_eq!(kind(runtime.resume_pod("p")), ErrorKind::WrongState);
    runtime.pause_pod("p").unwrap();
    assert_eq!(kind(runtime.pause_pod("p")), ErrorKind::WrongState);
    runtime.stop_pod("p", Default::default()).unwrap();
    assert_eq!(kind(runtime.pause_pod("p")), ErrorKind::WrongState);
    assert_eq!(kind(runtime.resume_pod("p")), ErrorKind::WrongState);
    let calls = host.calls();
    assert_eq!(calls.iter().filter(|call| *call == "vm.pause").count(), 1, "{calls:?}");
    finish(&host, &runtime);
}

#[test]
fn p_142_resume_restores_what_each_container_was() {
    let (host, runtime) = running(&["a", "b"]);
    runtime.create_container("p", host.container("ready")).unwrap();
    runtime.kill_container("p", "b", 9, true).unwrap();
    runtime.stop_container("p", "b", Default::default()).unwrap();
    runtime.pause_pod("p").unwrap();
    assert_eq!(state(&runtime, "b"), Some(State::Stopped));
    runtime.resume_pod("p").unwrap();
    let expected = [("a", State::Running), ("b", State::Stopped), ("ready", State::Ready)];
    assert_eq!(states(&runtime), expected.map(|(id, state)| (id.to_owned(), Some(state))));
    runtime.start_container("p", "ready").unwrap();
    finish(&host, &runtime);
}

/// P-033: no container is created in it either.
#[test]
fn p_143_a_paused_pod_refuses_what_needs_its_guest() {
    let (host, runtime) = running(&["a"]);
    runtime.create_container("p", host.container("ready")).unwrap();
    runtime.pause_pod("p").unwrap();
    let before = snapshot(&host);
    host.calls();
    let command = Command { args: vec!["x".into()], ..Command::default() };
    assert_eq!(kind(runtime.exec_container("p", "a", &command, Default::default())), ErrorKind::WrongState);
    assert_eq!(kind(runtime.start_container("p", "ready")), ErrorKind::WrongState);
    assert_eq!(kind(runtime.list_processes("p", "a", &Default::default())), ErrorKind::WrongState);
    assert_eq!(kind(runtime.create_container("p", host.container("new"))), ErrorKind::WrongState);
    assert_eq!(kind(runtime.kill_container("p", "a", 15, false)), ErrorKind::WrongState);
    assert_eq!(kind(runtime.stats_container("p", "a")), ErrorKind::WrongState);
    assert_eq!(kind(runtime.update_container("p", "a", &Default::default())), ErrorKind::WrongState);
    assert_eq!(pod_state(&runtime), State::Paused);
    assert_eq!(runtime.list_pods().unwrap()[0].state, Some(State::Paused));
    assert_eq!(snapshot(&host), before);
    assert!(!host.calls().iter().any(|call| call.starts_with("agent.")));
    finish(&host, &runtime);
}

#[test]
fn p_144_a_paused_pod_is_not_taken_for_dead() {
    let (host, runtime) = running(&["a"]);
    runtime.pause_pod("p").unwrap();
    for _ in 0..3 {
        let status = runtime.status_pod("p").unwrap();
        assert_eq!((status.state, status.reason), (Some(State::Paused), None));
        assert_eq!(status.containers[0].state, Some(State::Paused));
    }
    assert_eq!(runtime.stats_pod("p").unwrap().containers.len(), 0, "the machine's own statistics only");
    runtime.resume_pod("p").unwrap();
    assert_eq!(state(&runtime, "a"), Some(State::Running));
    finish(&host, &runtime);
}

/// The machine is paused before that is on record. Wherever the record fails, the pod runs as its record says.
#[test]
fn p_140_a_pause_that_cannot_be_recorded_is_taken_back() {
    let points = {
        let (host, runtime) = running(&["a", "b"]);
        let _recording = hutch_runtime::fault::arm("", 1, hutch_runtime::fault::Action::Error);
        runtime.pause_pod("p").unwrap();
        drop(host);
        hutch_runtime::fault::passed()
    };
    let after = points.iter().position(|point| point == "vm.pause:after").expect("the pause itself");
    let mut failures = 0;
    for (number, name) in points.iter().enumerate().skip(after + 1) {
        let nth = points[..=number].iter().filter(|other| *other == name).count();
        let (host, runtime) = running(&["a", "b"]);
        {
            let _armed = hutch_runtime::fault::arm(name, nth, hutch_runtime::fault::Action::Error);
            runtime.pause_pod("p").unwrap_err();
        }
        failures += 1;
        assert!(!host.is_paused("p"), "{name}#{nth}");
        assert_eq!(pod_state(&runtime), State::Running, "{name}#{nth}");
        for container in ["a", "b"] {
            assert_eq!(state(&runtime, container), Some(State::Running), "{name}#{nth}");
        }
        runtime.pause_pod("p").unwrap();
        finish(&host, &runtime);
    }
    assert!(failures >= 9, "{points:?}");
}

/// A call was killed after the vCPUs were paused and before the pod's record said so. The next call, whichever it is, finds
/// a guest that answers: the fakes report every request to a paused guest.
#[test]
fn p_172_a_pause_that_was_cut_short_is_taken_back_by_the_next_call() {
    type Call = fn(&hutch_runtime::Runtime) -> hutch_runtime::Result<()>;
    let calls: [(&str, Call); 8] = [
        ("stop", |runtime| runtime.stop_pod("p", StopOptions { signal: Some(15), ..StopOptions::default() }).map(drop)),
        ("stop container", |runtime| {
            runtime.stop_container("p", "a", StopOptions { signal: Some(15), ..StopOptions::default() }).map(drop)
        }),
        ("kill", |runtime| runtime.kill_container("p", "a", 15, false)),
        ("exec", |runtime| {
            let command = Command { args: vec!["x".into()], ..Command::default() };
            runtime.exec_container("p", "a", &command, Default::default()).map(drop)
        }),
        ("ps", |runtime| runtime.list_processes("p", "a", &Default::default()).map(drop)),
        ("update", |runtime| runtime.update_container("p", "a", &Default::default())),
        ("pause", |runtime| runtime.pause_pod("p").map(drop)),
        ("resume", |runtime| match runtime.resume_pod("p") {
            Err(error) if error.kind() == ErrorKind::WrongState => Ok(()),
            other => other.map(drop),
        }),
    ];
    for (name, call) in calls {
        let (host, runtime) = running(&["a", "b"]);
        let record = |of: &str| host.dir().join("run/p").join(of).join("state.json");
        let before = std::fs::read_to_string(record("b")).unwrap();
        runtime.pause_pod("p").unwrap();
        // The first container's record was written, the second's and the pod's were not.
        std::fs::write(record("b"), before).unwrap();
        let pod = std::fs::read_to_string(record(".")).unwrap();
        let mut pod: serde_json::Value = serde_json::from_str(&pod).unwrap();
        pod["data"]["state"] = "running".into();
        pod["data"]["pausing"] = true.into();
        std::fs::write(record("."), pod.to_string()).unwrap();
        assert!(host.is_paused("p"));
        call(&runtime).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        assert_eq!(host.is_paused("p"), name == "pause", "{name}");
        assert_eq!(host.leaks().iter().filter(|leak| leak.contains("paused")).count(), 0, "{name}: {:?}", host.leaks());
        if name == "stop" {
            let exits = runtime.status_pod("p").unwrap().containers.into_iter().map(|c| c.exit.unwrap().signal);
            assert_eq!(exits.collect::<Vec<_>>(), [Some(15), Some(15)], "they got the signal, and time for it");
        }
        finish(&host, &runtime);
    }
}

/// The same, as a program left it that made no note of a pause: the machine is paused, all records say that it runs.
#[test]
fn p_083_a_machine_that_is_paused_against_its_record_is_stopped() {
    let (host, runtime) = running(&["a"]);
    let records = ["run/p/state.json", "run/p/a/state.json"].map(|name| host.dir().join(name));
    let before = records.clone().map(|path| std::fs::read(path).unwrap());
    runtime.pause_pod("p").unwrap();
    for (path, text) in records.iter().zip(before) {
        std::fs::write(path, text).unwrap();
    }
    runtime.stop_pod("p", StopOptions { signal: Some(15), ..StopOptions::default() }).unwrap();
    finish(&host, &runtime);
}
