//! The others die: VMM process, shim and guest agent, in the middle of every call and between calls.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

use hutch_runtime::process::ProcessIdentity;
use hutch_runtime::{PodEvent, State, StopOptions};
use hutch_runtime_fakes::process::Stage;

use crate::calls::{
    assert_no_leaks, assert_recovers_within, container, numbered, pod, points, Case, CASES, ROLE_TEST, SILENT_GUEST,
};

/// Waits until the child has stopped itself at its point; `false` if it has ended without passing it.
fn wait_stopped(child: &Child, label: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(300);
    while Instant::now() < deadline {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        match state {
            Some('T') => return true,
            Some('Z') | None => return false,
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    panic!("{label}: it neither stopped nor ended");
}

fn kill(pid: i32) {
    if let Ok(process) = ProcessIdentity::of(pid) {
        process.kill_and_wait(Duration::from_secs(120)).expect("a kill");
    }
}

/// The process that dies.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Machine,
    Shim,
    Agent,
}

fn slay(stage: &Stage, victim: Victim) {
    let read = |path: &str| -> Option<i32> {
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(stage.dir().join(path)).ok()?).ok()?;
        Some(value["data"]["pid"].as_i64()? as i32)
    };
    match victim {
        Victim::Machine => read("run/p/hypervisor.json").map(kill),
        Victim::Shim => read("run/p/a/process.json").map(kill),
        // Before its record there is no machine yet that could be talked to.
        Victim::Agent if stage.dir().join("run/p/agent.json").exists() => stage.control_guest("p", "hang").ok(),
        Victim::Agent => None,
    };
}

/// At every `step`-th point of each call, a process dies while the call waits; then it goes on. Whatever it answers, it
/// ends, and everything can be cleaned up.
fn deaths(victim: Victim, step: usize, cases: &[Case]) -> usize {
    let mut count = 0;
    for case in cases {
        let points = numbered(&points(case));
        for point in points.iter().skip(count % step).step_by(step) {
            let stage = case.stage();
            let label = format!("{}: {victim:?} dies at {point}", case.label());
            let mut command = case.command(&stage);
            command.env("HUTCH_FAULT", format!("{point}:stop"));
            let mut timeout = stage.options().agent_timeout;
            if let Victim::Agent = victim {
                // A guest that does not answer is waited for; not for long, here.
                timeout = SILENT_GUEST;
                command.env("HUTCH_TEST_AGENT_TIMEOUT_MS", "300");
            }
            let child = command.spawn().expect("a child");
            // Which points follow a power-off depends on who is quicker: the guest's end or its answer.
            let stopped = wait_stopped(&child, &label);
            if stopped {
                slay(&stage, victim);
                let pid = nix::unistd::Pid::from_raw(child.id() as i32);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("a signal");
            }
            let output = child.wait_with_output().expect("its end");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 3)), "{label}: {:?} {errors}", output.status.signal());
            assert_recovers_within(&stage, &label, timeout);
            count += usize::from(stopped);
        }
    }
    println!("{victim:?} died {count} times");
    count
}

#[test]
fn p_085_the_machine_dies_in_the_middle_of_every_call() {
    assert!(deaths(Victim::Machine, 3, &CASES) > 60);
}

#[test]
fn p_109_a_shim_dies_in_the_middle_of_every_call() {
    assert!(deaths(Victim::Shim, 5, &CASES) > 30);
}

#[test]
fn p_205_the_agent_falls_silent_in_the_middle_of_every_call() {
    assert!(deaths(Victim::Agent, 6, &CASES) > 25);
}

/// A machine that dies between calls is noticed within a second, by the shims, without anybody asking; and recorded
/// with a reason.
#[test]
fn a_machine_that_dies_is_noticed_within_a_second_and_recorded() {
    for how in ["killed", "panicked", "bug", "forbidden"] {
        // A busy host may be late, but not every time.
        let mut quickest = Duration::MAX;
        for _ in 0..20 {
            quickest = quickest.min(notice(how));
            if how == "bug" || quickest < Duration::from_secs(1) {
                break;
            }
        }
        // A panic of the monitor may print a backtrace first, which takes long.
        assert!(how == "bug" || quickest < Duration::from_secs(1), "{how}: {quickest:?}");
    }
}

/// Time until the end of a machine that dies is recorded.
fn notice(how: &str) -> Duration {
    let stage = Stage::new(ROLE_TEST);
    let runtime = stage.runtime();
    runtime.run_pod(pod(&stage, "p")).unwrap();
    let mut events = runtime.events("p").unwrap();
    let start = Instant::now();
    match how {
        "killed" => kill(runtime.status_pod("p").unwrap().vmm_pid),
        "bug" | "forbidden" => stage.control_guest("p", how).unwrap(),
        _ => stage.control_guest("p", "panic").unwrap(),
    }
    let mut last = None;
    while let Some(event) = events.next(Duration::from_secs(60)).unwrap() {
        last = Some(event);
        if last == Some(PodEvent::MachineEnded) {
            break;
        }
    }
    assert_eq!(last, Some(PodEvent::MachineEnded), "{how}");
    let record = stage.dir().join("run/p/failure.json");
    let noted = || std::fs::metadata(&record).is_ok_and(|found| found.len() > 0);
    while !noted() && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let noticed = start.elapsed();
    let status = runtime.status_pod("p").unwrap();
    let reason = status.reason.expect("a reason");
    assert!(["killed", "forbidden"].contains(&how) || reason.contains("panicked"), "{how}: {reason}");
    let of_bug = ["SIGABRT", "thread vcpu1", "a bug of the machine monitor"];
    assert!(how != "bug" || of_bug.iter().all(|part| reason.contains(part)), "{reason}");
    let forbidden = "unexpectedly: the jail ended this process: thread vcpu0 made the system call execve (59)";
    assert!(how != "forbidden" || reason.contains(forbidden), "{reason}");
    assert_eq!(status.containers[0].state, Some(State::Stopped), "{how}");
    runtime.stop_pod("p", StopOptions::default()).unwrap();
    runtime.delete_pod("p", Default::default()).unwrap();
    assert_no_leaks(&stage, how);
    noticed
}

/// P-206: a launcher that dies before the record leaves no process; covered point by point in the matrix. Here: the
/// sync_pipe itself.
#[test]
fn p_206_processes_that_were_never_released_end_with_their_maker() {
    let stage = Stage::new(ROLE_TEST);
    let backends = stage.backends();
    std::fs::create_dir_all(stage.dir().join("run")).unwrap();
    let socket = stage.dir().join("run/vm.sock");
    let log = stage.dir().join("run/log");
    let launch = hutch_runtime::backend::VmLaunch {
        pod: "p",
        uuid: "u",
        run_dir: &stage.dir().join("run"),
        socket: &socket,
        log: &log,
        program: None,
        jail: Default::default(),
        no_network: true,
    };
    let vm = backends.vm.spawn(&launch).unwrap();
    let process = vm.process();
    assert!(process.is_alive());
    drop(vm);
    assert!(process.wait_end(Duration::from_secs(120)).unwrap());
    let spec = hutch_runtime::backend::ShimSpec {
        pod: "p".into(),
        container: "c".into(),
        token: "t".into(),
        socket,
        exit_record: stage.dir().join("run/exit.json"),
        failure_record: stage.dir().join("run/failure.json"),
        console: None,
        terminal: false,
        stdin: false,
        detach: true,
        stdio: Default::default(),
        network_namespace: None,
        pid_namespace: hutch_runtime::backend::PidNamespace::New,
        jail: Default::default(),
    };
    let shim = backends.shims.spawn(&spec).unwrap();
    let process = shim.process();
    assert!(process.is_alive());
    drop(shim);
    assert!(process.wait_end(Duration::from_secs(120)).unwrap());
    assert!(!spec.exit_record.exists(), "it stood for no process");
    let _ = container(&stage, "c");
}

/// A status finds a process dead, gives its lock up, and takes another one to stop the container. How other calls take
/// the pod between the two locks decides, not what the status has seen.
#[test]
fn p_025_a_reconciling_stop_acts_only_on_what_is_still_so() {
    let case = Case { name: "status_pod", prepare: &["run_pod", "kill_container"] };
    for change in ["nothing", "restarted", "deleted", "made anew"] {
        let stage = case.stage();
        let runtime = stage.runtime();
        let record = |name: &str| -> serde_json::Value {
            let text = std::fs::read(stage.dir().join("run/p/a").join(name)).expect("a record");
            serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")["data"].clone()
        };
        let pid = record("process.json")["pid"].as_i64().expect("a number") as i32;
        if let Ok(shim) = ProcessIdentity::of(pid) {
            assert!(
                shim.wait_end(Duration::from_secs(60)).expect("a wait"),
                "{change}: the killed process's shim lives"
            );
        }
        let mut command = case.command(&stage);
        let child = command.env("HUTCH_FAULT", "reconcile.unlocked:stop").spawn().expect("a child");
        assert!(wait_stopped(&child, change), "{change}: the status found no death");
        let forced = StopOptions::forced();
        match change {
            "restarted" => {
                runtime.stop_container("p", "a", forced).unwrap();
                runtime.start_container("p", "a").unwrap();
            }
            "deleted" | "made anew" => {
                runtime.stop_pod("p", forced).unwrap();
                runtime.delete_pod("p", Default::default()).unwrap();
            }
            _ => {}
        }
        if change == "made anew" {
            runtime.run_pod(pod(&stage, "p")).unwrap();
        }
        let living = (change == "restarted" || change == "made anew").then(|| record("process.json"));
        let process = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGCONT).expect("a signal");
        let output = child.wait_with_output().expect("its end");
        let expected = if change == "deleted" { 3 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{change}: {}", String::from_utf8_lossy(&output.stderr));
        match living {
            Some(process) => {
                assert_eq!(
                    record("state.json")["state"],
                    "running",
                    "{change}: the new process was not what had ended"
                );
                assert_eq!(record("process.json"), process, "{change}");
            }
            None if change == "deleted" => assert!(!stage.dir().join("run/p").exists(), "nothing is written into it"),
            None => assert_eq!(record("state.json")["state"], "stopped"),
        }
        assert_recovers_within(&stage, change, stage.options().agent_timeout);
    }
}
