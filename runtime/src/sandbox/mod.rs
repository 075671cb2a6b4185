//! One machine in this process that runs one command: what `hutch run` is made of.
//!
//! The caller builds the machine ([`MachineSandbox`]), then [`run`] sees it through: one thread waits for what happens
//! and decides; whoever learns something (the machine, the agent, the caller's signal handling) puts a [`Notice`] into
//! the [`Inbox`].
//!
//! ```text
//!  booting ──Ready──▶ setting up ──Started──▶ running ──Exited──▶ draining ──Drained──▶ stopping ──▶ status
//!     │                    │                     │                    │
//!     └──── VmEnded, agent lost, time over, signal before Started ────┴──▶ RunError
//! ```

mod error;
mod inbox;
mod machine;
mod run;
#[cfg(test)]
mod tests;

pub use error::RunError;
pub use inbox::{Inbox, Notice, Post};
pub use machine::{Ended, LaunchError, MachineSandbox};
pub use run::{run, Marks, Stop, Task, Vm};
