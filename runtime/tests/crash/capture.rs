//! Standard streams of guest processes that a caller gives or captures, with shims as processes.

use std::io::{Read, Write};
use std::time::Duration;

use hutch_runtime::spec::{Command, ContainerConfig};
use hutch_runtime::{DeleteOptions, ErrorKind, PodHandle, Stdio, StdioConfig, StopOptions};
use hutch_runtime_fakes::process::Stage;

use crate::calls::{assert_no_leaks, container, pod, ROLE_TEST};

const TIMEOUT: Duration = Duration::from_secs(120);

fn running() -> (Stage, PodHandle) {
    let stage = Stage::new(ROLE_TEST);
    let handle = stage.runtime().run_pod(pod(&stage, "p")).unwrap();
    (stage, handle)
}

fn finish(stage: &Stage, pod: &PodHandle) {
    pod.delete_with(DeleteOptions { force: true }).unwrap();
    assert_no_leaks(stage, "the end");
}

fn command(args: &[&str]) -> Command {
    Command { args: args.iter().map(|arg| (*arg).into()).collect(), ..Command::default() }
}

/// The output of the guest process: the shim is this test binary, whose runner begins with lines of its own.
fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text.split_once("running 1 test\n").map_or(text.clone(), |(_, rest)| rest.to_owned())
}

/// Reads up to the end of what the guest process writes.
fn read_output(mut stdout: impl Read) {
    let mut seen = String::new();
    while !seen.ends_with("Stdout of the fake process\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        seen.push(byte[0].into());
    }
}

/// A container like the others of the tests, with streams.
fn with_stdio(stage: &Stage, id: &str, stdio: StdioConfig) -> ContainerConfig {
    let config = container(stage, id);
    ContainerConfig { command: Command { stdio, ..config.command }, ..config }
}

#[test]
fn the_output_of_an_exec_is_captured() {
    let (stage, pod) = running();
    let container = pod.container("a").unwrap().unwrap();
    let output = container.output(&command(&["exit", "7"])).unwrap();
    assert_eq!(output.exit.code, Some(7));
    assert_eq!(text(output.stdout.as_slice()), "Stdout of the fake process\n");
    assert_eq!(text(output.stderr.as_slice()), "Stderr of the fake process\n");
    assert!(container.list_execs().unwrap().is_empty(), "it is forgotten");
    finish(&stage, &pod);
}

#[test]
fn each_stream_of_an_exec_is_what_the_command_says() {
    let (stage, pod) = running();
    let container = pod.container("a").unwrap().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let stdio = StdioConfig { stdin: Stdio::piped(), stdout: writer.into(), stderr: Stdio::null() };
    let serve = Command { stdio, ..command(&["serve"]) };
    let mut exec = container.exec(&serve, Default::default()).unwrap();
    assert!(exec.stdout.is_none() && exec.stderr.is_none());
    exec.stdin.take().unwrap().write_all(b"input").unwrap();
    exec.kill(15).unwrap();
    assert_eq!(exec.wait(TIMEOUT).unwrap().unwrap().signal, Some(15));
    exec.forget().unwrap();
    // The reader sees the end when no process has the writer any more.
    drop(serve);
    assert_eq!(text(reader), "Stdout of the fake process\n");
    finish(&stage, &pod);
}

#[test]
fn two_processes_of_one_command_have_pipes_of_their_own() {
    let (stage, pod) = running();
    let container = pod.container("a").unwrap().unwrap();
    let serve = Command { stdio: StdioConfig::captured(), ..command(&["serve"]) };
    let mut first = container.exec(&serve, Default::default()).unwrap();
    let mut second = container.exec(&serve, Default::default()).unwrap();
    first.kill(9).unwrap();
    assert_eq!(text(first.stdout.take().unwrap()), "Stdout of the fake process\n");
    assert!(second.wait(Duration::from_millis(10)).unwrap().is_none(), "the other still runs");
    second.kill(9).unwrap();
    assert_eq!(text(second.stderr.take().unwrap()), "Stderr of the fake process\n");
    finish(&stage, &pod);
}

/// The pipes are those of the call that created it; no record and no later call has them.
#[test]
fn the_output_of_a_container_is_captured() {
    let (stage, handle) = running();
    let side = handle.create_container(with_stdio(&stage, "side", StdioConfig::piped())).unwrap();
    assert!(stage.runtime().get_container("p", "side").unwrap().take_pipes().stdout.is_none());
    let side = side.start().unwrap();
    let pipes = side.take_pipes();
    assert!(side.take_pipes().stdout.is_none(), "taken once");
    pipes.stdin.unwrap().write_all(b"input").unwrap();
    stage.control_guest("p", "exit side 3").unwrap();
    assert_eq!(text(pipes.stdout.unwrap()), "Stdout of the fake process\n");
    assert_eq!(text(pipes.stderr.unwrap()), "Stderr of the fake process\n");
    assert_eq!(side.wait(TIMEOUT).unwrap().unwrap().code, Some(3));
    // The handle gives a second life the same streams, with new pipes.
    let pipes = side.start().unwrap().take_pipes();
    stage.control_guest("p", "exit side 4").unwrap();
    assert_eq!(text(pipes.stdout.unwrap()), "Stdout of the fake process\n");
    assert_eq!(side.wait(TIMEOUT).unwrap().unwrap().code, Some(4));
    // Started without it, a third one has what the caller has, here nothing.
    stage.runtime().start_container("p", "side").unwrap();
    assert!(side.take_pipes().stdout.is_none());
    side.stop_with(StopOptions::forced()).unwrap();
    finish(&stage, &handle);
}

#[test]
fn a_pod_hands_out_the_pipes_of_its_containers() {
    let stage = Stage::new(ROLE_TEST);
    let config = pod(&stage, "p");
    let containers = vec![with_stdio(&stage, "a", StdioConfig::captured()), container(&stage, "b")];
    let handle = stage.runtime().run_pod(hutch_runtime::spec::PodConfig { containers, ..config }).unwrap();
    let all = handle.container_handles().unwrap();
    assert_eq!(all.iter().map(|container| container.id()).collect::<Vec<_>>(), ["a", "b"]);
    let pipes = all.iter().map(|container| container.take_pipes()).collect::<Vec<_>>();
    assert!(pipes[1].stdout.is_none() && pipes[1].stderr.is_none());
    // Before the stop, which kills the shim that passes it on.
    read_output(pipes[0].stdout.as_ref().unwrap());
    let handle = handle.stop_with(StopOptions::forced()).unwrap();
    assert_eq!(text(pipes[0].stdout.as_ref().unwrap()), "", "and then the end");
    // The pod's handle gives them streams again when it starts the pod.
    let handle = handle.start().unwrap();
    let again = handle.container("a").unwrap().unwrap().take_pipes();
    read_output(again.stdout.as_ref().unwrap());
    assert!(handle.container("b").unwrap().unwrap().take_pipes().stdout.is_none());
    finish(&stage, &handle);
}

#[test]
fn a_console_and_streams_exclude_each_other() {
    let (stage, pod) = running();
    let both = Command {
        console: Some("/dev/null".into()),
        interactive: true,
        stdio: StdioConfig::captured(),
        ..command(&["serve"])
    };
    let error = pod.container("a").unwrap().unwrap().exec(&both, Default::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    finish(&stage, &pod);
}
