//! ExecContainer and the life of what it starts (pod contract, §7.6).

use std::time::Duration;

use hutch_agent_proto::WindowSize;
use hutch_runtime::backend::PidNamespace;
use hutch_runtime::spec::{Command, EnvVar};
use hutch_runtime::{ErrorKind, State, StopOptions};
use hutch_runtime_fakes::Failing;

use crate::support::{error, finish, kind, new, running};

fn command(args: &[&str]) -> Command {
    Command { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Command::default() }
}

/// P-143: ready and running, in a running pod.
#[test]
fn p_121_a_ready_or_running_container_can_be_entered() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &["a"])).unwrap();
    assert_eq!(kind(runtime.exec_container("p", "a", &command(&["x"]), Default::default())), ErrorKind::WrongState);
    runtime.start_pod("p").unwrap();
    runtime.create_container("p", host.container("b")).unwrap();
    runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    runtime.exec_container("p", "b", &command(&["x"]), Default::default()).unwrap();
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    assert_eq!(kind(runtime.exec_container("p", "a", &command(&["x"]), Default::default())), ErrorKind::WrongState);
    finish(&host, &runtime);
}

#[test]
fn p_122_an_exec_gets_a_shim_in_the_containers_namespaces_and_changes_no_record() {
    let (host, runtime) = running(&["a"]);
    let own = runtime.status_container("p", "a").unwrap();
    let records = |host: &hutch_runtime_fakes::FakeHost| {
        let mut files = crate::support::snapshot(host);
        files.retain(|(path, _)| !path.to_string_lossy().contains("/exec/"));
        files
    };
    let before = records(&host);
    let (_, _, process) = runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    assert_eq!(records(&host), before);
    assert!(process.pid > 0 && process.pid != own.pid);
    let (_, _, other) = runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    assert_ne!(process.token, other.token);
    let spec = host.shim_of(&process.token).unwrap();
    assert!(matches!(spec.pid_namespace, PidNamespace::Join(joined) if joined.pid == own.pid), "{spec:?}");
    assert_eq!(spec.network_namespace, Some(host.namespace("p")));
    assert_eq!(runtime.status_container("p", "a").unwrap(), own);
    finish(&host, &runtime);
}

#[test]
fn p_123_a_refused_exec_leaves_no_shim() {
    let (host, runtime) = running(&["a"]);
    let refused = error(runtime.exec_container("p", "a", &command(&["missing"]), Default::default()));
    assert!(refused.chain().contains("executable file not found in $PATH"), "{}", refused.chain());
    assert!(!host.calls().iter().any(|call| call.starts_with("shim.")));
    assert!(runtime.list_execs("p", "a").unwrap().is_empty());
    finish(&host, &runtime);
}

#[test]
fn p_123_a_shim_that_cannot_start_takes_the_guest_process_with_it() {
    for call in ["shim.spawn", "shim.start"] {
        let (host, runtime) = running(&["a"]);
        host.fail(call, Failing::Refuses);
        assert_eq!(kind(runtime.exec_container("p", "a", &command(&["x"]), Default::default())), ErrorKind::Backend);
        host.guest("p", |guest| assert_eq!(guest.living("a").len(), 1, "{call}: init alone"));
        assert!(runtime.list_execs("p", "a").unwrap().is_empty(), "{call}");
        finish(&host, &runtime);
    }
}

/// P-124.
#[test]
fn p_125_a_bad_environment_or_user_is_refused_before_the_guest_is_asked() {
    let (host, runtime) = running(&["a"]);
    let bad = [
        Command { env: vec![EnvVar { name: String::new(), value: "v".into() }], ..command(&["x"]) },
        Command { user: "1:2:3".into(), ..command(&["x"]) },
        command(&[]),
    ];
    for command in &bad {
        assert_eq!(kind(runtime.exec_container("p", "a", command, Default::default())), ErrorKind::InvalidConfig);
        let mut config = host.container("b");
        config.command = command.clone();
        assert_eq!(kind(runtime.create_container("p", config)), ErrorKind::InvalidConfig);
    }
    assert!(host.calls().is_empty());
    let empty = Command { env: vec![EnvVar { name: "A".into(), value: String::new() }], ..command(&["x"]) };
    runtime.exec_container("p", "a", &empty, Default::default()).unwrap();
    finish(&host, &runtime);
}

/// Wait, signal, resize, close stdin, forget, by token, from another process too.
#[test]
fn p_126_an_exec_is_tracked_by_its_token() {
    let (host, runtime) = running(&["a"]);
    let (_, _, process) = runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    let token = process.token.as_str();
    let other = host.runtime();
    assert_eq!(other.list_execs("p", "a").unwrap(), std::slice::from_ref(&process));
    assert!(other.wait_process("p", "a", token, Duration::from_millis(5)).unwrap().is_none());
    other.resize_process("p", "a", token, WindowSize { rows: 24, cols: 80 }).unwrap();
    other.close_stdin("p", "a", token).unwrap();
    assert_eq!(kind(other.forget_process("p", "a", token)), ErrorKind::InvalidConfig, "it runs");
    other.signal_process("p", "a", token, 15, false).unwrap();
    for _ in 0..2 {
        let exit = other.wait_process("p", "a", token, Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(exit.signal, Some(15));
    }
    other.signal_process("p", "a", token, 15, false).expect("one that has ended is fine");
    other.forget_process("p", "a", token).unwrap();
    assert_eq!(kind(other.wait_process("p", "a", token, Duration::ZERO)), ErrorKind::NoSuchProcess);
    assert_eq!(kind(other.signal_process("p", "a", "../../x", 9, false)), ErrorKind::NoSuchProcess);
    assert!(!host.dir().join(format!("run/p/a/exec/{token}.json")).exists());
    finish(&host, &runtime);
}

#[test]
fn p_126_execs_end_with_their_container() {
    let (host, runtime) = running(&["a", "b"]);
    let (_, _, first) = runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    let (_, _, second) = runtime.exec_container("p", "b", &command(&["x"]), Default::default()).unwrap();
    runtime.stop_container("p", "a", Default::default()).unwrap();
    assert!(host.shim_of(&first.token).is_none());
    assert!(host.shim_of(&second.token).is_some());
    assert!(runtime.list_execs("p", "a").unwrap().is_empty());
    assert!(!host.dir().join("run/p/a/exec").exists());
    runtime.stop_pod("p", Default::default()).unwrap();
    assert!(host.shim_of(&second.token).is_none());
    finish(&host, &runtime);
}

/// A shim killed from outside does not hide how the process ended.
#[test]
fn p_126_the_guest_knows_what_a_lost_shim_would_have_told() {
    let (host, runtime) = running(&["a"]);
    let (_, _, process) = runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    host.kill_shim(process.pid);
    host.guest("p", |guest| guest.exit_process(&process.token, 6));
    let exit = runtime.wait_process("p", "a", &process.token, Duration::from_secs(1)).unwrap().unwrap();
    assert_eq!(exit.code, Some(6));
    finish(&host, &runtime);
}

/// P-027: execs run side by side and do not block status; a held shared lock is enough for all of them.
#[test]
fn p_027_execs_and_lists_share_the_lock() {
    let (host, runtime) = running(&["a"]);
    let lock = std::fs::File::open(host.dir().join("run/p/lock")).unwrap();
    lock.lock_shared().unwrap();
    runtime.exec_container("p", "a", &command(&["x"]), Default::default()).unwrap();
    runtime.list_processes("p", "a", &Default::default()).unwrap();
    assert_eq!(runtime.status_pod("p").unwrap().state, Some(State::Running));
    drop(lock);
    finish(&host, &runtime);
}
