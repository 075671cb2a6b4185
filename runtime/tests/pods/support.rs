//! What the tests share.

use hutch_runtime::{Error, ErrorKind, Result, Runtime, State, StopOptions};
use hutch_runtime_fakes::World;

/// A world and a runtime in it.
pub fn new() -> (World, Runtime) {
    let world = World::new();
    let runtime = world.runtime();
    (world, runtime)
}

/// A running pod `p` with these containers.
pub fn running(containers: &[&str]) -> (World, Runtime) {
    let (world, runtime) = new();
    runtime.run_pod(world.pod("p", containers)).expect("a running pod");
    world.calls();
    (world, runtime)
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
pub fn finish(world: &World, runtime: &Runtime) {
    world.heal();
    runtime.stop_pod("p", StopOptions::forced()).expect("a forced stop");
    runtime.delete_pod("p", Default::default()).expect("a deletion");
    assert_clean(world);
}

/// Nothing is left behind.
#[track_caller]
pub fn assert_clean(world: &World) {
    let leaks = world.leaks();
    assert!(leaks.is_empty(), "left behind: {leaks:#?}");
}

/// Every file below the store's roots, with its content.
pub fn snapshot(world: &World) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![world.dir().join("config"), world.dir().join("run")];
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
