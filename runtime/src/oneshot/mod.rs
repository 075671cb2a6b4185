//! One machine in this process that runs one command: the engine of `hutch run`.
//!
//! The caller builds the machine ([`OneshotMachine`]) and calls [`run()`]: one thread waits for events and decides. The
//! machine, the agent client and the caller's signal handling put each [`RunEvent`] into the [`RunEventQueue`].
//!
//! ```text
//!  booting ──Ready──▶ setting up ──Started──▶ running ──Exited──▶ draining ──Drained──▶ stopping ──▶ status
//!     │                    │                     │                    │
//!     └──── VmEnded, agent lost, time over, signal before Started ────┴──▶ RunError
//! ```

mod error;
mod event_queue;
mod machine;
mod run;
#[cfg(test)]
mod tests;

pub use error::RunError;
pub use event_queue::{RunEvent, RunEventQueue, RunEventSender};
pub use machine::{LaunchError, OneshotEnd, OneshotMachine};
pub use run::{run, OneshotTask, OneshotVm, PhaseMarks, Stop};
