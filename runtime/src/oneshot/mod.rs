//! One machine in this process that runs one command: what `hutch run` is made of.
//!
//! The caller builds the machine ([`OneshotMachine`]), then [`run()`] sees it through: one thread waits for what happens
//! and decides; whoever learns something (the machine, the agent, the caller's signal handling) puts a [`RunEvent`] into
//! the [`RunEventQueue`].
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
