//! Helpers of the tests.

use hutch_runtime::{Error, ErrorKind, Result, Runtime, State, StopOptions};
use hutch_runtime_fakes::FakeHost;

/// A host and a runtime in it.
pub fn new() -> (FakeHost, Runtime) {
    let host = FakeHost::new();
    let runtime = host.runtime();
    (host, runtime)
}

/// A running pod `p` with these containers.
pub fn running(containers: &[&str]) -> (FakeHost, Runtime) {
    let (host, runtime) = new();
    runtime.run_pod(host.pod("p", containers)).expect("a running pod");
    host.calls();
    (host, runtime)
}

/// Kind of the error that `result` must be.
#[track_caller]
pub fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("succeeded, an error was expected"),
        Err(error) => error.kind(),
    }
}

/// The error that `result` must be.
#[track_caller]
pub fn error<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("succeeded, an error was expected"),
        Err(error) => error,
    }
}

/// State of pod `p`.
pub fn pod_state(runtime: &Runtime) -> State {
    runtime.status_pod("p").expect("status").state.expect("a state")
}

/// State of a container of pod `p`.
pub fn state(runtime: &Runtime, container: &str) -> Option<State> {
    runtime.status_container("p", container).expect("status").state
}

/// States of all containers of pod `p`, in order.
pub fn states(runtime: &Runtime) -> Vec<(String, Option<State>)> {
    let status = runtime.status_pod("p").expect("status");
    status.containers.into_iter().map(|container| (container.id, container.state)).collect()
}

/// Pod `p` ends and is deleted; nothing is left.
#[track_caller]
pub fn finish(host: &FakeHost, runtime: &Runtime) {
    host.heal();
    runtime.stop_pod("p", StopOptions::forced()).expect("a forced stop");
    runtime.delete_pod("p", Default::default()).expect("a deletion");
    assert_clean(host);
}

/// Nothing is left behind.
#[track_caller]
pub fn assert_clean(host: &FakeHost) {
    let leaks = host.leaks();
    assert!(leaks.is_empty(), "left behind: {leaks:#?}");
}

/// Every file below the store's roots, with its content.
pub fn snapshot(host: &FakeHost) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![host.dir().join("config"), host.dir().join("run")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type().expect("a type").is_dir() {
                true => dirs.push(entry.path()),
                false => files.push((entry.path(), std::fs::read(entry.path()).expect("a file"))),
            }
        }
    }
    files.sort();
    files
}
