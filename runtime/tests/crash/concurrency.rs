//! Eight processes hammer one pod with random verbs.

use std::time::{Duration, Instant};

use hutch_runtime::spec::Command;
use hutch_runtime::{DeleteOptions, Error, ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::process::Stage;

use crate::calls::{assert_no_leaks, container, pod, ROLE_TEST};

const PROCESSES: u64 = 8;
/// Calls that each of them makes at least.
const CALLS: u64 = 16;
const SEED: &str = "HUTCH_TEST_SEED";
const MILLIS: &str = "HUTCH_TEST_MILLIS";

/// How long the hammering takes: some seconds, or what the environment says (a minute for a release).
fn duration() -> Duration {
    let given = std::env::var("HUTCH_HAMMER_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(4))
}

/// xorshift64*: enough to vary the verbs, and reproducible by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// The possible results of a verb beside concurrent calls: success, or an error that says that another call was first.
/// Anything else is a mistake.
fn acceptable(verb: &str, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::NoSuchPod
        | ErrorKind::NoSuchContainer
        | ErrorKind::NoSuchProcess
        | ErrorKind::AlreadyExists
        | ErrorKind::InvalidTransition
        | ErrorKind::WrongState => true,
        // Under the shared lock others may end the process or the machine between look and request.
        ErrorKind::Backend | ErrorKind::Timeout => {
            matches!(verb, "enter" | "ps" | "stats" | "start" | "start container")
        }
        _ => false,
    }
}

/// One of the processes. Status 0: every answer was one that may be.
pub fn hammer(stage: &Stage, runtime: &Runtime) -> u8 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok()).expect(name);
    let mut random = Random(number(SEED).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let end = Instant::now() + Duration::from_millis(number(MILLIS));
    let command = Command { args: vec!["serve".into()], detach: true, ..Command::default() };
    let force = StopOptions::forced();
    let mut done = 0;
    // On a busy machine a call may take its time; each makes some all the same.
    while Instant::now() < end || done < CALLS {
        let c = ["a", "b", "c"][random.below(3) as usize];
        let (verb, result) = match random.below(20) {
            0 => ("create", runtime.create_pod(pod(stage, "p")).map(drop)),
            1 | 2 => ("start", runtime.start_pod("p").map(drop)),
            3 => ("stop", runtime.stop_pod("p", StopOptions { force: random.below(2) == 0, signal: None }).map(drop)),
            4 => ("delete", runtime.delete_pod("p", DeleteOptions { force: random.below(4) == 0 }).map(drop)),
            5 => ("pause", runtime.pause_pod("p").map(drop)),
            6 | 7 => ("resume", runtime.resume_pod("p").map(drop)),
            8 | 9 => ("create container", runtime.create_container("p", container(stage, c)).map(drop)),
            10 | 11 => ("start container", runtime.start_container("p", c).map(drop)),
            12 => ("stop container", runtime.stop_container("p", c, force).map(drop)),
            13 => ("delete container", runtime.delete_container("p", c).map(drop)),
            14 => ("kill", runtime.kill_container("p", c, 9, true)),
            15 => ("enter", runtime.exec_container("p", c, &command, Default::default()).map(drop)),
            16 => ("ps", runtime.list_processes("p", c, &Default::default()).map(drop)),
            17 => ("stats", runtime.stats_pod("p").map(drop)),
            18 => ("list", runtime.list_pods().map(|list| check_list(&list))),
            _ => ("status", runtime.status_pod("p").map(|status| check_status(&status))),
        };
        if let Err(error) = result
            && !acceptable(verb, &error)
        {
            eprintln!("{verb}: {:?}: {}", error.kind(), error.chain());
            return 1;
        }
        done += 1;
    }
    println!("{done} calls");
    0
}

fn check_list(list: &[hutch_runtime::spec::PodStatus]) {
    assert!(list.len() <= 1, "{list:?}");
    for status in list {
        // The records of a busy pod were read while another call changed them.
        if !status.busy && status.error.is_none() {
            check_status(status);
        }
    }
}

/// Invariants of every state that a reader can see.
fn check_status(status: &hutch_runtime::spec::PodStatus) {
    let pod = status.state.expect("a state");
    let mut seen = Vec::new();
    for container in &status.containers {
        let state = container.state.expect("a state");
        assert!(!seen.contains(&&container.id), "twice: {status:?}");
        seen.push(&container.id);
        let possible = match pod {
            State::Ready => matches!(state, State::Ready | State::Stopped),
            State::Running => matches!(state, State::Ready | State::Running | State::Stopped),
            State::Paused => matches!(state, State::Paused | State::Stopped),
            State::Stopped => state == State::Stopped,
        };
        assert!(possible, "{} is {state} in a {pod} pod", container.id);
    }
    assert_eq!(status.vmm_pid > 0, pod != State::Stopped, "{status:?}");
}

#[test]
fn p_020_eight_processes_hammer_one_pod() {
    let stage = Stage::new(ROLE_TEST);
    let mut children = Vec::new();
    for seed in 1..=PROCESSES {
        let mut command = stage.command("hammer");
        command.env(SEED, seed.to_string()).env(MILLIS, duration().as_millis().to_string());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        children.push(command.spawn().unwrap());
    }
    let mut calls = 0;
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "process {number}: {text} {errors}");
        calls += text.lines().find_map(|l| l.strip_suffix(" calls")?.parse::<u64>().ok()).unwrap_or(0);
    }
    println!("{calls} calls of {PROCESSES} processes");
    assert!(calls > 100, "{calls}");
    let runtime = stage.runtime();
    match runtime.delete_pod("p", DeleteOptions { force: true }) {
        Ok(_) => {}
        Err(error) => assert!(error.is_not_found(), "{}", error.chain()),
    }
    assert_no_leaks(&stage, "after the hammering");
}

/// Fifty pods, each with processes of its own, are created, used and deleted side by side.
#[test]
fn fifty_pods_live_side_by_side_and_leave_nothing() {
    const PODS: usize = 50;
    let stage = Stage::new(ROLE_TEST);
    let all_are_up = std::sync::Barrier::new(PODS);
    std::thread::scope(|scope| {
        for number in 0..PODS {
            let (stage, all_are_up) = (&stage, &all_are_up);
            scope.spawn(move || {
                let (runtime, id) = (stage.runtime(), format!("p{number}"));
                let config = hutch_runtime::spec::PodConfig { cgroup: format!("group/of/{id}"), ..pod(stage, &id) };
                runtime.run_pod(config).unwrap();
                all_are_up.wait();
                let command = Command { args: vec!["exit".into(), "3".into()], detach: true, ..Command::default() };
                let (_, _, process) = runtime.exec_container(&id, "a", &command, Default::default()).unwrap();
                let exit = runtime.wait_process(&id, "a", &process.token, Duration::from_secs(60)).unwrap();
                assert_eq!(exit.expect("its end").code, Some(3));
                assert_eq!(runtime.status_pod(&id).unwrap().state, Some(State::Running));
                runtime.kill_container(&id, "a", 9, true).unwrap();
                runtime.stop_pod(&id, StopOptions::default()).unwrap();
                runtime.delete_pod(&id, DeleteOptions::default()).unwrap();
            });
        }
    });
    assert!(stage.runtime().list_pods().unwrap().is_empty());
    assert_no_leaks(&stage, "after fifty pods");
}
