use super::*;

fn shell(script: &str) -> Command {
    command("/bin/sh", &["sh".into(), "-c".into(), script.into()])
}

fn outcome(command: Command, timeout: Option<Duration>, capture: Capture) -> Result<(), HookFailure> {
    run(command, state_file(b"{\"id\":\"c\"}").unwrap(), timeout, capture)
}

#[test]
fn a_hook_gets_arguments_environment_and_state() {
    let script = "read x; [ \"$0 $A $x ${HOME-unset}\" = 'name 1 {\"id\":\"c\"} unset' ]";
    let mut hook = command("/bin/sh", &["name".into(), "-c".into(), script.into()]);
    set_environment(&mut hook, &["A=1".into(), "malformed".into()]);
    outcome(hook, None, Capture::Merged(100)).unwrap();
    outcome(command("/bin/true", &[]), None, Capture::Merged(100)).unwrap();
    // A hook may ignore its state.
    outcome(shell("exec < /dev/null"), None, Capture::Separate(100)).unwrap();
}

#[test]
fn output_is_captured_separately_or_merged() {
    let script = "echo out; echo err >&2; exit 3";
    let failure = outcome(shell(script), None, Capture::Separate(100)).unwrap_err();
    assert!(matches!(failure.cause, HookCause::Status(status) if status.code() == Some(3)));
    assert_eq!((failure.stdout.as_str(), failure.stderr.as_str()), ("out\n", "err\n"));
    assert!(failure.to_string().ends_with("; stdout: out; stderr: err"), "{failure}");
    let failure = outcome(shell(script), None, Capture::Merged(6)).unwrap_err();
    assert_eq!((failure.stdout.as_str(), failure.stderr.as_str()), ("out\ner", ""));
}

#[test]
fn more_output_than_a_pipe_holds_does_not_block() {
    let failure = outcome(shell("head -c 3000000 /dev/zero; exit 1"), None, Capture::Merged(5000)).unwrap_err();
    assert_eq!(failure.stdout.len(), 5000);
}

#[test]
fn a_hook_that_takes_too_long_is_killed_with_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("echo started; (sleep 2; touch {}/late) & wait", dir.path().display());
    let begin = Instant::now();
    let limit = Duration::from_millis(300);
    let failure = outcome(shell(&script), Some(limit), Capture::Separate(100)).unwrap_err();
    assert!(matches!(failure.cause, HookCause::Timeout(after) if after == limit), "{failure}");
    assert_eq!(failure.stdout, "started\n");
    assert!(begin.elapsed() >= limit);
    // The other process would have made the file by then.
    std::thread::sleep(Duration::from_millis(3000));
    assert!(!dir.path().join("late").exists());
}

#[test]
fn a_process_that_keeps_the_pipes_open_does_not_delay_the_end() {
    let begin = Instant::now();
    outcome(shell("sleep 30 & echo done"), Some(Duration::MAX), Capture::Merged(100)).unwrap();
    outcome(shell("(while :; do echo more; done) & sleep 0.1; kill $!"), None, Capture::Separate(100)).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_missing_program_cannot_be_started() {
    let failure = outcome(command("/no/such", &[]), None, Capture::Merged(100)).unwrap_err();
    assert!(matches!(failure.cause, HookCause::Launch(_)), "{failure}");
}
