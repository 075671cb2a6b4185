//! §9 of the pod contract: no destructive clean-up on failure. Every point of the four verbs, every outcome, and always
//! a way out.

use hutch_runtime::{fault, ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::FakeHost;

use crate::support::{assert_clean, running};

type Verb = fn(&Runtime) -> hutch_runtime::Result<()>;

/// The four verbs, each on a pod prepared for it.
const VERBS: [(&str, Verb); 5] = [
    ("start container", |runtime| runtime.start_container("p", "b").map(drop)),
    ("stop container", |runtime| runtime.stop_container("p", "a", Default::default()).map(drop)),
    ("start pod", |runtime| runtime.start_pod("p").map(drop)),
    ("stop pod", |runtime| runtime.stop_pod("p", Default::default()).map(drop)),
    ("start stopped pod", |runtime| runtime.start_pod("p").map(drop)),
];

fn prepared(verb: &str) -> (FakeHost, Runtime) {
    match verb {
        "start pod" => {
            let (host, runtime) = crate::support::new();
            runtime.create_pod(host.pod("p", &["a", "b"])).unwrap();
            (host, runtime)
        }
        "start stopped pod" => {
            let (host, runtime) = running(&["a", "b"]);
            runtime.stop_pod("p", StopOptions::forced()).unwrap();
            (host, runtime)
        }
        _ => {
            let (host, runtime) = running(&["a"]);
            runtime.create_container("p", host.container("b")).unwrap();
            (host, runtime)
        }
    }
}

/// P-170 nothing is deleted; P-171 everything is shown; P-172 there is a way out; P-173 the call can be repeated.
#[test]
fn p_170_a_failure_at_any_point_of_the_four_verbs_deletes_nothing_and_leaves_a_way_out() {
    let mut cases = 0;
    for (name, verb) in VERBS {
        let points = {
            let (_world, runtime) = prepared(name);
            let _recording = fault::arm("", 1, fault::Action::Error);
            verb(&runtime).unwrap();
            fault::passed()
        };
        for (number, point) in points.iter().enumerate() {
            let nth = points[..=number].iter().filter(|other| *other == point).count();
            let (host, runtime) = prepared(name);
            let ids = shown(&runtime);
            let result = {
                let _armed = fault::arm(point, nth, fault::Action::Error);
                verb(&runtime)
            };
            cases += 1;
            let case = format!("{name}: {point}#{nth}: {result:?}");
            assert_eq!(shown(&runtime), ids, "{case}");
            assert_eq!(runtime.list_pods().unwrap()[0].containers.len(), ids.len(), "{case}");
            for id in &ids {
                runtime.status_container("p", id).unwrap_or_else(|e| panic!("{case}: {e}"));
            }
            if result.is_err() && number % 2 == 0 {
                // Repeated: succeeds, or the state has moved on and says so.
                if let Err(error) = verb(&runtime) {
                    let kind = error.kind();
                    assert!(matches!(kind, ErrorKind::InvalidTransition | ErrorKind::WrongState), "{case}: {error}");
                }
            }
            leave(&runtime, &case);
            assert_clean(&host);
        }
    }
    println!("{cases} failing points of start and stop");
    assert!(cases > 100, "{cases}");
}

fn shown(runtime: &Runtime) -> Vec<String> {
    runtime.status_pod("p").unwrap().containers.into_iter().map(|container| container.id).collect()
}

/// A finite sequence of stops and deletes that ends with nothing.
fn leave(runtime: &Runtime, case: &str) {
    for id in shown(runtime) {
        let _ = runtime.stop_container("p", &id, StopOptions::forced());
        let _ = runtime.delete_container("p", &id);
    }
    runtime.stop_pod("p", StopOptions::forced()).unwrap_or_else(|e| panic!("{case}: {}", e.chain()));
    runtime.delete_pod("p", Default::default()).unwrap_or_else(|e| panic!("{case}: {}", e.chain()));
}

#[test]
fn p_172_there_is_a_way_out_with_a_dead_guest_too() {
    for case in ["dead machine", "hung agent"] {
        let (host, runtime) = running(&["a", "b"]);
        match case {
            "dead machine" => host.kill_vm("p"),
            _ => host.guest("p", |guest| guest.hangs = true),
        }
        leave(&runtime, case);
        assert_clean(&host);
    }
}

/// The rows of the table in §9 of the pod contract that are about states.
#[test]
fn p_174_delete_after_a_failed_start_is_direct_and_after_a_failed_stop_refused() {
    use hutch_runtime_fakes::Failing;
    let (host, runtime) = running(&["a"]);
    runtime.create_container("p", host.container("b")).unwrap();
    host.fail("agent.start-container", Failing::Refuses);
    assert!(runtime.start_container("p", "b").is_err());
    runtime.delete_container("p", "b").unwrap();
    host.fail("agent.kill-container", Failing::Refuses);
    assert!(runtime.stop_container("p", "a", StopOptions::without_signal()).is_err());
    assert_eq!(runtime.delete_container("p", "a").unwrap_err().kind(), ErrorKind::WrongState);
    assert_eq!(runtime.delete_pod("p", Default::default()).unwrap_err().kind(), ErrorKind::WrongState);
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    runtime.delete_container("p", "a").unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().state, Some(State::Running));
    crate::support::finish(&host, &runtime);
}

/// Pause and resume cut short: retried or stopped.
#[test]
fn p_175_a_pause_or_resume_that_was_cut_short_can_be_repeated_or_stopped() {
    for verb in ["pause", "resume"] {
        let call = |runtime: &Runtime| match verb {
            "pause" => runtime.pause_pod("p").map(drop),
            _ => runtime.resume_pod("p").map(drop),
        };
        let prepare = || {
            let (host, runtime) = running(&["a", "b"]);
            if verb == "resume" {
                runtime.pause_pod("p").unwrap();
            }
            (host, runtime)
        };
        let points = {
            let (_world, runtime) = prepare();
            let _recording = fault::arm("", 1, fault::Action::Error);
            call(&runtime).unwrap();
            fault::passed()
        };
        for (number, point) in points.iter().enumerate() {
            let nth = points[..=number].iter().filter(|other| *other == point).count();
            let (host, runtime) = prepare();
            let result = {
                let _armed = fault::arm(point, nth, fault::Action::Error);
                call(&runtime)
            };
            if result.is_err() {
                match call(&runtime) {
                    Ok(()) => {
                        let expected = if verb == "pause" { State::Paused } else { State::Running };
                        assert!(crate::support::states(&runtime).iter().all(|(_, state)| *state == Some(expected)));
                    }
                    // The last write was done.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WrongState, "{verb} {point}#{nth}"),
                }
            }
            runtime.stop_pod("p", Default::default()).unwrap_or_else(|e| panic!("{verb} {point}#{nth}: {}", e.chain()));
            runtime.delete_pod("p", Default::default()).unwrap();
            assert_clean(&host);
        }
    }
}
