//! KillContainer (pod contract, §7.7).

use hutch_runtime::spec::Command;
use hutch_runtime::{ErrorKind, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{finish, kind, new, running, snapshot, state};

#[test]
fn p_130_a_signal_reaches_init_or_every_process_and_changes_no_state() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &[]);
    config.containers = vec![host.container_with("a", &["deaf"])];
    runtime.run_pod(config).unwrap();
    let command = Command { args: vec!["deaf".into()], ..Command::default() };
    let (_, _, exec) = runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    let before = snapshot(&host);
    runtime.kill_container("p", "a", 10, false).unwrap();
    runtime.kill_container("p", "a", 12, true).unwrap();
    assert_eq!(snapshot(&host), before);
    host.guest("p", |guest| {
        let init = guest.init("a").unwrap();
        assert_eq!(guest.signals(&init), [10, 12]);
        assert_eq!(guest.signals(&exec.token), [12]);
    });
    finish(&host, &runtime);
}

#[test]
fn p_131_a_container_that_was_not_started_gets_the_signal() {
    let (host, runtime) = running(&[]);
    runtime.create_container("p", host.container("a")).unwrap();
    runtime.kill_container("p", "a", 15, false).unwrap();
    assert_eq!(state(&runtime, "a"), Some(State::Stopped));
    assert_eq!(runtime.status_container("p", "a").unwrap().exit.unwrap().signal, Some(15));
    finish(&host, &runtime);
}

#[test]
fn p_132_sigterm_stays_sigterm() {
    let (host, runtime) = new();
    let mut config = host.pod("p", &[]);
    config.containers = vec![host.container_with("a", &["deaf"])];
    runtime.run_pod(config).unwrap();
    runtime.kill_container("p", "a", 15, false).unwrap();
    assert_eq!(state(&runtime, "a"), Some(State::Running));
    host.guest("p", |guest| {
        let init = guest.init("a").unwrap();
        assert_eq!(guest.signals(&init), [15]);
    });
    finish(&host, &runtime);
}

#[test]
fn p_133_sigkill_never_fails_once_the_container_was_found() {
    // Dead machine, hung guest, refusing guest, paused pod.
    for case in ["dead", "hung", "refusing", "paused", "paused and stuck"] {
        let (host, runtime) = running(&["a"]);
        match case {
            "dead" => host.kill_vm("p"),
            "hung" => host.guest("p", |guest| guest.hangs = true),
            "refusing" => host.fail_always("agent.kill-container", Failing::Refuses),
            _ => drop(runtime.pause_pod("p").unwrap()),
        }
        if case.ends_with("stuck") {
            host.fail_always("vm.resume", Failing::Refuses);
        }
        runtime.kill_container("p", "a", 9, true).unwrap_or_else(|e| panic!("{case}: {e}"));
        if case == "paused" {
            assert!(host.is_paused("p"), "the pod stays paused");
            assert_eq!(state(&runtime, "a"), Some(State::Stopped));
        } else {
            assert!(host.shim("a").is_none(), "{case}: the caller sees it end");
        }
        finish(&host, &runtime);
    }
    let (_, runtime) = running(&[]);
    assert_eq!(kind(runtime.kill_container("p", "x", 9, true)), ErrorKind::NoSuchContainer);
}

#[test]
fn p_133_no_such_process_is_success_for_every_signal() {
    let (host, runtime) = running(&["a"]);
    host.guest("p", |guest| guest.exit("a", 0));
    runtime.kill_container("p", "a", 10, false).unwrap();
    runtime.kill_container("p", "a", 9, false).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_134_a_stopped_container_takes_kill_and_term_and_nothing_else() {
    let (host, runtime) = running(&["a"]);
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    runtime.kill_container("p", "a", 9, true).unwrap();
    runtime.kill_container("p", "a", 15, false).unwrap();
    assert_eq!(kind(runtime.kill_container("p", "a", 10, false)), ErrorKind::WrongState);
    runtime.stop_pod("p", Default::default()).unwrap();
    runtime.kill_container("p", "a", 9, true).unwrap();
    runtime.kill_container("p", "a", 15, true).unwrap();
    assert_eq!(kind(runtime.kill_container("p", "a", 1, false)), ErrorKind::WrongState);
    finish(&host, &runtime);
}

#[test]
fn numbers_that_are_no_signals_are_refused() {
    let (host, runtime) = running(&["a"]);
    for signal in [0, -9, 65] {
        assert_eq!(kind(runtime.kill_container("p", "a", signal, true)), ErrorKind::InvalidConfig, "{signal}");
    }
    finish(&host, &runtime);
}
