//! Real processes: VMM processes and shims that hold a fake guest, and calls of the API in processes of their own,
//! which are killed at every named point. Afterwards everything works and nothing is left.

mod calls;
mod capture;
mod concurrency;
mod cycles;
mod deaths;
mod matrix;
mod namespaces;
mod processes;

/// Plays the role that this binary was started for by the other tests; does nothing otherwise.
#[test]
fn role() {
    hutch_runtime_fakes::process::play_role(calls::play);
}
