//! The threads of devices under [shuttle](https://docs.rs/shuttle), which chooses the thread that goes on whenever one
//! locks, waits, notifies, or uses an event. A wake-up that gets lost is a deadlock there, which shuttle reports with
//! the schedule that leads to it.
//!
//! The modules below are the files of `hutch-devices` themselves, not copies: they take all that threads share from
//! `crate::sync`, which is a model here ([`sync`]). `tests/worker.rs` has the tests.

// The unit tests in these files are for threads of the operating system, and run in their own package.
#![cfg(not(test))]
#![expect(unexpected_cfgs, reason = "a feature of hutch-devices, which is off here")]

pub mod sync;

#[path = "../../../devices/src/virtio/session.rs"]
pub mod session;
#[path = "../../../devices/src/threads.rs"]
pub mod threads;
#[path = "../../../devices/src/worker/mod.rs"]
pub mod worker;
