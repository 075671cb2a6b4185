//! Tests of running hooks, with numbers of the contract.

use std::time::{Duration, Instant};

use super::*;
use crate::process::ProcessIdentity;

fn shell(line: &str) -> HookSpec {
    HookSpec {
        path: "/bin/sh".into(),
        args: vec!["hook-name".into(), "-c".into(), line.into()],
        env: vec!["PATH=/usr/bin:/bin".into(), "ONLY=this".into()],
        timeout: 20,
    }
}

fn state() -> HookState {
    HookState {
        oci_version: "1.2.0".into(),
        id: "p".into(),
        status: "creating".into(),
        pid: Some(7),
        ..HookState::default()
    }
}

#[test]
fn p_160_a_hook_gets_its_arguments_and_its_environment_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run(&shell(&format!("echo \"$0 $ONLY ${{HOME-unset}}\" > {}", out.display())), &state()).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "hook-name this unset\n");
    // Without arguments the path alone.
    run(&HookSpec { path: "/bin/true".into(), ..HookSpec::default() }, &state()).unwrap();
}

#[test]
fn p_161_the_state_is_on_stdin_whether_it_is_read_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut state = state();
    state.annotations.insert("k".into(), "v".repeat(300_000));
    run(&shell(&format!("cat > {}", out.display())), &state).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(
        (read["ociVersion"].as_str(), read["pid"].as_i64(), read["status"].as_str()),
        (Some("1.2.0"), Some(7), Some("creating"))
    );
    run(&shell("exec < /dev/null; true"), &state).unwrap();
    run(&shell("head -c 10 > /dev/null"), &state).unwrap();
}

#[test]
fn p_162_every_way_to_fail_is_an_error_with_what_was_printed() {
    let failure = run(&shell("echo out; echo err >&2; exit 3"), &state()).unwrap_err();
    assert!(matches!(failure.cause, HookCause::Status(status) if status.code() == Some(3)));
    assert_eq!((failure.stdout.as_str(), failure.stderr.as_str()), ("out\n", "err\n"));
    let text = failure.to_string();
    assert!(text.contains("out") && text.contains("err") && text.contains('3'), "{text}");
    let failure = run(&shell("kill -9 $$"), &state()).unwrap_err();
    assert!(matches!(failure.cause, HookCause::Status(status) if status.code().is_none()));
    let missing = HookSpec { path: "/no/such/hook".into(), ..HookSpec::default() };
    assert!(matches!(run(&missing, &state()).unwrap_err().cause, HookCause::Launch(_)));
}

#[test]
fn p_162_endless_output_is_cut_and_does_not_block() {
    let failure = run(&shell("head -c 3000000 /dev/zero | tr '\\0' x; exit 1"), &state()).unwrap_err();
    assert_eq!(failure.stdout.len(), 64 << 10);
}

#[test]
fn p_163_a_hook_that_takes_too_long_is_killed_with_its_process_group() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let mut hook = shell(&format!("sleep 300 & echo $! $$ > {}; echo waiting; wait", pids.display()));
    hook.timeout = 1;
    let start = Instant::now();
    let failure = run(&hook, &state()).unwrap_err();
    assert!(matches!(failure.cause, HookCause::Timeout(after) if after == Duration::from_secs(1)));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(failure.stdout, "waiting\n");
    for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
        let Ok(identity) = ProcessIdentity::of(pid.parse().unwrap()) else { continue };
        assert!(identity.wait_end(Duration::from_secs(120)).unwrap(), "{pid} lives");
    }
}

/// Something that a hook leaves running on purpose, with its pipes open, does not keep the caller.
#[test]
fn a_hook_may_leave_something_behind() {
    let start = Instant::now();
    run(&shell("sleep 30 & echo started"), &state()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn p_063_a_list_ends_at_its_first_failure() {
    let dir = tempfile::tempdir().unwrap();
    let touch = |name: &str| shell(&format!("touch {}/{name}", dir.path().display()));
    let error = run_fatal("hook.test", &[touch("a"), shell("exit 1"), touch("b")], &state()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Hook);
    assert!(dir.path().join("a").exists() && !dir.path().join("b").exists());
}

#[test]
fn p_164_logged_hooks_all_run() {
    let dir = tempfile::tempdir().unwrap();
    let touch = |name: &str| shell(&format!("touch {}/{name}", dir.path().display()));
    run_logged("hook.test", &[touch("a"), shell("exit 1"), touch("b")], &state()).unwrap();
    assert!(dir.path().join("a").exists() && dir.path().join("b").exists());
}
